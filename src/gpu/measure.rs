//! Which variants for GPUs are faster than the portable kernels: measured at a few sizes, once a device and driver, and kept in a
//! file.
//!
//! The model of cost is this: how the times of a variant and of the portable kernel compare depends on the task, on how many
//! workgroups the variant's grid has (whether they fill the device), on how long each of them works (whether it is worth
//! beginning) and in attention on the channels of a head. Of the sizes in [`SAMPLES`] the nearest one decides, in powers of two of
//! all of these; see [`Measured::pays`].

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

#[cfg(not(target_arch = "wasm32"))]
use super::cache;
#[cfg(not(target_arch = "wasm32"))]
use super::oneshot::oneshot;
use super::{Capabilities, Context, ForGpus, Plan};
use crate::kernels::attention::{Heads, kv_shape};
use crate::kernels::attention_fused::{AttentionFused, heads_a_group};
use crate::kernels::attention_kv::AttentionKv;
use crate::kernels::attention_q_kv::AttentionQKv;
use crate::kernels::conv3x3_spike::Conv3x3Spike;
use crate::kernels::linear_spike::LinearSpike;
use crate::kernels::neuron::Neuron;
use crate::kernels::product::{Epilogue, SpikeProduct, pack_scale_shift, pack_weights};
use crate::recording::{Constant, Recording};
use crate::tensor::{Element, Shape, words};
use crate::{Error, Result};

/// What a variant for GPUs computes, whatever its weights are stored as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Task {
    /// A linear layer's spike product, spike by spike.
    Linear,
    /// A 3×3 convolution's spike product, spike by spike.
    Conv3x3,
    /// Attention's two products, in one kernel.
    Attention,
}

/// What the speed of a variant depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Size {
    /// What it computes.
    pub task: Task,
    /// Workgroups of its grid.
    pub groups: u64,
    /// How long each works: words of 32 inputs that a product's outputs are sums over, or tokens of attention.
    pub depth: u64,
    /// d, channels of attention's heads; 1 for products.
    pub head_dim: u64,
}

const fn of(task: Task, groups: u64, depth: u64) -> Size {
    Size { task, groups, depth, head_dim: 1 }
}

const fn heads_of(head_dim: u64, groups: u64, depth: u64) -> Size {
    Size { task: Task::Attention, groups, depth, head_dim }
}

/// The sizes that are measured, of each task the least work first: few workgroups and many, few inputs or tokens and
/// many, small heads and large ones.
pub const SAMPLES: [Size; 12] = [
    of(Task::Linear, 16, 2),
    of(Task::Linear, 16, 16),
    of(Task::Linear, 256, 2),
    of(Task::Linear, 256, 16),
    of(Task::Conv3x3, 16, 9),
    of(Task::Conv3x3, 16, 36),
    of(Task::Conv3x3, 256, 9),
    of(Task::Conv3x3, 256, 36),
    heads_of(8, 256, 64),
    heads_of(64, 16, 64),
    heads_of(8, 16, 256),
    heads_of(64, 256, 256),
];

/// How long the runs may take that are timed, all together: a size that would take them beyond is not begun, but for the first of
/// each task, which is begun while any time is left. Beside them there is one run of each kernel and size that is not timed, the
/// warming up and the compiling.
const BUDGET: Duration = Duration::from_millis(60);
/// How long the kernels of the first size run before any is timed, so that clocks are up.
const WARM_UP: Duration = Duration::from_millis(10);
/// Timed runs of each kernel and size, in turn; each of the two goes first as often.
const RUNS: usize = 4;
/// A variant runs where it takes at most this many thousandths of the portable kernel's time.
const PAYS: u32 = 950;
/// In place of the time of a variant that the device does not run.
const FAILED: u32 = u32::MAX;
/// How often a measurement is begun that is not ended: a process may be ended by its user meanwhile, once or twice.
#[cfg(not(target_arch = "wasm32"))]
const TRIES: u32 = 3;

/// Beside each of [`SAMPLES`] the thousandths of the portable kernel's time that the variant takes; 0 where that was not measured,
/// the largest number where it failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Measured(pub [u32; SAMPLES.len()]);

