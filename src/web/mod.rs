//! The library in a browser: what the JavaScript package (`web/`) is a thin layer over.
//!
//! [`Engine`] is a model on a device. Its methods take typed arrays and answer promises; one runs at a time, which the package
//! sees to. Errors are thrown as `Error` objects with a `code`. A panic, which ends a wasm module, goes to the function given
//! to [`on_panic`].

mod values;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use js_sys::{Array, Function, Reflect};
use serde::Deserialize;
use serde_json::Value;
use wasm_bindgen::prelude::*;
use web_time::Instant;

use self::values::{classes, failed, floats, numbers, object, settled, thrown};
use crate::attention_map::attention_maps;
use crate::checkpoint::{Checkpoint, Dtype, Tensor};
use crate::config::Config;
use crate::data::{Invert, Picture, Preparation};
use crate::gpu::{AdapterKind, Adapters, Context};
use crate::insight::receipt::{COST_MODELS, CostModel, Receipt};
use crate::insight::why::{Question, why};
use crate::layers::Options;
use crate::model::Model;
use crate::outputs::{OutputTensor, Values};
use crate::session::{Device, Input, Output, Session};
use crate::train::gradients::{check_batch, one_hot};
use crate::train::plan::{Images, Optimizer, Schedule, Settings};
use crate::train::{Gradients, Statistics, TrainingPlan, gradients};
use crate::{Error, Result};

thread_local! {
    static ON_PANIC: RefCell<Option<Function>> = const { RefCell::new(None) };
}

/// Has `f` called with the message of a panic, after which nothing of this module may be called any more.
#[wasm_bindgen(js_name = onPanic)]
pub fn on_panic(f: Function) {
    ON_PANIC.with_borrow_mut(|on_panic| *on_panic = Some(f));
    std::panic::set_hook(Box::new(|info| {
        let message = info.to_string();
        ON_PANIC.with_borrow(|f| f.as_ref().map(|f| f.call1(&JsValue::UNDEFINED, &message.into())));
    }));
}

/// A model on a device, and its training.
#[wasm_bindgen]
pub struct Engine {
    checkpoint: Checkpoint,
    session: Session,
    training: Option<Training>,
    fallback: Option<Fallback>,
}

/// A training that has begun.
struct Training {
    settings: Settings,
    options: TrainingOptions,
    /// Recorded for the first batch, and anew for one of another size.
    plan: Option<TrainingPlan>,
    /// Weights and moments while there is no plan.
    kept: Option<(Checkpoint, BTreeMap<String, Tensor>)>,
    steps: u64,
    /// Whether the model's weights are older than the plan's.
    ahead: bool,
}

/// How to train; the package's `TrainerOptions`.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct TrainingOptions {
    learning_rate: f64,
    optimizer: Value,
    weight_decay: f64,
    clip_norm: f64,
    statistics: Statistics,
    add_classes: Vec<String>,
    recompute: bool,
}

impl Default for TrainingOptions {
    fn default() -> Self {
        TrainingOptions {
            learning_rate: 1e-3,
            optimizer: Value::Null,
            weight_decay: 0.0,
            clip_norm: 1.0,
            statistics: Statistics::Running,
            add_classes: Vec::new(),
            recompute: false,
        }
    }
}

impl TrainingOptions {
    fn from_json(text: &str) -> Result<Self> {
        let bad = |e: &dyn std::fmt::Display| Error::Input(format!("the trainer's options: {e}"));
        let options: TrainingOptions = serde_json::from_str(text).map_err(|e| bad(&e))?;
        for (name, value) in [
            ("learningRate", options.learning_rate),
            ("weightDecay", options.weight_decay),
            ("clipNorm", options.clip_norm),
        ] {
            if !(value.is_finite() && value >= 0.0) {
                return Err(bad(&format_args!("`{name}` is {value}; it must be at least 0")));
            }
        }
        Ok(options)
    }

