//! `linear_spike_backward`: the gradients of the weights and of the input of `linear_spike`.

use super::Kernel;
use super::product_backward::{self, CombineBackward, InputBackward, ProductBackward, WeightsBackward, backward_op};
use crate::reference::linear_spike_backward as twin;
use crate::tensor::words;

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    stem: "linear_spike_backward",
    sources: &[
        include_str!("../../shaders/linear_spike_backward.wgsl"),
        include_str!("../../shaders/lib/product_backward.wgsl"),
        include_str!("../../shaders/lib/spike_gradient.wgsl"),
        include_str!("../../shaders/lib/dense_product.wgsl"),
    ],
    entries: product_backward::ENTRIES,
    bindings: product_backward::BINDINGS,
    uniform: ProductBackward::LAYOUT,
    uniform_size: size_of::<ProductBackward>(),
    constants: product_backward::constants,
};

backward_op! {
    /// The gradient of the weights, in splits of the rows.
    LinearSpikeWeights(WeightsBackward),
    |op, recording| op.dispatch(&KERNEL, recording, words, 2),
    twin::weights
}

backward_op! {
    /// The sum of the splits.
    LinearSpikeCombine(CombineBackward),
    |op, recording| op.dispatch(&KERNEL, recording),
    twin::combine
}

backward_op! {
    /// The gradient of the input.
    LinearSpikeInput(InputBackward),
    |op, recording| op.dispatch(&KERNEL, recording),
    twin::input
}
