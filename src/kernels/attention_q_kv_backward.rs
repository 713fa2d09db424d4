//! `attention_q_kv_backward`: the gradients of the factors of `O = Q M`.

use super::attention::{Attention, Heads, side, uniform_of};
use super::{Arithmetic, Dispatch, Groups, Kernel, Op, bytes_of, dim, twins};
use crate::recording::{Access, Recording, TensorId};
use crate::reference::attention_q_kv_backward as twin;

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    stem: "attention_q_kv_backward",
    sources: &[
        include_str!("../../shaders/attention_q_kv_backward.wgsl"),
        include_str!("../../shaders/lib/dense_product.wgsl"),
        include_str!("../../shaders/lib/head_slice.wgsl"),
    ],
    entries: &["kv", "queries"],
    bindings: &[
        ("q_in", Access::Read),
        ("m_in", Access::Read),
        ("g_in", Access::Read),
        ("dm_out", Access::Write),
        ("dq_out", Access::Write),
    ],
    uniform: Attention::LAYOUT,
    uniform_size: size_of::<Attention>(),
    constants: || vec![vec![]],
};

/// `dM = Qᵀ G`: q `[T, B, H, W, D]` packed, g `[T, B, H, W, window]` real, dm as [`super::attention::kv_shape`].
#[derive(Clone, Debug)]
pub struct AttentionQKvGradKv {
    /// The layer.
    pub layer: String,
    /// Packed queries, all heads.
    pub q: TensorId,
    /// The gradient of the attention sums of the window, real.
    pub g: TensorId,
    /// The gradient of `Kᵀ V`, as [`super::attention::kv_shape`].
    pub dm: TensorId,
    /// The window of heads.
    pub heads: Heads,
}

/// `dQ = G Mᵀ`: g `[T, B, H, W, window]` real, m as [`super::attention::kv_shape`], dq `[T, B, H, W, D]` real, of which the
/// window's channels are written.
#[derive(Clone, Debug)]
pub struct AttentionQKvGradQueries {
    /// The layer.
    pub layer: String,
    /// `Kᵀ V`, as [`super::attention::kv_shape`].
    pub m: TensorId,
    /// The gradient of the attention sums of the window, real.
    pub g: TensorId,
    /// The gradient of the queries, all heads, real.
    pub dq: TensorId,
    /// The window of heads.
    pub heads: Heads,
}

impl Op for AttentionQKvGradKv {
    fn kernel(&self) -> &'static Kernel {
        &KERNEL
    }

    fn layer(&self) -> &str {
        &self.layer
    }

    fn dispatch(&self, recording: &Recording) -> Dispatch {
        let attention = uniform_of(recording, self.q, self.g, self.heads);
        let side = dim(side(self.heads.dim));
        Dispatch {
            kernel: &KERNEL,
            entry: "kv",
            constants: vec![],
            bindings: vec![(0, self.q), (2, self.g), (3, self.dm)],
            uniform: bytes_of(&attention),
            groups: Groups::Exact([side * side, attention.heads, attention.images]),
        }
    }

    fn arithmetic(&self, recording: &Recording) -> Arithmetic {
        Arithmetic::selected(self.q, self.heads.linear_terms(recording.get(self.q).shape))
    }

    twins!(twin::kv);
}

impl Op for AttentionQKvGradQueries {
    fn kernel(&self) -> &'static Kernel {
        &KERNEL
    }

    fn layer(&self) -> &str {
        &self.layer
    }

    fn dispatch(&self, recording: &Recording) -> Dispatch {
        let attention = uniform_of(recording, self.dq, self.g, self.heads);
        let tiles = attention.tokens.div_ceil(64) * dim(side(self.heads.dim));
        Dispatch {
            kernel: &KERNEL,
            entry: "queries",
            constants: vec![],
            bindings: vec![(1, self.m), (2, self.g), (4, self.dq)],
            uniform: bytes_of(&attention),
            groups: Groups::Exact([tiles, attention.heads, attention.images]),
        }
    }

    fn arithmetic(&self, recording: &Recording) -> Arithmetic {
        Arithmetic::real(self.heads.linear_terms(recording.get(self.g).shape))
    }

    twins!(twin::queries);
}
