use proptest::prelude::*;
use spikeshade::kernels::conv3x3_real::pack_weights;
use spikeshade::kernels::conv3x3_real_backward::{Conv3x3RealCombine, Conv3x3RealWeights};
use spikeshade::kernels::product::pack_scale_shift;
use spikeshade::kernels::product_backward::{CombineBackward, WeightsBackward, weights_len};
use spikeshade::recording::Recording;
use spikeshade::reference::conv3x3_real::conv3x3_real;
use spikeshade::reference::conv3x3_real_backward::conv3x3_real_weights;
use spikeshade::reference::product_backward::{Gradient, combine};
use spikeshade::tensor::{Element, vectors};

use crate::harness::*;
use crate::product_backward::{adjoint, inner};

#[test]
fn agrees_with_its_twin_and_is_the_adjoint() {
    let cases = (kinds(), any::<u64>(), grids(600), 1..=9usize, 1..=100usize, 0..4usize, 1..=5usize, any::<bool>());
    check(40, cases, |(kind, seed, grid, inputs, outputs, at, splits, still)| {
        let mut data = Data::new(seed, kind);
        // A still image has one timestep, its gradient may have T.
        let of_gradient = grid.with_channels(outputs);
        let shape = grid.with_steps(if still { 1 } else { grid.steps }).with_channels(inputs);
        let rows = grid.steps * grid.rows();
        let x = data.reals(shape.steps * shape.rows() * inputs, -16..=16, 0.125);
        let g = data.reals(rows * outputs, -8..=8, 0.125);
        let windows = cut(outputs, at);
        let chunks = (9 * inputs).div_ceil(32);
        let all = run(|| {
            let mut r = Recording::default();
            let input = real_padded_with(&mut r, &x, shape, f32::NAN);
            let gradient = real_padded_with(&mut r, &g, of_gradient, f32::NAN);
            for (n, window) in windows.iter().enumerate() {
                let len = weights_len(window.len(), chunks);
                let out = output(&mut r, &format!("g_w{n}"), Element::Real, flat(len));
                // Without splits the sum is the gradient already.
                let partials = if splits == 1 { out } else { r.tensor("partials", Element::Real, flat(splits * len)) };
                r.push(Conv3x3RealWeights(WeightsBackward {
                    layer: "conv".to_owned(),
                    input,
                    gradient,
                    first_channel: window.start,
                    channels_out: window.len(),
                    splits,
                    out: partials,
                }));
                if splits > 1 {
                    r.push(Conv3x3RealCombine(CombineBackward { layer: "conv".to_owned(), partials, splits, out }));
                }
            }
            r
        });
        if kind == Kind::Dyadic {
            all_same(&all);
        }
        let weights_of = |g: &[f64], x: &[f64]| {
            let g = Gradient { values: g, row: 4 * vectors(outputs), first_channel: 0, channels_out: outputs };
            let len = weights_len(outputs, chunks);
            let (mut partials, mut sum) = (vec![0.0; splits * len], vec![0.0; len]);
            conv3x3_real_weights(g, rows, x, shape, splits, &mut partials);
            combine(&partials, &mut sum);
            sum
        };
        let (g64, x64) = (f64s(&padded(&g, outputs)), f64s(&padded(&x, inputs)));
        let g_w = weights_of(&g64, &x64);
        let terms = weights_of(&magnitudes(&g64), &magnitudes(&x64));
        for (n, window) in windows.iter().enumerate() {
            let slice = weights_len(window.start, chunks)..weights_len(window.end, chunks);
            reals_agree(&all, &format!("g_w{n}"), kind, &g_w[slice.clone()], &terms[slice]);
        }

        // <g, J w> = <Jᵀ g, w> for any weights.
        let w = data.reals(outputs * inputs * 9, -8..=8, 0.25);
        let w = f64s(&pack_weights(&w, 0..outputs, inputs));
        let ones = f64s(&pack_scale_shift(&vec![1.0; outputs], &vec![0.0; outputs], 0..outputs));
        let mut y = vec![0.0; shape.steps * shape.rows() * 4 * vectors(outputs)];
        conv3x3_real(&x64, shape, &w, &ones, outputs, &mut y);
        let y = unpadded(&y, outputs).repeat(grid.steps / shape.steps);
        adjoint("g_w", inner(&f64s(&g), &y), inner(&g_w, &w), inner(&terms, &magnitudes(&w)));
    });
}
