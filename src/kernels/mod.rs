//! One module for each op: its parameters, its bindings and its dispatches. Every op has a WGSL file of its name in `shaders/`
//! and a twin of its name in [`crate::reference`].

use crate::gpu::Capabilities;
use crate::recording::{Access, Recording, TensorId};
use crate::reference::HostTensors;

pub mod accumulate;
pub mod adamw;
pub mod attention;
pub mod attention_census;
pub mod attention_fused;
pub mod attention_kv;
pub mod attention_kv_backward;
pub mod attention_q_kv;
pub mod attention_q_kv_backward;
pub mod attention_qk_v;
pub mod attention_qk_v_backward;
pub mod batch_norm;
pub mod bn_apply;
pub mod bn_backward;
pub mod bn_statistics;
pub mod channel_sums;
pub mod conv3x3_real;
pub mod conv3x3_real_backward;
pub mod conv3x3_spike;
pub mod conv3x3_spike_backward;
pub mod conv3x3_spike_f16;
pub mod conv3x3_spike_int8;
pub mod copy;
pub mod cross_entropy;
pub mod ema;
pub mod gradient_norm;
pub mod head;
pub mod head_backward;
pub mod lif;
pub mod lif_backward;
pub mod linear_spike;
pub mod linear_spike_backward;
pub mod linear_spike_f16;
pub mod linear_spike_int8;
pub mod maxpool_backward;
pub mod maxpool_real;
pub mod maxpool_real_backward;
pub mod maxpool_spike;
pub mod maxpool_spike_backward;
pub mod multiply_add;
pub mod neuron;
pub mod product;
pub mod product_backward;
pub mod residual_add;
pub mod sgd;
pub mod spike_census;
pub mod spike_count;
pub mod spike_gap;
pub mod spike_gap_backward;
pub mod step;

