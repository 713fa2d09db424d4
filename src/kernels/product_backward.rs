//! What the backward passes of `linear_spike`, `conv3x3_spike` and `conv3x3_real` share: the uniform, the ops' parameters and
//! how a sum over rows is split (`shaders/lib/product_backward.wgsl`, `spike_gradient.wgsl`, `dense_product.wgsl`).

use super::{Arithmetic, Constants, Dispatch, Groups, Kernel, bytes_of, dim, uniform};
use crate::recording::{Access, Recording, TensorId};
use crate::tensor::{Element, Shape, vectors, words};

uniform! {
    /// The uniform of the backward pass of a product.
    ProductBackward {
        /// T·B·H·W of the gradient.
        rows: u32,
        /// H, conv only.
        height: u32,
        /// W, conv only.
        width: u32,
        /// Input channels.
        channels_in: u32,
        /// Words of an input token.
        words_in: u32,
        /// Output channels of this window.
        channels_out: u32,
        /// vec4f from one row of the gradient to the next.
        gradient_stride: u32,
        /// First vec4f of this window in it.
        gradient_first: u32,
        /// Conv of real values only: S·B·H·W of the input.
        in_rows: u32,
        /// Conv of real values only: floats of an input row.
        in_stride: u32,
        /// `weights`: rows of one split.
        split_rows: u32,
        /// `combine`: partial sums.
        splits: u32,
        /// vec4f of the packed weights of this window.
        weights_len: u32,
        /// `input`: vec4f of a row of the input's gradient.
        out_stride: u32,
        /// `input`: first word of inputs that the input's gradient covers.
        out_word: u32,
        /// `input`: 1 where the gradient is added to what is there.
        accumulate: u32,
        /// Tiles of the folded dimension of the grid.
        tiles: u32,
    }
}

/// The gradient of a product's weights, or of one window of their outputs, in splits of the rows.
#[derive(Clone, Debug)]
pub struct WeightsBackward {
    /// The layer, e.g. `block.0.mlp.fc1`.
    pub layer: String,
    /// The product's input: packed spikes, or the real input of `conv3x3_real`.
    pub input: TensorId,
    /// The gradient of the output, real.
    pub gradient: TensorId,
    /// Where in it this window of output channels begins, a multiple of 32.
    pub first_channel: usize,
    /// Output channels of this window.
    pub channels_out: usize,
    /// In how many sums the rows are split: [`splits`] of their number.
    pub splits: usize,
    /// `[splits]` gradients in the layout of the forward weights, for [`CombineBackward`]; with one split the gradient itself.
    pub out: TensorId,
}

/// The sum of the partial weight gradients of [`WeightsBackward`], in order.
#[derive(Clone, Debug)]
pub struct CombineBackward {
    /// The layer.
    pub layer: String,
    /// `[splits]` gradients.
    pub partials: TensorId,
    /// How many.
    pub splits: usize,
    /// The gradient, in the layout of the forward weights.
    pub out: TensorId,
}

/// The gradient of a spike product's input, or of one window of its channels, from one window of the outputs.
#[derive(Clone, Debug)]
pub struct InputBackward {
    /// The layer.
    pub layer: String,
    /// The gradient of the output, real.
    pub gradient: TensorId,
    /// Where in it this window of output channels begins, a multiple of 32.
    pub first_channel: usize,
    /// Output channels of this window.
    pub channels_out: usize,
    /// Weights of this window of outputs, as the forward product reads them.
    pub weights: TensorId,
    /// Input channels of the weights.
    pub channels_in: usize,
    /// The first input channel of `out`, a multiple of 32.
    pub first_input: usize,
    /// The gradient of the input's channels from `first_input` on, real.
    pub out: TensorId,
    /// Whether the gradient is added to what `out` holds: that of another window, or of another user of the input.
    pub accumulate: bool,
}

pub(super) const BINDINGS: &[(&str, Access)] = &[
    ("spikes_in", Access::Read),
    ("weights_in", Access::Read),
    ("gradient_in", Access::Read),
    ("partials_in", Access::Read),
    ("weights_out", Access::Write),
    ("real_out", Access::Write),
];

