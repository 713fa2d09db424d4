use proptest::prelude::*;
use spikeshade::kernels::spike_gap::SpikeGapOp;
use spikeshade::recording::Recording;
use spikeshade::reference::spike_gap::spike_gap;
use spikeshade::tensor::{Element, Shape};

use crate::harness::*;

#[test]
fn agrees_with_its_twin() {
    check(40, (any::<u64>(), grids(2500), 1..=100usize, rates()), |(seed, grid, channels, rate)| {
        let shape = grid.with_channels(channels);
        let spikes = Data::new(seed, Kind::Dyadic).spikes(shape, rate);
        let all = run(|| {
            let mut r = Recording::default();
            let input = packed(&mut r, &spikes, Element::Spikes, shape);
            let out = output(&mut r, "rate", Element::Real, Shape { batch: shape.batch, ..flat(channels) });
            r.push(SpikeGapOp { layer: "gap".to_owned(), input, out });
            r
        });
        // A count and one product: the same bits everywhere.
        all_same(&all);
        let mut rate = vec![0.0; shape.batch * channels.next_multiple_of(4)];
        spike_gap(&spikes, shape, &mut rate);
        let rate = unpadded(&rate, channels);
        let exact = (shape.steps * shape.tokens()).is_power_of_two();
        reals_agree(&all, "rate", if exact { Kind::Dyadic } else { Kind::Float }, &rate, &rate);
    });
}