    /// `"adamw"`, `"sgd"`, or an object with that as its `kind` and the optimizer's own settings.
    fn optimizer(&self) -> Result<Optimizer> {
        let value = match &self.optimizer {
            Value::Null => return Ok(Optimizer::default()),
            Value::String(kind) => serde_json::json!({ "kind": kind }),
            value => value.clone(),
        };
        serde_json::from_value(value).map_err(|e| Error::Input(format!("the trainer's `optimizer`: {e}")))
    }
}

/// A neuron and a timestep, as the package's `Question` has them.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    layer: String,
    timestep: usize,
    neuron: Option<usize>,
    line: Option<usize>,
    column: Option<usize>,
    channel: Option<usize>,
}

impl Asked {
    fn question(self, model: &Model) -> Result<Question> {
        let Asked { layer, timestep, .. } = self;
        match (self.neuron, self.line, self.column, self.channel) {
            (Some(neuron), None, None, None) => Ok(Question { layer, neuron, timestep }),
            (None, Some(y), Some(x), Some(c)) => Question::at(model, &layer, [y, x, c], timestep),
            _ => {
                Err(Error::Input("the question: it takes `neuron`, or else `line`, `column` and `channel`".to_owned()))
            }
        }
    }
}

/// A batch as a page gives it: `[B, C, H, W]` or, with `sequence` timesteps, `[T, B, C, H, W]`.
fn input(data: Vec<f32>, sequence: Option<usize>, config: &Config) -> Result<Input> {
    let image = config.in_chans * config.img_size * config.img_size * sequence.unwrap_or(1);
    let batch = data.len() / image.max(1);
    if batch == 0 || data.len() != batch * image {
        let (c, s, n) = (config.in_chans, config.img_size, data.len());
        let frames = sequence.map_or_else(String::new, |t| format!(" and {t} timesteps"));
        return Err(Error::Input(format!(
            "{n} values are no whole number of inputs: one of {c} channels, {s} × {s} pixels{frames} has {image}"
        )));
    }
    Ok(Input { batch, timesteps: sequence, data })
}

#[wasm_bindgen]
impl Engine {
    /// Opens a device (`auto`, `gpu` or `cpu`) for the model in a `.safetensors` file's bytes; `what` names it in errors.
    pub async fn load(bytes: Vec<u8>, what: String, device: String) -> Result<Engine, JsValue> {
        let checkpoint = Checkpoint::from_bytes(&bytes, &what, false).map_err(|e| failed(&e))?;
        drop(bytes);
        let model = Model::new(&checkpoint).map_err(|e| failed(&e))?;
        let (device, fallback) = open(&device).await?;
        let session = Session::new(Arc::new(model), device);
        Ok(Engine { checkpoint, session, training: None, fallback })
    }

    /// The model's configuration, as JSON.
    #[wasm_bindgen(getter)]
    pub fn config(&self) -> String {
        self.checkpoint.config.to_json()
    }

    /// The file's other metadata, as JSON.
    #[wasm_bindgen(getter)]
    pub fn metadata(&self) -> String {
        serde_json::json!(self.checkpoint.metadata).to_string()
    }

    /// `{ kind, name, software, why, notice }`.
    #[wasm_bindgen(getter)]
    pub fn device(&self) -> JsValue {
        let (kind, software) = match self.session.device() {
            Device::Cpu => ("cpu", true),
            Device::Gpu(context) => ("webgpu", context.capabilities().software),
        };
        object([
            ("kind", kind.into()),
            ("name", self.session.device().name().into()),
            ("software", software.into()),
            ("why", self.fallback.as_ref().map_or(JsValue::NULL, |f| f.why.into())),
            ("notice", self.fallback.as_ref().map_or(JsValue::NULL, |f| f.notice.as_str().into())),
        ])
    }

    /// Waits until the device is lost, and says why; `undefined` if the model is freed first. Never where there is no device.
    #[wasm_bindgen(js_name = untilLost)]
    pub fn until_lost(&self) -> js_sys::Promise {
        match self.context().map(|c| c.until_lost()) {
            Some(lost) => wasm_bindgen_futures::future_to_promise(async move {
                Ok(lost.await.map_or(JsValue::UNDEFINED, JsValue::from))
            }),
            // A task that waits for ever would never be let go.
            None => js_sys::Promise::new(&mut |_, _| {}),
        }
    }

