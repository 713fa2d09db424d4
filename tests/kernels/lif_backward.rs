use proptest::prelude::*;
use spikeshade::config::Surrogate;
use spikeshade::kernels::batch_norm::BatchNorm;
use spikeshade::kernels::bn_apply::BnApplyOp;
use spikeshade::kernels::lif_backward::LifBackwardOp;
use spikeshade::kernels::neuron::Neuron;
use spikeshade::recording::Recording;
use spikeshade::reference::Lif;
use spikeshade::reference::bn_apply::Norm;
use spikeshade::reference::lif_backward::{Backward, lif_backward, neuron_backward, reset};
use spikeshade::reference::surrogate::{primitive, surrogate};
use spikeshade::tensor::Element;

use crate::harness::*;

/// Where spike or gradient jump, as membranes.
fn jumps(lif: &Lif<f64>, b: &Backward<f64>) -> Vec<f64> {
    let edge = 0.5 / b.alpha;
    let around = match b.surrogate {
        Surrogate::Rectangular => vec![-edge, 0.0, edge],
        _ => vec![0.0],
    };
    around.iter().flat_map(|d| [lif.v_threshold + d, -lif.v_threshold - d]).collect()
}

/// Whether f32 decides the same way as f64 at every timestep, for binary and ternary neurons.
fn clear_of_jumps(lif: &Lif<f64>, jumps: &[f64], x: impl Fn(usize) -> f64, steps: usize) -> bool {
    [false, true].into_iter().all(|ternary| {
        let mut v = lif.v_reset;
        (0..steps).all(|t| {
            let h = lif.charge(v, x(t));
            let (up, down) = lif.fire(h, ternary);
            v = lif.reset(h, up, down);
            jumps.iter().all(|j| (h - j).abs() > 1e-3)
        })
    })
}

/// The sum of the magnitudes of the terms of each gradient of one neuron's input, t ascending. A surrogate counts at least a
/// hundredth of its steepness: near the foot of a slope its relative error has no bound.
fn terms(lif: &Lif<f64>, b: &Backward<f64>, x: &[f64], g_s: &[f64]) -> Vec<f64> {
    let mut v = lif.v_reset;
    let mut path = Vec::new();
    for &x in x {
        let h = lif.charge(v, x);
        let (up, down) = lif.fire(h, b.ternary);
        v = lif.reset(h, up, down);
        path.push((h, up || down));
    }
    let mut g_v = 0.0;
    let mut terms = vec![0.0; x.len()];
    for t in (0..x.len()).rev() {
        let (h, fired) = path[t];
        let mut slope = 0.01 * b.alpha + surrogate(b.surrogate, b.alpha, h - lif.v_threshold);
        if b.ternary {
            slope += surrogate(b.surrogate, b.alpha, -h - lif.v_threshold);
        }
        let mut through = f64::from(u8::from(lif.soft || !fired));
        if !b.detach_reset {
            through += slope * if lif.soft { lif.v_threshold } else { (lif.v_reset - h).abs() };
        }
        let g_h = g_s[t].abs() * slope + g_v * through;
        g_v = g_h * (1.0 - lif.inv_tau);
        terms[t] = if lif.decay_input { g_h * lif.inv_tau } else { g_h };
    }
    terms
}

