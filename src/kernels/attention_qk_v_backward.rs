//! `attention_qk_v_backward`: the gradients of the factors of `O = (Q Kᵀ) V`.

use super::attention::{Attention, Heads, side, uniform_of};
use super::{Arithmetic, Dispatch, Groups, Kernel, Op, bytes_of, dim, twins};
use crate::recording::{Access, Recording, TensorId};
use crate::reference::attention_qk_v_backward as twin;

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    stem: "attention_qk_v_backward",
    sources: &[
        include_str!("../../shaders/attention_qk_v_backward.wgsl"),
        include_str!("../../shaders/lib/head_slice.wgsl"),
    ],
    entries: &["values", "queries", "keys"],
    bindings: &[
        ("q_in", Access::Read),
        ("k_in", Access::Read),
        ("v_in", Access::Read),
        ("g_in", Access::Read),
        ("dq_out", Access::Write),
        ("dk_out", Access::Write),
        ("dv_out", Access::Write),
    ],
    uniform: Attention::LAYOUT,
    uniform_size: size_of::<Attention>(),
    constants: || vec![vec![]],
};

fn dispatch(entry: &'static str, bindings: Vec<(u32, TensorId)>, attention: &Attention) -> Dispatch {
    let tiles = attention.tokens.div_ceil(32) * dim(side(attention.head_dim as usize));
    Dispatch {
        kernel: &KERNEL,
        entry,
        constants: vec![],
        bindings,
        uniform: bytes_of(attention),
        groups: Groups::Exact([tiles, attention.heads, attention.images]),
    }
}

/// `dQ = (G Vᵀ) K`: dq `[T, B, H, W, D]` real, of which the window's channels are written.
#[derive(Clone, Debug)]
pub struct AttentionQkVGradQueries {
    /// The layer.
    pub layer: String,
    /// Keys of the window, real.
    pub k: TensorId,
    /// Ternary values, all heads.
    pub v: TensorId,
    /// The gradient of the attention sums of the window, real.
    pub g: TensorId,
    /// The gradient of the queries, all heads, real.
    pub dq: TensorId,
    /// The window of heads.
    pub heads: Heads,
}

impl Op for AttentionQkVGradQueries {
    fn kernel(&self) -> &'static Kernel {
        &KERNEL
    }

    fn layer(&self) -> &str {
        &self.layer
    }

    fn dispatch(&self, recording: &Recording) -> Dispatch {
        let bindings = vec![(1, self.k), (2, self.v), (3, self.g), (4, self.dq)];
        dispatch("queries", bindings, &uniform_of(recording, self.dq, self.g, self.heads))
    }

    fn arithmetic(&self, recording: &Recording) -> Arithmetic {
        let terms = self.heads.quadratic_terms(recording.get(self.g).shape);
        Arithmetic { multiply_adds: terms, ..Arithmetic::selected(self.v, terms) }
    }

    twins!(twin::queries);
}

/// `dK = (G Vᵀ)ᵀ Q` where K > 0, else 0: the gradient of what went into the ReLU before K; dk `[T, B, H, W, window]` real.
#[derive(Clone, Debug)]
pub struct AttentionQkVGradKeys {
    /// The layer.
    pub layer: String,
    /// Packed queries, all heads.
    pub q: TensorId,
    /// Keys of the window, real.
    pub k: TensorId,
    /// Ternary values, all heads.
    pub v: TensorId,
    /// The gradient of the attention sums of the window, real.
    pub g: TensorId,
    /// The gradient of the keys of the window before their ReLU, real.
    pub dk: TensorId,
    /// The window of heads.
    pub heads: Heads,
}

impl Op for AttentionQkVGradKeys {
    fn kernel(&self) -> &'static Kernel {
        &KERNEL
    }

    fn layer(&self) -> &str {
        &self.layer
    }

    fn dispatch(&self, recording: &Recording) -> Dispatch {
        let bindings = vec![(0, self.q), (1, self.k), (2, self.v), (3, self.g), (5, self.dk)];
        dispatch("keys", bindings, &uniform_of(recording, self.q, self.g, self.heads))
    }

    fn arithmetic(&self, recording: &Recording) -> Arithmetic {
        // Two products, with the spikes of V and of Q.
        let additions = 2 * self.heads.quadratic_terms(recording.get(self.g).shape);
        Arithmetic { additions, ..Arithmetic::default() }
    }

    twins!(twin::keys);
}

/// `dV = (Q Kᵀ)ᵀ G`: dv `[T, B, H, W, D]` real, of which the window's channels are written.
#[derive(Clone, Debug)]
pub struct AttentionQkVGradValues {
    /// The layer.
    pub layer: String,
    /// Packed queries, all heads.
    pub q: TensorId,
    /// Keys of the window, real.
    pub k: TensorId,
    /// The gradient of the attention sums of the window, real.
    pub g: TensorId,
    /// The gradient of the values, all heads, real.
    pub dv: TensorId,
    /// The window of heads.
    pub heads: Heads,
}

impl Op for AttentionQkVGradValues {
    fn kernel(&self) -> &'static Kernel {
        &KERNEL
    }

    fn layer(&self) -> &str {
        &self.layer
    }

    fn dispatch(&self, recording: &Recording) -> Dispatch {
        let bindings = vec![(0, self.q), (1, self.k), (3, self.g), (6, self.dv)];
        dispatch("values", bindings, &uniform_of(recording, self.q, self.g, self.heads))
    }

    fn arithmetic(&self, recording: &Recording) -> Arithmetic {
        let terms = self.heads.quadratic_terms(recording.get(self.g).shape);
        Arithmetic { multiply_adds: terms, ..Arithmetic::selected(self.q, terms) }
    }

    twins!(twin::values);
}
