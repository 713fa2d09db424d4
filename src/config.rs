//! The model's configuration: what a checkpoint's metadata holds under `config`.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde::{Serialize, Serializer};
use serde_json::Value;

use crate::error::{Error, Result, clip};

/// Which published architecture the tensors belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Arch {
    /// Spiking Transformer with Accurate Addition-Only Spiking Self-Attention (arXiv 2503.00226).
    A2os2a,
}

impl Arch {
    /// Every architecture, in the order that messages list them.
    pub const ALL: [Arch; 1] = [Arch::A2os2a];

    /// The name in a checkpoint, e.g. `a2os2a`.
    pub fn name(self) -> &'static str {
        match self {
            Arch::A2os2a => "a2os2a",
        }
    }
}

/// The surrogate derivative used in training; inference ignores it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Surrogate {
    /// α σ(αx)(1 - σ(αx)); α = 4 by default.
    Sigmoid,
    /// α/2 / (1 + (παx/2)²); α = 2 by default.
    Atan,
    /// α where |x| < 1/(2α), else 0; α = 1 by default.
    Rectangular,
    /// α max(0, 1 - α|x|); α = 1 by default.
    Triangular,
}

impl Surrogate {
    /// Every surrogate, in the order that messages list them.
    pub const ALL: [Surrogate; 4] =
        [Surrogate::Sigmoid, Surrogate::Atan, Surrogate::Rectangular, Surrogate::Triangular];

    /// The name in a checkpoint, e.g. `sigmoid`.
    pub fn name(self) -> &'static str {
        match self {
            Surrogate::Sigmoid => "sigmoid",
            Surrogate::Atan => "atan",
            Surrogate::Rectangular => "rectangular",
            Surrogate::Triangular => "triangular",
        }
    }

    /// The steepness that a configuration without `alpha` gets.
    pub fn default_alpha(self) -> f32 {
        match self {
            Surrogate::Sigmoid => 4.0,
            Surrogate::Atan => 2.0,
            Surrogate::Rectangular | Surrogate::Triangular => 1.0,
        }
    }
}

/// A model's configuration, as its checkpoint spells it.
///
/// Made by [`Config::from_json`] or [`Config::preset`]. Whoever changes a field calls [`Config::validate`] afterwards;
/// the other methods rely on a valid configuration.
#[derive(Clone, Debug, PartialEq, Serialize)]
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
    #[serde(serialize_with = "serialize_pooling")]
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
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean: Option<Vec<f32>>,
    /// Per-channel standard deviation of the training pixels scaled to [0, 1].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub std: Option<Vec<f32>>,
    /// A name for each class.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class_names: Option<Vec<String>>,
}

/// What a checkpoint's tensor is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ParameterKind {
    /// Weight of a convolution or linear layer, `[out, in, kh, kw]` or `[out, in]`.
    Weight,
    /// Bias of a convolution or linear layer, `[out]`.
    Bias,
    /// γ of a batch normalisation, `[channels]`.
    BnWeight,
    /// β of a batch normalisation, `[channels]`.
    BnBias,
    /// Running mean of a batch normalisation, `[channels]`; a buffer, not trained.
    RunningMean,
    /// Running variance of a batch normalisation, `[channels]`; a buffer, not trained.
    RunningVar,
}

impl ParameterKind {
    /// Whether an optimiser changes it; the running statistics are the ones it does not.
    pub fn is_trainable(self) -> bool {
        !matches!(self, ParameterKind::RunningMean | ParameterKind::RunningVar)
    }
}

/// One tensor of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// The state_dict name, e.g. `block.0.attn.q_conv.weight`.
    pub name: String,
    /// Extents, outermost first.
    pub shape: Vec<usize>,
    /// What it is for.
    pub kind: ParameterKind,
}

impl Parameter {
    /// Number of elements.
    pub fn elements(&self) -> u64 {
        self.shape.iter().fold(1, |n: u64, &s| n.saturating_mul(s as u64))
    }
}

