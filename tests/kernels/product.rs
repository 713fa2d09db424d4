//! `linear_spike` and `conv3x3_spike`, which differ in their taps alone, with f32, with f16 and with int8 weights: every epilogue,
//! fused and unfused.

use std::ops::Range;

use half::f16;
use proptest::prelude::*;
use spikeshade::gpu::measure::{SAMPLES, Size, Task};
use spikeshade::gpu::{Capabilities, ForGpus, Measured};
use spikeshade::kernels::Op;
use spikeshade::kernels::conv3x3_spike::Conv3x3Spike;
use spikeshade::kernels::conv3x3_spike_f16::Conv3x3SpikeF16;
use spikeshade::kernels::conv3x3_spike_int8::Conv3x3SpikeInt8;
use spikeshade::kernels::lif::LifOp;
use spikeshade::kernels::linear_spike::LinearSpike;
use spikeshade::kernels::linear_spike_f16::LinearSpikeF16;
use spikeshade::kernels::linear_spike_int8::LinearSpikeInt8;
use spikeshade::kernels::neuron::Neuron;
use spikeshade::kernels::product::{Epilogue, SpikeProduct, pack_scale_shift, pack_weights};
use spikeshade::kernels::residual_add::ResidualAddOp;
use spikeshade::recording::{Recording, TensorId};
use spikeshade::reference::Lif;
use spikeshade::reference::product::{Product, Weight};
use spikeshade::tensor::{Element, Shape, words};
use spikeshade::weights::{Weights, round_to_f16};

use crate::harness::*;

#[derive(Debug, Clone)]
struct Case {
    kind: Kind,
    seed: u64,
    input: Shape,
    outputs: usize,
    /// Where the output channels are cut in two windows, in 32s.
    cut: usize,
    rate: f64,
    neuron: NeuronChoice,
}

fn cases(most: usize) -> impl Strategy<Value = Case> {
    let channels = 1..=100usize;
    (kinds(), any::<u64>(), grids(most), channels.clone(), channels, 0..4usize, rates(), neurons()).prop_map(
        |(kind, seed, grid, inputs, outputs, cut, rate, neuron)| Case {
            kind,
            seed,
            input: grid.with_channels(inputs),
            outputs,
            cut,
            rate,
            neuron,
        },
    )
}

/// Weights as an op stores them.
pub trait Stored: Copy + Default {
    /// What the f64 twin takes them as.
    type Exact: Weight<f64>;
    /// Whether sums are exact and products with the scales too, so that every device gives the same bits.
    const EXACT: bool;

    /// Weights of `outputs` channels of `k` inputs, with which |y| < 2^9 in units of 2^-4 on the grid.
    fn draw(data: &mut Data, outputs: usize, k: usize) -> Vec<Self>;
    fn scales(data: &mut Data, outputs: usize) -> Vec<f32>;
    fn value(self) -> f64;
    fn magnitude(self) -> Self;
    fn exact(packed: Vec<Self>) -> Vec<Self::Exact>;
    fn parameter(r: &mut Recording, packed: Vec<Self>) -> TensorId;
    fn push(r: &mut Recording, taps: usize, product: SpikeProduct);

    /// The f32 weights that these are once unpacked, if the sums are theirs to the bit.
    fn unpacked(_: &[Self]) -> Option<Vec<f32>> {
        None
    }
}

impl Stored for f32 {
    type Exact = f64;
    const EXACT: bool = false;

    fn draw(data: &mut Data, outputs: usize, k: usize) -> Vec<f32> {
        data.reals(outputs * k, -2..=2, 0.5)
    }

    fn scales(data: &mut Data, outputs: usize) -> Vec<f32> {
        match data.kind {
            Kind::Dyadic => data.one_of(outputs, &[0.125, -0.125, 0.0625, 0.0]),
            Kind::Float => data.reals(outputs, -4..=8, 0.1),
        }
    }

    fn value(self) -> f64 {
        self.into()
    }

    fn magnitude(self) -> f32 {
        self.abs()
    }

    fn exact(packed: Vec<f32>) -> Vec<f64> {
        f64s(&packed)
    }