    /// Makes the plan of a batch ready.
    pub async fn prepare(&mut self, batch: usize, timesteps: Option<usize>) -> Result<(), JsValue> {
        let prepared = self.session.prepare(batch, timesteps, counted()).await;
        self.settle(prepared).await
    }

    /// A picture, `[height, width, 4]` bytes of red, green, blue and alpha, as the model's input `[C, H, W]`, as the command
    /// line makes it of a file.
    pub fn picture(
        &self,
        width: usize,
        height: usize,
        pixels: Vec<u8>,
        invert: Option<bool>,
    ) -> Result<Vec<f32>, JsValue> {
        let invert = match invert {
            None => Invert::Auto,
            Some(true) => Invert::Yes,
            Some(false) => Invert::No,
        };
        let preparation = Preparation::new(&self.checkpoint.config, invert).map_err(|e| failed(&e))?;
        let picture = Picture::from_rgba(width, height, pixels).map_err(|e| failed(&e))?;
        Ok(preparation.prepare(&picture))
    }

    /// Classifies a batch: `{ classes: [of each image], logits, milliseconds, firingRate }`.
    pub async fn classify(
        &mut self,
        data: Vec<f32>,
        sequence: Option<usize>,
        timesteps: Option<usize>,
    ) -> Result<JsValue, JsValue> {
        let result = self.run(data, sequence, timesteps, counted()).await;
        let (output, milliseconds) = self.settle(result).await?;
        let names = self.checkpoint.config.class_names.as_deref();
        Ok(object([
            ("classes", output.logits.iter().map(|logits| classes(logits, names)).collect::<Array>().into()),
            ("logits", floats(&output.logits.concat())),
            ("milliseconds", milliseconds.into()),
            ("firingRate", output.firing_rate().unwrap_or(0.0).into()),
        ]))
    }

    /// Runs a batch and keeps every spike and membrane.
    pub async fn trace(
        &mut self,
        data: Vec<f32>,
        sequence: Option<usize>,
        timesteps: Option<usize>,
    ) -> Result<Traced, JsValue> {
        let options = Options { trace: true, census: true, ..Options::default() };
        let result = self.run(data, sequence, timesteps, options).await;
        let (output, milliseconds) = self.settle(result).await?;
        let summary = summary(self.session.model(), &output, milliseconds).map_err(|e| failed(&e))?;
        Ok(Traced { summary, tensors: output.trace.into_iter() })
    }

    /// Why a neuron fired, or did not, in a run of one image: [`insight::why`](crate::insight::why)'s answer as JSON, to the
    /// package's `Question`, as JSON too.
    pub async fn why(
        &mut self,
        data: Vec<f32>,
        sequence: Option<usize>,
        timesteps: Option<usize>,
        question: String,
    ) -> Result<String, JsValue> {
        let answer = self.answer(data, sequence, timesteps, &question).await;
        self.settle(answer).await
    }

    /// Loss and gradients of a batch: `{ loss, logits, gradients: [{ name, shape, data }] }`.
    pub async fn gradients(
        &mut self,
        data: Vec<f32>,
        sequence: Option<usize>,
        timesteps: Option<usize>,
        labels: Vec<f64>,
        batch_statistics: bool,
    ) -> Result<JsValue, JsValue> {
        let result = self.backward(data, sequence, timesteps, labels, batch_statistics).await;
        let found = self.settle(result).await?;
        let of = |(name, tensor): (&String, &Tensor)| {
            object([
                ("name", name.as_str().into()),
                ("shape", numbers(tensor.shape.iter().map(|&n| n as f64))),
                ("data", floats(&tensor.data)),
            ])
        };
        Ok(object([
            ("loss", found.loss.into()),
            ("logits", floats(&found.logits.concat())),
            ("gradients", found.gradients.iter().map(of).collect::<Array>().into()),
        ]))
    }

