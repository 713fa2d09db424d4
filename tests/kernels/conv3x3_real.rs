use proptest::prelude::*;
use spikeshade::kernels::conv3x3_real::{Conv3x3RealOp, pack_weights};
use spikeshade::kernels::product::pack_scale_shift;
use spikeshade::recording::Recording;
use spikeshade::reference::conv3x3_real::conv3x3_real;
use spikeshade::tensor::Element;

use crate::harness::*;

#[test]
fn agrees_with_its_twin() {
    let cases = (kinds(), any::<u64>(), grids(300), 1..=9usize, 1..=100usize, 0..4usize);
    check(40, cases, |(kind, seed, grid, inputs, outputs, at)| {
        let mut data = Data::new(seed, kind);
        let shape = grid.with_channels(inputs);
        let x = data.reals(shape.steps * shape.rows() * inputs, -16..=16, 0.125);
        let weights = data.reals(outputs * inputs * 9, -8..=8, 0.25);
        let scale = match kind {
            Kind::Dyadic => data.one_of(outputs, &[0.5, -0.25, 2.0, 0.0]),
            Kind::Float => data.reals(outputs, -4..=8, 0.1),
        };
        let shift = data.reals(outputs, -16..=32, 0.0625);
        let windows = cut(outputs, at);
        let all = run(|| {
            let mut r = Recording::default();
            let input = real(&mut r, &x, shape);
            let mut outs = Vec::new();
            for window in &windows {
                let out = r.tensor("y", Element::Real, shape.with_channels(window.len()));
                let op = Conv3x3RealOp {
                    layer: "conv".to_owned(),
                    input,
                    weights: parameter(&mut r, &pack_weights(&weights, window.clone(), inputs)),
                    scale_shift: parameter(&mut r, &pack_scale_shift(&scale, &shift, window.clone())),
                    out,
                };
                r.push(op);
                outs.push(out);
            }
            r.output("y", &outs);
            r
        });
        let of = |change: fn(f32) -> f32| {
            let [x, weights, scale, shift] =
                [&x, &weights, &scale, &shift].map(|v| v.iter().map(|&v| change(v)).collect::<Vec<f32>>());
            let weights = f64s(&pack_weights(&weights, 0..outputs, inputs));
            let scale_shift = f64s(&pack_scale_shift(&scale, &shift, 0..outputs));
            let mut y = vec![0.0; shape.steps * shape.rows() * outputs.next_multiple_of(4)];
            conv3x3_real(&f64s(&padded(&x, inputs)), shape, &weights, &scale_shift, outputs, &mut y);
            unpadded(&y, outputs)
        };
        reals_agree(&all, "y", kind, &of(|x| x), &of(f32::abs));
    });
}