#[test]
fn agrees_with_its_twin() {
    let surrogates = (0..4usize, prop_oneof![Just(None), Just(Some(1.5f32))]);
    let modes = (any::<bool>(), any::<bool>(), any::<bool>());
    let cases = (any::<u64>(), grids(600), 1..=70usize, neurons(), surrogates, modes);
    check(48, cases, |(seed, grid, channels, choice, (kind, alpha), (still, normed, detach_reset))| {
        let mut data = Data::new(seed, Kind::Float);
        let shape = grid.with_channels(channels);
        let steps = shape.steps;
        let neuron = data.neuron(choice, steps, 15);
        let lif: Lif<f64> = (&neuron).into();
        let surrogate = Surrogate::ALL[kind];
        let alpha = alpha.unwrap_or(surrogate.default_alpha());
        let of = |ternary| Backward { surrogate, alpha: f64::from(alpha), detach_reset, ternary };
        let jumps = jumps(&lif, &of(true));
        let x_shape = if still { shape.with_steps(1) } else { shape };
        let n = shape.rows() * channels;
        let norm = normed.then(|| BatchNormData::new(&mut data, channels));
        // What the neuron `i` makes of what it is given.
        let input = |i: usize, x: f32| norm.as_ref().map_or(x.into(), |norm| norm.apply(x.into(), i % channels).0);
        let mut x = vec![0.0; x_shape.steps * n];
        for i in 0..n {
            for attempt in 0.. {
                assert!(attempt < 1000, "no input clear of the jumps");
                let own = data.reals(x_shape.steps, -40..=64, 0.0625);
                if clear_of_jumps(&lif, &jumps, |t| input(i, own[t.min(x_shape.steps - 1)]), steps) {
                    own.iter().enumerate().for_each(|(t, &v)| x[t * n + i] = v);
                    break;
                }
            }
        }
        let g_s = data.reals(steps * n, -16..=16, 0.125);
        let all = run(|| {
            let mut r = Recording::default();
            let values = &g_s;
            let (x, g_s) = (real(&mut r, &x, x_shape), real(&mut r, &g_s, shape));
            let norm = norm.as_ref().map(|norm| norm.record(&mut r, 0..channels));
            for (name, element) in [("binary", Element::Spikes), ("ternary", Element::Ternary)] {
                let layer = name.to_owned();
                let g_x = output(&mut r, name, Element::Real, x_shape);
                let op = LifBackwardOp { layer, x, norm, g_s, g_x, neuron, element, surrogate, alpha, detach_reset };
                r.push(op.clone());
                if !still {
                    let g = in_place_of(&mut r, &format!("{name} in place"), values, shape);
                    r.push(LifBackwardOp { g_s: g, g_x: g, ..op.clone() });
                }
                if let Some(BatchNorm { mean, inv_std, gamma, beta }) = norm {
                    let (layer, out) = ("bn".to_owned(), r.tensor("normalised", Element::Real, x_shape));
                    let (residual, relu) = (None, false);
                    r.push(BnApplyOp { layer, y: x, mean, inv_std, gamma, beta, residual, out, relu });
                    let g_x = output(&mut r, &format!("{name} after"), Element::Real, x_shape);
                    r.push(LifBackwardOp { x: out, norm: None, g_x, ..op });
                }
            }
            r
        });
        // The twin rounds alike, whatever is one op and what two.
        for name in ["binary", "ternary"] {
            let others = [" in place", " after"].map(|form| format!("{name}{form}"));
            for other in others.iter().filter_map(|other| all[0].1.get(other)) {
                assert!(reals(&all[0].1, name) == reals(&all[0].1, &other.name), "{}", other.name);
            }
        }
        let (g_s, values) = (f64s(&g_s), norm.as_ref().map(BatchNormData::wide));
        let norm = values.as_ref().map(|[mean, inv_std, gamma, beta]| Norm { mean, inv_std, gamma, beta, relu: false });
        let given = f64s(&padded(&x, channels));
        let pad = |row: &[f64]| [row, &vec![0.0; row.len().next_multiple_of(4) - row.len()]].concat();
        let wide_g_s: Vec<f64> = g_s.chunks(channels).flat_map(pad).collect();
        let x: Vec<f64> = x.iter().enumerate().map(|(i, &x)| input(i, x)).collect();
        for (name, ternary) in [("binary", false), ("ternary", true)] {
            let mut g_x = vec![0.0; given.len()];
            lif_backward((&given, norm.as_ref()), Some(&wide_g_s), steps, &lif, &of(ternary), &mut g_x);
            let g_x = unpadded(&g_x, channels);
            let mut margins = vec![0.0; x.len()];
            for i in 0..n {
                let own: Vec<f64> = (0..steps).map(|t| x[t.min(x_shape.steps - 1) * n + i]).collect();
                let g: Vec<f64> = (0..steps).map(|t| g_s[t * n + i]).collect();
                for (t, term) in terms(&lif, &of(ternary), &own, &g).into_iter().enumerate() {
                    margins[t.min(x_shape.steps - 1) * n + i] += 1e-4 * term;
                }
            }
            within(&all, name, &g_x, |i| margins[i] + 1e-30);
            for form in ["in place", "after"].map(|form| format!("{name} {form}")) {
                if all[0].1.get(&form).is_some() {
                    within(&all, &form, &g_x, |i| margins[i] + 1e-30);
                }
            }
        }
    });
}

