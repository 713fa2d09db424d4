//! Data, recordings of one op, and the comparisons.

use std::fmt::Debug;
use std::ops::RangeInclusive;
use std::sync::{Arc, OnceLock};

use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed, TestRunner};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use spikeshade::gpu::{Context, Limits, Plan};
use spikeshade::kernels::batch_norm::BatchNorm;
use spikeshade::kernels::neuron::Neuron;
use spikeshade::kernels::residual_add::ResidualAddOp;
use spikeshade::kernels::spike_count::{PARTIALS, SpikeCountOp};
use spikeshade::outputs::{Outputs, Values};
use spikeshade::recording::{Constant, Recording, TensorId};
use spikeshade::reference::{Executor, Lif};
use spikeshade::tensor::{Element, Shape, vectors, words};
use spikeshade::weights::Weights;

/// Runs `test` on `cases` random values of `strategy`, the same ones every time.
pub fn check<S: Strategy>(cases: u32, strategy: S, test: impl Fn(S::Value))
where
    S::Value: Debug,
{
    let config = Config {
        cases,
        rng_seed: RngSeed::Fixed(0x5eed),
        failure_persistence: None,
        max_shrink_iters: 200,
        ..Config::default()
    };
    let result = TestRunner::new(config).run(&strategy, |value| {
        test(value);
        Ok(())
    });
    if let Err(e) = result {
        panic!("{e}");
    }
}

/// Every adapter, opened once for all tests: pipelines are compiled once. Those that choose variants are there again
/// with the portable kernels and with the variants for GPUs.
pub fn contexts() -> &'static [Arc<Context>] {
    static CONTEXTS: OnceLock<Vec<Arc<Context>>> = OnceLock::new();
    CONTEXTS.get_or_init(|| crate::common::contexts_of_all_variants(Limits::default()))
}

/// Whether every f32 operation on the values is exact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Small integers times a power of two.
    Dyadic,
    /// Any float of ordinary size.
    Float,
}

pub fn kinds() -> impl Strategy<Value = Kind> {
    prop_oneof![Just(Kind::Dyadic), Just(Kind::Float)]
}

/// A source of test data.
pub struct Data {
    rng: Pcg64Mcg,
    pub kind: Kind,
}

impl Data {
    pub fn new(seed: u64, kind: Kind) -> Self {
        Data { rng: Pcg64Mcg::seed_from_u64(seed), kind }
    }

    /// `n` values: integers of `range` times `unit`, or floats of the same span.
    pub fn reals(&mut self, n: usize, range: RangeInclusive<i32>, unit: f32) -> Vec<f32> {
        let (low, high) = (*range.start() as f32 * unit, *range.end() as f32 * unit);
        (0..n)
            .map(|_| match self.kind {
                Kind::Dyadic => self.rng.random_range(range.clone()) as f32 * unit,
                Kind::Float => low + (high - low) * self.rng.random::<f32>(),
            })
            .collect()
    }

    /// `n` integers of `range`.
    pub fn integers(&mut self, n: usize, range: RangeInclusive<i32>) -> Vec<i32> {
        (0..n).map(|_| self.rng.random_range(range.clone())).collect()
    }

    /// One of the values, as it is.
    pub fn one_of(&mut self, n: usize, values: &[f32]) -> Vec<f32> {
        (0..n).map(|_| values[self.rng.random_range(0..values.len())]).collect()
    }

    /// A packed tensor of `shape` that fires at `rate`.
    pub fn spikes(&mut self, shape: Shape, rate: f64) -> Vec<u32> {
        let row = words(shape.channels);
        let mut packed = vec![0; shape.steps * shape.rows() * row];
        for token in packed.chunks_exact_mut(row) {
            for c in 0..shape.channels {
                token[c / 32] |= u32::from(self.rng.random::<f64>() < rate) << (c % 32);
            }
        }
        packed
    }

