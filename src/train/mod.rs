//! Training: hand-derived surrogate gradients, optimizers and the trainer.

pub mod adamw;
pub mod curves;
pub mod gradients;
pub mod metrics;
pub mod parameters;
mod pass;

pub use gradients::{Gradients, Options, Statistics, gradients};
