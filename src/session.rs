//! A model on a device: plans made on demand, batches cut to what the device takes.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use crate::config::Config;
use crate::gpu::{Adapters, Capabilities, Context, Limits, MemoryPlan, measure};
use crate::insight::counts::{Counts, pixels_reached};
use crate::layers::Options;
use crate::model::{InputShape, Model};
use crate::outputs::{LayerCount, OutputTensor, Outputs, Values};
use crate::profile::OpTime;
use crate::program::Program;
use crate::reference::parallel;
use crate::{Error, Result};

/// Where a model runs.
#[derive(Clone)]
pub enum Device {
    /// The reference executor, on this machine's processor.
    Cpu,
    /// A wgpu device.
    Gpu(Arc<Context>),
}

impl Device {
    /// What `text` names: `auto` the best hardware GPU or else the reference executor, `cpu` the reference executor, `gpu` the
    /// best adapter (software ones included), a number that adapter, anything else the adapter whose name contains it.
    ///
    /// The second value is a line for the user where `auto` fell back.
    ///
    /// # Errors
    /// [`Error::Gpu`] if there is no such adapter or it refuses a device.
    pub async fn open(text: &str) -> Result<(Device, Option<String>)> {
        if text.eq_ignore_ascii_case("cpu") {
            return Ok((Device::Cpu, None));
        }
        Device::open_among(&Adapters::enumerate().await, text).await
    }

    /// [`Device::open`] among adapters that are known.
    ///
    /// # Errors
    /// As [`Device::open`].
    pub async fn open_among(adapters: &Adapters, text: &str) -> Result<(Device, Option<String>)> {
        if text.eq_ignore_ascii_case("cpu") {
            return Ok((Device::Cpu, None));
        }
        if !text.eq_ignore_ascii_case("auto") {
            let index = adapters.choose(text)?;
            return Ok((Device::Gpu(Context::open(adapters, index).await?), None));
        }
        let why = match adapters.best_hardware() {
            Some(index) => match Context::open(adapters, index).await {
                Ok(context) => return Ok((Device::Gpu(context), None)),
                Err(e) => e.to_string(),
            },
            None => "no hardware GPU was found".to_owned(),
        };
        Ok((
            Device::Cpu,
            Some(format!("{why}; running on the processor's reference executor (`--device` chooses another)")),
        ))
    }

    /// [`Device::open`], waiting for it.
    ///
    /// # Errors
    /// As [`Device::open`].
    #[cfg(not(target_arch = "wasm32"))]
    pub fn open_blocking(text: &str) -> Result<(Device, Option<String>)> {
        pollster::block_on(Device::open(text))
    }

    /// Its name.
    pub fn name(&self) -> &str {
        match self {
            Device::Cpu => "cpu (reference executor)",
            Device::Gpu(context) => context.name(),
        }
    }

    /// What the last bits of its results may depend on: on a GPU its name, driver and choice of variants, though not what a measurement
    /// chose (see [`Context::identity`]).
    pub fn identity(&self) -> &str {
        match self {
            Device::Cpu => self.name(),
            Device::Gpu(context) => context.identity(),
        }
    }

    /// What decides between variants of a kernel, once that is known.
    async fn settled(&self) -> Result<Capabilities> {
        match self {
            Device::Cpu => Ok(Capabilities::default()),
            Device::Gpu(context) => {
                measure::settle(context).await?;
                Ok(context.capabilities())
            }
        }
    }

    /// What recordings for it are kept within.
    pub fn limits(&self) -> Limits {
        match self {
            Device::Cpu => Limits::of_the_host(),
            Device::Gpu(context) => context.limits(),
        }
    }
}

/// A batch of inputs.
#[derive(Clone, Debug)]
pub struct Input {
    /// B, and T where every timestep has an image of its own.
    pub batch: usize,
    /// T of a sequence; `None` shows one image at every timestep.
    pub timesteps: Option<usize>,
    /// `[B, C, H, W]`, or `[T, B, C, H, W]`.
    pub data: Vec<f32>,
}

