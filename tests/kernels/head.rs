use proptest::prelude::*;
use spikeshade::kernels::head::HeadOp;
use spikeshade::recording::Recording;
use spikeshade::reference::head::head;
use spikeshade::tensor::{Element, Shape};

use crate::harness::*;

#[test]
fn agrees_with_its_twin() {
    let cases = (kinds(), any::<u64>(), 1..=9usize, 1..=200usize, 1..=200usize);
    check(48, cases, |(kind, seed, batch, channels, classes)| {
        let mut data = Data::new(seed, kind);
        let rate = data.reals(batch * channels, 0..=64, 1.0 / 64.0);
        let weights = data.reals(channels * classes, -64..=64, 1.0 / 64.0);
        let bias = data.reals(classes, -64..=64, 1.0 / 64.0);
        let all = run(|| {
            let mut r = Recording::default();
            let input = real(&mut r, &rate, Shape { batch, ..flat(channels) });
            let (weights, bias) = (parameter(&mut r, &weights), parameter(&mut r, &bias));
            let out = output(&mut r, "logits", Element::Real, flat(batch * classes));
            r.push(HeadOp { layer: "head".to_owned(), input, weights, bias, out, classes });
            r
        });
        let of = |change: fn(f32) -> f32| {
            let [rate, weights, bias] = [&padded(&rate, channels), &weights, &bias]
                .map(|v| v.iter().map(|&v| change(v).into()).collect::<Vec<f64>>());
            let mut logits = vec![0.0; batch * classes];
            head(&rate, channels.next_multiple_of(4), channels, &weights, &bias, classes, &mut logits);
            logits
        };
        reals_agree(&all, "logits", kind, &of(|x| x), &of(f32::abs));
    });
}
