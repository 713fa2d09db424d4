use proptest::prelude::*;
use spikeshade::kernels::adamw::AdamWOp;
use spikeshade::kernels::step::{Clip, Step};
use spikeshade::recording::{Recording, TensorId};
use spikeshade::reference::adamw::adamw;
use spikeshade::tensor::Element;
use spikeshade::train::adamw::AdamW;

use crate::gradient_norm::judge;
use crate::harness::*;

/// The op with no tensors but its scalars, for the settings.
fn op(of: &AdamW, decayed: usize, [p, m, v, g, step, clip]: [TensorId; 6]) -> AdamWOp {
    let layer = "adamw".to_owned();
    AdamWOp { layer, p, m, v, g, step, clip, decayed, beta1: of.beta1, beta2: of.beta2, eps: of.eps }
}

#[test]
fn agrees_with_its_twin_and_the_definition() {
    let settings = (1e-4..0.1f64, 0.0..0.5f64, 0.0..0.99f64, 0.5..0.9999f64);
    let cases = (any::<u64>(), lengths(), 0.0..=1.0f64, 1..2000u32, settings, any::<bool>());
    check(32, cases, |(seed, len, decayed, n, (lr, weight_decay, beta1, beta2), clipped)| {
        let of = AdamW { lr, beta1, beta2, eps: 1e-8, weight_decay };
        let decayed = (decayed * len as f64) as usize;
        let mut data = Data::new(seed, Kind::Float);
        let [p, m, g] = [1.0, 0.5, 2.0].map(|most: f32| data.reals(len, -64..=64, most / 64.0));
        let v = data.reals(len, 0..=64, 1.0 / 64.0);
        let step = Step::new(n, lr, weight_decay, [beta1, beta2]);
        let clip = Clip { factor: if clipped { 0.25f32 } else { 1.0 }, norm: 1.0, skipped: false };
        let all = run(|| {
            let mut r = Recording::default();
            let [p, m, v] = [("p", &p), ("m", &m), ("v", &v)].map(|(name, data)| in_place(&mut r, name, data));
            let g = real_padded_with(&mut r, &g, flat(len), f32::NAN);
            let (step, clip) = (parameter(&mut r, &step.encode()), parameter(&mut r, &clip.encode()));
            r.push(op(&of, decayed, [p, m, v, g, step, clip]));
            r
        });

        // The host's own AdamW, moments in f64; the second part of the shard is one that does not decay.
        let scaled: Vec<f32> = g.iter().map(|g| g * clip.factor).collect();
        let (mut p1, mut m1, mut v1) = (p.clone(), f64s(&m), f64s(&v));
        for (part, weight_decay) in [(0..decayed, weight_decay), (decayed..len, 0.0)] {
            let moments = (&mut m1[part.clone()], &mut v1[part.clone()]);
            AdamW { weight_decay, ..of }.step(n, &mut p1[part.clone()], &scaled[part], moments);
        }
        let p1 = f64s(&p1);
        let terms = |i: usize| f64::from(m[i].abs() + scaled[i].abs());
        // The first moment may cancel; its error goes through the step's length.
        let moved = |i: usize| {
            let (correction1, correction2) = (1.0 - beta1.powf(n.into()), 1.0 - beta2.powf(n.into()));
            lr * terms(i) / correction1 / ((v1[i] / correction2).sqrt() + of.eps)
        };
        within(&all, "m", &m1, |i| 1e-6 * terms(i));
        within(&all, "v", &v1, |i| 1e-6 * v1[i] + 1e-30);
        within(&all, "p", &p1, |i| 3e-7 * f64::from(p[i].abs()) + 3e-6 * moved(i));

        // And the twin in f64, whose scalars are f32's.
        let [mut p2, mut m2, mut v2] = [&p, &m, &v].map(|v| f64s(v));
        let step = Step::decode(&f64s(&step.encode()));
        let clip = Clip::decode(&f64s(&clip.encode()));
        let ids = [Recording::default().tensor("none", Element::Real, flat(1)); 6];
        let uniform = op(&of, decayed, ids).uniform(len);
        adamw([&mut p2, &mut m2, &mut v2], &f64s(&g), &step, &clip, &uniform);
        for i in 0..len {
            assert!((m2[i] - m1[i]).abs() <= 2e-7 * terms(i), "m[{i}]: {} and {} by definition", m2[i], m1[i]);
            assert!((v2[i] - v1[i]).abs() <= 2e-7 * v1[i], "v[{i}]: {} and {} by definition", v2[i], v1[i]);
            let margin = 2e-7 * p[i].abs() as f64 + 1e-6 * moved(i);
            assert!((p2[i] - p1[i]).abs() <= margin, "p[{i}]: {} and {} by definition", p2[i], p1[i]);
        }
    });
}