/// The smooth neuron's spikes: the step replaced by the surrogate's primitive.
fn smooth(lif: &Lif<f64>, b: &Backward<f64>, h: f64) -> (f64, f64) {
    let step = |x| primitive(b.surrogate, b.alpha, x);
    (step(h - lif.v_threshold), if b.ternary { step(-h - lif.v_threshold) } else { 0.0 })
}

/// `Σ g_s s` of the smooth neuron; its reset follows `frozen` where given, else its own spikes. Also the membranes.
fn smooth_loss(
    lif: &Lif<f64>,
    b: &Backward<f64>,
    x: &[f64],
    g_s: &[f64],
    frozen: Option<&[(f64, f64)]>,
) -> (f64, Vec<f64>) {
    let (mut v, mut loss, mut all) = (lif.v_reset, 0.0, Vec::new());
    for (t, &x) in x.iter().enumerate() {
        let h = lif.charge(v, x);
        let s = smooth(lif, b, h);
        loss += g_s[t] * (s.0 - s.1);
        v = reset(lif, h, frozen.map_or(s, |frozen| frozen[t]));
        all.push(h);
    }
    (loss, all)
}

#[test]
fn is_the_gradient_of_the_smooth_neuron() {
    let modes = (any::<bool>(), any::<bool>(), 0..4usize);
    let cases = (any::<u64>(), 1..=12usize, neurons(), modes);
    check(400, cases, |(seed, steps, choice, (ternary, detach_reset, kind))| {
        let mut data = Data::new(seed, Kind::Float);
        let neuron = Neuron { tau: [1.0, 1.5, 2.0, 3.7][kind], ..data.neuron(choice, steps, 15) };
        let lif: Lif<f64> = (&neuron).into();
        let surrogate = Surrogate::ALL[seed as usize % 4];
        let b = Backward { surrogate, alpha: f64::from(surrogate.default_alpha()), detach_reset, ternary };
        let g_s = f64s(&data.reals(steps, -16..=16, 0.125));
        // A detached reset is a constant of the gradient: the reset at given values, of which any do.
        let frozen: Vec<(f64, f64)> = (0..steps)
            .map(|_| [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0)][data.one_of(1, &[0.0, 1.0, 2.0])[0] as usize])
            .map(|(up, down)| (up, if ternary { down } else { 0.0 }))
            .collect();
        let frozen = detach_reset.then_some(&frozen[..]);
        let kinks: Vec<f64> = match surrogate {
            Surrogate::Rectangular => vec![-0.5 / b.alpha, 0.5 / b.alpha],
            Surrogate::Triangular => vec![-1.0 / b.alpha, 0.0, 1.0 / b.alpha],
            _ => vec![],
        };
        let x = (0..1000).map(|_| f64s(&data.reals(steps, -32..=48, 0.0625))).find(|x| {
            let (_, h) = smooth_loss(&lif, &b, x, &g_s, frozen);
            h.iter().all(|h| {
                kinks.iter().all(|k| {
                    (h - lif.v_threshold - k).abs() > 1e-3 && (!ternary || (-h - lif.v_threshold - k).abs() > 1e-3)
                })
            })
        });
        let x = x.expect("some input is clear of the kinks");
        let mut gradient: Vec<[f64; 1]> = g_s.iter().map(|&g| [g]).collect();
        let fire = |t: usize, h: f64| frozen.map_or_else(|| smooth(&lif, &b, h), |frozen| frozen[t]);
        neuron_backward(&lif, &b, &mut vec![[0.0]; steps], &mut gradient, fire, |t| [x[t]]);
        let gradient = gradient.concat();
        differences_agree("g_x", &x, &gradient, |x| smooth_loss(&lif, &b, x, &g_s, frozen).0);
    });
}