/// Every key that a configuration may have.
const KEYS: [&str; 22] = [
    "arch",
    "img_size",
    "in_chans",
    "num_classes",
    "embed_dim",
    "depth",
    "num_heads",
    "mlp_ratio",
    "T",
    "pooling_stat",
    "tau",
    "v_threshold",
    "attn_v_threshold",
    "v_reset",
    "decay_input",
    "detach_reset",
    "surrogate",
    "alpha",
    "bn_eps",
    "mean",
    "std",
    "class_names",
];

const PRESETS: [(&str, &str); 12] = [
    ("tiny", "16×16, 10 classes, D 32, depth 1, 2 heads: 28,942 parameters, for tests"),
    ("mnist-2-64", "MNIST 28×28 grey, D 64, depth 2, 2 heads: 163,522 parameters"),
    ("cifar10-2-256", "CIFAR-10 32×32, D 256, depth 2, 8 heads: 2.57 M parameters"),
    ("cifar10-2-512", "CIFAR-10 32×32, D 512, depth 2, 8 heads: 10.23 M parameters"),
    ("cifar10-4-384", "CIFAR-10 32×32, D 384, depth 4, 8 heads: 9.32 M parameters"),
    ("cifar100-2-256", "CIFAR-100 32×32, D 256, depth 2, 8 heads: 2.59 M parameters"),
    ("cifar100-2-512", "CIFAR-100 32×32, D 512, depth 2, 8 heads: 10.28 M parameters"),
    ("cifar100-4-384", "CIFAR-100 32×32, D 384, depth 4, 8 heads: 9.35 M parameters"),
    ("imagenet-8-384", "ImageNet 224×224, D 384, depth 8, 8 heads: 16.82 M parameters"),
    ("imagenet-8-512", "ImageNet 224×224, D 512, depth 8, 8 heads: 29.69 M parameters"),
    ("imagenet-10-512", "ImageNet 224×224, D 512, depth 10, 8 heads: 36.01 M parameters"),
    ("imagenet-8-768", "ImageNet 224×224, D 768, depth 8, 8 heads: 66.34 M parameters"),
];

impl Config {
    /// Reads the JSON object that a checkpoint holds under `config`; `what` names its source in messages.
    ///
    /// Keys for the neuron and the surrogate may be missing and get their published defaults; the structural ones,
    /// `arch` to `pooling_stat`, may not. `v_reset: null` is the soft reset, a missing `v_reset` the hard reset to 0.
    ///
    /// # Errors
    /// [`Error::Config`] with the key for an unknown, repeated or missing key, a wrong type, or a value out of range;
    /// [`Error::Format`] for text that is no JSON object.
    pub fn from_json(text: &str, what: &str) -> Result<Config> {
        // Some editors begin a file with a byte order mark.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let config = Keys::parse(text, what).and_then(Keys::into_config).and_then(|c| c.validate().map(|()| c));
        config.map_err(|e| match e {
            Error::Config { key, why } => Error::Config { key, why: format!("{why} (in {what})") },
            e => e,
        })
    }

