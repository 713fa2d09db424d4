use proptest::prelude::*;
use spikeshade::kernels::residual_add::ResidualAddOp;
use spikeshade::recording::Recording;
use spikeshade::reference::residual_add::residual_add;
use spikeshade::tensor::Element;

use crate::harness::*;

#[test]
fn agrees_with_its_twin() {
    check(32, (kinds(), any::<u64>(), grids(1500), 1..=100usize), |(kind, seed, grid, channels)| {
        let mut data = Data::new(seed, kind);
        let shape = grid.with_channels(channels);
        let n = shape.steps * shape.rows() * channels;
        let (x, u) = (data.reals(n, -64..=64, 0.125), data.reals(n, -64..=64, 0.125));
        let all = run(|| {
            let mut r = Recording::default();
            let (input, residual) = (real(&mut r, &x, shape), real(&mut r, &u, shape));
            let out = output(&mut r, "y", Element::Real, shape);
            r.push(ResidualAddOp { layer: "add".to_owned(), input, residual, out });
            r
        });
        // One rounded sum: the same bits on any values.
        all_same(&all);
        let (x, u) = (f64s(&x), f64s(&u));
        let mut y = vec![0.0; n];
        residual_add(&x, &u, &mut y);
        let terms: Vec<f64> = x.iter().zip(&u).map(|(x, u)| x.abs() + u.abs()).collect();
        reals_agree(&all, "y", kind, &y, &terms);
    });
}
