//! `spikeshade bench`: times of whole runs here, of their ops in `breakdown.rs`, of a process from its start in `startup.rs`,
//! and in `serve.rs` runs on demand, for comparisons that measure from outside.

mod breakdown;
mod serve;
mod startup;
mod training;

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, bail};
use clap::Args;
use clap::builder::RangedU64ValueParser;
use serde_json::{Value, json};

use super::init::preset;
use super::{Common, RunArgs, StrictArgs, complain, count, grouped, message, print, print_json};
use crate::checkpoint::Checkpoint;
use crate::config::Config;
use crate::error::clip;
use crate::init::{init, smooth_images};
use crate::layers::Options;
use crate::model::Model;
use crate::outputs::ranked;
use crate::profile::{Ceilings, OpTime};
use crate::session::{Device, Input, Session};
use breakdown::{Breakdown, By};
use training::Training;

const EXAMPLES: &str = "\
Examples:
  spikeshade bench                                        the built-in model
  spikeshade bench --preset cifar10-2-256 --batch 1,16 --device cpu
  spikeshade bench -m m.safetensors --train --batch 16 --by layer
  spikeshade bench --preset cifar10-2-256 --census --runs 50
  spikeshade bench --startup --device llvmpipe
  spikeshade bench --serve -m m.safetensors -i in.safetensors

Without --model or --preset it is the built-in model; a preset gets random
weights that fire (see `spikeshade init`). Inputs are synthetic. The breakdown
has one row a kernel, or with --by layer one a layer:
  MB        its tensors, each read or written once and as a whole
  Gadd      additions that spikes select, as if every neuron fired
  Gsyn      of these, the ones a spike selected: synaptic operations (where all
            are of spikes that are counted)
  Gmac      multiply-adds of two real factors
  copy, FMA which share that is, in bytes and in Gadd + Gmac a second, of what a
            copy and a loop of multiply-adds reach on this device

