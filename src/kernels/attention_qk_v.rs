//! `attention_qk_v`: `O = (Q Kᵀ) V` of every timestep, image and head.

use super::attention::{Attention, Heads, side, uniform_of};
use super::{Arithmetic, Dispatch, Groups, Kernel, Op, bytes_of, dim, twins};
use crate::recording::{Access, Recording, TensorId};
use crate::reference::attention_qk_v as twin;

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    stem: "attention_qk_v",
    sources: &[include_str!("../../shaders/attention_qk_v.wgsl"), include_str!("../../shaders/lib/head_slice.wgsl")],
    entries: &["main"],
    bindings: &[("q_in", Access::Read), ("k_in", Access::Read), ("v_in", Access::Read), ("o_out", Access::Write)],
    uniform: Attention::LAYOUT,
    uniform_size: size_of::<Attention>(),
    constants: || vec![vec![]],
};

/// `o = (Q Kᵀ) V`: q `[T, B, H, W, D]` packed, k and o `[T, B, H, W, window]` real, v `[T, B, H, W, D]` ternary.
#[derive(Clone, Debug)]
pub struct AttentionQkV {
    /// The layer.
    pub layer: String,
    /// Packed queries, all heads.
    pub q: TensorId,
    /// Keys of the window, real.
    pub k: TensorId,
    /// Ternary values, all heads.
    pub v: TensorId,
    /// Attention sums of the window, real.
    pub o: TensorId,
    /// The window of heads.
    pub heads: Heads,
}

impl Op for AttentionQkV {
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
            bindings: vec![(0, self.q), (1, self.k), (2, self.v), (3, self.o)],
            uniform: bytes_of(&attention),
            groups: Groups::Exact([
                attention.tokens.div_ceil(32) * dim(side(self.heads.dim)),
                attention.heads,
                attention.images,
            ]),
        }
    }

    fn arithmetic(&self, recording: &Recording) -> Arithmetic {
        // Two products, with the spikes of Q and of V.
        let additions = 2 * self.heads.quadratic_terms(recording.get(self.q).shape);
        Arithmetic { additions, ..Arithmetic::default() }
    }

    twins!(twin::run);
}
