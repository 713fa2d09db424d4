//! What a run gives back, out of the layouts that the kernels use.

use crate::insight::counts::{ChannelCounts, Counts};
use crate::kernels::spike_count::PARTIALS;
use crate::recording::{Recording, TensorId};
use crate::tensor::{Element, Shape, words};

/// A tensor's elements in its own layout.
#[derive(Clone, Debug, PartialEq)]
pub enum Raw {
    /// Rows padded to a multiple of four.
    Real(Vec<f32>),
    /// Words of 32 channels.
    Packed(Vec<u32>),
}

/// A tensor's values without padding, channel-last.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// Real values.
    Real(Vec<f32>),
    /// 0 or 1.
    Spikes(Vec<u8>),
    /// -1, 0 or 1.
    Ternary(Vec<i8>),
}

/// A tensor that was read back.
#[derive(Clone, Debug, PartialEq)]
pub struct OutputTensor {
    /// Its name, as in a trace file.
    pub name: String,
    /// `[T, B, H, W, C]`.
    pub shape: Shape,
    /// Its values in that order.
    pub values: Values,
}

impl OutputTensor {
    /// Its values as `[T, B, C, H, W]`, the order of a trace file.
    pub fn channel_first(&self) -> Values {
        fn moved<X: Copy>(x: &[X], s: Shape) -> Vec<X> {
            let images = x.chunks_exact((s.tokens() * s.channels).max(1));
            images
                .flat_map(|image| (0..s.channels).flat_map(move |c| image[c..].iter().step_by(s.channels).copied()))
                .collect()
        }
        match &self.values {
            Values::Real(v) => Values::Real(moved(v, self.shape)),
            Values::Spikes(v) => Values::Spikes(moved(v, self.shape)),
            Values::Ternary(v) => Values::Ternary(moved(v, self.shape)),
        }
    }
}

/// Spikes counted in one layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerCount {
    /// The layer, e.g. `block.0.attn.q_lif`.
    pub layer: String,
    /// Spikes over the batch and all timesteps; a ternary spike of either sign counts one.
    pub spikes: u64,
    /// Neurons × timesteps × images.
    pub possible: u64,
}

impl LayerCount {
    /// Spikes per neuron and timestep.
    pub fn rate(&self) -> f64 {
        self.spikes as f64 / (self.possible as f64).max(1.0)
    }
}

/// The classes of one image's logits, the most likely first; equal ones in their order.
pub fn ranked(logits: &[f32]) -> Vec<usize> {
    let mut classes: Vec<usize> = (0..logits.len()).collect();
    classes.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
    classes
}

/// The softmax of one image's logits.
pub fn probabilities(logits: &[f32]) -> Vec<f64> {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weights: Vec<f64> = logits.iter().map(|&x| libm::exp((x - most).into())).collect();
    let sum: f64 = weights.iter().sum();
    weights.into_iter().map(|w| w / sum).collect()
}

/// Everything a run gives back.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outputs {
    /// The tensors that the recording marks as outputs.
    pub tensors: Vec<OutputTensor>,
    /// Spikes by layer, if the recording counts them.
    pub counts: Vec<LayerCount>,
    /// The census and the head's spikes, if the recording has one.
    pub census: Option<(Counts, ChannelCounts)>,
}

impl Outputs {
    /// Reads every output of `recording` through `raw`.
    pub(crate) fn read(recording: &Recording, mut raw: impl FnMut(TensorId) -> Raw) -> Self {
        let tensors = recording
            .outputs
            .iter()
            .map(|output| {
                let windows: Vec<OutputTensor> =
                    output.windows.iter().map(|&id| unpack(recording, id, &output.name, raw(id))).collect();
                join(windows, &output.name)
            })
            .collect();
        let census = Counts::read(recording, &mut raw);
        let counts = match recording.counts.map(raw) {
            Some(Raw::Packed(partials)) => recording
                .counted
                .iter()
                .zip(partials.chunks_exact(PARTIALS))
                .map(|((layer, possible), partials)| LayerCount {
                    layer: layer.clone(),
                    spikes: partials.iter().map(|&n| u64::from(n)).sum(),
                    possible: *possible,
                })
                .collect(),
            _ => census.as_ref().map(|(counts, _)| counts.layer_counts()).unwrap_or_default(),
        };
        Outputs { tensors, counts, census }
    }

    /// The values of the real output of that name; empty if there is none.
    pub(crate) fn reals(&self, name: &str) -> &[f32] {
        match self.get(name).map(|t| &t.values) {
            Some(Values::Real(values)) => values,
            _ => &[],
        }
    }

    /// The output of that name.
    pub fn get(&self, name: &str) -> Option<&OutputTensor> {
        self.tensors.iter().find(|t| t.name == name)
    }
}

fn unpack(recording: &Recording, id: TensorId, name: &str, raw: Raw) -> OutputTensor {
    let tensor = recording.get(id);
    let (row, channels) = (tensor.row().max(1), tensor.shape.channels);
    let values = match (&raw, tensor.element) {
        (Raw::Real(v), _) => Values::Real(v.chunks_exact(row).flat_map(|r| &r[..channels]).copied().collect()),
        (Raw::Packed(v), Element::Ternary) => {
            let plane = words(channels);
            let sign = |r: &[u32], c: usize| bit(r, c) as i8 - bit(&r[plane..], c) as i8;
            Values::Ternary(v.chunks_exact(row).flat_map(|r| (0..channels).map(move |c| sign(r, c))).collect())
        }
        (Raw::Packed(v), _) => {
            Values::Spikes(v.chunks_exact(row).flat_map(|r| (0..channels).map(move |c| bit(r, c))).collect())
        }
    };
    OutputTensor { name: name.to_owned(), shape: tensor.shape, values }
}

fn bit(row: &[u32], channel: usize) -> u8 {
    (row[channel / 32] >> (channel % 32) & 1) as u8
}

/// Puts channel windows side by side.
fn join(mut windows: Vec<OutputTensor>, name: &str) -> OutputTensor {
    if windows.len() == 1 {
        return windows.remove(0);
    }
    let channels = windows.iter().map(|w| w.shape.channels).sum();
    let shape = windows.first().map_or(Shape { steps: 0, batch: 0, height: 0, width: 0, channels: 0 }, |w| w.shape);
    let shape = shape.with_channels(channels);
    let mut joined = Vec::with_capacity(shape.steps * shape.rows() * channels);
    for row in 0..shape.steps * shape.rows() {
        for w in &windows {
            if let Values::Real(v) = &w.values {
                joined.extend_from_slice(&v[row * w.shape.channels..(row + 1) * w.shape.channels]);
            }
        }
    }
    OutputTensor { name: name.to_owned(), shape, values: Values::Real(joined) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_ranked_and_weighed() {
        assert_eq!(ranked(&[0.0, 2.0, -1.0, 2.0]), [1, 3, 0, 2]);
        let found = probabilities(&[1000.0, 1000.0, f32::MIN]);
        assert_eq!(found, [0.5, 0.5, 0.0]);
        assert!((probabilities(&[0.0, 1.0])[1] - 1.0 / (1.0 + (-1f64).exp())).abs() < 1e-15);
    }
}
