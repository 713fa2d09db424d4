use proptest::prelude::*;
use spikeshade::kernels::maxpool_real::MaxpoolRealOp;
use spikeshade::recording::Recording;
use spikeshade::reference::maxpool_real::maxpool_real;
use spikeshade::tensor::Element;

use crate::harness::*;

#[test]
fn agrees_with_its_twin() {
    check(40, (kinds(), any::<u64>(), grids(600), 1..=100usize, -64..=0i32), |(kind, seed, grid, channels, low)| {
        let mut data = Data::new(seed, kind);
        let shape = grid.with_channels(channels);
        // Often all below zero, which the rim must not add.
        let x = data.reals(shape.steps * shape.rows() * channels, low - 8..=low, 0.125);
        let all = run(|| {
            let mut r = Recording::default();
            let input = real(&mut r, &x, shape);
            let out = output(&mut r, "y", Element::Real, shape.pooled());
            r.push(MaxpoolRealOp { layer: "pool".to_owned(), input, out });
            r
        });
        let row = channels.next_multiple_of(4);
        let mut y = vec![0.0; shape.steps * shape.pooled().rows() * row];
        maxpool_real(&f64s(&padded(&x, channels)), shape.height, shape.width, row, &mut y);
        // A maximum is exact on any values.
        reals_agree(&all, "y", Kind::Dyadic, &unpadded(&y, channels), &[]);
    });
}