    fn parameter(r: &mut Recording, packed: Vec<f32>) -> TensorId {
        parameter(r, &packed)
    }

    fn push(r: &mut Recording, taps: usize, product: SpikeProduct) {
        match taps {
            9 => r.push(Conv3x3Spike(product)),
            _ => r.push(LinearSpike(product)),
        }
    }
}

impl Stored for f16 {
    type Exact = f16;
    const EXACT: bool = false;

    fn draw(data: &mut Data, outputs: usize, k: usize) -> Vec<f16> {
        round_to_f16(&f32::draw(data, outputs, k), &vec![1.0; outputs]).unwrap().weights
    }

    /// Powers of two: products with them are exact, so that it is the same whether a device fuses them with the shifts.
    fn scales(data: &mut Data, outputs: usize) -> Vec<f32> {
        data.one_of(outputs, &[0.125, -0.125, 0.0625, 0.0])
    }

    fn value(self) -> f64 {
        self.into()
    }

    fn magnitude(self) -> f16 {
        f16::from_bits(self.to_bits() & 0x7fff)
    }

    fn exact(packed: Vec<f16>) -> Vec<f16> {
        packed
    }

    fn parameter(r: &mut Recording, packed: Vec<f16>) -> TensorId {
        packed_weights(r, Weights::F16, &packed)
    }

    fn push(r: &mut Recording, taps: usize, product: SpikeProduct) {
        match taps {
            9 => r.push(Conv3x3SpikeF16(product)),
            _ => r.push(LinearSpikeF16(product)),
        }
    }

    fn unpacked(weights: &[f16]) -> Option<Vec<f32>> {
        Some(weights.iter().map(|w| w.to_f32()).collect())
    }
}

impl Stored for i8 {
    type Exact = i8;
    const EXACT: bool = true;

    fn draw(data: &mut Data, outputs: usize, k: usize) -> Vec<i8> {
        let most = if data.kind == Kind::Dyadic { 2 } else { 127 };
        // Of some channels all weights are silent or at the end of their range.
        let channels = data.integers(outputs, 0..=5);
        channels
            .into_iter()
            .flat_map(|of_channel| match (data.kind, of_channel) {
                (Kind::Float, 0) => vec![0; k],
                (Kind::Float, 1) => vec![127; k],
                (Kind::Float, 2) => vec![-127; k],
                _ => data.integers(k, -most..=most).into_iter().map(|q| q as i8).collect(),
            })
            .collect()
    }

    fn scales(data: &mut Data, outputs: usize) -> Vec<f32> {
        match data.kind {
            Kind::Dyadic => data.one_of(outputs, &[0.0625, -0.0625, 0.03125, 0.0]),
            // Six digits beside the 17 of the largest sum.
            Kind::Float => data.integers(outputs, -20..=63).into_iter().map(|m| m as f32 / 16_384.0).collect(),
        }
    }

    fn value(self) -> f64 {
        self.into()
    }

    fn magnitude(self) -> i8 {
        self.abs()
    }

    fn exact(packed: Vec<i8>) -> Vec<i8> {
        packed
    }

    fn parameter(r: &mut Recording, packed: Vec<i8>) -> TensorId {
        packed_weights(r, Weights::Int8, &packed)
    }

    fn push(r: &mut Recording, taps: usize, product: SpikeProduct) {
        match taps {
            9 => r.push(Conv3x3SpikeInt8(product)),
            _ => r.push(LinearSpikeInt8(product)),
        }
    }
}

/// A layer's inputs, and its parameters but for the weights.
struct Layer {
    input: Shape,
    taps: usize,
    spikes: Vec<u32>,
    scale: Vec<f32>,
    shift: Vec<f32>,
    residual: Vec<f32>,
    neuron: Neuron,
    /// Windows of output channels.
    windows: Vec<Range<usize>>,
}

