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
pub use measure::Measured;
pub(crate) use measure::Size;
pub use memory::MemoryPlan;
#[cfg(not(target_arch = "wasm32"))]
pub use pipelines::Preparation;
pub use plan::{DispatchTime, Plan};

/// What a device can do beyond WebGPU's defaults, as far as it decides between variants of a kernel. The default can nothing,
/// and gets the portable ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Capabilities {
    /// Whether it is a software driver: a processor, where loads cost more than arithmetic.
    pub software: bool,
    /// Invocations of the smallest and the largest subgroup, where shaders may use subgroups.
    pub subgroup: Option<(u32, u32)>,
    /// When the variants for GPUs run in place of the portable kernels.
    pub for_gpus: ForGpus,
}

/// When the variants for GPUs run in place of the portable kernels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ForGpus {
    /// Never.
    #[default]
    Never,
    /// Where there is one.
    Always,
    /// Where it was the faster one.
    Measured(Measured),
}

impl Capabilities {
    /// Whether it is a software driver whose subgroups have a lane for each of eight values: what shuffles hand on need not be
    /// loaded.
    pub(crate) fn lanes_hold_eight(self) -> bool {
        self.software && self.subgroup.is_some_and(|(least, _)| least >= 8)
    }

    /// Whether the variant for GPUs runs what has that size.
    pub(crate) fn gpu_variant_pays(self, size: Size) -> bool {
        match self.for_gpus {
            ForGpus::Never => false,
            ForGpus::Always => true,
            ForGpus::Measured(measured) => measured.pays(size),
        }
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
    Events,
    /// Those for GPUs where they are measured to be faster, on any adapter, to test the measurement.
    Measured,
}

impl Variants {
    /// What the environment variable `SPIKESHADE_VARIANTS` asks for: `auto`, `portable`, `events` or `measured`; unset or empty,
    /// [`Variants::Auto`].
    ///
    /// # Errors
    /// [`Error::Gpu`] for anything else.
    pub fn from_env() -> Result<Self> {
        let choice = std::env::var("SPIKESHADE_VARIANTS").unwrap_or_default();
        match choice.to_lowercase().as_str() {
            "" | "auto" => Ok(Variants::Auto),
            "portable" => Ok(Variants::Portable),
            "events" => Ok(Variants::Events),
            "measured" => Ok(Variants::Measured),
            _ => Err(Error::Gpu(format!(
                "the environment variable SPIKESHADE_VARIANTS is `{}`; set it to auto, portable, events or measured, or unset it",
                crate::error::clip(&choice)
            ))),
        }
    }
}

/// How a device is opened.
#[derive(Clone, Debug)]
pub struct Opening {
    /// What plans are kept within, where the adapter's own limits are not tighter.
    pub limits: Limits,
    /// The variants of the kernels.
    pub variants: Variants,
    /// The folder that keeps, from one process to the next, compiled pipelines and which variants are faster; `None` keeps nothing.
    pub cache: Option<std::path::PathBuf>,
}

impl Opening {
    /// WebGPU's default limits, but for the sizes of bindings and buffers, which are the adapter's own outside a browser: what fits
    /// need not be cut. Variants as [`Variants::from_env`] has them; what is kept is kept in the user's cache folder, or in the one
    /// that `SPIKESHADE_CACHE_DIR` names, or if that is empty nowhere.
    ///
    /// # Errors
    /// As [`Variants::from_env`].
    pub fn from_env() -> Result<Self> {
        let standard = Limits::default();
        let (binding, buffer) = (LARGEST.max(standard.binding), LARGEST.max(standard.buffer));
        let limits = Limits { binding, buffer, ..standard };
        #[cfg(not(target_arch = "wasm32"))]
        let cache = cache::folder();
        #[cfg(target_arch = "wasm32")]
        let cache = None;
        Ok(Opening { limits, variants: Variants::from_env()?, cache })
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
    /// Bytes of memory that a workgroup's invocations share.
    pub workgroup_memory: u64,
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
        Limits {
            binding: 128 << 20,
            buffer: 256 << 20,
            memory: 2 << 30,
            groups: 65_535,
            workgroup_memory: 16 << 10,
            uniform_alignment: 256,
        }
    }
}
