//! `spikeshade train`.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use clap::builder::RangedU64ValueParser;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use super::shows_progress;
use super::{Common, INTERRUPTED, RunArgs, StrictArgs, complain, count, human_bytes, interrupt, print, print_json};
use crate::checkpoint::Checkpoint;
use crate::train::metrics::EpochMetrics;
use crate::train::recipe::Recipe;
use crate::train::run::RunFolder;
use crate::train::trainer::{Ended, Event, Start, StepEvent, Trainer, TrainerOptions};

const EXAMPLES: &str = "\
Examples:
  spikeshade train --preset mnist --data mnist/ --out runs/mnist
  spikeshade train --preset mnist --data mnist/ --out runs/mnist --resume
  spikeshade train --config my.toml --data photos/ --out runs/photos --device gpu
  spikeshade train --preset cifar10-2-256 --init c.safetensors --data birds.tar.xz --out runs/birds
  spikeshade train --list
  spikeshade train --preset mnist --print > my.toml

DATA is what `spikeshade eval` takes. The classes of folders become the model's;
with --init a head that has other classes is replaced.

OUT gets best.safetensors (highest test accuracy), last.safetensors (what
--resume goes on from), metrics.jsonl (a line for each epoch), curves.svg and
recipe.json. Ctrl-C finishes the step, saves and exits with 130; whatever ends
it, --resume goes on to the same weights that an uninterrupted run reaches.";

/// Train a model
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Train {
    /// A recipe that comes with the program; --list names them
    #[arg(short, long, value_name = "NAME", conflicts_with = "config")]
    preset: Option<String>,
    /// A recipe file, TOML or JSON; --print shows a preset's
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The data set, with a training and a test part: a folder or an archive
    #[arg(long, value_name = "DATA")]
    data: Option<PathBuf>,
    /// The folder of the run, made if need be
    #[arg(short, long, value_name = "RUN")]
    out: Option<PathBuf>,
    /// Go on with the run in RUN, with the same data, --limit and --order; its recipe need not be named again
    #[arg(short, long)]
    resume: bool,
    /// Begin with this checkpoint's weights, and its configuration in place of the recipe's model
    #[arg(long, value_name = "CHECKPOINT")]
    init: Option<PathBuf>,
    #[command(flatten)]
    strict: StrictArgs,
    /// Train so many epochs, in place of the recipe's
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<u64>::new().range(1..=1_000_000))]
    epochs: Option<u64>,
    /// Pictures a step, in place of the recipe's
    #[arg(short, long, value_name = "N", value_parser = count())]
    batch: Option<usize>,
    /// Pictures that run at once, a divisor of the batch: for what does not fit
    #[arg(long, value_name = "N", value_parser = count())]
    micro_batch: Option<usize>,
    /// Learning rate, in place of the recipe's
    #[arg(long, value_name = "LR")]
    lr: Option<f64>,
    /// What random choices follow from, in place of the recipe's
    #[arg(long, value_name = "SEED")]
    seed: Option<u64>,
    /// Keep less for the backward pass, and compute it twice
    #[arg(long)]
    recompute: bool,
    /// Only the first N training pictures
    #[arg(short, long, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1..))]
    limit: Option<usize>,
    /// Threads that prepare pictures
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = RangedU64ValueParser::<usize>::new().range(1..=64))]
    threads: usize,
    /// Save at least every so many seconds, besides after each epoch
    #[arg(long, value_name = "SECONDS", default_value_t = 60.0)]
    save_every: f64,
    /// List the presets
    #[arg(long)]
    list: bool,
    /// Print the preset's recipe, to be saved and changed
    #[arg(long)]
    print: bool,
    #[command(flatten)]
    run: RunArgs,
}

