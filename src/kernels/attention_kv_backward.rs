//! `attention_kv_backward`: the gradients of the factors of `M = Kᵀ V`.

use super::attention::{Attention, Heads, uniform_of};
use super::{Arithmetic, Dispatch, Groups, Kernel, Op, bytes_of, twins};
use crate::recording::{Access, Recording, TensorId};
use crate::reference::attention_kv_backward as twin;

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    stem: "attention_kv_backward",
    sources: &[
        include_str!("../../shaders/attention_kv_backward.wgsl"),
        include_str!("../../shaders/lib/dense_product.wgsl"),
        include_str!("../../shaders/lib/head_slice.wgsl"),
    ],
    entries: &["keys", "values"],
    bindings: &[
        ("k_in", Access::Read),
        ("v_in", Access::Read),
        ("dm_in", Access::Read),
        ("dk_out", Access::Write),
        ("dv_out", Access::Write),
    ],
    uniform: Attention::LAYOUT,
    uniform_size: size_of::<Attention>(),
    constants: || vec![vec![]],
};

/// `dK = V dMᵀ` where K > 0, else 0: the gradient of what went into the ReLU before K. k and dk `[T, B, H, W, window]` real, v
/// `[T, B, H, W, D]` ternary, dm as [`super::attention::kv_shape`].
#[derive(Clone, Debug)]
pub struct AttentionKvGradKeys {
    /// The layer.
    pub layer: String,
    /// Keys of the window, real.
    pub k: TensorId,
    /// Ternary values, all heads.
    pub v: TensorId,
    /// The gradient of `Kᵀ V`, as [`super::attention::kv_shape`].
    pub dm: TensorId,
    /// The gradient of the keys of the window before their ReLU, real.
    pub dk: TensorId,
    /// The window of heads.
    pub heads: Heads,
}

/// `dV = K dM`: k `[T, B, H, W, window]` real, dm as [`super::attention::kv_shape`], dv `[T, B, H, W, D]` real, of which the
/// window's channels are written.
#[derive(Clone, Debug)]
pub struct AttentionKvGradValues {
    /// The layer.
    pub layer: String,
    /// Keys of the window, real.
    pub k: TensorId,
    /// The gradient of `Kᵀ V`, as [`super::attention::kv_shape`].
    pub dm: TensorId,
    /// The gradient of the values, all heads, real.
    pub dv: TensorId,
    /// The window of heads.
    pub heads: Heads,
}

fn groups(attention: &Attention) -> Groups {
    let tiles = attention.tokens.div_ceil(64) * attention.head_dim.div_ceil(32);
    Groups::Exact([tiles, attention.heads, attention.images])
}

impl Op for AttentionKvGradKeys {
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
            entry: "keys",
            constants: vec![],
            bindings: vec![(0, self.k), (1, self.v), (2, self.dm), (3, self.dk)],
            uniform: bytes_of(&attention),
            groups: groups(&attention),
        }
    }

    fn arithmetic(&self, recording: &Recording) -> Arithmetic {
        Arithmetic::selected(self.v, self.heads.linear_terms(recording.get(self.v).shape))
    }

    twins!(twin::keys);
}

impl Op for AttentionKvGradValues {
    fn kernel(&self) -> &'static Kernel {
        &KERNEL
    }

    fn layer(&self) -> &str {
        &self.layer
    }

    fn dispatch(&self, recording: &Recording) -> Dispatch {
        let attention = uniform_of(recording, self.dv, self.k, self.heads);
        Dispatch {
            kernel: &KERNEL,
            entry: "values",
            constants: vec![],
            bindings: vec![(0, self.k), (2, self.dm), (4, self.dv)],
            uniform: bytes_of(&attention),
            groups: groups(&attention),
        }
    }

    fn arithmetic(&self, recording: &Recording) -> Arithmetic {
        Arithmetic::real(self.heads.linear_terms(recording.get(self.k).shape))
    }

    twins!(twin::values);
}