#[test]
fn a_gradient_that_is_not_finite_changes_nothing() {
    let mut data = Data::new(5, Kind::Float);
    let [p, m, mut g] = [(); 3].map(|()| data.reals(301, -64..=64, 0.03));
    let v = data.reals(301, 0..=64, 0.03);
    g[77] = f32::NAN;
    let all = run(|| {
        let mut r = Recording::default();
        let [p, m, v] = [("p", &p), ("m", &m), ("v", &v)].map(|(name, data)| in_place(&mut r, name, data));
        let g = real(&mut r, &g, flat(301));
        let clip = judge(&mut r, &[g], 1.0, "clip");
        let step = parameter(&mut r, &Step::new(3, 0.1, 0.1, [0.9, 0.999]).encode());
        r.push(op(&AdamW::default(), 301, [p, m, v, g, step, clip]));
        r
    });
    for (device, outputs) in &all {
        for (name, before) in [("p", &p), ("m", &m), ("v", &v)] {
            assert_eq!(reals(outputs, name), before, "{name} on {device}");
        }
    }
}

/// The start and the gradients of the ten steps; p\[5..\] does not decay.
pub const LEN: usize = 7;
pub const DECAYED: usize = 5;

pub fn start() -> Vec<f32> {
    (0..LEN).map(|i| ((i * 3 % 7) as f32 - 3.0) / 4.0).collect()
}

pub fn gradient(n: u32) -> Vec<f32> {
    (0..LEN as u32).map(|i| ((n * 7 + i * 5) % 11) as f32 / 8.0 - 0.625).collect()
}

pub fn rate(n: u32) -> f64 {
    f64::from(1 + n % 3) / 64.0
}

// Of torch 2's torch.optim.AdamW in float64 after clip_grad_norm_ to 0.75: lr = rate(n), betas 0.9 and 0.999, eps 1e-8,
// weight decay 0.06, and 0 for p[5..].
const TORCH_P: [f64; LEN] =
    [-0.825313204, 0.066902667, 0.743402213, -0.211771297, 0.570424254, -0.612709379, 0.342725345];
const TORCH_M: [f64; LEN] =
    [0.025272179, 0.021845949, -0.034136807, 0.014107425, -0.020633805, -0.007633794, -0.025577339];
const TORCH_V: [f64; LEN] = [0.000687301, 0.000923374, 0.000659522, 0.000912337, 0.000722591, 0.000895070, 0.000799550];

#[test]
fn ten_clipped_steps_are_those_of_torch() {
    let of = AdamW::default();
    let all = run(|| {
        let mut r = Recording::default();
        let zeros = [0.0; LEN];
        let p = in_place(&mut r, "p", &start());
        let (m, v) = (in_place(&mut r, "m", &zeros), in_place(&mut r, "v", &zeros));
        for n in 1..=10 {
            let g = real(&mut r, &gradient(n), flat(LEN));
            let clip = judge(&mut r, &[g], 0.75, &format!("clip {n}"));
            let step = Step::new(n, rate(n), of.weight_decay, [of.beta1, of.beta2]);
            let step = parameter(&mut r, &step.encode());
            r.push(op(&of, DECAYED, [p, m, v, g, step, clip]));
        }
        r
    });
    within(&all, "p", &TORCH_P, |_| 1e-6);
    within(&all, "m", &TORCH_M, |_| 1e-7);
    within(&all, "v", &TORCH_V, |_| 2e-9);
}
