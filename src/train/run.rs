//! A run's folder: what training writes, and goes on from.
//!
//! `last.safetensors` holds everything that a run continues with, weights, optimizer and place in the data, and is replaced
//! as one file, so that a run that ends at any moment goes on from there. `metrics.jsonl` has a line for each epoch that it
//! has seen the end of, `curves.svg` draws them, `best.safetensors` is the model with the highest test accuracy, and
//! `recipe.json` says how it was trained.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::curves;
use super::metrics::EpochMetrics;
use super::recipe::Recipe;
use crate::checkpoint::{Checkpoint, Dtype, Tensor};
use crate::files::write_aside;
use crate::kernels::attention::Order;
use crate::tensor_file::{self, Data, TensorFile};
use crate::{Error, Result};

/// The metadata key of a [`Progress`].
const KEY: &str = "training";

/// Where a run is, beside its tensors.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Epochs done.
    pub epoch: u64,
    /// Steps done in the epoch after those.
    pub step_in_epoch: u64,
    /// Steps done in all.
    pub step: u64,
    /// How many pictures there are to train on; with more or fewer, every batch would be another.
    pub images: u64,
    /// [`crate::data::Dataset::fingerprint`] of these.
    pub data: u64,
    /// The attention's order that was asked for, as the two round differently.
    pub order: Option<Order>,
    /// The highest test accuracy so far, and its epoch.
    pub best: Option<(f64, u64)>,
    /// What has been counted of the epoch that is not done.
    pub sums: Sums,
    /// The device, as results of others may differ in rounding.
    pub device: String,
}

impl Progress {
    /// Whether a run whose epochs have `steps` steps can be here.
    pub(super) fn is_consistent(&self, recipe: &Recipe, steps: u64) -> bool {
        let sums = &self.sums;
        let mut counts = [sums.steps, sums.images].into_iter().chain(sums.spikes.iter().flat_map(|&(_, s, p)| [s, p]));
        self.epoch <= recipe.epochs
            && self.step_in_epoch <= steps
            && self.step == self.epoch * steps + self.step_in_epoch
            && self.best.is_none_or(|(accuracy, epoch)| (0.0..=1.0).contains(&accuracy) && epoch <= self.epoch)
            && sums.steps == self.step_in_epoch
            && sums.correct <= sums.images
            && counts.try_fold(0u64, u64::checked_add).is_some()
            && [sums.loss, sums.grad_norm, sums.seconds].iter().all(|v| v.is_finite())
    }
}

/// What is counted while an epoch goes on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sums {
    /// Steps.
    pub steps: u64,
    /// Pictures.
    pub images: u64,
    /// Sum of the pictures' losses.
    pub loss: f64,
    /// Pictures that were right.
    pub correct: u64,
    /// Sum of the gradients' norms.
    pub grad_norm: f64,
    /// Seconds.
    pub seconds: f64,
    /// By layer in their order: spikes, and neurons × timesteps × images.
    pub spikes: Vec<(String, u64, u64)>,
}

/// A run's folder, which no other process can open as one meanwhile.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    /// Locked until it is closed.
    _lock: File,
}

/// What a run goes on from.
pub struct Saved {
    /// The weights.
    pub checkpoint: Checkpoint,
    /// Optimizer and averaged weights, as [`super::TrainingPlan::state`] gives them.
    pub state: BTreeMap<String, Tensor>,
    /// Where it is.
    pub progress: Progress,
    /// How it is trained.
    pub recipe: Recipe,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    progress: Progress,
    recipe: Recipe,
}

/// What a run writes.
const FILES: [&str; 5] = ["last.safetensors", "best.safetensors", "metrics.jsonl", "curves.svg", "recipe.json"];

fn stored(file: &TensorFile, path: &Path) -> Result<Stored> {
    let what = path.display();
    let Some(text) = file.metadata.get(KEY) else {
        let why = "holds no training state: it is no run's last.safetensors; start from it with `--init`";
        return Err(Error::format(what, why));
    };
    let stored: Stored = serde_json::from_str(text)
        .map_err(|e| Error::format(&what, format!("its training state is damaged: {e}; start anew")))?;
    stored.recipe.validate().map(|()| stored)
}

