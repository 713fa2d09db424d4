//! The training plan: forward, backward and optimizer recorded once and replayed, on either executor.
//!
//! Parameters, their gradients, the optimizer's moments and the averaged weights lie in flat shards of at most one binding
//! each, in the layouts that the kernels read, so that the optimizer is one dispatch a shard. Weights that decay come first.
//! Per step only pictures, targets and one small tensor of scalars are uploaded.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::parameters::{Learned, learned, tensor};
use super::pass::{self, Place, Places, flat};
use super::{Options, Statistics};
use crate::aligned::Aligned;
use crate::checkpoint::{Checkpoint, Tensor};
use crate::config::Config;
use crate::gpu::{Limits, MemoryPlan};
use crate::kernels::accumulate::AccumulateOp;
use crate::kernels::adamw::AdamWOp;
use crate::kernels::attention::Order;
use crate::kernels::ema::EmaOp;
use crate::kernels::gradient_norm::{GradientNormCombineOp, GradientNormPartialOp, partials};
use crate::kernels::sgd::SgdOp;
use crate::kernels::step::{Clip, Step};
use crate::model::InputShape;
use crate::outputs::{LayerCount, Outputs};
use crate::profile::OpTime;
use crate::program::Program;
use crate::recording::{Constant, PART_ALIGNMENT, Recording, TensorId};
use crate::reference::Executor;
use crate::session::Device;
use crate::tensor::Element;
use crate::{Error, Result};

/// Which optimizer, with what stays the same from step to step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum Optimizer {
    /// AdamW (arXiv 1711.05101, algorithm 2).
    AdamW {
        /// Decay of the first moment.
        #[serde(default = "beta1")]
        beta1: f64,
        /// Decay of the second moment.
        #[serde(default = "beta2")]
        beta2: f64,
        /// Added to the root of the second moment.
        #[serde(default = "eps")]
        eps: f64,
    },
    /// Stochastic gradient descent with momentum, weight decay added to the gradient.
    Sgd {
        /// Decay of the momentum buffer.
        #[serde(default = "beta1")]
        momentum: f64,
        /// Nesterov's look-ahead.
        #[serde(default)]
        nesterov: bool,
    },
}

fn beta1() -> f64 {
    0.9
}

fn beta2() -> f64 {
    0.999
}

fn eps() -> f64 {
    1e-8
}

impl Default for Optimizer {
    fn default() -> Self {
        Optimizer::AdamW { beta1: beta1(), beta2: beta2(), eps: eps() }
    }
}

impl Optimizer {
    /// What it keeps of each parameter, by PyTorch's names.
    pub fn moments(self) -> &'static [&'static str] {
        match self {
            Optimizer::AdamW { .. } => &["exp_avg", "exp_avg_sq"],
            Optimizer::Sgd { .. } => &["momentum_buffer"],
        }
    }
}

/// What a training plan is recorded for.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Settings {
    /// The optimizer.
    pub optimizer: Optimizer,
    /// The largest global norm of the gradient; a longer one is shortened to it. 0: no limit.
    pub clip_norm: f64,
    /// Whether averaged weights are kept (EMA).
    pub ema: bool,
    /// Images at a time.
    pub batch: usize,
    /// How many batches' mean gradient makes a step, at least 1; each has batch statistics of its own.
    pub micro_batches: usize,
    /// The attention's order; `None` takes the cheaper.
    pub order: Option<Order>,
    /// Keep only packed spikes and residual membranes between blocks for backward.
    pub recompute: bool,
    /// Normalise with the checkpoint's running statistics, which stay as they are, instead of each batch's own: for batches of
    /// a few images.
    pub frozen: bool,
}

/// What changes from step to step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// The step's number; the first is 1.
    pub step: u64,
    /// Learning rate.
    pub lr: f64,
    /// Weight decay.
    pub weight_decay: f64,
    /// How much of the averaged weights stays.
    pub ema_decay: f64,
}

