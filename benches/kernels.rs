//! Every kernel on one adapter beside its twin on the processor, at the shapes of the cifar 2-256 model (one image, T = 4, 15 % of
//! the neurons firing). Ids: `<stem>/gpu/<shape>` and `<stem>/cpu/<shape>`.
//!
//! `SPIKESHADE_BENCH_DEVICE` chooses the adapter as `--device` does; the default `gpu` is the best there is, software drivers
//! included, and `cpu` times the twins alone. A row is one replay of a plan of one op, waited for, nothing read back: what a
//! dispatch costs apart from its work stands in the control rows (a sum of 4 values, a product of silent spikes). Before
//! anything is timed, the outputs of both are compared bit for bit, and a line tells how long a device that has never seen the
//! kernel takes to compile and run it once (a driver's own cache on disk may help it).

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, SamplingMode};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use spikeshade::gpu::{Adapters, Context, Plan};
use spikeshade::kernels::attention::{Heads, kv_shape};
use spikeshade::kernels::attention_kv::AttentionKv;
use spikeshade::kernels::attention_q_kv::AttentionQKv;
use spikeshade::kernels::attention_qk_v::AttentionQkV;
use spikeshade::kernels::conv3x3_real::{self, Conv3x3RealOp};
use spikeshade::kernels::conv3x3_spike::Conv3x3Spike;
use spikeshade::kernels::head::HeadOp;
use spikeshade::kernels::lif::LifOp;
use spikeshade::kernels::linear_spike::LinearSpike;
use spikeshade::kernels::maxpool_real::MaxpoolRealOp;
use spikeshade::kernels::maxpool_spike::MaxpoolSpikeOp;
use spikeshade::kernels::neuron::Neuron;
use spikeshade::kernels::product::{Epilogue, SpikeProduct, pack_scale_shift, pack_weights};
use spikeshade::kernels::residual_add::ResidualAddOp;
use spikeshade::kernels::spike_count::{PARTIALS, SpikeCountOp};
use spikeshade::kernels::spike_gap::SpikeGapOp;
use spikeshade::recording::{Constant, Recording, TensorId};
use spikeshade::reference::Executor;
use spikeshade::tensor::{Element, Shape, words};

const RATE: f64 = 0.15;
const STEPS: usize = 4;
const DIM: usize = 256;
const NEURON: Neuron = Neuron { v_threshold: 1.0, v_reset: Some(0.0), tau: 2.0, decay_input: true };

fn shape(side: usize, channels: usize) -> Shape {
    Shape { steps: STEPS, batch: 1, height: side, width: side, channels }
}

fn flat(channels: usize) -> Shape {
    Shape { steps: 1, batch: 1, height: 1, width: 1, channels }
}

/// Data on a dyadic grid, where every order of addition gives the same bits.
struct Data {
    rng: Pcg64Mcg,
    recording: Recording,
}

impl Data {
    fn values(&mut self, n: usize, low: i32, high: i32) -> Vec<f32> {
        (0..n).map(|_| self.rng.random_range(low..=high) as f32 / 4.0).collect()
    }

    fn parameter(&mut self, data: Vec<f32>) -> TensorId {
        self.recording.constant(&Arc::new(Constant { name: "parameter".to_owned(), data }))
    }

    /// Real values of a shape whose channels are a multiple of four.
    fn real(&mut self, shape: Shape, low: i32, high: i32) -> TensorId {
        let data = self.values(shape.steps * shape.rows() * shape.channels.next_multiple_of(4), low, high);
        self.recording.constant_as(&Arc::new(Constant { name: "real".to_owned(), data }), Element::Real, shape)
    }

