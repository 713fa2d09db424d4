use proptest::prelude::*;
use spikeshade::kernels::maxpool_spike::MaxpoolSpikeOp;
use spikeshade::recording::Recording;
use spikeshade::tensor::{Element, words};

use crate::harness::*;

#[test]
fn agrees_with_its_twin() {
    check(40, (any::<u64>(), grids(600), 1..=100usize, rates()), |(seed, grid, channels, rate)| {
        let shape = grid.with_channels(channels);
        let spikes = Data::new(seed, Kind::Dyadic).spikes(shape, rate);
        let pooled = shape.pooled();
        let all = run(|| {
            let mut r = Recording::default();
            let input = packed(&mut r, &spikes, Element::Spikes, shape);
            let out = output(&mut r, "s", Element::Spikes, pooled);
            r.push(MaxpoolSpikeOp { layer: "pool".to_owned(), input, out });
            count(&mut r, "s", out);
            r
        });
        all_same(&all);
        counts_agree(&all, "s");
        // Bits have no f64: a window's maximum, straight from its definition.
        let row = words(channels);
        let at = |image: usize, y: usize, x: usize, c: usize| {
            spikes[((image * shape.height + y) * shape.width + x) * row + c / 32] >> (c % 32) & 1 == 1
        };
        let mut expected = Vec::new();
        for image in 0..shape.steps * shape.batch {
            for (i, j) in (0..pooled.height).flat_map(|i| (0..pooled.width).map(move |j| (i, j))) {
                for c in 0..channels {
                    let lines = (2 * i).saturating_sub(1)..=(2 * i + 1).min(shape.height - 1);
                    let any = lines.into_iter().any(|y| {
                        ((2 * j).saturating_sub(1)..=(2 * j + 1).min(shape.width - 1)).any(|x| at(image, y, x, c))
                    });
                    expected.push(i8::from(any));
                }
            }
        }
        assert_eq!(signs(&all[0].1, "s"), expected);
    });
}