/// What a step says.
#[derive(Clone, Debug, Default)]
pub struct StepResult {
    /// Mean cross-entropy of all images, in nats.
    pub loss: f64,
    /// `[images][classes]`.
    pub logits: Vec<f32>,
    /// Global norm of the gradient before clipping.
    pub grad_norm: f64,
    /// Whether the gradient was not finite, so that parameters and moments are what they were. Running statistics have followed
    /// the batch all the same.
    pub skipped: bool,
    /// Spikes by layer, of the last micro-batch.
    pub counts: Vec<LayerCount>,
}

impl StepResult {
    /// Adds what a micro-batch says, its loss as a sum over images.
    fn add(&mut self, outputs: Outputs, last: bool) {
        self.loss += outputs.reals("loss").iter().map(|&l| f64::from(l)).sum::<f64>();
        self.logits.extend(outputs.reals("logits"));
        if last {
            let clip = Clip::decode(outputs.reals("clip"));
            (self.grad_norm, self.skipped) = (f64::from(clip.norm), clip.skipped);
            self.counts = outputs.counts;
        }
    }
}

/// A batch as the plan takes it.
#[derive(Clone, Copy, Debug)]
pub struct Images<'a> {
    /// `[T or 1][B][H][W][C]`, normalised.
    pub pixels: &'a [f32],
    /// `[B][classes]`, each row's sum 1.
    pub targets: &'a [f32],
}

/// The most bytes of a shard, WebGPU's default for a binding: the same on all devices, so that sums over shards are.
const MOST_SHARD_BYTES: u64 = 128 << 20;

/// One shard of the parameters and what belongs to it.
struct Shard {
    parameters: TensorId,
    moments: Vec<TensorId>,
    ema: Option<TensorId>,
}

/// Where a parameter lies.
struct Slot {
    learned: Learned,
    shard: usize,
    offset: usize,
}

/// Where a batch norm's running statistics lie, mean first.
struct Running {
    bn: String,
    channels: usize,
    offset: usize,
}

/// The running statistics of all batch norms, and their average.
struct RunningShard {
    values: TensorId,
    ema: Option<TensorId>,
    slots: Vec<Running>,
}

/// Where everything lies in a recorded training step.
struct Map {
    shards: Vec<Shard>,
    slots: Vec<Slot>,
    running: RunningShard,
    /// The op at which the optimizer begins.
    optimizer: usize,
    /// How many ops there are.
    ops: usize,
}

/// A recorded training step.
struct Recorded {
    recording: Recording,
    map: Map,
    kept: u64,
}

/// A training plan on a device, with the state of the training.
pub struct TrainingPlan {
    program: Program,
    /// Configuration, and what training does not change.
    base: Checkpoint,
    settings: Settings,
    map: Map,
}

/// What a training plan takes.
#[derive(Clone, Debug)]
pub struct TrainingMemory {
    /// The buffers.
    pub plan: MemoryPlan,
    /// Bytes that the forward pass leaves for the backward pass.
    pub kept: u64,
}

impl TrainingPlan {
    /// Records and compiles a plan that trains from `checkpoint` on.
    ///
    /// # Errors
    /// [`Error::Config`] or [`Error::Checkpoint`] if the checkpoint is not consistent, [`Error::Input`] for an empty batch,
    /// [`Error::Gpu`] where the plan exceeds the device, [`Error::DeviceLost`].
    pub async fn new(device: &Device, checkpoint: Checkpoint, settings: Settings) -> Result<Self> {
        reserve(&checkpoint.config, settings)?;
        let recorded = record(&checkpoint, settings, device.limits())?;
        if matches!(device, Device::Cpu) {
            // An allocation that fails later ends the process; asked for like this, it is an error.
            let bytes = MemoryPlan::new(&recorded.recording, device.limits())?.total();
            let had = usize::try_from(bytes).is_ok_and(|n| Vec::<u8>::new().try_reserve_exact(n).is_ok());
            if !had {
                let gib = bytes as f64 / (1u64 << 30) as f64;
                return Err(Error::OutOfMemory(format!(
                    "training on {} pictures at once takes {gib:.1} GiB, more than there is; use a smaller `micro_batch`",
                    settings.batch
                )));
            }
        }
        let (recording, map) = (recorded.recording, recorded.map);
        Ok(TrainingPlan { program: Program::new(device, recording).await?, base: checkpoint, settings, map })
    }

