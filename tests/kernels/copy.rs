use proptest::prelude::*;
use spikeshade::kernels::copy::CopyOp;
use spikeshade::recording::Recording;
use spikeshade::tensor::Element;

use crate::harness::*;

#[test]
fn agrees_with_its_twin() {
    check(16, (kinds(), any::<u64>(), grids(3000), 1..=100usize), |(kind, seed, grid, channels)| {
        let shape = grid.with_channels(channels);
        let x = Data::new(seed, kind).reals(shape.steps * shape.rows() * channels, -64..=64, 0.125);
        let all = run(|| {
            let mut r = Recording::default();
            let input = real(&mut r, &x, shape);
            let out = output(&mut r, "y", Element::Real, shape);
            r.push(CopyOp { layer: "copy".to_owned(), input, out });
            r
        });
        all_same(&all);
        let x = f64s(&x);
        reals_agree(&all, "y", Kind::Dyadic, &x, &magnitudes(&x));
    });
}