--serve is for programs that time this one beside others. It loads the model and
the tensor `x` of IN (as `spikeshade forward` takes it; with --train also
`label`, as `spikeshade grad` takes it), prints one line
  {\"ready\": true, \"device\": \"...\", \"batch\": 16}
and answers each line of standard input with one line of JSON:
  run     the batch once, or with --train one step of AdamW: {\"seconds\": 0.1};
          the first one also compiles, and allocates what it needs
  logits  of the latest run, or of one made for it: {\"logits\": [[...], ...]}
What it cannot do is answered with {\"error\": \"...\"}. It ends with its input.

--startup starts this program anew, with empty and then with filled caches of
compiled kernels, and times it to the built-in model's first logits.";

/// Time a model: whole runs, each kernel, or the program's start
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Bench {
    /// A checkpoint: a .safetensors file, or a folder with config.json and model.safetensors
    #[arg(short, long, value_name = "M", conflicts_with = "preset")]
    model: Option<PathBuf>,
    /// A built-in configuration with random weights; `spikeshade init --preset list` lists them
    #[arg(long, value_name = "NAME")]
    preset: Option<String>,
    #[command(flatten)]
    strict: StrictArgs,
    /// Images at once; several sizes are timed one after the other
    #[arg(short, long, value_name = "N,...", value_delimiter = ',', default_values_t = [1, 16], value_parser = count())]
    batch: Vec<usize>,
    /// Time training steps: forward, backward and AdamW
    #[arg(long)]
    train: bool,
    /// Timed runs of each batch, after two that are not
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = RangedU64ValueParser::<usize>::new().range(1..=100_000))]
    runs: usize,
    /// What the rows of the breakdown are
    #[arg(long, value_enum, default_value_t)]
    by: By,
    /// Beside each timed run one that counts what receipts are made of, in turn, and how much longer that takes
    #[arg(long, conflicts_with_all = ["train", "serve"])]
    census: bool,
    /// Answer commands on standard input, one a line
    #[arg(long, requires = "model", requires = "input", conflicts_with_all = ["runs", "batch", "by"])]
    serve: bool,
    /// With --serve: a .safetensors file with the tensor `x`, and for --train `label`
    #[arg(short, long, value_name = "IN", requires = "serve")]
    input: Option<PathBuf>,
    /// Time the program from its start to the built-in model's first logits
    #[arg(long, conflicts_with_all = ["model", "preset", "train", "batch", "by", "serve", "timesteps", "order", "weights"])]
    startup: bool,
    /// What --startup starts: this process began at that time, in nanoseconds since 1970
    #[arg(long, hide = true, requires = "startup", value_name = "NS")]
    began: Option<u64>,
    #[command(flatten)]
    run: RunArgs,
}

impl Bench {
    pub(super) fn run(&self, common: &Common) -> Result<ExitCode> {
        if let Some(began) = self.began {
            return startup::first_logits(began, &self.run.device);
        }
        if self.startup {
            return startup::startup(&self.run.device, self.runs, common);
        }
        if self.train {
            self.run.weights.only_f32()?;
        }
        if let (true, Some(model), Some(input)) = (self.serve, &self.model, &self.input) {
            return serve::serve(self.strict.load(model)?, input, self.train, &self.run);
        }
        let checkpoint = self.checkpoint()?;
        let device = self.run.open()?;
        let ceilings = match &device {
            Device::Gpu(context) if !context.has_timestamps() => {
                complain("note", format!("{} has no timestamps: no times of single kernels", device.name()));
                None
            }
            _ => Some(pollster::block_on(Ceilings::measure(&device))?),
        };
        if !common.json {
            print(&self.heading(&checkpoint.config, &device, ceilings.as_ref()))?;
        }
        let model = Arc::new(self.run.weights.model(&checkpoint)?);
        let mut batches = Vec::new();
        let mut failed = None;
        for &batch in &self.batch {
            let measured = if self.train {
                self.training(&checkpoint, &device, batch, ceilings.is_some())
            } else {
                self.inference(&model, &device, batch, ceilings.is_some())
            };
            // What was measured before is told all the same, and so are times that are not to be trusted.
            failed = match measured {
                Ok(measured) => {
                    if !common.json {
                        print(&measured.as_text(self.by, ceilings.as_ref()))?;
                    }
                    batches.push(measured.as_json(self.by, ceilings.as_ref()));
                    measured.check().err()
                }
                Err(e) => Some(e),
            };
            if failed.is_some() {
                break;
            }
        }
        if common.json && !batches.is_empty() {
            let ceilings = ceilings.map(|c| {
                json!({
                    "copy_bytes_per_second": c.bytes,
                    "multiply_adds_per_second": c.multiply_adds,
                })
            });
            print_json(&json!({
                "device": device.name(),
                "timesteps": self.run.timesteps.unwrap_or(checkpoint.config.timesteps),
                "weights": self.run.weights.name(),
                "train": self.train,
                "parameters": checkpoint.config.trainable_parameters(),
                "ceilings": ceilings,
                "batches": batches,
                "error": failed.as_ref().map(message),
            }))?;
        }
        failed.map_or(Ok(ExitCode::SUCCESS), Err)
    }

    fn checkpoint(&self) -> Result<Checkpoint> {
        match (&self.model, &self.preset) {
            (Some(path), _) => self.strict.load(path),
            (None, Some(name)) => Ok(init(&preset(name)?, 0, |_, _| ())?.checkpoint),
            (None, None) => Ok(Checkpoint::built_in()?),
        }
    }

    fn heading(&self, config: &Config, device: &Device, ceilings: Option<&Ceilings>) -> String {
        let what = if self.train { "training" } else { "inference" };
        let mut text = format!(
            "{what}, {} parameters in {}, {} × {} pixels, T {}, on {}\n",
            grouped(config.trainable_parameters()),
            self.run.weights.name(),
            config.img_size,
            config.img_size,
            self.run.timesteps.unwrap_or(config.timesteps),
            clip(device.name()),
        );
        if let Some(c) = ceilings {
            let (bytes, operations) = (c.bytes / 1e9, c.multiply_adds / 1e9);
            text += &format!("at most {bytes:.1} GB/s copied and {operations:.1} G multiply-adds/s\n");
        }
        text
    }

    fn inference(&self, model: &Arc<Model>, device: &Device, batch: usize, timed: bool) -> Result<Measured> {
        let timesteps = self.run.timesteps;
        let input = images(model.config(), batch)?;
        let options = self.run.options();
        let mut session = Session::new(model.clone(), device.clone());
        let prepared = seconds(|| Ok(pollster::block_on(session.prepare(batch, timesteps, options))?))?.0;
        let run = |session: &mut Session| seconds(|| Ok(session.run_blocking(&input, timesteps, options)?));
        let (first, output) = run(&mut session)?;
        run(&mut session)?;
        let times = (0..self.runs).map(|_| Ok(run(&mut session)?.0)).collect::<Result<_>>()?;
        let mut measured = Measured { batch, prepared, first, times, ..Measured::default() };
        if self.census {
            let counting = Options { census: true, ..options };
            let counted = |session: &mut Session| seconds(|| Ok(session.run_blocking(&input, timesteps, counting)?));
            counted(&mut session)?;
            for i in 0..self.runs {
                // Whichever comes second finds warmer caches.
                let (plain, counted) = match i % 2 {
                    0 => (run(&mut session)?.0, counted(&mut session)?.0),
                    _ => {
                        let counted = counted(&mut session)?.0;
                        (run(&mut session)?.0, counted)
                    }
                };
                measured.census.push(counted / plain.max(1e-9));
            }
        }
        if timed {
            let mut part = batch;
            let ops = self.op_times(|| {
                let (images, ops) = pollster::block_on(session.run_timed(&input, timesteps, options))?;
                part = images;
                Ok(ops)
            })?;
            // Another plan, which the memory may not hold beside the first.
            drop(session);
            let mut session = Session::new(model.clone(), device.clone());
            let counted = session.run_blocking(&input, timesteps, Options { count: true, ..options })?;
            let rates = counted.counts.iter().map(|c| (c.layer.clone(), c.rate())).collect();
            measured.breakdown = Some(Breakdown { images: part, ops, rates });
        }
        if matches!(device, Device::Gpu(_)) {
            let expected = Session::new(model.clone(), Device::Cpu).run_blocking(&input, timesteps, options)?;
            measured.agreement = Some(Agreement::of(&output.logits, &expected.logits));
        }
        Ok(measured)
    }

    fn training(&self, checkpoint: &Checkpoint, device: &Device, batch: usize, timed: bool) -> Result<Measured> {
        let classes = checkpoint.config.num_classes as i64;
        let labels: Vec<i64> = (0..batch as i64).map(|i| i % classes.max(1)).collect();
        let new = |device: &Device| {
            let (checkpoint, input) = (checkpoint.clone(), images(&checkpoint.config, batch)?);
            Training::new(checkpoint, &input, &labels, device.clone(), &self.run)
        };
        let mut training = new(device)?;
        let prepared = seconds(|| training.prepare())?.0;
        let step = |training: &mut Training| seconds(|| training.step());
        let first = step(&mut training)?.0;
        let logits = training.logits.clone().unwrap_or_default();
        step(&mut training)?;
        let times = (0..self.runs).map(|_| Ok(step(&mut training)?.0)).collect::<Result<_>>()?;
        let mut measured = Measured { batch, prepared, first, times, ..Measured::default() };
        if timed {
            let ops = self.op_times(|| training.step_timed())?;
            let rates = training.rates.clone();
            measured.breakdown = Some(Breakdown { images: batch, ops, rates });
        }
        if matches!(device, Device::Gpu(_)) {
            drop(training);
            let mut expected = new(&Device::Cpu)?;
            expected.step()?;
            measured.agreement = Some(Agreement::of(&logits, &expected.logits.unwrap_or_default()));
        }
        Ok(measured)
    }

    /// Each op's median time of a few runs.
    fn op_times(&self, mut run: impl FnMut() -> Result<Vec<OpTime>>) -> Result<Vec<OpTime>> {
        const RUNS: usize = 5;
        let mut runs = Vec::new();
        for _ in 0..self.runs.min(RUNS) {
            runs.push(run()?);
        }
        let mut ops = runs.pop().unwrap_or_default();
        for (i, op) in ops.iter_mut().enumerate() {
            let mut times: Vec<_> = runs.iter().map(|run| run[i].time).chain([op.time]).collect();
            times.sort();
            op.time = times[times.len() / 2];
        }
        Ok(ops)
    }
}

/// Synthetic images, the same every time; an error where memory does not hold them.
fn images(config: &Config, batch: usize) -> Result<Input> {
    let values = batch.saturating_mul(config.in_chans * config.img_size * config.img_size);
    if Vec::<f32>::new().try_reserve_exact(values).is_err() {
        let gib = 4.0 * values as f64 / (1u64 << 30) as f64;
        bail!("a batch of {batch} images takes {gib:.2} GiB, more memory than there is; use a smaller batch");
    }
    Ok(Input { batch, timesteps: None, data: smooth_images(1, batch, config.in_chans, config.img_size) })
}

/// How long `f` takes.
fn seconds<R>(f: impl FnOnce() -> Result<R>) -> Result<(f64, R)> {
    let start = Instant::now();
    let value = f()?;
    Ok((start.elapsed().as_secs_f64(), value))
}

/// Median, smallest and largest.
fn spread(times: &[f64]) -> [f64; 3] {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    let n = sorted.len();
    if n == 0 {
        return [0.0; 3];
    }
    [(sorted[(n - 1) / 2] + sorted[n / 2]) / 2.0, sorted[0], sorted[n - 1]]
}

/// How the logits of a device compare with the reference executor's.
#[derive(Clone, Copy, Debug, Default)]
struct Agreement {
    /// The largest difference.
    difference: f64,
    /// The largest of the reference's, regardless of sign.
    largest: f64,
    /// Images whose logits differ by more than rounding.
    moved: usize,
    /// Images of which both find the same class, and all.
    same: (usize, usize),
}

impl Agreement {
    /// So much of the largest logit an image's may differ by where no spike differs, and where one does: a GPU's driver may fuse a
    /// multiplication and an addition, which rounds otherwise, and that moves a membrane across its threshold now and then, and with
    /// it what is behind it of that image.
    const ROUNDED: f64 = 0.01;
    const MOVED: f64 = 0.25;

    fn of(logits: &[Vec<f32>], expected: &[Vec<f32>]) -> Self {
        let of_all = expected.iter().flatten().map(|b| f64::from(b.abs()));
        let largest = of_all.fold(0.0, f64::max);
        let mut this = Agreement { largest, same: (0, expected.len()), ..Agreement::default() };
        for (row, expected) in logits.iter().zip(expected) {
            this.same.0 += usize::from(ranked(row).first() == ranked(expected).first());
            let differences = row.iter().zip(expected).map(|(a, b)| f64::from((a - b).abs()));
            // `max` passes over NaN.
            let of_image = differences.fold(0.0, |most, d| if d > most || d.is_nan() { d } else { most });
            this.moved += usize::from(of_image.is_nan() || of_image > Self::ROUNDED * largest);
            if of_image > this.difference || of_image.is_nan() {
                this.difference = of_image;
            }
        }
        this
    }

    /// Two classes that are about as likely may change places, and spikes of an image in eight, or of one, may differ.
    fn holds(&self) -> bool {
        self.difference <= Self::MOVED * self.largest && self.moved <= self.same.1.div_ceil(8)
    }
}

/// What one batch size shows.
#[derive(Default)]
struct Measured {
    batch: usize,
    /// Seconds to record, compile and upload.
    prepared: f64,
    /// Seconds of the first run, in which drivers may compile too.
    first: f64,
    /// Seconds of each timed run.
    times: Vec<f64>,
    /// How many times as long each run with a census took as the one beside it.
    census: Vec<f64>,
    breakdown: Option<Breakdown>,
    agreement: Option<Agreement>,
}

impl Measured {
    fn images_per_second(&self) -> f64 {
        self.batch as f64 / spread(&self.times)[0].max(1e-9)
    }

    fn as_text(&self, by: By, ceilings: Option<&Ceilings>) -> String {
        let [median, least, most] = spread(&self.times).map(|s| 1e3 * s);
        let mut text = format!(
            "\nbatch {}: {median:.2} ms ({least:.2} to {most:.2} in {}), {:.1} images/s; prepared in {:.1} ms, first run {:.1} ms\n",
            self.batch,
            self.times.len(),
            self.images_per_second(),
            1e3 * self.prepared,
            1e3 * self.first,
        );
        if !self.census.is_empty() {
            let [median, least, most] = spread(&self.census);
            text += &format!(
                "with a census {median:.3} times as long (median of {} pairs, {least:.3} to {most:.3})\n",
                self.census.len()
            );
        }
        if let Some(a) = &self.agreement {
            text += &format!(
                "logits differ by at most {:.1e} from the reference executor's (largest {:.2}), of {} of {} images by more than \
                 {} % of it; {} classes alike\n",
                a.difference,
                a.largest,
                a.moved,
                a.same.1,
                100.0 * Agreement::ROUNDED,
                a.same.0
            );
        }
        if let (Some(breakdown), Some(ceilings)) = (&self.breakdown, ceilings) {
            if breakdown.images != self.batch {
                text += &format!("{} images at a time:\n", breakdown.images);
            }
            text += &breakdown.as_text(by, ceilings);
        }
        text
    }

    fn as_json(&self, by: By, ceilings: Option<&Ceilings>) -> Value {
        let [median, least, most] = spread(&self.times);
        let breakdown = self.breakdown.as_ref().zip(ceilings);
        json!({
            "batch": self.batch,
            "prepare_seconds": self.prepared,
            "first_seconds": self.first,
            "seconds": { "median": median, "min": least, "max": most, "all": self.times },
            "images_per_second": self.images_per_second(),
            "census_ratio": (!self.census.is_empty()).then(|| spread(&self.census)[0]),
            "against_reference": self.agreement.map(|a| json!({
                "largest_difference": a.difference,
                "images_that_differ": a.moved,
                "largest_logit": a.largest,
                "same_class": a.same.0,
                "images": a.same.1,
            })),
            "breakdown": breakdown.map(|(breakdown, ceilings)| breakdown.as_json(by, ceilings)),
        })
    }

    fn check(&self) -> Result<()> {
        match &self.agreement {
            Some(a) if !a.holds() => bail!(
                "batch {}: the device's logits differ from the reference executor's by up to {:.3e}, where the largest is {:.3e}, and \
                 of {} of {} images by more than {} % of that; do not trust its times, and report its name and driver",
                self.batch,
                a.difference,
                a.largest,
                a.moved,
                a.same.1,
                100.0 * Agreement::ROUNDED
            ),
            _ => Ok(()),
        }
    }
}

/// Firing rates by layer, in spikes per neuron and timestep.
type Rates = HashMap<String, f64>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_has_its_median_between() {
        assert_eq!(spread(&[]), [0.0; 3]);
        assert_eq!(spread(&[3.0, 1.0, 2.0]), [2.0, 1.0, 3.0]);
        assert_eq!(spread(&[4.0, 1.0, 3.0, 2.0]), [2.5, 1.0, 4.0]);
    }

    #[test]
    fn logits_that_differ_too_much_are_an_error() {
        let measured = |logits: Vec<Vec<f32>>| {
            let expected = vec![vec![10.0, -2.0, 9.9]; logits.len()];
            Measured { agreement: Some(Agreement::of(&logits, &expected)), ..Measured::default() }
        };
        let of_one = |logits: [f32; 3]| measured(vec![logits.into()]).check();
        assert!(of_one([10.0, -2.0, 9.9]).is_ok());
        // A spike that differs, and more than that.
        assert!(of_one([8.0, -2.0, 9.9]).is_ok());
        assert!(of_one([7.4, -2.0, 9.9]).is_err());
        assert!(of_one([10.0, f32::NAN, 9.9]).is_err());
        // Of sixteen images two may have one, and rounding all.
        let of_many = |moved: usize| {
            let logits = |i| if i < moved { vec![8.0, -2.0, 9.9] } else { vec![9.95, -2.0, 9.96] };
            measured((0..16).map(logits).collect()).check()
        };
        assert!(of_many(2).is_ok());
        assert!(of_many(3).is_err());
    }
}