    /// The JSON object that [`Config::from_json`] reads, on one line. Floats are written with the fewest digits that
    /// give the same f32 back.
    pub fn to_json(&self) -> String {
        // Cannot fail: every key is a string, no serialiser here returns an error, and the sink is memory.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Checks every value against its range and the others.
    ///
    /// The upper limits are far above any published model; they keep every product of sizes within a u64.
    ///
    /// # Errors
    /// [`Error::Config`] naming the first key that is out of range, as checkpoints spell it.
    pub fn validate(&self) -> Result<()> {
        for (key, value, low, high) in [
            ("img_size", self.img_size, 1, 16_384),
            ("in_chans", self.in_chans, 1, 4096),
            ("num_classes", self.num_classes, 1, 1_000_000),
            ("embed_dim", self.embed_dim, 8, 16_384),
            ("depth", self.depth, 1, 1024),
            ("num_heads", self.num_heads, 1, self.embed_dim),
            ("mlp_ratio", self.mlp_ratio, 1, 64),
            ("T", self.timesteps, 1, 32),
        ] {
            if !(low..=high).contains(&value) {
                return Err(Error::config(key, format!("is {value}; it must be {low} to {high}")));
            }
        }
        let d = self.embed_dim;
        if !d.is_multiple_of(8) {
            return Err(Error::config("embed_dim", format!("is {d}; it must be a multiple of 8")));
        }
        if !d.is_multiple_of(self.num_heads) {
            let why = format!("is {}; it must divide embed_dim, which is {d}", self.num_heads);
            return Err(Error::config("num_heads", why));
        }
        if !(self.tau.is_finite() && self.tau >= 1.0) {
            return Err(Error::config("tau", format!("is {:?}; it must be finite and at least 1", self.tau)));
        }
        for (key, value) in [
            ("v_threshold", self.v_threshold),
            ("attn_v_threshold", self.attn_v_threshold),
            ("alpha", self.alpha),
            ("bn_eps", self.bn_eps),
        ] {
            if !(value.is_finite() && value > 0.0) {
                return Err(Error::config(key, format!("is {value:?}; as an f32 it must be finite and above 0")));
            }
        }
        if let Some(reset) = self.v_reset {
            let low = self.v_threshold.min(self.attn_v_threshold);
            // A neuron that is reset to its threshold fires at every timestep for ever.
            if !(reset.is_finite() && reset < low) {
                let why = format!("is {reset:?}; it must be finite and below both thresholds ({low:?}), or null");
                return Err(Error::config("v_reset", why));
            }
        }
        for (key, values, low) in [("mean", &self.mean, f32::NEG_INFINITY), ("std", &self.std, 0.0)] {
            let Some(values) = values else { continue };
            if values.len() != self.in_chans {
                let why = format!("has {} values; in_chans is {}", values.len(), self.in_chans);
                return Err(Error::config(key, why));
            }
            if let Some(v) = values.iter().find(|v| !(v.is_finite() && **v > low)) {
                let range = if key == "std" { "finite and above 0" } else { "finite" };
                return Err(Error::config(key, format!("holds {v:?}; every value must be {range}")));
            }
        }
        if let Some(names) = &self.class_names
            && names.len() != self.num_classes
        {
            let why = format!("has {} names; num_classes is {}", names.len(), self.num_classes);
            return Err(Error::config("class_names", why));
        }
        Ok(())
    }

    /// Channels of one attention head, D / heads.
    pub fn head_dim(&self) -> usize {
        self.embed_dim / self.num_heads
    }

    /// Hidden channels of the MLP, D · mlp_ratio.
    pub fn hidden_dim(&self) -> usize {
        self.embed_dim * self.mlp_ratio
    }

    /// Output channels of the four SPS stages: D/8, D/4, D/2, D.
    pub fn stage_widths(&self) -> [usize; 4] {
        [8, 4, 2, 1].map(|f| self.embed_dim / f)
    }

    /// Side, in pixels, of the input of each of the four SPS stages, and last that of the token grid.
    pub fn stage_sizes(&self) -> [usize; 5] {
        let mut sizes = [self.img_size; 5];
        for (i, &pooled) in self.pooling_stat.iter().enumerate() {
            // A 3×3 stride-2 pad-1 pool centres its windows on every other pixel, the first included.
            sizes[i + 1] = if pooled { (sizes[i] - 1) / 2 + 1 } else { sizes[i] };
        }
        sizes
    }

    /// N, the tokens of an image.
    pub fn tokens(&self) -> usize {
        let side = self.stage_sizes()[4];
        side * side
    }

    /// Every tensor of a checkpoint, running statistics included, in the order of PyTorch's state_dict
    /// (without `num_batches_tracked`, which nothing here needs).
    pub fn parameters(&self) -> Vec<Parameter> {
        let mut list = Tensors(Vec::new());
        let d = self.embed_dim;
        let mut input = self.in_chans;
        for (i, width) in self.stage_widths().into_iter().enumerate() {
            let n = if i == 0 { String::new() } else { i.to_string() };
            list.conv(&format!("patch_embed.proj_conv{n}"), &[width, input, 3, 3], false);
            list.bn(&format!("patch_embed.proj_bn{n}"), width);
            input = width;
        }
        list.conv("patch_embed.rpe_conv", &[d, d, 3, 3], false);
        list.bn("patch_embed.rpe_bn", d);
        let hidden = self.hidden_dim();
        for b in 0..self.depth {
            for (part, out, input, bias) in [
                ("attn.q", d, d, false),
                ("attn.k", d, d, false),
                ("attn.v", d, d, false),
                ("attn.proj", d, d, true),
                ("mlp.fc1", hidden, d, true),
                ("mlp.fc2", d, hidden, true),
            ] {
                list.conv(&format!("block.{b}.{part}_conv"), &[out, input, 1, 1], bias);
                list.bn(&format!("block.{b}.{part}_bn"), out);
            }
        }
        list.conv("head", &[self.num_classes, d], true);
        list.0
    }

    /// Number of trained scalars, which is what publications call the number of parameters.
    pub fn trainable_parameters(&self) -> u64 {
        self.parameters().iter().filter(|p| p.kind.is_trainable()).map(Parameter::elements).sum()
    }

    /// Name and one-line description of every built-in configuration.
    pub fn presets() -> &'static [(&'static str, &'static str)] {
        &PRESETS
    }

