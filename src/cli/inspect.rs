//! `spikeshade inspect`.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;
use serde_json::{Value, json};

use super::{Common, StrictArgs, WeightsArgs, count, grouped, human_bytes, print, print_json, quantisation_errors};
use crate::checkpoint::{Checkpoint, Dtype, Tensor};
use crate::config::{Config, Parameter, ParameterKind};
use crate::error::clip;
use crate::gpu::{Capabilities, LARGEST, Limits, MemoryPlan};
use crate::layers::Options;
use crate::model::{InputShape, Model};
use crate::session::part_that_fits;
use crate::train::plan::{Settings, TrainingMemory, TrainingPlan};
use crate::{Error, files};

/// The largest configuration, in parameters, whose memory is worked out without a checkpoint.
const MOST_PARAMETERS: u64 = 1 << 28;

const EXAMPLES: &str = "\
Examples:
  spikeshade inspect models/mnist-2-64.safetensors
  spikeshade inspect models/mnist-2-64.safetensors --batch 64
  spikeshade inspect config.json --json     a model that has no weights yet
  spikeshade inspect config.json --training --batch 16 --recompute
  spikeshade inspect m.safetensors --weights int8    and what each layer loses

Memory is what a device of WebGPU's default limits allocates to run the batch;
with larger bindings fewer tensors are cut. In training none is.
Spikes take one bit a channel; beside it stands what the same tensors would take
as f32, each with a buffer of its own.";

/// Show a checkpoint or a configuration: layers, parameters, and the device memory of a batch
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Inspect {
    /// A checkpoint (a .safetensors file, or a folder with config.json and model.safetensors), or a configuration (.json)
    #[arg(value_name = "M")]
    model: PathBuf,
    /// Images of the batch whose memory is worked out
    #[arg(short, long, value_name = "N", default_value_t = 1, value_parser = count())]
    batch: usize,
    /// Show what training with AdamW takes instead, and what of it is kept from the forward to the backward pass
    #[arg(long)]
    training: bool,
    /// With --training: keep less, and compute it twice
    #[arg(long, requires = "training")]
    recompute: bool,
    #[command(flatten)]
    strict: StrictArgs,
    #[command(flatten)]
    weights: WeightsArgs,
}

/// The memory of a batch, or why it cannot run.
type Memory = std::result::Result<Fits, String>;

/// A batch that can run.
struct Fits {
    /// Images at a time.
    part: usize,
    plan: MemoryPlan,
    /// In training, bytes that the forward pass leaves for the backward pass.
    kept: Option<u64>,
}