impl Train {
    pub(super) fn run(&self, common: &Common) -> Result<ExitCode> {
        if self.list {
            return list(common);
        }
        if self.print {
            let Some(name) = &self.preset else { bail!("--print shows a preset: name it with --preset") };
            Recipe::preset(name)?;
            print(Recipe::preset_text(name).unwrap_or_default())?;
            return Ok(ExitCode::SUCCESS);
        }
        self.run.weights.only_f32()?;
        let (Some(data), Some(out)) = (&self.data, &self.out) else {
            bail!("training takes --data DATA and --out RUN; see `spikeshade train --help`");
        };
        let start = Start {
            recipe: self.recipe(out)?,
            data: data.clone(),
            out: out.clone(),
            init: self.begin_with()?,
            resume: self.resume,
            options: TrainerOptions {
                order: self.run.options().order,
                threads: self.threads,
                save_every: Duration::try_from_secs_f64(self.save_every).context("--save-every")?,
                limit: self.limit,
                ..TrainerOptions::default()
            },
        };
        let device = self.run.open()?;
        let name = device.name().to_owned();
        let mut trainer = pollster::block_on(Trainer::new(device, start))?;
        if let Some(other) = trainer.other_device() {
            complain("note", format!("the run was on {other}; on {name} its results may differ in rounding"));
        }
        interrupt::heed();
        let mut show = Show::new(common, &trainer, &name)?;
        let begun = Instant::now();
        let ended = pollster::block_on(trainer.run(|event| show.event(event)));
        show.bar.finish_and_clear();
        let ended = ended?;
        self.summary(common, &trainer, ended, &name, begun.elapsed().as_secs_f64())
    }

    /// The checkpoint to begin with.
    fn begin_with(&self) -> Result<Option<Checkpoint>> {
        let Some(path) = &self.init else { return Ok(None) };
        let mut checkpoint = self.strict.load(path)?;
        if let Some(timesteps) = self.run.timesteps {
            checkpoint.config.timesteps = timesteps;
        }
        Ok(Some(checkpoint))
    }

    /// The recipe that the arguments name, or that of the run that goes on.
    fn recipe(&self, out: &Path) -> Result<Recipe> {
        let stored = if self.resume { RunFolder::stored_recipe(out)? } else { None };
        if self.resume && stored.is_none() {
            complain("note", format!("{} holds nothing to go on from; the run begins anew", out.display()));
        }
        let mut recipe = match (&self.preset, &self.config, stored) {
            (Some(name), ..) => Recipe::preset(name)?,
            (None, Some(path), _) => Recipe::load(path)?,
            (None, None, Some(recipe)) => recipe,
            (None, None, None) => bail!("a recipe is needed: --preset NAME (see --list) or --config FILE"),
        };
        recipe.epochs = self.epochs.unwrap_or(recipe.epochs);
        recipe.batch = self.batch.unwrap_or(recipe.batch);
        recipe.micro_batch = self.micro_batch.unwrap_or(recipe.micro_batch);
        recipe.lr = self.lr.unwrap_or(recipe.lr);
        recipe.seed = self.seed.unwrap_or(recipe.seed);
        recipe.recompute |= self.recompute;
        if let Some(timesteps) = self.run.timesteps {
            recipe.model.timesteps = timesteps;
        }
        recipe.validate()?;
        Ok(recipe)
    }