    /// A ternary tensor of `shape` that fires at `rate`, either sign alike.
    pub fn ternary(&mut self, shape: Shape, rate: f64) -> Vec<u32> {
        let row = words(shape.channels);
        let mut packed = vec![0; shape.steps * shape.rows() * 2 * row];
        for token in packed.chunks_exact_mut(2 * row) {
            for c in 0..shape.channels {
                if self.rng.random::<f64>() < rate {
                    token[c / 32 + self.rng.random_range(0..2) * row] |= 1 << (c % 32);
                }
            }
        }
        packed
    }

    /// A neuron for inputs on a grid of 1/16 and `bits` bits left for what 1/tau adds to the membrane over `steps`.
    pub fn neuron(&mut self, choice: NeuronChoice, steps: usize, bits: usize) -> Neuron {
        let dyadic = self.kind == Kind::Dyadic;
        let tau = if dyadic {
            let most = (bits / steps).min(2) as u32;
            (1 << choice.tau.min(most)) as f32
        } else {
            [1.0, 1.25, 2.0, 3.7, 20.0][choice.tau as usize]
        };
        let v_threshold = if dyadic { choice.threshold as f32 / 4.0 } else { choice.threshold as f32 * 0.237 };
        let v_reset = choice.v_reset.map(|v| if dyadic { v as f32 / 4.0 } else { v as f32 * 0.211 });
        Neuron { v_threshold, v_reset, tau, decay_input: choice.decay_input }
    }
}

/// A neuron before it is known which values keep it exact.
#[derive(Clone, Copy, Debug)]
pub struct NeuronChoice {
    tau: u32,
    threshold: u32,
    v_reset: Option<i32>,
    decay_input: bool,
}

pub fn neurons() -> impl Strategy<Value = NeuronChoice> {
    (0..5u32, 1..12u32, proptest::option::of(-4..4i32), any::<bool>())
        .prop_map(|(tau, threshold, v_reset, decay_input)| NeuronChoice { tau, threshold, v_reset, decay_input })
}

pub fn rates() -> impl Strategy<Value = f64> {
    prop_oneof![1 => Just(0.0), 1 => Just(1.0), 4 => 0.0..1.0f64, 2 => 0.0..0.2f64]
}

/// T from 1 to 32, B from 1 to 3 and an odd or even grid, at most `most` tokens over all timesteps (but at least one).
pub fn grids(most: usize) -> impl Strategy<Value = Shape> {
    let steps = prop_oneof![3 => 1..=8usize, 2 => 9..=32usize];
    (steps, 1..=3usize, 1..=11usize, 1..=11usize).prop_map(move |(steps, batch, height, width)| {
        let mut shape = Shape { steps, batch, height, width, channels: 1 };
        // Cut the longest first, so that long, flat and deep ones all occur.
        while shape.steps * shape.rows() > most && shape.rows() > 1 {
            if shape.height > shape.width {
                shape.height -= 1;
            } else if shape.width > 1 {
                shape.width -= 1;
            } else {
                shape.batch -= 1;
            }
        }
        shape
    })
}

/// Channels cut in two at a multiple of 32 (no cut where that is not inside).
pub fn cut(channels: usize, at: usize) -> Vec<std::ops::Range<usize>> {
    let at = at * 32;
    if at > 0 && at < channels { vec![0..at, at..channels] } else { std::iter::once(0..channels).collect() }
}

/// `[rows][channels]` as `[rows][4⌈channels/4⌉]`.
pub fn padded(values: &[f32], channels: usize) -> Vec<f32> {
    let row = 4 * vectors(channels);
    let mut out = vec![0.0; values.len() / channels * row];
    for (out, row) in out.chunks_exact_mut(row).zip(values.chunks_exact(channels)) {
        out[..channels].copy_from_slice(row);
    }
    out
}

/// `[rows][4⌈channels/4⌉]` as `[rows][channels]`.
pub fn unpadded(values: &[f64], channels: usize) -> Vec<f64> {
    values.chunks_exact(4 * vectors(channels)).flat_map(|row| &row[..channels]).copied().collect()
}

