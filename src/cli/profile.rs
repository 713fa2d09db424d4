//! `spikeshade profile`.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use clap::builder::RangedU64ValueParser;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::classify::pictures_at;
use super::{Common, RunArgs, StrictArgs, class_name, count, grouped, print, print_json, shows_progress};
use crate::checkpoint::Checkpoint;
use crate::data::{Dataset, Invert, Picture, Preparation, Split};
use crate::evaluate::{Tally, evaluate};
use crate::insight::counts::Counts;
use crate::insight::receipt::{Accuracy, COST_MODELS, CostModel, Operation, Receipt};
use crate::insight::report::{Report, Sample, amount, comparison, html, joules};
use crate::insight::why::{Question, Why, why};
use crate::layers::Options;
use crate::model::Model;
use crate::session::{Device, Input, Session};

const EXAMPLES: &str = "\
Examples:
  spikeshade profile examples/images/3-dark-on-light.png
  spikeshade profile --model M --data mnist/ --limit 1000 --out report/
  spikeshade profile --model M --data mnist/ --out r/ --layer head_lif --image 7
  spikeshade profile --model M --data mnist/ --compare OTHER.safetensors
  spikeshade profile digit.png --why block.0.attn.q_lif:17:1
  spikeshade profile --data mnist/ --compare before/receipt.json --out after/

Counts what the model does on the device that runs it, layer by layer: spikes,
silent neurons, additions that spikes trigger, and what they cost under named
cost models (ENERGY.md defines every number). --out writes receipt.json and a
page, report.html, that needs nothing else. Without --model, the built-in one.
--data takes what `eval` takes; pictures are prepared as `classify` does.
The page shows one image in detail: --image N chooses it, --layer the neurons.
--compare takes another model, run on the same images, or a receipt.";

/// Count spikes, operations and energy, and show where they go
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Profile {
    /// A checkpoint; the built-in MNIST model if left out
    #[arg(short, long, value_name = "M")]
    model: Option<PathBuf>,
    #[command(flatten)]
    strict: StrictArgs,
    /// Picture files, or folders of them
    #[arg(value_name = "IMAGE", required_unless_present = "data", conflicts_with = "data")]
    images: Vec<PathBuf>,
    /// A labelled data set: a folder or an archive, as `eval` takes it
    #[arg(long, value_name = "DATA")]
    data: Option<PathBuf>,
    /// Which part of it: train or test
    #[arg(long, value_name = "SPLIT", default_value_t = Split::Test)]
    split: Split,
    /// Pictures that run at once
    #[arg(short, long, value_name = "N", default_value_t = 64, value_parser = count())]
    batch: usize,
    /// Only the first N pictures
    #[arg(short, long, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1..))]
    limit: Option<usize>,
    /// A folder for receipt.json and report.html, made if it is not there
    #[arg(short, long, value_name = "REPORT")]
    out: Option<PathBuf>,
    /// The layer of neurons that the page shows in detail, e.g. block.0.attn.q_lif
    #[arg(long, value_name = "LAYER")]
    layer: Option<String>,
    /// Which of its neurons (token · C + channel, comma-separated); else some that fired
    #[arg(long, value_name = "N,…", value_delimiter = ',')]
    neurons: Vec<usize>,
    /// The image that the page shows in detail, counted from 0
    #[arg(long, value_name = "N", default_value_t = 0)]
    image: usize,
    /// Why a neuron fired or did not, in the image of --image: layer:neuron:timestep, the first timestep 1
    #[arg(long, value_name = "LAYER:N:T")]
    why: Option<Question>,
    /// Another model, or a receipt.json, to stand beside it
    #[arg(long, value_name = "OTHER")]
    compare: Option<PathBuf>,
    /// The cost model of the table's energies
    #[arg(long, value_name = "NAME", default_value = "45nm-f32")]
    cost_model: String,
    #[command(flatten)]
    run: RunArgs,
}

/// Where images come from.
enum Source {
    Labelled(Dataset),
    Pictures(Vec<PathBuf>, Box<Preparation>),
}

impl Source {
    fn len(&self) -> usize {
        match self {
            Source::Labelled(data) => data.len(),
            Source::Pictures(paths, _) => paths.len(),
        }
    }

