//! `spikeshade grad`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use serde_json::json;

use super::forward::{in_file, plural, read_input};
use super::{Common, ModelArgs, RunArgs, check_output, human_bytes, print, print_json};
use crate::checkpoint::{Checkpoint, Tensor};
use crate::tensor_file::{self, Data};
use crate::train::adamw::AdamW;
use crate::train::{Gradients, Options, Statistics, gradients};

const EXAMPLES: &str = "\
Examples:
  spikeshade grad -m m.safetensors -i in.safetensors -o grad.safetensors
  spikeshade grad -m m.safetensors -i in.safetensors -o step.safetensors --mode train --adamw-step

The input holds `x`, f32 [B, C, H, W] or [T, B, C, H, W], already normalised, and
`label`, i64 [B], the index of each image's class.

The output holds
  loss         f64 [1], the batch's mean cross-entropy
  logits       f32 [B, classes]
  g.PARAMETER  its gradient, in its shape
  r.BUFFER     with --mode train: the running statistics after the step
  n.PARAMETER  with --adamw-step: the parameter after one step
and with --trace what `spikeshade forward --trace` writes.";

/// Gradients of a batch: every parameter's, by hand-derived surrogate-gradient backward passes
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Grad {
    #[command(flatten)]
    model: ModelArgs,
    /// A .safetensors file with the tensors `x` and `label`
    #[arg(short, long, value_name = "IN")]
    input: PathBuf,
    /// The .safetensors file to write; it appears whole or not at all
    #[arg(short, long, value_name = "OUT")]
    output: PathBuf,
    /// Which mean and variance batch norm normalises with
    #[arg(long, value_enum, default_value_t)]
    mode: Mode,
    /// Also take one AdamW step: lr 1e-3, betas 0.9 and 0.999, eps 1e-8, weight decay 0.06 on every parameter
    #[arg(long)]
    adamw_step: bool,
    /// Keep only packed spikes and the residual membranes between blocks for the backward pass, and redo the rest: less memory
    #[arg(long)]
    recompute: bool,
    /// Write every spike, membrane potential, residual, key and attention sum too
    #[arg(long)]
    trace: bool,
    #[command(flatten)]
    run: RunArgs,
}

#[derive(Clone, Copy, Default, ValueEnum)]
enum Mode {
    /// The checkpoint's running statistics, frozen
    #[default]
    Eval,
    /// The batch's own statistics
    Train,
}

impl Grad {
    pub(super) fn run(&self, common: &Common) -> Result<ExitCode> {
        self.run.weights.only_f32()?;
        check_output(&self.output, &[&self.input, &self.model.model])?;
        let mut checkpoint = self.model.load()?;
        if let Some(timesteps) = self.run.timesteps {
            checkpoint.config.timesteps = timesteps;
        }
        let input = read_input(&self.input, &checkpoint.config)?;
        if let (Some(of_input), Some(asked)) = (input.timesteps, self.run.timesteps)
            && of_input != asked
        {
            bail!("{}: `x` is a sequence of {of_input} timesteps; leave --timesteps out", self.input.display());
        }
        let labels = read_labels(&self.input, input.batch)?;
        let device = self.run.open()?;
        let name = device.name().to_owned();
        let statistics = match self.mode {
            Mode::Eval => Statistics::Running,
            Mode::Train => Statistics::Batch,
        };
        let order = self.run.options().order;
        let options = Options { statistics, order, recompute: self.recompute, trace: self.trace, ..Default::default() };
        let start = Instant::now();
        let got = pollster::block_on(gradients(&device, &checkpoint, &input, &labels, options))
            .with_context(|| self.input.display().to_string())?;
        let seconds = start.elapsed().as_secs_f64();
        let loss = got.loss;
        let tensors = self.tensors(&checkpoint, got);
        let count = tensors.len();
        let metadata = BTreeMap::from([
            ("config".to_owned(), checkpoint.config.to_json()),
            ("device".to_owned(), name.clone()),
            ("format".to_owned(), "pt".to_owned()),
            ("producer".to_owned(), format!("spikeshade {} grad", env!("CARGO_PKG_VERSION"))),
        ]);
        let bytes = tensor_file::to_bytes(tensors, &metadata)?;
        crate::files::write_aside(&self.output, &bytes)?;
        if common.json {
            print_json(&json!({
                "output": self.output.display().to_string(),
                "bytes": bytes.len(),
                "device": name,
                "batch": input.batch,
                "loss": loss,
                "seconds": seconds,
                "tensors": count,
            }))?;
        } else {
            print(&format!(
                "{} on {name}: loss {loss:.6}, {:.1} ms with preparation\n{}: {}, {}\n",
                plural(input.batch, "image"),
                seconds * 1e3,
                self.output.display(),
                plural(count, "tensor"),
                human_bytes(bytes.len() as u64),
            ))?;
        }
        Ok(ExitCode::SUCCESS)
    }

    fn tensors(&self, checkpoint: &Checkpoint, got: Gradients) -> Vec<(String, Vec<usize>, Data)> {
        let batch = got.logits.len();
        let logits = got.logits.concat();
        let mut tensors = vec![
            ("loss".to_owned(), vec![1], Data::F64(vec![got.loss])),
            ("logits".to_owned(), vec![batch, logits.len() / batch.max(1)], Data::F32(logits)),
        ];
        let of = |prefix: &str, name: &str, t: Tensor| (format!("{prefix}.{name}"), t.shape, Data::F32(t.data));
        if self.adamw_step {
            for (name, gradient) in &got.gradients {
                let Some(mut parameter) = checkpoint.tensors.get(name).cloned() else { continue };
                let (mut m, mut v) = (vec![0.0; gradient.data.len()], vec![0.0; gradient.data.len()]);
                AdamW::default().step(1, &mut parameter.data, &gradient.data, (&mut m, &mut v));
                tensors.push(of("n", name, parameter));
            }
        }
        tensors.extend(got.gradients.into_iter().map(|(name, t)| of("g", &name, t)));
        tensors.extend(got.running.into_iter().map(|(name, t)| of("r", &name, t)));
        tensors.extend(got.trace.into_iter().map(in_file));
        tensors
    }
}

/// The tensor `label`, one class index for each of `batch` images.
pub(super) fn read_labels(path: &Path, batch: usize) -> Result<Vec<i64>> {
    let file = tensor_file::read(path)?;
    let at = path.display();
    if !file.contains("label") {
        bail!("{at}: has no tensor `label`; save the class indices of the batch, i64 [{batch}], under that name");
    }
    let labels = file.i64("label")?;
    if file.shape("label")? != [batch] {
        bail!("{at}: `label` has shape {:?}; it must be [{batch}], one for each image", file.shape("label")?);
    }
    Ok(labels)
}
