//! The model's configuration: what a checkpoint's metadata holds under `config`.

use serde::{Deserialize, Serialize};

/// Which published architecture the tensors belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Arch {
    /// Spiking Transformer with Accurate Addition-Only Spiking Self-Attention (arXiv 2503.00226).
    A2os2a,
}

/// The surrogate derivative used in training; inference ignores it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Surrogate {
    /// α σ(αx)(1 - σ(αx)); α = 4 by default.
    Sigmoid,
    /// α/2 / (1 + (παx/2)²); α = 2 by default.
    Atan,
    /// α where |x| < 1/(2α), else 0.
    Rectangular,
    /// α max(0, 1 - α|x|).
    Triangular,
}

/// A model's configuration, as its checkpoint spells it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// Which published architecture.
    pub arch: Arch,
    /// Height and width of the square input image, in pixels.
    pub img_size: usize,
    /// Channels of the input image.
    pub in_chans: usize,
    /// Number of classes, the width of the logits.
    pub num_classes: usize,
    /// D, the channels of a token.
    pub embed_dim: usize,
    /// Number of transformer blocks.
    pub depth: usize,
    /// Attention heads per block; divides `embed_dim`.
    pub num_heads: usize,
    /// Hidden width of the MLP over `embed_dim`.
    pub mlp_ratio: usize,
    /// Timesteps, 1 to 32.
    #[serde(rename = "T")]
    pub timesteps: usize,
    /// After which of the four SPS stages a 3×3 stride-2 max-pool follows, e.g. `[false, false, true, true]` for "0011".
    #[serde(with = "pooling_stat")]
    pub pooling_stat: [bool; 4],
    /// Membrane time constant τ ≥ 1, in timesteps.
    pub tau: f32,
    /// Firing threshold of every neuron but the attention's.
    pub v_threshold: f32,
    /// Firing threshold of the neuron after (Q Kᵀ) V.
    pub attn_v_threshold: f32,
    /// Reset potential of the hard reset; `None` (null) is the soft reset.
    pub v_reset: Option<f32>,
    /// Whether the input is divided by τ too.
    pub decay_input: bool,
    /// Whether the reset is left out of the gradient.
    pub detach_reset: bool,
    /// The surrogate derivative of training.
    pub surrogate: Surrogate,
    /// Steepness α of the surrogate.
    pub alpha: f32,
    /// ε of every batch normalisation, used as an f32.
    pub bn_eps: f32,
    /// Per-channel mean of the training pixels scaled to [0, 1].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mean: Option<Vec<f32>>,
    /// Per-channel standard deviation of the training pixels scaled to [0, 1].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub std: Option<Vec<f32>>,
    /// A name for each class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class_names: Option<Vec<String>>,
}

mod pooling_stat {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(v: &[bool; 4], s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&v.map(|b| if b { '1' } else { '0' }).iter().collect::<String>())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<[bool; 4], D::Error> {
        let text = String::deserialize(d)?;
        let bits: Vec<bool> = text
            .chars()
            .map(|c| match c {
                '0' => Ok(false),
                '1' => Ok(true),
                _ => Err(D::Error::custom(format!("pooling_stat is {text:?}; it must be four of 0 and 1, e.g. \"0011\""))),
            })
            .collect::<Result<_, _>>()?;
        bits.try_into().map_err(|_| D::Error::custom(format!("pooling_stat is {text:?}; it must be four of 0 and 1, e.g. \"0011\"")))
    }
}
