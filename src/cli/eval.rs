//! `spikeshade eval`.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use clap::Args;
use clap::builder::RangedU64ValueParser;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use super::{Common, ModelArgs, RunArgs, count, print, print_json, shows_progress};
use crate::data::{Dataset, Invert, Preparation, Split};
use crate::evaluate::evaluate;
use crate::layers::Options;
use crate::session::Session;

const EXAMPLES: &str = "\
Examples:
  spikeshade eval --model models/mnist-2-64.safetensors --data mnist/
  spikeshade eval --model m.safetensors --data cifar-10/ --batch 128 --device gpu
  spikeshade eval --model m/ --data p.tar.xz --split train --limit 500 --json

DATA is a folder with MNIST-like IDX files (plain or .gz), with CIFAR's .bin
files, or with a folder of pictures for each class (test/CLASS/*.png, or
CLASS/*.png), or a .tar, .tar.gz or .tar.xz of the last. Pictures are prepared
as `classify` does. --limit takes the first N, of class folders from each class
in turn. Images per second includes decoding, which goes on while the device
runs. A picture that cannot be read ends the evaluation.";

/// Measure a model's accuracy on a labelled data set
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Eval {
    #[command(flatten)]
    model: ModelArgs,
    /// The data set: a folder or an archive, see below
    #[arg(long, value_name = "DATA")]
    data: PathBuf,
    /// Which part of it: train or test
    #[arg(long, value_name = "SPLIT", default_value_t = Split::Test)]
    split: Split,
    /// Pictures that run at once
    #[arg(short, long, value_name = "N", default_value_t = 64, value_parser = count())]
    batch: usize,
    /// Only the first N pictures
    #[arg(short, long, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1..))]
    limit: Option<usize>,
    #[command(flatten)]
    run: RunArgs,
}

impl Eval {
    pub(super) fn run(&self, common: &Common) -> Result<ExitCode> {
        let model = Arc::new(self.model.load()?);
        let data = Dataset::open(&self.data, self.split, &Preparation::new(model.config(), Invert::Auto)?)?;
        let total = self.limit.map_or(data.len(), |limit| limit.min(data.len()));
        let batch = self.batch.min(total);
        let options = Options { count: true, ..self.run.options() };
        let mut session = Session::new(model.clone(), self.run.open()?);
        pollster::block_on(session.prepare(batch, self.run.timesteps, options))?;

        let bar = ProgressBar::with_draw_target(
            Some(total as u64),
            if shows_progress(common) { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() },
        );
        if let Ok(style) = ProgressStyle::with_template("{wide_bar} {pos}/{len}  {msg}  {eta} left") {
            bar.set_style(style);
        }
        let start = Instant::now();
        let evaluated = evaluate(&mut session, &data, total, batch, self.run.timesteps, options, |tally, images| {
            bar.set_message(format!("accuracy {:.2} %", 100.0 * tally.top1()));
            bar.inc(images as u64);
            ControlFlow::Continue(())
        });
        bar.finish_and_clear();
        let tally = evaluated?;
        let seconds = start.elapsed().as_secs_f64();
        let (top1, top5, rate) = (tally.top1(), tally.top5(), tally.firing_rate());
        let speed = tally.total as f64 / seconds;
        let device = session.device().name();
        if common.json {
            print_json(&json!({
                "model": self.model.model.display().to_string(),
                "data": self.data.display().to_string(),
                "split": self.split.to_string(),
                "device": device,
                "timesteps": self.run.timesteps.unwrap_or(model.config().timesteps),
                "correct": tally.first,
                "total": tally.total,
                "top1": top1,
                "top5": top5,
                "loss": tally.mean_loss(),
                "images_per_second": speed,
                "firing_rate": rate,
            }))?;
        } else {
            print(&format!(
                "{} of {} right\ntop-1 {:.2} %, top-5 {:.2} %\n{speed:.1} images a second on {device}\nfiring rate \
                 {:.2} %\n",
                tally.first,
                tally.total,
                100.0 * top1,
                100.0 * top5,
                100.0 * rate
            ))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
