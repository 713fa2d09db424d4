//! `bn_statistics`: mean and variance of each channel over a batch, and the running values that follow them.

use super::channel_sums::{Blocks, combine_groups, partial_groups};
use super::{Dispatch, Groups, Kernel, Op, bytes_of, dim, twins, uniform};
use crate::recording::{Access, Recording, TensorId};
use crate::reference::bn_statistics as twin;
use crate::tensor::{Shape, vectors};

uniform! {
    /// The uniform of `bn_statistics`.
    BnStatistics {
        /// T·B·H·W.
        rows: u32,
        /// vec4f of a row.
        vectors: u32,
        /// Blocks of rows.
        blocks: u32,
        /// Rows of a block.
        block_rows: u32,
        /// Added to the variance before its root.
        eps: f32,
        /// Weight of the batch in the running values.
        momentum: f32,
        /// n / (n - 1).
        unbias: f32,
    }
}

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    stem: "bn_statistics",
    sources: &[include_str!("../../shaders/bn_statistics.wgsl"), include_str!("../../shaders/lib/channel_sums.wgsl")],
    entries: &["partial", "combine", "running"],
    bindings: &[
        ("y", Access::Read),
        ("partials_out", Access::Write),
        ("partials", Access::Read),
        ("mean_out", Access::Write),
        ("variance_out", Access::Write),
        ("inv_std_out", Access::Write),
        ("mean", Access::Read),
        ("variance", Access::Read),
        ("running_mean", Access::Write),
        ("running_var", Access::Write),
    ],
    uniform: BnStatistics::LAYOUT,
    uniform_size: size_of::<BnStatistics>(),
    constants: || vec![vec![]],
};

fn statistics(shape: Shape) -> BnStatistics {
    let blocks = Blocks::of(shape);
    BnStatistics {
        rows: dim(shape.steps * shape.rows()),
        vectors: dim(vectors(shape.channels)),
        blocks: dim(blocks.count),
        block_rows: dim(blocks.rows),
        ..Default::default()
    }
}

/// n / (n - 1), which makes a biased variance unbiased; a single value's is left as it is.
pub fn unbias(n: usize) -> f32 {
    if n > 1 { (n as f64 / (n - 1) as f64) as f32 } else { 1.0 }
}

/// First dispatch: y `[T, B, H, W, C]` real into partial sums of the shape [`super::channel_sums::partials`] gives.
#[derive(Clone, Debug)]
pub struct BnStatisticsPartialOp {
    /// The layer.
    pub layer: String,
    /// What batch norm is given.
    pub y: TensorId,
    /// Mean and sum of squares of each block.
    pub partials: TensorId,
}

impl Op for BnStatisticsPartialOp {
    fn kernel(&self) -> &'static Kernel {
        &KERNEL
    }

    fn layer(&self) -> &str {
        &self.layer
    }

    fn dispatch(&self, recording: &Recording) -> Dispatch {
        let shape = recording.get(self.y).shape;
        Dispatch {
            kernel: &KERNEL,
            entry: "partial",
            constants: vec![],
            bindings: vec![(0, self.y), (1, self.partials)],
            uniform: bytes_of(&statistics(shape)),
            groups: partial_groups(shape),
        }
    }

    twins!(twin::run_partial);
}

/// Second dispatch: the partial sums into `[1, 1, 1, 1, C]` each.
#[derive(Clone, Debug)]
pub struct BnStatisticsCombineOp {
    /// The layer.
    pub layer: String,
    /// The shape of y.
    pub shape: Shape,
    /// What [`BnStatisticsPartialOp`] wrote.
    pub partials: TensorId,
    /// Mean.
    pub mean: TensorId,
    /// Biased variance.
    pub variance: TensorId,
    /// 1 / √(variance + eps).
    pub inv_std: TensorId,
    /// Added to the variance before its root.
    pub eps: f32,
}

impl Op for BnStatisticsCombineOp {
    fn kernel(&self) -> &'static Kernel {
        &KERNEL
    }

    fn layer(&self) -> &str {
        &self.layer
    }

    fn dispatch(&self, _: &Recording) -> Dispatch {
        Dispatch {
            kernel: &KERNEL,
            entry: "combine",
            constants: vec![],
            bindings: vec![(2, self.partials), (3, self.mean), (4, self.variance), (5, self.inv_std)],
            uniform: bytes_of(&BnStatistics { eps: self.eps, ..statistics(self.shape) }),
            groups: combine_groups(self.shape),
        }
    }

    twins!(twin::run_combine);
}

/// The running values, in place: they are read and written, so that an op or an upload must have written them before.
#[derive(Clone, Debug)]
pub struct BnRunningOp {
    /// The layer.
    pub layer: String,
    /// The shape of y.
    pub shape: Shape,
    /// The batch's mean.
    pub mean: TensorId,
    /// The batch's biased variance.
    pub variance: TensorId,
    /// Running mean.
    pub running_mean: TensorId,
    /// Running unbiased variance.
    pub running_var: TensorId,
    /// Weight of the batch.
    pub momentum: f32,
}

impl Op for BnRunningOp {
    fn kernel(&self) -> &'static Kernel {
        &KERNEL
    }

    fn layer(&self) -> &str {
        &self.layer
    }

    fn dispatch(&self, _: &Recording) -> Dispatch {
        let n = self.shape.steps * self.shape.rows();
        let bn = BnStatistics { momentum: self.momentum, unbias: unbias(n), ..statistics(self.shape) };
        Dispatch {
            kernel: &KERNEL,
            entry: "running",
            constants: vec![],
            bindings: vec![(6, self.mean), (7, self.variance), (8, self.running_mean), (9, self.running_var)],
            uniform: bytes_of(&bn),
            groups: Groups::Exact([dim(vectors(self.shape.channels).div_ceil(64)), 1, 1]),
        }
    }

    twins!(twin::run_running);
}
