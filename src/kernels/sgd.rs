//! `sgd`: one step of SGD with momentum on a flat shard of parameters, in place.

use super::step::groups;
use super::{Dispatch, Kernel, Op, bytes_of, dim, uniform};
use crate::recording::{Access, Recording, TensorId};
use crate::reference::{HostTensors, sgd as twin};

uniform! {
    /// The uniform of `sgd`.
    Sgd {
        /// Elements of the shard.
        len: u32,
        /// How many of them, from the first, decay.
        decayed: u32,
        /// Momentum.
        momentum: f32,
    }
}

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    stem: "sgd",
    sources: &[include_str!("../../shaders/sgd.wgsl"), include_str!("../../shaders/lib/step.wgsl")],
    entries: &["main"],
    bindings: &[
        ("p", Access::Write),
        ("b", Access::Write),
        ("g", Access::Read),
        ("scalars", Access::Read),
        ("clip", Access::Read),
    ],
    uniform: Sgd::LAYOUT,
    uniform_size: size_of::<Sgd>(),
    constants: || vec![vec![("NESTEROV", 0.0)], vec![("NESTEROV", 1.0)]],
};

/// Shards `[1, 1, 1, 1, len]` real, each a buffer of its own. Those in place are read and written, so that an op or an upload
/// must have written them before.
#[derive(Clone, Debug)]
pub struct SgdOp {
    /// The layer.
    pub layer: String,
    /// The parameters, in place.
    pub p: TensorId,
    /// The momentum buffer, in place; it starts at 0.
    pub b: TensorId,
    /// The gradient.
    pub g: TensorId,
    /// A [`super::step::Step`].
    pub step: TensorId,
    /// A [`super::step::Clip`].
    pub clip: TensorId,
    /// How many elements, from the first, decay.
    pub decayed: usize,
    /// How much of the buffer stays.
    pub momentum: f32,
    /// Whether the step looks ahead by the momentum it has just gained.
    pub nesterov: bool,
}

impl Op for SgdOp {
    fn kernel(&self) -> &'static Kernel {
        &KERNEL
    }

    fn layer(&self) -> &str {
        &self.layer
    }

    fn dispatch(&self, recording: &Recording) -> Dispatch {
        let len = recording.get(self.p).shape.channels;
        Dispatch {
            kernel: &KERNEL,
            entry: "main",
            constants: vec![("NESTEROV", self.nesterov.into())],
            bindings: vec![(0, self.p), (1, self.b), (2, self.g), (3, self.step), (4, self.clip)],
            uniform: bytes_of(&Sgd { len: dim(len), decayed: dim(self.decayed), momentum: self.momentum }),
            groups: groups(len),
        }
    }

    fn reference(&self, host: &mut HostTensors) {
        twin::run(self, host);
    }
}