    /// Spikes of a shape whose channels are a multiple of 32.
    fn spikes(&mut self, shape: Shape, element: Element, rate: f64) -> TensorId {
        let row = words(shape.channels);
        let mut data = Vec::new();
        for _ in 0..shape.steps * shape.rows() * row {
            let word = (0..32).map(|c| u32::from(self.rng.random::<f64>() < rate) << c).sum::<u32>();
            data.push(word);
        }
        if element == Element::Ternary {
            let sign = |rng: &mut Pcg64Mcg| rng.random::<u32>();
            let signs: Vec<u32> = data.iter().map(|_| sign(&mut self.rng)).collect();
            let planes = |(token, signs): (&[u32], &[u32])| {
                let plus = token.iter().zip(signs).map(|(t, s)| t & s);
                plus.chain(token.iter().zip(signs).map(|(t, s)| t & !s)).collect::<Vec<u32>>()
            };
            data = data.chunks(row).zip(signs.chunks(row)).flat_map(planes).collect();
        }
        self.recording.constant_as(&Arc::new(Constant::packed("spikes", data)), element, shape)
    }

    fn out(&mut self, element: Element, shape: Shape) -> TensorId {
        self.recording.tensor("out", element, shape)
    }

    fn product(
        &mut self,
        input: Shape,
        outputs: usize,
        taps: usize,
        rate: f64,
        residual: bool,
    ) -> (SpikeProduct, TensorId) {
        let out_shape = input.with_channels(outputs);
        let inputs = input.channels;
        let input = self.spikes(input, Element::Spikes, rate);
        let weights = self.values(outputs * inputs * taps, -2, 3);
        let weights = self.parameter(pack_weights(&weights, 0..outputs, inputs, taps));
        let (scale, shift) = (vec![0.125; outputs], self.values(outputs, -2, 4));
        let scale_shift = self.parameter(pack_scale_shift(&scale, &shift, 0..outputs));
        let (out, epilogue) = if residual {
            let residual = self.real(out_shape, -8, 8);
            let out = self.out(Element::Real, out_shape);
            (out, Epilogue::Residual { residual, out, first_channel: 0 })
        } else {
            let out = self.out(Element::Spikes, out_shape);
            (out, Epilogue::Fire { out, neuron: NEURON, first_channel: 0 })
        };
        let layer = String::new();
        (SpikeProduct { layer, input, weights, scale_shift, channels_out: outputs, epilogue }, out)
    }
}

/// A row: the kernel, what is run, and the op's recording with the tensor it writes.
struct Row {
    stem: &'static str,
    shape: &'static str,
    record: fn(&mut Data) -> TensorId,
}

impl Row {
    fn recording(&self, read_back: bool) -> Recording {
        let mut data = Data { rng: Pcg64Mcg::seed_from_u64(1), recording: Recording::default() };
        let out = (self.record)(&mut data);
        if read_back {
            data.recording.output("out", &[out]);
        }
        data.recording
    }
}

const HEADS: Heads = Heads { dim: 32, first: 0, count: 8 };

