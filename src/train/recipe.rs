//! How a model is trained, as a file: what a run is made from and can be resumed with.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::plan::{Optimizer, Settings};
use crate::config::Config;
use crate::data::Augmentation;
use crate::kernels::attention::Order;
use crate::{Error, Result};

/// A recipe: model, optimizer, schedule and augmentation. In a file (TOML or JSON), everything but `model`, `epochs`, `batch`
/// and `lr` may be left out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// The name of a configuration, as `spikeshade init --list` has them, or the configuration itself.
    #[serde(with = "model")]
    pub model: Config,
    /// How often every picture is shown.
    pub epochs: u64,
    /// Pictures a step.
    pub batch: usize,
    /// Pictures that run at once, a divisor of `batch`; batch norm's statistics are those of so many. 0: the whole batch.
    #[serde(default)]
    pub micro_batch: usize,
    /// What every random choice follows from.
    #[serde(default)]
    pub seed: u64,
    /// Learning rate after warm-up.
    pub lr: f64,
    /// Learning rate of the first step, from which warm-up rises in equal steps.
    #[serde(default)]
    pub warmup_lr: f64,
    /// Epochs of warm-up; may be a fraction.
    #[serde(default)]
    pub warmup_epochs: f64,
    /// Learning rate that the cosine ends in.
    #[serde(default)]
    pub min_lr: f64,
    /// Epochs at `min_lr` after the cosine, which ends as much earlier; may be a fraction.
    #[serde(default)]
    pub cooldown_epochs: f64,
    /// Weight decay, of the weights of convolutions and the head only.
    #[serde(default)]
    pub weight_decay: f64,
    /// The largest global norm of the gradient; 0: no limit.
    #[serde(default)]
    pub clip_norm: f64,
    /// How much of the averaged weights stays from step to step, e.g. 0.9998; 0: no average. Where there is one, it is what is
    /// evaluated and kept as the best model.
    #[serde(default)]
    pub ema_decay: f64,
    /// The part of each target that is spread over all classes.
    #[serde(default)]
    pub label_smoothing: f64,
    /// Keep less for the backward pass, and compute it twice: less memory.
    #[serde(default)]
    pub recompute: bool,
    /// The optimizer.
    #[serde(default)]
    pub optimizer: Optimizer,
    /// What is done to pictures.
    #[serde(default)]
    pub augmentation: Augmentation,
}

mod model {
    use super::*;
    use serde::de::Error as _;
    use serde::ser::Error as _;
    use serde::{Deserializer, Serializer};

    pub fn serialize<S: Serializer>(config: &Config, s: S) -> std::result::Result<S::Ok, S::Error> {
        let value: Value = serde_json::from_str(&config.to_json()).map_err(S::Error::custom)?;
        value.serialize(s)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> std::result::Result<Config, D::Error> {
        match Value::deserialize(d)? {
            Value::String(name) => Config::preset(&name).ok_or_else(|| {
                D::Error::custom(format!("there is no model {name:?}; `spikeshade init --list` names them all"))
            }),
            value => Config::from_json(&value.to_string(), "`model`").map_err(D::Error::custom),
        }
    }
}

macro_rules! preset {
    ($name:literal, $about:literal) => {
        ($name, $about, include_str!(concat!("../../recipes/", $name, ".toml")))
    };
}

/// Name, one line of what it is, and text of every preset.
const PRESETS: [(&str, &str, &str); 12] = [
    preset!("mnist", "MNIST, the built-in model's recipe"),
    preset!("cifar10-2-128", "CIFAR-10, D 128, depth 2, T 2, for a processor"),
    preset!("cifar10-2-256", "CIFAR-10, D 256, depth 2, as the Spike-Driven Transformer"),
    preset!("cifar10-2-512", "CIFAR-10, D 512, depth 2, as the Spike-Driven Transformer"),
    preset!("cifar10-4-384", "CIFAR-10, D 384, depth 4, as Spikformer"),
    preset!("cifar100-2-256", "CIFAR-100, D 256, depth 2, as the Spike-Driven Transformer"),
    preset!("cifar100-2-512", "CIFAR-100, D 512, depth 2, as the Spike-Driven Transformer"),
    preset!("cifar100-4-384", "CIFAR-100, D 384, depth 4, as Spikformer"),
    preset!("imagenet-8-384", "ImageNet-1k, D 384, depth 8, as Spikformer"),
    preset!("imagenet-8-512", "ImageNet-1k, D 512, depth 8, as Spikformer"),
    preset!("imagenet-10-512", "ImageNet-1k, D 512, depth 10, as Spikformer"),
    preset!("imagenet-8-768", "ImageNet-1k, D 768, depth 8, as Spikformer"),
];

impl Recipe {
    /// Name and one-line description of every preset.
    pub fn presets() -> impl Iterator<Item = (&'static str, &'static str)> {
        PRESETS.iter().map(|&(name, about, _)| (name, about))
    }

