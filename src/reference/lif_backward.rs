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
#[inline(always)]
pub fn reset<F: Real>(lif: &Lif<F>, h: F, (up, down): (F, F)) -> F {
    if lif.soft {
        h - lif.v_threshold * (up - down)
    } else {
        h * (F::from(1.0) - (up + down)) + lif.v_reset * (up + down)
    }
}

/// The gradients of the inputs of N neurons over T: `x(t)` their inputs, `g_s(t)` the gradients of their spikes, `fire(t, h)` how
/// a membrane fires (s₊ and s₋); calls `g_x(t, g)` for t descending. Their membranes go into `h`, one row a timestep.
#[inline(always)]
pub fn neuron_backward<F: Real, const N: usize>(
    lif: &Lif<F>,
    b: &Backward<F>,
    h: &mut [[F; N]],
    fire: impl Fn(usize, F) -> (F, F),
    x: impl Fn(usize) -> [F; N],
    g_s: impl Fn(usize) -> [F; N],
    mut g_x: impl FnMut(usize, [F; N]),
) {
    let (lif, b) = (*lif, *b);
    let (zero, one) = (F::default(), F::from(1.0));
    let mut v = [lif.v_reset; N];
    for (t, h) in h.iter_mut().enumerate() {
        let x = x(t);
        *h = lanes(|i| lif.charge(v[i], x[i]));
        v = lanes(|i| reset(&lif, h[i], fire(t, h[i])));
    }
    let mut g_v = [zero; N];
    for (t, h) in h.iter().enumerate().rev() {
        let up = surrogates::<F, N>(&b, lanes(|i| h[i] - lif.v_threshold));
        let down = if b.ternary { surrogates::<F, N>(&b, lanes(|i| -h[i] - lif.v_threshold)) } else { [zero; N] };
        let fired = |i: usize| {
            let (up, down) = fire(t, h[i]);
            up + down
        };
        // The derivative of the membrane after firing.
        let through = match (lif.soft, b.detach_reset) {
            (false, true) => lanes(|i| one - fired(i)),
            (false, false) => lanes(|i| one - fired(i) + (lif.v_reset - h[i]) * (up[i] - down[i])),
            (true, true) => [one; N],
            (true, false) => lanes(|i| one - lif.v_threshold * (up[i] + down[i])),
        };
        let g_s = g_s(t);
        let g_h: [F; N] = lanes(|i| g_s[i] * (up[i] + down[i]) + g_v[i] * through[i]);
        g_v = lanes(|i| g_h[i] * (one - lif.inv_tau));
        g_x(t, if lif.decay_input { lanes(|i| g_h[i] * lif.inv_tau) } else { g_h });
    }
}

/// φ of N distances.
#[inline(always)]
fn surrogates<F: Real, const N: usize>(b: &Backward<F>, x: [F; N]) -> [F; N] {
    // One loop for each kind.
    match b.surrogate {
        Surrogate::Sigmoid => lanes(|i| surrogate(Surrogate::Sigmoid, b.alpha, x[i])),
        Surrogate::Atan => lanes(|i| surrogate(Surrogate::Atan, b.alpha, x[i])),
        Surrogate::Rectangular => lanes(|i| surrogate(Surrogate::Rectangular, b.alpha, x[i])),
        Surrogate::Triangular => lanes(|i| surrogate(Surrogate::Triangular, b.alpha, x[i])),
    }
}

/// `f(0), f(1), …`, in a loop that becomes vectors.
#[inline(always)]
fn lanes<F: Real, const N: usize>(f: impl Fn(usize) -> F) -> [F; N] {
    let mut all = [F::default(); N];
    for (i, x) in all.iter_mut().enumerate() {
        *x = f(i);
    }
    all
}

/// Neurons worked through side by side: a few vectors.
const LANES: usize = 32;

/// `x` `[T or 1][n]`, `g_s` `[T][n]`, `g_x` like `x`: the gradient through time of n neurons; summed over T where x is the same
/// at every timestep.
pub fn lif_backward<F: Real>(x: &[F], g_s: &[F], steps: usize, lif: &Lif<F>, b: &Backward<F>, g_x: &mut [F]) {
    const BLOCK: usize = 4096;
    let n = g_s.len() / steps.max(1);
    let x_steps = x.len() / n.max(1);
    let blocks = parallel::row_blocks(g_x, x_steps, 1, BLOCK);
    parallel::for_each(blocks.into_iter().enumerate().collect(), |(block, g_x)| {
        parallel::wide(
            #[inline(always)]
            || block_backward(block * BLOCK, (x, x_steps), g_s, steps, lif, b, g_x),
        );
    });
}

/// [`lif_backward`] of the neurons from `first` on, whose gradients `g_x` are one slice a timestep.
#[inline(always)]
fn block_backward<F: Real>(
    first: usize,
    (x, x_steps): (&[F], usize),
    g_s: &[F],
    steps: usize,
    lif: &Lif<F>,
    b: &Backward<F>,
    mut g_x: Vec<&mut [F]>,
) {
    let (lif, b) = (*lif, *b);
    let n = g_s.len() / steps;
    let spike = |fires: bool| if fires { F::from(1.0) } else { F::default() };
    let fire = |_: usize, h: F| {
        let (up, down) = lif.fire(h, b.ternary);
        (spike(up), spike(down))
    };
    let mut h = [[F::default(); LANES]; MOST_STEPS];
    for i in (0..g_x[0].len()).step_by(LANES) {
        let lanes = LANES.min(g_x[0].len() - i);
        let input = |t: usize| load(&x[t.min(x_steps - 1) * n + first + i..][..lanes]);
        let gradient = |t: usize| load(&g_s[t * n + first + i..][..lanes]);
        neuron_backward(&lif, &b, &mut h[..steps], fire, input, gradient, |t, mut g| {
            let out = &mut g_x[t.min(x_steps - 1)][i..i + lanes];
            if x_steps < steps && t + 1 < steps {
                // The gradients of later timesteps are there already.
                g.iter_mut().zip(&*out).for_each(|(g, &sum)| *g = sum + *g);
            }
            match <&mut [F; LANES]>::try_from(&mut *out) {
                Ok(out) => *out = g,
                Err(_) => out.copy_from_slice(&g[..lanes]),
            }
        });
    }
}

/// The values, zeros after them.
#[inline(always)]
fn load<F: Real>(values: &[F]) -> [F; LANES] {
    // A copy of known length is a few instructions, any other a call.
    if let Ok(all) = values.try_into() {
        return all;
    }
    let mut lanes = [F::default(); LANES];
    lanes[..values.len()].copy_from_slice(values);
    lanes
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
