//! The classification head: the mean firing rate of every channel, then a linear layer.

use std::sync::Arc;

use super::{RealTensor, Recorder};
use crate::insight::anatomy::{Layer, LayerKind};
use crate::kernels::head::{HeadOp, transpose_weights};
use crate::kernels::neuron::Neuron;
use crate::kernels::spike_gap::SpikeGapOp;
use crate::recording::Constant;
use crate::reference::head::head;
use crate::tensor::{Element, Shape};

/// `logits = mean_t FC(mean_n S)` with `S = LIF(U)`; both means are taken before FC, with which they commute.
#[derive(Debug)]
pub struct Head {
    weights: Arc<Constant>,
    bias: Arc<Constant>,
    classes: usize,
    neuron: Neuron,
}

impl Head {
    /// `weights` `[classes][D]`, `bias` `[classes]`.
    pub fn new(weights: &[f32], bias: &[f32], neuron: Neuron) -> Self {
        let classes = bias.len();
        let transposed = transpose_weights(weights, classes);
        Head {
            weights: Arc::new(Constant { name: "head weights".to_owned(), data: transposed.into() }),
            bias: Arc::new(Constant { name: "head bias".to_owned(), data: bias.into() }),
            classes,
            neuron,
        }
    }

    /// What it is.
    pub(crate) fn describe(&self) -> Layer {
        let weights = self.weights.data.len() as u64;
        Layer {
            name: "head".to_owned(),
            kind: LayerKind::Head { inputs: self.weights.data.len() / self.classes.max(1), classes: self.classes },
            weights,
            zeros: self.weights.data.iter().filter(|&&w| w == 0.0).count() as u64,
            bytes: 4 * (weights + self.classes as u64),
        }
    }

    /// The logits of an image whose channels fired `counts` times at `places` tokens and timesteps, in the kernel's order.
    pub(crate) fn read_out(&self, counts: &[u64], places: usize) -> Vec<f32> {
        let inv_count = 1.0 / places as f32;
        let rates: Vec<f32> = counts.iter().map(|&n| n as f32 * inv_count).collect();
        let mut logits = vec![0.0; self.classes];
        head(&rates, rates.len(), rates.len(), &self.weights.data, &self.bias.data, self.classes, &mut logits);
        logits
    }

    /// Records the head on the last residual membrane; the logits are the output `logits`, `[B · classes]`.
    pub fn record(&self, r: &mut Recorder, u: &RealTensor) {
        let shape = u.shape;
        let s = r.lif("head_lif", u, shape.steps, self.neuron, Element::Spikes);
        r.census(s, true, false, true);
        let a_row = Shape { steps: 1, height: 1, width: 1, ..shape };
        let rate = r.recording.tensor("head rate", Element::Real, a_row);
        r.recording.push(SpikeGapOp { layer: "head".to_owned(), input: s, out: rate });
        let flat = Shape { batch: 1, channels: shape.batch * self.classes, ..a_row };
        let logits = r.recording.tensor("logits", Element::Real, flat);
        let (weights, bias) = (r.recording.constant(&self.weights), r.recording.constant(&self.bias));
        let layer = "head".to_owned();
        r.recording.push(HeadOp { layer, input: rate, weights, bias, out: logits, classes: self.classes });
        r.recording.output("logits", &[logits]);
    }
}
