//! What `bn_statistics` and `bn_backward` share: sums over rows, channel by channel, first of blocks of rows, then of the
//! blocks (`shaders/lib/channel_sums.wgsl`).

use super::{Groups, dim};
use crate::tensor::{Shape, vectors};

/// How the rows of a tensor are cut into blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocks {
    /// How many there are.
    pub count: usize,
    /// Rows of each, the last one perhaps less.
    pub rows: usize,
}

impl Blocks {
    /// Blocks of at least 32 rows, a row for each of a workgroup's row lanes; at most 256 blocks, which fill a large GPU and
    /// leave little to combine.
    pub fn of(shape: Shape) -> Self {
        let all = (shape.steps * shape.rows()).max(1);
        let rows = all.div_ceil(256).next_multiple_of(32);
        Blocks { count: all.div_ceil(rows), rows }
    }
}

/// The shape of the partial sums of a tensor of `shape`: a pair of rows for each block.
pub fn partials(shape: Shape) -> Shape {
    Shape { steps: 1, batch: Blocks::of(shape).count, height: 2, width: 1, channels: shape.channels }
}

/// The workgroups of the first dispatch.
pub(crate) fn partial_groups(shape: Shape) -> Groups {
    Groups::Exact([dim(vectors(shape.channels).div_ceil(8)), dim(Blocks::of(shape).count), 1])
}

/// The workgroups of the second.
pub(crate) fn combine_groups(shape: Shape) -> Groups {
    Groups::Exact([dim(vectors(shape.channels).div_ceil(8)), 1, 1])
}
