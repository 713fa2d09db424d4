//! `lif_backward`: the gradient of the LIF neuron through time.

use super::neuron::Neuron;
use super::{Constants, Dispatch, Groups, Kernel, Op, bytes_of, dim, twins, uniform};
use crate::config::Surrogate;
use crate::recording::{Access, Recording, TensorId};
use crate::reference::lif_backward as twin;
use crate::tensor::Element;

uniform! {
    /// The uniform of `lif_backward`.
    LifBackward {
        /// B·N·⌈C/4⌉, one timestep.
        vectors: u32,
        /// T.
        steps: u32,
        /// Timesteps the input holds: T or 1.
        x_steps: u32,
        /// Firing threshold.
        v_threshold: f32,
        /// Reset potential, also the membrane's start.
        v_reset: f32,
        /// 1/τ.
        inv_tau: f32,
        /// Steepness of the surrogate.
        alpha: f32,
    }
}

/// The most timesteps that a thread keeps membranes of; a configuration has no more.
pub const MOST_STEPS: usize = 32;

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    stem: "lif_backward",
    sources: &[
        include_str!("../../shaders/lif_backward.wgsl"),
        include_str!("../../shaders/lib/neuron.wgsl"),
        include_str!("../../shaders/lib/surrogate.wgsl"),
    ],
    entries: &["binary", "ternary"],
    bindings: &[("x", Access::Read), ("g_s", Access::Read), ("g_x", Access::Write)],
    uniform: LifBackward::LAYOUT,
    uniform_size: size_of::<LifBackward>(),
    constants: all_constants,
};

fn all_constants() -> Vec<Constants> {
    let mut all = Vec::new();
    for neuron in Neuron::all_constants() {
        for surrogate in 0..Surrogate::ALL.len() {
            for detach in [0.0, 1.0] {
                let own = vec![("SURROGATE", surrogate as f64), ("DETACH_RESET", detach)];
                all.push([neuron.clone(), own].concat());
            }
        }
    }
    all
}

/// `x` `[T or 1, B, H, W, C]` real, `g_s` `[T, B, H, W, C]` real, `g_x` of x's shape.
#[derive(Clone, Debug)]
pub struct LifBackwardOp {
    /// The layer.
    pub layer: String,
    /// The membrane input.
    pub x: TensorId,
    /// Gradient of the spikes.
    pub g_s: TensorId,
    /// Gradient of the membrane input.
    pub g_x: TensorId,
    /// The neuron.
    pub neuron: Neuron,
    /// [`Element::Spikes`] or [`Element::Ternary`].
    pub element: Element,
    /// The surrogate derivative.
    pub surrogate: Surrogate,
    /// Its steepness.
    pub alpha: f32,
    /// Whether the reset is left out of the gradient.
    pub detach_reset: bool,
}

impl Op for LifBackwardOp {
    fn kernel(&self) -> &'static Kernel {
        &KERNEL
    }

    fn layer(&self) -> &str {
        &self.layer
    }

    fn dispatch(&self, recording: &Recording) -> Dispatch {
        let shape = recording.get(self.g_s).shape;
        let vectors = recording.get(self.g_s).len() / 4 / shape.steps;
        let lif = LifBackward {
            vectors: dim(vectors),
            steps: dim(shape.steps),
            x_steps: dim(recording.get(self.x).shape.steps),
            v_threshold: self.neuron.v_threshold,
            v_reset: self.neuron.start(),
            inv_tau: self.neuron.inv_tau(),
            alpha: self.alpha,
        };
        let surrogate = Surrogate::ALL.iter().position(|&s| s == self.surrogate).unwrap_or(0);
        let mut constants = self.neuron.constants();
        constants.extend([("SURROGATE", surrogate as f64), ("DETACH_RESET", self.detach_reset.into())]);
        Dispatch {
            kernel: &KERNEL,
            entry: if self.element == Element::Ternary { "ternary" } else { "binary" },
            constants,
            bindings: vec![(0, self.x), (1, self.g_s), (2, self.g_x)],
            uniform: bytes_of(&lif),
            groups: Groups::Line { n: vectors.div_ceil(64) as u64, z: 1 },
        }
    }

    twins!(twin::run);
}
