//! `spikeshade bench --serve`: one model and one batch, run whenever a line of standard input asks for it.
//!
//! Whoever asks measures this process's memory from outside, from `ready` on: up to there only the model and the batch are held.

use std::io::{self, BufRead};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::training::Training;
use crate::checkpoint::Checkpoint;
use crate::cli::forward::read_input;
use crate::cli::grad::read_labels;
use crate::cli::{RunArgs, message, print};
use crate::error::clip;
use crate::layers::Options;
use crate::session::{Device, Input, Session};

/// Serves until standard input ends.
pub(super) fn serve(checkpoint: Checkpoint, input: &Path, train: bool, run: &RunArgs) -> Result<ExitCode> {
    let device = run.open()?;
    let name = device.name().to_owned();
    let mut served = if train {
        let images = read_input(input, &checkpoint.config)?;
        let labels = read_labels(input, images.batch)?;
        let training = Training::new(checkpoint, &images, &labels, device, run);
        Served::Training(Box::new(training.with_context(|| input.display().to_string())?))
    } else {
        Served::Inference(Box::new(Inference::new(checkpoint, input, device, run)?))
    };
    say(&json!({ "ready": true, "device": name, "batch": served.batch() }))?;
    let mut lines = io::stdin().lock();
    let mut line = Vec::new();
    loop {
        line.clear();
        match lines.read_until(b'\n', &mut line) {
            Ok(0) => return Ok(ExitCode::SUCCESS),
            Ok(_) => {}
            Err(e) => return Err(crate::Error::io("standard input", e).into()),
        }
        let command = String::from_utf8_lossy(&line);
        let answer = match command.trim() {
            "run" => served.run().map(|seconds| json!({ "seconds": seconds })),
            "logits" => served.logits().map(|logits| json!({ "logits": logits })),
            other => Err(anyhow::anyhow!("no command `{}`; the commands are run and logits", clip(other))),
        };
        say(&answer.unwrap_or_else(|e| json!({ "error": message(&e) })))?;
    }
}

/// One line, at once.
fn say(value: &Value) -> Result<()> {
    print(&format!("{value}\n"))
}

enum Served {
    Inference(Box<Inference>),
    Training(Box<Training>),
}

impl Served {
    fn batch(&self) -> usize {
        match self {
            Served::Inference(inference) => inference.input.batch,
            Served::Training(training) => training.batch(),
        }
    }

    /// Runs the batch once; the seconds it took.
    fn run(&mut self) -> Result<f64> {
        let start = Instant::now();
        match self {
            Served::Inference(inference) => inference.run()?,
            Served::Training(training) => training.step()?,
        }
        Ok(start.elapsed().as_secs_f64())
    }

    /// The latest run's logits, `[B][classes]`; runs the batch if it has not been run.
    fn logits(&mut self) -> Result<&[Vec<f32>]> {
        if self.latest().is_none() {
            self.run()?;
        }
        Ok(self.latest().unwrap_or_default())
    }

    fn latest(&self) -> Option<&[Vec<f32>]> {
        match self {
            Served::Inference(inference) => inference.logits.as_deref(),
            Served::Training(training) => training.logits.as_deref(),
        }
    }
}

struct Inference {
    session: Session,
    input: Input,
    timesteps: Option<usize>,
    options: Options,
    logits: Option<Vec<Vec<f32>>>,
}

impl Inference {
    fn new(checkpoint: Checkpoint, input: &Path, device: Device, run: &RunArgs) -> Result<Self> {
        let input = read_input(input, &checkpoint.config)?;
        let session = Session::new(Arc::new(run.weights.model(&checkpoint)?), device);
        Ok(Inference { session, input, timesteps: run.timesteps, options: run.options(), logits: None })
    }

    fn run(&mut self) -> Result<()> {
        self.logits = Some(self.session.run_blocking(&self.input, self.timesteps, self.options)?.logits);
        Ok(())
    }
}
