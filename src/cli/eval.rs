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
use serde_json::{Map, Value, json};

use super::{Common, ModelArgs, RunArgs, count, print, print_json, quantisation_errors, shows_progress};
use crate::data::{Dataset, Invert, Preparation, Split};
use crate::evaluate::{Tally, evaluate};
use crate::layers::Options;
use crate::model::Model;
use crate::session::{Device, Session};
use crate::weights::Weights;

const EXAMPLES: &str = "\
Examples:
  spikeshade eval --model models/mnist-2-64.safetensors --data mnist/
  spikeshade eval --model m.safetensors --data cifar-10/ --batch 128 --device gpu
  spikeshade eval --model m/ --data p.tar.xz --split train --limit 500 --json
  spikeshade eval --model m.safetensors --data mnist/ --weights int8

DATA is a folder with MNIST-like IDX files (plain or .gz), with CIFAR's .bin
files, or with a folder of pictures for each class (test/CLASS/*.png, or
CLASS/*.png), or a .tar, .tar.gz or .tar.xz of the last. Pictures are prepared
as `classify` does. --limit takes the first N, of class folders from each class
in turn. Images per second includes decoding, which goes on while the device
runs. A picture that cannot be read ends the evaluation. --weights f16
or int8 runs the f32 weights too, and prints the difference.";

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

/// An evaluation, and how long it took.
struct Measured {
    tally: Tally,
    seconds: f64,
}

impl Measured {
    fn speed(&self) -> f64 {
        self.tally.total as f64 / self.seconds
    }

    fn json(&self) -> Map<String, Value> {
        let Measured { tally, .. } = self;
        let fields = [
            ("correct", json!(tally.first)),
            ("total", json!(tally.total)),
            ("top1", json!(tally.top1())),
            ("top5", json!(tally.top5())),
            ("loss", json!(tally.mean_loss())),
            ("images_per_second", json!(self.speed())),
            ("firing_rate", json!(tally.firing_rate())),
        ];
        fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

impl Eval {
    pub(super) fn run(&self, common: &Common) -> Result<ExitCode> {
        let checkpoint = self.model.load()?;
        let model = Arc::new(self.run.weights.model(&checkpoint)?);
        let data = Dataset::open(&self.data, self.split, &Preparation::new(model.config(), Invert::Auto)?)?;
        let device = self.run.open()?;
        let measured = self.measure(common, &model, &device, &data)?;
        let f32 = match self.run.weights.choice() {
            Weights::F32 => None,
            Weights::F16 | Weights::Int8 => {
                Some(self.measure(common, &Arc::new(Model::new(&checkpoint)?), &device, &data)?)
            }
        };
        if common.json {
            let mut fields = measured.json();
            fields.extend([
                ("model".to_owned(), json!(self.model.model.display().to_string())),
                ("data".to_owned(), json!(self.data.display().to_string())),
                ("split".to_owned(), json!(self.split.to_string())),
                ("device".to_owned(), json!(device.name())),
                ("timesteps".to_owned(), json!(self.run.timesteps.unwrap_or(model.config().timesteps))),
                ("weights".to_owned(), json!(self.run.weights.name())),
            ]);
            if let Some(f32) = &f32 {
                fields.insert("f32".to_owned(), f32.json().into());
                fields.insert("top1_difference".to_owned(), json!(measured.tally.top1() - f32.tally.top1()));
                fields.insert("quantisation_error".to_owned(), quantisation_errors(&model));
            }
            print_json(&fields.into())?;
        } else {
            let Measured { tally, .. } = &measured;
            let mut text = format!(
                "{} of {} right\ntop-1 {:.2} %, top-5 {:.2} %\n{:.1} images a second on {}\nfiring rate {:.2} %\n",
                tally.first,
                tally.total,
                100.0 * tally.top1(),
                100.0 * tally.top5(),
                measured.speed(),
                device.name(),
                100.0 * tally.firing_rate()
            );
            if let Some(f32) = &f32 {
                text += &format!(
                    "f32 weights: {} right, top-1 {:.2} %, {:.1} images a second\n{} weights change top-1 by {:+.2} percentage \
                     points\n",
                    f32.tally.first,
                    100.0 * f32.tally.top1(),
                    f32.speed(),
                    self.run.weights.name(),
                    100.0 * (tally.top1() - f32.tally.top1())
                );
            }
            print(&text)?;
        }
        Ok(ExitCode::SUCCESS)
    }

    fn measure(&self, common: &Common, model: &Arc<Model>, device: &Device, data: &Dataset) -> Result<Measured> {
        let total = self.limit.map_or(data.len(), |limit| limit.min(data.len()));
        let batch = self.batch.min(total);
        let options = Options { count: true, ..self.run.options() };
        let mut session = Session::new(model.clone(), device.clone());
        pollster::block_on(session.prepare(batch, self.run.timesteps, options))?;

        let bar = ProgressBar::with_draw_target(
            Some(total as u64),
            if shows_progress(common) { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() },
        );
        if let Ok(style) = ProgressStyle::with_template("{wide_bar} {pos}/{len}  {msg}  {eta} left") {
            bar.set_style(style);
        }
        let start = Instant::now();
        let evaluated = evaluate(&mut session, data, total, batch, self.run.timesteps, options, |tally, images| {
            bar.set_message(format!("accuracy {:.2} %", 100.0 * tally.top1()));
            bar.inc(images as u64);
            ControlFlow::Continue(())
        });
        bar.finish_and_clear();
        Ok(Measured { tally: evaluated?, seconds: start.elapsed().as_secs_f64() })
    }
}
