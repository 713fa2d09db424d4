//! `attention_census`: the counters of attention that one packed tensor alone does not give: which keys are not zero, and how
//! often a key and a value meet.

use super::{Dispatch, Groups, Kernel, Op, bytes_of, dim, twins, uniform};
use crate::recording::{Access, Recording, TensorId};
use crate::reference::attention_census as twin;
use crate::tensor::{Shape, vectors, words};

uniform! {
    /// The uniform of `attention_census`.
    AttentionCensus {
        /// T·B·N.
        rows: u32,
        /// Channels of the window of K.
        channels: u32,
        /// vec4f of a K token of the window.
        x_stride: u32,
        /// First word of the window.
        first_word: u32,
        /// Words of a packed token of all heads.
        words: u32,
        /// T·B.
        images: u32,
        /// N.
        tokens: u32,
        /// Heads.
        heads: u32,
        /// d, channels of a head.
        head_dim: u32,
    }
}

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    stem: "attention_census",
    sources: &[include_str!("../../shaders/attention_census.wgsl")],
    entries: &["keys_of_window", "pairs"],
    bindings: &[
        ("k", Access::Read),
        ("keys", Access::Read),
        ("v", Access::Read),
        ("keys_out", Access::Write),
        ("pairs_out", Access::Write),
    ],
    uniform: AttentionCensus::LAYOUT,
    uniform_size: size_of::<AttentionCensus>(),
    constants: || vec![vec![]],
};

/// Input a window of K `[T, B, H, W, window]` real, output which of them are not zero, `[T, B, H, W, D]` packed.
#[derive(Clone, Debug)]
pub struct NonzeroKeys {
    /// The layer.
    pub layer: String,
    /// Keys of the window, real.
    pub k: TensorId,
    /// A bit for each key of all windows.
    pub out: TensorId,
    /// First channel of the window, a multiple of 32.
    pub first_channel: usize,
}

impl Op for NonzeroKeys {
    fn kernel(&self) -> &'static Kernel {
        &KERNEL
    }

    fn layer(&self) -> &str {
        &self.layer
    }

    fn dispatch(&self, recording: &Recording) -> Dispatch {
        let (k, out) = (recording.get(self.k).shape, recording.get(self.out));
        let rows = k.steps * k.rows();
        let census = AttentionCensus {
            rows: dim(rows),
            channels: dim(k.channels),
            x_stride: dim(vectors(k.channels)),
            first_word: dim(self.first_channel / 32),
            words: dim(out.row()),
            ..AttentionCensus::default()
        };
        Dispatch {
            kernel: &KERNEL,
            entry: "keys_of_window",
            constants: vec![],
            bindings: vec![(0, self.k), (3, self.out)],
            uniform: bytes_of(&census),
            groups: Groups::Line { n: (rows * words(k.channels)).div_ceil(64) as u64, z: 1 },
        }
    }

    twins!(twin::keys);
}

/// Inputs which keys are not zero, packed, and the values, ternary; output `[T][B]` sums as two u32, low and high.
#[derive(Clone, Debug)]
pub struct KeyValuePairs {
    /// The layer.
    pub layer: String,
    /// A bit for each key that is not zero.
    pub keys: TensorId,
    /// Ternary values.
    pub v: TensorId,
    /// The sums, of [`pairs_shape`].
    pub out: TensorId,
    /// d, channels of a head.
    pub head_dim: usize,
}

/// The shape of the sums of keys and values of that shape, as packed words.
pub fn pairs_shape(of: Shape) -> Shape {
    Shape { steps: 1, batch: 1, height: 1, width: 1, channels: 64 * of.steps * of.batch }
}

impl Op for KeyValuePairs {
    fn kernel(&self) -> &'static Kernel {
        &KERNEL
    }

    fn layer(&self) -> &str {
        &self.layer
    }

    fn dispatch(&self, recording: &Recording) -> Dispatch {
        let shape = recording.get(self.keys).shape;
        let images = shape.steps * shape.batch;
        let census = AttentionCensus {
            words: dim(words(shape.channels)),
            images: dim(images),
            tokens: dim(shape.tokens()),
            heads: dim(shape.channels / self.head_dim),
            head_dim: dim(self.head_dim),
            ..AttentionCensus::default()
        };
        Dispatch {
            kernel: &KERNEL,
            entry: "pairs",
            constants: vec![],
            bindings: vec![(1, self.keys), (2, self.v), (4, self.out)],
            uniform: bytes_of(&census),
            groups: Groups::Line { n: images as u64, z: 1 },
        }
    }

    twins!(twin::pairs);
}