    /// An image as the model takes it, its name and its label.
    fn get(&self, index: usize) -> Result<(Vec<f32>, String, Option<i64>)> {
        Ok(match self {
            Source::Labelled(data) => {
                let (pixels, label) = data.get(index)?;
                (pixels, format!("number {index} of the data set"), Some(label))
            }
            Source::Pictures(paths, preparation) => {
                let picture = Picture::open(&paths[index])?;
                (preparation.prepare(&picture), paths[index].display().to_string(), None)
            }
        })
    }
}

impl Profile {
    pub(super) fn run(&self, common: &Common) -> Result<ExitCode> {
        let cost = CostModel::named(&self.cost_model)?;
        let (model, name) = self.open_model(self.model.as_deref())?;
        let source = self.open_source(&model)?;
        let total = self.limit.map_or(source.len(), |limit| limit.min(source.len()));
        if (self.out.is_some() || self.why.is_some()) && self.image >= source.len() {
            bail!("--image {}: there are {} images, the first is 0", self.image, source.len());
        }
        let layer = self.layer(&model)?;
        if let Some(out) = &self.out {
            std::fs::create_dir_all(out).map_err(|e| crate::Error::io(out, e))?;
            crate::files::check_writable(&out.join("receipt.json"))?;
            crate::files::check_writable(&out.join("report.html"))?;
        }
        let other = self.compare.as_deref().map(|path| self.open_other(path)).transpose()?;
        let device = self.run.open()?;
        let receipt = self.receipt(common, &model, &name, &device, &source, total)?;
        let other = match other {
            None => None,
            Some(Other::Receipt(receipt)) => Some(*receipt),
            Some(Other::Model(model, name)) => {
                let source = self.open_source(&model)?;
                Some(self.receipt(common, &model, &name, &device, &source, total)?)
            }
        };
        let sample = match self.out.is_some() || self.why.is_some() {
            true => Some(self.sample(&model, &device, &source, layer)?),
            false => None,
        };
        let (sample, why) = sample.unzip();
        let why = why.flatten();
        if let Some(out) = &self.out {
            let report =
                Report { receipt: &receipt, config: model.config(), sample: sample.as_ref(), other: other.as_ref() };
            let json = serde_json::to_string_pretty(&receipt).context("writing the receipt")? + "\n";
            crate::files::write_aside(&out.join("receipt.json"), json.as_bytes())?;
            crate::files::write_aside(&out.join("report.html"), html(&report).as_bytes())?;
        }
        if common.json {
            let mut document = serde_json::to_value(&receipt).context("writing the receipt")?;
            if let Some(other) = &other {
                document["compared_with"] = serde_json::to_value(other).context("writing the receipt")?;
            }
            if let Some(why) = &why {
                document["why"] = serde_json::to_value(why).context("writing the answer")?;
            }
            print_json(&document)?;
        } else {
            print(&table(&receipt, cost))?;
            if let Some(other) = &other {
                print(&side_by_side(&receipt, other))?;
            }
            if let (Some(sample), Some(why)) = (&sample, &why) {
                print(&format!("\n{}: {why}\n", crate::error::clip(&sample.name)))?;
            }
            if let Some(out) = &self.out {
                print(&format!("{0}/receipt.json and {0}/report.html\n", out.display()))?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    fn open_model(&self, path: Option<&Path>) -> Result<(Arc<Model>, String)> {
        let (checkpoint, name) = match path {
            Some(path) => (self.strict.load(path)?, file_name(path)),
            None => (Checkpoint::built_in()?, "built-in".to_owned()),
        };
        Ok((Arc::new(self.run.weights.model(&checkpoint)?), name))
    }

    fn open_source(&self, model: &Model) -> Result<Source> {
        let preparation = Preparation::new(model.config(), Invert::Auto)?;
        match &self.data {
            Some(data) => Ok(Source::Labelled(Dataset::open(data, self.split, &preparation)?)),
            None => {
                let mut paths = Vec::new();
                for image in &self.images {
                    paths.extend(pictures_at(image)?);
                }
                Ok(Source::Pictures(paths, Box::new(preparation)))
            }
        }
    }

    fn open_other(&self, path: &Path) -> Result<Other> {
        if path.extension().is_some_and(|e| e == "json") {
            let text = std::fs::read_to_string(path).map_err(|e| crate::Error::io(path, e))?;
            let receipt = serde_json::from_str(&text).map_err(|e| {
                crate::Error::format(
                    path.display(),
                    format!("is no receipt: {e}; give a receipt.json of `spikeshade profile`"),
                )
            })?;
            return Ok(Other::Receipt(Box::new(receipt)));
        }
        let (model, name) = self.open_model(Some(path))?;
        Ok(Other::Model(model, name))
    }

    /// The layer of neurons to be shown.
    fn layer(&self, model: &Model) -> Result<String> {
        let neurons = model.anatomy().neurons;
        let Some(wanted) = &self.layer else {
            // Queries ask; where there is no block, the head's are left.
            let last = neurons.iter().rev().find(|n| n.name.ends_with(".q_lif")).or(neurons.last());
            return Ok(last.map(|n| n.name.clone()).unwrap_or_default());
        };
        match neurons.iter().find(|n| n.name == *wanted) {
            Some(layer) => match self.neurons.iter().find(|&&i| i as u64 >= layer.len()) {
                Some(i) => bail!("--neurons {i}: {wanted} has {} neurons, the first is 0", layer.len()),
                None => Ok(wanted.clone()),
            },
            None => {
                let names: Vec<&str> = neurons.iter().map(|n| n.name.as_str()).collect();
                bail!("--layer {wanted}: there is no such layer of neurons; there are {}", names.join(", "))
            }
        }
    }

    fn options(&self) -> Options {
        Options { census: true, ..self.run.options() }
    }

    /// Runs the first `total` images and writes their receipt.
    fn receipt(
        &self,
        common: &Common,
        model: &Arc<Model>,
        name: &str,
        device: &Device,
        source: &Source,
        total: usize,
    ) -> Result<Receipt> {
        let mut session = Session::new(model.clone(), device.clone());
        let bar = ProgressBar::with_draw_target(
            Some(total as u64),
            if shows_progress(common) { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() },
        );
        if let Ok(style) = ProgressStyle::with_template("{wide_bar} {pos}/{len}  {eta} left") {
            bar.set_style(style);
        }
        let tally = match source {
            Source::Labelled(data) => {
                evaluate(&mut session, data, total, self.batch, self.run.timesteps, self.options(), |_, images| {
                    bar.inc(images as u64);
                    ControlFlow::Continue(())
                })?
            }
            Source::Pictures(..) => {
                let mut counts = Counts::default();
                for first in (0..total).step_by(self.batch) {
                    let range = first..(first + self.batch).min(total);
                    let mut data = Vec::new();
                    for index in range.clone() {
                        data.extend(source.get(index)?.0);
                    }
                    let input = Input { batch: range.len(), timesteps: None, data };
                    let output = session.run_blocking(&input, self.run.timesteps, self.options())?;
                    if let Some(of_batch) = &output.census {
                        counts.merge(of_batch)?;
                    }
                    bar.inc(range.len() as u64);
                }
                Tally { census: Some(counts), ..Tally::default() }
            }
        };
        bar.finish_and_clear();
        let mut receipt = Receipt::new(model, name, &tally.census.unwrap_or_default())?;
        if tally.total > 0 {
            receipt.accuracy = Some(Accuracy { labelled: tally.total as u64, right: tally.first_after });
        }
        Ok(receipt)
    }

    /// One image in detail, and why the neuron that was asked for fired in it.
    fn sample(
        &self,
        model: &Arc<Model>,
        device: &Device,
        source: &Source,
        layer: String,
    ) -> Result<(Sample, Option<Why>)> {
        let (image, name, label) = source.get(self.image)?;
        let mut session = Session::new(model.clone(), device.clone());
        let input = Input { batch: 1, timesteps: None, data: image };
        let options = Options { trace: true, ..self.options() };
        let mut output = session.run_blocking(&input, self.run.timesteps, options)?;
        let label = label.and_then(|label| usize::try_from(label).ok()).map(|label| class_name(model, label));
        let readouts = output.readouts.pop().unwrap_or_default();
        let answer = self.why.as_ref().map(|q| why(model, &input.data, &output.trace, q)).transpose()?;
        let sample = Sample {
            name,
            label,
            image: input.data,
            readouts,
            trace: output.trace,
            layer,
            neurons: self.neurons.clone(),
            why: answer.as_ref().map(Why::to_string),
        };
        Ok((sample, answer))
    }
}

/// What a model is compared with.
enum Other {
    Receipt(Box<Receipt>),
    Model(Arc<Model>, String),
}

fn file_name(path: &Path) -> String {
    path.file_stem().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}

/// The receipt for a terminal.
fn table(receipt: &Receipt, cost: &CostModel) -> String {
    let images = receipt.images;
    let mut text = format!(
        "{}: {} image{} at {} timestep{}\n\n",
        crate::error::clip(&receipt.model.name),
        grouped(images),
        if images == 1 { "" } else { "s" },
        receipt.timesteps,
        if receipt.timesteps == 1 { "" } else { "s" }
    );
    text +=
        &format!("{:<26} {:>9} {:>7} {:>8} {:>9}\n", "layer of neurons", "neurons", "fire %", "silent %", "always %");
    let share = |n: u64, of: u64| 100.0 * n as f64 / (of as f64).max(1.0);
    for n in &receipt.neurons {
        text += &format!(
            "{:<26} {:>9} {:>7.2} {:>8.2} {:>9.2}\n",
            n.name,
            grouped(n.neurons),
            100.0 * n.rate(),
            share(n.silent, n.neurons),
            share(n.saturated, n.neurons)
        );
    }
    text += &format!(
        "\n{:<26} {:>12} {:>12} {:>7} {:>12}\n",
        "layer, per image", "operations", "dense", "done %", cost.name
    );
    for layer in &receipt.layers {
        let kind = if layer.operation == Operation::Mac { "MAC" } else { "AC" };
        text += &format!(
            "{:<26} {:>8} {kind:<3} {:>12} {:>7.2} {:>12}\n",
            layer.name,
            amount(receipt.per_image(layer.operations())),
            amount(receipt.per_image(layer.dense)),
            share(layer.operations(), layer.dense),
            joules(layer.energy(cost, images)),
        );
    }
    text += &format!("\n{:<14} {:>12} {:>12}", "counted as", "MACs", "ACs");
    let shown: Vec<&CostModel> =
        COST_MODELS.iter().filter(|c| c.name == cost.name || c.name.ends_with("f32-sram")).collect();
    shown.iter().for_each(|c| text += &format!(" {:>14}", c.name));
    text += "\n";
    for way in &receipt.countings {
        text += &format!("{:<14} {:>12} {:>12}", way.name, amount(way.macs), amount(way.acs));
        for cost in &shown {
            text += &format!(" {:>14}", joules(receipt.picojoules(&way.name, cost.name).unwrap_or(0.0)));
        }
        text += "\n";
    }
    text += &format!(
        "\n{} synaptic operations an image, {} of neurons fire at a timestep, {} of {} neurons never fired\n",
        amount(receipt.per_image(receipt.totals.acs)),
        format_args!("{:.2} %", 100.0 * receipt.firing_rate()),
        grouped(receipt.totals.silent),
        grouped(receipt.totals.neurons)
    );
    if let Some(of) = &receipt.accuracy {
        let right: Vec<String> = of.right.iter().map(|&n| format!("{:.2}", share(n, of.labelled))).collect();
        text += &format!("right after 1, 2, … timesteps, in %: {}\n", right.join("  "));
    }
    text
}

fn side_by_side(a: &Receipt, b: &Receipt) -> String {
    let name = |r: &Receipt| crate::error::clip(&r.model.name).chars().take(18).collect::<String>();
    let mut text = format!("\n{:<28} {:>18} {:>18} {:>7}\n", "per image", name(a), name(b), "ratio");
    for (what, values, unit) in comparison(a, b) {
        let ratio = if values[0] > 0.0 { format!("{:.3}", values[1] / values[0]) } else { "–".to_owned() };
        text += &format!("{what:<28} {:>18} {:>18} {ratio:>7}\n", unit(values[0]), unit(values[1]));
    }
    text
}
