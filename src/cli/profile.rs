//! `spikeshade profile`.

use std::ops::{ControlFlow, Range};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use clap::builder::RangedU64ValueParser;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::classify::pictures_at;
use super::forward::read_input;
use super::{Common, RunArgs, StrictArgs, class_name, complain, count, grouped, print, print_json, shows_progress};
use crate::checkpoint::Checkpoint;
use crate::data::{Dataset, Invert, Picture, Preparation, Split};
use crate::evaluate::{Tally, evaluate};
use crate::insight::comparison::{Row, Section, comparison, differences, names};
use crate::insight::counts::Counts;
use crate::insight::receipt::{Accuracy, COST_MODELS, CostModel, Operation, Receipt};
use crate::insight::report::{Report, Sample, amount, comparison_html, html, joules};
use crate::insight::why::{Question, why};
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
  spikeshade profile --compare before/ after/
  spikeshade profile --model M --input events.safetensors

Counts what the model does on the device that runs it, layer by layer: spikes,
silent neurons, additions that spikes trigger, and what they cost under named
cost models (ENERGY.md defines every number). --out writes receipt.json and a
page, report.html, that needs nothing else. Without --model, the built-in one.
--data takes what `eval` takes; pictures are prepared as `classify` does;
--input takes what `forward` takes: images, or sequences of them.
The page shows one image in detail: --image N chooses it, --layer the neurons.
--compare takes another model, run on the same images, or a receipt.json or
its folder; of two receipts nothing is run, and --out writes a page only.";

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
    #[arg(value_name = "IMAGE", required_unless_present_any = ["data", "input", "compare"], conflicts_with_all = ["data", "input"])]
    images: Vec<PathBuf>,
    /// A labelled data set: a folder or an archive, as `eval` takes it
    #[arg(long, value_name = "DATA", conflicts_with = "input")]
    data: Option<PathBuf>,
    /// A .safetensors file with images `x` [B, C, H, W] or sequences [T, B, C, H, W], as `forward` takes it
    #[arg(long, value_name = "X")]
    input: Option<PathBuf>,
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
    /// The image that the page shows in detail, counted from 0; else the first
    #[arg(long, value_name = "N")]
    image: Option<usize>,
    /// Why a neuron fired or did not, in the image of --image: layer:neuron:timestep, the first timestep 1
    #[arg(long, value_name = "LAYER:N:T")]
    why: Option<Question>,
    /// Another model, or a receipt.json or its folder, to stand beside it; or two of these to stand beside each other
    #[arg(long, value_name = "OTHER", num_args = 1..=2)]
    compare: Vec<PathBuf>,
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
    Tensor(Input),
}

impl Source {
    fn len(&self) -> usize {
        match self {
            Source::Labelled(data) => data.len(),
            Source::Pictures(paths, _) => paths.len(),
            Source::Tensor(input) => input.batch,
        }
    }

    /// T, where every image is a sequence.
    fn timesteps(&self) -> Option<usize> {
        match self {
            Source::Tensor(input) => input.timesteps,
            _ => None,
        }
    }

    /// Images as the model takes them.
    fn batch(&self, range: Range<usize>) -> Result<Input> {
        let mut data = Vec::new();
        match self {
            Source::Labelled(of) => {
                for index in range.clone() {
                    data.extend(of.get(index)?.0);
                }
            }
            Source::Pictures(paths, preparation) => {
                for path in &paths[range.clone()] {
                    data.extend(preparation.prepare(&Picture::open(path)?));
                }
            }
            Source::Tensor(all) => {
                let size = all.data.len() / (all.batch * all.timesteps.unwrap_or(1)).max(1);
                for of_step in all.data.chunks_exact((size * all.batch).max(1)) {
                    data.extend_from_slice(&of_step[size * range.start..size * range.end]);
                }
            }
        }
        Ok(Input { batch: range.len(), timesteps: self.timesteps(), data })
    }

    /// An image's name and its label.
    fn name(&self, index: usize) -> Result<(String, Option<i64>)> {
        Ok(match self {
            Source::Labelled(data) => (format!("number {index} of the data set"), Some(data.get(index)?.1)),
            Source::Pictures(paths, _) => (paths[index].display().to_string(), None),
            Source::Tensor(_) => (format!("number {index} of the input"), None),
        })
    }
}