impl Measured {
    /// Whether the variant takes at least a twentieth less time than the portable kernel at the nearest size that was measured for
    /// the task; not if none was. Nearest is the least sum of the distances in powers of two of workgroups, of depth and of a head's
    /// channels.
    pub fn pays(&self, size: Size) -> bool {
        let far = |a: u64, b: u64| ((a.max(1) as f64).log2() - (b.max(1) as f64).log2()).abs();
        let distance =
            |of: &Size| far(of.groups, size.groups) + far(of.depth, size.depth) + far(of.head_dim, size.head_dim);
        let measured = SAMPLES.iter().zip(self.0).filter(|(of, thousandths)| of.task == size.task && *thousandths > 0);
        let nearest = measured.min_by(|a, b| distance(a.0).total_cmp(&distance(b.0)));
        nearest.is_some_and(|(_, thousandths)| thousandths <= PAYS)
    }

    /// As if variants took `by` / `of` times as long.
    pub(crate) fn times(self, by: u32, of: u32) -> Self {
        Measured(self.0.map(|thousandths| {
            (u64::from(thousandths) * u64::from(by)).div_ceil(u64::from(of)).min(FAILED.into()) as u32
        }))
    }
}

/// How long another process, or another device of this one, is waited for that measures. It takes a second where kernels have to be
/// compiled first.
#[cfg(not(target_arch = "wasm32"))]
const PATIENCE: Duration = Duration::from_secs(10);

/// What an earlier process left.
#[cfg_attr(target_arch = "wasm32", expect(dead_code, reason = "a browser keeps none"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    /// Its measurement.
    Measured(Measured),
    /// That it began one, so many times by now, and no more: it was ended before, or a kernel took it along.
    Begun(u32),
}

/// A device's measurement, and where it is kept.
pub(super) struct Measurement {
    measured: OnceLock<Measured>,
    #[cfg(not(target_arch = "wasm32"))]
    kept: Option<kept::Kept>,
}

impl Measurement {
    /// Not made yet; kept in `folder`, if there is one, for the adapter and driver.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn new(adapter: &wgpu::AdapterInfo, folder: Option<&Path>) -> Self {
        Measurement { measured: OnceLock::new(), kept: folder.map(|folder| kept::Kept::new(adapter, folder)) }
    }

    #[cfg(target_arch = "wasm32")]
    pub fn new(_: &wgpu::AdapterInfo, _: Option<&Path>) -> Self {
        Measurement { measured: OnceLock::new() }
    }

    /// What was measured, or read.
    pub fn get(&self) -> Option<Measured> {
        self.measured.get().copied()
    }

    #[cfg(not(target_arch = "wasm32"))]
    fn read(&self) -> Option<Found> {
        self.kept.as_ref()?.read()
    }

    #[cfg(target_arch = "wasm32")]
    fn read(&self) -> Option<Found> {
        None
    }

    #[cfg(not(target_arch = "wasm32"))]
    fn write(&self, found: Found) {
        if let Some(kept) = &self.kept {
            kept.write(found);
        }
    }

    /// Keeps others from measuring until what is returned is dropped: they would count it as one that its process did not survive.
    /// Waits for another that measures, not longer than [`PATIENCE`]; who waits on the thread that the other one works on does not
    /// keep it.
    #[cfg(not(target_arch = "wasm32"))]
    async fn alone(&self) -> Result<cache::Alone> {
        const PAUSE: Duration = Duration::from_millis(10);
        let Some(kept) = &self.kept else { return Ok(cache::Alone::Unknown) };
        let start = std::time::Instant::now();
        loop {
            match cache::alone(kept.file()) {
                cache::Alone::No if start.elapsed() < PATIENCE => (),
                alone => return Ok(alone),
            }
            let (sender, receiver) = oneshot();
            let pause = move || {
                std::thread::sleep(PAUSE);
                sender.send(());
            };
            match std::thread::Builder::new().name("spikeshade pauses".to_owned()).spawn(pause) {
                Ok(_) => receiver.await?,
                Err(_) => std::thread::sleep(PAUSE),
            }
        }
    }
}

