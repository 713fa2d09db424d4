//! The twin of `shaders/bn_backward.wgsl`.

use super::bn_apply::{BLOCK, Norm};
use super::{HostTensors, Real, channel_sums, parallel};
use crate::kernels::bn_backward::{BnBackwardApplyOp, BnBackwardCombineOp, BnBackwardPartialOp, BnSaved};
use crate::kernels::channel_sums::Blocks;
use crate::tensor::Shape;

/// The gradient that reaches the normalised value of channel `c`: none where ReLU cut it off.
#[inline(always)]
fn masked<F: Real>(norm: &Norm<F>, g: F, y: F, c: usize) -> F {
    if norm.relu & (norm.affine(y, c) <= F::default()) { F::default() } else { g }
}

/// `Σ g` and `Σ g (y - mean) inv_std` of each block of rows: `g_x` and `y` `[rows][4⌈C/4⌉]` (`shape` is y's) into `partials`
/// `[blocks][2][4⌈C/4⌉]`.
pub fn partial<F: Real>(g_x: &[F], y: &[F], shape: Shape, norm: &Norm<F>, partials: &mut [F]) {
    let row = norm.mean.len();
    channel_sums::partial(
        y.len() / row,
        row,
        Blocks::of(shape),
        partials,
        #[inline(always)]
        |first, rows, g_beta, g_gamma| {
            let block = first * row..(first + rows) * row;
            partial_rows(&g_x[block.clone()], &y[block], norm.cut(), g_beta, g_gamma);
        },
    );
}

#[inline(always)]
fn partial_rows<F: Real>(g_x: &[F], y: &[F], norm: Norm<F>, g_beta: &mut [F], g_gamma: &mut [F]) {
    let row = norm.mean.len();
    let (g_beta, g_gamma) = (&mut g_beta[..row], &mut g_gamma[..row]);
    for (g_x, y) in g_x.chunks_exact(row).zip(y.chunks_exact(row)) {
        for c in 0..row {
            let g = masked(&norm, g_x[c], y[c], c);
            g_beta[c] = g_beta[c] + g;
            g_gamma[c] = g_gamma[c] + g * norm.normal(y[c], c);
        }
    }
}

/// The blocks' sums added, blocks ascending, into `sums` `[2][4⌈C/4⌉]`.
pub fn combine<F: Real>(partials: &[F], sums: &mut [F]) {
    sums.fill(F::default());
    for pair in partials.chunks_exact(sums.len()) {
        sums.iter_mut().zip(pair).for_each(|(s, &p)| *s = *s + p);
    }
}

/// `g_y` `[rows][4⌈C/4⌉]` from `g_x`, or from what it holds; with `sums` (g_beta, then g_gamma) mean and inv_std are taken for y's
/// own, else for constants.
pub fn apply<F: Real>(g_x: Option<&[F]>, y: &[F], norm: &Norm<F>, sums: Option<&[F]>, g_y: &mut [F]) {
    let row = norm.mean.len();
    let inv_rows = F::from((y.len() / row) as f32).recip();
    parallel::for_each(g_y.chunks_mut(BLOCK * row).enumerate().collect(), |(i, g_y)| {
        let at = i * BLOCK * row;
        if let Some(g_x) = g_x {
            g_y.copy_from_slice(&g_x[at..][..g_y.len()]);
        }
        parallel::wide(
            #[inline(always)]
            || apply_rows(&y[at..], norm.cut(), sums, inv_rows, g_y),
        );
    });
}

/// In place.
#[inline(always)]
fn apply_rows<F: Real>(y: &[F], norm: Norm<F>, sums: Option<&[F]>, inv_rows: F, g: &mut [F]) {
    let row = norm.mean.len();
    for (n, g) in g.chunks_exact_mut(row).enumerate() {
        let y = &y[n * row..][..row];
        match sums {
            Some(sums) => {
                let (g_beta, g_gamma) = (&sums[..row], &sums[row..2 * row]);
                for (c, g) in g.iter_mut().enumerate() {
                    let g_x = masked(&norm, *g, y[c], c);
                    let g_y = g_x - g_beta[c] * inv_rows - norm.normal(y[c], c) * (g_gamma[c] * inv_rows);
                    *g = norm.gamma[c] * norm.inv_std[c] * g_y;
                }
            }
            None => {
                for (c, g) in g.iter_mut().enumerate() {
                    *g = norm.gamma[c] * norm.inv_std[c] * masked(&norm, *g, y[c], c);
                }
            }
        }
    }
}

fn norm<'h, F: Real>(saved: &BnSaved, host: &'h HostTensors<F>) -> Norm<'h, F> {
    let [mean, inv_std, gamma, beta] = [saved.mean, saved.inv_std, saved.gamma, saved.beta].map(|id| host.real(id));
    Norm { mean, inv_std, gamma, beta, relu: saved.relu }
}

/// Runs a recorded first dispatch on the host.
pub fn run_partial<F: Real>(op: &BnBackwardPartialOp, host: &mut HostTensors<F>) {
    let mut partials = host.take_real(op.partials);
    let (g_x, y, shape) = (host.real(op.saved.g_x), host.real(op.saved.y), host.recording.get(op.saved.y).shape);
    partial(g_x, y, shape, &norm(&op.saved, host), &mut partials);
    host.put_real(op.partials, partials);
}

/// Runs a recorded second dispatch on the host.
pub fn run_combine<F: Real>(op: &BnBackwardCombineOp, host: &mut HostTensors<F>) {
    let [mut sums, mut g_beta, mut g_gamma] = [op.sums, op.g_beta, op.g_gamma].map(|id| host.take_real(id));
    combine(host.real(op.partials), &mut sums);
    let row = sums.len() / 2;
    g_beta.copy_from_slice(&sums[..row]);
    g_gamma.copy_from_slice(&sums[row..]);
    for (id, v) in [(op.sums, sums), (op.g_beta, g_beta), (op.g_gamma, g_gamma)] {
        host.put_real(id, v);
    }
}

/// Runs a recorded third dispatch on the host.
pub fn run_apply<F: Real>(op: &BnBackwardApplyOp, host: &mut HostTensors<F>) {
    let mut g_y = host.take_real(op.g_y);
    let sums = op.sums.map(|sums| host.real(sums));
    let g_x = (op.g_y != op.saved.g_x).then(|| host.real(op.saved.g_x));
    apply(g_x, host.real(op.saved.y), &norm(&op.saved, host), sums, &mut g_y);
    host.put_real(op.g_y, g_y);
}