/// What is profiled, or compared with.
enum Subject {
    Receipt(Box<Receipt>),
    Model(Arc<Model>, String),
}

impl Profile {
    pub(super) fn run(&self, common: &Common) -> Result<ExitCode> {
        let cost = CostModel::named(&self.cost_model)?;
        if self.out.is_none() {
            for (given, what) in [(self.layer.is_some(), "--layer"), (!self.neurons.is_empty(), "--neurons")] {
                if given {
                    bail!("{what} is for the page; add --out FOLDER");
                }
            }
            if self.image.is_some() && self.why.is_none() {
                bail!("--image is for the page or for --why; add --out FOLDER, or --why LAYER:N:T");
            }
        }
        let (first, second) = self.subjects()?;
        let pictures = self.pictures();
        if let (Subject::Receipt(first), Some(Subject::Receipt(second))) = (&first, &second) {
            return self.compare_receipts(common, first, second);
        }
        if pictures.is_empty() && self.data.is_none() && self.input.is_none() {
            bail!("a model is to run, and there is nothing to run it on; give pictures, --data or --input");
        }
        let Subject::Model(model, name) = first else {
            bail!("the first of --compare is a receipt and the second a model; give the model first");
        };
        let source = self.open_source(&model)?;
        let total = self.limit.map_or(source.len(), |limit| limit.min(source.len()));
        let image = self.image.unwrap_or(0);
        if image >= total {
            let limited = if total < source.len() { " (--limit)" } else { "" };
            bail!("--image {image}: there are {total} images{limited}, the first is 0");
        }
        let layer = self.layer(&model)?;
        if let Some(question) = &self.why {
            let steps = source.timesteps().or(self.run.timesteps).unwrap_or(model.config().timesteps);
            question.check(&model, steps).context("--why")?;
        }
        if let Some(out) = &self.out {
            make_folder(out)?;
            crate::files::check_writable(&out.join("receipt.json"))?;
            crate::files::check_writable(&out.join("report.html"))?;
        }
        let device = self.run.open()?;
        let mut receipt = self.receipt(common, &model, &name, &device, &source, total)?;
        let other = match second {
            None => None,
            Some(Subject::Receipt(receipt)) => Some(*receipt),
            Some(Subject::Model(model, name)) => {
                let source = self.open_source(&model)?;
                Some(self.receipt(common, &model, &name, &device, &source, total)?)
            }
        };
        let sample = match self.out.is_some() || self.why.is_some() {
            true => Some(self.sample(&model, &device, &source, image, layer)?),
            false => None,
        };
        receipt.why = sample.as_ref().and_then(|s| s.why.clone());
        if let Some(out) = &self.out {
            let report =
                Report { receipt: &receipt, config: model.config(), sample: sample.as_ref(), other: other.as_ref() };
            let json = serde_json::to_string_pretty(&receipt).context("writing the receipt")? + "\n";
            crate::files::write_all_aside(&[
                (&out.join("receipt.json"), json.as_bytes()),
                (&out.join("report.html"), html(&report).as_bytes()),
            ])?;
        }
        if common.json {
            print_json(&document(&receipt, other.as_ref())?)?;
        } else {
            print(&table(&receipt, cost))?;
            if let Some(other) = &other {
                print(&side_by_side(&receipt, other))?;
            }
            if let Some(sample) = &sample
                && let Some(why) = &sample.why
            {
                print(&format!("\n{}: {why}\n", crate::error::clip(&sample.name)))?;
            }
            if let Some(out) = &self.out {
                print(&format!("{0}/receipt.json and {0}/report.html\n", out.display()))?;
            }
        }
        if let Some(other) = &other {
            warn_of_differences(&receipt, other);
        }
        Ok(ExitCode::SUCCESS)
    }

    /// What --compare names, less a picture that follows it.
    fn compared(&self) -> &[PathBuf] {
        match &self.compare[..] {
            [first, last] if self.data.is_none() && self.input.is_none() && !is_subject(last) => {
                std::slice::from_ref(first)
            }
            all => all,
        }
    }

    /// Picture files and folders of them, the one after --compare among them.
    fn pictures(&self) -> Vec<&PathBuf> {
        self.images.iter().chain(&self.compare[self.compared().len()..]).collect()
    }

