use proptest::prelude::*;
use spikeshade::kernels::accumulate::AccumulateOp;
use spikeshade::kernels::step::Step;
use spikeshade::recording::Recording;
use spikeshade::reference::accumulate::accumulate;

use crate::harness::*;

#[test]
fn agrees_with_its_twin_and_the_definition() {
    check(32, (kinds(), any::<u64>(), lengths(), 1..=5usize, any::<bool>()), |(kind, seed, len, count, stale)| {
        // A third is none on a dyadic grid.
        let count = if kind == Kind::Dyadic { count.next_power_of_two() } else { count };
        let mut data = Data::new(seed, kind);
        let before = if stale { vec![f32::NAN; len] } else { data.reals(len, -64..=64, 1.0) };
        let gradients: Vec<Vec<f32>> = (0..count).map(|_| data.reals(len, -64..=64, 0.125)).collect();
        let share = 1.0 / count as f32;
        let all = run(|| {
            let mut r = Recording::default();
            let sum = in_place(&mut r, "sum", &before);
            for (i, g) in gradients.iter().enumerate() {
                let g = real_padded_with(&mut r, g, flat(len), f32::NAN);
                let accumulate_keep = f32::from(u8::from(i > 0));
                let step = Step::new(1, 0.1, 0.0, [0.9, 0.999]);
                let step = Step { accumulate_keep, accumulate_share: share, ..step };
                let step = parameter(&mut r, &step.encode());
                r.push(AccumulateOp { layer: "accumulate".to_owned(), sum, g, step });
            }
            r
        });
        let column = |i: usize| gradients.iter().map(move |g| f64::from(g[i]));
        let expected: Vec<f64> = (0..len).map(|i| column(i).sum::<f64>() / count as f64).collect();
        let terms: Vec<f64> = (0..len).map(|i| column(i).map(f64::abs).sum()).collect();
        reals_agree(&all, "sum", kind, &expected, &terms);
        let mut twin = f64s(&before);
        gradients.iter().enumerate().for_each(|(i, g)| accumulate(&mut twin, &f64s(g), i == 0, 1.0 / count as f64));
        assert!(twin.iter().zip(&expected).all(|(a, b)| (a - b).abs() <= 1e-12));
    });
}