fn rows() -> Vec<Row> {
    let row = |stem, shape, record| Row { stem, shape, record };
    vec![
        row("residual_add", "control: 4 values", |d| {
            let (input, residual) = (d.real(flat(4), -8, 8), d.real(flat(4), -8, 8));
            let out = d.out(Element::Real, flat(4));
            d.recording.push(ResidualAddOp { layer: String::new(), input, residual, out });
            out
        }),
        row("linear_spike", "control: 256 to 1024, N 64, silent", |d| {
            let (product, out) = d.product(shape(8, DIM), 4 * DIM, 1, 0.0, false);
            d.recording.push(LinearSpike(product));
            out
        }),
        row("linear_spike", "fc1 256 to 1024, N 64, fire", |d| {
            let (product, out) = d.product(shape(8, DIM), 4 * DIM, 1, RATE, false);
            d.recording.push(LinearSpike(product));
            out
        }),
        row("linear_spike", "fc2 1024 to 256, N 64, residual", |d| {
            let (product, out) = d.product(shape(8, 4 * DIM), DIM, 1, RATE, true);
            d.recording.push(LinearSpike(product));
            out
        }),
        row("conv3x3_spike", "stage 1, 32 to 64, 32x32, fire", |d| {
            let (product, out) = d.product(shape(32, DIM / 8), DIM / 4, 9, RATE, false);
            d.recording.push(Conv3x3Spike(product));
            out
        }),
        row("conv3x3_spike", "rpe, 256 to 256, 8x8, residual", |d| {
            let (product, out) = d.product(shape(8, DIM), DIM, 9, RATE, true);
            d.recording.push(Conv3x3Spike(product));
            out
        }),
        row("conv3x3_real", "stage 0, 3 to 32, 32x32", |d| {
            let (outputs, inputs) = (DIM / 8, 3);
            let input_shape = shape(32, inputs).with_steps(1);
            let input = d.real(input_shape, -4, 4);
            let weights = d.values(outputs * inputs * 9, -8, 8);
            let weights = d.parameter(conv3x3_real::pack_weights(&weights, 0..outputs, inputs));
            let shift = d.values(outputs, -2, 4);
            let scale_shift = d.parameter(pack_scale_shift(&vec![0.5; outputs], &shift, 0..outputs));
            let out = d.out(Element::Real, input_shape.with_channels(outputs));
            d.recording.push(Conv3x3RealOp { layer: String::new(), input, weights, scale_shift, out });
            out
        }),
        row("lif", "stage 0, 32x32x32, one input for T", |d| {
            let x = shape(32, DIM / 8).with_steps(1);
            let input = d.real(x, -4, 6);
            let out = d.out(Element::Spikes, x.with_steps(STEPS));
            d.recording.push(LifOp { layer: String::new(), input, out, h: None, neuron: NEURON, first_channel: 0 });
            out
        }),
        row("lif", "block, N 64, 256", |d| {
            let input = d.real(shape(8, DIM), -4, 6);
            let out = d.out(Element::Spikes, shape(8, DIM));
            d.recording.push(LifOp { layer: String::new(), input, out, h: None, neuron: NEURON, first_channel: 0 });
            out
        }),
        row("maxpool_spike", "stage 2, 32x32x128", |d| {
            let input = d.spikes(shape(32, DIM / 2), Element::Spikes, RATE);
            let out = d.out(Element::Spikes, shape(16, DIM / 2));
            d.recording.push(MaxpoolSpikeOp { layer: String::new(), input, out });
            out
        }),
        row("maxpool_real", "stage 3, 16x16x256", |d| {
            let input = d.real(shape(16, DIM), -16, 16);
            let out = d.out(Element::Real, shape(8, DIM));
            d.recording.push(MaxpoolRealOp { layer: String::new(), input, out });
            out
        }),
        row("residual_add", "block, N 64, 256", |d| {
            let (input, residual) = (d.real(shape(8, DIM), -8, 8), d.real(shape(8, DIM), -8, 8));
            let out = d.out(Element::Real, shape(8, DIM));
            d.recording.push(ResidualAddOp { layer: String::new(), input, residual, out });
            out
        }),
        row("attention_kv", "8 heads of 32, N 64", |d| {
            let (k, v) = (d.real(shape(8, DIM), 0, 8), d.spikes(shape(8, DIM), Element::Ternary, RATE));
            let m = d.out(Element::Real, kv_shape(shape(8, DIM), HEADS));
            d.recording.push(AttentionKv { layer: String::new(), k, v, m, heads: HEADS });
            m
        }),
        row("attention_q_kv", "8 heads of 32, N 64", |d| {
            let q = d.spikes(shape(8, DIM), Element::Spikes, RATE);
            let m = d.real(kv_shape(shape(8, DIM), HEADS), -16, 16);
            let o = d.out(Element::Real, shape(8, DIM));
            d.recording.push(AttentionQKv { layer: String::new(), q, m, o, heads: HEADS });
            o
        }),
        row("attention_qk_v", "8 heads of 32, N 64", |d| {
            let q = d.spikes(shape(8, DIM), Element::Spikes, RATE);
            let (k, v) = (d.real(shape(8, DIM), 0, 8), d.spikes(shape(8, DIM), Element::Ternary, RATE));
            let o = d.out(Element::Real, shape(8, DIM));
            d.recording.push(AttentionQkV { layer: String::new(), q, k, v, o, heads: HEADS });
            o
        }),
        row("spike_count", "stage 2, 32x32x128", |d| {
            let input = d.spikes(shape(32, DIM / 2), Element::Spikes, RATE);
            let out = d.out(Element::Spikes, flat(32 * PARTIALS));
            d.recording.push(SpikeCountOp { layer: String::new(), input, out, slot: 0 });
            out
        }),
        row("spike_gap", "N 64, 256", |d| {
            let input = d.spikes(shape(8, DIM), Element::Spikes, RATE);
            let out = d.out(Element::Real, flat(DIM));
            d.recording.push(SpikeGapOp { layer: String::new(), input, out });
            out
        }),
        row("head", "256 to 10", |d| {
            let (input, classes) = (d.real(flat(DIM), 0, 4), 10);
            let (weights, bias) = (d.values(DIM * classes, -8, 8), d.values(classes, -8, 8));
            let (weights, bias) = (d.parameter(weights), d.parameter(bias));
            let out = d.out(Element::Real, flat(classes));
            d.recording.push(HeadOp { layer: String::new(), input, weights, bias, out, classes });
            out
        }),
    ]
}

