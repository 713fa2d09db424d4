use proptest::prelude::*;
use spikeshade::kernels::gradient_norm::{GradientNormCombineOp, GradientNormPartialOp, partials};
use spikeshade::recording::{Recording, TensorId};
use spikeshade::reference::gradient_norm::{combine, partial};
use spikeshade::tensor::Element;

use crate::harness::*;

/// The ops that judge a gradient's shards, whose padding is not to be read; `clip` is read back.
pub fn judge(r: &mut Recording, shards: &[TensorId], max_norm: f32, name: &str) -> TensorId {
    let blocks = |id: &TensorId| partials(r.get(*id).shape.channels);
    let counts: Vec<usize> = shards.iter().map(blocks).collect();
    let sums = r.tensor("partials", Element::Real, flat(counts.iter().sum()));
    let mut first_partial = 0;
    for (&gradient, count) in shards.iter().zip(counts) {
        r.push(GradientNormPartialOp { layer: "norm".to_owned(), gradient, partials: sums, first_partial });
        first_partial += count;
    }
    let clip = output(r, name, Element::Real, flat(4));
    r.push(GradientNormCombineOp { layer: "norm".to_owned(), partials: sums, clip, max_norm });
    clip
}

fn record(shards: &[Vec<f32>], max_norm: f32) -> Recording {
    let mut r = Recording::default();
    let shards: Vec<_> = shards.iter().map(|s| real_padded_with(&mut r, s, flat(s.len()), f32::NAN)).collect();
    judge(&mut r, &shards, max_norm, "clip");
    r
}

fn shards() -> impl Strategy<Value = Vec<usize>> {
    let len = prop_oneof![1..=9usize, 1..=3000usize, 16_000..=50_000usize];
    proptest::collection::vec(len, 1..=3)
}

#[test]
fn agrees_with_its_twin_and_the_definition() {
    let max_norms = prop_oneof![Just(0.0f32), 0.01..4.0f32, Just(1e6f32)];
    let scales = prop_oneof![4 => Just(1.0f32), 1 => Just(0.0f32), 1 => Just(1e-12f32), 1 => Just(1e15f32)];
    check(24, (any::<u64>(), shards(), max_norms, scales), |(seed, lens, max_norm, scale)| {
        let mut data = Data::new(seed, Kind::Float);
        let shards: Vec<Vec<f32>> = lens.iter().map(|&n| data.reals(n, -64..=64, scale / 64.0)).collect();
        let all = run(|| record(&shards, max_norm));
        let norm = shards.iter().flatten().map(|&g| f64::from(g).powi(2)).sum::<f64>().sqrt();
        let max = f64::from(max_norm);
        let factor = if max == 0.0 { 1.0 } else { (max / (norm + 1e-6)).min(1.0) };
        let clip = [factor, norm, 0.0, 0.0];
        within(&all, "clip", &clip, |i| 2e-6 * clip[i]);

        let sums = shards.iter().flat_map(|shard| {
            let mut sums = vec![0.0; partials(shard.len())];
            partial(&f64s(shard), &mut sums);
            sums
        });
        let twin = combine(&sums.collect::<Vec<f64>>(), max);
        for (a, b) in twin.encode().iter().zip(clip) {
            assert!((a - b).abs() <= 1e-12 * b, "{a} and {b} by definition");
        }
    });
}

#[test]
fn what_is_not_finite_is_told_wherever_it_stands() {
    let bad = prop_oneof![
        Just(f32::NAN),
        Just(-f32::NAN),
        Just(f32::INFINITY),
        Just(f32::NEG_INFINITY),
        // Finite, but its square is not.
        Just(1e20f32),
    ];
    check(24, (any::<u64>(), shards(), bad, any::<usize>(), 0..3usize), |(seed, lens, bad, at, max_norm)| {
        let mut data = Data::new(seed, Kind::Float);
        let mut shards: Vec<Vec<f32>> = lens.iter().map(|&n| data.reals(n, -64..=64, 0.125)).collect();
        let shard = at % shards.len();
        let at = at / shards.len() % shards[shard].len();
        shards[shard][at] = bad;
        for (device, outputs) in run(|| record(&shards, max_norm as f32)) {
            assert_eq!(reals(&outputs, "clip"), [0.0, f32::INFINITY, 1.0, 0.0], "{device}, {bad} at {at} of {shard}");
        }
    });
}

#[test]
fn sums_that_are_not_finite_count_too() {
    // Every square is finite, and 1.0e38 + 1.0e38 + ... is not: within a block, and only over the blocks of two shards.
    for lens in [vec![16], vec![3, 3]] {
        let shards: Vec<Vec<f32>> = lens.iter().map(|&n| vec![1e19; n]).collect();
        for (device, outputs) in run(|| record(&shards, 1.0)) {
            assert_eq!(reals(&outputs, "clip"), [0.0, f32::INFINITY, 1.0, 0.0], "{device}, {lens:?}");
        }
    }
}