/// The columns `window` of `[rows][channels]`.
pub fn columns(values: &[f32], channels: usize, window: &std::ops::Range<usize>) -> Vec<f32> {
    values.chunks_exact(channels).flat_map(|row| &row[window.clone()]).copied().collect()
}

pub fn f64s(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&x| f64::from(x)).collect()
}

pub fn magnitudes(values: &[f64]) -> Vec<f64> {
    values.iter().map(|x| x.abs()).collect()
}

pub fn flat(channels: usize) -> Shape {
    Shape { steps: 1, batch: 1, height: 1, width: 1, channels }
}

/// Adds a parameter in its kernel's own layout.
pub fn parameter(r: &mut Recording, data: &[f32]) -> TensorId {
    r.constant(&Arc::new(Constant { name: "parameter".to_owned(), data: data.into() }))
}

/// Adds weights stored as `stored` in their kernel's own layout, a whole number of words.
pub fn packed_weights<W: bytemuck::Pod>(r: &mut Recording, stored: Weights, packed: &[W]) -> TensorId {
    let words = bytemuck::pod_collect_to_vec(packed);
    r.constant_as(&Arc::new(Constant::packed("weights", words)), stored.element(), flat(packed.len()))
}

/// Adds a real tensor, given without padding.
pub fn real(r: &mut Recording, data: &[f32], shape: Shape) -> TensorId {
    let data = padded(data, shape.channels);
    r.constant_as(&Arc::new(Constant { name: "real".to_owned(), data: data.into() }), Element::Real, shape)
}

/// Adds a real tensor, given without padding, whose padding holds `pad`: for ops that must not read it.
pub fn real_padded_with(r: &mut Recording, data: &[f32], shape: Shape, pad: f32) -> TensorId {
    let mut data = padded(data, shape.channels);
    data.chunks_exact_mut(4 * vectors(shape.channels)).for_each(|row| row[shape.channels..].fill(pad));
    r.constant_as(&Arc::new(Constant { name: "real".to_owned(), data: data.into() }), Element::Real, shape)
}

/// Adds packed or ternary spikes.
pub fn packed(r: &mut Recording, data: &[u32], element: Element, shape: Shape) -> TensorId {
    r.constant_as(&Arc::new(Constant::packed("spikes", data.to_vec())), element, shape)
}

/// Adds a tensor that is read back as `name`.
pub fn output(r: &mut Recording, name: &str, element: Element, shape: Shape) -> TensorId {
    let id = r.tensor(name, element, shape);
    r.output(name, &[id]);
    id
}

/// Counts the bits of the spikes `id` as `<name> count`, when the ops that write them are recorded; see [`counts_agree`].
pub fn count(r: &mut Recording, name: &str, id: TensorId) {
    let name = format!("{name} count");
    let counts = output(r, &name, Element::Spikes, flat(32 * PARTIALS));
    r.push(SpikeCountOp { layer: name, input: id, out: counts, slot: 0 });
}

/// What `record` gives: on the host first, then on every adapter, each with its name.
pub fn run(record: impl Fn() -> Recording) -> Vec<(String, Outputs)> {
    let mut executor = Executor::new(record()).unwrap();
    let mut all = vec![("f32 twin".to_owned(), executor.run(&[]).unwrap())];
    assert_eq!(executor.run(&[]).unwrap(), all[0].1, "a second run, in the buffers of the first");
    for context in contexts() {
        let outputs = pollster::block_on(async { Plan::new(context, record()).await?.run(&[]).await });
        let device = format!("{} {:?}", context.name(), context.capabilities());
        let outputs = outputs.unwrap_or_else(|e| panic!("{device}: {e}"));
        all.push((device, outputs));
    }
    all
}

