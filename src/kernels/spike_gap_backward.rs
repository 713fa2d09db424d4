//! `spike_gap_backward`: the gradient of the mean of spikes over timesteps and tokens.

use super::{Dispatch, Groups, Kernel, Op, bytes_of, dim, twins, uniform};
use crate::recording::{Access, Recording, TensorId};
use crate::reference::spike_gap_backward as twin;

uniform! {
    /// The uniform of `spike_gap_backward`.
    SpikeGapBackward {
        /// T·B·N·⌈C/4⌉.
        count: u32,
        /// B.
        batch: u32,
        /// N.
        tokens: u32,
        /// vec4f of a token.
        vectors: u32,
        /// 1 / (T N).
        inv_count: f32,
    }
}

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    stem: "spike_gap_backward",
    sources: &[include_str!("../../shaders/spike_gap_backward.wgsl")],
    entries: &["main"],
    bindings: &[("g_rate", Access::Read), ("g_s", Access::Write)],
    uniform: SpikeGapBackward::LAYOUT,
    uniform_size: size_of::<SpikeGapBackward>(),
    constants: || vec![vec![]],
};

/// g_rate `[1, B, 1, 1, C]` real, g_s `[T, B, H, W, C]` real.
#[derive(Clone, Debug)]
pub struct SpikeGapBackwardOp {
    /// The layer.
    pub layer: String,
    /// Gradient of each channel's firing rate.
    pub g_rate: TensorId,
    /// Gradient of the spikes.
    pub g_s: TensorId,
}

impl Op for SpikeGapBackwardOp {
    fn kernel(&self) -> &'static Kernel {
        &KERNEL
    }

    fn layer(&self) -> &str {
        &self.layer
    }

    fn dispatch(&self, recording: &Recording) -> Dispatch {
        let g_s = recording.get(self.g_s);
        let shape = g_s.shape;
        let gap = SpikeGapBackward {
            count: dim(g_s.len() / 4),
            batch: dim(shape.batch),
            tokens: dim(shape.tokens()),
            vectors: dim(g_s.row() / 4),
            inv_count: 1.0 / (shape.steps * shape.tokens()) as f32,
        };
        Dispatch {
            kernel: &KERNEL,
            entry: "main",
            constants: vec![],
            bindings: vec![(0, self.g_rate), (1, self.g_s)],
            uniform: bytes_of(&gap),
            groups: Groups::Line { n: (g_s.len() / 4).div_ceil(64) as u64, z: 1 },
        }
    }

    twins!(twin::run);
}
