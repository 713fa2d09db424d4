//! `spike_census`: the counters of one packed tensor, of which receipts are made.

use super::{Dispatch, Groups, Kernel, Op, bytes_of, dim, twins, uniform};
use crate::recording::{Access, Recording, TensorId};
use crate::reference::spike_census as twin;
use crate::tensor::{Element, Shape, Tensor, words};

uniform! {
    /// The uniform of `spike_census`.
    SpikeCensus {
        /// T·B.
        images: u32,
        /// H.
        height: u32,
        /// W.
        width: u32,
        /// Words of one plane of a token.
        words: u32,
        /// Planes of a token: 2 of ternary spikes.
        planes: u32,
        /// Parts of an image.
        parts: u32,
        /// Words of a part.
        part_words: u32,
        /// Workgroups that count steps.
        step_groups: u32,
        /// Workgroups that see neurons.
        neuron_groups: u32,
        /// Workgroups that count channels.
        channel_groups: u32,
        /// Where the channels' counts begin.
        channels_first: u32,
    }
}

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    stem: "spike_census",
    sources: &[include_str!("../../shaders/spike_census.wgsl")],
    entries: &["main"],
    bindings: &[("spikes_in", Access::Read), ("census_out", Access::Write)],
    uniform: SpikeCensus::LAYOUT,
    uniform_size: size_of::<SpikeCensus>(),
    constants: || vec![vec![]],
};

/// About how many words one workgroup counts; at 2²⁰ a count might not fit 32 bits.
const PART_WORDS: usize = 2048;

/// What is counted of a tensor, and where it lies in the counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Of the spikes.
    pub shape: Shape,
    /// Whether they have two planes.
    pub ternary: bool,
    /// Whether spikes are counted by timestep and image, and neurons that ever and always fire are noted.
    pub neurons: bool,
    /// Whether spikes are counted by timestep, image and channel.
    pub channels: bool,
}

impl Layout {
    /// That of counters of `spikes`.
    pub fn new(spikes: &Tensor, neurons: bool, channels: bool) -> Self {
        Layout { shape: spikes.shape, ternary: spikes.element == Element::Ternary, neurons, channels }
    }

    /// T·B.
    pub fn images(&self) -> usize {
        self.shape.steps * self.shape.batch
    }

    /// Words of one plane of an image, `[N][words]`.
    pub fn image_words(&self) -> usize {
        self.shape.tokens() * words(self.shape.channels)
    }

    /// Parts of an image, each with three counts of its own.
    pub fn parts(&self) -> usize {
        self.shape.height.div_ceil(self.part_lines())
    }

    /// Elements of `[T][B][parts][3]`.
    pub fn step_counts(&self) -> usize {
        if self.neurons { 3 * self.images() * self.parts() } else { 0 }
    }

    /// Elements of `[ever, always][N][words]`.
    pub fn neuron_words(&self) -> usize {
        if self.neurons { 2 * self.image_words() } else { 0 }
    }

    /// Elements of `[T][B][words · 32]`.
    pub fn channel_counts(&self) -> usize {
        if self.channels { 32 * self.images() * words(self.shape.channels) } else { 0 }
    }

    /// The shape of the counters, as packed words.
    pub fn counters(&self) -> Shape {
        let counters = self.step_counts() + self.neuron_words() + self.channel_counts();
        Shape { steps: 1, batch: 1, height: 1, width: 1, channels: 32 * counters }
    }

    /// Words of a line of tokens, of one plane.
    fn line_words(&self) -> usize {
        self.shape.width * words(self.shape.channels)
    }

    /// Lines of tokens of a part; the last of an image may have fewer.
    pub fn part_lines(&self) -> usize {
        (PART_WORDS / self.line_words().max(1)).max(1)
    }
}

/// Input packed or ternary, output counters (u32) as [`Layout`] says.
#[derive(Clone, Debug)]
pub struct SpikeCensusOp {
    /// The layer.
    pub layer: String,
    /// Packed spikes.
    pub input: TensorId,
    /// The counters, of [`Layout::counters`].
    pub out: TensorId,
    /// What is counted.
    pub layout: Layout,
}

impl Op for SpikeCensusOp {
    fn kernel(&self) -> &'static Kernel {
        &KERNEL
    }

    fn layer(&self) -> &str {
        &self.layer
    }

    fn dispatch(&self, _: &Recording) -> Dispatch {
        let of = &self.layout;
        let step_groups = of.step_counts() / 3;
        let neuron_groups = if of.neurons { of.image_words().div_ceil(64) } else { 0 };
        let channel_groups = of.channel_counts() / 32;
        let census = SpikeCensus {
            images: dim(of.images()),
            height: dim(of.shape.height),
            width: dim(of.shape.width),
            words: dim(words(of.shape.channels)),
            planes: if of.ternary { 2 } else { 1 },
            parts: dim(of.parts()),
            part_words: dim(of.part_lines() * of.line_words()),
            step_groups: dim(step_groups),
            neuron_groups: dim(neuron_groups),
            channel_groups: dim(channel_groups),
            channels_first: dim(of.step_counts() + of.neuron_words()),
        };
        Dispatch {
            kernel: &KERNEL,
            entry: "main",
            constants: vec![],
            bindings: vec![(0, self.input), (1, self.out)],
            uniform: bytes_of(&census),
            groups: Groups::Line { n: (step_groups + neuron_groups + channel_groups) as u64, z: 1 },
        }
    }

    twins!(twin::run);
}
