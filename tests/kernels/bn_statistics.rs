use proptest::prelude::*;
use spikeshade::kernels::bn_statistics::{BnRunningOp, BnStatisticsCombineOp, BnStatisticsPartialOp};
use spikeshade::kernels::channel_sums::partials;
use spikeshade::kernels::residual_add::ResidualAddOp;
use spikeshade::recording::Recording;
use spikeshade::reference::bn_statistics::{combine, partial, running};
use spikeshade::tensor::Element;

use crate::harness::*;

const EPS: f32 = 1e-5;

#[test]
fn agrees_with_its_twin_and_the_definition() {
    let cases = (kinds(), any::<u64>(), grids(12_000), 1..=70usize, prop_oneof![Just(0.0f32), Just(1000.0)]);
    check(30, cases, |(kind, seed, grid, channels, offset)| {
        let mut data = Data::new(seed, kind);
        let shape = grid.with_channels(channels);
        let n = shape.steps * shape.rows();
        // A mean far from zero, which a sum of squares would not survive.
        let offsets = data.one_of(channels, &[offset, -offset, 0.0, 1.0]);
        let mut y = data.reals(n * channels, -40..=64, 0.0625);
        for row in y.chunks_exact_mut(channels) {
            row.iter_mut().zip(&offsets).for_each(|(y, o)| *y += o);
        }
        let before_mean = data.reals(channels, -8..=8, 0.25);
        let before_var = data.reals(channels, 1..=16, 0.25);
        let zeros = vec![0.0; channels];
        let all = run(|| {
            let mut r = Recording::default();
            let layer = || "bn".to_owned();
            let y = real(&mut r, &y, shape);
            let sums = r.tensor("partials", Element::Real, partials(shape));
            r.push(BnStatisticsPartialOp { layer: layer(), y, partials: sums });
            let [mean, variance, inv_std, running_mean, running_var] =
                ["mean", "variance", "inv_std", "running_mean", "running_var"]
                    .map(|name| output(&mut r, name, Element::Real, flat(channels)));
            let op = BnStatisticsCombineOp { layer: layer(), shape, partials: sums, mean, variance, inv_std, eps: EPS };
            r.push(op);
            let residual = real(&mut r, &zeros, flat(channels));
            for (before, out) in [(&before_mean, running_mean), (&before_var, running_var)] {
                let input = real(&mut r, before, flat(channels));
                r.push(ResidualAddOp { layer: layer(), input, residual, out });
            }
            r.push(BnRunningOp { layer: layer(), shape, mean, variance, running_mean, running_var, momentum: 0.1 });
            r
        });

        // Straight from the definition, not in the twin's blocks.
        let column = |c: usize| y[c..].iter().step_by(channels).map(|&y| f64::from(y));
        let mean: Vec<f64> = (0..channels).map(|c| column(c).sum::<f64>() / n as f64).collect();
        let square = |c: usize| column(c).map(|y| (y - mean[c]).powi(2)).sum::<f64>();
        let variance: Vec<f64> = (0..channels).map(|c| square(c) / n as f64).collect();
        let inv_std: Vec<f64> = variance.iter().map(|v| 1.0 / (v + f64::from(EPS)).sqrt()).collect();
        let mean_margin = |c: usize| 3e-6 * (8.0 + f64::from(offsets[c]).abs());
        let variance_margin = |c: usize| 1e-4 * variance[c] + 1e-6;
        within(&all, "mean", &mean, mean_margin);
        within(&all, "variance", &variance, variance_margin);
        within(&all, "inv_std", &inv_std, |c| 1e-6 * inv_std[c] + 0.5 * inv_std[c].powi(3) * variance_margin(c));
        let unbias = if n > 1 { n as f64 / (n - 1) as f64 } else { 1.0 };
        let follow = |before: &[f32], batch: &[f64], by: f64| -> Vec<f64> {
            before.iter().zip(batch).map(|(&r, b)| 0.9 * f64::from(r) + 0.1 * b * by).collect()
        };
        within(&all, "running_mean", &follow(&before_mean, &mean, 1.0), |c| mean_margin(c) + 1e-5);
        within(&all, "running_var", &follow(&before_var, &variance, unbias), |c| 2.0 * variance_margin(c) + 1e-5);

        // And the twin in f64 is the definition.
        let row = channels.next_multiple_of(4);
        let mut sums = vec![0.0; partials(shape).rows() * row];
        partial(&f64s(&padded(&y, channels)), shape, &mut sums);
        let [mut m, mut v, mut i] = [(); 3].map(|()| vec![0.0; row]);
        combine(&sums, shape, f64::from(EPS), &mut m, &mut v, &mut i);
        let [mut rm, mut rv] = [&before_mean, &before_var].map(|v| f64s(&padded(v, channels)));
        running(&m, &v, n, 0.1, &mut rm, &mut rv);
        let (follow_mean, follow_var) = (follow(&before_mean, &mean, 1.0), follow(&before_var, &variance, unbias));
        for (twin, exact) in [(m, mean), (v, variance), (i, inv_std), (rm, follow_mean), (rv, follow_var)] {
            for (a, b) in twin.iter().zip(&exact) {
                // n / (n - 1) is rounded to the uniform's f32.
                assert!((a - b).abs() <= 1e-6 * b.abs() + 1e-9, "{a} and {b} by definition");
            }
        }
    });
}
