use proptest::prelude::*;
use spikeshade::kernels::maxpool_real_backward::MaxpoolRealBackwardOp;
use spikeshade::recording::Recording;
use spikeshade::reference::maxpool_real::maxpool_real;
use spikeshade::reference::maxpool_real_backward::maxpool_real_backward;
use spikeshade::tensor::{Element, Shape};

use crate::harness::*;

#[test]
fn agrees_with_its_twin() {
    check(40, (kinds(), any::<u64>(), grids(600), 1..=100usize, 0..=16i32), |(kind, seed, grid, channels, high)| {
        let mut data = Data::new(seed, kind);
        let shape = grid.with_channels(channels);
        // Few values, so that many windows have several maxima.
        let x = data.reals(shape.steps * shape.rows() * channels, -2..=high, 0.125);
        let g_y = data.reals(shape.steps * shape.pooled().rows() * channels, -16..=16, 0.125);
        let all = run(|| {
            let mut r = Recording::default();
            let (input, g_y) = (real(&mut r, &x, shape), real(&mut r, &g_y, shape.pooled()));
            let g_x = output(&mut r, "g_x", Element::Real, shape);
            r.push(MaxpoolRealBackwardOp { layer: "pool".to_owned(), input, g_y, g_x });
            r
        });
        // The same terms in the same order.
        all_same(&all);
        let mut g_x = vec![0.0; shape.steps * shape.rows() * channels.next_multiple_of(4)];
        let [x, g_y] = [&x, &g_y].map(|v| f64s(&padded(v, channels)));
        maxpool_real_backward(&x, &g_y, shape, &mut g_x);
        let g_x = unpadded(&g_x, channels);
        reals_agree(&all, "g_x", kind, &g_x, &vec![8.0; g_x.len()]);
    });
}

#[test]
fn is_the_gradient_of_the_pool() {
    check(60, (any::<u64>(), 1..=2usize, 1..=7usize, 1..=7usize), |(seed, batch, height, width)| {
        let mut data = Data::new(seed, Kind::Float);
        let shape = Shape { batch, height, width, ..flat(4) };
        let n = shape.rows() * 4;
        // A thousandth apart at least: no maximum changes hands within a difference.
        let mut x: Vec<f64> = (0..n).map(|i| i as f64 / 1000.0).collect();
        for i in 0..n {
            x.swap(i, data.reals(1, 0..=1, n as f32)[0] as usize % n);
        }
        let g_y = f64s(&data.reals(shape.pooled().rows() * 4, -16..=16, 0.125));
        let mut g_x = vec![0.0; n];
        maxpool_real_backward(&x, &g_y, shape, &mut g_x);
        differences_agree("g_x", &x, &g_x, |x| {
            let mut y = vec![0.0; g_y.len()];
            maxpool_real(x, height, width, 4, &mut y);
            inner(&y, &g_y)
        });
    });
}

#[test]
fn goes_to_the_first_of_equal_maxima() {
    let shape = Shape { height: 3, width: 4, ..flat(1) };
    let x = padded(&[1., 1., 0., 0., 2., 2., 2., 0., 0., 0., 2., 0.], 1);
    let g_y = padded(&[1., 2., 4., 8.], 1);
    let mut g_x = vec![0.0; x.len()];
    maxpool_real_backward(&x, &g_y, shape, &mut g_x);
    let g_x: Vec<f32> = g_x.iter().step_by(4).copied().collect();
    assert_eq!(g_x, [0., 0., 0., 0., 5., 10., 0., 0., 0., 0., 0., 0.]);
}
