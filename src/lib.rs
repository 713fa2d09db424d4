//! Spiking transformers in compute shaders.
pub mod checkpoint;
pub mod config;
#[cfg(feature = "data")]
pub mod data;
pub mod error;

pub use error::{Error, Result};