    /// As [`TrainingPlan::new`], on the reference executor in f64, to judge the others.
    ///
    /// # Errors
    /// As [`TrainingPlan::new`].
    pub fn in_f64(checkpoint: Checkpoint, settings: Settings) -> Result<Self> {
        let recorded = record(&checkpoint, settings, Limits::default())?;
        let program = Program::Exact(Box::new(Executor::in_precision(recorded.recording)?));
        Ok(TrainingPlan { program, base: checkpoint, settings, map: recorded.map })
    }

    /// What a plan for a device with `limits` would take.
    ///
    /// # Errors
    /// As [`TrainingPlan::new`].
    pub fn memory(checkpoint: &Checkpoint, settings: Settings, limits: Limits) -> Result<TrainingMemory> {
        let recorded = record(checkpoint, settings, limits)?;
        Ok(TrainingMemory { plan: MemoryPlan::new(&recorded.recording, limits)?, kept: recorded.kept })
    }

    /// What it was recorded for.
    pub fn settings(&self) -> Settings {
        self.settings
    }

    /// One step on as many batches as the plan's micro-batches.
    ///
    /// # Errors
    /// [`Error::Input`] if the batches are not as many, or as large, as the plan's; [`Error::Gpu`], [`Error::DeviceLost`].
    pub async fn step(&mut self, batches: &[Images<'_>], schedule: Schedule) -> Result<StepResult> {
        let micro = self.settings.micro_batches;
        if batches.len() != micro {
            return Err(Error::Input(format!("{} batches are given; the plan takes {micro}", batches.len())));
        }
        let mut result = StepResult::default();
        for (i, batch) in batches.iter().enumerate() {
            let last = i + 1 == micro;
            let scalars = self.scalars(schedule, i).encode();
            let targets = rows_of_four(batch.targets, batch.targets.len());
            let pixels = rows_of_four(batch.pixels, self.base.config.in_chans);
            let ops = 0..if last { self.map.ops } else { self.map.optimizer };
            let outputs = self.program.run_ops(&[&pixels, &targets, &scalars], ops).await?;
            result.add(outputs, last);
        }
        result.loss /= (self.settings.batch * micro) as f64;
        Ok(result)
    }

    /// As [`TrainingPlan::step`] of one batch, with each op's time. The whole takes longer than a step.
    ///
    /// # Errors
    /// As [`TrainingPlan::step`], [`Error::Input`] if the plan takes several micro-batches, and [`Error::Gpu`] if the device has
    /// no timestamps.
    pub async fn step_timed(&mut self, batch: Images<'_>, schedule: Schedule) -> Result<(StepResult, Vec<OpTime>)> {
        let micro = self.settings.micro_batches;
        if micro != 1 {
            return Err(Error::Input(format!("a step of {micro} micro-batches cannot be timed by op; use one")));
        }
        let scalars = self.scalars(schedule, 0).encode();
        let targets = rows_of_four(batch.targets, batch.targets.len());
        let pixels = rows_of_four(batch.pixels, self.base.config.in_chans);
        let (outputs, times) = self.program.run_timed(&[&pixels, &targets, &scalars]).await?;
        let mut result = StepResult::default();
        result.add(outputs, true);
        result.loss /= self.settings.batch as f64;
        Ok((result, times))
    }

    fn scalars(&self, schedule: Schedule, micro_batch: usize) -> Step {
        let betas = match self.settings.optimizer {
            Optimizer::AdamW { beta1, beta2, .. } => [beta1, beta2],
            Optimizer::Sgd { .. } => [0.0; 2],
        };
        let n = u32::try_from(schedule.step).unwrap_or(u32::MAX);
        Step {
            ema_decay: schedule.ema_decay as f32,
            accumulate_keep: if micro_batch == 0 { 0.0 } else { 1.0 },
            accumulate_share: 1.0 / self.settings.micro_batches as f32,
            ..Step::new(n, schedule.lr, schedule.weight_decay, betas)
        }
    }

    /// The weights and running statistics as they are now, with the configuration and metadata that training began with.
    ///
    /// # Errors
    /// [`Error::Gpu`], [`Error::DeviceLost`].
    pub async fn checkpoint(&mut self) -> Result<Checkpoint> {
        let mut checkpoint = self.base.clone();
        let ids: Vec<_> = self.map.shards.iter().map(|s| s.parameters).chain([self.map.running.values]).collect();
        checkpoint.tensors.extend(self.unpack(&ids, "").await?);
        Ok(checkpoint)
    }

    /// The averaged weights and running statistics likewise; `None` if there is no average.
    ///
    /// # Errors
    /// As [`TrainingPlan::checkpoint`].
    pub async fn averaged(&mut self) -> Result<Option<Checkpoint>> {
        let ids: Option<Vec<_>> = self.map.shards.iter().map(|s| s.ema).chain([self.map.running.ema]).collect();
        let Some(ids) = ids else { return Ok(None) };
        let mut checkpoint = self.base.clone();
        checkpoint.tensors.extend(self.unpack(&ids, "").await?);
        Ok(Some(checkpoint))
    }

    /// The optimizer's moments, as `optimizer.<moment>.<parameter>`, and the averaged weights, as `ema.<parameter>`.
    ///
    /// # Errors
    /// As [`TrainingPlan::checkpoint`].
    pub async fn state(&mut self) -> Result<BTreeMap<String, Tensor>> {
        let mut state = BTreeMap::new();
        for (i, moment) in self.settings.optimizer.moments().iter().enumerate() {
            let ids: Vec<_> = self.map.shards.iter().map(|s| s.moments[i]).collect();
            state.extend(self.unpack(&ids, &format!("optimizer.{moment}.")).await?);
        }
        let ids: Option<Vec<_>> = self.map.shards.iter().map(|s| s.ema).chain([self.map.running.ema]).collect();
        if let Some(ids) = ids {
            state.extend(self.unpack(&ids, "ema.").await?);
        }
        Ok(state)
    }

    /// Sets what [`TrainingPlan::state`] gave.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if a tensor is missing or of another shape; [`Error::Gpu`], [`Error::DeviceLost`].
    pub async fn restore(&mut self, state: &BTreeMap<String, Tensor>) -> Result<()> {
        let mut writes = Vec::new();
        for (i, moment) in self.settings.optimizer.moments().iter().enumerate() {
            let ids: Vec<_> = self.map.shards.iter().map(|s| s.moments[i]).collect();
            writes.extend(self.pack(&ids, state, &format!("optimizer.{moment}."))?);
        }
        let ids: Option<Vec<_>> = self.map.shards.iter().map(|s| s.ema).chain([self.map.running.ema]).collect();
        if let Some(ids) = ids {
            writes.extend(self.pack(&ids, state, "ema.")?);
        }
        for (id, values) in writes {
            self.program.write(id, &values).await?;
        }
        Ok(())
    }

    /// Reads shards, of which one may follow for the running statistics, as tensors in their checkpoint's order.
    async fn unpack(&mut self, ids: &[TensorId], prefix: &str) -> Result<Vec<(String, Tensor)>> {
        let values = self.program.read(ids).await?;
        let mut all = Vec::new();
        for Slot { learned, shard, offset } in &self.map.slots {
            let data = learned.layout.unpack(&values[*shard][*offset..*offset + learned.layout.len()]);
            all.push((format!("{prefix}{}", learned.name), Tensor { shape: learned.shape.clone(), data }));
        }
        if let Some(running) = values.get(self.map.shards.len()) {
            for Running { bn, channels, offset } in &self.map.running.slots {
                let step = aligned(*channels);
                for (part, at) in [("running_mean", *offset), ("running_var", offset + step)] {
                    let data = running[at..at + channels].to_vec();
                    all.push((format!("{prefix}{bn}.{part}"), Tensor { shape: vec![*channels], data }));
                }
            }
        }
        Ok(all)
    }

    /// The inverse of [`TrainingPlan::unpack`].
    fn pack(
        &self,
        ids: &[TensorId],
        tensors: &BTreeMap<String, Tensor>,
        prefix: &str,
    ) -> Result<Vec<(TensorId, Vec<f32>)>> {
        let of = |name: &str, shape: &[usize]| {
            let name = format!("{prefix}{name}");
            let found = tensors.get(&name).filter(|t| t.shape == shape);
            let found =
                found.ok_or_else(|| Error::Checkpoint(format!("`{name}` is missing or not of shape {shape:?}")))?;
            // Second moments and variances have roots taken of them.
            let positive = name.contains("exp_avg_sq") || name.ends_with("running_var");
            if found.data.iter().any(|v| !v.is_finite() || positive && *v < 0.0) {
                return Err(Error::Checkpoint(format!("`{name}` holds values that no training leaves; start anew")));
            }
            Ok(found)
        };
        let running = if ids.len() > self.map.shards.len() { &self.map.running.slots[..] } else { &[] };
        Ok(ids.iter().copied().zip(pack_shards(&self.map.slots, running, self.map.shards.len(), &of)?).collect())
    }
}

/// Checks that the host can hold the parameters as often as a plan has them: an allocation that fails half way ends the process.
fn reserve(config: &Config, settings: Settings) -> Result<()> {
    let elements = config.parameters().iter().fold(0u64, |n, p| n.saturating_add(p.elements()));
    // The checkpoint, first values, the parameters themselves, gradients; sums of them, averages, moments.
    let copies = 4 + 2 * u64::from(settings.ema) + u64::from(settings.micro_batches > 1);
    let copies = copies + 2 * settings.optimizer.moments().len() as u64;
    let bytes = elements.saturating_mul(4 * copies);
    let had = usize::try_from(bytes).is_ok_and(|n| Vec::<u8>::new().try_reserve_exact(n).is_ok());
    if had {
        return Ok(());
    }
    let gib = bytes as f64 / (1u64 << 30) as f64;
    Err(Error::OutOfMemory(format!(
        "to train a model of {elements} parameters takes {gib:.1} GiB for these alone, more than there is; choose a smaller one"
    )))
}

/// The values of the parameters' shards, and of one for the running statistics after them.
fn pack_shards<'t>(
    slots: &[Slot],
    running: &[Running],
    shards: usize,
    of: &dyn Fn(&str, &[usize]) -> Result<&'t Tensor>,
) -> Result<Vec<Vec<f32>>> {
    let mut values = vec![Vec::new(); shards + 1];
    let mut put = |shard: usize, offset: usize, data: &[f32], len: usize| {
        let shard: &mut Vec<f32> = &mut values[shard];
        shard.resize(shard.len().max(offset + aligned(len)), 0.0);
        shard[offset..offset + data.len()].copy_from_slice(data);
    };
    for Slot { learned, shard, offset } in slots {
        let data = learned.layout.pack(&of(&learned.name, &learned.shape)?.data);
        put(*shard, *offset, &data, learned.layout.len());
    }
    for Running { bn, channels, offset } in running {
        for (i, part) in ["running_mean", "running_var"].into_iter().enumerate() {
            let data = &of(&format!("{bn}.{part}"), &[*channels])?.data;
            put(shards, offset + i * aligned(*channels), data, *channels);
        }
    }
    Ok(values)
}