impl Input {
    /// Whether a model of that configuration can run on it.
    ///
    /// # Errors
    /// [`Error::Input`] for an empty batch, a wrong length, a value that is not finite or a sequence of other than 1 to 32
    /// timesteps.
    pub fn check(&self, config: &Config) -> Result<()> {
        let (side, channels) = (config.img_size, config.in_chans);
        let images = self.timesteps.unwrap_or(1).saturating_mul(self.batch);
        let values = images.checked_mul(channels * side * side).ok_or_else(|| {
            Error::Input(format!("a batch of {} images is too large; use a smaller batch", self.batch))
        })?;
        if self.batch == 0 {
            return Err(Error::Input("the batch is empty; give at least one image".to_owned()));
        }
        if let Some(t) = self.timesteps
            && !(1..=32).contains(&t)
        {
            return Err(Error::Input(format!("a sequence of {t} timesteps; it must be 1 to 32")));
        }
        let given = self.data.len();
        if given != values {
            return Err(Error::Input(format!(
                "the input has {given} values; {images} images of {channels} channels and {side} × {side} pixels have {values}"
            )));
        }
        match self.data.iter().position(|x| !x.is_finite()) {
            Some(i) => {
                let value = self.data[i];
                Err(Error::Input(format!("the input's value {i} is {value}; every value must be finite")))
            }
            None => Ok(()),
        }
    }
}

/// A model on a device.
pub struct Session {
    model: Arc<Model>,
    device: Device,
    plans: HashMap<(InputShape, Options), Program>,
    /// Beside each batch that was run how many of its images the device takes at once.
    parts: HashMap<(InputShape, Options), usize>,
}

/// What a run gives back.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Output {
    /// `[B][classes]`.
    pub logits: Vec<Vec<f32>>,
    /// The trace, if asked for, `[T, B, H, W, C]` each.
    pub trace: Vec<OutputTensor>,
    /// Spikes by layer, if asked for.
    pub counts: Vec<LayerCount>,
    /// The census, if asked for.
    pub census: Option<Counts>,
    /// With a census, the logits as they stand after each timestep, `[B][T][classes]`: what a run of so many timesteps gives.
    pub readouts: Vec<Vec<Vec<f32>>>,
}

impl Output {
    /// Spikes over possible spikes of all layers together; `None` if they were not counted.
    pub fn firing_rate(&self) -> Option<f64> {
        let possible: u64 = self.counts.iter().map(|c| c.possible).sum();
        (possible > 0).then(|| self.counts.iter().map(|c| c.spikes).sum::<u64>() as f64 / possible as f64)
    }
}

