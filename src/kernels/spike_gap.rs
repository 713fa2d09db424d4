//! `spike_gap`: the mean of spikes over timesteps and tokens.

use super::{Dispatch, Groups, Kernel, Op, bytes_of, dim, twins, uniform};
use crate::recording::{Access, Recording, TensorId};
use crate::reference::spike_gap as twin;

uniform! {
    /// The uniform of `spike_gap`.
    SpikeGap {
        /// T.
        steps: u32,
        /// B.
        batch: u32,
        /// N.
        tokens: u32,
        /// Words of a token.
        words: u32,
        /// Floats of an output row.
        stride: u32,
        /// 1 / (T N).
        inv_count: f32,
    }
}

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    stem: "spike_gap",
    sources: &[include_str!("../../shaders/spike_gap.wgsl")],
    entries: &["main"],
    bindings: &[("spikes_in", Access::Read), ("rate_out", Access::Write)],
    uniform: SpikeGap::LAYOUT,
    uniform_size: size_of::<SpikeGap>(),
    constants: || vec![vec![]],
};

/// Input `[T, B, H, W, C]` packed, output `[1, B, 1, 1, C]` real.
#[derive(Clone, Debug)]
pub struct SpikeGapOp {
    /// The layer.
    pub layer: String,
    /// Packed spikes.
    pub input: TensorId,
    /// Firing rate of each channel.
    pub out: TensorId,
}

impl Op for SpikeGapOp {
    fn kernel(&self) -> &'static Kernel {
        &KERNEL
    }

    fn layer(&self) -> &str {
        &self.layer
    }

    fn dispatch(&self, recording: &Recording) -> Dispatch {
        let input = recording.get(self.input);
        let shape = input.shape;
        let gap = SpikeGap {
            steps: dim(shape.steps),
            batch: dim(shape.batch),
            tokens: dim(shape.tokens()),
            words: dim(input.row()),
            stride: dim(recording.get(self.out).row()),
            inv_count: 1.0 / (shape.steps * shape.tokens()) as f32,
        };
        Dispatch {
            kernel: &KERNEL,
            entry: "main",
            constants: vec![],
            bindings: vec![(0, self.input), (1, self.out)],
            uniform: bytes_of(&gap),
            groups: Groups::Column { x: dim(input.row()), n: shape.batch as u64 },
        }
    }

    twins!(twin::run);
}
