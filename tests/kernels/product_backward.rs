//! The gradients of `linear_spike` and `conv3x3_spike`, which differ in their taps alone.

use proptest::prelude::*;
use spikeshade::kernels::Op;
use spikeshade::kernels::conv3x3_spike_backward::{Conv3x3SpikeCombine, Conv3x3SpikeInput, Conv3x3SpikeWeights};
use spikeshade::kernels::linear_spike_backward::{LinearSpikeCombine, LinearSpikeInput, LinearSpikeWeights};
use spikeshade::kernels::product::{pack_scale_shift, pack_weights};
use spikeshade::kernels::product_backward::{CombineBackward, InputBackward, WeightsBackward, weights_len};
use spikeshade::recording::Recording;
use spikeshade::reference::product::Product;
use spikeshade::reference::product_backward::{Gradient, combine, input, weights};
use spikeshade::tensor::{Element, Shape, vectors, words};

use crate::harness::*;

#[derive(Debug, Clone)]
struct Case {
    kind: Kind,
    seed: u64,
    shape: Shape,
    outputs: usize,
    /// Where outputs and inputs are cut in two windows, in 32s.
    cuts: (usize, usize),
    rate: f64,
    splits: usize,
}

/// Runs `count` cases with that many taps; `most` bounds the tokens over all timesteps.
pub fn check_gradients(taps: usize, count: u32, most: usize) {
    let channels = 1..=100usize;
    let cases =
        (kinds(), any::<u64>(), grids(most), channels.clone(), channels, (0..4usize, 0..4usize), rates(), 1..=5usize)
            .prop_map(|(kind, seed, grid, inputs, outputs, cuts, rate, splits)| Case {
                kind,
                seed,
                shape: grid.with_channels(inputs),
                outputs,
                cuts,
                rate,
                splits,
            });
    check(count, cases, |case| check_case(taps, case));
}