/// What is read back of spikes has no pad bits; the counts of their words show that those are silent.
pub fn counts_agree(all: &[(String, Outputs)], name: &str) {
    for (device, outputs) in all {
        let counted: u64 = words_of(outputs, &format!("{name} count")).iter().sum();
        let fired = signs(outputs, name).iter().filter(|&&s| s != 0).count();
        assert_eq!(counted, fired as u64, "{name} on {device}: spikes in its words, and among its channels");
    }
}

/// A tensor of packed words, each as a number.
pub fn words_of(outputs: &Outputs, name: &str) -> Vec<u64> {
    let bits = signs(outputs, name);
    bits.chunks_exact(32).map(|word| word.iter().enumerate().map(|(i, &b)| (b as u64) << i).sum()).collect()
}

/// Every device gives what the first gave, bit for bit (-0 = 0).
pub fn all_same(all: &[(String, Outputs)]) {
    let (_, first) = &all[0];
    for (device, outputs) in &all[1..] {
        for (a, b) in first.tensors.iter().zip(&outputs.tensors) {
            assert_eq!(a.name, b.name);
            same(&format!("{} on {device}", a.name), &a.values, &b.values);
        }
    }
}

/// On each adapter every variant gives the portable kernel's bits, but for those of `but`.
pub fn variants_same(all: &[(String, Outputs)], but: impl Fn(&Context) -> bool) {
    for (context, (device, outputs)) in contexts().iter().zip(&all[1..]).filter(|(context, _)| !but(context)) {
        let same_adapter = |(other, _): &(&Arc<Context>, _)| other.name() == context.name() && !but(other);
        let first = contexts().iter().zip(&all[1..]).find(same_adapter);
        let (_, (_, first)) = first.unwrap();
        for (a, b) in first.tensors.iter().zip(&outputs.tensors) {
            same(&format!("{} on {device}, and with another variant", a.name), &a.values, &b.values);
        }
    }
}

/// The same values, -0 = 0; the message names the first that differs.
pub fn same(what: &str, a: &Values, b: &Values) {
    let differs = match (a, b) {
        (Values::Real(a), Values::Real(b)) => {
            assert_eq!(a.len(), b.len(), "{what}");
            (0..a.len()).find(|&i| a[i] != b[i]).map(|i| format!("{i}: {} and {}", a[i], b[i]))
        }
        (Values::Spikes(a), Values::Spikes(b)) => {
            assert_eq!(a.len(), b.len(), "{what}");
            (0..a.len()).find(|&i| a[i] != b[i]).map(|i| format!("{i}: {} and {}", a[i], b[i]))
        }
        (Values::Ternary(a), Values::Ternary(b)) => {
            assert_eq!(a.len(), b.len(), "{what}");
            (0..a.len()).find(|&i| a[i] != b[i]).map(|i| format!("{i}: {} and {}", a[i], b[i]))
        }
        _ => Some("of different kinds".to_owned()),
    };
    assert!(differs.is_none(), "{what} differs at {}", differs.unwrap_or_default());
}

pub fn reals<'o>(outputs: &'o Outputs, name: &str) -> &'o [f32] {
    match &outputs.get(name).unwrap_or_else(|| panic!("no output {name}")).values {
        Values::Real(v) => v,
        other => panic!("{name} is {other:?}"),
    }
}

/// Spikes as -1, 0 and 1.
pub fn signs(outputs: &Outputs, name: &str) -> Vec<i8> {
    match &outputs.get(name).unwrap_or_else(|| panic!("no output {name}")).values {
        Values::Spikes(v) => v.iter().map(|&s| s as i8).collect(),
        Values::Ternary(v) => v.clone(),
        Values::Real(_) => panic!("{name} is real"),
    }
}