pub(super) const ENTRIES: &[&str] = &["weights", "combine", "input"];

pub(super) fn constants() -> Vec<Constants> {
    vec![vec![]]
}

/// Floats of the packed weights of `channels_out` outputs with `chunks` chunks of 32 inputs each: of a spike product
/// taps · ⌈I/32⌉, of `conv3x3_real` ⌈9 I/32⌉.
pub fn weights_len(channels_out: usize, chunks: usize) -> usize {
    channels_out.div_ceil(32) * chunks * 1024
}

/// Enough workgroups to fill a large GPU several times over.
const WORKGROUPS: usize = 1024;

/// In how many parts the sum over `rows` rows of a weight gradient of `len` floats is split, so that there are enough
/// workgroups, no part is shorter than 256 rows and all parts together take at most `most_bytes`.
pub fn splits(rows: usize, len: usize, most_bytes: u64) -> usize {
    let workgroups = len.div_ceil(2048).max(1);
    let fit = usize::try_from(most_bytes / (4 * len.max(1) as u64)).unwrap_or(usize::MAX);
    WORKGROUPS.div_ceil(workgroups).min(rows / 256).min(fit).max(1)
}

/// The rows of each split, the last of which may be shorter or empty: a multiple of 64, what a workgroup holds at a time.
pub(crate) fn split_rows(rows: usize, splits: usize) -> usize {
    rows.div_ceil(splits.max(1)).next_multiple_of(64)
}

fn uniform_of(shape: Shape, gradient_stride: usize, first_channel: usize, channels_out: usize) -> ProductBackward {
    ProductBackward {
        rows: dim(shape.steps * shape.rows()),
        height: dim(shape.height),
        width: dim(shape.width),
        channels_out: dim(channels_out),
        gradient_stride: dim(gradient_stride / 4),
        gradient_first: dim(first_channel / 4),
        ..ProductBackward::default()
    }
}

/// Inputs that a row of `len` floats of packed weights multiplies, pads included: taps times channels.
fn packed_inputs(len: usize, channels_out: usize) -> usize {
    len / (32 * channels_out.div_ceil(32))
}

impl WeightsBackward {
    pub(super) fn arithmetic(&self, recording: &Recording) -> Arithmetic {
        let (gradient, input) = (recording.get(self.gradient).shape, recording.get(self.input));
        let channels = input.shape.channels;
        let packed = packed_inputs(recording.get(self.out).len() / self.splits.max(1), self.channels_out);
        // Real inputs are those of the 3x3 convolution, packed without pads between its taps.
        let taps = if input.element == Element::Real { 9 } else { packed / (32 * words(channels).max(1)) };
        let terms = (gradient.steps * gradient.rows() * taps * channels * self.channels_out) as u64;
        match input.element {
            Element::Real => Arithmetic::real(terms),
            _ => Arithmetic::selected(self.input, terms),
        }
    }

    /// `chunks` of 32 inputs, of which a workgroup takes `group`.
    pub(super) fn dispatch(
        &self,
        kernel: &'static Kernel,
        recording: &Recording,
        chunks: impl Fn(usize) -> usize,
        group: usize,
    ) -> Dispatch {
        let (gradient, input) = (recording.get(self.gradient), recording.get(self.input));
        let rows = gradient.shape.steps * gradient.shape.rows();
        let channels_in = input.shape.channels;
        let chunks = chunks(channels_in);
        let tiles = chunks.div_ceil(group) * self.channels_out.div_ceil(32);
        let product = ProductBackward {
            channels_in: dim(channels_in),
            words_in: dim(words(channels_in)),
            in_rows: dim(input.shape.steps * input.shape.rows()),
            in_stride: dim(input.row()),
            split_rows: dim(split_rows(rows, self.splits)),
            weights_len: dim(weights_len(self.channels_out, chunks) / 4),
            tiles: dim(tiles),
            ..uniform_of(gradient.shape, gradient.row(), self.first_channel, self.channels_out)
        };
        Dispatch {
            kernel,
            entry: "weights",
            constants: vec![],
            bindings: vec![
                (0, self.input),
                (kernel.slot("gradient_in"), self.gradient),
                (kernel.slot("weights_out"), self.out),
            ],
            uniform: bytes_of(&product),
            groups: Groups::Line { n: tiles as u64, z: dim(self.splits) },
        }
    }
}