    /// The built-in configuration of that name; `None` for a name that [`Config::presets`] does not list.
    pub fn preset(name: &str) -> Option<Config> {
        const CIFAR10: [&str; 10] =
            ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];
        let tiny = Config {
            arch: Arch::A2os2a,
            img_size: 16,
            in_chans: 3,
            num_classes: 10,
            embed_dim: 32,
            depth: 1,
            num_heads: 2,
            mlp_ratio: 4,
            timesteps: 4,
            pooling_stat: [false, false, true, true],
            tau: 2.0,
            v_threshold: 1.0,
            attn_v_threshold: 1.0,
            v_reset: Some(0.0),
            decay_input: true,
            detach_reset: true,
            surrogate: Surrogate::Sigmoid,
            alpha: Surrogate::Sigmoid.default_alpha(),
            bn_eps: 1e-5,
            mean: None,
            std: None,
            class_names: None,
        };
        let cifar10 = |depth, embed_dim| Config {
            img_size: 32,
            embed_dim,
            depth,
            num_heads: 8,
            mean: Some(vec![0.4914, 0.4822, 0.4465]),
            std: Some(vec![0.2470, 0.2435, 0.2616]),
            class_names: Some(CIFAR10.map(String::from).to_vec()),
            ..tiny.clone()
        };
        let cifar100 = |depth, embed_dim| Config {
            num_classes: 100,
            mean: Some(vec![0.5071, 0.4867, 0.4408]),
            std: Some(vec![0.2675, 0.2565, 0.2761]),
            class_names: None,
            ..cifar10(depth, embed_dim)
        };
        let imagenet = |depth, embed_dim| Config {
            img_size: 224,
            num_classes: 1000,
            embed_dim,
            depth,
            num_heads: 8,
            pooling_stat: [true; 4],
            mean: Some(vec![0.485, 0.456, 0.406]),
            std: Some(vec![0.229, 0.224, 0.225]),
            ..tiny.clone()
        };
        Some(match name {
            "tiny" => tiny,
            "mnist-2-64" => Config {
                img_size: 28,
                in_chans: 1,
                embed_dim: 64,
                depth: 2,
                pooling_stat: [false, true, true, false],
                mean: Some(vec![0.1307]),
                std: Some(vec![0.3081]),
                class_names: Some((0..10).map(|i| i.to_string()).collect()),
                ..tiny
            },
            "cifar10-2-256" => cifar10(2, 256),
            "cifar10-2-512" => cifar10(2, 512),
            "cifar10-4-384" => cifar10(4, 384),
            "cifar100-2-256" => cifar100(2, 256),
            "cifar100-2-512" => cifar100(2, 512),
            "cifar100-4-384" => cifar100(4, 384),
            "imagenet-8-384" => imagenet(8, 384),
            "imagenet-8-512" => imagenet(8, 512),
            "imagenet-10-512" => imagenet(10, 512),
            "imagenet-8-768" => imagenet(8, 768),
            _ => return None,
        })
    }
}