/// The file of a measurement, beside that of the pipelines.
#[cfg(not(target_arch = "wasm32"))]
mod kept {
    use std::path::PathBuf;

    use super::*;

    /// Begins the file.
    const MAGIC: cache::Magic = *b"spikeshade var 2";

    pub struct Kept {
        file: PathBuf,
        identity: String,
    }

    /// The file's content: whose measurement it is, and the measurement, or nothing while it is made.
    #[derive(serde::Serialize, serde::Deserialize)]
    struct Content {
        identity: String,
        begun: u32,
        thousandths: Vec<u32>,
    }

    impl Kept {
        pub fn new(adapter: &wgpu::AdapterInfo, folder: &Path) -> Self {
            let wgpu::AdapterInfo { name, vendor, device, backend, driver, driver_info, .. } = adapter;
            let adapter = format!("{backend:?} {vendor:x} {device:x} {name}, {driver} {driver_info}");
            let file = folder.join(format!("{:016x}.variants", cache::hash(adapter.as_bytes())));
            // Another version's kernels, or another choice of sizes, would have to be measured again.
            let sources = crate::kernels::KERNELS.iter().map(|k| k.source()).collect::<Vec<_>>().join("\n");
            let measured = cache::hash(format!("{SAMPLES:?} {sources}").as_bytes());
            let version = env!("CARGO_PKG_VERSION");
            Kept { file, identity: format!("{adapter}; spikeshade {version} {measured:016x}") }
        }

        pub fn read(&self) -> Option<Found> {
            let content: Content = serde_json::from_slice(&cache::read(&self.file, &MAGIC)?).ok()?;
            if content.identity != self.identity {
                return None;
            }
            if content.thousandths.is_empty() {
                if content.begun >= TRIES {
                    let (file, begun) = (self.file.display(), content.begun);
                    log::info!(
                        "{file}: a measurement was begun and not ended ({begun}); until it is deleted, portable kernels run"
                    );
                }
                return Some(Found::Begun(content.begun));
            }
            Some(Found::Measured(Measured(content.thousandths.try_into().ok()?)))
        }

        pub fn write(&self, found: Found) {
            match found {
                Found::Measured(measured) => self.write_all(0, &measured.0),
                Found::Begun(begun) => self.write_all(begun, &[]),
            }
        }

        pub fn write_all(&self, begun: u32, thousandths: &[u32]) {
            let content = Content { identity: self.identity.clone(), begun, thousandths: thousandths.to_vec() };
            let written = serde_json::to_vec(&content).map_err(|e| e.to_string());
            let written = written.and_then(|data| cache::write(&self.file, &MAGIC, &data).map_err(|e| e.to_string()));
            match written {
                Ok(true) => log::debug!("{}: {thousandths:?}", self.file.display()),
                Ok(false) => (),
                Err(e) => log::info!("which variants are faster is not kept: {e}"),
            }
        }

        pub fn file(&self) -> &Path {
            &self.file
        }

        #[cfg(test)]
        pub fn of_another(&self) -> Kept {
            Kept { file: self.file.clone(), identity: format!("{} of another driver", self.identity) }
        }
    }
}

/// Whether a measurement decides anything about the ops of `recording`.
pub(super) fn decides(recording: &Recording) -> bool {
    let for_gpus = ForGpus::Measured(Measured([1; SAMPLES.len()]));
    let faster = Capabilities { for_gpus, ..Capabilities::default() };
    recording.ops().any(|op| op.dispatch_on(recording, faster).kernel.stem != op.kernel().stem)
}

/// Makes the measurement of a device that chooses by one, or reads what an earlier process measured, if neither has been done.
/// Variants that are chosen by measurement add in the order of the portable ones, so that no sum depends on it. The last bits of a
/// result may: a driver may fuse batch norm's multiplication and addition in one kernel and not in the other.
///
/// # Errors
/// [`Error::DeviceLost`] if it is, or gets lost by what is measured; later processes then measure nothing. A process that ends while
/// it measures leaves that it began; after a few of them none measures any more.
pub(crate) async fn settle(context: &Arc<Context>) -> Result<()> {
    let Some(measurement) = context.measurement() else { return Ok(()) };
    if measurement.get().is_some() {
        return Ok(());
    }
    context.check()?;
    let measured = match measurement.read() {
        Some(Found::Measured(measured)) => measured,
        // Begun, it may be going on.
        None | Some(Found::Begun(_)) => measure_alone(context, measurement).await?,
    };
    // Another thread may have been first, with times of its own.
    let _ = measurement.measured.set(measured);
    Ok(())
}

