use proptest::prelude::*;
use spikeshade::kernels::multiply_add::{CHAINS, MultiplyAddOp};
use spikeshade::recording::Recording;
use spikeshade::reference::multiply_add::multiply_add;
use spikeshade::tensor::Element;

use crate::harness::*;

#[test]
fn agrees_with_its_twin() {
    let cases = (kinds(), any::<u64>(), grids(1500), 1..=100usize, 0..50u32);
    check(32, cases, |(kind, seed, grid, channels, rounds)| {
        let mut data = Data::new(seed, kind);
        let shape = grid.with_channels(channels);
        let x = data.reals(shape.steps * shape.rows() * channels, -64..=64, 0.125);
        // A factor of -1 keeps values on their grid, however often.
        let (a, b) = (-1.0, data.reals(1, 1..=32, 0.125)[0]);
        let all = run(|| {
            let mut r = Recording::default();
            let input = real(&mut r, &x, shape);
            let out = output(&mut r, "y", Element::Real, shape);
            r.push(MultiplyAddOp { layer: "ceiling".to_owned(), input, out, rounds, map: (a, b) });
            r
        });
        let x = f64s(&x);
        let mut y = vec![0.0; x.len()];
        multiply_add(&x, &mut y, rounds, f64::from(a), f64::from(b));
        // Of each rounded step of each chain.
        let terms: Vec<f64> =
            x.iter().map(|x| CHAINS as f64 * f64::from(rounds + 1) * (x.abs() + 7.0 + f64::from(b))).collect();
        reals_agree(&all, "y", kind, &y, &terms);
    });
}

#[test]
fn another_factor_is_applied_as_often_as_said() {
    let x = [3.0f64, -1.0];
    for rounds in [0, 1, 5] {
        let mut y = [0.0; 2];
        multiply_add(&x, &mut y, rounds, 0.5, 1.0);
        let chain = |mut y: f64| {
            (0..rounds).for_each(|_| y = y * 0.5 + 1.0);
            y
        };
        let expected: [f64; 2] = x.map(|x| (0..8).map(|k| chain(x + f64::from(k))).sum());
        assert_eq!(y, expected, "{rounds} rounds");
    }
}
