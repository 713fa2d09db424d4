use proptest::prelude::*;
use spikeshade::kernels::spike_gap_backward::SpikeGapBackwardOp;
use spikeshade::recording::Recording;
use spikeshade::reference::spike_gap::spike_gap;
use spikeshade::reference::spike_gap_backward::spike_gap_backward;
use spikeshade::tensor::{Element, Shape};

use crate::harness::*;

#[test]
fn agrees_with_its_twin_and_is_the_transpose() {
    check(40, (any::<u64>(), grids(2500), 1..=100usize, rates()), |(seed, grid, channels, rate)| {
        let mut data = Data::new(seed, Kind::Float);
        let shape = grid.with_channels(channels);
        let g_rate = data.reals(shape.batch * channels, -16..=16, 0.125);
        let all = run(|| {
            let mut r = Recording::default();
            let g_rate = real(&mut r, &g_rate, Shape { batch: shape.batch, ..flat(channels) });
            let g_s = output(&mut r, "g_s", Element::Real, shape);
            r.push(SpikeGapBackwardOp { layer: "gap".to_owned(), g_rate, g_s });
            r
        });
        // One product: the same bits everywhere.
        all_same(&all);
        let g_rate = f64s(&padded(&g_rate, channels));
        let row = channels.next_multiple_of(4);
        let mut g_s = vec![0.0; shape.steps * shape.rows() * row];
        spike_gap_backward(&g_rate, shape, &mut g_s);
        let g_s = unpadded(&g_s, channels);
        reals_agree(&all, "g_s", Kind::Float, &g_s, &magnitudes(&g_s));

        // The mean is linear, so that this holds of any spikes and is all that there is to its gradient.
        let spikes = data.spikes(shape, rate);
        let mut mean = vec![0.0; shape.batch * row];
        spike_gap(&spikes, shape, &mut mean);
        let s: Vec<f64> = signs_of_words(&spikes, Element::Spikes, channels).into_iter().map(f64::from).collect();
        let (forward, backward) = (inner(&mean, &g_rate), inner(&s, &g_s));
        assert!(
            (forward - backward).abs() <= 1e-9 * (1.0 + inner(&mean, &magnitudes(&g_rate))),
            "{forward} {backward}"
        );
    });
}
