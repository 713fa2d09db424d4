//! `head_backward`: the gradient of the linear layer from firing rates to logits.

use super::{Arithmetic, Dispatch, Groups, Kernel, Op, bytes_of, dim, twins, uniform};
use crate::recording::{Access, Recording, TensorId};
use crate::reference::head_backward as twin;
use crate::tensor::{Shape, vectors};

uniform! {
    /// The uniform of `head_backward`.
    HeadBackward {
        /// B.
        batch: u32,
        /// D.
        channels: u32,
        /// Number of classes.
        classes: u32,
        /// vec4f of a rate row.
        vectors: u32,
    }
}

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    stem: "head_backward",
    sources: &[include_str!("../../shaders/head_backward.wgsl")],
    entries: &["of_weights", "of_input"],
    bindings: &[
        ("rate", Access::Read),
        ("weights", Access::Read),
        ("g_logits", Access::Read),
        ("g_weights", Access::Write),
        ("g_bias", Access::Write),
        ("g_rate", Access::Write),
    ],
    uniform: HeadBackward::LAYOUT,
    uniform_size: size_of::<HeadBackward>(),
    constants: || vec![vec![]],
};

fn sizes(rate: Shape, classes: usize) -> HeadBackward {
    HeadBackward {
        batch: dim(rate.batch),
        channels: dim(rate.channels),
        classes: dim(classes),
        vectors: dim(vectors(rate.channels)),
    }
}

/// The gradient of weights and bias.
#[derive(Clone, Debug)]
pub struct HeadWeightsBackwardOp {
    /// The layer.
    pub layer: String,
    /// Firing rates, `[1, B, 1, 1, D]` real.
    pub rate: TensorId,
    /// Gradient of the logits, `[B][classes]`.
    pub g_logits: TensorId,
    /// Gradient of the weights, `[D][classes]`.
    pub g_weights: TensorId,
    /// Gradient of the bias, `[classes]`.
    pub g_bias: TensorId,
    /// Number of classes.
    pub classes: usize,
}

impl Op for HeadWeightsBackwardOp {
    fn kernel(&self) -> &'static Kernel {
        &KERNEL
    }

    fn layer(&self) -> &str {
        &self.layer
    }

    fn dispatch(&self, recording: &Recording) -> Dispatch {
        let rate = recording.get(self.rate).shape;
        Dispatch {
            kernel: &KERNEL,
            entry: "of_weights",
            constants: vec![],
            bindings: vec![(0, self.rate), (2, self.g_logits), (3, self.g_weights), (4, self.g_bias)],
            uniform: bytes_of(&sizes(rate, self.classes)),
            groups: Groups::Column { x: dim(self.classes.div_ceil(64)), n: vectors(rate.channels) as u64 + 1 },
        }
    }

    fn arithmetic(&self, recording: &Recording) -> Arithmetic {
        let rate = recording.get(self.rate).shape;
        Arithmetic::real((rate.batch * rate.channels * self.classes) as u64)
    }

    twins!(twin::run_weights);
}

/// The gradient of the firing rates.
#[derive(Clone, Debug)]
pub struct HeadInputBackwardOp {
    /// The layer.
    pub layer: String,
    /// `[D][classes]`.
    pub weights: TensorId,
    /// Gradient of the logits, `[B][classes]`.
    pub g_logits: TensorId,
    /// Gradient of the firing rates, `[1, B, 1, 1, D]` real.
    pub g_rate: TensorId,
    /// Number of classes.
    pub classes: usize,
}

impl Op for HeadInputBackwardOp {
    fn kernel(&self) -> &'static Kernel {
        &KERNEL
    }

    fn layer(&self) -> &str {
        &self.layer
    }

    fn dispatch(&self, recording: &Recording) -> Dispatch {
        let rate = recording.get(self.g_rate).shape;
        Dispatch {
            kernel: &KERNEL,
            entry: "of_input",
            constants: vec![],
            bindings: vec![(1, self.weights), (2, self.g_logits), (5, self.g_rate)],
            uniform: bytes_of(&sizes(rate, self.classes)),
            groups: Groups::Column { x: dim(vectors(rate.channels)), n: rate.batch as u64 },
        }
    }

    fn arithmetic(&self, recording: &Recording) -> Arithmetic {
        let rate = recording.get(self.g_rate).shape;
        Arithmetic::real((rate.batch * rate.channels * self.classes) as u64)
    }

    twins!(twin::run_input);
}