#[cfg(target_arch = "wasm32")]
async fn measure_alone(context: &Arc<Context>, _: &Measurement) -> Result<Measured> {
    measure(context).await
}

/// Measures, after whoever does so already, and keeps it.
#[cfg(not(target_arch = "wasm32"))]
async fn measure_alone(context: &Arc<Context>, measurement: &Measurement) -> Result<Measured> {
    let alone = measurement.alone().await?;
    match (&alone, measurement.read()) {
        // Who was waited for has done it, or is the last that tried.
        (_, Some(Found::Measured(measured))) => Ok(measured),
        (_, Some(Found::Begun(TRIES..))) => Ok(Measured::default()),
        (cache::Alone::No, _) => {
            log::info!("another process still measures which kernels are faster; the portable ones run");
            Ok(Measured::default())
        }
        (_, found) => {
            let begun = if let Some(Found::Begun(begun)) = found { begun } else { 0 };
            measurement.write(Found::Begun(begun + 1));
            let measured = measure(context).await;
            measurement.write(measured.as_ref().map_or(Found::Begun(TRIES), |measured| Found::Measured(*measured)));
            measured
        }
    }
}

/// Measures the sizes in order within [`BUDGET`]. Where a size fails, the variant does not count as faster there.
///
/// # Errors
/// [`Error::DeviceLost`].
async fn measure(context: &Arc<Context>) -> Result<Measured> {
    let mut measured = Measured::default();
    let mut left = BUDGET;
    let mut warm = false;
    // Of the sample before, if it was of the same task.
    let mut before: Option<(Task, f64, Duration)> = None;
    for (&size, thousandths) in SAMPLES.iter().zip(&mut measured.0) {
        let expected = before.filter(|(task, ..)| *task == size.task);
        let expected = expected.map_or(Duration::ZERO, |(_, terms, took)| took.mul_f64(terms_of(size) / terms));
        if left.is_zero() || expected > left {
            continue;
        }
        let compared = compare(context, size, !warm).await;
        if let Some(why) = context.lost() {
            return Err(Error::DeviceLost(format!(
                "{why}; it was being measured which kernels are faster there, which SPIKESHADE_VARIANTS=portable leaves out"
            )));
        }
        match compared {
            Ok((portable, variant, took)) => {
                let ratio = variant.as_secs_f64() / portable.as_secs_f64().max(1e-9);
                *thousandths = ((1000.0 * ratio) as u32).max(1);
                left = left.saturating_sub(took);
                before = Some((size.task, terms_of(size), took));
                warm = true;
            }
            Err(e) => {
                log::info!("{size:?}: {e}; the portable kernels stay");
                *thousandths = FAILED;
            }
        }
    }
    Ok(measured)
}

/// The least times of a few runs of the portable kernel and of the variant, and of all runs together; `cold` where nothing ran yet.
async fn compare(context: &Arc<Context>, size: Size, cold: bool) -> Result<(Duration, Duration, Duration)> {
    let mut plans = Vec::new();
    for for_gpus in [ForGpus::Never, ForGpus::Always] {
        let capabilities = Capabilities { for_gpus, ..Capabilities::default() };
        let mut plan = Plan::with(context, recording(size, capabilities), capabilities).await?;
        // Drivers compile at the first dispatch.
        plan.run(&[]).await?;
        plans.push((plan, Duration::MAX));
    }
    let start = std::time::Instant::now();
    while cold && start.elapsed() < WARM_UP {
        for (plan, _) in &mut plans {
            plan.run(&[]).await?;
        }
    }
    let mut all = Duration::ZERO;
    for run in 0..RUNS {
        for i in [run % 2, 1 - run % 2] {
            let (plan, best) = &mut plans[i];
            let start = std::time::Instant::now();
            plan.run(&[]).await?;
            let took = start.elapsed();
            *best = took.min(*best);
            all += took;
        }
    }
    Ok((plans[0].1, plans[1].1, all))
}