/// Ternary or binary words `[rows][row]` as -1, 0 and 1.
pub fn signs_of_words(packed: &[u32], element: Element, channels: usize) -> Vec<i8> {
    let plane = words(channels);
    let bit = |row: &[u32], c: usize| (row[c / 32] >> (c % 32) & 1) as i8;
    match element {
        Element::Ternary => packed
            .chunks_exact(2 * plane)
            .flat_map(|row| (0..channels).map(move |c| bit(row, c) - bit(&row[plane..], c)))
            .collect(),
        _ => packed.chunks_exact(plane).flat_map(|row| (0..channels).map(move |c| bit(row, c))).collect(),
    }
}

/// Sums of `outputs` named `name` on every device against the f64 twin's: equal where exact, else within 1e-5 of the sum of the
/// terms' magnitudes.
pub fn reals_agree(all: &[(String, Outputs)], name: &str, kind: Kind, expected: &[f64], terms: &[f64]) {
    for (device, outputs) in all {
        let values = reals(outputs, name);
        assert_eq!(values.len(), expected.len(), "{name} on {device}");
        for (i, &value) in values.iter().enumerate() {
            let margin = if kind == Kind::Dyadic { 0.0 } else { 1e-5 * terms[i] + 1e-30 };
            let error = (f64::from(value) - expected[i]).abs();
            assert!(error <= margin, "{name}[{i}] on {device}: {value} and {} (f64)", expected[i]);
        }
    }
}

/// What a neuron does over time, in f64, and how far an f32 membrane may be from it.
pub struct Membranes<'a> {
    pub neuron: Neuron,
    /// `[x_steps][rows · channels]`.
    pub x: &'a [f64],
    /// The magnitude of the terms of each of `x`; x itself is within 1e-5 of it.
    pub terms: &'a [f64],
    pub steps: usize,
    pub ternary: bool,
}

impl Membranes<'_> {
    /// Spikes `s` `[T][rows · channels]` and, if given, membranes before firing `h` against f64. A neuron that decides otherwise
    /// within the margin of a threshold is not followed any further.
    pub fn agree(&self, what: &str, s: &[i8], h: Option<&[f32]>) {
        let lif: Lif<f64> = (&self.neuron).into();
        let width = s.len() / self.steps;
        let x_steps = self.x.len() / width;
        let mut near_ties = 0;
        for i in 0..width {
            let (mut v, mut error) = (lif.v_reset, 0.0f64);
            for t in 0..self.steps {
                let at = t.min(x_steps - 1) * width + i;
                let expected = lif.charge(v, self.x[at]);
                error += 1e-5 * self.terms[at]
                    + 1e-6 * (self.x[at].abs() + v.abs() + expected.abs() + lif.v_reset.abs() + lif.v_threshold);
                if let Some(h) = h {
                    let h = f64::from(h[t * width + i]);
                    assert!((h - expected).abs() <= error, "{what}: h[{t}][{i}] = {h}, in f64 {expected}");
                }
                let (up, down) = lif.fire(expected, self.ternary);
                if s[t * width + i] != i8::from(up) - i8::from(down) {
                    let mut distance = (expected - lif.v_threshold).abs();
                    if self.ternary {
                        distance = distance.min((expected + lif.v_threshold).abs());
                    }
                    assert!(
                        distance <= error,
                        "{what}: s[{t}][{i}] = {} at h = {expected}, threshold {}",
                        s[t * width + i],
                        lif.v_threshold
                    );
                    near_ties += 1;
                    break;
                }
                v = lif.reset(expected, up, down);
                if (up || down) && !lif.soft {
                    error = 0.0;
                }
            }
        }
        assert!(near_ties <= 3 + width / 50, "{what}: {near_ties} of {width} neurons near a tie");
    }
}