    /// Begins a training with the options in JSON; a former one ends.
    #[wasm_bindgen(js_name = startTraining)]
    pub async fn start_training(&mut self, options: String) -> Result<(), JsValue> {
        let started = self.start(&options).await;
        self.settle(started).await
    }

    /// One step: `{ loss, correct, total, learningRate, gradientNorm, logits }`.
    #[wasm_bindgen(js_name = trainStep)]
    pub async fn train_step(
        &mut self,
        data: Vec<f32>,
        labels: Vec<f64>,
        learning_rate: Option<f64>,
    ) -> Result<JsValue, JsValue> {
        let result = self.step(data, labels, learning_rate).await;
        self.settle(result).await
    }

    /// Ends the training: its memory is free again, and the model has the weights.
    #[wasm_bindgen(js_name = finishTraining)]
    pub async fn finish_training(&mut self) -> Result<(), JsValue> {
        let updated = self.update().await;
        self.settle(updated).await?;
        self.training = None;
        Ok(())
    }

    /// The model as the bytes of a `.safetensors` file, in f32.
    pub async fn save(&mut self) -> Result<Vec<u8>, JsValue> {
        let updated = self.update().await;
        self.settle(updated).await?;
        self.checkpoint.to_bytes(Dtype::F32).map_err(|e| failed(&e))
    }
}

impl Drop for Engine {
    /// Its device is nobody else's, and a browser would keep it until it collects garbage.
    fn drop(&mut self) {
        if let Some(context) = self.context() {
            context.mark_lost("the model was freed");
        }
    }
}

impl Engine {
    fn context(&self) -> Option<&Arc<Context>> {
        match self.session.device() {
            Device::Cpu => None,
            Device::Gpu(context) => Some(context),
        }
    }

    async fn settle<T>(&self, result: Result<T>) -> Result<T, JsValue> {
        match result {
            Ok(value) => Ok(value),
            Err(e) => Err(failed(&settled(e, self.context().map(Arc::as_ref)).await)),
        }
    }

    /// The result of a run, and its milliseconds, less those of making its plan ready.
    async fn run(
        &mut self,
        data: Vec<f32>,
        sequence: Option<usize>,
        timesteps: Option<usize>,
        options: Options,
    ) -> Result<(Output, f64)> {
        self.update().await?;
        let input = input(data, sequence, &self.checkpoint.config)?;
        if sequence.is_none() {
            self.session.prepare(input.batch, timesteps, options).await?;
        }
        let start = Instant::now();
        let output = self.session.run(&input, timesteps, options).await?;
        let milliseconds = 1e3 * start.elapsed().as_secs_f64();
        Ok((output, milliseconds))
    }

    async fn answer(
        &mut self,
        data: Vec<f32>,
        sequence: Option<usize>,
        timesteps: Option<usize>,
        question: &str,
    ) -> Result<String> {
        let asked: Asked = serde_json::from_str(question).map_err(|e| Error::Input(format!("the question: {e}")))?;
        let images = input(data.clone(), sequence, &self.checkpoint.config)?.batch;
        if images != 1 {
            return Err(Error::Input(format!("{images} images; ask about one of them")));
        }
        // Before a run, as it costs nothing.
        self.update().await?;
        let question = asked.question(self.session.model())?;
        let options = Options { trace: true, ..Options::default() };
        let (output, _) = self.run(data.clone(), sequence, timesteps, options).await?;
        let answer = why(self.session.model(), &data, &output.trace, &question)?;
        let json = serde_json::to_value(&answer).map_err(|e| Error::Input(format!("the answer: {e}")))?;
        Ok(json.to_string())
    }

    async fn backward(
        &mut self,
        data: Vec<f32>,
        sequence: Option<usize>,
        timesteps: Option<usize>,
        labels: Vec<f64>,
        batch_statistics: bool,
    ) -> Result<Gradients> {
        self.update().await?;
        let input = input(data, sequence, &self.checkpoint.config)?;
        let statistics = if batch_statistics { Statistics::Batch } else { Statistics::Running };
        let options = crate::train::Options { statistics, timesteps, ..Default::default() };
        gradients(self.session.device(), &self.checkpoint, &input, &whole(&labels)?, options).await
    }

