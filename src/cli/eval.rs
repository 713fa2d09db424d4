//! `spikeshade eval`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Instant;

use anyhow::Result;
use clap::Args;
use clap::builder::RangedU64ValueParser;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use super::{Common, ModelArgs, RunArgs, count, print, print_json, shows_progress};
use crate::data::{Dataset, Invert, Preparation, Split};
use crate::layers::Options;
use crate::session::{Input, Session};

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

/// What has been counted so far.
#[derive(Default)]
struct Tally {
    total: usize,
    first: usize,
    first_five: usize,
    spikes: u64,
    possible: u64,
}

impl Tally {
    fn add(&mut self, logits: &[f32], label: i64) {
        self.total += 1;
        let Some(&own) = usize::try_from(label).ok().and_then(|label| logits.get(label)) else { return };
        // Of equal logits the first counts as the answer.
        let before = logits.iter().zip(0..).filter(|&(&x, i)| x > own || x == own && i < label).count();
        self.first += usize::from(before == 0);
        self.first_five += usize::from(before < 5);
    }

    fn share(&self, n: usize) -> f64 {
        n as f64 / self.total.max(1) as f64
    }
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
        let mut tally = Tally::default();
        let start = Instant::now();
        // One batch waits while another is decoded and a third runs.
        let (sender, receiver) = mpsc::sync_channel(1);
        let evaluated: Result<()> = std::thread::scope(|scope| {
            scope.spawn(|| {
                let indices: Vec<usize> = (0..total).collect();
                // Moved in, so that the receiver sees the end.
                let sender = sender;
                for indices in indices.chunks(batch) {
                    let decoded = data.batch(indices);
                    let failed = decoded.is_err();
                    if sender.send(decoded).is_err() || failed {
                        return;
                    }
                }
            });
            // Moved in, so that an error ends the sender.
            let receiver = receiver;
            for decoded in &receiver {
                let (pixels, labels) = decoded?;
                let input = Input { batch: labels.len(), timesteps: None, data: pixels };
                let output = session.run_blocking(&input, self.run.timesteps, options)?;
                for (logits, &label) in output.logits.iter().zip(&labels) {
                    tally.add(logits, label);
                }
                tally.spikes += output.counts.iter().map(|c| c.spikes).sum::<u64>();
                tally.possible += output.counts.iter().map(|c| c.possible).sum::<u64>();
                bar.set_message(format!("accuracy {:.2} %", 100.0 * tally.share(tally.first)));
                bar.inc(labels.len() as u64);
            }
            Ok(())
        });
        bar.finish_and_clear();
        evaluated?;
        let seconds = start.elapsed().as_secs_f64();
        let (top1, top5) = (tally.share(tally.first), tally.share(tally.first_five));
        let speed = tally.total as f64 / seconds;
        let rate = tally.spikes as f64 / (tally.possible as f64).max(1.0);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_counted() {
        let mut tally = Tally::default();
        tally.add(&[1.0, 0.0], 0);
        tally.add(&[1.0, 1.0], 1);
        tally.add(&[6.0, 5.0, 4.0, 3.0, 2.0, 1.0], 5);
        assert_eq!((tally.total, tally.first, tally.first_five), (3, 1, 2));
    }
}