impl CombineBackward {
    pub(super) fn arithmetic(&self, _: &Recording) -> Arithmetic {
        Arithmetic::default()
    }

    pub(super) fn dispatch(&self, kernel: &'static Kernel, recording: &Recording) -> Dispatch {
        let len = recording.get(self.out).len() / 4;
        let product = ProductBackward { splits: dim(self.splits), weights_len: dim(len), ..ProductBackward::default() };
        Dispatch {
            kernel,
            entry: "combine",
            constants: vec![],
            bindings: vec![(kernel.slot("partials_in"), self.partials), (kernel.slot("weights_out"), self.out)],
            uniform: bytes_of(&product),
            groups: Groups::Line { n: len.div_ceil(64) as u64, z: 1 },
        }
    }
}

impl InputBackward {
    pub(super) fn arithmetic(&self, recording: &Recording) -> Arithmetic {
        let (gradient, out) = (recording.get(self.gradient).shape, recording.get(self.out).shape);
        let all = 32 * words(self.channels_in).max(1);
        let taps = packed_inputs(recording.get(self.weights).len(), self.channels_out) / all;
        Arithmetic::real((gradient.steps * gradient.rows() * taps * out.channels * self.channels_out) as u64)
    }

    pub(super) fn dispatch(&self, kernel: &'static Kernel, recording: &Recording) -> Dispatch {
        let gradient = recording.get(self.gradient);
        let channels = recording.get(self.out).shape.channels;
        let tiles = (gradient.shape.steps * gradient.shape.rows()).div_ceil(64);
        let product = ProductBackward {
            channels_in: dim(self.channels_in),
            words_in: dim(words(self.channels_in)),
            out_stride: dim(vectors(channels)),
            out_word: dim(self.first_input / 32),
            accumulate: self.accumulate.into(),
            tiles: dim(tiles),
            ..uniform_of(gradient.shape, gradient.row(), self.first_channel, self.channels_out)
        };
        Dispatch {
            kernel,
            entry: "input",
            constants: vec![],
            bindings: vec![(1, self.weights), (2, self.gradient), (5, self.out)],
            uniform: bytes_of(&product),
            groups: Groups::Line { n: tiles as u64, z: dim(words(channels)) },
        }
    }
}

/// Declares an op of a backward kernel around the parameters it shares with others.
macro_rules! backward_op {
    ($(#[$meta:meta])* $name:ident($inner:ty), |$op:ident, $recording:ident| $dispatch:expr, $twin:expr) => {
        $(#[$meta])*
        #[derive(Clone, Debug)]
        pub struct $name(pub $inner);

        impl crate::kernels::Op for $name {
            fn kernel(&self) -> &'static crate::kernels::Kernel {
                &KERNEL
            }

            fn layer(&self) -> &str {
                &self.0.layer
            }

            fn arithmetic(&self, recording: &crate::recording::Recording) -> crate::kernels::Arithmetic {
                self.0.arithmetic(recording)
            }

            fn dispatch(&self, $recording: &crate::recording::Recording) -> crate::kernels::Dispatch {
                let $op = &self.0;
                $dispatch
            }

            crate::kernels::twins!($twin, 0);
        }
    };
}
pub(super) use backward_op;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_fill_a_gpu_within_the_limit() {
        let most = 128 << 20;
        assert_eq!(splits(100, 1024, most), 1);
        assert_eq!(splits(8192, weights_len(256, 8), most), 32);
        assert_eq!(splits(32_768, weights_len(2048, 16), most), 2);
        assert_eq!(splits(1 << 20, weights_len(48, 1), most), 1024);
        assert_eq!(splits(1 << 20, weights_len(48, 1), 20_000), 2);
        assert_eq!(splits(1 << 20, weights_len(48, 1), 1), 1);
        assert_eq!(split_rows(1000, 3), 384);
        assert_eq!(split_rows(1, 5), 64);
    }
}