    fn summary(
        &self,
        common: &Common,
        trainer: &Trainer,
        ended: Ended,
        device: &str,
        seconds: f64,
    ) -> Result<ExitCode> {
        let folder = trainer.folder();
        let best = trainer.progress().best;
        if common.json {
            print_json(&json!({
                "out": folder.path().display().to_string(),
                "finished": ended == Ended::Finished,
                "device": device,
                "seconds": seconds,
                "step": trainer.progress().step,
                "best_accuracy": best.map(|b| b.0),
                "best_epoch": best.map(|b| b.1),
                "epochs": trainer.metrics(),
            }))?;
        } else if ended == Ended::Finished {
            let (accuracy, epoch) = best.unwrap_or_default();
            let bytes = std::fs::metadata(folder.best()).map_or(0, |m| m.len());
            print(&format!(
                "best test accuracy {:.2} % in epoch {epoch}; {} this time\n{}: {}\n",
                100.0 * accuracy,
                duration(seconds),
                folder.best().display(),
                human_bytes(bytes),
            ))?;
        }
        if ended == Ended::Interrupted {
            complain(
                "note",
                format!("interrupted and saved; `spikeshade train --resume` goes on in {}", folder.path().display()),
            );
            return Ok(ExitCode::from(INTERRUPTED as u8));
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn list(common: &Common) -> Result<ExitCode> {
    if common.json {
        let presets: Vec<_> = Recipe::presets().map(|(name, about)| json!({ "name": name, "about": about })).collect();
        print_json(&json!(presets))?;
    } else {
        let lines: String = Recipe::presets().map(|(name, about)| format!("{name:<16} {about}\n")).collect();
        print(&lines)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What is seen of a run.
struct Show {
    bar: ProgressBar,
    json: bool,
    epochs: u64,
}

const TRAINING: &str = "{prefix} {wide_bar} {pos}/{len}  {msg}";

impl Show {
    fn new(common: &Common, trainer: &Trainer, device: &str) -> Result<Self> {
        let target = if shows_progress(common) { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(None, target);
        if let Ok(style) = ProgressStyle::with_template(TRAINING) {
            bar.set_style(style);
        }
        let epochs = trainer.recipe().epochs;
        let show = Show { bar, json: common.json, epochs };
        let (train, test) = trainer.images();
        let (done, model) = (trainer.progress(), &trainer.recipe().model);
        let place = match (done.epoch, done.step_in_epoch) {
            (0, 0) => String::new(),
            (epoch, step) => format!(", from epoch {} step {step} on", epoch + 1),
        };
        show.line(&format!(
            "{} parameters, {train} pictures to train and {test} to test, on {device}{place}\n\
             epoch      lr  loss  train %  test loss  test %  firing %  images/s  minutes",
            super::grouped(model.trainable_parameters())
        ))?;
        for m in trainer.metrics() {
            show.epoch(m)?;
        }
        Ok(show)
    }

    fn line(&self, text: &str) -> Result<()> {
        if self.json {
            return Ok(());
        }
        self.bar.suspend(|| print(&format!("{text}\n")))
    }

    fn epoch(&self, m: &EpochMetrics) -> Result<()> {
        self.line(&format!(
            "{:5} {:7.1e} {:5.3} {:8.2} {:10.4} {:7.2} {:9.2} {:9.1} {:8.1}{}",
            m.epoch,
            m.lr,
            m.train_loss,
            100.0 * m.train_accuracy,
            m.test_loss,
            100.0 * m.test_accuracy,
            100.0 * m.firing_rate,
            m.images_per_second,
            (m.train_seconds + m.test_seconds) / 60.0,
            if m.best { "  best" } else { "" },
        ))
    }

    fn event(&mut self, event: Event<'_>) -> ControlFlow<()> {
        match event {
            Event::Step(step) => self.step(&step),
            Event::Evaluating { done, total } => {
                self.bar.set_prefix("test");
                self.bar.set_length(total as u64);
                self.bar.set_position(done as u64);
                self.bar.set_message("");
            }
            // Whoever reads the lines may be gone; the training goes on for its files.
            Event::Epoch(metrics) => drop(self.epoch(metrics)),
            Event::Warning(text) => self.bar.suspend(|| complain("warning", text)),
        }
        if interrupt::asked() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn step(&self, step: &StepEvent<'_>) {
        self.bar.set_prefix(format!("epoch {}/{}", step.epoch, self.epochs));
        self.bar.set_length(step.steps);
        self.bar.set_position(step.step_in_epoch);
        self.bar.set_message(format!(
            "loss {:.4}  accuracy {:.2} %  firing {:.1} %  {:.0} images/s  {} left",
            step.sums.mean_loss(),
            100.0 * step.sums.accuracy(),
            100.0 * step.sums.firing_rate(),
            step.images_per_second,
            duration(step.time_left.as_secs_f64()),
        ));
    }
}

/// A time for a person.
fn duration(seconds: f64) -> String {
    let s = seconds.round() as u64;
    match s {
        0..60 => format!("{s} s"),
        60..3600 => format!("{} min {} s", s / 60, s % 60),
        _ => format!("{} h {} min", s / 3600, s % 3600 / 60),
    }
}