impl Layer {
    /// Every epilogue, fused and one stage an op.
    fn record<W: Stored>(&self, weights: &[W]) -> Recording {
        let &Layer { input, taps, neuron, .. } = self;
        let shape = input.with_channels(self.scale.len());
        let mut r = Recording::default();
        let spikes = packed(&mut r, &self.spikes, Element::Spikes, input);
        let u = real(&mut r, &self.residual, shape);
        let y = output(&mut r, "y", Element::Real, shape);
        let relu = output(&mut r, "relu", Element::Real, shape);
        let sum = output(&mut r, "sum", Element::Real, shape);
        let binary = output(&mut r, "binary", Element::Spikes, shape);
        let ternary = output(&mut r, "ternary", Element::Ternary, shape);
        for window in &self.windows {
            let first_channel = window.start;
            let weights = W::parameter(&mut r, pack_weights(weights, window.clone(), input.channels, taps));
            let scale_shift = parameter(&mut r, &pack_scale_shift(&self.scale, &self.shift, window.clone()));
            for epilogue in [
                Epilogue::Real { out: y, first_channel, relu: false },
                Epilogue::Real { out: relu, first_channel, relu: true },
                Epilogue::Residual { residual: u, out: sum, first_channel },
                Epilogue::Fire { out: binary, neuron, first_channel },
                Epilogue::Fire { out: ternary, neuron, first_channel },
            ] {
                let channels_out = window.len();
                let layer = format!("{epilogue:?}");
                let product = SpikeProduct { layer, input: spikes, weights, scale_shift, channels_out, epilogue };
                W::push(&mut r, taps, product);
            }
        }
        count(&mut r, "binary", binary);
        count(&mut r, "ternary", ternary);
        let unfused = output(&mut r, "unfused sum", Element::Real, shape);
        r.push(ResidualAddOp { layer: "add".to_owned(), input: y, residual: u, out: unfused });
        for (name, element) in [("unfused binary", Element::Spikes), ("unfused ternary", Element::Ternary)] {
            let out = output(&mut r, name, element, shape);
            let layer = name.to_owned();
            r.push(LifOp { layer, input: y, norm: None, out, h: None, neuron, first_channel: 0 });
        }
        r
    }
}

/// Runs `count` cases with that many taps; `most` bounds the tokens over all timesteps.
pub fn check_products<W: Stored>(taps: usize, count: u32, most: usize) {
    check(count, cases(most), |case| check_case::<W>(taps, case));
}

