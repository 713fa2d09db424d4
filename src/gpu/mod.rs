//! The device layer: the only code that names wgpu.

use crate::{Error, Result};

pub mod adapter;
#[cfg(not(target_arch = "wasm32"))]
mod cache;
pub mod context;
pub mod measure;
pub mod memory;
mod oneshot;
mod pipelines;
pub mod plan;

pub use adapter::{AdapterDescription, AdapterKind, Adapters};
pub use context::Context;
pub use memory::MemoryPlan;
#[cfg(not(target_arch = "wasm32"))]
pub use pipelines::Preparation;
pub use plan::{DispatchTime, Plan};

/// What a device can do beyond WebGPU's defaults, as far as it decides between variants of a kernel. The default can nothing,
/// and gets the portable ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// Whether it is a software driver: a processor, where loads cost more than arithmetic.
    pub software: bool,
    /// Invocations of the smallest and the largest subgroup, where shaders may use subgroups.
    pub subgroup: Option<(u32, u32)>,
    /// From how many workgroups on a product in larger tiles is the faster one; `None` where it never is.
    pub tiles_from: Option<u64>,
}

impl Capabilities {
    /// Whether it is a software driver whose subgroups have a lane for each of eight values: what shuffles hand on need not be
    /// loaded.
    pub(crate) fn lanes_hold_eight(self) -> bool {
        self.software && self.subgroup.is_some_and(|(least, _)| least >= 8)
    }
}

/// Which variants of its kernels a device runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variants {
    /// Those that suit the adapter.
    Auto,
    /// The portable ones, to compare with.
    Portable,
    /// Those for GPUs on any adapter, to test them.
    Tiled,
}

impl Variants {
    /// What the environment variable `SPIKESHADE_VARIANTS` asks for: `auto`, `portable` or `tiled`; unset or empty,
    /// [`Variants::Auto`].
    ///
    /// # Errors
    /// [`Error::Gpu`] for anything else.
    pub fn from_env() -> Result<Self> {
        let choice = std::env::var("SPIKESHADE_VARIANTS").unwrap_or_default();
        match choice.to_lowercase().as_str() {
            "" | "auto" => Ok(Variants::Auto),
            "portable" => Ok(Variants::Portable),
            "tiled" => Ok(Variants::Tiled),
            _ => Err(Error::Gpu(format!(
                "SPIKESHADE_VARIANTS is `{}`; it takes auto, portable or tiled",
                crate::error::clip(&choice)
            ))),
        }
    }
}

/// The limits a device is asked for, and plans are made within.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one storage binding.
    pub binding: u64,
    /// Bytes of one buffer.
    pub buffer: u64,
    /// Bytes that the tensors of one plan may take together; a batch that needs more runs in parts.
    pub memory: u64,
    /// Workgroups of one dimension.
    pub groups: u32,
    /// Bytes that a uniform binding's offset is a multiple of.
    pub uniform_alignment: u32,
}

/// The most bytes of a binding or buffer that a device is asked for where its adapter has as many; kernels count elements in 32
/// bits. A browser's devices keep to WebGPU's defaults.
pub const LARGEST: u64 = if cfg!(target_arch = "wasm32") { 128 << 20 } else { u32::MAX as u64 };

impl Limits {
    /// The host's: it has no bindings and no workgroups, so nothing needs to be cut.
    pub fn of_the_host() -> Self {
        Limits { binding: u64::MAX, buffer: u64::MAX, groups: u32::MAX, ..Limits::default() }
    }
}

impl Default for Limits {
    /// WebGPU's defaults, which every device of the standard has, and 2 GiB for a plan, which is this crate's own choice.
    fn default() -> Self {
        Limits { binding: 128 << 20, buffer: 256 << 20, memory: 2 << 30, groups: 65_535, uniform_alignment: 256 }
    }
}
