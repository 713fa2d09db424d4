//! `accumulate`: a micro-batch's gradient added to those before it in a step, in place.

use super::step::groups;
use super::{Dispatch, Kernel, Op, bytes_of, dim, uniform};
use crate::recording::{Access, Recording, TensorId};
use crate::reference::{HostTensors, accumulate as twin};

uniform! {
    /// The uniform of `accumulate`.
    Accumulate {
        /// Elements of the shard.
        len: u32,
    }
}

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    stem: "accumulate",
    sources: &[include_str!("../../shaders/accumulate.wgsl"), include_str!("../../shaders/lib/step.wgsl")],
    entries: &["main"],
    bindings: &[("sum", Access::Write), ("g", Access::Read), ("scalars", Access::Read)],
    uniform: Accumulate::LAYOUT,
    uniform_size: size_of::<Accumulate>(),
    constants: || vec![vec![]],
};

/// Shards `[1, 1, 1, 1, len]` real.
#[derive(Clone, Debug)]
pub struct AccumulateOp {
    /// The layer.
    pub layer: String,
    /// The sum, in place; the first micro-batch of a step does not look at what it holds.
    pub sum: TensorId,
    /// The micro-batch's gradient.
    pub g: TensorId,
    /// A [`super::step::Step`].
    pub step: TensorId,
}

impl Op for AccumulateOp {
    fn kernel(&self) -> &'static Kernel {
        &KERNEL
    }

    fn layer(&self) -> &str {
        &self.layer
    }

    fn dispatch(&self, recording: &Recording) -> Dispatch {
        let len = recording.get(self.sum).shape.channels;
        Dispatch {
            kernel: &KERNEL,
            entry: "main",
            constants: vec![],
            bindings: vec![(0, self.sum), (1, self.g), (2, self.step)],
            uniform: bytes_of(&Accumulate { len: dim(len) }),
            groups: groups(len),
        }
    }

    fn reference(&self, host: &mut HostTensors) {
        twin::run(self, host);
    }
}
