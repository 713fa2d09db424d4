//! The twin of `shaders/lif_backward.wgsl`.

use super::bn_apply::{Lanes, Norm};
use super::surrogate::surrogate;
use super::{HostTensors, Lif, Real, lanes, parallel, store};
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

/// The gradients of the inputs of N neurons over T: `x(t)` their inputs, `fire(t, h)` how a membrane fires (s₊ and s₋). Their
/// membranes go into `h`, one row a timestep; `g` holds the gradients of their spikes likewise, and then those of their inputs.
#[inline(always)]
pub fn neuron_backward<F: Real, const N: usize>(
    lif: &Lif<F>,
    b: &Backward<F>,
    h: &mut [[F; N]],
    g: &mut [[F; N]],
    fire: impl Fn(usize, F) -> (F, F),
    x: impl Fn(usize) -> [F; N],
) {
    let (lif, b) = (*lif, *b);
    let (zero, one) = (F::default(), F::from(1.0));
    let mut v = [lif.v_reset; N];
    for (t, h) in h.iter_mut().enumerate() {
        let x = x(t);
        *h = each(|i| lif.charge(v[i], x[i]));
        v = each(|i| reset(&lif, h[i], fire(t, h[i])));
    }
    let mut g_v = [zero; N];
    for (t, (h, g)) in h.iter().zip(g).enumerate().rev() {
        let up = surrogates::<F, N>(&b, each(|i| h[i] - lif.v_threshold));
        let down = if b.ternary { surrogates::<F, N>(&b, each(|i| -h[i] - lif.v_threshold)) } else { [zero; N] };
        let fired = |i: usize| {
            let (up, down) = fire(t, h[i]);
            up + down
        };
        // The derivative of the membrane after firing.
        let through = match (lif.soft, b.detach_reset) {
            (false, true) => each(|i| one - fired(i)),
            (false, false) => each(|i| one - fired(i) + (lif.v_reset - h[i]) * (up[i] - down[i])),
            (true, true) => [one; N],
            (true, false) => each(|i| one - lif.v_threshold * (up[i] + down[i])),
        };
        let g_h: [F; N] = each(|i| g[i] * (up[i] + down[i]) + g_v[i] * through[i]);
        g_v = each(|i| g_h[i] * (one - lif.inv_tau));
        *g = if lif.decay_input { each(|i| g_h[i] * lif.inv_tau) } else { g_h };
    }
}

/// φ of N distances.
#[inline(always)]
fn surrogates<F: Real, const N: usize>(b: &Backward<F>, x: [F; N]) -> [F; N] {
    // One loop for each kind.
    match b.surrogate {
        Surrogate::Sigmoid => each(|i| surrogate(Surrogate::Sigmoid, b.alpha, x[i])),
        Surrogate::Atan => each(|i| surrogate(Surrogate::Atan, b.alpha, x[i])),
        Surrogate::Rectangular => each(|i| surrogate(Surrogate::Rectangular, b.alpha, x[i])),
        Surrogate::Triangular => each(|i| surrogate(Surrogate::Triangular, b.alpha, x[i])),
    }
}

/// `f(0), f(1), …`, in a loop that becomes vectors.
#[inline(always)]
fn each<F: Real, const N: usize>(f: impl Fn(usize) -> F) -> [F; N] {
    let mut all = [F::default(); N];
    for (i, x) in all.iter_mut().enumerate() {
        *x = f(i);
    }
    all
}

/// Neurons worked through side by side: a few vectors.
const LANES: usize = 32;

/// The gradient through time of n neurons, whose inputs `x` `[T or 1][n]` may go through a batch norm of tokens of its channels
/// first: from `g_s` `[T][n]`, or else from what `g_x` holds, into `g_x`, of x's shape; summed over T where x is the same at
/// every timestep.
pub fn lif_backward<F: Real>(
    (x, norm): (&[F], Option<&Norm<F>>),
    g_s: Option<&[F]>,
    steps: usize,
    lif: &Lif<F>,
    b: &Backward<F>,
    g_x: &mut [F],
) {
    const BLOCK: usize = 4096;
    let n = g_s.map_or(g_x.len(), <[F]>::len) / steps.max(1);
    let x_steps = x.len() / n.max(1);
    let norm = norm.map(Repeated::of);
    let blocks = parallel::row_blocks(g_x, x_steps, 1, BLOCK);
    parallel::for_each(blocks.into_iter().enumerate().collect(), |(block, g_x)| {
        let inputs = Inputs { x, steps: x_steps, n, norm: norm.as_ref() };
        parallel::wide(
            #[inline(always)]
            || block_backward(block * BLOCK, inputs, g_s, steps, lif, b, g_x),
        );
    });
}

