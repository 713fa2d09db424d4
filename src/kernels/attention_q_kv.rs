//! `attention_q_kv`: `O = Q M` of every timestep, image and head, M from `attention_kv`.

use super::attention::{Attention, Heads, side, uniform_of};
use super::{Arithmetic, Dispatch, Groups, Kernel, Op, bytes_of, dim, twins};
use crate::recording::{Access, Recording, TensorId};
use crate::reference::attention_q_kv as twin;

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    stem: "attention_q_kv",
    sources: &[
        include_str!("../../shaders/attention_q_kv.wgsl"),
        include_str!("../../shaders/lib/spike_product.wgsl"),
        include_str!("../../shaders/lib/head_slice.wgsl"),
    ],
    entries: &["main"],
    bindings: &[("q_in", Access::Read), ("m_in", Access::Read), ("o_out", Access::Write)],
    uniform: Attention::LAYOUT,
    uniform_size: size_of::<Attention>(),
    constants: || vec![vec![]],
};

/// `o = Q m`: q `[T, B, H, W, D]` packed, m as [`super::attention::kv_shape`], o `[T, B, H, W, window]` real.
#[derive(Clone, Debug)]
pub struct AttentionQKv {
    /// The layer.
    pub layer: String,
    /// Packed queries, all heads.
    pub q: TensorId,
    /// `Kᵀ V`, as [`super::attention::kv_shape`].
    pub m: TensorId,
    /// Attention sums of the window, real.
    pub o: TensorId,
    /// The window of heads.
    pub heads: Heads,
}

impl Op for AttentionQKv {
    fn kernel(&self) -> &'static Kernel {
        &KERNEL
    }

    fn layer(&self) -> &str {
        &self.layer
    }

    fn dispatch(&self, recording: &Recording) -> Dispatch {
        let attention = uniform_of(recording, self.q, self.o, self.heads);
        Dispatch {
            kernel: &KERNEL,
            entry: "main",
            constants: vec![],
            bindings: vec![(0, self.q), (1, self.m), (2, self.o)],
            uniform: bytes_of(&attention),
            groups: Groups::Exact([
                attention.tokens.div_ceil(64) * dim(side(self.heads.dim)),
                attention.heads,
                attention.images,
            ]),
        }
    }

    fn arithmetic(&self, recording: &Recording) -> Arithmetic {
        Arithmetic::selected(self.q, self.heads.linear_terms(recording.get(self.q).shape))
    }

    twins!(twin::run);
}
