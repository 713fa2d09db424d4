//! `bn_backward`: the gradient of batch norm, of its scale and of its shift.

use super::channel_sums::{Blocks, combine_groups, partial_groups};
use super::{Dispatch, Groups, Kernel, Op, bytes_of, dim, twins, uniform};
use crate::recording::{Access, Recording, TensorId};
use crate::reference::bn_backward as twin;
use crate::tensor::{Shape, vectors};

uniform! {
    /// The uniform of `bn_backward`.
    BnBackward {
        /// T·B·H·W·⌈C/4⌉.
        count: u32,
        /// T·B·H·W.
        rows: u32,
        /// vec4f of a row.
        vectors: u32,
        /// Blocks of rows.
        blocks: u32,
        /// Rows of a block.
        block_rows: u32,
        /// 1 / n.
        inv_rows: f32,
    }
}

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    stem: "bn_backward",
    sources: &[
        include_str!("../../shaders/bn_backward.wgsl"),
        include_str!("../../shaders/lib/batch_norm.wgsl"),
        include_str!("../../shaders/lib/channel_sums.wgsl"),
    ],
    entries: &["partial", "combine", "batch", "batch_in_place", "frozen", "frozen_in_place"],
    bindings: &[
        ("g_x", Access::Read),
        ("y", Access::Read),
        ("mean", Access::Read),
        ("inv_std", Access::Read),
        ("gamma", Access::Read),
        ("beta", Access::Read),
        ("partials_out", Access::Write),
        ("partials", Access::Read),
        ("g_beta", Access::Write),
        ("g_gamma", Access::Write),
        ("sums_out", Access::Write),
        ("sums", Access::Read),
        ("g_y", Access::Write),
    ],
    uniform: BnBackward::LAYOUT,
    uniform_size: size_of::<BnBackward>(),
    constants: || [0.0, 1.0].map(|relu| vec![("RELU", relu)]).to_vec(),
};

fn sizes(shape: Shape) -> BnBackward {
    let (blocks, rows) = (Blocks::of(shape), shape.steps * shape.rows());
    BnBackward {
        count: dim(rows * vectors(shape.channels)),
        rows: dim(rows),
        vectors: dim(vectors(shape.channels)),
        blocks: dim(blocks.count),
        block_rows: dim(blocks.rows),
        inv_rows: 1.0 / rows as f32,
    }
}

/// What [`super::bn_apply::BnApplyOp`] was given, and the gradient of what it made.
#[derive(Clone, Copy, Debug)]
pub struct BnSaved {
    /// Gradient of the result, `[T, B, H, W, C]` real.
    pub g_x: TensorId,
    /// What was normalised, `[T, B, H, W, C]` real.
    pub y: TensorId,
    /// Mean of each channel, `[1, 1, 1, 1, C]` as the next three.
    pub mean: TensorId,
    /// 1 / √(variance + eps) of each channel.
    pub inv_std: TensorId,
    /// Scale.
    pub gamma: TensorId,
    /// Shift.
    pub beta: TensorId,
    /// Whether the normalised value was cut off below 0.
    pub relu: bool,
}

impl BnSaved {
    fn bindings(&self) -> Vec<(u32, TensorId)> {
        let ids = [self.g_x, self.y, self.mean, self.inv_std, self.gamma, self.beta];
        (0..).zip(ids).collect()
    }
}

/// First dispatch: partial sums of the shape [`super::channel_sums::partials`] gives.
#[derive(Clone, Debug)]
pub struct BnBackwardPartialOp {
    /// The layer.
    pub layer: String,
    /// The forward pass.
    pub saved: BnSaved,
    /// g_beta and g_gamma of each block of rows.
    pub partials: TensorId,
}

impl Op for BnBackwardPartialOp {
    fn kernel(&self) -> &'static Kernel {
        &KERNEL
    }

    fn layer(&self) -> &str {
        &self.layer
    }

    fn dispatch(&self, recording: &Recording) -> Dispatch {
        let shape = recording.get(self.saved.y).shape;
        let mut bindings = self.saved.bindings();
        bindings.push((6, self.partials));
        Dispatch {
            kernel: &KERNEL,
            entry: "partial",
            constants: vec![("RELU", self.saved.relu.into())],
            bindings,
            uniform: bytes_of(&sizes(shape)),
            groups: partial_groups(shape),
        }
    }

    twins!(twin::run_partial);
}

/// Second dispatch: the gradients of scale and shift, `[1, 1, 1, 1, C]`, and both as one tensor for the third.
#[derive(Clone, Debug)]
pub struct BnBackwardCombineOp {
    /// The layer.
    pub layer: String,
    /// The shape of y.
    pub shape: Shape,
    /// What [`BnBackwardPartialOp`] wrote.
    pub partials: TensorId,
    /// Gradient of the shift.
    pub g_beta: TensorId,
    /// Gradient of the scale.
    pub g_gamma: TensorId,
    /// Both, `[1, 1, 2, 1, C]`, the shift's first.
    pub sums: TensorId,
}

impl Op for BnBackwardCombineOp {
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
            constants: vec![("RELU", 0.0)],
            bindings: vec![(7, self.partials), (8, self.g_beta), (9, self.g_gamma), (10, self.sums)],
            uniform: bytes_of(&sizes(self.shape)),
            groups: combine_groups(self.shape),
        }
    }

    twins!(twin::run_combine);
}

/// Third dispatch: the gradient of y.
#[derive(Clone, Debug)]
pub struct BnBackwardApplyOp {
    /// The layer.
    pub layer: String,
    /// The forward pass.
    pub saved: BnSaved,
    /// What [`BnBackwardCombineOp`] wrote, if mean and inv_std were y's own; `None` where they were frozen.
    pub sums: Option<TensorId>,
    /// Gradient of y; where it is `saved.g_x`, it takes that one's place.
    pub g_y: TensorId,
}

impl Op for BnBackwardApplyOp {
    fn kernel(&self) -> &'static Kernel {
        &KERNEL
    }

    fn layer(&self) -> &str {
        &self.layer
    }

    fn dispatch(&self, recording: &Recording) -> Dispatch {
        let sizes = sizes(recording.get(self.saved.y).shape);
        let in_place = self.g_y == self.saved.g_x;
        let mut bindings = self.saved.bindings();
        bindings.retain(|&(_, id)| id != self.g_y);
        bindings.extend(self.sums.map(|sums| (11, sums)));
        bindings.push((12, self.g_y));
        Dispatch {
            kernel: &KERNEL,
            entry: match (self.sums, in_place) {
                (Some(_), false) => "batch",
                (Some(_), true) => "batch_in_place",
                (None, false) => "frozen",
                (None, true) => "frozen_in_place",
            },
            constants: vec![("RELU", self.saved.relu.into())],
            bindings,
            uniform: bytes_of(&sizes),
            groups: Groups::Line { n: u64::from(sizes.count.div_ceil(64)), z: 1 },
        }
    }

    twins!(twin::run_apply);
}