/// Where the next part may begin after `len` elements.
fn aligned(len: usize) -> usize {
    len.next_multiple_of(PART_ALIGNMENT)
}

/// Rows of `row` values, each padded to a multiple of four, as real tensors have them.
fn rows_of_four(values: &[f32], row: usize) -> Cow<'_, [f32]> {
    let padded = row.next_multiple_of(4);
    if padded == row {
        return values.into();
    }
    let mut rows = vec![0.0; values.len() / row.max(1) * padded];
    for (to, from) in rows.chunks_exact_mut(padded).zip(values.chunks_exact(row)) {
        to[..row].copy_from_slice(from);
    }
    rows.into()
}

/// Lays parameters out in shards of at most `most` elements, and says how many elements of each shard decay.
fn layout(config: &Config, most: usize) -> (Vec<Slot>, Vec<usize>, Vec<usize>) {
    let (mut slots, mut lens, mut decayed) = (Vec::new(), vec![0], vec![0]);
    for learned in learned(config) {
        let len = aligned(learned.layout.len());
        if lens[lens.len() - 1] + len > most && lens[lens.len() - 1] > 0 {
            lens.push(0);
            decayed.push(0);
        }
        let shard = lens.len() - 1;
        let offset = lens[shard];
        lens[shard] += len;
        if learned.decayed {
            decayed[shard] = lens[shard];
        }
        slots.push(Slot { learned, shard, offset });
    }
    (slots, lens, decayed)
}

