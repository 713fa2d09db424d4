use proptest::prelude::*;
use spikeshade::kernels::bn_apply::BnApplyOp;
use spikeshade::recording::Recording;
use spikeshade::reference::bn_apply::{Norm, bn_apply};
use spikeshade::tensor::Element;

use crate::harness::*;

#[test]
fn agrees_with_its_twin() {
    check(40, (kinds(), any::<u64>(), grids(600), 1..=100usize), |(kind, seed, grid, channels)| {
        let mut data = Data::new(seed, kind);
        let shape = grid.with_channels(channels);
        let n = shape.steps * shape.rows() * channels;
        let y = data.reals(n, -64..=64, 0.125);
        let residual = data.reals(n, -64..=64, 0.125);
        let mean = data.reals(channels, -8..=8, 0.125);
        let inv_std = data.reals(channels, 1..=8, 0.25);
        let gamma = data.reals(channels, -8..=8, 0.25);
        let beta = data.reals(channels, -8..=8, 0.25);
        let forms = [("plain", false, false), ("relu", true, false), ("residual", false, true), ("both", true, true)];
        let all = run(|| {
            let mut r = Recording::default();
            let (y, residual) = (real(&mut r, &y, shape), real(&mut r, &residual, shape));
            let [mean, inv_std, gamma, beta] =
                [&mean, &inv_std, &gamma, &beta].map(|v| real(&mut r, v, flat(channels)));
            for (name, relu, add) in forms {
                let out = output(&mut r, name, Element::Real, shape);
                let residual = add.then_some(residual);
                r.push(BnApplyOp { layer: name.to_owned(), y, mean, inv_std, gamma, beta, residual, out, relu });
            }
            r
        });
        let [wide_y, wide_residual, mean, inv_std, gamma, beta] =
            [&y, &residual, &mean, &inv_std, &gamma, &beta].map(|v| f64s(&padded(v, channels)));
        let terms: Vec<f64> = (0..n)
            .map(|i| {
                let (c, y, residual) = (i % channels, f64::from(y[i]), f64::from(residual[i]));
                (y.abs() + mean[c].abs()) * inv_std[c] * gamma[c].abs() + beta[c].abs() + residual.abs()
            })
            .collect();
        for (name, relu, add) in forms {
            let norm = Norm { mean: &mean, inv_std: &inv_std, gamma: &gamma, beta: &beta, relu };
            let mut x = vec![0.0; wide_y.len()];
            bn_apply(&wide_y, &norm, add.then_some(&wide_residual[..]), &mut x);
            reals_agree(&all, name, kind, &unpadded(&x, channels), &terms);
        }
    });
}
