//! Spiking transformers in compute shaders.

// A browser has one thread: what is shared within it need not be what threads could share.
#![cfg_attr(target_arch = "wasm32", allow(clippy::arc_with_non_send_sync))]

pub mod aligned;
pub mod attention_map;
pub mod checkpoint;
#[cfg(all(feature = "cli", not(target_arch = "wasm32")))]
pub mod cli;
pub mod config;
#[cfg(feature = "pictures")]
pub mod data;
pub mod error;
#[cfg(all(feature = "data", not(target_arch = "wasm32")))]
pub mod evaluate;
#[cfg(not(target_arch = "wasm32"))]
pub mod files;
pub mod gpu;
pub mod init;
pub mod insight;
pub mod kernels;
pub mod layers;
pub mod model;
pub mod outputs;
pub mod profile;
pub mod program;
pub mod recording;
pub mod reference;
pub mod session;
pub mod tensor;
pub mod tensor_file;
pub mod train;
#[cfg(all(feature = "web", target_arch = "wasm32"))]
pub mod web;
pub mod weights;

pub use error::{Error, Result};
