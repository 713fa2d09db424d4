//! `spikeshade classify`.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use rayon::prelude::*;
use serde_json::{Value, json};

use super::{Common, RunArgs, StrictArgs, class_name, complain, count, message, print, print_json};
use crate::checkpoint::Checkpoint;
use crate::data::{Invert, Picture, Preparation};
use crate::error::escaped;
use crate::layers::Options;
use crate::model::Model;
use crate::outputs::{probabilities, ranked};
use crate::session::{Device, Input, Session};

/// How many classes are shown.
const SHOWN: usize = 5;
/// After how many unreadable pictures the others are only counted.
const COMPLAINTS: usize = 15;

const EXAMPLES: &str = "\
Examples:
  spikeshade classify digit.png
  spikeshade classify examples/images --device cpu
  spikeshade classify --model cifar10.safetensors cat.jpg dog.jpg --json

Without --model the built-in model runs, which knows handwritten digits. A model
of grey digits gets them light on dark, as it was trained: a drawing with a
light border is inverted, and its ink is scaled and centred as MNIST's was. Any
other model gets the central square of the picture at its own size.

A picture that cannot be read is reported on stderr and the others are
classified; the exit code is then 1. With --json, `failed` lists it.";

/// Say what is in pictures: the five most likely classes of each
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Classify {
    /// PNG, JPEG or BMP files; of a folder, every such file directly in it
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<PathBuf>,
    /// A checkpoint: a .safetensors file, or a folder with config.json and model.safetensors [default: the built-in
    /// MNIST model]
    #[arg(short, long, value_name = "M")]
    model: Option<PathBuf>,
    /// Invert pictures before a grey model sees them: auto inverts dark digits on light ground
    #[arg(long, value_enum, default_value_t)]
    invert: InvertArg,
    /// Pictures that run at once
    #[arg(short, long, value_name = "N", default_value_t = 32, value_parser = count())]
    batch: usize,
    #[command(flatten)]
    strict: StrictArgs,
    #[command(flatten)]
    run: RunArgs,
}

#[derive(Clone, Copy, Default, ValueEnum)]
enum InvertArg {
    /// Dark digits on light ground, for a model of grey digits
    #[default]
    Auto,
    /// Always
    Yes,
    /// Never
    No,
}

/// Pictures that could not be used.
#[derive(Default)]
struct Failures(Vec<(PathBuf, String)>);

impl Failures {
    fn report(&mut self, path: &Path, why: &anyhow::Error) {
        let why = message(why);
        if self.0.len() < COMPLAINTS {
            complain("error", &why);
        }
        self.0.push((path.to_path_buf(), why));
    }

    fn conclude(&self) {
        if self.0.len() > COMPLAINTS {
            complain("error", format!("{} more pictures cannot be read; look at them", self.0.len() - COMPLAINTS));
        }
    }
}

