//! `spikeshade init`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::error::ErrorKind;
use clap::{Args, CommandFactory, ValueEnum};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use super::{Cli, Common, check_output, grouped, human_bytes, print, print_json, shows_progress};
use crate::checkpoint::Dtype;
use crate::config::Config;
use crate::init::init;

const EXAMPLES: &str = "\
Examples:
  spikeshade init --preset cifar10-2-256 --out m.safetensors
  spikeshade init --preset imagenet-8-512 --seed 7 --out m.safetensors --dtype f16
  spikeshade init --config my.json --out m.safetensors

The JSON file is what a checkpoint holds under `config`. The weights are random;
batch norms are set, layer by layer on synthetic images, so that every layer
fires at 5 to 30 %. The model has learned nothing: it is for tests, for timing,
and to start training from. One seed gives the same model on every machine.
`spikeshade init --preset list` lists the presets.";

/// Make a random model in which every layer fires
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Init {
    #[command(flatten)]
    source: Source,
    /// Seed of the random numbers
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,
    /// The .safetensors file to write; it appears whole or not at all
    #[arg(short, long, value_name = "M", required_unless_present = "preset")]
    out: Option<PathBuf>,
    /// Number type
    #[arg(long, value_enum, default_value_t)]
    dtype: InitDtype,
    /// Replace the file if it exists
    #[arg(long)]
    force: bool,
}

/// What to make.
#[derive(Args)]
#[group(required = true, multiple = false)]
struct Source {
    /// A built-in configuration; `list` shows them and makes nothing
    #[arg(long, value_name = "NAME")]
    preset: Option<String>,
    /// A JSON file with the configuration
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Clone, Copy, Default, ValueEnum)]
enum InitDtype {
    #[default]
    F32,
    F16,
    Bf16,
}

impl Source {
    fn config(&self) -> Result<Config> {
        if let Some(name) = &self.preset {
            return preset(name);
        }
        let Some(path) = &self.config else { bail!("give --preset NAME or --config FILE") };
        let what = path.display().to_string();
        let text = crate::files::open_mapped(path)?;
        let text = std::str::from_utf8(&text).with_context(|| format!("{what}: is no UTF-8 text"))?;
        Ok(Config::from_json(text, &what)?)
    }
}

/// A built-in configuration.
pub(super) fn preset(name: &str) -> Result<Config> {
    let Some(config) = Config::preset(name) else {
        bail!("there is no preset `{}`; the presets are\n{}", crate::error::clip(name), presets("  "));
    };
    Ok(config)
}

/// A line for each preset.
fn presets(indent: &str) -> String {
    Config::presets().iter().map(|(name, text)| format!("{indent}{name:<17}{text}\n")).collect()
}

fn print_presets(common: &Common) -> Result<ExitCode> {
    if common.json {
        let list: Vec<_> =
            Config::presets().iter().map(|(name, text)| json!({ "name": name, "description": text })).collect();
        print_json(&json!({ "presets": list }))?;
    } else {
        print(&presets(""))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A mistake in the arguments that clap does not see, as --out is needed by all presets but `list`.
fn missing_output() -> ! {
    let mut program = Cli::command();
    program.build();
    let why = "give the file to write: --out M";
    match program.find_subcommand_mut("init") {
        Some(init) => init.error(ErrorKind::MissingRequiredArgument, why).exit(),
        None => program.error(ErrorKind::MissingRequiredArgument, why).exit(),
    }
}

impl Init {
    pub(super) fn run(&self, common: &Common) -> Result<ExitCode> {
        if self.source.preset.as_deref() == Some("list") {
            return print_presets(common);
        }
        let Some(out) = &self.out else { missing_output() };
        let config = self.source.config()?;
        let inputs: Vec<_> = self.source.config.iter().map(PathBuf::as_path).collect();
        check_output(out, &inputs)?;
        if !self.force && out.symlink_metadata().is_ok() {
            bail!("{}: is there already; choose another name, or replace it with --force", out.display());
        }
        let dtype = match self.dtype {
            InitDtype::F32 => Dtype::F32,
            InitDtype::F16 => Dtype::F16,
            InitDtype::Bf16 => Dtype::Bf16,
        };

        const STEPS: u64 = 1000;
        let target = if shows_progress(common) { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(STEPS), target);
        if let Ok(style) = ProgressStyle::with_template("{bar:30} {percent}% {elapsed} {msg}") {
            bar.set_style(style);
        }
        let made = init(&config, self.seed, |layer, fraction| {
            bar.set_message(layer.to_owned());
            bar.set_position((fraction * STEPS as f64) as u64);
        });
        bar.finish_and_clear();
        let made = made?;
        made.checkpoint.save(out, dtype)?;

        let parameters = config.trainable_parameters();
        let bytes = std::fs::metadata(out).map_or(0, |m| m.len());
        if common.json {
            let rates: serde_json::Map<_, _> = made.rates.iter().map(|(layer, r)| (layer.clone(), json!(r))).collect();
            // By way of its text, where an f32 has the fewest digits.
            let config: serde_json::Value = serde_json::from_str(&config.to_json())?;
            print_json(&json!({
                "path": out.display().to_string(),
                "config": config,
                "seed": self.seed,
                "dtype": dtype.name(),
                "bytes": bytes,
                "parameters": parameters,
                "rates": rates,
            }))?;
            return Ok(ExitCode::SUCCESS);
        }
        let mut text = format!(
            "{}: {} parameters, {dtype}, {}, seed {}\n",
            out.display(),
            grouped(parameters),
            human_bytes(bytes),
            self.seed
        );
        let by_rate = |a: &&(String, f64), b: &&(String, f64)| a.1.total_cmp(&b.1);
        let ends = made.rates.iter().min_by(by_rate).zip(made.rates.iter().max_by(by_rate));
        if let Some(((least, low), (most, high))) = ends {
            text += &format!(
                "{} layers fire at {:.1} % ({least}) to {:.1} % ({most})\n",
                made.rates.len(),
                100.0 * low,
                100.0 * high
            );
        }
        print(&text)?;
        Ok(ExitCode::SUCCESS)
    }
}
