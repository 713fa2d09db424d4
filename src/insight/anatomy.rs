//! What a model is made of, layer by layer, whatever runs it: what counts are put beside.

use crate::kernels::attention::Order;

/// Layers in the order of computation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anatomy {
    /// What computes.
    pub layers: Vec<Layer>,
    /// What fires.
    pub neurons: Vec<Neurons>,
}

/// A layer that computes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// E.g. `block.0.mlp.fc1_conv`.
    pub name: String,
    /// What it computes.
    pub kind: LayerKind,
    /// Weights, biases and batch norm apart.
    pub weights: u64,
    /// Weights that are zero, as stored.
    pub zeros: u64,
    /// Bytes of its parameters as stored, batch norm's scale and shift among them, padding not.
    pub bytes: u64,
}

/// What a layer computes, of one image at one timestep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LayerKind {
    /// A 3×3 convolution (pad 1) of the real image.
    Image {
        /// H.
        height: usize,
        /// W.
        width: usize,
        /// Input channels.
        inputs: usize,
        /// Output channels.
        outputs: usize,
    },
    /// A product of spikes: a 3×3 convolution (pad 1; taps 9) or a linear layer (taps 1).
    Spikes {
        /// The spikes, e.g. `block.0.mlp.fc1_lif`.
        input: String,
        /// Weights from an input channel to an output channel.
        taps: usize,
        /// H.
        height: usize,
        /// W.
        width: usize,
        /// Input channels.
        inputs: usize,
        /// Output channels.
        outputs: usize,
    },
    /// Q, K and V of a layer, without its projections.
    Attention {
        /// N.
        tokens: usize,
        /// Heads.
        heads: usize,
        /// d, channels of a head.
        head_dim: usize,
    },
    /// The linear layer of mean firing rates.
    Head {
        /// D.
        inputs: usize,
        /// Classes.
        classes: usize,
    },
}

/// The neurons of a layer: one for each token and channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neurons {
    /// E.g. `block.0.attn.q_lif`.
    pub name: String,
    /// H.
    pub height: usize,
    /// W.
    pub width: usize,
    /// C.
    pub channels: usize,
    /// Whether they fire -1, too.
    pub ternary: bool,
}

impl Neurons {
    /// How many they are.
    pub fn len(&self) -> u64 {
        (self.height * self.width * self.channels) as u64
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Pairs of an output and an input of a 3×3 convolution (pad 1) on a grid: Σ reach = (3H - 2)(3W - 2).
pub fn taps_on(height: usize, width: usize) -> u64 {
    let side = |n: usize| (3 * n).saturating_sub(2) as u64;
    side(height) * side(width)
}

impl LayerKind {
    /// Operations of one image at one timestep as if every input were a spike, none at a border that does not exist; of attention
    /// those of `order`.
    pub fn dense(&self, order: Order) -> u64 {
        match *self {
            LayerKind::Image { height, width, inputs, outputs } => taps_on(height, width) * (inputs * outputs) as u64,
            LayerKind::Spikes { taps, height, width, inputs, outputs, .. } => {
                let places = if taps == 9 { taps_on(height, width) } else { (taps * height * width) as u64 };
                places * (inputs * outputs) as u64
            }
            LayerKind::Attention { tokens, heads, head_dim } => {
                let (n, d) = (tokens as u64, head_dim as u64);
                // Two products of N·d spikes (of Q, and of V), each of which selects d or N additions.
                2 * heads as u64 * n * d * if order == Order::QKv { d } else { n }
            }
            LayerKind::Head { inputs, classes } => (inputs * classes) as u64,
        }
    }

    /// The same by the usual formula k² H W C_in C_out, which counts borders as if the image went on beyond them.
    pub fn formula(&self, order: Order) -> u64 {
        match *self {
            LayerKind::Image { height, width, inputs, outputs } => (9 * height * width * inputs * outputs) as u64,
            LayerKind::Spikes { taps, height, width, inputs, outputs, .. } => {
                (taps * height * width * inputs * outputs) as u64
            }
            _ => self.dense(order),
        }
    }
}
