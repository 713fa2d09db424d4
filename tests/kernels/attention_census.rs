use proptest::prelude::*;
use spikeshade::kernels::attention_census::{KeyValuePairs, NonzeroKeys, pairs_shape};
use spikeshade::recording::Recording;
use spikeshade::tensor::{Element, Shape, words};

use crate::harness::*;

#[test]
fn agrees_with_its_twin() {
    let dims = prop_oneof![Just(1usize), Just(3), Just(12), Just(32), Just(33), Just(64), 2..50usize];
    let cases = (any::<u64>(), grids(300), dims, 1..=5usize, 0..4usize, rates(), rates());
    check(40, cases, |(seed, grid, dim, heads, at, key_rate, rate)| {
        let shape = grid.with_channels(dim * heads);
        let mut data = Data::new(seed, Kind::Dyadic);
        let v = data.ternary(shape, rate);
        let mask = data.spikes(shape, key_rate);
        let (row, tokens) = (words(shape.channels), shape.steps * shape.rows());
        let is_key = |token: usize, c: usize| mask[token * row + c / 32] >> (c % 32) & 1 == 1;
        // Keys are not negative; one that is shows that only zero is left out.
        let values = data.one_of(tokens * shape.channels, &[0.25, 1.0, 1e-38, -2.0]);
        let k: Vec<f32> = values
            .iter()
            .enumerate()
            .map(|(i, &x)| if is_key(i / shape.channels, i % shape.channels) { x } else { 0.0 })
            .collect();
        let windows = cut(shape.channels, at);
        let all = run(|| {
            let mut r = Recording::default();
            let keys = output(&mut r, "keys", Element::Spikes, shape);
            for window in &windows {
                let of_window = columns(&k, shape.channels, window);
                let k = real(&mut r, &of_window, shape.with_channels(window.len()));
                r.push(NonzeroKeys { layer: "keys".to_owned(), k, out: keys, first_channel: window.start });
            }
            count(&mut r, "keys", keys);
            let v = packed(&mut r, &v, Element::Ternary, shape);
            let out = output(&mut r, "pairs", Element::Spikes, pairs_shape(shape));
            r.push(KeyValuePairs { layer: "pairs".to_owned(), keys, v, out, head_dim: dim });
            r
        });
        all_same(&all);
        counts_agree(&all, "keys");
        let fires = |token: usize, c: usize| {
            let at = token * 2 * row + c / 32;
            (v[at] | v[at + row]) >> (c % 32) & 1 == 1
        };
        let mut expected = vec![0u64; shape.steps * shape.batch];
        for token in 0..tokens {
            for head in 0..heads {
                for i in head * dim..(head + 1) * dim {
                    for j in head * dim..(head + 1) * dim {
                        expected[token / shape.tokens()] += u64::from(is_key(token, i) && fires(token, j));
                    }
                }
            }
        }
        let expected: Vec<u64> = expected.iter().flat_map(|n| [n & 0xffff_ffff, n >> 32]).collect();
        for (device, outputs) in &all {
            for (i, &s) in signs(outputs, "keys").iter().enumerate() {
                assert_eq!(s == 1, is_key(i / shape.channels, i % shape.channels), "key {i} on {device}");
            }
            assert_eq!(words_of(outputs, "pairs"), expected, "{device}");
        }
    });
}

/// Sums that take two words.
#[test]
fn sums_carry() {
    let shape = Shape { steps: 1, batch: 1, height: 9, width: 8, channels: 8192 };
    let row = words(shape.channels);
    let all = run(|| {
        let mut r = Recording::default();
        let full = vec![u32::MAX; shape.tokens() * row];
        let keys = packed(&mut r, &full, Element::Spikes, shape);
        let plus_only: Vec<u32> =
            (0..2 * full.len()).map(|i| if (i / row).is_multiple_of(2) { u32::MAX } else { 0 }).collect();
        let v = packed(&mut r, &plus_only, Element::Ternary, shape);
        let out = output(&mut r, "pairs", Element::Spikes, pairs_shape(shape));
        r.push(KeyValuePairs { layer: "pairs".to_owned(), keys, v, out, head_dim: shape.channels });
        r
    });
    let sum = 72u64 * 8192 * 8192;
    for (device, outputs) in &all {
        assert_eq!(words_of(outputs, "pairs"), [sum & 0xffff_ffff, sum >> 32], "{device}");
    }
}