/// The adapters and the chosen one's index; `None` for the twins alone.
fn adapter() -> Result<Option<(Adapters, usize)>, spikeshade::Error> {
    let wanted = std::env::var("SPIKESHADE_BENCH_DEVICE").unwrap_or_else(|_| "gpu".to_owned());
    if wanted.eq_ignore_ascii_case("cpu") {
        return Ok(None);
    }
    let adapters = pollster::block_on(Adapters::enumerate());
    let index = adapters.choose(&wanted)?;
    Ok(Some((adapters, index)))
}

/// Compares every row's outputs and tells what each kernel costs on a device that has not seen it.
fn compare(rows: &[Row], adapters: &Adapters, index: usize) -> Result<bool, spikeshade::Error> {
    let mut equal = true;
    let mut seen = Vec::new();
    for row in rows {
        let context = pollster::block_on(Context::open(adapters, index))?;
        if seen.is_empty() {
            println!("adapter: {}\ncompiled and run once:", context.name());
        }
        let expected = Executor::new(row.recording(true)).run(&[])?;
        let recording = row.recording(true);
        let start = Instant::now();
        let mut plan = pollster::block_on(Plan::new(&context, recording))?;
        let outputs = pollster::block_on(plan.run(&[]))?;
        let cold = start.elapsed();
        if !seen.contains(&row.stem) {
            seen.push(row.stem);
            println!("  {:<16}{:8.1} ms", row.stem, cold.as_secs_f64() * 1e3);
        }
        if outputs != expected {
            eprintln!("{}, {}: the adapter's output differs from the twin's", row.stem, row.shape);
            equal = false;
        }
    }
    Ok(equal)
}

fn bench(criterion: &mut Criterion) -> Result<bool, spikeshade::Error> {
    let rows = rows();
    let context = match adapter()? {
        Some((adapters, index)) => {
            if !compare(&rows, &adapters, index)? {
                return Ok(false);
            }
            Some(pollster::block_on(Context::open(&adapters, index))?)
        }
        None => None,
    };
    for row in &rows {
        let mut group = criterion.benchmark_group(row.stem);
        group.sampling_mode(SamplingMode::Flat);
        if let Some(context) = &context {
            let mut plan = pollster::block_on(Plan::new(context, row.recording(false)))?;
            pollster::block_on(plan.run(&[]))?;
            group.bench_function(format!("gpu/{}", row.shape), |b| {
                b.iter(|| pollster::block_on(plan.run(&[])).unwrap())
            });
        }
        let executor = Executor::new(row.recording(false));
        group.bench_function(format!("cpu/{}", row.shape), |b| b.iter(|| executor.run(&[]).unwrap()));
        group.finish();
    }
    Ok(true)
}

fn main() -> ExitCode {
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    match bench(&mut criterion) {
        Ok(true) => {
            criterion.final_summary();
            ExitCode::SUCCESS
        }
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("{e}");
            ExitCode::FAILURE
        }
    }
}
