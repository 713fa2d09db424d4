use proptest::prelude::*;
use spikeshade::kernels::spike_count::{PARTIALS, SpikeCountOp};
use spikeshade::recording::Recording;
use spikeshade::tensor::Element;

use crate::harness::*;

#[test]
fn agrees_with_its_twin() {
    let cases = (any::<u64>(), grids(6000), 1..=100usize, rates(), any::<bool>(), 0..3usize);
    check(32, cases, |(seed, grid, channels, rate, ternary, slot)| {
        let shape = grid.with_channels(channels);
        let mut data = Data::new(seed, Kind::Dyadic);
        let (element, spikes) = match ternary {
            true => (Element::Ternary, data.ternary(shape, rate)),
            false => (Element::Spikes, data.spikes(shape, rate)),
        };
        let silent = vec![0; spikes.len()];
        let all = run(|| {
            let mut r = Recording::default();
            let input = packed(&mut r, &spikes, element, shape);
            let silent = packed(&mut r, &silent, element, shape);
            let out = output(&mut r, "counts", Element::Spikes, flat(3 * 32 * PARTIALS));
            for of in 0..3 {
                let input = if of == slot { input } else { silent };
                r.push(SpikeCountOp { layer: "count".to_owned(), input, out, slot: of });
            }
            r
        });
        all_same(&all);
        for (device, outputs) in &all {
            let counts = words_of(outputs, "counts");
            for (of, partials) in counts.chunks_exact(PARTIALS).enumerate() {
                let expected: u64 = if of == slot { spikes.iter().map(|w| u64::from(w.count_ones())).sum() } else { 0 };
                assert_eq!(partials.iter().sum::<u64>(), expected, "slot {of} on {device}");
            }
        }
    });
}