impl Session {
    /// No plan is made yet.
    pub fn new(model: Arc<Model>, device: Device) -> Self {
        Session { model, device, plans: HashMap::new(), parts: HashMap::new() }
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Runs a batch; `timesteps` overrides the model's T for images.
    ///
    /// A batch whose tensors exceed what the device takes is run in parts. For each of them whoever polls it may be kept up to 2 ms.
    ///
    /// # Errors
    /// [`Error::Input`] for an empty batch, a wrong length, a value that is not finite, a T outside 1..=32, or logits that
    /// overflow; [`Error::Gpu`], [`Error::DeviceLost`].
    pub async fn run(&mut self, input: &Input, timesteps: Option<usize>, options: Options) -> Result<Output> {
        let model = self.model.clone();
        let config = model.config();
        let whole = shape_of(input, timesteps, config)?;
        let part = self.part_that_fits(whole, options).await?;
        let mut outputs: Vec<(usize, Outputs)> = Vec::new();
        let mut first = 0;
        while first < input.batch {
            let batch = part.min(input.batch - first);
            let shape = InputShape { batch, ..whole };
            let pixels = channel_last(input, first, batch, config.in_chans, config.img_size * config.img_size);
            outputs.push((batch, self.run_part(shape, options, &pixels).await?));
            first += batch;
        }
        let mut output = merge(outputs, &model)?;
        if let Some(census) = &mut output.census {
            census.sequence = whole.sequence;
            census.pixels_reached = pixels_reached(&input.data, config.img_size);
        }
        if !output.logits.iter().flatten().all(|x| x.is_finite()) {
            return Err(Error::Input(
                "the model's logits are not finite: its weights or the input are too large for f32; scale them down, or use \
                 another checkpoint"
                    .to_owned(),
            ));
        }
        Ok(output)
    }

    /// [`Session::run`], waiting for it.
    ///
    /// # Errors
    /// As [`Session::run`].
    #[cfg(not(target_arch = "wasm32"))]
    pub fn run_blocking(&mut self, input: &Input, timesteps: Option<usize>, options: Options) -> Result<Output> {
        pollster::block_on(self.run(input, timesteps, options))
    }

    /// Runs as many of a batch's images as the device takes at once; how many they were, and each op's time.
    ///
    /// # Errors
    /// As [`Session::run`], and [`Error::Gpu`] if the device has no timestamps.
    pub async fn run_timed(
        &mut self,
        input: &Input,
        timesteps: Option<usize>,
        options: Options,
    ) -> Result<(usize, Vec<OpTime>)> {
        let model = self.model.clone();
        let config = model.config();
        let whole = shape_of(input, timesteps, config)?;
        let batch = self.part_that_fits(whole, options).await?;
        let pixels = channel_last(input, 0, batch, config.in_chans, config.img_size * config.img_size);
        let program = self.compiled(InputShape { batch, ..whole }, options).await?;
        Ok((batch, program.run_timed(&[&pixels]).await?.1))
    }

    /// Makes ready what a [`Session::run`] of `batch` images would make first, so that the run itself can be timed.
    ///
    /// # Errors
    /// As [`Session::run`], less those of the input's values.
    pub async fn prepare(&mut self, batch: usize, timesteps: Option<usize>, options: Options) -> Result<()> {
        let timesteps = timesteps.unwrap_or(self.model.config().timesteps);
        let whole = InputShape { timesteps, batch, sequence: false };
        let part = self.part_that_fits(whole, options).await?;
        self.compiled(InputShape { batch: part, ..whole }, options).await.map(|_| ())
    }

    /// The largest part of the batch that the device takes at once.
    async fn part_that_fits(&mut self, whole: InputShape, options: Options) -> Result<usize> {
        // To find it takes a recording for each size that is tried.
        if let Some(&part) = self.parts.get(&(whole, options)) {
            return Ok(part);
        }
        let capabilities = self.device.settled().await?;
        let (batch, memory) = part_that_fits(&self.model, whole, options, self.device.limits(), capabilities)?;
        if matches!(self.device, Device::Cpu) {
            // Before anything else is allocated, and with the sizes: the executor's own error names none.
            let (img_size, steps) = (self.model.config().img_size, whole.timesteps);
            let bytes = memory.total() + input_bytes(self.model.config(), InputShape { batch, ..whole });
            Vec::<u8>::new().try_reserve_exact(usize::try_from(bytes).unwrap_or(usize::MAX)).map_err(|_| {
                let gib = bytes as f64 / (1u64 << 30) as f64;
                Error::OutOfMemory(format!(
                    "a batch of {batch} at `img_size` {img_size} and `T` {steps} takes {gib:.2} GiB of memory, more than there \
                     is; use a smaller batch, `img_size` or `T`"
                ))
            })?;
        }
        self.parts.insert((whole, options), batch);
        Ok(batch)
    }

    async fn run_part(&mut self, shape: InputShape, options: Options, pixels: &[f32]) -> Result<Outputs> {
        self.compiled(shape, options).await?.run(&[pixels]).await
    }

    /// The plan of that shape, made if there is none.
    async fn compiled(&mut self, shape: InputShape, options: Options) -> Result<&mut Program> {
        // Batches of one session differ in their last part at most; plans of other shapes would only hold memory.
        const KEPT: usize = 2;
        let key = (shape, options);
        if !self.plans.contains_key(&key) && self.plans.len() >= KEPT {
            self.plans.clear();
        }
        Ok(match self.plans.entry(key) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                let capabilities = self.device.settled().await?;
                let recording = self.model.record_for(shape, options, self.device.limits(), capabilities)?;
                entry.insert(Program::new(&self.device, recording).await?)
            }
        })
    }
}

/// The shape of an input that a model can run on, with the timesteps asked for.
pub(crate) fn shape_of(input: &Input, timesteps: Option<usize>, config: &Config) -> Result<InputShape> {
    let timesteps = match (input.timesteps, timesteps) {
        (Some(of_input), Some(asked)) if of_input != asked => {
            return Err(Error::Input(format!(
                "the input is a sequence of {of_input} timesteps and {asked} are asked for; leave `--timesteps` out"
            )));
        }
        (of_input, asked) => of_input.or(asked).unwrap_or(config.timesteps),
    };
    input.check(config)?;
    if !(1..=32).contains(&timesteps) {
        return Err(Error::Input(format!("{timesteps} timesteps; it must be 1 to 32")));
    }
    Ok(InputShape { timesteps, batch: input.batch, sequence: input.timesteps.is_some() })
}

