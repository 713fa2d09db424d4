//! `spikeshade bench`.

mod serve;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;

use super::{Common, RunArgs, StrictArgs};

const EXAMPLES: &str = "\
Examples:
  spikeshade bench --serve -m m.safetensors -i in.safetensors

--serve is for programs that time this one beside others. It loads the model and
the tensor `x` of IN (as `spikeshade forward` takes it; with --train also
`label`, as `spikeshade grad` takes it), prints one line
  {\"ready\": true, \"device\": \"...\", \"batch\": 16}
and answers each line of standard input with one line of JSON:
  run     the batch once, or with --train one step of AdamW: {\"seconds\": 0.1};
          the first one also compiles, and allocates what it needs
  logits  of the latest run, or of one made for it: {\"logits\": [[...], ...]}
What it cannot do is answered with {\"error\": \"...\"}. It ends with its input.";

/// Time a model
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Bench {
    /// A checkpoint: a .safetensors file, or a folder with config.json and model.safetensors
    #[arg(short, long, value_name = "M")]
    model: Option<PathBuf>,
    #[command(flatten)]
    strict: StrictArgs,
    /// Answer commands on standard input, one a line
    #[arg(long, requires = "model", requires = "input")]
    serve: bool,
    /// With --serve: a .safetensors file with the tensor `x`, and for --train `label`
    #[arg(short, long, value_name = "IN", requires = "serve")]
    input: Option<PathBuf>,
    /// Time training steps: forward, backward and AdamW
    #[arg(long)]
    train: bool,
    #[command(flatten)]
    run: RunArgs,
}

impl Bench {
    pub(super) fn run(&self, _common: &Common) -> Result<ExitCode> {
        match (&self.model, &self.input) {
            (Some(model), Some(input)) if self.serve => {
                let checkpoint = self.strict.load(model)?;
                serve::serve(checkpoint, input, self.train, &self.run)
            }
            _ => bail!("give --serve"),
        }
    }
}
