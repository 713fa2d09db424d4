use proptest::prelude::*;
use spikeshade::kernels::sgd::SgdOp;
use spikeshade::kernels::step::{Clip, Step};
use spikeshade::recording::Recording;
use spikeshade::reference::sgd::sgd;

use crate::adamw::{DECAYED, LEN, gradient, rate, start};
use crate::gradient_norm::judge;
use crate::harness::*;

#[test]
fn agrees_with_its_twin_and_the_definition() {
    let cases = (kinds(), any::<u64>(), lengths(), 0.0..=1.0f64, 0..4u32, any::<bool>());
    check(32, cases, |(kind, seed, len, decayed, setting, nesterov)| {
        let decayed = (decayed * len as f64) as usize;
        let mut data = Data::new(seed, kind);
        let [p, b, g] = [(); 3].map(|()| data.reals(len, -64..=64, 1.0 / 64.0));
        let dyadic = kind == Kind::Dyadic;
        let momentum =
            if dyadic { [0.0, 0.5, 0.75, 0.5][setting as usize] } else { [0.0, 0.9, 0.5, 0.99][setting as usize] };
        let (lr, weight_decay) = if dyadic { (0.125, 0.25) } else { (0.1, 0.03) };
        let step = Step::new(1, lr, weight_decay, [0.9, 0.999]);
        let clip = Clip { factor: if setting == 3 { 0.5f32 } else { 1.0 }, norm: 1.0, skipped: false };
        let all = run(|| {
            let mut r = Recording::default();
            let (p, b) = (in_place(&mut r, "p", &p), in_place(&mut r, "b", &b));
            let g = real_padded_with(&mut r, &g, flat(len), f32::NAN);
            let (step, clip) = (parameter(&mut r, &step.encode()), parameter(&mut r, &clip.encode()));
            let layer = "sgd".to_owned();
            r.push(SgdOp { layer, p, b, g, step, clip, decayed, momentum, nesterov });
            r
        });

        let (mut p1, mut b1) = (f64s(&p), f64s(&b));
        let mu = f64::from(momentum);
        for i in 0..len {
            let decay = if i < decayed { weight_decay * p1[i] } else { 0.0 };
            let g = f64::from(clip.factor) * f64::from(g[i]) + decay;
            b1[i] = mu * b1[i] + g;
            p1[i] -= lr * if nesterov { g + mu * b1[i] } else { b1[i] };
        }
        let terms: Vec<f64> = (0..len).map(|i| f64::from(p[i].abs() + b[i].abs() + g[i].abs())).collect();
        reals_agree(&all, "b", kind, &b1, &terms);
        reals_agree(&all, "p", kind, &p1, &terms);

        let (mut p2, mut b2) = (f64s(&p), f64s(&b));
        let (step, clip) = (Step::decode(&f64s(&step.encode())), Clip::decode(&f64s(&clip.encode())));
        sgd([&mut p2, &mut b2], &f64s(&g), &step, &clip, decayed, mu, nesterov);
        for i in 0..len {
            let margin = 1e-7 * terms[i];
            assert!((p2[i] - p1[i]).abs() <= margin, "p[{i}]: {} and {} by definition", p2[i], p1[i]);
            assert!((b2[i] - b1[i]).abs() <= margin, "b[{i}]: {} and {} by definition", b2[i], b1[i]);
        }
    });
}

#[test]
fn a_gradient_that_is_not_finite_changes_nothing() {
    let mut data = Data::new(6, Kind::Float);
    let [p, b, mut g] = [(); 3].map(|()| data.reals(301, -64..=64, 0.03));
    g[300] = f32::INFINITY;
    for (device, outputs) in run(|| {
        let mut r = Recording::default();
        let (p, b) = (in_place(&mut r, "p", &p), in_place(&mut r, "b", &b));
        let g = real(&mut r, &g, flat(301));
        let clip = judge(&mut r, &[g], 0.0, "clip");
        let step = parameter(&mut r, &Step::new(3, 0.1, 0.1, [0.9, 0.999]).encode());
        let (layer, decayed) = ("sgd".to_owned(), 301);
        r.push(SgdOp { layer, p, b, g, step, clip, decayed, momentum: 0.9, nesterov: true });
        r
    }) {
        assert_eq!(reals(&outputs, "p"), p, "{device}");
        assert_eq!(reals(&outputs, "b"), b, "{device}");
    }
}

/// Of torch 2's torch.optim.SGD in float64: lr = rate(n), momentum 0.9, weight decay 0.25, and 0 for p\[5..\]; with Nesterov's
/// momentum after clip_grad_norm_ to 0.75.
struct Torch {
    nesterov: bool,
    max_norm: f32,
    p: [f64; LEN],
    b: [f64; LEN],
}

const TORCH: [Torch; 2] = [
    Torch {
        nesterov: false,
        max_norm: 0.0,
        p: [-0.616460044, 0.056267247, 0.588055976, -0.185270507, 0.442432802, -0.628306176, 0.303844486],
        b: [-0.874678580, 0.364231412, 0.542972660, -0.132638033, 0.558097954, -0.086119631, -0.248061842],
    },
    Torch {
        nesterov: true,
        max_norm: 0.75,
        p: [-0.553057623, 0.015416884, 0.570814351, -0.192252080, 0.412044891, -0.601218215, 0.303739244],
        b: [-0.829061026, 0.271286873, 0.731085099, -0.196680074, 0.571401134, -0.076337941, -0.255773386],
    },
];

#[test]
fn ten_steps_are_those_of_torch() {
    for torch in TORCH {
        let all = run(|| {
            let mut r = Recording::default();
            let (p, b) = (in_place(&mut r, "p", &start()), in_place(&mut r, "b", &[0.0; LEN]));
            for n in 1..=10 {
                let g = real(&mut r, &gradient(n), flat(LEN));
                let clip = judge(&mut r, &[g], torch.max_norm, &format!("clip {n}"));
                let step = parameter(&mut r, &Step::new(n, rate(n), 0.25, [0.9, 0.999]).encode());
                let (layer, decayed, momentum, nesterov) = ("sgd".to_owned(), DECAYED, 0.9, torch.nesterov);
                r.push(SgdOp { layer, p, b, g, step, clip, decayed, momentum, nesterov });
            }
            r
        });
        within(&all, "p", &torch.p, |_| 1e-6);
        within(&all, "b", &torch.b, |_| 1e-6);
    }
}
