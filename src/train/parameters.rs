//! The parameters that training changes, and how the kernels lay them out.

use crate::checkpoint::{Checkpoint, Tensor};
use crate::config::Config;
use crate::kernels::conv3x3_real;
use crate::kernels::head::transpose_weights;
use crate::kernels::product::{pack_weights, unpack_weights};
use crate::kernels::product_backward::weights_len;
use crate::tensor::words;
use crate::{Error, Result};

/// How a parameter, and its gradient, lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// As the spike products pack weights `[outputs][inputs][taps]`.
    Product {
        /// Output channels.
        outputs: usize,
        /// Input channels.
        inputs: usize,
        /// 1 or 9.
        taps: usize,
    },
    /// As `conv3x3_real` packs weights `[outputs][inputs][9]`.
    Image {
        /// Output channels.
        outputs: usize,
        /// Input channels.
        inputs: usize,
    },
    /// One value a channel.
    Channels(usize),
    /// `[D][classes]`, of the checkpoint's `[classes][D]`.
    Head {
        /// Classes.
        classes: usize,
        /// D.
        inputs: usize,
    },
}

impl Layout {
    /// How many floats it takes.
    pub fn len(self) -> usize {
        match self {
            Layout::Product { outputs, inputs, taps } => weights_len(outputs, taps * words(inputs)),
            Layout::Image { outputs, inputs } => weights_len(outputs, (9 * inputs).div_ceil(32)),
            Layout::Channels(n) => n,
            Layout::Head { classes, inputs } => classes * inputs,
        }
    }

    /// Whether it holds nothing.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// From the checkpoint's order; padding is zero.
    pub fn pack(self, values: &[f32]) -> Vec<f32> {
        match self {
            Layout::Product { outputs, inputs, taps } => pack_weights(values, 0..outputs, inputs, taps),
            Layout::Image { outputs, inputs } => conv3x3_real::pack_weights(values, 0..outputs, inputs),
            Layout::Channels(_) => values.to_vec(),
            Layout::Head { classes, .. } => transpose_weights(values, classes),
        }
    }

    /// To the checkpoint's order.
    pub fn unpack(self, packed: &[f32]) -> Vec<f32> {
        match self {
            Layout::Product { outputs, inputs, taps } => unpack_weights(packed, outputs, inputs, taps),
            Layout::Image { outputs, inputs } => conv3x3_real::unpack_weights(packed, outputs, inputs),
            Layout::Channels(n) => packed[..n].to_vec(),
            Layout::Head { classes, inputs } => {
                (0..classes).flat_map(|k| packed[k..classes * inputs].iter().step_by(classes).copied()).collect()
            }
        }
    }
}

/// A parameter that training changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Learned {
    /// Its name in a checkpoint.
    pub name: String,
    /// Its shape there.
    pub shape: Vec<usize>,
    /// How the kernels read it.
    pub layout: Layout,
    /// Whether weight decay applies: to weights of convolutions and the head, not to biases and batch norm.
    pub decayed: bool,
}

/// Every parameter that a gradient is computed for, those that decay first. Not among them are the biases of convolutions:
/// batch norm's mean takes them away again, so that their gradient is zero.
pub fn learned(config: &Config) -> Vec<Learned> {
    let mut all: Vec<Learned> = config
        .parameters()
        .into_iter()
        .filter(|p| p.kind.is_trainable() && !p.name.ends_with("_conv.bias"))
        .map(|p| {
            let layout = match p.shape[..] {
                [classes, inputs] => Layout::Head { classes, inputs },
                [outputs, inputs, 3, 3] if p.name == "patch_embed.proj_conv.weight" => {
                    Layout::Image { outputs, inputs }
                }
                [outputs, inputs, h, w] => Layout::Product { outputs, inputs, taps: h * w },
                _ => Layout::Channels(p.shape.iter().product()),
            };
            Learned { decayed: p.shape.len() > 1, name: p.name, shape: p.shape, layout }
        })
        .collect();
    all.sort_by_key(|l| !l.decayed);
    all
}

/// The tensor of that name.
pub(super) fn tensor<'c>(checkpoint: &'c Checkpoint, name: &str) -> Result<&'c Tensor> {
    let tensor = checkpoint.tensors.get(name);
    tensor.ok_or_else(|| Error::Checkpoint(format!("the checkpoint has no `{name}`")))
}