/// The list that [`Config::parameters`] grows.
struct Tensors(Vec<Parameter>);

impl Tensors {
    fn push(&mut self, layer: &str, tensor: &str, shape: &[usize], kind: ParameterKind) {
        self.0.push(Parameter { name: format!("{layer}.{tensor}"), shape: shape.to_vec(), kind });
    }

    fn conv(&mut self, layer: &str, shape: &[usize], bias: bool) {
        self.push(layer, "weight", shape, ParameterKind::Weight);
        if bias {
            self.push(layer, "bias", &shape[..1], ParameterKind::Bias);
        }
    }

    fn bn(&mut self, layer: &str, channels: usize) {
        self.push(layer, "weight", &[channels], ParameterKind::BnWeight);
        self.push(layer, "bias", &[channels], ParameterKind::BnBias);
        self.push(layer, "running_mean", &[channels], ParameterKind::RunningMean);
        self.push(layer, "running_var", &[channels], ParameterKind::RunningVar);
    }
}

fn serialize_pooling<S: Serializer>(stat: &[bool; 4], s: S) -> Result<S::Ok, S::Error> {
    s.collect_str(&stat.map(|b| if b { "1" } else { "0" }).concat())
}

/// A JSON object's members in file order, so that a repeated key is seen instead of overwritten.
struct Members(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Members;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a JSON object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        d.deserialize_map(V)
    }
}

/// A configuration's members on the way to a [`Config`].
struct Keys(BTreeMap<String, Value>);

impl Keys {
    fn parse(text: &str, what: &str) -> Result<Keys> {
        let members: Members = serde_json::from_str(text).map_err(|e| match broken_key(text, &e) {
            Some(key) => Error::config(key, format!("has no valid JSON value ({e}); NaN and Infinity are not JSON")),
            None => Error::format(what, format!("its configuration is no JSON object: {e}")),
        })?;
        let mut map = BTreeMap::new();
        for (key, value) in members.0 {
            if !KEYS.contains(&key.as_str()) {
                return Err(Error::config(clip(&key), format!("is not known; the keys are {}", KEYS.join(", "))));
            }
            if map.insert(key.clone(), value).is_some() {
                return Err(Error::config(key, "is given twice"));
            }
        }
        Ok(Keys(map))
    }

    fn into_config(self) -> Result<Config> {
        let surrogate = self.name("surrogate", &Surrogate::ALL, Surrogate::name, Some(Surrogate::Sigmoid))?;
        Ok(Config {
            arch: self.name("arch", &Arch::ALL, Arch::name, None)?,
            img_size: self.size("img_size")?,
            in_chans: self.size("in_chans")?,
            num_classes: self.size("num_classes")?,
            embed_dim: self.size("embed_dim")?,
            depth: self.size("depth")?,
            num_heads: self.size("num_heads")?,
            mlp_ratio: self.size("mlp_ratio")?,
            timesteps: self.size("T")?,
            pooling_stat: self.pooling()?,
            tau: self.float("tau", 2.0)?,
            v_threshold: self.float("v_threshold", 1.0)?,
            attn_v_threshold: self.float("attn_v_threshold", 1.0)?,
            v_reset: match self.0.get("v_reset") {
                Some(Value::Null) => None,
                _ => Some(self.float("v_reset", 0.0)?),
            },
            decay_input: self.flag("decay_input")?,
            detach_reset: self.flag("detach_reset")?,
            surrogate,
            alpha: self.float("alpha", surrogate.default_alpha())?,
            bn_eps: self.float("bn_eps", 1e-5)?,
            mean: self.list("mean", "numbers", number)?,
            std: self.list("std", "numbers", number)?,
            class_names: self.list("class_names", "strings", |v| v.as_str().map(String::from))?,
        })
    }