    async fn start(&mut self, options: &str) -> Result<()> {
        let options = TrainingOptions::from_json(options)?;
        let settings = Settings {
            optimizer: options.optimizer()?,
            clip_norm: options.clip_norm,
            batch: 0,
            micro_batches: 1,
            recompute: options.recompute,
            frozen: options.statistics == Statistics::Running,
            ..Settings::default()
        };
        self.update().await?;
        self.training = None;
        if !options.add_classes.is_empty() {
            self.replace(self.checkpoint.clone().with_more_classes(&options.add_classes)?)?;
        }
        self.training = Some(Training { settings, options, plan: None, kept: None, steps: 0, ahead: false });
        Ok(())
    }

    async fn step(&mut self, data: Vec<f32>, labels: Vec<f64>, learning_rate: Option<f64>) -> Result<JsValue> {
        let Some(training) = &mut self.training else {
            return Err(Error::Input("no training has begun, or it is finished; ask for a trainer first".to_owned()));
        };
        let config = &self.checkpoint.config;
        let input = input(data, None, config)?;
        let labels = whole(&labels)?;
        check_batch(config, &input, &labels)?;
        let lr = learning_rate.unwrap_or(training.options.learning_rate);
        if !(lr.is_finite() && lr >= 0.0) {
            return Err(Error::Input(format!("the learning rate is {lr}; it must be at least 0")));
        }
        if training.plan.as_ref().is_none_or(|plan| plan.settings().batch != input.batch) {
            // What was learned, and the optimizer's moments, go on in a plan of the other size. The former one goes first, as
            // there may not be memory for both; where there is not even for one, what it had learned stays.
            if let Some(plan) = &mut training.plan {
                training.kept = Some((plan.checkpoint().await?, plan.state().await?));
                training.plan = None;
            }
            let (mut checkpoint, state) = match &training.kept {
                Some((checkpoint, state)) => (checkpoint.clone(), Some(state)),
                None => (self.checkpoint.clone(), None),
            };
            // What is said there is not true of what will be learned.
            checkpoint.metadata.clear();
            let settings = Settings { batch: input.batch, ..training.settings };
            let mut plan = TrainingPlan::new(self.session.device(), checkpoint, settings).await?;
            if let Some(state) = state {
                plan.restore(state).await?;
            }
            (training.plan, training.kept) = (Some(plan), None);
        }
        let Some(plan) = &mut training.plan else { return Err(Error::Training("there is no plan".to_owned())) };
        let (area, classes) = (config.img_size * config.img_size, config.num_classes);
        let pixels = interleaved(&input.data, config.in_chans, area);
        let targets = one_hot(&labels, classes);
        let schedule =
            Schedule { step: training.steps + 1, lr, weight_decay: training.options.weight_decay, ema_decay: 0.0 };
        let result = plan.step(&[Images { pixels: &pixels, targets: &targets }], schedule).await?;
        training.ahead = true;
        if result.skipped || !result.loss.is_finite() {
            return Err(Error::Training(
                "the loss or its gradient is not finite; use a lower learning rate, and load the model again"
                    .to_owned(),
            ));
        }
        training.steps += 1;
        let first = |row: &[f32]| crate::outputs::ranked(row).first().map(|&c| c as i64);
        let correct = result.logits.chunks_exact(classes).zip(&labels).filter(|(row, l)| first(row) == Some(**l));
        Ok(object([
            ("loss", result.loss.into()),
            ("correct", (correct.count() as f64).into()),
            ("total", (labels.len() as f64).into()),
            ("learningRate", lr.into()),
            ("gradientNorm", result.grad_norm.into()),
            ("logits", floats(&result.logits)),
        ]))
    }

    /// Gives the model what the training has learned.
    async fn update(&mut self) -> Result<()> {
        let Some(training) = &mut self.training else { return Ok(()) };
        if !training.ahead {
            return Ok(());
        }
        let checkpoint = match (&mut training.plan, &training.kept) {
            (Some(plan), _) => plan.checkpoint().await?,
            (None, Some((checkpoint, _))) => checkpoint.clone(),
            (None, None) => return Ok(()),
        };
        training.ahead = false;
        self.replace(checkpoint)
    }

