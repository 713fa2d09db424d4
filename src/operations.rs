//! What a run of a spiking model computed, and what it would cost in energy.
//!
//! Counted are the sums that the products of the model's equations have, whichever kernel computes them: a spike adds one
//! weight to each sum that it takes part in (a synaptic operation), and what is silent adds nothing. Real factors are multiplied
//! and added: in the first convolution, whose input is an image, and in the head, which weighs firing rates. Batch norm is folded
//! and, like neurons, residuals and pools, works once an element; it is not counted on either side.

use std::collections::HashMap;

use crate::Result;
use crate::gpu::Limits;
use crate::layers::Options;
use crate::model::{InputShape, Model};
use crate::outputs::{OutputTensor, Values};
use crate::recording::{Access, TensorId};
use crate::reference::maxpool_spike::maxpool_bytes;
use crate::tensor::Shape;

/// Energy of a 32-bit floating-point addition in 45 nm, in pJ (Horowitz, ISSCC 2014).
pub const ADDITION_PJ: f64 = 0.9;
/// Energy of a 32-bit floating-point multiplication and addition in 45 nm, in pJ (the same).
pub const MULTIPLY_ADD_PJ: f64 = 4.6;

/// The operations of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Operations {
    /// Additions that spikes selected: synaptic operations. A convolution's taps outside the grid select nothing.
    pub additions: u64,
    /// Multiplications and additions of real factors: the first convolution and the head.
    pub multiply_adds: u64,
    /// Multiplications and additions of a network of the same layers whose activations are real, in one pass: no timesteps for
    /// an image, each frame of a sequence once.
    pub dense_multiply_adds: u64,
}

impl Operations {
    /// Energy of the spiking model's operations, in pJ; memory is not in it.
    pub fn spiking_pj(&self) -> f64 {
        self.additions as f64 * ADDITION_PJ + self.multiply_adds as f64 * MULTIPLY_ADD_PJ
    }

    /// Energy of the dense network's operations, in pJ.
    pub fn dense_pj(&self) -> f64 {
        self.dense_multiply_adds as f64 * MULTIPLY_ADD_PJ
    }
}

/// Counts the operations of a run of `model` on an input of `shape` from its trace.
///
/// # Errors
/// As [`Model::record`]; [`crate::Error::Input`] where the trace is not of such a run.
pub fn operations(model: &Model, shape: InputShape, trace: &[OutputTensor]) -> Result<Operations> {
    let options = Options { trace: true, ..Options::default() };
    let recording = model.record(shape, options, Limits::of_the_host())?;
    let mut fired: HashMap<TensorId, Vec<u8>> = HashMap::new();
    for output in &recording.outputs {
        let Some(values) = trace.iter().find(|t| t.name == output.name).map(|t| &t.values) else { continue };
        let spikes = match values {
            Values::Spikes(v) => v.clone(),
            Values::Ternary(v) => v.iter().map(|s| s.unsigned_abs()).collect(),
            Values::Real(_) => continue,
        };
        fired.insert(output.windows[0], spikes);
    }
    let passes = if shape.sequence { 1 } else { shape.timesteps as u64 };
    let mut sums = Operations::default();
    for op in recording.ops() {
        if op.kernel().stem == "maxpool_spike" {
            pool(op.operands(&recording), &recording, &mut fired);
        }
        let real = op.arithmetic(&recording).multiply_adds;
        // Of nine taps those within the grid; the head has no others.
        let real = match op.kernel().stem {
            "conv3x3_real" => {
                let of = op.operands(&recording).into_iter().find(|o| o.1 == Access::Write);
                let grid = of.map_or(Shape { steps: 1, batch: 1, height: 1, width: 1, channels: 1 }, |o| {
                    recording.get(o.0).shape
                });
                real / 9 / (grid.tokens() as u64).max(1) * taps(grid)
            }
            _ => real,
        };
        sums.multiply_adds += real;
        sums.dense_multiply_adds += real;
        for fan_out in op.fan_out(&recording) {
            let grid = recording.get(fan_out.spikes).shape;
            let all = (grid.steps * grid.batch * fan_out.channels.len()) as u64 * fan_out.additions;
            let positions = if fan_out.conv3x3 { taps(grid) } else { grid.tokens() as u64 };
            sums.dense_multiply_adds += all * positions / passes;
            let missing =
                || crate::Error::Input(format!("the trace has no spikes of `{}`", recording.get(fan_out.spikes).name));
            let spikes = fired.get(&fan_out.spikes).ok_or_else(missing)?;
            let selected: u64 = spikes
                .chunks_exact(grid.channels)
                .enumerate()
                .map(|(row, spikes)| {
                    let n: u64 = spikes[fan_out.channels.clone()].iter().map(|&s| u64::from(s)).sum();
                    let token = row % grid.tokens();
                    n * if fan_out.conv3x3 {
                        taps_of(token / grid.width, grid.height) * taps_of(token % grid.width, grid.width)
                    } else {
                        1
                    }
                })
                .sum();
            sums.additions += selected * fan_out.additions;
        }
    }
    Ok(sums)
}

/// How many of three neighbours along one side lie within it.
fn taps_of(at: usize, side: usize) -> u64 {
    1 + u64::from(at > 0) + u64::from(at + 1 < side)
}

/// The taps within the grid, of all positions.
fn taps(grid: Shape) -> u64 {
    let along = |side: usize| (0..side).map(|at| taps_of(at, side)).sum::<u64>();
    along(grid.height) * along(grid.width)
}

/// The spikes after a pool, which no trace holds.
fn pool(
    operands: Vec<(TensorId, Access)>,
    recording: &crate::recording::Recording,
    fired: &mut HashMap<TensorId, Vec<u8>>,
) {
    let of = |access: Access| operands.iter().find(|o| o.1 == access).map(|o| o.0);
    let (Some(input), Some(out)) = (of(Access::Read), of(Access::Write)) else { return };
    let Some(spikes) = fired.get(&input) else { return };
    let (from, to) = (recording.get(input).shape, recording.get(out).shape);
    let mut pooled = vec![0; to.steps * to.rows() * to.channels];
    maxpool_bytes(spikes, from.height, from.width, from.channels, &mut pooled);
    fired.insert(out, pooled);
}
