//! What the attention kernels share: the uniform and how a window of heads lies in its tensors
//! (`shaders/lib/head_slice.wgsl`).

use super::{dim, uniform};
use crate::recording::{Recording, TensorId};
use crate::tensor::{Shape, vectors, words};

uniform! {
    /// The uniform of the attention kernels.
    Attention {
        /// N.
        tokens: u32,
        /// T·B.
        images: u32,
        /// Heads of this window.
        heads: u32,
        /// First head of this window.
        first_head: u32,
        /// d, channels of a head.
        head_dim: u32,
        /// Words of a packed token.
        words: u32,
        /// Floats of a K or O token of this window.
        real_stride: u32,
        /// Floats of a real token of all heads.
        all_stride: u32,
    }
}

/// A window of heads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    /// d, channels of a head.
    pub dim: usize,
    /// First head of the window.
    pub first: usize,
    /// Heads of the window.
    pub count: usize,
}

impl Heads {
    /// Terms of a product with `Kᵀ V`, of tensors of that shape: d² a token and head.
    pub(super) fn linear_terms(self, of: Shape) -> u64 {
        (of.steps * of.rows() * self.count * self.dim * self.dim) as u64
    }

    /// Terms of a product with `Q Kᵀ`, of tensors of that shape: d a pair of tokens and head.
    pub(super) fn quadratic_terms(self, of: Shape) -> u64 {
        (of.steps * of.rows() * of.tokens() * self.count * self.dim) as u64
    }
}

/// The order in which the three factors are multiplied; equal in exact arithmetic as there is no softmax.
#[derive(serde::Serialize, serde::Deserialize, Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Order {
    /// `(Q Kᵀ) V`: N²·d additions a head.
    #[serde(rename = "qk_v")]
    QkV,
    /// `Q (Kᵀ V)`: N·d² additions a head.
    #[serde(rename = "q_kv")]
    QKv,
}

impl Order {
    /// The cheaper order for N tokens and d channels a head.
    pub fn cheaper(tokens: usize, head_dim: usize) -> Self {
        if tokens < head_dim { Order::QkV } else { Order::QKv }
    }
}

/// The tiles of 32 that hold one side of a head's `Kᵀ V`.
pub(crate) fn side(head_dim: usize) -> usize {
    head_dim.div_ceil(32)
}

/// The shape of the `Kᵀ V` of a window of heads: `[T, B, heads, side · side, 1024]`, tile by tile.
pub fn kv_shape(of: Shape, heads: Heads) -> Shape {
    Shape { height: heads.count, width: side(heads.dim) * side(heads.dim), channels: 1024, ..of }
}

/// The uniform of a window of heads whose tensors of all heads look like `all` and whose real one is `real`.
pub(super) fn uniform_of(recording: &Recording, all: TensorId, real: TensorId, heads: Heads) -> Attention {
    let shape = recording.get(all).shape;
    Attention {
        tokens: dim(shape.tokens()),
        images: dim(shape.steps * shape.batch),
        heads: dim(heads.count),
        first_head: dim(heads.first),
        head_dim: dim(heads.dim),
        words: dim(words(shape.channels)),
        real_stride: dim(recording.get(real).row()),
        all_stride: dim(4 * vectors(shape.channels)),
    }
}
