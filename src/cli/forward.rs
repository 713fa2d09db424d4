//! `spikeshade forward`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::json;

use super::{Common, ModelArgs, RunArgs, check_output, human_bytes, print, print_json};
use crate::config::Config;
use crate::error::clip;
use crate::layers::Options;
use crate::outputs::{OutputTensor, Values};
use crate::session::{Input, Session};
use crate::tensor_file::{self, Data, TensorFile};

const EXAMPLES: &str = "\
Examples:
  spikeshade forward -m m.safetensors -i in.safetensors -o out.safetensors
  spikeshade forward -m m/ -i in.safetensors -o trace.safetensors --trace

The input holds a tensor `x`, already normalised, as f32, f16 or bf16:
[B, C, H, W] shows each image at every timestep, [T, B, C, H, W] an image of its
own at each. In Python:
  safetensors.torch.save_file({\"x\": x}, \"in.safetensors\")

The output holds `logits`, f32 [B, classes]. --trace adds for every layer, each [T, B, C, H, W]:
  s.LAYER  spikes, u8 (i8 where they are ternary)
  h.LAYER  membrane potentials before the reset, f32
  u.LAYER, k.LAYER, o.LAYER  residual streams, keys and attention sums, f32
Its metadata holds the configuration (`config`) and what wrote it. Logits and
trace are the same on every device.";

/// Run a model on a tensor file, and write its logits, or every activation, to another
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Forward {
    #[command(flatten)]
    model: ModelArgs,
    /// A .safetensors file with the tensor `x`
    #[arg(short, long, value_name = "IN")]
    input: PathBuf,
    /// The .safetensors file to write; it appears whole or not at all
    #[arg(short, long, value_name = "OUT")]
    output: PathBuf,
    /// Write every spike, membrane potential, residual, key and attention sum too
    #[arg(long)]
    trace: bool,
    #[command(flatten)]
    run: RunArgs,
}

impl Forward {
    pub(super) fn run(&self, common: &Common) -> Result<ExitCode> {
        check_output(&self.output, &[&self.input, &self.model.model])?;
        let model = Arc::new(self.run.weights.model(&self.model.load()?)?);
        let config = model.config().clone();
        let input = read_input(&self.input, &config)?;
        let device = self.run.open()?;
        let name = device.name().to_owned();
        let options = Options { trace: self.trace, ..self.run.options() };
        let start = Instant::now();
        let output = Session::new(model, device)
            .run_blocking(&input, self.run.timesteps, options)
            .with_context(|| self.input.display().to_string())?;
        let seconds = start.elapsed().as_secs_f64();
        let timesteps = input.timesteps.or(self.run.timesteps).unwrap_or(config.timesteps);
        let logits = Data::F32(output.logits.concat());
        let mut tensors = vec![("logits".to_owned(), vec![input.batch, config.num_classes], logits)];
        tensors.extend(output.trace.into_iter().map(in_file));
        let names: Vec<_> = tensors.iter().map(|(name, shape, _)| (name.clone(), shape.clone())).collect();
        let metadata = BTreeMap::from([
            ("config".to_owned(), config.to_json()),
            ("device".to_owned(), name.clone()),
            ("format".to_owned(), "pt".to_owned()),
            ("producer".to_owned(), format!("spikeshade {} forward", env!("CARGO_PKG_VERSION"))),
            ("timesteps".to_owned(), timesteps.to_string()),
            ("weights".to_owned(), self.run.weights.name().to_owned()),
        ]);
        let bytes = tensor_file::to_bytes(tensors, &metadata)?;
        crate::files::write_aside(&self.output, &bytes)?;
        if common.json {
            let tensors: serde_json::Map<_, _> = names.into_iter().map(|(n, shape)| (n, json!(shape))).collect();
            print_json(&json!({
                "output": self.output.display().to_string(),
                "bytes": bytes.len(),
                "device": name,
                "batch": input.batch,
                "timesteps": timesteps,
                "weights": self.run.weights.name(),
                "seconds": seconds,
                "tensors": tensors,
            }))?;
        } else {
            print(&format!(
                "{} on {name}, {timesteps} timesteps, {:.1} ms with preparation\n{}: {}, {}\n",
                plural(input.batch, "image"),
                seconds * 1e3,
                self.output.display(),
                plural(names.len(), "tensor"),
                human_bytes(bytes.len() as u64),
            ))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

pub(super) fn plural(n: usize, thing: &str) -> String {
    format!("{n} {thing}{}", if n == 1 { "" } else { "s" })
}

pub(super) fn in_file(tensor: OutputTensor) -> (String, Vec<usize>, Data) {
    let s = tensor.shape;
    let data = match tensor.channel_first() {
        Values::Real(v) => Data::F32(v),
        Values::Spikes(v) => Data::U8(v),
        Values::Ternary(v) => Data::I8(v),
    };
    (tensor.name, vec![s.steps, s.batch, s.channels, s.height, s.width], data)
}

/// The tensor `x`, checked against the model.
pub(super) fn read_input(path: &Path, config: &Config) -> Result<Input> {
    let file: TensorFile = tensor_file::read(path)?;
    let at = path.display();
    if !file.contains("x") {
        let mut names: Vec<String> = file.names().take(8).map(clip).collect();
        if file.names().count() > names.len() {
            names.push("…".to_owned());
        }
        let held = if names.is_empty() { "no tensor at all".to_owned() } else { names.join(", ") };
        bail!("{at}: has no tensor `x`, it holds {held}; save the input under the name `x`");
    }
    let shape = file.shape("x")?;
    let (channels, side) = (config.in_chans, config.img_size);
    let (timesteps, batch) = match *shape {
        [batch, c, h, w] if [c, h, w] == [channels, side, side] => (None, batch),
        [timesteps, batch, c, h, w] if [c, h, w] == [channels, side, side] => (Some(timesteps), batch),
        _ => bail!(
            "{at}: `x` has shape {}; this model takes [B, {channels}, {side}, {side}], or [T, B, {channels}, {side}, \
             {side}] for a sequence",
            clip(&format!("{shape:?}"))
        ),
    };
    if batch == 0 {
        bail!("{at}: `x` has shape {shape:?}, an empty batch; give at least one image");
    }
    if let Some(t) = timesteps
        && !(1..=32).contains(&t)
    {
        bail!("{at}: `x` has shape {shape:?}, {t} timesteps; give 1 to 32");
    }
    Ok(Input { batch, timesteps, data: file.f32("x")? })
}