/// Times that the same is done in a run, so that it takes longer than to submit it.
fn repeats(size: Size) -> u64 {
    (512 / size.groups).max(1)
}

/// Terms of the sums of a run, of its task's in the same measure.
fn terms_of(size: Size) -> f64 {
    let a_head = size.head_dim * size.head_dim;
    let heads = heads_a_group(size.head_dim as usize) as u64;
    (repeats(size) * size.groups * size.depth * if size.task == Task::Attention { heads * a_head } else { 1 }) as f64
}

/// Operations of that size, T = 4; half the neurons silent.
fn recording(size: Size, capabilities: Capabilities) -> Recording {
    match size.task {
        Task::Linear => products(size, 1),
        Task::Conv3x3 => products(size, 9),
        Task::Attention => attention(size, capabilities),
    }
}

/// Half the neurons of `shape`, in `planes` bit planes of which the first fires.
fn spikes(r: &mut Recording, element: Element, shape: Shape) -> crate::recording::TensorId {
    let planes = if element == Element::Ternary { 2 } else { 1 };
    let row = words(shape.channels);
    let word = |i: usize| if (i / row).is_multiple_of(planes) { 0x5555_5555 } else { 0 };
    let data = (0..shape.steps * shape.rows() * planes * row).map(word).collect();
    r.constant_as(&Arc::new(Constant::packed("spikes", data)), element, shape)
}

fn parameter(name: &str, data: Vec<f32>) -> Arc<Constant> {
    Arc::new(Constant { name: name.to_owned(), data: data.into() })
}

/// Products to 128 channels, which a workgroup has of four tokens.
fn products(size: Size, taps: usize) -> Recording {
    const OUTPUTS: usize = 128;
    let inputs = 32 * size.depth as usize / taps;
    let shape = Shape { steps: 4, batch: 1, height: 4, width: size.groups as usize, channels: inputs };
    let mut r = Recording::default();
    let input = spikes(&mut r, Element::Spikes, shape);
    let weights = pack_weights(&vec![0.5; OUTPUTS * inputs * taps], 0..OUTPUTS, inputs, taps);
    let weights = r.constant(&parameter("weights", weights));
    let scale_shift = pack_scale_shift(&[1.0; OUTPUTS], &[0.0; OUTPUTS], 0..OUTPUTS);
    let scale_shift = r.constant(&parameter("batch norm", scale_shift));
    let out = r.tensor("s", Element::Spikes, shape.with_channels(OUTPUTS));
    let neuron = Neuron { v_threshold: 1.0, v_reset: Some(0.0), tau: 2.0, decay_input: true };
    for _ in 0..repeats(size) {
        let layer = "measuring".to_owned();
        let epilogue = Epilogue::Fire { out, neuron, first_channel: 0 };
        let product = SpikeProduct { layer, input, weights, scale_shift, channels_out: OUTPUTS, epilogue };
        if taps == 9 { r.push(Conv3x3Spike(product)) } else { r.push(LinearSpike(product)) }
    }
    r
}