/// A WGSL module: a kernel's own text followed by the shared functions it uses, so that error lines keep their numbers.
pub struct Kernel {
    /// The file's stem and the pipeline's label: the op's name, of a variant with `.` and the variant's name.
    pub stem: &'static str,
    /// The text, the kernel's own file first.
    pub sources: &'static [&'static str],
    /// Entry points.
    pub entries: &'static [&'static str],
    /// The storage bindings in order, with their access; the uniform's binding number follows them.
    pub bindings: &'static [(&'static str, Access)],
    /// Name, and field names with their byte offsets, of the uniform struct.
    pub uniform: (&'static str, &'static [(&'static str, usize)]),
    /// Size of the uniform struct in bytes.
    pub uniform_size: usize,
    /// Every set of override constants that a model can ask for.
    pub constants: fn() -> Vec<Constants>,
}

/// Override constants by name.
pub type Constants = Vec<(&'static str, f64)>;

impl Kernel {
    /// The op's name: the stem less a variant's name.
    pub fn op(&self) -> &'static str {
        self.stem.split('.').next().unwrap_or(self.stem)
    }

    /// The whole module's text.
    pub fn source(&self) -> String {
        self.sources.join("\n")
    }

    /// The number of the binding `name`; past the last if there is none, which no layout accepts.
    pub(crate) fn slot(&self, name: &str) -> u32 {
        dim(self.bindings.iter().position(|b| b.0 == name).unwrap_or(usize::MAX))
    }
}

/// Every kernel there is, variants beside their portable one.
pub const KERNELS: &[&Kernel] = &[
    &accumulate::KERNEL,
    &adamw::KERNEL,
    &attention_census::KERNEL,
    &attention_fused::KERNEL,
    &attention_kv::KERNEL,
    &attention_kv::SUBGROUP,
    &attention_kv_backward::KERNEL,
    &attention_q_kv::KERNEL,
    &attention_q_kv_backward::KERNEL,
    &attention_qk_v::KERNEL,
    &bn_apply::KERNEL,
    &bn_backward::KERNEL,
    &bn_statistics::KERNEL,
    &attention_qk_v_backward::KERNEL,
    &conv3x3_real::KERNEL,
    &conv3x3_real_backward::KERNEL,
    &conv3x3_spike::KERNEL,
    &conv3x3_spike::TABLE,
    &conv3x3_spike::EVENTS,
    &copy::KERNEL,
    &cross_entropy::KERNEL,
    &conv3x3_spike_backward::KERNEL,
    &conv3x3_spike_f16::KERNEL,
    &conv3x3_spike_f16::TABLE,
    &conv3x3_spike_f16::EVENTS,
    &conv3x3_spike_int8::KERNEL,
    &conv3x3_spike_int8::TABLE,
    &conv3x3_spike_int8::EVENTS,
    &ema::KERNEL,
    &gradient_norm::KERNEL,
    &head::KERNEL,
    &head_backward::KERNEL,
    &lif::KERNEL,
    &lif::WORDS,
    &lif_backward::KERNEL,
    &linear_spike::KERNEL,
    &linear_spike::TABLE,
    &linear_spike::EVENTS,
    &linear_spike_backward::KERNEL,
    &linear_spike_f16::KERNEL,
    &linear_spike_f16::TABLE,
    &linear_spike_f16::EVENTS,
    &linear_spike_int8::KERNEL,
    &linear_spike_int8::TABLE,
    &linear_spike_int8::EVENTS,
    &maxpool_real::KERNEL,
    &maxpool_real_backward::KERNEL,
    &maxpool_spike::KERNEL,
    &maxpool_spike_backward::KERNEL,
    &multiply_add::KERNEL,
    &residual_add::KERNEL,
    &sgd::KERNEL,
    &spike_census::KERNEL,
    &spike_count::KERNEL,
    &spike_gap::KERNEL,
    &spike_gap_backward::KERNEL,
];

/// One dispatch of a kernel.
pub struct Dispatch {
    /// Which kernel.
    pub kernel: &'static Kernel,
    /// Which of its entry points.
    pub entry: &'static str,
    /// The values of its override constants.
    pub constants: Constants,
    /// Binding number and tensor, for the bindings that the entry point uses.
    pub bindings: Vec<(u32, TensorId)>,
    /// The uniform struct's bytes.
    pub uniform: Vec<u8>,
    /// How many workgroups; `x` may exceed the limit of a dimension and is folded over `y` if `y` is 1, `y` over `z` likewise.
    pub groups: Groups,
}

/// The workgroups of a dispatch, before they are folded into the limit of each dimension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Groups {
    /// `[n]` workgroups in a line, folded over x and y, times `z`.
    Line {
        /// Workgroups in the line.
        n: u64,
        /// Depth.
        z: u32,
    },
    /// `x` times a line of `n` folded over y and z.
    Column {
        /// Width.
        x: u32,
        /// Workgroups in the line.
        n: u64,
    },
    /// Exactly these.
    Exact([u32; 3]),
}

impl Groups {
    /// How many there are.
    pub(crate) fn count(self) -> u64 {
        match self {
            Groups::Line { n, z } => n * u64::from(z),
            Groups::Column { x, n } => u64::from(x) * n,
            Groups::Exact(grid) => grid.map(u64::from).iter().product(),
        }
    }

    /// The grid within `limit` workgroups a dimension; `None` where it does not fit.
    pub fn fold(self, limit: u32) -> Option<[u32; 3]> {
        let halves = |n: u64| {
            let second = n.div_ceil(u64::from(limit)).max(1);
            let first = n.div_ceil(second);
            Some((u32::try_from(first).ok()?, u32::try_from(second).ok()?))
        };
        let grid = match self {
            Groups::Line { n, z } => {
                let (x, y) = halves(n)?;
                [x, y, z]
            }
            Groups::Column { x, n } => {
                let (y, z) = halves(n)?;
                [x, y, z]
            }
            Groups::Exact(grid) => grid,
        };
        grid.iter().all(|&g| g <= limit).then_some(grid)
    }
}

/// The sums and products that an op's equation has, whatever computes them; what is done once an element (batch norm, neurons)
/// is not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arithmetic {
    /// Additions of values that spikes select, as if every neuron fired.
    pub additions: u64,
    /// The spikes that select them, where it is one tensor: its firing rate times `additions` are the synaptic operations.
    pub spikes: Option<TensorId>,
    /// Products of two real factors that are summed.
    pub multiply_adds: u64,
}

impl Arithmetic {
    /// Additions that the spikes of one tensor select.
    pub(crate) fn selected(spikes: TensorId, additions: u64) -> Self {
        Arithmetic { additions, spikes: Some(spikes), multiply_adds: 0 }
    }

