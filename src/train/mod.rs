//! Training: gradients by hand, with surrogates for the spikes' derivatives.

pub mod adamw;
pub mod gradients;

pub use gradients::{Gradients, Options, Statistics, gradients};