    fn replace(&mut self, checkpoint: Checkpoint) -> Result<()> {
        let model = Model::new(&checkpoint)?;
        self.session = Session::new(Arc::new(model), self.session.device().clone());
        self.checkpoint = checkpoint;
        Ok(())
    }
}

/// Labels, which JavaScript has as floats.
fn whole(labels: &[f64]) -> Result<Vec<i64>> {
    let of = |&l: &f64| {
        let bad = || Error::Input(format!("label {l} is no whole number"));
        (l.fract() == 0.0 && l.abs() < 1e15).then_some(l as i64).ok_or_else(bad)
    };
    labels.iter().map(of).collect()
}

/// `[B, C, H, W]` as `[B, H, W, C]`.
fn interleaved(data: &[f32], channels: usize, area: usize) -> Vec<f32> {
    let images = data.chunks_exact(channels * area);
    images.flat_map(|image| (0..area).flat_map(move |p| image[p..].iter().step_by(area).copied())).collect()
}

fn counted() -> Options {
    Options { count: true, ..Options::default() }
}

/// Why a model is not on a GPU that was to be: a word for programs and a line for people.
struct Fallback {
    why: &'static str,
    notice: String,
}

/// Why there is no adapter. Where a page is not secure a browser hides WebGPU, which then says nothing of the browser.
fn no_adapter() -> (&'static str, &'static str) {
    let of = |object: &JsValue, name: &str| Reflect::get(object, &name.into()).unwrap_or(JsValue::UNDEFINED);
    let global = js_sys::global();
    let gpu = of(&of(&global, "navigator"), "gpu");
    if !gpu.is_falsy() {
        ("no-adapter", "this browser offers no WebGPU adapter")
    } else if of(&global, "isSecureContext") == JsValue::FALSE {
        ("insecure", "WebGPU needs https or localhost, and this page came over plain http")
    } else {
        ("no-webgpu", "this browser has no WebGPU")
    }
}

/// The device, and why it is no GPU where `auto` fell back.
async fn open(device: &str) -> Result<(Device, Option<Fallback>), JsValue> {
    let adapters = match device {
        "cpu" => return Ok((Device::Cpu, None)),
        "auto" | "gpu" => Adapters::enumerate().await,
        _ => {
            let why = format!("`device` is {:?}; it must be 'auto', 'gpu' or 'cpu'", crate::error::clip(device));
            return Err(thrown("bad-input", &why));
        }
    };
    let found = adapters.describe();
    let (why, notice) = match (device, found.first()) {
        ("gpu", None) => {
            let (why, told) = no_adapter();
            let error = thrown("no-webgpu", &format!("{told}; load with `device: 'cpu'`"));
            let _ = Reflect::set(&error, &"why".into(), &why.into());
            return Err(error);
        }
        ("gpu", _) => {
            let context = Context::open(&adapters, 0).await.map_err(|e| failed(&e))?;
            return Ok((Device::Gpu(context), None));
        }
        (_, None) => {
            let (why, told) = no_adapter();
            (why, told.to_owned())
        }
        (_, Some(adapter)) if adapter.kind == AdapterKind::Software => {
            ("software", "the browser's WebGPU adapter is a software driver".to_owned())
        }
        _ => match Context::open(&adapters, 0).await {
            Ok(context) => return Ok((Device::Gpu(context), None)),
            Err(e) => ("refused", e.to_string()),
        },
    };
    let notice = format!("{notice}; running on the processor in WebAssembly");
    Ok((Device::Cpu, Some(Fallback { why, notice })))
}

/// A run of which everything was kept.
#[wasm_bindgen]
pub struct Traced {
    summary: JsValue,
    tensors: std::vec::IntoIter<OutputTensor>,
}

