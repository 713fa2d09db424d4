use proptest::prelude::*;
use spikeshade::kernels::bn_backward::{BnBackwardApplyOp, BnBackwardCombineOp, BnBackwardPartialOp, BnSaved};
use spikeshade::kernels::channel_sums::partials;
use spikeshade::recording::Recording;
use spikeshade::reference::bn_apply::{Norm, bn_apply};
use spikeshade::reference::bn_backward::{apply, combine, partial};
use spikeshade::reference::bn_statistics;
use spikeshade::tensor::{Element, Shape};

use crate::harness::*;

#[test]
fn agrees_with_its_twin() {
    let cases = (kinds(), any::<u64>(), grids(12_000), 1..=70usize, any::<bool>());
    check(30, cases, |(kind, seed, grid, channels, relu)| {
        // Only exact arithmetic masks alike next to zero.
        let mut data = Data::new(seed, if relu { Kind::Dyadic } else { kind });
        let shape = grid.with_channels(channels);
        let n = shape.steps * shape.rows();
        let y = data.reals(n * channels, -64..=64, 0.125);
        let g_x = data.reals(n * channels, -16..=16, 0.125);
        let mean = data.reals(channels, -8..=8, 0.125);
        let inv_std = data.reals(channels, 1..=8, 0.25);
        let gamma = data.reals(channels, -8..=8, 0.25);
        let beta = data.reals(channels, -8..=8, 0.25);
        let all = run(|| {
            let mut r = Recording::default();
            let (layer, values) = (|| "bn".to_owned(), &g_x);
            let (g_x, y) = (real(&mut r, &g_x, shape), real(&mut r, &y, shape));
            let [mean, inv_std, gamma, beta] =
                [&mean, &inv_std, &gamma, &beta].map(|v| real(&mut r, v, flat(channels)));
            let saved = BnSaved { g_x, y, mean, inv_std, gamma, beta, relu };
            let blocks = r.tensor("partials", Element::Real, partials(shape));
            r.push(BnBackwardPartialOp { layer: layer(), saved, partials: blocks });
            let [g_beta, g_gamma] =
                ["g_beta", "g_gamma"].map(|name| output(&mut r, name, Element::Real, flat(channels)));
            let sums = output(&mut r, "sums", Element::Real, Shape { height: 2, ..flat(channels) });
            r.push(BnBackwardCombineOp { layer: layer(), shape, partials: blocks, g_beta, g_gamma, sums });
            for (name, sums) in [("batch", Some(sums)), ("frozen", None)] {
                let g_y = output(&mut r, name, Element::Real, shape);
                r.push(BnBackwardApplyOp { layer: layer(), saved, sums, g_y });
                let g_y = in_place_of(&mut r, &format!("{name} in place"), values, shape);
                r.push(BnBackwardApplyOp { layer: layer(), saved: BnSaved { g_x: g_y, ..saved }, sums, g_y });
            }
            r
        });
        let [y, g_x, mean, inv_std, gamma, beta] =
            [&y, &g_x, &mean, &inv_std, &gamma, &beta].map(|v| f64s(&padded(v, channels)));
        let norm = Norm { mean: &mean, inv_std: &inv_std, gamma: &gamma, beta: &beta, relu };
        let row = channels.next_multiple_of(4);
        let mut blocks = vec![0.0; partials(shape).rows() * row];
        partial(&g_x, &y, shape, &norm, &mut blocks);
        let mut sums = vec![0.0; 2 * row];
        combine(&blocks, &mut sums);

        // The sums of magnitudes, each channel's Σ |g| and Σ |g y^|.
        let mut terms = vec![0.0; 2 * row];
        for (i, (g, &y)) in g_x.iter().zip(&y).enumerate() {
            terms[i % row] += g.abs();
            terms[row + i % row] += g.abs() * (y.abs() + mean[i % row].abs()) * inv_std[i % row];
        }
        within(&all, "g_beta", &sums[..channels], |c| 1e-5 * terms[c] + 1e-30);
        within(&all, "g_gamma", &sums[row..row + channels], |c| 1e-5 * terms[row + c] + 1e-30);
        let unpadded_terms = unpadded(&terms, channels);
        within(&all, "sums", &unpadded(&sums, channels), |c| 1e-5 * unpadded_terms[c] + 1e-30);
        for (name, sums) in [("batch", Some(&sums[..])), ("frozen", None)] {
            let mut g_y = vec![0.0; y.len()];
            apply(Some(&g_x), &y, &norm, sums, &mut g_y);
            for name in [name.to_owned(), format!("{name} in place")] {
                within(&all, &name, &unpadded(&g_y, channels), |i| {
                    let (c, at) = (i % channels, i / channels * row + i % channels);
                    let y_normal = (y[at].abs() + mean[c].abs()) * inv_std[c];
                    let all = g_x[at].abs() + (terms[c] + y_normal * terms[row + c]) / n as f64;
                    1e-5 * (gamma[c] * inv_std[c]).abs() * all + 1e-30
                });
            }
            let in_place = format!("{name} in place");
            assert!(reals(&all[0].1, name) == reals(&all[0].1, &in_place), "{name} and in place");
        }
    });
}