/// The heads of four workgroups in every image and timestep.
fn attention(size: Size, capabilities: Capabilities) -> Recording {
    let dim = size.head_dim as usize;
    let heads = Heads { dim, first: 0, count: 4 * heads_a_group(dim) };
    let channels = heads.dim * heads.count;
    let shape = Shape { steps: 4, batch: size.groups as usize / 16, height: size.depth as usize, width: 1, channels };
    let mut r = Recording::default();
    let q = spikes(&mut r, Element::Spikes, shape);
    let v = spikes(&mut r, Element::Ternary, shape);
    let k = vec![0.5; shape.steps * shape.rows() * channels];
    let k = r.constant_as(&parameter("k", k), Element::Real, shape);
    let o = r.tensor("o", Element::Real, shape);
    let m = r.tensor("kv", Element::Real, kv_shape(shape, heads));
    for _ in 0..repeats(size) {
        let layer = "measuring".to_owned();
        if capabilities.gpu_variant_pays(size) {
            r.push(AttentionFused { layer, q, k, v, o, heads });
        } else {
            r.push(AttentionKv { layer: layer.clone(), k, v, m, heads });
            r.push(AttentionQKv { layer, q, m, o, heads });
        }
    }
    r
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(of: &[(Size, u32)]) -> Measured {
        let mut all = Measured::default();
        for (size, thousandths) in of {
            all.0[SAMPLES.iter().position(|s| s == size).unwrap()] = *thousandths;
        }
        all
    }

    #[test]
    fn the_nearest_size_of_the_task_decides() {
        use Task::*;
        let all = measured(&[
            (of(Linear, 16, 2), 1300),
            (of(Linear, 16, 16), 1100),
            (of(Linear, 256, 2), 950),
            (of(Linear, 256, 16), 400),
            (of(Conv3x3, 16, 9), 500),
            (of(Conv3x3, 256, 9), 951),
        ]);
        let pays = |task, groups, depth| all.pays(of(task, groups, depth));
        // Half-way between 16 and 256, in powers of two, lies 64.
        assert!(!pays(Linear, 1, 1) && !pays(Linear, 63, 2) && pays(Linear, 65, 2) && pays(Linear, 1 << 20, 64));
        assert!(!pays(Linear, 63, 300) && pays(Linear, 65, 300));
        // Too little is gained, or nothing was measured.
        assert!(pays(Conv3x3, 16, 900) && !pays(Conv3x3, 4096, 900));
        assert!(!pays(Attention, 256, 256) && !Measured::default().pays(of(Linear, 256, 16)));
        assert!(!pays(Linear, 0, 0));
        // What failed, whatever was measured elsewhere.
        let all = measured(&[(of(Linear, 16, 2), FAILED), (of(Linear, 256, 2), 500)]);
        assert!(!all.pays(of(Linear, 20, 2)) && all.pays(of(Linear, 200, 2)));
        // Of two attentions as near in workgroups and tokens the one with such heads.
        let all = measured(&[(heads_of(64, 16, 64), 1300), (heads_of(8, 16, 256), 500)]);
        let pays = |head_dim| all.pays(heads_of(head_dim, 16, 128));
        assert!(pays(4) && pays(16) && !pays(32) && !pays(64));
    }

    #[test]
    fn a_device_that_is_lost_meanwhile_names_the_way_out() {
        use crate::gpu::{Adapters, Limits, Opening, Variants};
        let adapters = pollster::block_on(Adapters::enumerate());
        for index in 0..adapters.all.len() {
            let folder = tempfile::tempdir().unwrap();
            let cache = Some(folder.path().to_owned());
            let opening = Opening { limits: Limits::default(), variants: Variants::Measured, cache };
            let context = pollster::block_on(Context::open_with(&adapters, index, opening)).unwrap();
            context.mark_lost("pulled out");
            let error = pollster::block_on(measure(&context)).unwrap_err();
            assert!(matches!(&error, Error::DeviceLost(_)), "{error}");
            let error = error.to_string();
            assert!(error.contains("pulled out") && error.contains("SPIKESHADE_VARIANTS=portable"), "{error}");
            // Lost before: measuring has nothing to do with it.
            let error = pollster::block_on(settle(&context)).unwrap_err();
            assert!(matches!(&error, Error::DeviceLost(why) if why == "pulled out"), "{error}");
            assert!(std::fs::read_dir(folder.path()).unwrap().next().is_none());
        }
    }

    #[test]
    fn samples_have_the_size_they_claim() {
        for size in SAMPLES {
            let always = Capabilities { for_gpus: ForGpus::Always, ..Capabilities::default() };
            let r = recording(size, always);
            assert!(decides(&r) || size.task == Task::Attention);
            let first = r.ops().next().unwrap().dispatch_on(&r, always);
            let grid = first.groups.fold(65_535).unwrap();
            assert_eq!(grid.map(u64::from).iter().product::<u64>(), size.groups, "{size:?}");
            assert_eq!(r.ops().count() as u64, repeats(size), "{size:?}");
            // A measurement of this size alone decides about it, either way.
            for thousandths in [PAYS, PAYS + 1] {
                let for_gpus = ForGpus::Measured(measured(&[(size, thousandths)]));
                let r = recording(size, Capabilities { for_gpus, ..always });
                let stem = r.ops().next().unwrap().dispatch_on(&r, Capabilities { for_gpus, ..always }).kernel.stem;
                let variant = stem.ends_with(".events") || stem == "attention_fused";
                assert_eq!(variant, thousandths == PAYS, "{size:?}: {stem}");
            }
        }
    }

    #[test]
    fn it_is_kept_for_one_adapter_driver_and_version() {
        use crate::gpu::{Adapters, Limits, Opening, Variants};
        const MADE_UP: Measured = Measured([123; SAMPLES.len()]);
        let adapters = pollster::block_on(Adapters::enumerate());
        // SwiftShader's compiler runs out of memory on the variants for GPUs.
        let capable = |index: &usize| crate::gpu::adapter::capabilities(&adapters.all[*index]).lanes_hold_eight();
        for index in (0..adapters.all.len()).filter(capable) {
            let folder = tempfile::tempdir().unwrap();
            let kept = kept::Kept::new(&adapters.all[index].get_info(), folder.path());
            let settled = |variants| {
                let opening = Opening { limits: Limits::default(), variants, cache: Some(folder.path().to_owned()) };
                let context = pollster::block_on(Context::open_with(&adapters, index, opening)).unwrap();
                pollster::block_on(settle(&context)).unwrap();
                context.capabilities().for_gpus
            };
            let measured = || match settled(Variants::Measured) {
                ForGpus::Measured(measured) => measured,
                other => panic!("{other:?}"),
            };
            // Software, and choices that are given.
            assert_eq!(settled(Variants::Auto), ForGpus::Never);
            assert_eq!(settled(Variants::Portable), ForGpus::Never);
            assert_eq!(settled(Variants::Events), ForGpus::Always);
            assert_eq!(kept.read(), None);

            let first = measured();
            assert!(first.0[0] > 0 && first != MADE_UP);
            assert_eq!(kept.read(), Some(Found::Measured(first)));
            // What is there is read, and not measured again.
            kept.write(Found::Measured(MADE_UP));
            assert_eq!(measured(), MADE_UP);
            assert_eq!(kept.read(), Some(Found::Measured(MADE_UP)));
            assert_eq!(settled(Variants::Events), ForGpus::Always);

            // What is not whole, of another adapter or version, or of other sizes is replaced.
            let whole = std::fs::read(kept.file()).unwrap();
            let mut flipped = whole.clone();
            flipped[whole.len() - 3] ^= 1;
            let broken: [&dyn Fn(); 4] = [
                &|| std::fs::write(kept.file(), &whole[..whole.len() - 1]).unwrap(),
                &|| std::fs::write(kept.file(), &flipped).unwrap(),
                &|| kept.of_another().write(Found::Measured(MADE_UP)),
                &|| kept.write_all(0, &[123; 3]),
            ];
            for make in broken {
                make();
                assert_eq!(kept.read(), None);
                let again = measured();
                assert_ne!(again, MADE_UP);
                assert_eq!(kept.read(), Some(Found::Measured(again)));
            }
            // One that was ended with its process is begun again, but not for ever.
            for begun in 1..TRIES {
                kept.write(Found::Begun(begun));
                let again = measured();
                assert!(again.0[0] > 0);
                assert_eq!(kept.read(), Some(Found::Measured(again)));
            }
            kept.write(Found::Begun(TRIES));
            assert_eq!(measured(), Measured::default());
            assert_eq!(kept.read(), Some(Found::Begun(TRIES)));
            // Of several at once one measures, and the others wait for it.
            std::fs::remove_file(kept.file()).unwrap();
            let all: Vec<Measured> = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..2 + TRIES).map(|_| scope.spawn(measured)).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            assert!(all.iter().all(|of_one| of_one.0[0] > 0 && of_one == &all[0]), "{all:?}");
            // Where it cannot be written, it is measured all the same.
            std::fs::remove_file(kept.file()).unwrap();
            std::fs::create_dir(kept.file()).unwrap();
            assert!(measured().0[0] > 0);
        }
    }
}