fn check_case<W: Stored>(taps: usize, case: Case) {
    let Case { kind, input, outputs, .. } = case;
    let mut data = Data::new(case.seed, kind);
    let inputs = input.channels;
    let shape = input.with_channels(outputs);
    let spikes = data.spikes(input, case.rate);
    let weights = W::draw(&mut data, outputs, inputs * taps);
    let scale = W::scales(&mut data, outputs);
    let shift = data.reals(outputs, -16..=32, 0.0625);
    let residual = data.reals(shape.steps * shape.rows() * outputs, -64..=64, 0.0625);
    // The grid leaves the membrane 9 bits.
    let neuron = data.neuron(case.neuron, shape.steps, 9);

    let windows = cut(outputs, case.cut);
    let layer = Layer { input, taps, spikes, scale, shift, residual, neuron, windows };
    let all = run(|| layer.record(&weights));
    counts_agree(&all, "binary");
    counts_agree(&all, "ternary");

    if let Some(floats) = W::unpacked(&weights) {
        let floats = run(|| layer.record(&floats));
        for ((device, a), (_, b)) in all.iter().zip(&floats) {
            for (a, b) in a.tensors.iter().zip(&b.tensors) {
                same(&format!("{} on {device}, and of f32 weights", a.name), &a.values, &b.values);
            }
        }
    }

    // The twin in f64, window by window as the kernel goes, and the magnitudes of its terms.
    let spikes = &layer.spikes[..];
    let [scale, shift, residual] = [&layer.scale, &layer.shift, &layer.residual].map(|x| f64s(x));
    let of = |weights: &[W], scale: &[f64], shift: &[f64], relu: bool, residual: Option<&[f64]>| {
        let f32s = |x: &[f64]| x.iter().map(|&x| x as f32).collect::<Vec<f32>>();
        let residual = residual.map(|u| f64s(&padded(&f32s(u), outputs)));
        let row = outputs.next_multiple_of(4);
        let mut out = vec![0.0; shape.steps * shape.rows() * row];
        let packed_weights = W::exact(pack_weights(weights, 0..outputs, inputs, taps));
        let scale_shift = f64s(&pack_scale_shift(&f32s(scale), &f32s(shift), 0..outputs));
        let product = Product {
            spikes,
            shape: input,
            taps,
            weights: &packed_weights[..],
            scale_shift: &scale_shift[..],
            channels_out: outputs,
        };
        product.real(row, 0, relu, residual.as_deref(), &mut out);
        let mut packed = Vec::new();
        let lif: Lif<f64> = (&neuron).into();
        for planes in [1, 2] {
            let row = planes * words(outputs);
            let mut out = vec![0; shape.steps * shape.rows() * row];
            product.fire(&lif, row, 0, (planes == 2).then(|| words(outputs)), &mut out);
            packed.push(out);
        }
        (unpadded(&out, outputs), packed)
    };
    let (y, packed) = of(&weights, &scale, &shift, false, None);
    let (relu, _) = of(&weights, &scale, &shift, true, None);
    let (sum, _) = of(&weights, &scale, &shift, false, Some(&residual));
    let weights_: Vec<W> = weights.iter().map(|w| w.magnitude()).collect();
    let [scale_, shift_, residual_] = [&scale, &shift, &residual].map(|x| magnitudes(x));
    let (terms, _) = of(&weights_, &scale_, &shift_, false, Some(&residual_));
    reals_agree(&all, "y", kind, &y, &terms);
    reals_agree(&all, "relu", kind, &relu, &terms);
    reals_agree(&all, "sum", kind, &sum, &terms);
    reals_agree(&all, "unfused sum", kind, &sum, &terms);

    // The table's sums of three weights may round differently.
    variants_same(&all, crate::common::has_tables);

    if kind == Kind::Dyadic {
        all_same(&all);
        let values: Vec<f64> = weights.iter().map(|w| w.value()).collect();
        assert_eq!(y, by_definition(input, taps, spikes, &values, &scale, &shift), "the f64 twin");
        let expected = [
            signs_of_words(&packed[0], Element::Spikes, outputs),
            signs_of_words(&packed[1], Element::Ternary, outputs),
        ];
        for (device, outputs) in &all {
            for (name, expected) in ["binary", "ternary"].into_iter().zip(&expected) {
                let fused = signs(outputs, name);
                assert!(fused == *expected, "{name} on {device} differs from the f64 twin");
                assert!(fused == signs(outputs, &format!("unfused {name}")), "{name}, fused and not, on {device}");
            }
            same(
                &format!("sum on {device}"),
                &outputs.get("sum").unwrap().values,
                &outputs.get("unfused sum").unwrap().values,
            );
        }
    }
    if W::EXACT {
        // Variants too.
        all_same(&all);
        // Rounded once.
        let once: Vec<f32> = y.iter().map(|&y| y as f32).collect();
        all.iter().for_each(|(device, outputs)| assert_eq!(reals(outputs, "y"), once, "y on {device}"));
    }
    // A tensor's channels and timesteps are one neuron's input each.
    let (terms, _) = of(&weights_, &scale_, &shift_, false, None);
    for (device, outputs) in &all {
        for (name, ternary) in
            [("binary", false), ("ternary", true), ("unfused binary", false), ("unfused ternary", true)]
        {
            let membranes = Membranes { neuron, x: &y, terms: &terms, steps: shape.steps, ternary };
            membranes.agree(&format!("{name} on {device}"), &signs(outputs, name), None);
        }
    }
}

