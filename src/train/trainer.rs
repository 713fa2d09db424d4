//! The trainer: a recipe, a data set and a device into a trained model.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::metrics::EpochMetrics;
use super::plan::{Images, Schedule, StepResult, TrainingPlan};
use super::recipe::Recipe;
use super::run::{Progress, RunFolder, Saved, Sums};
use crate::checkpoint::{Checkpoint, Dtype, Tensor};
use crate::config::Config;
use crate::data::{Batch, Dataset, Invert, Loader, LoaderOptions, Preparation, Split};
use crate::evaluate::{Tally, evaluate};
use crate::init::untrained;
use crate::kernels::attention::Order;
use crate::layers;
use crate::model::Model;
use crate::outputs::LayerCount;
use crate::session::{Device, Session};
use crate::{Error, Result};

/// A layer that fires less than this is called dead, in spikes per neuron and timestep.
const DEAD: f64 = 1e-3;
/// A layer that fires more than this is called saturated.
const SATURATED: f64 = 0.95;

/// What a run is started with.
#[derive(Clone, Debug)]
pub struct Start {
    /// How to train.
    pub recipe: Recipe,
    /// The data set, as [`Dataset::open`] takes it.
    pub data: PathBuf,
    /// The run's folder.
    pub out: PathBuf,
    /// A checkpoint to begin from, with a new head if its classes are others; without one, random weights.
    pub init: Option<Checkpoint>,
    /// Go on with the run in the folder.
    pub resume: bool,
    /// How and where.
    pub options: TrainerOptions,
}

/// How it is trained on this machine.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainerOptions {
    /// The attention's order; `None` takes the cheaper.
    pub order: Option<Order>,
    /// Threads that prepare batches.
    pub threads: usize,
    /// How often the run is saved within an epoch.
    pub save_every: Duration,
    /// Pictures that are evaluated at once.
    pub test_batch: usize,
    /// Only the first pictures of the training set, for trials.
    pub limit: Option<usize>,
}

impl Default for TrainerOptions {
    fn default() -> Self {
        let save_every = Duration::from_secs(60);
        TrainerOptions { order: None, threads: 1, save_every, test_batch: 64, limit: None }
    }
}

