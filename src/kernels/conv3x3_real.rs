//! `conv3x3_real`: 3×3 convolution (pad 1, stride 1) of real values with batch norm folded in; the first stage.

use super::{Arithmetic, Dispatch, Groups, Kernel, Op, bytes_of, dim, twins, uniform};
use crate::recording::{Access, Recording, TensorId};
use crate::reference::conv3x3_real as twin;
use crate::tensor::vectors;

uniform! {
    /// The uniform of `conv3x3_real`.
    Conv3x3Real {
        /// S·B·H·W.
        rows: u32,
        /// H.
        height: u32,
        /// W.
        width: u32,
        /// Input channels.
        channels_in: u32,
        /// Floats of an input row.
        x_stride: u32,
        /// vec4f of an output row.
        out_stride: u32,
        /// Row tiles.
        tiles: u32,
    }
}

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    stem: "conv3x3_real",
    sources: &[include_str!("../../shaders/conv3x3_real.wgsl")],
    entries: &["real"],
    bindings: &[
        ("x", Access::Read),
        ("weights", Access::Read),
        ("scale_shift", Access::Read),
        ("real_out", Access::Write),
    ],
    uniform: Conv3x3Real::LAYOUT,
    uniform_size: size_of::<Conv3x3Real>(),
    constants: || vec![vec![]],
};

/// Input `[S, B, H, W, I]` real, weights `[O, I, 3, 3]`.
#[derive(Clone, Debug)]
pub struct Conv3x3RealOp {
    /// The layer.
    pub layer: String,
    /// Real input.
    pub input: TensorId,
    /// [`pack_weights`] of this window.
    pub weights: TensorId,
    /// [`super::product::pack_scale_shift`] of this window.
    pub scale_shift: TensorId,
    /// The real output (one channel window).
    pub out: TensorId,
}

impl Op for Conv3x3RealOp {
    fn kernel(&self) -> &'static Kernel {
        &KERNEL
    }

    fn layer(&self) -> &str {
        &self.layer
    }

    fn dispatch(&self, recording: &Recording) -> Dispatch {
        let shape = recording.get(self.input).shape;
        let channels_out = recording.get(self.out).shape.channels;
        let rows = shape.steps * shape.rows();
        let tiles = rows.div_ceil(64);
        let conv = Conv3x3Real {
            rows: dim(rows),
            height: dim(shape.height),
            width: dim(shape.width),
            channels_in: dim(shape.channels),
            x_stride: dim(recording.get(self.input).row()),
            out_stride: dim(vectors(channels_out)),
            tiles: dim(tiles),
        };
        Dispatch {
            kernel: &KERNEL,
            entry: "real",
            constants: vec![],
            bindings: vec![(0, self.input), (1, self.weights), (2, self.scale_shift), (3, self.out)],
            uniform: bytes_of(&conv),
            groups: Groups::Line { n: tiles as u64, z: dim(channels_out.div_ceil(32)) },
        }
    }

    fn arithmetic(&self, recording: &Recording) -> Arithmetic {
        let (x, y) = (recording.get(self.input).shape, recording.get(self.out).shape);
        Arithmetic::real((9 * x.channels * x.steps * x.rows() * y.channels) as u64)
    }

    twins!(twin::run);
}

/// Weights `[O][I][9]` of the output channels `out` as the kernel reads them: `[O/32][K/32][32 k][32 o]`, k = tap · I + i,
/// zero padded.
pub fn pack_weights(weights: &[f32], out: std::ops::Range<usize>, inputs: usize) -> Vec<f32> {
    let chunks = (9 * inputs).div_ceil(32);
    let mut packed = vec![0.0; out.len().div_ceil(32) * chunks * 1024];
    for (o, row) in weights.chunks_exact(inputs * 9).take(out.end).skip(out.start).enumerate() {
        for (i, taps) in row.chunks_exact(9).enumerate() {
            for (tap, &w) in taps.iter().enumerate() {
                let k = tap * inputs + i;
                packed[(o / 32 * chunks * 32 + k) * 32 + o % 32] = w;
            }
        }
    }
    packed
}

/// The inverse of [`pack_weights`] for all of `outputs` channels: `[O][I][9]`.
pub fn unpack_weights(packed: &[f32], outputs: usize, inputs: usize) -> Vec<f32> {
    let chunks = (9 * inputs).div_ceil(32);
    let at = |o: usize, i: usize, tap: usize| packed[(o / 32 * chunks * 32 + tap * inputs + i) * 32 + o % 32];
    let all = (0..outputs).flat_map(|o| (0..inputs).flat_map(move |i| (0..9).map(move |tap| (o, i, tap))));
    all.map(|(o, i, tap)| at(o, i, tap)).collect()
}