/// `a · b`.
pub fn inner(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Both sides of an adjoint identity, whose terms may cancel, to f64's precision.
pub fn adjoint(what: &str, a: f64, b: f64, terms: f64) {
    assert!((a - b).abs() <= 1e-12 * terms.abs() + 1e-300, "{what}: {a} and {b}");
}

fn push(r: &mut Recording, taps: usize, linear: impl Op + 'static, conv: impl Op + 'static) {
    if taps == 9 { r.push(conv) } else { r.push(linear) }
}

fn check_case(taps: usize, case: Case) {
    let Case { kind, shape, outputs, splits, .. } = case;
    let inputs = shape.channels;
    let rows = shape.steps * shape.rows();
    let chunks = taps * words(inputs);
    let mut data = Data::new(case.seed, kind);
    let spikes = data.spikes(shape, case.rate);
    let w = data.reals(outputs * inputs * taps, -4..=4, 0.25);
    let g = data.reals(rows * outputs, -8..=8, 0.125);
    let (out_windows, in_windows) = (cut(outputs, case.cuts.0), cut(inputs, case.cuts.1));

    let all = run(|| {
        let mut r = Recording::default();
        let spikes = packed(&mut r, &spikes, Element::Spikes, shape);
        let gradient = real_padded_with(&mut r, &g, shape.with_channels(outputs), f32::NAN);
        let outs: Vec<_> =
            in_windows.iter().map(|i| r.tensor("g_s", Element::Real, shape.with_channels(i.len()))).collect();
        for (n, window) in out_windows.iter().enumerate() {
            let (layer, first_channel, channels_out) = ("fc".to_owned(), window.start, window.len());
            let len = weights_len(channels_out, chunks);
            let partials = output(&mut r, &format!("partials{n}"), Element::Real, flat(splits * len));
            let sum = output(&mut r, &format!("g_w{n}"), Element::Real, flat(len));
            let op = WeightsBackward {
                layer: layer.clone(),
                input: spikes,
                gradient,
                first_channel,
                channels_out,
                splits,
                out: partials,
            };
            push(&mut r, taps, LinearSpikeWeights(op.clone()), Conv3x3SpikeWeights(op));
            let op = CombineBackward { layer: layer.clone(), partials, splits, out: sum };
            push(&mut r, taps, LinearSpikeCombine(op.clone()), Conv3x3SpikeCombine(op));
            let weights = parameter(&mut r, &pack_weights(&w, window.clone(), inputs, taps));
            for (in_window, &out) in in_windows.iter().zip(&outs) {
                let op = InputBackward {
                    layer: layer.clone(),
                    gradient,
                    first_channel,
                    channels_out,
                    weights,
                    channels_in: inputs,
                    first_input: in_window.start,
                    out,
                    accumulate: n > 0,
                };
                push(&mut r, taps, LinearSpikeInput(op.clone()), Conv3x3SpikeInput(op));
            }
        }
        r.output("g_s", &outs);
        r
    });
    if kind == Kind::Dyadic {
        all_same(&all);
    }

    // The twin in f64, and the magnitudes of its terms.
    let g64 = f64s(&padded(&g, outputs));
    fn gradient_of(values: &[f64], channels_out: usize) -> Gradient<'_, f64> {
        Gradient { values, row: 4 * vectors(channels_out), first_channel: 0, channels_out }
    }
    let weights_of = |g: &[f64], splits: usize| {
        let mut partials = vec![0.0; splits * weights_len(outputs, chunks)];
        weights(gradient_of(g, outputs), &spikes, shape, taps, splits, &mut partials);
        let mut sum = vec![0.0; weights_len(outputs, chunks)];
        combine(&partials, &mut sum);
        (partials, sum)
    };
    let input_of = |g: &[f64], w: &[f64]| {
        let mut out = vec![0.0; rows * 4 * vectors(inputs)];
        input(gradient_of(g, outputs), w, shape, taps, inputs, 0, false, &mut out);
        unpadded(&out, inputs)
    };
    let w64 = f64s(&pack_weights(&w, 0..outputs, inputs, taps));
    let (partials, g_w) = weights_of(&g64, splits);
    let (partial_terms, g_w_terms) = weights_of(&magnitudes(&g64), splits);
    let g_s = input_of(&g64, &w64);
    // A window's weights are a slice of all of them.
    let len = weights_len(outputs, chunks);
    for (n, window) in out_windows.iter().enumerate() {
        let slice = weights_len(window.start, chunks)..weights_len(window.end, chunks);
        reals_agree(&all, &format!("g_w{n}"), kind, &g_w[slice.clone()], &g_w_terms[slice.clone()]);
        let of =
            |all: &[f64]| all.chunks_exact(len).flat_map(|split| &split[slice.clone()]).copied().collect::<Vec<_>>();
        reals_agree(&all, &format!("partials{n}"), kind, &of(&partials), &of(&partial_terms));
    }
    reals_agree(&all, "g_s", kind, &g_s, &input_of(&magnitudes(&g64), &magnitudes(&w64)));

    // <g, J w> = <Jᵀ g, w> = <Jᵀ g, s>, for any other weights, too: the product is linear in each factor.
    let other = data.reals(w.len(), -4..=4, 0.3);
    let product = |w: &[f32]| {
        let mut y = vec![0.0; rows * 4 * vectors(outputs)];
        let ones = f64s(&pack_scale_shift(&vec![1.0; outputs], &vec![0.0; outputs], 0..outputs));
        let weights = f64s(&pack_weights(w, 0..outputs, inputs, taps));
        let product =
            Product { spikes: &spikes, shape, taps, weights: &weights, scale_shift: &ones, channels_out: outputs };
        product.real(4 * vectors(outputs), 0, false, None, &mut y);
        unpadded(&y, outputs)
    };
    let g = f64s(&g);
    let terms = inner(&g_w_terms, &magnitudes(&w64)).max(inner(&g_w_terms, &vec![1.0; g_w_terms.len()]));
    adjoint("g_w", inner(&g, &product(&w)), inner(&g_w, &w64), terms);
    let other64 = f64s(&pack_weights(&other, 0..outputs, inputs, taps));
    adjoint("g_w, other weights", inner(&g, &product(&other)), inner(&g_w, &other64), 4.0 * terms);
    let s: Vec<f64> = signs_of_words(&spikes, Element::Spikes, inputs).iter().map(|&s| f64::from(s)).collect();
    adjoint("g_s", inner(&g, &product(&w)), inner(&g_s, &s), terms);
}