    fn need(&self, key: &str) -> Result<&Value> {
        self.0.get(key).ok_or_else(|| Error::config(key, "is missing"))
    }

    fn size(&self, key: &str) -> Result<usize> {
        let value = self.need(key)?;
        let size = value.as_u64().and_then(|n| usize::try_from(n).ok());
        size.ok_or_else(|| wrong(key, value, "a whole number of at least 0"))
    }

    fn float(&self, key: &str, default: f32) -> Result<f32> {
        match self.0.get(key) {
            None => Ok(default),
            Some(value) => number(value).ok_or_else(|| wrong(key, value, "a number")),
        }
    }

    fn flag(&self, key: &str) -> Result<bool> {
        match self.0.get(key) {
            None => Ok(true),
            Some(value) => value.as_bool().ok_or_else(|| wrong(key, value, "true or false")),
        }
    }

    fn name<T: Copy>(&self, key: &str, all: &[T], name: fn(T) -> &'static str, default: Option<T>) -> Result<T> {
        let value = match (self.0.get(key), default) {
            (None, Some(default)) => return Ok(default),
            (None, None) => self.need(key)?,
            (Some(value), _) => value,
        };
        let found = all.iter().find(|t| value.as_str() == Some(name(**t)));
        let names = || all.iter().map(|t| format!("{:?}", name(*t))).collect::<Vec<_>>().join(", ");
        found.copied().ok_or_else(|| wrong(key, value, &format!("one of {}", names())))
    }

    fn pooling(&self) -> Result<[bool; 4]> {
        let value = self.need("pooling_stat")?;
        let digits = value.as_str().map(str::as_bytes).unwrap_or_default();
        match <[u8; 4]>::try_from(digits) {
            Ok(digits) if digits.iter().all(|d| matches!(d, b'0' | b'1')) => Ok(digits.map(|d| d == b'1')),
            _ => Err(wrong("pooling_stat", value, "a string of four 0 or 1, e.g. \"0011\"")),
        }
    }

    fn list<T>(&self, key: &str, of: &str, item: fn(&Value) -> Option<T>) -> Result<Option<Vec<T>>> {
        match self.0.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => {
                let items = value.as_array().and_then(|a| a.iter().map(item).collect());
                items.map(Some).ok_or_else(|| wrong(key, value, &format!("a list of {of}")))
            }
        }
    }
}

fn number(value: &Value) -> Option<f32> {
    value.as_f64().map(|v| v as f32)
}

fn wrong(key: &str, value: &Value, wanted: &str) -> Error {
    Error::config(key, format!("is {}; it must be {wanted}", clip(&value.to_string())))
}

