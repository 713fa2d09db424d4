//! Training: hand-derived surrogate gradients, optimizers and the trainer.

pub mod adamw;
pub mod curves;
pub mod gradients;
pub mod metrics;
pub mod parameters;
mod pass;
pub mod plan;
#[cfg(all(feature = "data", not(target_arch = "wasm32")))]
pub mod recipe;
#[cfg(all(feature = "data", not(target_arch = "wasm32")))]
pub mod run;
#[cfg(all(feature = "data", not(target_arch = "wasm32")))]
pub mod trainer;

pub use gradients::{Gradients, Options, Statistics, gradients};
pub use plan::TrainingPlan;
