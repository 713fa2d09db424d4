//! The LIF neuron's parameters as every kernel and twin takes them (equations: `shaders/lib/neuron.wgsl`).

use super::Constants;

/// A leaky integrate-and-fire neuron, binary or ternary.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Neuron {
    /// Firing threshold, > 0.
    pub v_threshold: f32,
    /// Reset potential; `None` is the soft reset.
    pub v_reset: Option<f32>,
    /// Membrane time constant τ ≥ 1, in timesteps.
    pub tau: f32,
    /// Whether the input is divided by τ too.
    pub decay_input: bool,
}

impl Neuron {
    pub(crate) fn constants(&self) -> Constants {
        vec![("DECAY_INPUT", self.decay_input.into()), ("SOFT_RESET", self.v_reset.is_none().into())]
    }

    /// Every set of constants that a neuron can ask for.
    pub(crate) fn all_constants() -> Vec<Constants> {
        let both = [0.0, 1.0];
        both.iter().flat_map(|&d| both.map(|s| vec![("DECAY_INPUT", d), ("SOFT_RESET", s)])).collect()
    }

    /// The potential the membrane starts from.
    pub fn start(&self) -> f32 {
        self.v_reset.unwrap_or(0.0)
    }

    pub(crate) fn inv_tau(&self) -> f32 {
        1.0 / self.tau
    }
}
