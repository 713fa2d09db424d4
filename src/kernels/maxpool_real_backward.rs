//! `maxpool_real_backward`: the gradient of the 3×3 stride-2 pad-1 max-pool of real values.

use super::maxpool_backward::{MaxpoolBackward, dispatch};
use super::{Dispatch, Kernel, Op, twins};
use crate::recording::{Access, Recording, TensorId};
use crate::reference::maxpool_real_backward as twin;

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    stem: "maxpool_real_backward",
    sources: &[
        include_str!("../../shaders/maxpool_real_backward.wgsl"),
        include_str!("../../shaders/lib/maxpool_backward.wgsl"),
    ],
    entries: &["main"],
    bindings: &[("x", Access::Read), ("g_y", Access::Read), ("g_x", Access::Write)],
    uniform: MaxpoolBackward::LAYOUT,
    uniform_size: size_of::<MaxpoolBackward>(),
    constants: || vec![vec![]],
};

/// Input `[T, B, H, W, C]` real values, g_y `[T, B, ⌈H/2⌉, ⌈W/2⌉, C]` real, g_x `[T, B, H, W, C]` real.
#[derive(Clone, Debug)]
pub struct MaxpoolRealBackwardOp {
    /// The layer.
    pub layer: String,
    /// The pool's input: real values.
    pub input: TensorId,
    /// Gradient of the pool's output.
    pub g_y: TensorId,
    /// Gradient of the pool's input.
    pub g_x: TensorId,
}

impl Op for MaxpoolRealBackwardOp {
    fn kernel(&self) -> &'static Kernel {
        &KERNEL
    }

    fn layer(&self) -> &str {
        &self.layer
    }

    fn dispatch(&self, recording: &Recording) -> Dispatch {
        let (uniform, groups) = dispatch(recording.get(self.input).shape);
        Dispatch {
            kernel: &KERNEL,
            entry: "main",
            constants: vec![],
            bindings: vec![(0, self.input), (1, self.g_y), (2, self.g_x)],
            uniform,
            groups,
        }
    }

    twins!(twin::run);
}
