use proptest::prelude::*;
use spikeshade::kernels::spike_census::{Layout, SpikeCensusOp};
use spikeshade::recording::Recording;
use spikeshade::tensor::{Element, Shape, words};

use crate::harness::*;

/// The counters by their definition, value by value.
fn by_definition(spikes: &[u32], shape: Shape, ternary: bool, of: &Layout) -> Vec<u64> {
    let (row, planes, tokens) = (words(shape.channels), if ternary { 2 } else { 1 }, shape.tokens());
    let sign = |image: usize, n: usize, c: usize| {
        let at = (image * tokens + n) * planes * row + c / 32;
        let bit = |at: usize| (spikes[at] >> (c % 32) & 1) as i32;
        bit(at) - if ternary { bit(at + row) } else { 0 }
    };
    // An output of a 3×3 convolution sees a token that is at most one line and one column away.
    let near = |n: usize, m: usize| {
        let (y, x, v, u) = (n / shape.width, n % shape.width, m / shape.width, m % shape.width);
        y.abs_diff(v) <= 1 && x.abs_diff(u) <= 1
    };
    let reach: Vec<u64> = (0..tokens).map(|n| (0..tokens).filter(|&m| near(n, m)).count() as u64).collect();
    let images = shape.steps * shape.batch;
    let mut counters = Vec::new();
    if of.neurons {
        let mut steps = vec![0; of.step_counts()];
        for image in 0..images {
            for (n, &reach) in reach.iter().enumerate() {
                for c in 0..shape.channels {
                    let part = n / (of.part_lines() * shape.width);
                    let counts = &mut steps[(image * of.parts() + part) * 3..][..3];
                    let s = sign(image, n, c);
                    counts[0] += u64::from(s > 0);
                    counts[1] += u64::from(s < 0);
                    counts[2] += u64::from(s != 0) * reach;
                }
            }
        }
        counters.extend(steps);
        for always in [false, true] {
            for n in 0..tokens {
                for w in 0..row {
                    let channels = w * 32..(w * 32 + 32).min(shape.channels);
                    let bit = |c: usize| {
                        let mut fired = (0..images).map(|image| sign(image, n, c) != 0);
                        u64::from(if always { fired.all(|f| f) } else { fired.any(|f| f) }) << (c % 32)
                    };
                    counters.push(channels.map(bit).sum());
                }
            }
        }
    }
    if of.channels {
        for image in 0..images {
            for c in 0..row * 32 {
                let fired = |&n: &usize| c < shape.channels && sign(image, n, c) != 0;
                counters.push((0..tokens).filter(fired).count() as u64);
            }
        }
    }
    counters
}

fn agrees(seed: u64, shape: Shape, rate: f64, ternary: bool, neurons: bool, channels: bool) {
    let mut data = Data::new(seed, Kind::Dyadic);
    let (element, spikes) = match ternary {
        true => (Element::Ternary, data.ternary(shape, rate)),
        false => (Element::Spikes, data.spikes(shape, rate)),
    };
    let layout = Layout { shape, ternary, neurons, channels };
    let all = run(|| {
        let mut r = Recording::default();
        let input = packed(&mut r, &spikes, element, shape);
        assert_eq!(Layout::new(r.get(input), neurons, channels), layout);
        let out = output(&mut r, "counters", Element::Spikes, layout.counters());
        r.push(SpikeCensusOp { layer: "census".to_owned(), input, out, layout });
        r
    });
    all_same(&all);
    let expected = by_definition(&spikes, shape, ternary, &layout);
    for (device, outputs) in &all {
        assert_eq!(words_of(outputs, "counters"), expected, "{device}");
    }
}

#[test]
fn agrees_with_its_twin() {
    let wanted = prop_oneof![Just((true, false)), Just((false, true)), Just((true, true))];
    let cases = (any::<u64>(), grids(1500), 1..=100usize, rates(), any::<bool>(), wanted);
    check(40, cases, |(seed, grid, c, rate, ternary, (neurons, channels))| {
        agrees(seed, grid.with_channels(c), rate, ternary, neurons, channels);
    });
}

/// Images of more than one part.
#[test]
fn parts_are_counted_apart() {
    let shape = Shape { steps: 2, batch: 1, height: 33, width: 31, channels: 65 };
    agrees(1, shape, 0.3, false, true, true);
    agrees(2, shape, 0.9, true, true, true);
}