    /// Products of real factors.
    pub(crate) fn real(multiply_adds: u64) -> Self {
        Arithmetic { multiply_adds, ..Arithmetic::default() }
    }
}

/// One op of a recording.
pub trait Op: Send + Sync {
    /// Which kernel runs it.
    fn kernel(&self) -> &'static Kernel;
    /// The layer it belongs to, e.g. `block.0.attn.q`.
    fn layer(&self) -> &str;
    /// Every tensor it touches.
    fn operands(&self, recording: &Recording) -> Vec<(TensorId, Access)> {
        let dispatch = self.dispatch(recording);
        dispatch.bindings.iter().map(|&(slot, id)| (id, dispatch.kernel.bindings[slot as usize].1)).collect()
    }
    /// Bytes of its operands as a whole, each counted once: also what is changed in place, which is read and written.
    fn bytes(&self, recording: &Recording) -> u64 {
        self.operands(recording).iter().map(|&(id, _)| recording.get(id).bytes()).sum()
    }
    /// What it computes; nothing where moving is all it does.
    fn arithmetic(&self, _recording: &Recording) -> Arithmetic {
        Arithmetic::default()
    }
    /// Its portable dispatch.
    fn dispatch(&self, recording: &Recording) -> Dispatch;
    /// Its dispatch on a device: that of the variant which suits it, where there is one. Tensors, their layouts and the twin are
    /// the portable dispatch's.
    fn dispatch_on(&self, recording: &Recording, _: Capabilities) -> Dispatch {
        self.dispatch(recording)
    }
    /// Its twin on the host.
    fn reference(&self, host: &mut HostTensors);
    /// The same twin in f64.
    fn reference_f64(&self, host: &mut HostTensors<f64>);
}

/// Both precisions of an op's twin, which takes the op, or its field `0`.
macro_rules! twins {
    ($run:expr) => {
        fn reference(&self, host: &mut crate::reference::HostTensors) {
            $run(self, host);
        }

        fn reference_f64(&self, host: &mut crate::reference::HostTensors<f64>) {
            $run(self, host);
        }
    };
    ($run:expr, $field:tt) => {
        fn reference(&self, host: &mut crate::reference::HostTensors) {
            $run(&self.$field, host);
        }

        fn reference_f64(&self, host: &mut crate::reference::HostTensors<f64>) {
            $run(&self.$field, host);
        }
    };
}
pub(crate) use twins;

/// Declares a `#[repr(C)]` uniform struct of 4-byte scalars together with the names and offsets of its fields, which a test
/// compares with the WGSL struct of the same name.
macro_rules! uniform {
    ($(#[$meta:meta])* $name:ident { $($(#[$field_meta:meta])* $field:ident: $ty:ty),* $(,)? }) => {
        $(#[$meta])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, Default, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
        pub struct $name { $($(#[$field_meta])* pub $field: $ty),* }
        impl $name {
            /// The WGSL struct's name and its fields with their byte offsets.
            pub const LAYOUT: (&'static str, &'static [(&'static str, usize)]) =
                (stringify!($name), &[$((stringify!($field), std::mem::offset_of!($name, $field))),*]);
        }
    };
}
pub(crate) use uniform;

/// A dimension as the u32 that a uniform holds. Sizes are checked against the device's limits when the plan is made, and
/// no tensor within them has a dimension that does not fit.
pub(crate) fn dim(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// The uniform struct's bytes.
pub(crate) fn bytes_of(uniform: &impl bytemuck::NoUninit) -> Vec<u8> {
    bytemuck::bytes_of(uniform).to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grids_fold_within_the_limit() {
        assert_eq!(Groups::Line { n: 70_000, z: 3 }.fold(65_535), Some([35_000, 2, 3]));
        assert_eq!(Groups::Line { n: 1, z: 1 }.fold(65_535), Some([1, 1, 1]));
        assert_eq!(Groups::Column { x: 5, n: 65_536 }.fold(65_535), Some([5, 32_768, 2]));
        assert_eq!(Groups::Exact([65_536, 1, 1]).fold(65_535), None);
        for n in [1u64, 99, 65_535, 65_536, 1_000_003] {
            let [x, y, _] = Groups::Line { n, z: 1 }.fold(1_000).unwrap_or_default();
            assert!(n > 1_000_000 || u64::from(x) * u64::from(y) >= n);
        }
    }
}
