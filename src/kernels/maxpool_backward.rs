//! What the gradients of both max-pools share (`shaders/lib/maxpool_backward.wgsl`).

use super::{Groups, bytes_of, dim, uniform};
use crate::tensor::{Shape, vectors};

uniform! {
    /// The uniform of `maxpool_real_backward` and `maxpool_spike_backward`.
    MaxpoolBackward {
        /// T·B·H·W·⌈C/4⌉.
        count: u32,
        /// H of the pool's input.
        height: u32,
        /// W of the pool's input.
        width: u32,
        /// vec4f of a token.
        vectors: u32,
    }
}

/// The uniform's bytes and the workgroups for a pool's input of `shape`.
pub(super) fn dispatch(shape: Shape) -> (Vec<u8>, Groups) {
    let count = shape.steps * shape.rows() * vectors(shape.channels);
    let pool = MaxpoolBackward {
        count: dim(count),
        height: dim(shape.height),
        width: dim(shape.width),
        vectors: dim(vectors(shape.channels)),
    };
    (bytes_of(&pool), Groups::Line { n: count.div_ceil(64) as u64, z: 1 })
}
