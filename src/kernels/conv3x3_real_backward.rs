//! `conv3x3_real_backward`: the gradient of the weights of `conv3x3_real`.

use super::Kernel;
use super::product_backward::{self, CombineBackward, ProductBackward, WeightsBackward, backward_op};
use crate::recording::Access;
use crate::reference::conv3x3_real_backward as twin;

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    stem: "conv3x3_real_backward",
    sources: &[
        include_str!("../../shaders/conv3x3_real_backward.wgsl"),
        include_str!("../../shaders/lib/product_backward.wgsl"),
    ],
    entries: &["weights", "combine"],
    bindings: &[
        ("x_in", Access::Read),
        ("gradient_in", Access::Read),
        ("partials_in", Access::Read),
        ("weights_out", Access::Write),
    ],
    uniform: ProductBackward::LAYOUT,
    uniform_size: size_of::<ProductBackward>(),
    constants: product_backward::constants,
};

backward_op! {
    /// The gradient of the weights, in splits of the rows; the input has the gradient's timesteps or one that stands for all.
    Conv3x3RealWeights(WeightsBackward),
    |op, recording| op.dispatch(&KERNEL, recording, |inputs| (9 * inputs).div_ceil(32), 1),
    twin::weights
}

backward_op! {
    /// The sum of the splits.
    Conv3x3RealCombine(CombineBackward),
    |op, recording| op.dispatch(&KERNEL, recording),
    twin::combine
}
