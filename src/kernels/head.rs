//! `head`: the linear layer from firing rates to logits.

use super::{Arithmetic, Dispatch, Groups, Kernel, Op, bytes_of, dim, twins, uniform};
use crate::recording::{Access, Recording, TensorId};
use crate::reference::head as twin;

uniform! {
    /// The uniform of `head`.
    Head {
        /// B.
        batch: u32,
        /// D.
        channels: u32,
        /// Number of classes.
        classes: u32,
        /// Floats of a rate row.
        stride: u32,
    }
}

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    stem: "head",
    sources: &[include_str!("../../shaders/head.wgsl")],
    entries: &["main"],
    bindings: &[
        ("rate", Access::Read),
        ("weights", Access::Read),
        ("bias", Access::Read),
        ("logits_out", Access::Write),
    ],
    uniform: Head::LAYOUT,
    uniform_size: size_of::<Head>(),
    constants: || vec![vec![]],
};

/// Input `[1, B, 1, 1, D]` real, output logits `[B, classes]`, rows unpadded.
#[derive(Clone, Debug)]
pub struct HeadOp {
    /// The layer.
    pub layer: String,
    /// Firing rates.
    pub input: TensorId,
    /// `[D][classes]`.
    pub weights: TensorId,
    /// `[classes]`.
    pub bias: TensorId,
    /// Logits: a real tensor `[1, 1, 1, 1, B · classes]`.
    pub out: TensorId,
    /// Number of classes.
    pub classes: usize,
}

impl Op for HeadOp {
    fn kernel(&self) -> &'static Kernel {
        &KERNEL
    }

    fn layer(&self) -> &str {
        &self.layer
    }

    fn dispatch(&self, recording: &Recording) -> Dispatch {
        let input = recording.get(self.input);
        let head = Head {
            batch: dim(input.shape.batch),
            channels: dim(input.shape.channels),
            classes: dim(self.classes),
            stride: dim(input.row()),
        };
        Dispatch {
            kernel: &KERNEL,
            entry: "main",
            constants: vec![],
            bindings: vec![(0, self.input), (1, self.weights), (2, self.bias), (3, self.out)],
            uniform: bytes_of(&head),
            groups: Groups::Column { x: dim(self.classes.div_ceil(64)), n: input.shape.batch as u64 },
        }
    }

    fn arithmetic(&self, recording: &Recording) -> Arithmetic {
        let x = recording.get(self.input).shape;
        Arithmetic::real((x.batch * x.channels * self.classes) as u64)
    }

    twins!(twin::run);
}

/// A state_dict's `[rows][columns]` as the kernel reads it, `[columns][rows]`; applied with the other count, back again.
pub fn transpose_weights(weights: &[f32], rows: usize) -> Vec<f32> {
    let columns = weights.len() / rows.max(1);
    (0..columns).flat_map(|c| weights[c..].iter().step_by(columns).copied()).collect()
}
