//! `spikeshade convert`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use serde_json::json;

use super::{Common, StrictArgs, check_output, human_bytes, print, print_json};
use crate::checkpoint::{Checkpoint, Dtype};

const EXAMPLES: &str = "\
Examples:
  spikeshade convert m.safetensors half.safetensors --dtype f16
  spikeshade convert folder/ m.safetensors    from two files to one

Numbers are rounded to nearest, ties to even; one that the new type cannot hold
is an error. The result is loaded again before it is put in place. Metadata and
class names are kept, tensors that the model does not use are left out.
Computation is in f32 whatever the type.";

/// Rewrite a checkpoint as one .safetensors file, in another number type if asked for
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Convert {
    /// The checkpoint to read: a .safetensors file, or a folder with config.json and model.safetensors
    #[arg(value_name = "M")]
    model: PathBuf,
    /// The .safetensors file to write; it appears whole or not at all
    #[arg(value_name = "OUT")]
    output: PathBuf,
    /// Number type; without it the narrowest that changes nothing
    #[arg(long, value_enum)]
    dtype: Option<DtypeArg>,
    #[command(flatten)]
    strict: StrictArgs,
}

#[derive(Clone, Copy, ValueEnum)]
enum DtypeArg {
    F32,
    F16,
    Bf16,
}

/// The number that rounding changed most.
struct Worst {
    tensor: String,
    from: f32,
    to: f32,
}

impl Worst {
    fn error(&self) -> f64 {
        (f64::from(self.from) - f64::from(self.to)).abs()
    }
}

impl Convert {
    pub(super) fn run(&self, common: &Common) -> Result<ExitCode> {
        check_output(&self.output, &[&self.model])?;
        let checkpoint = self.strict.load(&self.model)?;
        let dtype = match self.dtype {
            None => checkpoint.dtype,
            Some(DtypeArg::F32) => Dtype::F32,
            Some(DtypeArg::F16) => Dtype::F16,
            Some(DtypeArg::Bf16) => Dtype::Bf16,
        };
        let bytes = checkpoint.to_bytes(dtype).with_context(|| self.model.display().to_string())?;
        let again = Checkpoint::from_bytes(&bytes, &self.output.display().to_string(), true)
            .context("the converted checkpoint does not load again; nothing was written")?;
        let worst = worst(&checkpoint, &again);
        crate::files::write_aside(&self.output, &bytes)?;
        let before = size(&self.model);
        if common.json {
            print_json(&json!({
                "model": self.model.display().to_string(),
                "output": self.output.display().to_string(),
                "dtype_before": checkpoint.dtype.name(),
                "dtype": dtype.name(),
                "bytes_before": before,
                "bytes": bytes.len(),
                "tensors": again.tensors.len(),
                "dropped": checkpoint.unexpected,
                "largest_error": worst.as_ref().map_or(0.0, Worst::error),
                "largest_error_tensor": worst.as_ref().map(|w| &w.tensor),
            }))?;
        } else {
            let rounding = match worst {
                None => "no number was changed".to_owned(),
                Some(w) => {
                    format!("largest rounding error {:.3e}: {:e} became {:e} in {}", w.error(), w.from, w.to, w.tensor)
                }
            };
            print(&format!(
                "{}: {}, {}\n{}: {}, {dtype}, {} tensors\n{rounding}\n",
                self.model.display(),
                human_bytes(before),
                checkpoint.dtype,
                self.output.display(),
                human_bytes(bytes.len() as u64),
                again.tensors.len(),
            ))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The number whose rounding error is largest; `None` if none changed.
fn worst(before: &Checkpoint, after: &Checkpoint) -> Option<Worst> {
    let mut worst: Option<Worst> = None;
    for (name, tensor) in &before.tensors {
        let Some(rounded) = after.tensors.get(name) else { continue };
        for (&from, &to) in tensor.data.iter().zip(&rounded.data) {
            let error = (f64::from(from) - f64::from(to)).abs();
            if error > worst.as_ref().map_or(0.0, Worst::error) {
                worst = Some(Worst { tensor: name.clone(), from, to });
            }
        }
    }
    worst
}

/// Bytes of a checkpoint's file, or of the files of its folder.
fn size(path: &Path) -> u64 {
    let of = |p: &Path| std::fs::metadata(p).map_or(0, |m| m.len());
    if path.is_dir() { of(&path.join("config.json")) + of(&path.join("model.safetensors")) } else { of(path) }
}
