//! The twin of `shaders/bn_apply.wgsl`.

use super::{HostTensors, Real, lanes, parallel};
use crate::kernels::bn_apply::BnApplyOp;

/// A batch norm's values of each channel, `[4⌈C/4⌉]` each.
#[derive(Clone, Copy, Debug)]
pub struct Norm<'a, F> {
    /// Mean.
    pub mean: &'a [F],
    /// 1 / √(variance + eps).
    pub inv_std: &'a [F],
    /// Scale.
    pub gamma: &'a [F],
    /// Shift.
    pub beta: &'a [F],
    /// Whether the result is cut off below 0.
    pub relu: bool,
}

impl<F: Real> Norm<'_, F> {
    /// The same, with slices that the compiler sees are of one length.
    #[inline(always)]
    pub(super) fn cut(&self) -> Self {
        let row = self.mean.len();
        let [inv_std, gamma, beta] = [self.inv_std, self.gamma, self.beta].map(|x| &x[..row]);
        Norm { inv_std, gamma, beta, ..*self }
    }

    /// The values of `n` channels from `first` on, zeros after them.
    #[inline(always)]
    pub(super) fn lanes<const N: usize>(&self, first: usize, n: usize) -> Lanes<F, N> {
        let of = |values: &[F]| lanes(&values[first..first + n]);
        Lanes { mean: of(self.mean), inv_std: of(self.inv_std), gamma: of(self.gamma), beta: of(self.beta) }
    }

    /// `(y - mean) inv_std`.
    #[inline(always)]
    pub fn normal(&self, y: F, c: usize) -> F {
        (y - self.mean[c]) * self.inv_std[c]
    }

    /// `(y - mean) inv_std gamma + beta`, before ReLU.
    #[inline(always)]
    pub fn affine(&self, y: F, c: usize) -> F {
        self.normal(y, c) * self.gamma[c] + self.beta[c]
    }
}

/// A batch norm's values of N channels.
#[derive(Clone, Copy)]
pub(super) struct Lanes<F, const N: usize> {
    mean: [F; N],
    inv_std: [F; N],
    gamma: [F; N],
    beta: [F; N],
}

impl<F: Real, const N: usize> Lanes<F, N> {
    /// [`Norm::affine`] of each.
    #[inline(always)]
    pub fn apply(&self, mut y: [F; N]) -> [F; N] {
        let norm = Norm { mean: &self.mean, inv_std: &self.inv_std, gamma: &self.gamma, beta: &self.beta, relu: false };
        for (c, y) in y.iter_mut().enumerate() {
            *y = norm.affine(*y, c);
        }
        y
    }
}

/// The rows one task works through.
pub(super) const BLOCK: usize = 64;

/// `y`, `residual` and `out` `[rows][4⌈C/4⌉]`.
pub fn bn_apply<F: Real>(y: &[F], norm: &Norm<F>, residual: Option<&[F]>, out: &mut [F]) {
    let block = BLOCK * norm.mean.len();
    parallel::for_each(out.chunks_mut(block).enumerate().collect(), |(i, out)| {
        let residual = residual.map(|r| &r[i * block..]);
        parallel::wide(
            #[inline(always)]
            || rows(&y[i * block..], norm.cut(), residual, out),
        );
    });
}

#[inline(always)]
fn rows<F: Real>(y: &[F], norm: Norm<F>, residual: Option<&[F]>, out: &mut [F]) {
    let row = norm.mean.len();
    for (n, out) in out.chunks_exact_mut(row).enumerate() {
        let y = &y[n * row..][..row];
        for (c, out) in out.iter_mut().enumerate() {
            let x = norm.affine(y[c], c);
            *out = if norm.relu & (x < F::default()) { F::default() } else { x };
        }
        if let Some(residual) = residual {
            out.iter_mut().zip(&residual[n * row..]).for_each(|(x, &r)| *x = *x + r);
        }
    }
}

/// Runs a recorded op on the host.
pub fn run<F: Real>(op: &BnApplyOp, host: &mut HostTensors<F>) {
    let mut out = host.take_real(op.out);
    let [mean, inv_std, gamma, beta] = [op.mean, op.inv_std, op.gamma, op.beta].map(|id| host.real(id));
    let norm = Norm { mean, inv_std, gamma, beta, relu: op.relu };
    bn_apply(host.real(op.y), &norm, op.residual.map(|r| host.real(r)), &mut out);
    host.put_real(op.out, out);
}
