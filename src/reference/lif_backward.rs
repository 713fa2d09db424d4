//! The twin of `shaders/lif_backward.wgsl`.

use super::surrogate::surrogate;
use super::{HostTensors, Lif, Real, parallel};
use crate::config::Surrogate;
use crate::kernels::lif_backward::{LifBackwardOp, MOST_STEPS};
use crate::tensor::Element;

/// What the backward pass of a neuron needs beside the neuron.
#[derive(Clone, Copy, Debug)]
pub struct Backward<F> {
    /// The surrogate derivative.
    pub surrogate: Surrogate,
    /// Its steepness.
    pub alpha: F,
    /// Whether the reset is left out of the gradient.
    pub detach_reset: bool,
    /// Whether the neuron is ternary.
    pub ternary: bool,
}

/// The membrane after a spike s₊ - s₋, `h (1 - |s|) + v_reset |s|` or `h - v_threshold s`. At 0 and 1 this is [`Lif::reset`];
/// between them it is the smooth neuron that finite differences check the gradient on.
pub fn reset<F: Real>(lif: &Lif<F>, h: F, (up, down): (F, F)) -> F {
    if lif.soft {
        h - lif.v_threshold * (up - down)
    } else {
        h * (F::from(1.0) - (up + down)) + lif.v_reset * (up + down)
    }
}

/// The gradient of one neuron's input over T: `x(t)` its input, `g_s(t)` the gradient of its spikes, `fire(t, h)` how its
/// membrane fires (s₊ and s₋); calls `g_x(t, g)` for t descending.
pub fn neuron_backward<F: Real>(
    lif: &Lif<F>,
    b: &Backward<F>,
    steps: usize,
    fire: impl Fn(usize, F) -> (F, F),
    x: impl Fn(usize) -> F,
    g_s: impl Fn(usize) -> F,
    mut g_x: impl FnMut(usize, F),
) {
    let (zero, one) = (F::default(), F::from(1.0));
    let mut h = [zero; MOST_STEPS];
    let mut v = lif.v_reset;
    for (t, h) in h[..steps].iter_mut().enumerate() {
        *h = lif.charge(v, x(t));
        v = reset(lif, *h, fire(t, *h));
    }
    let mut g_v = zero;
    for (t, &h) in h[..steps].iter().enumerate().rev() {
        let up = surrogate(b.surrogate, b.alpha, h - lif.v_threshold);
        let down = if b.ternary { surrogate(b.surrogate, b.alpha, -h - lif.v_threshold) } else { zero };
        let (s_up, s_down) = fire(t, h);
        let mut through = if lif.soft { one } else { one - (s_up + s_down) };
        if !b.detach_reset {
            through = if lif.soft {
                through - lif.v_threshold * (up + down)
            } else {
                through + (lif.v_reset - h) * (up - down)
            };
        }
        let g_h = g_s(t) * (up + down) + g_v * through;
        g_v = g_h * (one - lif.inv_tau);
        g_x(t, if lif.decay_input { g_h * lif.inv_tau } else { g_h });
    }
}

/// `x` `[T or 1][n]`, `g_s` `[T][n]`, `g_x` like `x`: the gradient through time of n neurons; summed over T where x is the same
/// at every timestep.
pub fn lif_backward<F: Real>(x: &[F], g_s: &[F], steps: usize, lif: &Lif<F>, b: &Backward<F>, g_x: &mut [F]) {
    const BLOCK: usize = 4096;
    let n = g_s.len() / steps.max(1);
    let x_steps = x.len() / n.max(1);
    g_x.fill(F::default());
    let spike = |fires: bool| if fires { F::from(1.0) } else { F::default() };
    let fire = |_: usize, h: F| {
        let (up, down) = lif.fire(h, b.ternary);
        (spike(up), spike(down))
    };
    let blocks = parallel::row_blocks(g_x, x_steps, 1, BLOCK);
    parallel::for_each(blocks.into_iter().enumerate().collect(), |(block, mut g_x)| {
        for i in 0..g_x[0].len() {
            let at = block * BLOCK + i;
            let input = |t: usize| x[t.min(x_steps - 1) * n + at];
            let add = |t: usize, g: F| {
                let sum = &mut g_x[t.min(x_steps - 1)][i];
                *sum = *sum + g;
            };
            neuron_backward(lif, b, steps, fire, input, |t| g_s[t * n + at], add);
        }
    });
}

/// Runs a recorded op on the host.
pub fn run<F: Real>(op: &LifBackwardOp, host: &mut HostTensors<F>) {
    let steps = host.recording.get(op.g_s).shape.steps;
    let b = Backward {
        surrogate: op.surrogate,
        alpha: op.alpha.into(),
        detach_reset: op.detach_reset,
        ternary: op.element == Element::Ternary,
    };
    let mut g_x = host.take_real(op.g_x);
    lif_backward(host.real(op.x), host.real(op.g_s), steps, &(&op.neuron).into(), &b, &mut g_x);
    host.put_real(op.g_x, g_x);
}