/// A batch norm's values, so often one after another that those of [`LANES`] neurons lie in one run, wherever they begin.
struct Repeated<F> {
    row: usize,
    values: [Vec<F>; 4],
}

impl<F: Real> Repeated<F> {
    fn of(norm: &Norm<F>) -> Self {
        let row = norm.mean.len();
        let repeated = |values: &[F]| values.iter().copied().cycle().take(row + LANES).collect();
        Repeated { row, values: [norm.mean, norm.inv_std, norm.gamma, norm.beta].map(repeated) }
    }

    /// Those of the neurons from `first` on.
    #[inline(always)]
    fn lanes(&self, first: usize) -> Lanes<F, LANES> {
        let [mean, inv_std, gamma, beta] = &self.values;
        Norm { mean, inv_std, gamma, beta, relu: false }.lanes(first % self.row, LANES)
    }
}

/// What all neurons are given.
#[derive(Clone, Copy)]
struct Inputs<'a, F> {
    /// `[steps][n]`.
    x: &'a [F],
    steps: usize,
    n: usize,
    norm: Option<&'a Repeated<F>>,
}

/// [`lif_backward`] of the neurons from `first` on, whose gradients `g_x` are one slice a timestep.
#[inline(always)]
fn block_backward<F: Real>(
    first: usize,
    inputs: Inputs<F>,
    g_s: Option<&[F]>,
    steps: usize,
    lif: &Lif<F>,
    b: &Backward<F>,
    mut g_x: Vec<&mut [F]>,
) {
    let (lif, b) = (*lif, *b);
    let Inputs { x, steps: x_steps, n, norm } = inputs;
    let spike = |fires: bool| if fires { F::from(1.0) } else { F::default() };
    let fire = |_: usize, h: F| {
        let (up, down) = lif.fire(h, b.ternary);
        (spike(up), spike(down))
    };
    let mut h = [[F::default(); LANES]; MOST_STEPS];
    let mut g = [[F::default(); LANES]; MOST_STEPS];
    for i in (0..g_x[0].len()).step_by(LANES) {
        let width = LANES.min(g_x[0].len() - i);
        for (t, g) in g[..steps].iter_mut().enumerate() {
            *g = match g_s {
                Some(g_s) => lanes(&g_s[t * n + first + i..][..width]),
                None => lanes(&g_x[t][i..i + width]),
            };
        }
        let norm = norm.map(|norm| norm.lanes(first + i));
        let input = |t: usize| {
            let x = lanes(&x[t.min(x_steps - 1) * n + first + i..][..width]);
            norm.as_ref().map_or(x, |norm| norm.apply(x))
        };
        neuron_backward(&lif, &b, &mut h[..steps], &mut g[..steps], fire, input);
        if x_steps < steps {
            let (sum, earlier) = g[..steps].split_last_mut().unwrap_or((&mut h[0], &mut []));
            for g in earlier.iter().rev() {
                sum.iter_mut().zip(g).for_each(|(sum, &g)| *sum = *sum + g);
            }
            store(sum, &mut g_x[0][i..i + width]);
        } else {
            g_x.iter_mut().zip(&g).for_each(|(g_x, g)| store(g, &mut g_x[i..i + width]));
        }
    }
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
    let norm = op.norm.map(|norm| norm.values(host));
    let g_s = (op.g_s != op.g_x).then(|| host.real(op.g_s));
    lif_backward((host.real(op.x), norm.as_ref()), g_s, steps, &(&op.neuron).into(), &b, &mut g_x);
    host.put_real(op.g_x, g_x);
}