    /// What is profiled, and what stands beside it.
    fn subjects(&self) -> Result<(Subject, Option<Subject>)> {
        let own = || self.open_model(self.model.as_deref()).map(|(model, name)| Subject::Model(model, name));
        Ok(match self.compared() {
            [first, second] => {
                if self.model.is_some() {
                    bail!("--compare has two already; leave --model out, or one of them");
                }
                (self.open_subject(first)?, Some(self.open_subject(second)?))
            }
            [other] => (own()?, Some(self.open_subject(other)?)),
            _ => (own()?, None),
        })
    }

    /// Two receipts, of which nothing is run.
    fn compare_receipts(&self, common: &Common, first: &Receipt, second: &Receipt) -> Result<ExitCode> {
        if !self.pictures().is_empty() || self.data.is_some() || self.input.is_some() || self.why.is_some() {
            bail!(
                "two receipts are compared without a run; leave out pictures, --data, --input and --why, or give a model"
            );
        }
        if let Some(out) = &self.out {
            make_folder(out)?;
            crate::files::write_aside(&out.join("report.html"), comparison_html(first, second).as_bytes())?;
        }
        if common.json {
            print_json(&document(first, Some(second))?)?;
        } else {
            print(side_by_side(first, second).trim_start())?;
            if let Some(out) = &self.out {
                print(&format!("{}/report.html\n", out.display()))?;
            }
        }
        warn_of_differences(first, second);
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
        if let Some(input) = &self.input {
            return Ok(Source::Tensor(read_input(input, model.config())?));
        }
        let preparation = Preparation::new(model.config(), Invert::Auto)?;
        match &self.data {
            Some(data) => Ok(Source::Labelled(Dataset::open(data, self.split, &preparation)?)),
            None => {
                let mut paths = Vec::new();
                for image in self.pictures() {
                    paths.extend(pictures_at(image)?);
                }
                Ok(Source::Pictures(paths, Box::new(preparation)))
            }
        }
    }

    /// A receipt, the folder of one, or a model.
    fn open_subject(&self, path: &Path) -> Result<Subject> {
        let of_folder = path.join("receipt.json");
        let file = if of_folder.is_file() { &of_folder } else { path };
        if !is_json(file) {
            let (model, name) = self.open_model(Some(path)).with_context(|| {
                format!("{}: is no receipt.json, nor a folder with one, and no model", path.display())
            })?;
            return Ok(Subject::Model(model, name));
        }
        let text = std::fs::read_to_string(file).map_err(|e| crate::Error::io(file, e))?;
        let receipt = Receipt::parse(&text).map_err(|e| crate::Error::format(file.display(), e.to_string()))?;
        Ok(Subject::Receipt(Box::new(receipt)))
    }