/// `gradient` of `loss` at `x`, every entry against central differences in f64, within 1e-6 of the largest.
pub fn differences_agree(what: &str, x: &[f64], gradient: &[f64], loss: impl Fn(&[f64]) -> f64) {
    const STEP: f64 = 1e-5;
    assert_eq!(x.len(), gradient.len(), "{what}");
    let largest = gradient.iter().fold(0.0f64, |m, g| m.max(g.abs()));
    let mut moved = x.to_vec();
    for i in 0..x.len() {
        let mut at = |step: f64| {
            moved[i] = x[i] + step;
            let loss = loss(&moved);
            moved[i] = x[i];
            loss
        };
        let expected = (at(STEP) - at(-STEP)) / (2.0 * STEP);
        let error = (gradient[i] - expected).abs();
        assert!(error <= 1e-6 * largest + 1e-9, "{what}[{i}]: {} and {expected} (differences)", gradient[i]);
    }
}

/// `Σ a b`, a loss whose gradient with respect to `a` is `b`.
pub fn inner(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Values on every device against f64, each within `margin` of it.
pub fn within(all: &[(String, Outputs)], name: &str, expected: &[f64], margin: impl Fn(usize) -> f64) {
    for (device, outputs) in all {
        let values = reals(outputs, name);
        assert_eq!(values.len(), expected.len(), "{name} on {device}");
        for (i, &value) in values.iter().enumerate() {
            let error = (f64::from(value) - expected[i]).abs();
            assert!(
                error <= margin(i),
                "{name}[{i}] on {device}: {value} and {} (f64), margin {}",
                expected[i],
                margin(i)
            );
        }
    }
}

/// Adds a flat tensor that is read back as `name` and holds `data` when the next op runs, for ops that work in place.
pub fn in_place(r: &mut Recording, name: &str, data: &[f32]) -> TensorId {
    in_place_of(r, name, data, flat(data.len()))
}

/// As [`in_place`], of any shape.
pub fn in_place_of(r: &mut Recording, name: &str, data: &[f32], shape: Shape) -> TensorId {
    let out = output(r, name, Element::Real, shape);
    let (input, residual) = (real(r, data, shape), real(r, &vec![0.0; data.len()], shape));
    r.push(ResidualAddOp { layer: format!("start of {name}"), input, residual, out });
    out
}

/// A batch norm of `channels`, for exact arithmetic of values on a grid of 1/4 as results on a grid of 1/16.
pub struct BatchNormData {
    pub mean: Vec<f32>,
    pub inv_std: Vec<f32>,
    pub gamma: Vec<f32>,
    pub beta: Vec<f32>,
}

impl BatchNormData {
    pub fn new(data: &mut Data, channels: usize) -> Self {
        BatchNormData {
            mean: data.reals(channels, -4..=4, 0.25),
            inv_std: data.reals(channels, 1..=4, 0.5),
            gamma: data.reals(channels, -3..=4, 0.5),
            beta: data.reals(channels, -16..=16, 0.0625),
        }
    }

    fn all(&self) -> [&[f32]; 4] {
        [&self.mean, &self.inv_std, &self.gamma, &self.beta]
    }

    /// Its tensors, of a window of the channels.
    pub fn record(&self, r: &mut Recording, window: std::ops::Range<usize>) -> BatchNorm {
        let [mean, inv_std, gamma, beta] = self.all().map(|v| real(r, &v[window.clone()], flat(window.len())));
        BatchNorm { mean, inv_std, gamma, beta }
    }

    /// The result for `y` in f64, and the magnitude of its terms.
    pub fn apply(&self, y: f64, channel: usize) -> (f64, f64) {
        let [mean, inv_std, gamma, beta] = self.all().map(|v| f64::from(v[channel]));
        let terms = (y.abs() + mean.abs()) * inv_std * gamma.abs() + beta.abs();
        ((y - mean) * inv_std * gamma + beta, terms)
    }

    /// The values in f64, `[mean, inv_std, gamma, beta]`, padded.
    pub fn wide(&self) -> [Vec<f64>; 4] {
        self.all().map(|v| f64s(&padded(v, v.len())))
    }
}

/// Lengths of flat tensors: a few elements, or several workgroups, with every tail.
pub fn lengths() -> impl Strategy<Value = usize> {
    prop_oneof![1..=9usize, 1..=3000usize]
}