impl RunFolder {
    /// A folder for a new run, made if need be.
    ///
    /// # Errors
    /// [`Error::Input`] if it holds a run, [`Error::Io`].
    pub fn create(path: &Path) -> Result<Self> {
        if let Some(file) = FILES.iter().find(|f| path.join(f).exists()) {
            let path = path.display();
            return Err(Error::Input(format!(
                "{path} holds a run already ({file}); go on with it by `--resume`, or choose another folder"
            )));
        }
        Self::open(path)
    }

    fn open(path: &Path) -> Result<Self> {
        std::fs::create_dir_all(path).map_err(|e| Error::io(path, e))?;
        let lock = path.join(".lock");
        let file = File::create(&lock).map_err(|e| Error::io(&lock, e))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let path = path.display();
                return Err(Error::Input(format!(
                    "{path} is in use by another process; wait for it, or choose another folder"
                )));
            }
            // Some file systems have no locks.
            Err(TryLockError::Error(e)) => log::warn!("{}: cannot be locked: {e}", lock.display()),
        }
        let folder = RunFolder { path: path.to_owned(), _lock: file };
        crate::files::check_writable(&folder.last())?;
        Ok(folder)
    }

    /// The recipe of the run in a folder, if one has saved anything.
    ///
    /// # Errors
    /// As [`RunFolder::resume`].
    pub fn stored_recipe(path: &Path) -> Result<Option<Recipe>> {
        let last = path.join("last.safetensors");
        if !last.exists() {
            return Ok(None);
        }
        Ok(Some(stored(&tensor_file::read(&last)?, &last)?.recipe))
    }

    /// The folder of a run that is to go on; `None` for the second if it has saved nothing yet.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Format`] or [`Error::Checkpoint`] for a file that no run of ours has saved.
    pub fn resume(path: &Path) -> Result<(Self, Option<Saved>)> {
        let folder = Self::open(path)?;
        if !folder.last().exists() {
            if let Some(file) = FILES.iter().find(|f| **f != "recipe.json" && path.join(f).exists()) {
                return Err(Error::Input(format!(
                    "{} has a {file} but no last.safetensors to go on from; choose another folder",
                    path.display()
                )));
            }
            return Ok((folder, None));
        }
        // What a process that was killed while it wrote has left.
        for entry in std::fs::read_dir(path).map_err(|e| Error::io(path, e))?.flatten() {
            if entry.file_name().to_string_lossy().starts_with(".spikeshade-") {
                let _ = std::fs::remove_file(entry.path());
            }
        }
        let file = tensor_file::read(&folder.last())?;
        let mut checkpoint = Checkpoint::load(folder.last(), false)?;
        // That is this file's, not the model's.
        checkpoint.metadata.remove(KEY);
        checkpoint.metadata.remove("format");
        let Stored { progress, recipe } = stored(&file, &folder.last())?;
        let mut state = BTreeMap::new();
        for name in file.names().filter(|n| Checkpoint::is_training_state(n)) {
            state.insert(name.to_owned(), Tensor { shape: file.shape(name)?.to_vec(), data: file.f32(name)? });
        }
        // Epochs that were over, but not saved as such, come again.
        let kept: Vec<EpochMetrics> = folder.metrics()?.into_iter().filter(|m| m.epoch <= progress.epoch).collect();
        folder.write_metrics(&kept)?;
        Ok((folder, Some(Saved { checkpoint, state, progress, recipe })))
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where everything is that a run goes on from.
    pub fn last(&self) -> PathBuf {
        self.path.join("last.safetensors")
    }

    /// Where the best model is.
    pub fn best(&self) -> PathBuf {
        self.path.join("best.safetensors")
    }

    /// Where a line is written for each epoch.
    pub fn metrics_path(&self) -> PathBuf {
        self.path.join("metrics.jsonl")
    }

    /// Writes the recipe, to be read by people and `--config`.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn save_recipe(&self, recipe: &Recipe) -> Result<()> {
        let path = self.path.join("recipe.json");
        let text = serde_json::to_string_pretty(recipe).map_err(|e| Error::format(path.display(), e.to_string()))?;
        write_aside(&path, format!("{text}\n").as_bytes())
    }

    /// Writes `last.safetensors`.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Checkpoint`] if a weight is not finite, and the file stays as it was.
    pub fn save(
        &self,
        checkpoint: &Checkpoint,
        state: BTreeMap<String, Tensor>,
        progress: &Progress,
        recipe: &Recipe,
    ) -> Result<()> {
        // Of what could not be loaded again nothing is saved.
        checkpoint.check()?;
        let stored = Stored { progress: progress.clone(), recipe: recipe.clone() };
        let text = serde_json::to_string(&stored).map_err(|e| Error::format(KEY, e.to_string()))?;
        let mut metadata = checkpoint.metadata.clone();
        metadata.insert("config".to_owned(), checkpoint.config.to_json());
        metadata.insert("format".to_owned(), "pt".to_owned());
        metadata.insert(KEY.to_owned(), text);
        let tensors = checkpoint.tensors.iter().map(|(n, t)| (n.clone(), t.clone())).chain(state);
        let tensors = tensors.map(|(name, t)| (name, t.shape, Data::F32(t.data))).collect();
        write_aside(&self.last(), &tensor_file::to_bytes(tensors, &metadata)?)
    }

    /// Writes `best.safetensors`.
    ///
    /// # Errors
    /// As [`Checkpoint::save`].
    pub fn save_best(&self, checkpoint: &Checkpoint) -> Result<()> {
        checkpoint.save(self.best(), Dtype::F32)
    }

    /// All epochs' metrics.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Format`] naming a line that is none of ours.
    pub fn metrics(&self) -> Result<Vec<EpochMetrics>> {
        let path = self.metrics_path();
        let text = match std::fs::read_to_string(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            text => text.map_err(|e| Error::io(&path, e))?,
        };
        let line = |(i, line): (usize, &str)| {
            let bad = |e| Error::format(format!("{}:{}", path.display(), i + 1), format!("is no epoch's metrics: {e}"));
            serde_json::from_str(line).map_err(bad)
        };
        text.lines().filter(|l| !l.trim().is_empty()).enumerate().map(line).collect()
    }

    /// Writes `metrics.jsonl` and `curves.svg`.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write_metrics(&self, metrics: &[EpochMetrics]) -> Result<()> {
        let path = self.metrics_path();
        let mut text = String::new();
        for m in metrics {
            let line = serde_json::to_string(m).map_err(|e| Error::format(path.display(), e.to_string()))?;
            text += &line;
            text.push('\n');
        }
        write_aside(&path, text.as_bytes())?;
        let title = self.path.file_name().map_or_else(|| "training".into(), |n| n.to_string_lossy());
        write_aside(&self.path.join("curves.svg"), curves::svg(&title, metrics).as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_saved_is_read_to_the_bit() {
        for accuracy in [14.0 / 15.0, 1.0 / 3.0, 0.1 + 0.2] {
            let sums = Sums { loss: accuracy * 12_345.678, seconds: accuracy / 7.0, ..Sums::default() };
            let progress = Progress { best: Some((accuracy, 1)), sums, ..Progress::default() };
            let text = serde_json::to_string(&progress).unwrap();
            assert_eq!(serde_json::from_str::<Progress>(&text).unwrap(), progress);
            let metrics = EpochMetrics { train_loss: accuracy, test_loss: f64::NAN, ..EpochMetrics::default() };
            let read: EpochMetrics = serde_json::from_str(&serde_json::to_string(&metrics).unwrap()).unwrap();
            assert_eq!(read.train_loss.to_bits(), accuracy.to_bits());
            assert!(read.test_loss.is_nan());
        }
    }
}