const EPS: f64 = 1e-5;

/// y's own mean and 1 / √(variance + eps).
fn statistics(y: &[f64], shape: Shape) -> (Vec<f64>, Vec<f64>) {
    let mut sums = vec![0.0; partials(shape).rows() * shape.channels];
    bn_statistics::partial(y, shape, &mut sums);
    let [mut mean, mut variance, mut inv_std] = [(); 3].map(|()| vec![0.0; shape.channels]);
    bn_statistics::combine(&sums, shape, EPS, &mut mean, &mut variance, &mut inv_std);
    (mean, inv_std)
}

#[test]
fn is_the_gradient_of_batch_norm() {
    check(40, (any::<u64>(), any::<bool>(), any::<bool>(), 2..=45usize), |(seed, relu, batch, width)| {
        let mut data = Data::new(seed, Kind::Float);
        let shape = Shape { steps: 2, width, ..flat(4) };
        let n = 2 * width * 4;
        let g_x = f64s(&data.reals(n, -16..=16, 0.125));
        let gamma = f64s(&data.reals(4, -8..=8, 0.25));
        let beta = f64s(&data.reals(4, -8..=8, 0.25));
        let fixed = (f64s(&data.reals(4, -8..=8, 0.125)), f64s(&data.reals(4, 1..=8, 0.25)));
        let forward = |y: &[f64], gamma: &[f64], beta: &[f64], relu: bool| {
            let (mean, inv_std) = if batch { statistics(y, shape) } else { fixed.clone() };
            let mut x = vec![0.0; n];
            bn_apply(y, &Norm { mean: &mean, inv_std: &inv_std, gamma, beta, relu }, None, &mut x);
            x
        };
        // Clear of ReLU's kink.
        let y = (0..1000)
            .map(|_| f64s(&data.reals(n, -64..=64, 0.0625)))
            .find(|y| !relu || forward(y, &gamma, &beta, false).iter().all(|x| x.abs() > 1e-4))
            .expect("some y is clear of the kink");
        let (mean, inv_std) = if batch { statistics(&y, shape) } else { fixed.clone() };
        let norm = Norm { mean: &mean, inv_std: &inv_std, gamma: &gamma, beta: &beta, relu };
        let mut blocks = vec![0.0; partials(shape).rows() * 4];
        partial(&g_x, &y, shape, &norm, &mut blocks);
        let mut sums = vec![0.0; 8];
        combine(&blocks, &mut sums);
        let mut g_y = vec![0.0; n];
        apply(Some(&g_x), &y, &norm, batch.then_some(&sums[..]), &mut g_y);
        differences_agree("g_y", &y, &g_y, |y| inner(&forward(y, &gamma, &beta, relu), &g_x));
        differences_agree("g_beta", &beta, &sums[..4], |beta| inner(&forward(&y, &gamma, beta, relu), &g_x));
        differences_agree("g_gamma", &gamma, &sums[4..], |gamma| inner(&forward(&y, gamma, &beta, relu), &g_x));
    });
}
