//! What a tensor is: its element type, its shape and its packed layout. Both executors share the layout.

/// The element type of a tensor, and with it the layout of a token's row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Element {
    /// f32, a row padded with zeros to a multiple of four channels.
    Real,
    /// Binary spikes, 32 channels to a u32, channel c in bit c % 32 of word c / 32; pad bits are zero.
    Spikes,
    /// Ternary spikes: a row of plus words, then a row of minus words.
    Ternary,
    /// F16 weights, two to a u32, the first in its lower half.
    F16,
    /// Int8 weights, four to a u32, the first in its lowest byte.
    Int8,
}

/// `[T][B][H][W][C]`, channel-last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    /// T, or 1 where every timestep is alike.
    pub steps: usize,
    /// B, images.
    pub batch: usize,
    /// H, lines of the token grid.
    pub height: usize,
    /// W, columns of the token grid.
    pub width: usize,
    /// C.
    pub channels: usize,
}

impl Shape {
    /// The same grid with other channels.
    pub fn with_channels(self, channels: usize) -> Self {
        Shape { channels, ..self }
    }

    /// The same tensor with other timesteps.
    pub fn with_steps(self, steps: usize) -> Self {
        Shape { steps, ..self }
    }

    /// The grid after a 3×3 stride-2 pad-1 max-pool.
    pub fn pooled(self) -> Self {
        Shape { height: self.height.div_ceil(2), width: self.width.div_ceil(2), ..self }
    }

    /// N = H·W.
    pub fn tokens(self) -> usize {
        self.height * self.width
    }

    /// B·H·W, the rows of one timestep.
    pub fn rows(self) -> usize {
        self.batch * self.tokens()
    }
}

/// u32 words that hold `channels` bits.
pub fn words(channels: usize) -> usize {
    channels.div_ceil(32)
}

/// vec4f that hold `channels` floats.
pub fn vectors(channels: usize) -> usize {
    channels.div_ceil(4)
}

/// A tensor of a recording.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// The layer and role, e.g. `block.0.attn.q_lif`.
    pub name: String,
    /// Element type.
    pub element: Element,
    /// Logical shape.
    pub shape: Shape,
}

impl Tensor {
    /// 4-byte elements of one token's row.
    pub fn row(&self) -> usize {
        match self.element {
            Element::Real => 4 * vectors(self.shape.channels),
            Element::F16 => self.shape.channels.div_ceil(2),
            Element::Int8 => vectors(self.shape.channels),
            Element::Spikes => words(self.shape.channels),
            Element::Ternary => 2 * words(self.shape.channels),
        }
    }

    /// 4-byte elements of the whole tensor.
    pub fn len(&self) -> usize {
        self.shape.steps * self.shape.rows() * self.row()
    }

    /// Whether the tensor holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of the whole tensor, before alignment.
    pub fn bytes(&self) -> u64 {
        4 * self.len() as u64
    }

    /// Bytes the same values would take as one f32 each.
    pub fn unpacked_bytes(&self) -> u64 {
        4 * (self.shape.steps * self.shape.rows() * self.shape.channels) as u64
    }
}