/// `y[t, p, o] = scale[o] · Σ_{tap, i} W[o, i, tap] s[t, p + tap, i] + shift[o]`, term by term.
pub fn by_definition(
    input: Shape,
    taps: usize,
    spikes: &[u32],
    weights: &[f64],
    scale: &[f64],
    shift: &[f64],
) -> Vec<f64> {
    let Shape { height, width, channels, .. } = input;
    let (row, reach) = (words(channels), if taps == 9 { 1 } else { 0 });
    let mut all = Vec::new();
    for (image, line, column) in (0..input.steps * input.batch)
        .flat_map(|b| (0..height).flat_map(move |y| (0..width).map(move |x| (b, y as isize, x as isize))))
    {
        for (o, weights) in weights.chunks_exact(channels * taps).enumerate() {
            let mut sum = 0.0;
            for (tap, (dy, dx)) in (-reach..=reach).flat_map(|y| (-reach..=reach).map(move |x| (y, x))).enumerate() {
                let (y, x) = (line + dy, column + dx);
                if y < 0 || x < 0 || y >= height as isize || x >= width as isize {
                    continue;
                }
                let token = &spikes[((image * height + y as usize) * width + x as usize) * row..][..row];
                for i in (0..channels).filter(|i| token[i / 32] >> (i % 32) & 1 == 1) {
                    sum += weights[i * taps + tap];
                }
            }
            all.push(sum * scale[o] + shift[o]);
        }
    }
    all
}

#[test]
fn variants_suit_the_device() {
    let mut r = Recording::default();
    let shape = Shape { steps: 5, batch: 1, height: 2, width: 3, channels: 33 };
    let input = packed(&mut r, &[0; 60], Element::Spikes, shape);
    let weights = parameter(&mut r, &pack_weights(&[0.0; 9 * 33 * 40], 0..40, 33, 9));
    let scale_shift = parameter(&mut r, &pack_scale_shift(&[0.0; 40], &[0.0; 40], 0..40));
    let out = output(&mut r, "y", Element::Real, shape.with_channels(40));
    let epilogue = Epilogue::Real { out, first_channel: 0, relu: false };
    let product = SpikeProduct { layer: String::new(), input, weights, scale_shift, channels_out: 40, epilogue };
    let ops: [Box<dyn Op>; 2] = [Box::new(LinearSpike(product.clone())), Box::new(Conv3x3Spike(product))];
    for op in &ops {
        let on = |software, subgroup, for_gpus| {
            op.dispatch_on(&r, Capabilities { software, subgroup, for_gpus }).kernel.stem
        };
        let chosen = |software, subgroup| on(software, subgroup, ForGpus::Never);
        let portable = op.kernel().stem;
        let table = format!("{portable}.table");
        // No lane for each of eight sums, or a GPU, whose shuffles are no cheaper than its loads.
        for (software, subgroup) in [(true, None), (true, Some((4, 4))), (true, Some((4, 32))), (false, Some((32, 32)))]
        {
            assert_eq!(chosen(software, subgroup), portable, "{software} {subgroup:?}");
        }
        for subgroup in [(8, 8), (16, 16)] {
            assert_eq!(chosen(true, Some(subgroup)), table);
        }
        // One workgroup, and at least nine words of inputs where there are nine taps.
        let events = format!("{portable}.events");
        let task = if portable == "linear_spike" { Task::Linear } else { Task::Conv3x3 };
        let measured = |thousandths: &dyn Fn(Size) -> u32| ForGpus::Measured(Measured(SAMPLES.map(thousandths)));
        assert_eq!(on(false, Some((32, 32)), ForGpus::Always), events);
        assert_eq!(on(false, None, measured(&|s| if s.task == task { 500 } else { 2000 })), events);
        assert_eq!(on(false, None, measured(&|s| if s.task == task { 2000 } else { 500 })), portable);
        assert_eq!(on(false, None, measured(&|s| if s.groups == 16 { 500 } else { 2000 })), events);
        assert_eq!(on(false, None, measured(&|s| if s.groups == 16 { 2000 } else { 500 })), portable);
        assert_eq!(on(true, Some((8, 8)), ForGpus::Always), table);
        for context in contexts() {
            let dispatch = op.dispatch_on(&r, context.capabilities());
            let expected = match context.capabilities().for_gpus {
                _ if crate::common::has_tables(context) => &table[..],
                ForGpus::Always => &events,
                _ => portable,
            };
            assert_eq!(dispatch.kernel.stem, expected, "{}", context.name());
            // Bindings are the portable kernel's: tensors live and die alike.
            assert_eq!(dispatch.bindings, op.dispatch(&r).bindings);
        }
    }
}
