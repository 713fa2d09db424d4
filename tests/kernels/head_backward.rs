use proptest::prelude::*;
use spikeshade::kernels::head_backward::{HeadInputBackwardOp, HeadWeightsBackwardOp};
use spikeshade::recording::Recording;
use spikeshade::reference::head::head;
use spikeshade::reference::head_backward::{input, weights};
use spikeshade::tensor::{Element, Shape};

use crate::harness::*;

/// g_weights, g_bias and g_rate by the twin.
fn twin(rate: &[f64], w: &[f64], g_logits: &[f64], channels: usize, classes: usize) -> [Vec<f64>; 3] {
    let row = channels.next_multiple_of(4);
    let [mut g_weights, mut g_bias, mut g_rate] = [channels * classes, classes, rate.len()].map(|n| vec![0.0; n]);
    weights(rate, row, g_logits, &mut g_weights, &mut g_bias);
    input(w, g_logits, classes, row, &mut g_rate);
    [g_weights, g_bias, g_rate]
}

#[test]
fn agrees_with_its_twin() {
    let cases = (kinds(), any::<u64>(), 1..=9usize, 1..=200usize, 1..=200usize);
    check(40, cases, |(kind, seed, batch, channels, classes)| {
        let mut data = Data::new(seed, kind);
        let rate = data.reals(batch * channels, 0..=64, 1.0 / 64.0);
        let w = data.reals(channels * classes, -64..=64, 1.0 / 64.0);
        let g_logits = data.reals(batch * classes, -64..=64, 1.0 / 64.0);
        let all = run(|| {
            let mut r = Recording::default();
            let shape = Shape { batch, ..flat(channels) };
            let rate = real(&mut r, &rate, shape);
            let g_logits = real(&mut r, &g_logits, flat(batch * classes));
            let weights = real(&mut r, &w, flat(channels * classes));
            let g_weights = output(&mut r, "g_weights", Element::Real, flat(channels * classes));
            let g_bias = output(&mut r, "g_bias", Element::Real, flat(classes));
            let g_rate = output(&mut r, "g_rate", Element::Real, shape);
            let layer = || "head".to_owned();
            r.push(HeadWeightsBackwardOp { layer: layer(), rate, g_logits, g_weights, g_bias, classes });
            r.push(HeadInputBackwardOp { layer: layer(), weights, g_logits, g_rate, classes });
            r
        });
        let of = |change: fn(f64) -> f64| {
            let [rate, w, g] = [&padded(&rate, channels), &w, &g_logits]
                .map(|v| f64s(v).into_iter().map(change).collect::<Vec<f64>>());
            let [g_weights, g_bias, g_rate] = twin(&rate, &w, &g, channels, classes);
            [g_weights, g_bias, unpadded(&g_rate, channels)]
        };
        let (expected, terms) = (of(|x| x), of(f64::abs));
        for (i, name) in ["g_weights", "g_bias", "g_rate"].into_iter().enumerate() {
            reals_agree(&all, name, kind, &expected[i], &terms[i]);
        }
    });
}

#[test]
fn is_the_gradient_of_the_head() {
    check(20, (any::<u64>(), 1..=3usize, 1..=3usize, 1..=9usize), |(seed, batch, vectors, classes)| {
        let channels = 4 * vectors;
        let mut data = Data::new(seed, Kind::Float);
        let [rate, w, bias, g_logits] = [batch * channels, channels * classes, classes, batch * classes]
            .map(|n| f64s(&data.reals(n, -64..=64, 1.0 / 64.0)));
        let [g_weights, g_bias, g_rate] = twin(&rate, &w, &g_logits, channels, classes);
        let loss = |rate: &[f64], w: &[f64], bias: &[f64]| {
            let mut logits = vec![0.0; batch * classes];
            head(rate, channels, channels, w, bias, classes, &mut logits);
            inner(&logits, &g_logits)
        };
        differences_agree("g_weights", &w, &g_weights, |w| loss(&rate, w, &bias));
        differences_agree("g_bias", &bias, &g_bias, |bias| loss(&rate, &w, bias));
        differences_agree("g_rate", &rate, &g_rate, |rate| loss(rate, &w, &bias));
    });
}
