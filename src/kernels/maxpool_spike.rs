//! `maxpool_spike`: 3×3 stride-2 pad-1 max-pool of packed spikes.

use super::{Dispatch, Groups, Kernel, Op, bytes_of, dim, twins, uniform};
use crate::recording::{Access, Recording, TensorId};
use crate::reference::maxpool_spike as twin;

uniform! {
    /// The uniform of `maxpool_spike`.
    MaxpoolSpike {
        /// T·B·H_out·W_out·words.
        words_out: u32,
        /// H of the input.
        height: u32,
        /// W of the input.
        width: u32,
        /// Words of a token.
        words: u32,
    }
}

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    stem: "maxpool_spike",
    sources: &[include_str!("../../shaders/maxpool_spike.wgsl")],
    entries: &["main"],
    bindings: &[("spikes_in", Access::Read), ("spikes_out", Access::Write)],
    uniform: MaxpoolSpike::LAYOUT,
    uniform_size: size_of::<MaxpoolSpike>(),
    constants: || vec![vec![]],
};

/// Input `[T, B, H, W, C]` packed, output `[T, B, ⌈H/2⌉, ⌈W/2⌉, C]` packed.
#[derive(Clone, Debug)]
pub struct MaxpoolSpikeOp {
    /// The layer.
    pub layer: String,
    /// Packed spikes.
    pub input: TensorId,
    /// Packed spikes.
    pub out: TensorId,
}

impl Op for MaxpoolSpikeOp {
    fn kernel(&self) -> &'static Kernel {
        &KERNEL
    }

    fn layer(&self) -> &str {
        &self.layer
    }

    fn dispatch(&self, recording: &Recording) -> Dispatch {
        let input = recording.get(self.input);
        let words_out = recording.get(self.out).len();
        let pool = MaxpoolSpike {
            words_out: dim(words_out),
            height: dim(input.shape.height),
            width: dim(input.shape.width),
            words: dim(input.row()),
        };
        Dispatch {
            kernel: &KERNEL,
            entry: "main",
            constants: vec![],
            bindings: vec![(0, self.input), (1, self.out)],
            uniform: bytes_of(&pool),
            groups: Groups::Line { n: words_out.div_ceil(64) as u64, z: 1 },
        }
    }

    twins!(twin::run);
}
