use proptest::prelude::*;
use spikeshade::kernels::lif::LifOp;
use spikeshade::recording::Recording;
use spikeshade::reference::lif::{Window, lif};
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
                    r.push(LifOp { layer, input, out, h, neuron, first_channel: window.start });
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
                lif(&f64s(&padded(&x, channels)), x_shape, steps, &(&neuron).into(), window, &mut s, Some(&mut h));
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
