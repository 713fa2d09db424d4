//! `lif_backward`: the gradient of the LIF neuron through time.

use super::batch_norm::BatchNorm;
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
        /// vec4f of a token.
        row: u32,
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
        include_str!("../../shaders/lib/batch_norm.wgsl"),
        include_str!("../../shaders/lib/neuron.wgsl"),
        include_str!("../../shaders/lib/surrogate.wgsl"),
    ],
    entries: &[
        "binary",
        "ternary",
        "bn_binary",
        "bn_ternary",
        "binary_in_place",
        "ternary_in_place",
        "bn_binary_in_place",
        "bn_ternary_in_place",
    ],
    bindings: &[
        ("x", Access::Read),
        ("mean", Access::Read),
        ("inv_std", Access::Read),
        ("gamma", Access::Read),
        ("beta", Access::Read),
        ("g_s", Access::Read),
        ("g_x", Access::Write),
    ],
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
    /// The membrane input, or what it is made of by `norm`.
    pub x: TensorId,
    /// The batch norm that the input goes through first; the gradient is that of its result.
    pub norm: Option<BatchNorm>,
    /// Gradient of the spikes.
    pub g_s: TensorId,
    /// Gradient of the membrane input; where it is `g_s`, it takes that one's place.
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
            row: dim(recording.get(self.g_s).row() / 4),
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
        let in_place = self.g_x == self.g_s;
        let mut bindings = vec![(0, self.x)];
        bindings.extend(self.norm.iter().flat_map(|norm| norm.bindings(1)));
        bindings.extend((!in_place).then_some((5, self.g_s)));
        bindings.push((6, self.g_x));
        Dispatch {
            kernel: &KERNEL,
            entry: match (self.element == Element::Ternary, self.norm.is_some(), in_place) {
                (false, false, false) => "binary",
                (true, false, false) => "ternary",
                (false, true, false) => "bn_binary",
                (true, true, false) => "bn_ternary",
                (false, false, true) => "binary_in_place",
                (true, false, true) => "ternary_in_place",
                (false, true, true) => "bn_binary_in_place",
                (true, true, true) => "bn_ternary_in_place",
            },
            constants,
            bindings,
            uniform: bytes_of(&lif),
            groups: Groups::Line { n: vectors.div_ceil(64) as u64, z: 1 },
        }
    }

    twins!(twin::run);
}
