use proptest::prelude::*;
use spikeshade::kernels::cross_entropy::CrossEntropyOp;
use spikeshade::recording::Recording;
use spikeshade::reference::cross_entropy::cross_entropy;
use spikeshade::tensor::Element;

use crate::harness::*;

/// Targets with label smoothing, or anything that adds up to 1.
fn targets(data: &mut Data, batch: usize, classes: usize, smoothing: Option<f32>) -> Vec<f32> {
    (0..batch)
        .flat_map(|_| match smoothing {
            Some(s) => {
                let label = data.reals(1, 0..=1, classes as f32 * 0.999)[0] as usize % classes;
                (0..classes).map(|k| s / classes as f32 + if k == label { 1.0 - s } else { 0.0 }).collect::<Vec<f32>>()
            }
            None => {
                let raw = data.reals(classes, 1..=64, 1.0 / 64.0);
                let sum: f64 = raw.iter().map(|&x| f64::from(x)).sum();
                raw.iter().map(|&x| (f64::from(x) / sum) as f32).collect()
            }
        })
        .collect()
}

#[test]
fn agrees_with_its_twin() {
    let classes = prop_oneof![4 => 1..=700usize, 1 => 50_000..=100_000usize];
    let smoothing = prop_oneof![Just(None), Just(Some(0.0)), Just(Some(0.1))];
    let scales = prop_oneof![Just(0.0f32), Just(0.0625), Just(8.0)];
    check(40, (any::<u64>(), 1..=9usize, classes, smoothing, scales), |(seed, batch, classes, smoothing, scale)| {
        let batch = if classes > 1000 { 1 + batch % 2 } else { batch };
        let mut data = Data::new(seed, Kind::Float);
        // At the largest scale exp would overflow (and underflow) without the maximum taken off.
        let x = data.reals(batch * classes, -64..=64, scale);
        let goal = targets(&mut data, batch, classes, smoothing);
        let all = run(|| {
            let mut r = Recording::default();
            let (logits, targets) =
                (real(&mut r, &x, flat(batch * classes)), real(&mut r, &goal, flat(batch * classes)));
            let loss = output(&mut r, "loss", Element::Real, flat(batch));
            let g_logits = output(&mut r, "g_logits", Element::Real, flat(batch * classes));
            r.push(CrossEntropyOp { layer: "loss".to_owned(), logits, targets, loss, g_logits, batch, classes });
            r
        });
        let (mut loss, mut g) = (vec![0.0; batch], vec![0.0; batch * classes]);
        let (x, goal) = (f64s(&x), f64s(&goal));
        cross_entropy(&x, &goal, classes, &mut loss, &mut g);
        // exp loses as many digits as its argument has before the point; a sum of n equal terms at worst n roundings the same way,
        // of which the longest runs are some 600.
        let span = 128.0 * f64::from(scale);
        within(&all, "loss", &loss, |b| 4e-5 * (loss[b].abs() + 1.0) + 1e-6 * span);
        within(&all, "g_logits", &g, |i| {
            let softmax = g[i] * batch as f64 + goal[i];
            (4e-5 + 1e-6 * span) * softmax / batch as f64 + 1e-6 * goal[i] / batch as f64 + 1e-30
        });
    });
}

#[test]
fn is_the_gradient_of_the_mean_loss() {
    check(40, (any::<u64>(), 1..=5usize, 1..=20usize), |(seed, batch, classes)| {
        let mut data = Data::new(seed, Kind::Float);
        let x = f64s(&data.reals(batch * classes, -64..=64, 0.0625));
        // Adding up to 1 in f64, too.
        let mut goal = f64s(&targets(&mut data, batch, classes, None));
        for row in goal.chunks_exact_mut(classes) {
            let sum: f64 = row.iter().sum();
            row.iter_mut().for_each(|t| *t /= sum);
        }
        let of = |x: &[f64]| {
            let (mut loss, mut g) = (vec![0.0; batch], vec![0.0; batch * classes]);
            cross_entropy(x, &goal, classes, &mut loss, &mut g);
            (loss.iter().sum::<f64>() / batch as f64, g)
        };
        differences_agree("g_logits", &x, &of(&x).1, |x| of(x).0);
    });
}