/// The largest part of a batch, halved until it fits, that a device with `limits` and `capabilities` takes at once, and what it
/// allocates.
///
/// # Errors
/// As [`Model::record_for`] and [`MemoryPlan::new`] for a single image.
pub fn part_that_fits(
    model: &Model,
    whole: InputShape,
    options: Options,
    limits: Limits,
    capabilities: Capabilities,
) -> Result<(usize, MemoryPlan)> {
    let mut batch = whole.batch;
    loop {
        let recording = model.record_for(InputShape { batch, ..whole }, options, limits, capabilities);
        match recording.and_then(|recording| MemoryPlan::new(&recording, limits)) {
            Ok(plan) if batch <= 1 || plan.total() - plan.parameters <= limits.memory => return Ok((batch, plan)),
            Err(e) if batch <= 1 => return Err(e),
            _ => batch = batch.div_ceil(2),
        }
    }
}

/// Bytes of the input in the layout of a tensor.
fn input_bytes(config: &Config, shape: InputShape) -> u64 {
    let images = shape.batch * if shape.sequence { shape.timesteps } else { 1 };
    images as u64 * (config.img_size as u64).pow(2) * 16 * crate::tensor::vectors(config.in_chans) as u64
}

/// Images `first..first + batch` of every timestep as rows of padded pixels, `[T or 1][B][H·W][4⌈C/4⌉]`.
pub(crate) fn channel_last(input: &Input, first: usize, batch: usize, channels: usize, tokens: usize) -> Vec<f32> {
    let row = 4 * crate::tensor::vectors(channels);
    let image = channels * tokens;
    let mut pixels = vec![0.0; input.timesteps.unwrap_or(1) * batch * tokens * row];
    let little = pixels.len() < 1 << 16;
    parallel::for_each_unless(little, pixels.chunks_exact_mut(tokens * row).enumerate(), |(i, out)| {
        let (t, b) = (i / batch, i % batch);
        let from = &input.data[(t * input.batch + first + b) * image..][..image];
        for (c, plane) in from.chunks_exact(tokens).enumerate() {
            for (out, &x) in out[c..].iter_mut().step_by(row).zip(plane) {
                *out = x;
            }
        }
    });
    pixels
}

/// Joins the parts of a batch.
fn merge(parts: Vec<(usize, Outputs)>, model: &Model) -> Result<Output> {
    let classes = model.config().num_classes;
    let mut output = Output::default();
    let mut traces: Vec<Vec<OutputTensor>> = Vec::new();
    for (batch, part) in parts {
        for tensor in part.tensors {
            match (tensor.name.as_str(), tensor.values) {
                ("logits", Values::Real(v)) => {
                    output.logits.extend(v[..batch * classes].chunks_exact(classes).map(<[f32]>::to_vec));
                }
                (_, values) => {
                    let tensor = OutputTensor { values, ..tensor };
                    match traces.iter_mut().find(|t| t[0].name == tensor.name) {
                        Some(of_name) => of_name.push(tensor),
                        None => traces.push(vec![tensor]),
                    }
                }
            }
        }
        if let Some((counts, head)) = part.census {
            output.readouts.extend(model.readouts(&head));
            match &mut output.census {
                Some(sum) => sum.merge(&counts)?,
                None => output.census = Some(counts),
            }
        }
        for count in part.counts {
            match output.counts.iter_mut().find(|c| c.layer == count.layer) {
                Some(sum) => {
                    sum.spikes += count.spikes;
                    sum.possible += count.possible;
                }
                None => output.counts.push(count),
            }
        }
    }
    output.trace = traces.into_iter().map(|mut t| if t.len() == 1 { t.remove(0) } else { join_batches(&t) }).collect();
    Ok(output)
}

fn join_batches(parts: &[OutputTensor]) -> OutputTensor {
    fn join<X: Copy>(parts: &[(&[X], usize)], steps: usize) -> Vec<X> {
        (0..steps).flat_map(|t| parts.iter().flat_map(move |(v, n)| v[t * n..(t + 1) * n].iter().copied())).collect()
    }
    let first = &parts[0];
    let mut shape = first.shape;
    shape.batch = parts.iter().map(|p| p.shape.batch).sum();
    let a_step = |p: &OutputTensor| p.shape.rows() * p.shape.channels;
    macro_rules! joined {
        ($kind:ident) => {{
            let slices: Vec<_> = parts
                .iter()
                .filter_map(|p| match &p.values {
                    Values::$kind(v) => Some((v.as_slice(), a_step(p))),
                    _ => None,
                })
                .collect();
            Values::$kind(join(&slices, shape.steps))
        }};
    }
    let values = match &first.values {
        Values::Real(_) => joined!(Real),
        Values::Spikes(_) => joined!(Spikes),
        Values::Ternary(_) => joined!(Ternary),
    };
    OutputTensor { name: first.name.clone(), shape, values }
}