/// The known key whose value the JSON parser stumbled over: the last one ahead of the error.
fn broken_key(text: &str, error: &serde_json::Error) -> Option<&'static str> {
    let start: usize = text.split_inclusive('\n').take(error.line().saturating_sub(1)).map(str::len).sum();
    let end = (start + error.column()).min(text.len());
    let ahead = text.as_bytes().get(..end)?;
    let (at, key) = KEYS
        .iter()
        .filter_map(|key| {
            let quoted = format!("\"{key}\"");
            ahead.windows(quoted.len()).rposition(|w| w == quoted.as_bytes()).map(|at| (at + quoted.len(), *key))
        })
        .max()?;
    // Only a key that is followed by a colon and the start of a value is at fault; else it is the object itself.
    let rest = String::from_utf8_lossy(&ahead[at..]);
    let value = rest.trim_start().strip_prefix(':')?.trim_start();
    (!value.is_empty() && !value.contains(',')).then_some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TINY: &str = r#"{"arch": "a2os2a", "img_size": 16, "in_chans": 3, "num_classes": 10, "embed_dim": 32,
        "depth": 1, "num_heads": 2, "mlp_ratio": 4, "T": 4, "pooling_stat": "0011", "tau": 2.0, "v_threshold": 1.0,
        "attn_v_threshold": 1.0, "v_reset": 0.0, "decay_input": true, "detach_reset": true, "surrogate": "sigmoid",
        "alpha": 4.0, "bn_eps": 1e-05}"#;

    /// TINY with one key set to a JSON value, or taken out.
    fn with(key: &str, value: Option<&str>) -> String {
        let mut map: serde_json::Map<String, Value> = serde_json::from_str(TINY).unwrap();
        match value {
            Some(v) => map.insert(key.into(), serde_json::from_str(v).unwrap()),
            None => map.remove(key),
        };
        serde_json::to_string(&map).unwrap()
    }

    fn error_key(text: &str) -> String {
        match Config::from_json(text, "test.json") {
            Err(e @ Error::Config { .. }) => {
                let message = e.to_string();
                assert!(message.contains("test.json") && message.lines().count() == 1, "{message}");
                let Error::Config { key, .. } = e else { unreachable!() };
                key
            }
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn reads_what_it_writes() {
        assert_eq!(Config::from_json(TINY, "t").unwrap(), Config::preset("tiny").unwrap());
        for (name, _) in Config::presets() {
            let config = Config::preset(name).unwrap();
            assert_eq!(Config::from_json(&config.to_json(), name).unwrap(), config);
        }
        let odd =
            Config { tau: 1.1, bn_eps: 1e-12, v_reset: None, alpha: 1.0 / 3.0, ..Config::preset("tiny").unwrap() };
        assert_eq!(Config::from_json(&odd.to_json(), "t").unwrap(), odd);
    }

    #[test]
    fn floats_are_written_short() {
        let text = Config::preset("mnist-2-64").unwrap().to_json();
        for part in [r#""tau":2.0"#, r#""v_reset":0.0"#, r#""mean":[0.1307]"#, r#""T":4"#, r#""pooling_stat":"0110""#] {
            assert!(text.contains(part), "{part} in {text}");
        }
        // Which of the short spellings it is is up to the JSON crate.
        assert!(["1e-05", "1e-5", "0.00001"].iter().any(|e| text.contains(&format!("\"bn_eps\":{e},"))), "{text}");
        assert!(!Config::preset("tiny").unwrap().to_json().contains("class_names"));
    }

    #[test]
    fn defaults_fill_only_the_neuron() {
        for key in KEYS {
            let text = with(key, None);
            let structural = KEYS.iter().position(|k| *k == key).unwrap() <= 9;
            if structural {
                assert_eq!(error_key(&text), key);
            } else {
                assert_eq!(Config::from_json(&text, "t").unwrap(), Config::preset("tiny").unwrap(), "{key}");
            }
        }
        let atan: Value = serde_json::from_str(&with("surrogate", Some("\"atan\""))).unwrap();
        let mut atan = atan.as_object().unwrap().clone();
        atan.remove("alpha");
        assert_eq!(Config::from_json(&Value::Object(atan).to_string(), "t").unwrap().alpha, 2.0);
        assert_eq!(Config::from_json(&with("v_reset", Some("null")), "t").unwrap().v_reset, None);
    }

    #[test]
    fn out_of_range_and_wrong_types_name_the_key() {
        let sizes =
            ["img_size", "in_chans", "num_classes", "embed_dim", "depth", "num_heads", "mlp_ratio", "T"].map(|k| {
                let values = ["0", "-1", "1.5", "4.0", "\"4\"", "null", "true", "[]", "1e30", "18446744073709551615"];
                (k, values.to_vec())
            });
        let positive = ["v_threshold", "attn_v_threshold", "alpha", "bn_eps"]
            .map(|k| (k, vec!["0", "-1", "1e39", "1e-60", "\"1\"", "null", "true"]));
        let other = [
            ("arch", vec!["\"spikformer\"", "1", "null"]),
            ("embed_dim", vec!["7", "12", "16392"]),
            ("num_heads", vec!["3", "33", "64"]),
            ("T", vec!["33"]),
            ("tau", vec!["0.5", "-2", "1e39", "\"2\"", "null"]),
            ("v_reset", vec!["1", "1.5", "1e39", "-1e39", "\"0\"", "false"]),
            ("surrogate", vec!["\"Sigmoid\"", "\"relu\"", "0"]),
            ("pooling_stat", vec!["\"001\"", "\"00111\"", "\"0012\"", "11", "\"\"", "\"ééé\""]),
            ("decay_input", vec!["1", "\"true\"", "null"]),
            ("detach_reset", vec!["0", "[]"]),
            ("mean", vec!["[]", "[0.5]", "[0.1, 0.2, \"x\"]", "[0.1, 0.2, 1e39]", "0.5"]),
            ("std", vec!["[0.5]", "[0.1, 0.2, 0]", "[0.1, 0.2, -0.1]", "[0.1, 0.2, 1e-60]"]),
            ("class_names", vec!["[\"a\"]", "[1]", "\"a\""]),
            ("img_size", vec!["16385"]),
            ("num_classes", vec!["1000001"]),
            ("depth", vec!["1025"]),
            ("mlp_ratio", vec!["65"]),
            ("in_chans", vec!["4097"]),
        ];
        for (key, values) in sizes.into_iter().chain(positive).chain(other) {
            for value in values {
                // Not every other key fits a changed img_size and so on, but the ranges are checked first.
                assert_eq!(error_key(&with(key, Some(value))), key, "{key} = {value}");
            }
        }
        assert_eq!(error_key(&with("dropout", Some("0.1"))), "dropout");
        assert_eq!(error_key(&TINY.replace("\"depth\": 1", "\"depth\": 1, \"depth\": 2")), "depth");
    }

    #[test]
    fn broken_json_names_the_key_where_it_can() {
        assert_eq!(error_key(&TINY.replace("\"v_reset\": 0.0", "\"v_reset\": NaN")), "v_reset");
        assert_eq!(error_key(&TINY.replace("\"tau\": 2.0", "\"tau\": Infinity")), "tau");
        for text in ["", "[]", "3", "{", "null", "{}}", "{\"depth\" 1}", "\u{0}", "{\"é"] {
            assert!(Config::from_json(text, "test.json").is_err(), "{text}");
        }
        for end in 0..TINY.len() {
            assert!(Config::from_json(&TINY[..end], "test.json").is_err());
        }
    }

    #[test]
    fn parameter_counts_are_the_published_ones() {
        for (name, count) in [
            ("tiny", 28_942),
            ("cifar10-2-256", 2_566_954),
            ("cifar10-2-512", 10_233_418),
            ("cifar10-4-384", 9_320_122),
            ("imagenet-8-384", 16_816_024),
            ("imagenet-8-512", 29_689_384),
            ("imagenet-10-512", 36_005_416),
            ("imagenet-8-768", 66_338_632),
        ] {
            assert_eq!(Config::preset(name).unwrap().trainable_parameters(), count, "{name}");
        }
    }

    #[test]
    fn presets_describe_themselves() {
        for (name, text) in Config::presets() {
            let config = Config::preset(name).unwrap();
            config.validate().unwrap();
            let n = config.trainable_parameters();
            let exact = n.to_string();
            let exact = format!("{},{}", &exact[..exact.len() - 3], &exact[exact.len() - 3..]);
            assert!(text.contains(&exact) || text.contains(&format!("{:.2} M", n as f64 / 1e6)), "{name}: {text}, {n}");
        }
        assert_eq!(Config::preset("no-such"), None);
    }

    #[test]
    fn geometry() {
        let mnist = Config::preset("mnist-2-64").unwrap();
        assert_eq!(mnist.stage_sizes(), [28, 28, 14, 7, 7]);
        assert_eq!(mnist.stage_widths(), [8, 16, 32, 64]);
        assert_eq!((mnist.tokens(), mnist.head_dim(), mnist.hidden_dim()), (49, 32, 256));
        let net = Config::preset("imagenet-8-768").unwrap();
        assert_eq!(net.stage_sizes(), [224, 112, 56, 28, 14]);
        let odd = Config { img_size: 5, pooling_stat: [true; 4], ..mnist };
        assert_eq!(odd.stage_sizes(), [5, 3, 2, 1, 1]);
    }
}