/// What happens while a run goes on.
#[derive(Clone, Debug)]
pub enum Event<'a> {
    /// A step has been taken.
    Step(StepEvent<'a>),
    /// Test pictures have been evaluated.
    Evaluating {
        /// So many.
        done: usize,
        /// Of so many.
        total: usize,
    },
    /// An epoch is over.
    Epoch(&'a EpochMetrics),
    /// Something is wrong with a layer.
    Warning(String),
}

/// A step.
#[derive(Clone, Debug)]
pub struct StepEvent<'a> {
    /// The epoch; the first is 1.
    pub epoch: u64,
    /// Steps done in it.
    pub step_in_epoch: u64,
    /// Steps that it has.
    pub steps: u64,
    /// What has been counted of the epoch so far.
    pub sums: &'a Sums,
    /// Learning rate.
    pub lr: f64,
    /// Pictures a second of the last steps.
    pub images_per_second: f64,
    /// Until all epochs are done, without evaluations.
    pub time_left: Duration,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Ended {
    /// All epochs are done.
    Finished,
    /// It was asked to; it can go on.
    Interrupted,
}

/// A run.
pub struct Trainer {
    plan: TrainingPlan,
    loader: Loader,
    test: Dataset,
    device: Device,
    folder: RunFolder,
    recipe: Recipe,
    options: TrainerOptions,
    progress: Progress,
    metrics: Vec<EpochMetrics>,
    steps: u64,
    resumed: Option<String>,
}

impl Trainer {
    /// Opens the data, records the plan and reads the run that is to go on.
    ///
    /// # Errors
    /// Those of [`Dataset::open`], [`TrainingPlan::new`] and [`RunFolder`]; [`Error::Input`] if a run that goes on has another
    /// recipe.
    pub async fn new(device: Device, start: Start) -> Result<Self> {
        let Start { mut recipe, data, out, init, resume, options } = start;
        recipe.validate()?;
        if let Some(checkpoint) = &init {
            let classes = (recipe.model.num_classes, recipe.model.class_names.take());
            recipe.model = Config { num_classes: classes.0, class_names: classes.1, ..checkpoint.config.clone() };
        }
        let preparation = |config: &Config| Preparation::new(config, Invert::Auto);
        let train = Dataset::open(&data, Split::Train, &preparation(&recipe.model)?.with_any_classes())?;
        if let Some(names) = train.class_names() {
            recipe.model.num_classes = names.len();
            recipe.model.class_names = Some(names.to_vec());
        }
        let test = Dataset::open(&data, Split::Test, &preparation(&recipe.model)?)?;

        let (folder, saved) = if resume { RunFolder::resume(&out)? } else { (RunFolder::create(&out)?, None) };
        let (checkpoint, state, progress) = match saved {
            // The bits are the same whether activations are kept or made again.
            Some(Saved { recipe: stored, .. })
                if stored != (Recipe { recompute: stored.recompute, ..recipe.clone() }) =>
            {
                let what = folder.last().display().to_string();
                return Err(Error::Input(format!(
                    "{what} was trained by another recipe or on other classes; give the recipe of recipe.json beside it, or \
                     start from its weights with `--init` in another folder"
                )));
            }
            Some(Saved { checkpoint, state, progress, .. }) => (checkpoint, Some(state), progress),
            None => (begin(&recipe, init)?, None, Progress::default()),
        };
        let settings = recipe.settings(options.order);
        let mut plan = TrainingPlan::new(&device, checkpoint, settings).await.map_err(|e| match e {
            Error::Gpu(why) if settings.batch > 1 && why.contains("smaller batch") => Error::Gpu(format!(
                "{why}; in training, a `micro_batch` below {} makes a step of several smaller batches",
                settings.batch
            )),
            Error::OutOfMemory(why) if settings.batch > 1 => Error::OutOfMemory(format!(
                "{why}; in training, a `micro_batch` below {} makes a step of several smaller batches",
                settings.batch
            )),
            e => e,
        })?;
        if let Some(state) = &state {
            plan.restore(state).await?;
        }
        let (micro_batches, batch) = recipe.micro_batches();
        let loader = Loader::new(
            Arc::new(match options.limit {
                Some(limit) => train.limited(limit),
                None => train,
            }),
            LoaderOptions {
                batch,
                seed: recipe.seed,
                augmentation: recipe.augmentation.clone(),
                label_smoothing: recipe.label_smoothing,
                threads: options.threads,
                ..LoaderOptions::default()
            },
        )?;
        let steps = (loader.batches() / micro_batches) as u64;
        if steps == 0 {
            let n = loader.dataset().len();
            return Err(Error::Input(format!("a step of {} pictures is more than the {n} there are", recipe.batch)));
        }
        let (images, data) = (loader.dataset().len() as u64, loader.dataset().fingerprint());
        if state.is_some() {
            let what = folder.last().display().to_string();
            if (progress.images, progress.data) != (images, data) {
                let before = progress.images;
                return Err(Error::Input(format!(
                    "{what} was trained on {before} other pictures than these {images}; go on with the same --data and --limit"
                )));
            }
            if progress.order != options.order {
                return Err(Error::Input(format!("{what} was trained with another --order; go on with the same")));
            }
            if !progress.is_consistent(&recipe, steps) {
                return Err(Error::format(what, "its training state contradicts itself; start anew in another folder"));
            }
        }
        let metrics = if state.is_some() { folder.metrics()? } else { Vec::new() };
        let resumed = (state.is_some() && progress.device != device.identity()).then(|| progress.device.clone());
        let progress =
            Progress { device: device.identity().to_owned(), images, data, order: options.order, ..progress };
        Ok(Trainer { plan, loader, test, device, folder, recipe, options, progress, metrics, steps, resumed })
    }

    /// The recipe, with the classes of the data.
    pub fn recipe(&self) -> &Recipe {
        &self.recipe
    }

    /// The run's folder.
    pub fn folder(&self) -> &RunFolder {
        &self.folder
    }

    /// Where the run is.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// The metrics of the epochs that are done.
    pub fn metrics(&self) -> &[EpochMetrics] {
        &self.metrics
    }

    /// How many pictures there are, for training and for testing.
    pub fn images(&self) -> (usize, usize) {
        (self.loader.dataset().len(), self.test.len())
    }

    /// The other device on which a run that goes on was, if it was on another: results may then differ in rounding from those
    /// of an uninterrupted run.
    pub fn other_device(&self) -> Option<&str> {
        self.resumed.as_deref()
    }

    /// Trains until all epochs are done or `each` breaks, after which everything is saved.
    ///
    /// # Errors
    /// [`Error::Training`] if the loss is not finite or a network fires nowhere; those of reading pictures, of the device, and
    /// of writing to the folder. What was saved last stays.
    pub async fn run(&mut self, mut each: impl FnMut(Event<'_>) -> ControlFlow<()>) -> Result<Ended> {
        while self.progress.epoch < self.recipe.epochs {
            if self.epoch(&mut each).await?.is_break() {
                self.save().await?;
                return Ok(Ended::Interrupted);
            }
            if self.finish_epoch(&mut each).await?.is_break() && self.progress.epoch < self.recipe.epochs {
                return Ok(Ended::Interrupted);
            }
        }
        Ok(Ended::Finished)
    }

    /// The steps of an epoch that are left.
    async fn epoch(&mut self, each: &mut impl FnMut(Event<'_>) -> ControlFlow<()>) -> Result<ControlFlow<()>> {
        let (micro_batches, _) = self.recipe.micro_batches();
        let first = self.progress.step_in_epoch as usize * micro_batches;
        let mut batches = self.loader.epoch(self.progress.epoch, first);
        let mut saved = Instant::now();
        let mut recent = VecDeque::new();
        while self.progress.step_in_epoch < self.steps {
            let start = Instant::now();
            let group: Vec<Batch> = batches.by_ref().take(micro_batches).collect::<Result<_>>()?;
            let schedule = Schedule {
                step: self.progress.step + 1,
                lr: self.recipe.lr_at(self.progress.step, self.steps),
                weight_decay: self.recipe.weight_decay,
                ema_decay: self.recipe.ema_decay_at(self.progress.step + 1),
            };
            let images: Vec<_> = group.iter().map(|b| Images { pixels: &b.pixels, targets: &b.targets }).collect();
            let result = self.plan.step(&images, schedule).await?;
            if result.skipped || !result.loss.is_finite() {
                return Err(self.not_finite(&result).await);
            }
            let labels: Vec<i64> = group.iter().flat_map(|b| b.labels.iter().copied()).collect();
            let seconds = start.elapsed().as_secs_f64();
            self.progress.sums.add(&result, &labels, self.recipe.model.num_classes, seconds);
            self.progress.step += 1;
            self.progress.step_in_epoch += 1;

            recent.push_back(seconds);
            if recent.len() > 20 {
                recent.pop_front();
            }
            let a_step = recent.iter().sum::<f64>() / recent.len() as f64;
            let left = self.recipe.epochs * self.steps - self.progress.epoch * self.steps - self.progress.step_in_epoch;
            let event = StepEvent {
                epoch: self.progress.epoch + 1,
                step_in_epoch: self.progress.step_in_epoch,
                steps: self.steps,
                sums: &self.progress.sums,
                lr: schedule.lr,
                images_per_second: self.recipe.batch as f64 / a_step.max(1e-9),
                time_left: Duration::try_from_secs_f64(left as f64 * a_step).unwrap_or(Duration::MAX),
            };
            if each(Event::Step(event)).is_break() {
                return Ok(ControlFlow::Break(()));
            }
            // From the first step on there is something to go on from.
            if saved.elapsed() >= self.options.save_every || self.progress.step == 1 {
                self.save().await?;
                saved = Instant::now();
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Evaluates, and closes the epoch.
    async fn finish_epoch(&mut self, each: &mut impl FnMut(Event<'_>) -> ControlFlow<()>) -> Result<ControlFlow<()>> {
        let sums = self.progress.sums.clone();
        let trained = sums.spikes.iter().map(|(layer, spikes, possible)| LayerCount {
            layer: layer.clone(),
            spikes: *spikes,
            possible: *possible,
        });
        let trained: Vec<LayerCount> = trained.collect();
        if trained.iter().any(|c| c.spikes == 0 && c.layer == "head_lif") {
            return Err(Error::Training(
                "the last layer, `head_lif`, has not fired in a whole epoch, so that nothing can be learned; use a higher \
                 learning rate, a lower `v_threshold`, or other weights to begin with"
                    .to_owned(),
            ));
        }
        let start = Instant::now();
        let checkpoint = self.plan.checkpoint().await?;
        let tested = self.plan.averaged().await?.unwrap_or_else(|| checkpoint.clone());
        tested.check().map_err(|e| Error::Training(format!("after epoch {}: {e}", self.progress.epoch + 1)))?;
        let Some(tally) = self.evaluate(&tested, each)? else {
            // The epoch's end comes again when the run goes on.
            self.save().await?;
            return Ok(ControlFlow::Break(()));
        };
        let accuracy = tally.top1();
        let best = self.progress.best.is_none_or(|(most, _)| accuracy > most);
        let images = sums.images.max(1) as f64;
        let (spikes, possible) = sums.spikes.iter().fold((0, 0), |(s, p), l| (s + l.1, p + l.2));
        let rate = |spikes: u64, possible: u64| spikes as f64 / (possible as f64).max(1.0);
        let metrics = EpochMetrics {
            epoch: self.progress.epoch + 1,
            step: self.progress.step,
            lr: self.recipe.lr_at(self.progress.step.saturating_sub(1), self.steps),
            train_loss: sums.loss / images,
            train_accuracy: sums.correct as f64 / images,
            test_loss: tally.mean_loss(),
            test_accuracy: accuracy,
            grad_norm: sums.grad_norm / sums.steps.max(1) as f64,
            firing_rate: rate(spikes, possible),
            firing_rates: sums.spikes.iter().map(|(layer, s, p)| (layer.clone(), rate(*s, *p))).collect(),
            test_firing_rate: tally.firing_rate(),
            warnings: [(&trained, "in training"), (&tally.counts, "on the test pictures")]
                .into_iter()
                .flat_map(|(counts, when)| unusual(counts, when))
                .collect(),
            train_seconds: sums.seconds,
            test_seconds: start.elapsed().as_secs_f64(),
            images_per_second: images / sums.seconds.max(1e-9),
            best,
        };
        if best {
            self.progress.best = Some((accuracy, metrics.epoch));
            self.folder.save_best(&described(tested, &metrics, &tally, &self.recipe))?;
        }
        self.metrics.retain(|m| m.epoch < metrics.epoch);
        self.metrics.push(metrics);
        self.folder.write_metrics(&self.metrics)?;
        self.progress.epoch += 1;
        self.progress.step_in_epoch = 0;
        self.progress.sums = Sums::default();
        self.save().await?;
        match self.metrics.last() {
            Some(metrics) => {
                let _ = metrics.warnings.iter().map(|w| each(Event::Warning(w.clone()))).count();
                Ok(each(Event::Epoch(metrics)))
            }
            None => Ok(ControlFlow::Continue(())),
        }
    }

    /// `None` if `each` breaks.
    fn evaluate(
        &self,
        checkpoint: &Checkpoint,
        each: &mut impl FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<Option<Tally>> {
        let mut session = Session::new(Arc::new(Model::new(checkpoint)?), self.device.clone());
        let options = layers::Options { order: self.options.order, ..layers::Options::default() };
        let (total, batch) = (self.test.len(), self.options.test_batch);
        let mut interrupted = false;
        let tally = evaluate(&mut session, &self.test, total, batch, None, options, |tally, _| {
            let flow = each(Event::Evaluating { done: tally.total, total });
            interrupted |= flow.is_break() && tally.total < total;
            flow
        })?;
        Ok((!interrupted).then_some(tally))
    }

    async fn save(&mut self) -> Result<()> {
        let checkpoint = self.plan.checkpoint().await?;
        let state = self.plan.state().await?;
        self.folder.save_recipe(&self.recipe)?;
        self.folder.save(&checkpoint, state, &self.progress, &self.recipe)
    }

    /// What to say of a loss or gradient that is not finite.
    async fn not_finite(&mut self, result: &StepResult) -> Error {
        let bad = |t: &Tensor| t.data.iter().any(|v| !v.is_finite());
        let first = match self.plan.checkpoint().await {
            Ok(checkpoint) => checkpoint.tensors.iter().find(|(_, t)| bad(t)).map(|(name, _)| name.clone()),
            Err(e) => return e,
        };
        let what = if result.loss.is_finite() { "the gradient's norm" } else { "the loss" };
        let place = first.map_or_else(String::new, |name| format!("; the first tensor that is not finite is `{name}`"));
        let (step, epoch) = (self.progress.step + 1, self.progress.epoch + 1);
        Error::Training(format!(
            "{what} is not finite in step {step}, epoch {epoch}{place}; use a lower learning rate, a longer warm-up or \
             `clip_norm`, in another folder; what was saved last is unharmed"
        ))
    }
}

/// What to say of layers that hardly fire, and of those that hardly rest.
fn unusual(counts: &[LayerCount], when: &str) -> Vec<String> {
    let said = |what: &str, named: Vec<&LayerCount>| {
        let first = named.first()?;
        let (layer, percent) = (&first.layer, 100.0 * first.rate());
        Some(match named.len() {
            1 => format!("`{layer}` is {what}: it fires at {percent:.3} % {when}"),
            n => format!("`{layer}` is {what}: it fires at {percent:.3} % {when}; {} more layers are too", n - 1),
        })
    };
    let dead = counts.iter().filter(|c| c.rate() < DEAD).collect();
    let saturated = counts.iter().filter(|c| c.rate() > SATURATED).collect();
    [said("dead", dead), said("saturated", saturated)].into_iter().flatten().collect()
}

impl Sums {
    fn add(&mut self, result: &StepResult, labels: &[i64], classes: usize, seconds: f64) {
        self.steps += 1;
        self.images += labels.len() as u64;
        self.loss += result.loss * labels.len() as f64;
        self.grad_norm += result.grad_norm;
        self.seconds += seconds;
        let largest = |row: &[f32]| row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map(|(i, _)| i as i64);
        let right =
            result.logits.chunks_exact(classes).zip(labels).filter(|(row, label)| largest(row) == Some(**label));
        self.correct += right.count() as u64;
        if self.spikes.is_empty() {
            self.spikes = result.counts.iter().map(|c| (c.layer.clone(), 0, 0)).collect();
        }
        for ((_, spikes, possible), LayerCount { spikes: s, possible: p, .. }) in
            self.spikes.iter_mut().zip(&result.counts)
        {
            *spikes += s;
            *possible += p;
        }
    }

    /// The share of pictures that were right.
    pub fn accuracy(&self) -> f64 {
        self.correct as f64 / self.images.max(1) as f64
    }

    /// Mean loss, in nats.
    pub fn mean_loss(&self) -> f64 {
        self.loss / self.images.max(1) as f64
    }

    /// Spikes per neuron and timestep.
    pub fn firing_rate(&self) -> f64 {
        let (spikes, possible) = self.spikes.iter().fold((0, 0), |(s, p), l| (s + l.1, p + l.2));
        spikes as f64 / (possible as f64).max(1.0)
    }
}

/// What a new run begins with.
fn begin(recipe: &Recipe, init: Option<Checkpoint>) -> Result<Checkpoint> {
    let fresh = untrained(&recipe.model, recipe.seed)?;
    let Some(init) = init else { return Ok(fresh) };
    // Where only one side has names, equal numbers have to do.
    let same_names = match (&init.config.class_names, &recipe.model.class_names) {
        (Some(theirs), Some(ours)) => theirs == ours,
        _ => true,
    };
    let same_number = init.tensors.get("head.bias").is_some_and(|t| t.shape == [recipe.model.num_classes]);
    let same_classes = same_names && same_number;
    let mut begun = Checkpoint { config: recipe.model.clone(), dtype: Dtype::F32, ..init };
    if !same_classes {
        let head = fresh.tensors.into_iter().filter(|(name, _)| name.starts_with("head."));
        begun.tensors.extend(head);
    }
    begun.metadata.clear();
    Ok(begun)
}

/// The model with what is to be known of it in its metadata.
fn described(mut model: Checkpoint, metrics: &EpochMetrics, tally: &Tally, recipe: &Recipe) -> Checkpoint {
    model.metadata.extend([
        ("producer".to_owned(), format!("spikeshade {} train", env!("CARGO_PKG_VERSION"))),
        ("epoch".to_owned(), format!("{} of {}", metrics.epoch, recipe.epochs)),
        ("test_correct".to_owned(), tally.first.to_string()),
        ("test_total".to_owned(), tally.total.to_string()),
    ]);
    model
}
