use proptest::prelude::*;
use spikeshade::kernels::ema::EmaOp;
use spikeshade::kernels::step::Step;
use spikeshade::recording::Recording;
use spikeshade::reference::ema::ema;

use crate::harness::*;

#[test]
fn agrees_with_its_twin_and_the_definition() {
    check(32, (kinds(), any::<u64>(), lengths(), 0..4usize), |(kind, seed, len, decay)| {
        let mut data = Data::new(seed, kind);
        let [e, p] = [(); 2].map(|()| data.reals(len, -64..=64, 0.125));
        let decay = if kind == Kind::Dyadic { [0.0, 0.5, 0.875, 1.0][decay] } else { [0.1, 0.9, 0.999, 0.9999][decay] };
        let step = Step { ema_decay: decay, ..Step::new(1, 0.1, 0.0, [0.9, 0.999]) };
        let all = run(|| {
            let mut r = Recording::default();
            let e = in_place(&mut r, "e", &e);
            let p = real_padded_with(&mut r, &p, flat(len), f32::NAN);
            let step = parameter(&mut r, &step.encode());
            r.push(EmaOp { layer: "ema".to_owned(), e, p, step });
            r
        });
        let (e, p) = (f64s(&e), f64s(&p));
        let decay = f64::from(decay);
        let expected: Vec<f64> = e.iter().zip(&p).map(|(e, p)| decay * e + (1.0 - decay) * p).collect();
        let terms: Vec<f64> = e.iter().zip(&p).map(|(e, p)| e.abs() + p.abs()).collect();
        reals_agree(&all, "e", kind, &expected, &terms);
        let mut twin = e;
        ema(&mut twin, &p, decay);
        assert!(twin.iter().zip(&expected).all(|(a, b)| (a - b).abs() <= 1e-12));
    });
}
