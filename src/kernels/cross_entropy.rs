//! `cross_entropy`: the loss of each image and the gradient of their mean.

use super::{Dispatch, Groups, Kernel, Op, bytes_of, dim, twins, uniform};
use crate::recording::{Access, Recording, TensorId};
use crate::reference::cross_entropy as twin;

uniform! {
    /// The uniform of `cross_entropy`.
    CrossEntropy {
        /// B.
        batch: u32,
        /// Number of classes.
        classes: u32,
        /// 1 / B.
        inv_batch: f32,
    }
}

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    stem: "cross_entropy",
    sources: &[include_str!("../../shaders/cross_entropy.wgsl")],
    entries: &["main"],
    bindings: &[
        ("logits", Access::Read),
        ("targets", Access::Read),
        ("loss_out", Access::Write),
        ("g_logits", Access::Write),
    ],
    uniform: CrossEntropy::LAYOUT,
    uniform_size: size_of::<CrossEntropy>(),
    constants: || vec![vec![]],
};

/// Logits, targets and g_logits `[B][classes]`, rows unpadded, loss `[B]`: real tensors `[1, 1, 1, 1, n]`.
#[derive(Clone, Debug)]
pub struct CrossEntropyOp {
    /// The layer.
    pub layer: String,
    /// Logits.
    pub logits: TensorId,
    /// The probability of each class that is aimed at; those of an image add up to 1.
    pub targets: TensorId,
    /// Loss of each image.
    pub loss: TensorId,
    /// Gradient of the mean loss.
    pub g_logits: TensorId,
    /// Number of images.
    pub batch: usize,
    /// Number of classes.
    pub classes: usize,
}

impl Op for CrossEntropyOp {
    fn kernel(&self) -> &'static Kernel {
        &KERNEL
    }

    fn layer(&self) -> &str {
        &self.layer
    }

    fn dispatch(&self, _: &Recording) -> Dispatch {
        let entropy =
            CrossEntropy { batch: dim(self.batch), classes: dim(self.classes), inv_batch: 1.0 / self.batch as f32 };
        Dispatch {
            kernel: &KERNEL,
            entry: "main",
            constants: vec![],
            bindings: vec![(0, self.logits), (1, self.targets), (2, self.loss), (3, self.g_logits)],
            uniform: bytes_of(&entropy),
            groups: Groups::Line { n: self.batch as u64, z: 1 },
        }
    }

    twins!(twin::run);
}
