//! `attention_kv`: `M = Kᵀ V` of every timestep, image and head.

use super::attention::{Attention, Heads, side, uniform_of};
use super::{Arithmetic, Dispatch, Groups, Kernel, Op, bytes_of, dim, twins};
use crate::gpu::Capabilities;
use crate::recording::{Access, Recording, TensorId};
use crate::reference::attention_kv as twin;

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    stem: "attention_kv",
    sources: &[include_str!("../../shaders/attention_kv.wgsl"), include_str!("../../shaders/lib/head_slice.wgsl")],
    entries: &["main"],
    bindings: &[("k_in", Access::Read), ("v_in", Access::Read), ("m_out", Access::Write)],
    uniform: Attention::LAYOUT,
    uniform_size: size_of::<Attention>(),
    constants: || vec![vec![]],
};

/// The variant for software drivers; the same bits.
pub static SUBGROUP: Kernel = Kernel {
    stem: "attention_kv.subgroup",
    sources: &[
        include_str!("../../shaders/attention_kv.subgroup.wgsl"),
        include_str!("../../shaders/lib/head_slice.wgsl"),
    ],
    ..KERNEL
};

/// `m = Kᵀ V`: k `[T, B, H, W, window]` real, v `[T, B, H, W, D]` ternary, m as [`super::attention::kv_shape`].
#[derive(Clone, Debug)]
pub struct AttentionKv {
    /// The layer.
    pub layer: String,
    /// Keys of the window, real.
    pub k: TensorId,
    /// Ternary values, all heads.
    pub v: TensorId,
    /// The product, as [`super::attention::kv_shape`].
    pub m: TensorId,
    /// The window of heads.
    pub heads: Heads,
}

impl Op for AttentionKv {
    fn kernel(&self) -> &'static Kernel {
        &KERNEL
    }

    fn layer(&self) -> &str {
        &self.layer
    }

    fn dispatch(&self, recording: &Recording) -> Dispatch {
        let attention = uniform_of(recording, self.v, self.k, self.heads);
        Dispatch {
            kernel: &KERNEL,
            entry: "main",
            constants: vec![],
            bindings: vec![(0, self.k), (1, self.v), (2, self.m)],
            uniform: bytes_of(&attention),
            groups: Groups::Exact([
                dim(side(self.heads.dim) * side(self.heads.dim)),
                attention.heads,
                attention.images,
            ]),
        }
    }

    fn arithmetic(&self, recording: &Recording) -> Arithmetic {
        Arithmetic::selected(self.v, self.heads.linear_terms(recording.get(self.v).shape))
    }

    fn dispatch_on(&self, recording: &Recording, capabilities: Capabilities) -> Dispatch {
        let kernel = if capabilities.lanes_hold_eight() { &SUBGROUP } else { &KERNEL };
        Dispatch { kernel, ..self.dispatch(recording) }
    }

    twins!(twin::run);
}
