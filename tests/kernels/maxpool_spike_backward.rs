use proptest::prelude::*;
use spikeshade::kernels::maxpool_spike_backward::MaxpoolSpikeBackwardOp;
use spikeshade::recording::Recording;
use spikeshade::reference::maxpool_real_backward::maxpool_real_backward;
use spikeshade::reference::maxpool_spike_backward::maxpool_spike_backward;
use spikeshade::tensor::Element;

use crate::harness::*;

#[test]
fn agrees_with_its_twin_and_the_real_pool() {
    check(40, (kinds(), any::<u64>(), grids(600), 1..=100usize, rates()), |(kind, seed, grid, channels, rate)| {
        let mut data = Data::new(seed, kind);
        let shape = grid.with_channels(channels);
        let spikes = data.spikes(shape, rate);
        let g_y = data.reals(shape.steps * shape.pooled().rows() * channels, -16..=16, 0.125);
        let all = run(|| {
            let mut r = Recording::default();
            let input = packed(&mut r, &spikes, Element::Spikes, shape);
            let g_y = real(&mut r, &g_y, shape.pooled());
            let g_s = output(&mut r, "g_s", Element::Real, shape);
            r.push(MaxpoolSpikeBackwardOp { layer: "pool".to_owned(), input, g_y, g_s });
            r
        });
        // The same terms in the same order.
        all_same(&all);
        let g_y = f64s(&padded(&g_y, channels));
        let mut g_s = vec![0.0; shape.steps * shape.rows() * channels.next_multiple_of(4)];
        maxpool_spike_backward(&spikes, &g_y, shape, &mut g_s);
        let expected = unpadded(&g_s, channels);
        reals_agree(&all, "g_s", kind, &expected, &vec![8.0; expected.len()]);
        // A spike is the value 1, its absence 0.
        let values: Vec<f32> = signs_of_words(&spikes, Element::Spikes, channels).into_iter().map(f32::from).collect();
        let mut of_reals = vec![0.0; g_s.len()];
        maxpool_real_backward(&f64s(&padded(&values, channels)), &g_y, shape, &mut of_reals);
        assert_eq!(g_s, of_reals);
    });
}
