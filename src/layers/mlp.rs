//! The spiking MLP: two linear layers on spikes around the membrane residual.

use super::conv_bn::ConvBn;
use super::{RealTensor, Recorder};
use crate::kernels::neuron::Neuron;
use crate::tensor::Element;

/// `U'' = BN(W2 · LIF(BN(W1 S + b1)) + b2) + U'` with `S = LIF(U')`.
#[derive(Debug)]
pub struct Mlp {
    /// `block.<n>.mlp`.
    pub name: String,
    /// To the hidden width.
    pub fc1: ConvBn,
    /// And back.
    pub fc2: ConvBn,
    /// Its neurons.
    pub neuron: Neuron,
}

impl Mlp {
    /// Records the layer on the residual membrane `u`.
    pub fn record(&self, r: &mut Recorder, u: &RealTensor) -> RealTensor {
        let name = &self.name;
        let s = r.lif(&format!("{name}.fc1_lif"), u, u.shape.steps, self.neuron, Element::Spikes);
        let hidden = self.fc1.record_fire(r, s, &format!("{name}.fc2_lif"), self.neuron, Element::Spikes);
        let u = self.fc2.record_residual(r, hidden, u);
        r.trace(format!("u.{name}"), &u);
        u
    }
}