    /// The layer of neurons to be shown.
    fn layer(&self, model: &Model) -> Result<String> {
        let neurons = model.anatomy().neurons;
        // Queries ask; where there is no block, the head's are left.
        let last = neurons.iter().rev().find(|n| n.name.ends_with(".q_lif")).or(neurons.last());
        let wanted = &self.layer.clone().or(last.map(|n| n.name.clone())).unwrap_or_default();
        match neurons.iter().find(|n| n.name == *wanted) {
            Some(layer) => match self.neurons.iter().find(|&&i| i as u64 >= layer.len()) {
                Some(i) => bail!("--neurons {i}: {} has {} neurons, the first is 0", layer.name, layer.len()),
                None => Ok(layer.name.clone()),
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
            Source::Pictures(..) | Source::Tensor(_) => {
                let mut counts = Counts::default();
                for first in (0..total).step_by(self.batch) {
                    let input = source.batch(first..(first + self.batch).min(total))?;
                    let output = session.run_blocking(&input, self.run.timesteps, self.options())?;
                    if let Some(of_batch) = &output.census {
                        counts.merge(of_batch)?;
                    }
                    bar.inc(input.batch as u64);
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

    /// One image in detail.
    fn sample(
        &self,
        model: &Arc<Model>,
        device: &Device,
        source: &Source,
        image: usize,
        layer: String,
    ) -> Result<Sample> {
        let (name, label) = source.name(image)?;
        let mut session = Session::new(model.clone(), device.clone());
        let input = source.batch(image..image + 1)?;
        let options = Options { trace: true, ..self.options() };
        let mut output = session.run_blocking(&input, self.run.timesteps, options)?;
        let label = label.and_then(|label| usize::try_from(label).ok()).map(|label| class_name(model, label));
        let readouts = output.readouts.pop().unwrap_or_default();
        let answer = self.why.as_ref().map(|q| why(model, &input.data, &output.trace, q)).transpose()?;
        Ok(Sample {
            name,
            label,
            image: input.data,
            readouts,
            trace: output.trace,
            layer,
            neurons: self.neurons.clone(),
            why: answer,
        })
    }
}

/// The folder of a report, made if it is not there.
fn make_folder(out: &Path) -> Result<()> {
    if out.exists() && !out.is_dir() {
        bail!("--out {}: is a file; give a folder, which is made if it is not there", out.display());
    }
    Ok(std::fs::create_dir_all(out).map_err(|e| crate::Error::io(out, e))?)
}

/// Whether it looks like a receipt, the folder of one, or a model.
fn is_subject(path: &Path) -> bool {
    let folder = path.join("receipt.json").is_file() || path.join("config.json").is_file();
    folder || path.extension().is_some_and(|e| e == "safetensors") || is_json(path)
}

/// Whether a file is one of JSON rather than a checkpoint, which begins with eight bytes of a length.
fn is_json(path: &Path) -> bool {
    let by_name = path.extension().and_then(|e| e.to_str());
    if by_name == Some("json") || !path.is_file() {
        return by_name == Some("json");
    }
    let mut start = [0; 64];
    let read = std::fs::File::open(path).and_then(|mut file| std::io::Read::read(&mut file, &mut start)).unwrap_or(0);
    start[..read].trim_ascii_start().first() == Some(&b'{') && !start[..read].contains(&0)
}

/// A receipt as JSON, with another beside it.
fn document(receipt: &Receipt, other: Option<&Receipt>) -> Result<serde_json::Value> {
    let mut document = serde_json::to_value(receipt).context("writing the receipt")?;
    if let Some(other) = other {
        document["compared_with"] = serde_json::to_value(other).context("writing the receipt")?;
        document["differences"] = differences(receipt, other).into();
    }
    Ok(document)
}

fn warn_of_differences(a: &Receipt, b: &Receipt) {
    let differ = differences(a, b);
    if !differ.is_empty() {
        complain("warning", format!("the two runs differ in {}", differ.join(", ")));
    }
}

fn file_name(path: &Path) -> String {
    path.file_stem().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}

/// The receipt for a terminal.
fn table(receipt: &Receipt, cost: &CostModel) -> String {
    let images = receipt.images;
    let mut text = format!(
        "{}: {} {}{} at {} timestep{}\n\n",
        crate::error::clip(&receipt.model.name),
        grouped(images),
        if receipt.sequence { "sequence" } else { "image" },
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
    let exact: f64 = receipt.layers.iter().map(|l| l.energy(cost, images)).sum();
    if cost.update > 0.0 {
        text += &format!(
            "{:<26} {:>8} {:<3} {:>12} {:>7} {:>12}\n",
            "membranes",
            amount(receipt.per_image(receipt.totals.updates)),
            "upd",
            "",
            "",
            joules(receipt.membranes(cost))
        );
    }
    text += &format!("{:<60} {:>12}\n", "all", joules(exact + receipt.membranes(cost)));
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
    const WIDTH: usize = 20;
    // The end tells names apart.
    let short = |name: &String| {
        let name: Vec<char> = crate::error::clip(name).chars().collect();
        match name.len().checked_sub(WIDTH) {
            None | Some(0) => name.into_iter().collect::<String>(),
            Some(over) => std::iter::once('…').chain(name[over + 1..].iter().copied()).collect(),
        }
    };
    let [first, second] = names(a, b).each_ref().map(short);
    let mut text = String::new();
    for (i, Section { title, rows }) in comparison(a, b).into_iter().enumerate() {
        let [first, second] = if i == 0 { [first.as_str(), second.as_str()] } else { ["", ""] };
        let ratio = if rows.iter().all(|row| row.ratio.is_empty()) { "" } else { "ratio" };
        text += format!("\n{title:<28} {first:>WIDTH$} {second:>WIDTH$} {ratio:>9}").trim_end();
        text += "\n";
        for Row { what, values, ratio } in rows {
            let [a, b] = values.each_ref().map(short);
            text += format!("{what:<28} {a:>WIDTH$} {b:>WIDTH$} {ratio:>9}").trim_end();
            text += "\n";
        }
    }
    text
}
