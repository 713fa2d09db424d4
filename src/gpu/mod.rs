//! The device layer: the only code that names wgpu.

pub mod adapter;
#[cfg(not(target_arch = "wasm32"))]
mod cache;
pub mod context;
pub mod memory;
mod pipelines;
pub mod plan;

pub use adapter::{AdapterDescription, AdapterKind, Adapters};
pub use context::Context;
pub use memory::MemoryPlan;
#[cfg(not(target_arch = "wasm32"))]
pub use pipelines::Preparation;
pub use plan::{DispatchTime, Plan};

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