#[wasm_bindgen]
impl Traced {
    /// `{ milliseconds, logits, classes, layers: [{ name, kind, shape, ratePerTimestep }], attention, operations }`.
    #[wasm_bindgen(getter)]
    pub fn summary(&self) -> JsValue {
        self.summary.clone()
    }

    /// The values of the next layer, `[T, B, C, H, W]`: a `Float32Array`, or an `Int8Array` of spikes. They are let go here, so
    /// that they are not held twice; `undefined` after the last layer.
    pub fn values(&mut self) -> JsValue {
        match self.tensors.next().map(|tensor| tensor.channel_first()) {
            Some(Values::Real(v)) => floats(&v),
            Some(Values::Spikes(v)) => js_sys::Int8Array::from(bytemuck::cast_slice::<u8, i8>(&v)).into(),
            Some(Values::Ternary(v)) => js_sys::Int8Array::from(&v[..]).into(),
            None => JsValue::UNDEFINED,
        }
    }
}

fn summary(model: &Model, output: &Output, milliseconds: f64) -> Result<JsValue> {
    let config = model.config();
    let names = config.class_names.as_deref();
    let maps = attention_maps(config, &output.trace).into_iter().map(|map| {
        object([
            ("block", (map.block as f64).into()),
            ("heads", (map.heads as f64).into()),
            ("height", (map.height as f64).into()),
            ("width", (map.width as f64).into()),
            ("map", floats(&map.weights)),
        ])
    });
    let none = || Error::Input("the run has counted nothing".to_owned());
    let receipt = Receipt::new(model, "", output.census.as_ref().ok_or_else(none)?)?;
    let counted = |name: &str| receipt.counting(name).ok_or_else(none);
    let (spiking, dense) = (counted("exact")?, counted("dense")?);
    // A dense network passes once over each image, or over each frame of a sequence.
    let images = receipt.images as f64;
    let passes = images * if receipt.sequence { receipt.timesteps as f64 } else { 1.0 };
    let energies = |cost: &CostModel| {
        object([
            ("spiking_pJ", (images * cost.energy(spiking.macs, spiking.acs, spiking.updates)).into()),
            ("dense_pJ", (passes * cost.energy(dense.macs, dense.acs, dense.updates)).into()),
        ])
    };
    let with_memory = CostModel::named("45nm-f32-sram")?;
    Ok(object([
        ("milliseconds", milliseconds.into()),
        ("logits", floats(&output.logits.concat())),
        ("classes", output.logits.iter().map(|logits| classes(logits, names)).collect::<Array>().into()),
        ("layers", output.trace.iter().map(layer).collect::<Array>().into()),
        ("attention", maps.collect::<Array>().into()),
        (
            "operations",
            object([
                ("additions", (receipt.totals.acs as f64).into()),
                ("macs", (receipt.totals.macs as f64).into()),
                ("denseMacs", (passes * dense.macs).into()),
                ("updates", (receipt.totals.updates as f64).into()),
                ("denseUpdates", (passes * dense.updates).into()),
                ("energy", energies(&COST_MODELS[0])),
                ("energyWithMemory", energies(with_memory)),
            ]),
        ),
    ]))
}

fn layer(tensor: &OutputTensor) -> JsValue {
    let s = tensor.shape;
    let a_step = s.rows() * s.channels;
    let rates = |fired: &dyn Fn(usize) -> bool| {
        let of_step = |t: usize| (t * a_step..(t + 1) * a_step).filter(|&i| fired(i)).count() as f64 / a_step as f64;
        numbers((0..s.steps).map(of_step))
    };
    let (kind, rates) = match &tensor.values {
        Values::Real(_) => ("real", JsValue::NULL),
        Values::Spikes(v) => ("spikes", rates(&|i| v[i] != 0)),
        Values::Ternary(v) => ("ternary", rates(&|i| v[i] != 0)),
    };
    let shape = [s.steps, s.batch, s.channels, s.height, s.width];
    object([
        ("name", tensor.name.as_str().into()),
        ("kind", kind.into()),
        ("shape", numbers(shape.map(|n| n as f64))),
        ("ratePerTimestep", rates),
    ])
}
