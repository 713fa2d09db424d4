//! `ema`: an exponential moving average of a flat shard of parameters, in place.

use super::step::groups;
use super::{Dispatch, Kernel, Op, bytes_of, dim, uniform};
use crate::recording::{Access, Recording, TensorId};
use crate::reference::{HostTensors, ema as twin};

uniform! {
    /// The uniform of `ema`.
    Ema {
        /// Elements of the shard.
        len: u32,
    }
}

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    stem: "ema",
    sources: &[include_str!("../../shaders/ema.wgsl"), include_str!("../../shaders/lib/step.wgsl")],
    entries: &["main"],
    bindings: &[("e", Access::Write), ("p", Access::Read), ("scalars", Access::Read)],
    uniform: Ema::LAYOUT,
    uniform_size: size_of::<Ema>(),
    constants: || vec![vec![]],
};

/// Shards `[1, 1, 1, 1, len]` real.
#[derive(Clone, Debug)]
pub struct EmaOp {
    /// The layer.
    pub layer: String,
    /// The average, in place; it starts as the parameters.
    pub e: TensorId,
    /// The parameters.
    pub p: TensorId,
    /// A [`super::step::Step`].
    pub step: TensorId,
}

impl Op for EmaOp {
    fn kernel(&self) -> &'static Kernel {
        &KERNEL
    }

    fn layer(&self) -> &str {
        &self.layer
    }

    fn dispatch(&self, recording: &Recording) -> Dispatch {
        let len = recording.get(self.e).shape.channels;
        Dispatch {
            kernel: &KERNEL,
            entry: "main",
            constants: vec![],
            bindings: vec![(0, self.e), (1, self.p), (2, self.step)],
            uniform: bytes_of(&Ema { len: dim(len) }),
            groups: groups(len),
        }
    }

    fn reference(&self, host: &mut HostTensors) {
        twin::run(self, host);
    }
}