impl Classify {
    pub(super) fn run(&self, common: &Common) -> Result<ExitCode> {
        let checkpoint = match &self.model {
            Some(path) => self.strict.load(path)?,
            None => Checkpoint::built_in()?,
        };
        let model = Arc::new(self.run.weights.model(&checkpoint)?);
        let invert = match self.invert {
            InvertArg::Auto => Invert::Auto,
            InvertArg::Yes => Invert::Yes,
            InvertArg::No => Invert::No,
        };
        let preparation = Preparation::new(model.config(), invert)?;
        let mut failures = Failures::default();
        let mut paths: VecDeque<PathBuf> = VecDeque::new();
        for image in &self.images {
            match pictures_at(image) {
                Ok(found) => paths.extend(found),
                Err(e) => failures.report(image, &e),
            }
        }
        // Opened when there is a picture to run: a missing one is found without waiting for a driver.
        let mut session: Option<Session> = None;
        let mut results: Vec<Value> = Vec::new();
        let (mut done, mut seconds, mut spikes, mut possible) = (0, 0.0, 0, 0);
        let options = Options { count: true, ..self.run.options() };
        while !paths.is_empty() {
            let mut of_batch: Vec<(PathBuf, Vec<f32>)> = Vec::new();
            // What unreadable pictures leave free is filled with the next ones, so that batches are of one size.
            while of_batch.len() < self.batch && !paths.is_empty() {
                let n = (self.batch - of_batch.len()).min(paths.len());
                let read: Vec<_> = paths
                    .drain(..n)
                    .collect::<Vec<_>>()
                    .into_par_iter()
                    .map(|path| {
                        let read = Picture::open(&path).map(|picture| preparation.prepare(&picture));
                        (path, read)
                    })
                    .collect();
                for (path, read) in read {
                    match read {
                        Ok(input) => of_batch.push((path, input)),
                        Err(e) => failures.report(&path, &e.into()),
                    }
                }
            }
            if of_batch.is_empty() {
                break;
            }
            let session = match &mut session {
                Some(session) => session,
                None => session.insert(Session::new(model.clone(), self.run.open()?)),
            };
            let (names, inputs): (Vec<PathBuf>, Vec<Vec<f32>>) = of_batch.into_iter().unzip();
            let input = Input { batch: names.len(), timesteps: None, data: inputs.concat() };
            // Compiling kernels is no part of an image's time.
            pollster::block_on(session.prepare(input.batch, self.run.timesteps, options))?;
            let start = Instant::now();
            let output = session.run_blocking(&input, self.run.timesteps, options)?;
            let taken = start.elapsed().as_secs_f64();
            done += names.len();
            seconds += taken;
            spikes += output.counts.iter().map(|c| c.spikes).sum::<u64>();
            possible += output.counts.iter().map(|c| c.possible).sum::<u64>();
            for (path, logits) in names.iter().zip(&output.logits) {
                let top = top(&model, logits);
                if common.json {
                    let top: Vec<Value> = top
                        .into_iter()
                        .map(|(class, name, p)| json!({ "class": class, "name": name, "probability": p }))
                        .collect();
                    results.push(json!({ "image": path.display().to_string(), "top": top }));
                } else {
                    let lines: String =
                        top.iter().map(|(_, name, p)| format!("  {:6.2} %  {name}\n", 100.0 * p)).collect();
                    print(&format!("{}\n{lines}", escaped(&path.to_string_lossy())))?;
                }
            }
        }
        failures.conclude();
        let (rate, each) = (spikes as f64 / (possible as f64).max(1.0), seconds / done.max(1) as f64);
        if common.json {
            let failed: Vec<Value> = failures
                .0
                .iter()
                .map(|(path, why)| json!({ "image": path.display().to_string(), "error": why }))
                .collect();
            print_json(&json!({
                "model": self.model.as_ref().map_or("built-in".to_owned(), |m| m.display().to_string()),
                // None was opened, nor anything measured, if no picture could be read.
                "device": session.as_ref().map(|s| s.device().name()),
                "timesteps": self.run.timesteps.unwrap_or(model.config().timesteps),
                "weights": self.run.weights.name(),
                "images": results,
                "failed": failed,
                "seconds_per_image": session.as_ref().map(|_| each),
                "firing_rate": session.as_ref().map(|_| rate),
            }))?;
        } else if let Some(session) = &session {
            print(&summary(done, session.device(), each, rate))?;
        }
        Ok(if failures.0.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

fn summary(images: usize, device: &Device, seconds: f64, rate: f64) -> String {
    let s = if images == 1 { "" } else { "s" };
    format!(
        "{images} image{s} on {}: {:.2} ms an image, firing rate {:.2} %\n",
        device.name(),
        1e3 * seconds,
        100.0 * rate
    )
}

/// The likeliest classes with their names and probabilities.
fn top(model: &Model, logits: &[f32]) -> Vec<(usize, String, f64)> {
    let probabilities = probabilities(logits);
    ranked(logits).into_iter().take(SHOWN).map(|c| (c, class_name(model, c), probabilities[c])).collect()
}

/// A picture file, or those of a folder in the order of their names.
pub(super) fn pictures_at(path: &Path) -> Result<Vec<PathBuf>> {
    let io = |e| crate::Error::io(path, e);
    if !std::fs::metadata(path).map_err(io)?.is_dir() {
        return Ok(vec![path.to_path_buf()]);
    }
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path).map_err(io)? {
        let file = entry.map_err(io)?.path();
        let extension = file.extension().map(|e| e.to_string_lossy().to_lowercase());
        if matches!(extension.as_deref(), Some("png" | "jpg" | "jpeg" | "bmp")) && file.is_file() {
            found.push(file);
        }
    }
    if found.is_empty() {
        bail!(
            "{}: no .png, .jpg, .jpeg or .bmp file is directly in this folder; name one that has some",
            escaped(&path.to_string_lossy())
        );
    }
    found.sort();
    Ok(found)
}