fn record(checkpoint: &Checkpoint, settings: Settings, limits: Limits) -> Result<Recorded> {
    let config = &checkpoint.config;
    config.validate()?;
    checkpoint.fitting(&config.parameters(), "the model's checkpoint")?;
    if settings.batch == 0 || settings.micro_batches == 0 {
        return Err(Error::Input("a training step takes at least one batch of at least one image".to_owned()));
    }
    let input = InputShape { timesteps: config.timesteps, batch: settings.batch, sequence: false };
    input.check_size(config)?;
    let most = usize::try_from(limits.binding.min(limits.buffer).min(MOST_SHARD_BYTES) / 4).unwrap_or(usize::MAX);
    let (slots, lens, decayed) = layout(config, most);
    let mut running = Vec::new();
    let mut running_len = 0;
    for parameter in config.parameters() {
        if let Some(bn) = parameter.name.strip_suffix(".running_mean") {
            let channels = parameter.shape.iter().product();
            running.push(Running { bn: bn.to_owned(), channels, offset: running_len });
            running_len += 2 * aligned(channels);
        }
    }

    let mut r = Recording::default();
    let inputs = pass::inputs(&mut r, config, input);
    let scalars = r.input("step", flat(Step::FIELDS.len()));
    let of = |name: &str, _: &[usize]| tensor(checkpoint, name);
    let mut values = pack_shards(&slots, &running, lens.len(), &of)?;
    let mut state = |name: String, data: Aligned<f32>| r.state(&Constant { name, data }.into());
    let running_values = values.pop().unwrap_or_default();
    let running_ema =
        settings.ema.then(|| state("average of running statistics".to_owned(), running_values.clone().into()));
    let running_id = state("running statistics".to_owned(), running_values.into());
    let mut shards = Vec::new();
    for (i, data) in values.into_iter().enumerate() {
        let moments = settings.optimizer.moments();
        let moments = moments.iter().map(|m| state(format!("{m} {i}"), Aligned::zeros(lens[i]))).collect();
        let ema = settings.ema.then(|| state(format!("average of parameters {i}"), data.clone().into()));
        shards.push(Shard { parameters: state(format!("parameters {i}"), data.into()), moments, ema });
    }
    // States, as what lies between their parts must stay zero.
    let zeros = |r: &mut Recording, what: &str| -> Vec<TensorId> {
        let zeros = |(i, &len): (usize, &usize)| Constant { name: format!("{what} {i}"), data: Aligned::zeros(len) };
        lens.iter().enumerate().map(|shard| r.state(&zeros(shard).into())).collect()
    };
    let gradients = zeros(&mut r, "gradients");
    let part = |r: &mut Recording, name: &str, of: TensorId, offset: usize, len: usize| {
        let part = r.part(name, of, offset, flat(len));
        part.ok_or_else(|| Error::Input(format!("`{name}` does not lie within its shard")))
    };
    let mut places = Places { parameters: BTreeMap::new(), running: BTreeMap::new() };
    for Slot { learned, shard, offset } in &slots {
        let (name, len) = (&learned.name, learned.layout.len());
        let weights = part(&mut r, name, shards[*shard].parameters, *offset, len)?;
        let gradient = part(&mut r, name, gradients[*shard], *offset, len)?;
        places.parameters.insert(name.clone(), Place { weights, gradient });
    }
    for Running { bn, channels, offset } in &running {
        let mean = part(&mut r, bn, running_id, *offset, *channels)?;
        let var = part(&mut r, bn, running_id, offset + aligned(*channels), *channels)?;
        places.running.insert(bn.clone(), (mean, var));
    }

    let options = Options {
        statistics: if settings.frozen { Statistics::Running } else { Statistics::Batch },
        order: settings.order,
        recompute: settings.recompute,
        count: true,
        ..Options::default()
    };
    let pass = pass::record(&mut r, checkpoint, &places, inputs, input.timesteps, options, limits)?;
    r.output("loss", &[pass.loss]);
    r.output("logits", &[pass.logits]);

    let layer = || "optimizer".to_owned();
    let mut summed = gradients;
    if settings.micro_batches > 1 {
        // They stay from one micro-batch to the next.
        let sums = zeros(&mut r, "accumulated gradients");
        for (&sum, &g) in sums.iter().zip(&summed) {
            r.push(AccumulateOp { layer: layer(), sum, g, step: scalars });
        }
        summed = sums;
    }
    let optimizer = r.ops.len();
    let firsts: Vec<usize> =
        lens.iter().scan(0, |first, &len| Some(std::mem::replace(first, *first + partials(len)))).collect();
    let count = lens.iter().map(|&len| partials(len)).sum();
    let sums_of_squares = r.tensor("gradient norm", Element::Real, flat(count));
    let clip = r.tensor("clip", Element::Real, flat(4));
    for (&g, &first) in summed.iter().zip(&firsts) {
        let partials = sums_of_squares;
        r.push(GradientNormPartialOp { layer: layer(), gradient: g, partials, first_partial: first });
    }
    let max_norm = settings.clip_norm as f32;
    r.push(GradientNormCombineOp { layer: layer(), partials: sums_of_squares, clip, max_norm });
    r.output("clip", &[clip]);
    for (i, shard) in shards.iter().enumerate() {
        let (p, g, decayed) = (shard.parameters, summed[i], decayed[i]);
        match settings.optimizer {
            Optimizer::AdamW { beta1, beta2, eps } => r.push(AdamWOp {
                layer: layer(),
                p,
                m: shard.moments[0],
                v: shard.moments[1],
                g,
                step: scalars,
                clip,
                decayed,
                beta1,
                beta2,
                eps,
            }),
            Optimizer::Sgd { momentum, nesterov } => r.push(SgdOp {
                layer: layer(),
                p,
                b: shard.moments[0],
                g,
                step: scalars,
                clip,
                decayed,
                momentum: momentum as f32,
                nesterov,
            }),
        }
        if let Some(e) = shard.ema {
            r.push(EmaOp { layer: layer(), e, p, step: scalars });
        }
    }
    if let Some(e) = running_ema {
        r.push(EmaOp { layer: layer(), e, p: running_id, step: scalars });
    }
    let running = RunningShard { values: running_id, ema: running_ema, slots: running };
    let map = Map { shards, slots, running, optimizer, ops: r.ops.len() };
    Ok(Recorded { recording: r, map, kept: pass.kept })
}