impl Inspect {
    pub(super) fn run(&self, common: &Common) -> Result<ExitCode> {
        let (checkpoint, stored) = match configuration(&self.model)? {
            Some(config) => (without_weights(config), None),
            None => {
                let checkpoint = self.strict.load(&self.model)?;
                let stored = checkpoint.dtype;
                (checkpoint, Some(stored))
            }
        };
        let (model, memory) = if self.training {
            self.weights.only_f32()?;
            (None, self.training(&checkpoint)?)
        } else if checkpoint.tensors.is_empty() {
            (None, Err(too_large()))
        } else {
            let model = self.weights.model(&checkpoint)?;
            let memory = memory(&model, self.batch)?;
            (Some(model), memory)
        };
        let config = &checkpoint.config;
        if common.json {
            let mut found = as_json(config, stored, &checkpoint, self.batch, &memory);
            found["weights"] = self.weights.name().into();
            if let Some(model) = model.filter(|model| !model.quantisation_errors().is_empty()) {
                found["quantisation_error"] = quantisation_errors(&model);
            }
            print_json(&found)?;
        } else {
            let mut text = as_text(&self.model, config, stored, &checkpoint, (self.batch, self.training), &memory);
            if let Some(model) = model {
                text += &losses(&model, self.weights.name());
            }
            print(&text)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Inspect {
    /// The memory of a training step, of which no part can be left for later.
    fn training(&self, checkpoint: &Checkpoint) -> Result<Memory> {
        let settings =
            Settings { batch: self.batch, micro_batches: 1, recompute: self.recompute, ..Settings::default() };
        if checkpoint.tensors.is_empty() {
            return Ok(Err(too_large()));
        }
        // Tensors of training are not cut: a device needs bindings as large as the largest.
        let limits = Limits { binding: LARGEST, buffer: LARGEST, ..Limits::default() };
        match TrainingPlan::memory(checkpoint, settings, limits) {
            Ok(TrainingMemory { plan, kept }) => Ok(Ok(Fits { part: self.batch, plan, kept: Some(kept) })),
            Err(Error::Gpu(why) | Error::Input(why) | Error::OutOfMemory(why)) => Ok(Err(why)),
            Err(e) => Err(e.into()),
        }
    }
}

/// The configuration in a JSON file; `None` for what is to be loaded as a checkpoint.
fn configuration(path: &Path) -> Result<Option<Config>> {
    if std::fs::metadata(path).map_err(|e| Error::io(path, e))?.is_dir() {
        return Ok(None);
    }
    let bytes = files::open_mapped(path)?;
    let named = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("json"));
    // A checkpoint's header begins after the eight bytes of its length.
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    let braced = text.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'{') && bytes.get(8) != Some(&b'{');
    if !named && !braced {
        return Ok(None);
    }
    let Ok(text) = std::str::from_utf8(&bytes) else {
        bail!("{}: is no UTF-8 text, so no configuration; give a checkpoint or a config.json", path.display());
    };
    Ok(Some(Config::from_json(text, &path.display().to_string())?))
}

/// A checkpoint of that configuration for its shapes alone. A model too large for this is left without tensors.
fn without_weights(config: Config) -> Checkpoint {
    let parameters = config.parameters();
    let elements = parameters.iter().fold(0u64, |n, p| n.saturating_add(p.elements()));
    let tensors = if elements > MOST_PARAMETERS {
        Default::default()
    } else {
        let filled = |p: Parameter| {
            let value = if p.kind == ParameterKind::RunningVar { 1.0 } else { 0.0 };
            (p.name.clone(), Tensor { data: vec![value; p.elements() as usize], shape: p.shape })
        };
        parameters.into_iter().map(filled).collect()
    };
    Checkpoint { config, tensors, metadata: Default::default(), unexpected: Vec::new(), dtype: Dtype::F32 }
}

fn too_large() -> String {
    format!("not worked out for more than {} parameters", grouped(MOST_PARAMETERS))
}

fn memory(model: &Model, batch: usize) -> Result<Memory> {
    let shape = InputShape { timesteps: model.config().timesteps, batch, sequence: false };
    match part_that_fits(model, shape, Options::default(), Limits::default(), Capabilities::default()) {
        Ok((part, plan)) => Ok(Ok(Fits { part, plan, kept: None })),
        Err(Error::Gpu(why) | Error::Input(why) | Error::OutOfMemory(why)) => {
            Ok(Err(format!("not a single image fits: {why}")))
        }
        Err(e) => Err(e.into()),
    }
}

/// The tensors of each layer, in their order.
fn layers(parameters: &[Parameter]) -> Vec<(&str, &[Parameter])> {
    let layer = |p: &Parameter| p.name.rsplit_once('.').map_or(p.name.len(), |(layer, _)| layer.len());
    parameters
        .chunk_by(|a, b| a.name[..layer(a)] == b.name[..layer(b)])
        .map(|of_layer| (&of_layer[0].name[..layer(&of_layer[0])], of_layer))
        .collect()
}

fn trainable(parameters: &[Parameter]) -> u64 {
    parameters.iter().filter(|p| p.kind.is_trainable()).map(Parameter::elements).sum()
}

fn as_json(config: &Config, stored: Option<Dtype>, checkpoint: &Checkpoint, batch: usize, memory: &Memory) -> Value {
    let parameters = config.parameters();
    let layers: Vec<Value> = layers(&parameters)
        .into_iter()
        .map(|(layer, of_layer)| {
            let tensors: serde_json::Map<_, _> =
                of_layer.iter().map(|p| (p.name[layer.len() + 1..].to_owned(), json!(p.shape))).collect();
            json!({ "layer": layer, "tensors": tensors, "parameters": trainable(of_layer) })
        })
        .collect();
    let all: u64 = parameters.iter().map(Parameter::elements).sum();
    let memory = match memory {
        Err(why) => json!({ "batch": batch, "fits": false, "why": why }),
        Ok(Fits { part, plan, kept }) => json!({
            "batch": batch,
            "part": part,
            "training": kept.is_some(),
            "kept_for_backward": kept,
            "largest": plan.buffers.iter().max(),
            "fits": true,
            "total": plan.total(),
            "tensors": plan.buffers.iter().sum::<u64>(),
            "buffers": plan.buffers.len(),
            "parameters": plan.parameters,
            "uniforms": plan.uniforms,
            "readback": plan.readback,
            "tensors_without_reuse": plan.without_reuse,
            "tensors_unpacked": plan.unpacked,
        }),
    };
    let config: Value = serde_json::from_str(&config.to_json()).unwrap_or_default();
    json!({
        "config": config,
        "dtype": stored.map(Dtype::name),
        "metadata": checkpoint.metadata,
        "unknown_tensors": checkpoint.unexpected,
        "layers": layers,
        "parameters": trainable(&parameters),
        "running_statistics": all - trainable(&parameters),
        "memory": memory,
    })
}

fn as_text(
    path: &Path,
    config: &Config,
    stored: Option<Dtype>,
    checkpoint: &Checkpoint,
    (batch, training): (usize, bool),
    memory: &Memory,
) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail, here and below.
    let _ = match stored {
        Some(dtype) => writeln!(text, "{}: a checkpoint in {dtype}", path.display()),
        None => writeln!(text, "{}: a configuration, no weights", path.display()),
    };
    text += "\nConfiguration\n";
    let settings: Value = serde_json::from_str(&config.to_json()).unwrap_or_default();
    for (key, value) in settings.as_object().into_iter().flatten() {
        let _ = writeln!(text, "  {key:16} {}", clip(&value.to_string()));
    }
    let [.., side] = config.stage_sizes();
    let _ = writeln!(text, "  {} tokens ({side} × {side}), {} channels a head", config.tokens(), config.head_dim());
    for (key, value) in &checkpoint.metadata {
        let _ = writeln!(text, "  metadata {}: {}", clip(key), clip(value));
    }
    let parameters = config.parameters();
    let _ = writeln!(text, "\n{:36} {:24} {:>12}", "Layer", "Shape", "Parameters");
    for (layer, of_layer) in layers(&parameters) {
        let weight = &of_layer[0];
        let shape = format!("{:?}", weight.shape);
        let _ = writeln!(text, "{layer:36} {shape:24} {:>12}", grouped(trainable(of_layer)));
    }
    let all: u64 = parameters.iter().map(Parameter::elements).sum();
    let own = trainable(&parameters);
    let _ = writeln!(text, "{:61} {:>12}", "Parameters", grouped(own));
    let _ = writeln!(text, "{:61} {:>12}", "Running statistics (not trained)", grouped(all - own));
    let _ = writeln!(
        text,
        "\nDevice memory {}at a batch of {batch}, {} timesteps",
        if training { "to train " } else { "" },
        config.timesteps
    );
    match memory {
        Err(why) => {
            let _ = writeln!(text, "  {why}");
        }
        Ok(Fits { part, plan, kept }) => {
            if *part < batch {
                let _ = writeln!(text, "  too large for one binding: run in parts of {part}, for each of which");
            }
            let tensors: u64 = plan.buffers.iter().sum();
            let shared = format!("tensors, in {} buffers", plan.buffers.len());
            let rows = [
                (shared.as_str(), tensors),
                ("parameters", plan.parameters),
                ("uniforms", plan.uniforms),
                ("read back", plan.readback),
                ("total", plan.total()),
            ];
            for (what, bytes) in rows {
                let _ = writeln!(text, "  {what:24} {:>15} bytes  {:>12}", grouped(bytes), human_bytes(bytes));
            }
            if let Some(kept) = kept {
                let image = human_bytes(kept / batch as u64);
                let largest = human_bytes(plan.buffers.iter().copied().max().unwrap_or(0));
                let _ = writeln!(
                    text,
                    "  Of the tensors, {image} an image are kept from the forward to the backward pass."
                );
                let _ = writeln!(text, "  The largest takes {largest}, which the device must allow as one binding.");
            }
            let _ = writeln!(
                text,
                "  The tensors would take {} without reuse of buffers, and {} with each spike an f32 ({:.1} times as much).",
                human_bytes(plan.without_reuse),
                human_bytes(plan.unpacked),
                plan.unpacked as f64 / tensors.max(1) as f64
            );
        }
    }
    text
}

/// What each layer's weights lose; empty where they are as trained.
fn losses(model: &Model, weights: &str) -> String {
    let mut text = String::new();
    for (i, (layer, error)) in model.quantisation_errors().into_iter().enumerate() {
        if i == 0 {
            let _ = writeln!(text, "\nRelative error of {weights} weights, the scale of batch norm folded in");
        }
        let _ = writeln!(text, "  {layer:36} {:>8.3} %", 100.0 * error);
    }
    text
}