    /// The preset of that name.
    ///
    /// # Errors
    /// [`Error::Input`] for a name that [`Recipe::presets`] does not list.
    pub fn preset(name: &str) -> Result<Recipe> {
        match PRESETS.iter().find(|p| p.0 == name) {
            Some((name, _, text)) => Recipe::from_toml(text, name),
            None => {
                let names: Vec<_> = Recipe::presets().map(|p| p.0).collect();
                Err(Error::Input(format!("there is no preset {name:?}; there are {}", names.join(", "))))
            }
        }
    }

    /// The preset's text, to be saved and changed.
    pub fn preset_text(name: &str) -> Option<&'static str> {
        PRESETS.iter().find(|p| p.0 == name).map(|p| p.2)
    }

    /// Reads a recipe file: JSON if its name ends so, else TOML.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Format`] naming the line of what is no recipe; [`Error::Config`] for a value out of range.
    pub fn load(path: &Path) -> Result<Recipe> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
        let what = path.display().to_string();
        match path.extension().is_some_and(|e| e.eq_ignore_ascii_case("json")) {
            true => Recipe::from_json(&text, &what),
            false => Recipe::from_toml(&text, &what),
        }
    }

    fn from_toml(text: &str, what: &str) -> Result<Recipe> {
        let recipe: Recipe = toml::from_str(text).map_err(|e| Error::format(what, format!("is no recipe: {e}")))?;
        recipe.validate().map(|()| recipe)
    }

    /// Reads a recipe from JSON; `what` names it in messages.
    ///
    /// # Errors
    /// As [`Recipe::load`].
    pub fn from_json(text: &str, what: &str) -> Result<Recipe> {
        let recipe: Recipe =
            serde_json::from_str(text).map_err(|e| Error::format(what, format!("is no recipe: {e}")))?;
        recipe.validate().map(|()| recipe)
    }

    /// Checks every value.
    ///
    /// # Errors
    /// [`Error::Config`] naming the key that is out of range.
    pub fn validate(&self) -> Result<()> {
        self.model.validate()?;
        for (key, value) in [("epochs", self.epochs), ("batch", self.batch as u64)] {
            const MOST: u64 = 1 << 20;
            if !(1..=MOST).contains(&value) {
                return Err(Error::config(key, format!("is {value}; use 1 to {MOST}")));
            }
        }
        if self.micro_batch > 0 && !self.batch.is_multiple_of(self.micro_batch) {
            let why = format!("is {}, which does not divide the batch of {}", self.micro_batch, self.batch);
            return Err(Error::config("micro_batch", why));
        }
        let (beta1, beta2, eps) = match self.optimizer {
            Optimizer::AdamW { beta1, beta2, eps } => (beta1, beta2, eps),
            Optimizer::Sgd { momentum, .. } => (momentum, 0.0, 1.0),
        };
        let below_one = 1.0 - f64::EPSILON;
        for (key, value, low, high) in [
            ("lr", self.lr, 0.0, 1e3),
            ("warmup_lr", self.warmup_lr, 0.0, 1e3),
            ("warmup_epochs", self.warmup_epochs, 0.0, 1e6),
            ("min_lr", self.min_lr, 0.0, 1e3),
            ("cooldown_epochs", self.cooldown_epochs, 0.0, 1e6),
            ("weight_decay", self.weight_decay, 0.0, 1e3),
            ("clip_norm", self.clip_norm, 0.0, 1e30),
            ("ema_decay", self.ema_decay, 0.0, below_one),
            ("label_smoothing", self.label_smoothing, 0.0, below_one),
            ("beta1 or momentum", beta1, 0.0, below_one),
            ("beta2", beta2, 0.0, below_one),
            ("eps", eps, 1e-30, 1.0),
        ] {
            if !(low..=high).contains(&value) {
                return Err(Error::config(key, format!("is {value}; use {low} to {high}")));
            }
        }
        self.augmentation.validate()
    }

    /// How many batches a step takes, and how many pictures each has.
    pub fn micro_batches(&self) -> (usize, usize) {
        let each = if self.micro_batch == 0 { self.batch } else { self.micro_batch };
        (self.batch / each, each)
    }

    /// What its training plan is recorded for.
    pub fn settings(&self, order: Option<Order>) -> Settings {
        let (micro_batches, batch) = self.micro_batches();
        Settings {
            optimizer: self.optimizer,
            clip_norm: self.clip_norm,
            ema: self.ema_decay > 0.0,
            batch,
            micro_batches,
            order,
            recompute: self.recompute,
            frozen: false,
        }
    }

    /// The learning rate of step `step`, the first of which is 0, where an epoch has `steps`: a line up from `warmup_lr`, then
    /// a cosine from `lr` down to `min_lr`, which it reaches in the last step before the cool-down.
    pub fn lr_at(&self, step: u64, steps: u64) -> f64 {
        let warmup = (self.warmup_epochs * steps as f64).round();
        let last = ((self.epochs as f64 - self.cooldown_epochs) * steps as f64).round() - 1.0;
        let step = step as f64;
        if step < warmup {
            return self.warmup_lr + (self.lr - self.warmup_lr) * step / warmup;
        }
        let done = ((step - warmup) / (last - warmup).max(1.0)).min(1.0);
        self.min_lr + (self.lr - self.min_lr) * 0.5 * (1.0 + libm::cos(std::f64::consts::PI * done))
    }

    /// The decay of the averaged weights in step `step`, the first of which is 1: less at first, so that the random
    /// beginning is forgotten.
    pub fn ema_decay_at(&self, step: u64) -> f64 {
        let n = step as f64;
        self.ema_decay.min((1.0 + n) / (10.0 + n))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_are_valid_and_survive_json() {
        for (name, _) in Recipe::presets() {
            let recipe = Recipe::preset(name).unwrap_or_else(|e| panic!("{name}: {e}"));
            let json = serde_json::to_string(&recipe).unwrap();
            assert_eq!(Recipe::from_json(&json, name).unwrap(), recipe, "{name}");
        }
        assert!(Recipe::preset("no such").is_err());
    }

    #[test]
    fn the_schedule_rises_and_falls() {
        let text =
            "model = 'tiny'\nepochs = 10\nbatch = 8\nlr = 1.0\nwarmup_epochs = 2\nwarmup_lr = 0.1\nmin_lr = 0.01";
        let recipe = Recipe::from_toml(text, "test").unwrap();
        let lr: Vec<f64> = (0..50).map(|step| recipe.lr_at(step, 5)).collect();
        assert_eq!((lr[0], lr[10]), (0.1, 1.0));
        assert!((lr[5] - 0.55).abs() < 1e-12 && (lr[49] - 0.01).abs() < 1e-12);
        let cooled = Recipe { cooldown_epochs: 2.0, ..recipe };
        assert_eq!([39, 40, 49].map(|step| cooled.lr_at(step, 5)), [0.01; 3]);
        assert!(cooled.lr_at(38, 5) > 0.01);
        assert!(lr[..11].windows(2).all(|w| w[0] < w[1]) && lr[10..].windows(2).all(|w| w[0] > w[1]));
    }

    #[test]
    fn bad_recipes_name_the_key() {
        let good = "model = 'tiny'\nepochs = 1\nbatch = 8\nlr = 1.0\n";
        for (extra, named) in [
            ("micro_batch = 3", "micro_batch"),
            ("lr_ = 1", "lr_"),
            ("ema_decay = 1.0", "ema_decay"),
            ("weight_decay = nan", "weight_decay"),
            ("[optimizer]\nkind = 'adam'", "adam"),
            ("[optimizer]\nkind = 'sgd'\nmomentum = 1.5", "momentum"),
            ("[augmentation]\nflip = 2.0", "flip"),
        ] {
            let error = Recipe::from_toml(&format!("{good}{extra}"), "test").unwrap_err().to_string();
            assert!(error.contains(named), "{extra}: {error}");
        }
    }
}
