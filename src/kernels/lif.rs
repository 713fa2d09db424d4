//! `lif`: the LIF neuron over T of a real tensor, packed to bits or to plus and minus planes.

use super::batch_norm::BatchNorm;
use super::neuron::Neuron;
use super::{Dispatch, Groups, Kernel, Op, bytes_of, dim, twins, uniform};
use crate::gpu::Capabilities;
use crate::recording::{Access, Recording, TensorId};
use crate::reference::lif as twin;
use crate::tensor::{Element, vectors, words};

uniform! {
    /// The uniform of `lif`.
    Lif {
        /// B·N tokens.
        rows: u32,
        /// T.
        steps: u32,
        /// Timesteps the input holds: T or 1.
        x_steps: u32,
        /// Channels of this window.
        channels: u32,
        /// Output words of this window.
        words: u32,
        /// vec4f of an input token.
        x_stride: u32,
        /// Words from one output token to the next.
        out_stride: u32,
        /// First output word of this window.
        out_first: u32,
        /// Words from a token's plus word to its minus word.
        minus_plane: u32,
        /// Firing threshold.
        v_threshold: f32,
        /// Reset potential, also the membrane's start.
        v_reset: f32,
        /// 1/τ.
        inv_tau: f32,
    }
}

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    stem: "lif",
    sources: &[
        include_str!("../../shaders/lif.wgsl"),
        include_str!("../../shaders/lib/batch_norm.wgsl"),
        include_str!("../../shaders/lib/neuron.wgsl"),
    ],
    entries: &[
        "spikes",
        "ternary",
        "spikes_trace",
        "ternary_trace",
        "bn_spikes",
        "bn_ternary",
        "bn_spikes_trace",
        "bn_ternary_trace",
    ],
    bindings: &[
        ("x", Access::Read),
        ("mean", Access::Read),
        ("inv_std", Access::Read),
        ("gamma", Access::Read),
        ("beta", Access::Read),
        ("spikes_out", Access::Write),
        ("h_out", Access::Write),
    ],
    uniform: Lif::LAYOUT,
    uniform_size: size_of::<Lif>(),
    constants: Neuron::all_constants,
};

/// The variant for software drivers; the same bits.
pub static WORDS: Kernel = Kernel {
    stem: "lif.words",
    sources: &[
        include_str!("../../shaders/lif.words.wgsl"),
        include_str!("../../shaders/lib/batch_norm.wgsl"),
        include_str!("../../shaders/lib/neuron.wgsl"),
    ],
    ..KERNEL
};

/// Input `[T or 1, B, H, W, C]` real (one channel window), output `[T, B, H, W, C]` packed or ternary.
#[derive(Clone, Debug)]
pub struct LifOp {
    /// The layer.
    pub layer: String,
    /// The membrane input (one channel window), or what it is made of by `norm`.
    pub input: TensorId,
    /// The batch norm, of this window's channels, that the input goes through first.
    pub norm: Option<BatchNorm>,
    /// The packed output.
    pub out: TensorId,
    /// Where the membrane before firing goes, `[T, B, H, W, window]`, if it is wanted.
    pub h: Option<TensorId>,
    /// The neuron.
    pub neuron: Neuron,
    /// First channel of this window, a multiple of 32.
    pub first_channel: usize,
}

impl Op for LifOp {
    fn kernel(&self) -> &'static Kernel {
        &KERNEL
    }

    fn layer(&self) -> &str {
        &self.layer
    }

    fn dispatch(&self, recording: &Recording) -> Dispatch {
        let x = recording.get(self.input).shape;
        let out = recording.get(self.out);
        let lif = Lif {
            rows: dim(x.rows()),
            steps: dim(out.shape.steps),
            x_steps: dim(x.steps),
            channels: dim(x.channels),
            words: dim(words(x.channels)),
            x_stride: dim(vectors(x.channels)),
            out_stride: dim(out.row()),
            out_first: dim(self.first_channel / 32),
            minus_plane: dim(words(out.shape.channels)),
            v_threshold: self.neuron.v_threshold,
            v_reset: self.neuron.start(),
            inv_tau: self.neuron.inv_tau(),
        };
        let mut bindings = vec![(0, self.input)];
        bindings.extend(self.norm.iter().flat_map(|norm| norm.bindings(1)));
        bindings.push((5, self.out));
        bindings.extend(self.h.map(|h| (6, h)));
        let entry = match (out.element == Element::Ternary, self.h.is_some(), self.norm.is_some()) {
            (false, false, false) => "spikes",
            (true, false, false) => "ternary",
            (false, true, false) => "spikes_trace",
            (true, true, false) => "ternary_trace",
            (false, false, true) => "bn_spikes",
            (true, false, true) => "bn_ternary",
            (false, true, true) => "bn_spikes_trace",
            (true, true, true) => "bn_ternary_trace",
        };
        Dispatch {
            kernel: &KERNEL,
            entry,
            constants: self.neuron.constants(),
            bindings,
            uniform: bytes_of(&lif),
            groups: Groups::Line { n: (x.rows() * words(x.channels)).div_ceil(8) as u64, z: 1 },
        }
    }

    fn dispatch_on(&self, recording: &Recording, capabilities: Capabilities) -> Dispatch {
        let portable = self.dispatch(recording);
        if !capabilities.lanes_hold_eight() {
            return portable;
        }
        let x = recording.get(self.input).shape;
        let groups = Groups::Line { n: (x.rows() * words(x.channels)).div_ceil(64) as u64, z: 1 };
        Dispatch { kernel: &WORDS, groups, ..portable }
    }

    twins!(twin::run);
}
