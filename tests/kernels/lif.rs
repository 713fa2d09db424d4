use proptest::prelude::*;
use spikeshade::kernels::batch_norm::BatchNorm;
use spikeshade::kernels::bn_apply::BnApplyOp;
use spikeshade::kernels::lif::LifOp;
use spikeshade::recording::Recording;
use spikeshade::reference::lif::{Input, Window, lif};
use spikeshade::tensor::{Element, words};

use crate::harness::*;

#[test]
fn agrees_with_its_twin() {
    let cases = (kinds(), any::<u64>(), grids(1500), 1..=100usize, 0..4usize, neurons(), any::<bool>());
    check(48, cases, |(kind, seed, grid, channels, at, choice, still)| {
        let mut data = Data::new(seed, kind);
        let shape = grid.with_channels(channels);
        let steps = shape.steps;
        // A still input is the same at every timestep.
        let x_shape = if still { shape.with_steps(1) } else { shape };
        let x = data.reals(x_shape.steps * x_shape.rows() * channels, -40..=64, 0.0625);
        let neuron = data.neuron(choice, steps, 15);
        let windows = cut(channels, at);
        let record = || {
            let mut r = Recording::default();
            for (name, element, traced) in [
                ("binary", Element::Spikes, false),
                ("ternary", Element::Ternary, false),
                ("binary traced", Element::Spikes, true),
                ("ternary traced", Element::Ternary, true),
            ] {
                let out = output(&mut r, name, element, shape);
                let mut traces = Vec::new();
                for window in &windows {
                    let input = real(&mut r, &columns(&x, channels, window), x_shape.with_channels(window.len()));
                    let h = traced.then(|| r.tensor("h", Element::Real, shape.with_channels(window.len())));
                    traces.extend(h);
                    let layer = name.to_owned();
                    r.push(LifOp { layer, input, norm: None, out, h, neuron, first_channel: window.start });
                }
                if traced {
                    r.output(format!("{name} h"), &traces);
                }
                count(&mut r, name, out);
            }
            r
        };
        let all = run(record);
        variants_same(&all, |_| false);

        let wide = f64s(&x);
        for (name, element) in [("binary", Element::Spikes), ("ternary", Element::Ternary)] {
            let traced = format!("{name} traced");
            counts_agree(&all, name);
            counts_agree(&all, &traced);
            let ternary = element == Element::Ternary;
            for (device, outputs) in &all {
                let s = signs(outputs, name);
                assert!(s == signs(outputs, &traced), "{name} on {device}: with and without a trace");
                let h = reals(outputs, &format!("{traced} h"));
                let membranes = Membranes { neuron, x: &wide, terms: &vec![0.0; wide.len()], steps, ternary };
                membranes.agree(&format!("{name} on {device}"), &s, Some(h));
            }
            if kind == Kind::Dyadic {
                let row = words(channels) * if ternary { 2 } else { 1 };
                let mut s = vec![0; steps * shape.rows() * row];
                let mut h = vec![0.0; steps * shape.rows() * channels.next_multiple_of(4)];
                let window = Window { row, first_word: 0, minus_plane: ternary.then(|| words(channels)) };
                let x = f64s(&padded(&x, channels));
                let input = Input { x: &x, shape: x_shape, norm: None };
                lif(&input, steps, &(&neuron).into(), window, &mut s, Some(&mut h));
                let (s, h) = (signs_of_words(&s, element, channels), unpadded(&h, channels));
                for (device, outputs) in &all {
                    assert!(signs(outputs, name) == s, "{name} on {device} differs from the f64 twin");
                }
                reals_agree(&all, &format!("{traced} h"), kind, &h, &[]);
            }
        }
        if kind == Kind::Dyadic {
            all_same(&all);
        }
    });
}

#[test]
fn applies_batch_norm_as_an_op_of_its_own_does() {
    let cases = (kinds(), any::<u64>(), grids(900), 1..=100usize, 0..4usize, neurons(), any::<bool>());
    check(32, cases, |(kind, seed, grid, channels, at, choice, still)| {
        let mut data = Data::new(seed, kind);
        let shape = grid.with_channels(channels);
        let steps = shape.steps;
        let y_shape = if still { shape.with_steps(1) } else { shape };
        let y = data.reals(y_shape.steps * y_shape.rows() * channels, -20..=20, 0.25);
        let norm = BatchNormData::new(&mut data, channels);
        let neuron = data.neuron(choice, steps, 12);
        let windows = cut(channels, at);
        let forms = [("binary", Element::Spikes), ("ternary", Element::Ternary)];
        let all = run(|| {
            let mut r = Recording::default();
            for (name, element) in forms {
                for applied in [false, true] {
                    let name = if applied { format!("{name} after") } else { name.to_owned() };
                    let [out, untraced] =
                        [name.clone(), format!("{name} untraced")].map(|name| output(&mut r, &name, element, shape));
                    let mut traces = Vec::new();
                    for window in &windows {
                        let own = y_shape.with_channels(window.len());
                        let mut input = real(&mut r, &columns(&y, channels, window), own);
                        let mut norm = Some(norm.record(&mut r, window.clone()));
                        if applied && let Some(BatchNorm { mean, inv_std, gamma, beta }) = norm.take() {
                            let (layer, out) = ("bn".to_owned(), r.tensor("x", Element::Real, own));
                            let (residual, relu) = (None, false);
                            r.push(BnApplyOp { layer, y: input, mean, inv_std, gamma, beta, residual, out, relu });
                            input = out;
                        }
                        let h = r.tensor("h", Element::Real, shape.with_channels(window.len()));
                        traces.push(h);
                        for (out, h) in [(out, Some(h)), (untraced, None)] {
                            let (layer, first_channel) = (name.clone(), window.start);
                            r.push(LifOp { layer, input, norm, out, h, neuron, first_channel });
                        }
                    }
                    r.output(format!("{name} h"), &traces);
                    count(&mut r, &name, out);
                }
            }
            r
        });
        let (x, terms): (Vec<f64>, Vec<f64>) =
            y.iter().enumerate().map(|(i, &y)| norm.apply(f64::from(y), i % channels)).unzip();
        for (i, (device, outputs)) in all.iter().enumerate() {
            for (name, element) in forms {
                counts_agree(&all[i..=i], name);
                let s = signs(outputs, name);
                assert!(
                    s == signs(outputs, &format!("{name} untraced")),
                    "{name} on {device}: with and without a trace"
                );
                let h = reals(outputs, &format!("{name} h"));
                let ternary = element == Element::Ternary;
                let membranes = Membranes { neuron, x: &x, terms: &terms, steps, ternary };
                membranes.agree(&format!("{name} on {device}"), &s, Some(h));
                // The twin rounds alike in both; a driver may fuse in one kernel and not in the other.
                if i == 0 || kind == Kind::Dyadic {
                    assert!(s == signs(outputs, &format!("{name} after")), "{name} on {device}: in two ops");
                    assert!(h == reals(outputs, &format!("{name} after h")), "{name} h on {device}: in two ops");
                }
            }
        }
        if kind == Kind::Dyadic {
            all_same(&all);
        }
    });
}
