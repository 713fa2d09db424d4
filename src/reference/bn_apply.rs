//! The twin of `shaders/bn_apply.wgsl`.

use super::{HostTensors, Real, parallel};
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

/// `y`, `residual` and `out` `[rows][4⌈C/4⌉]`.
pub fn bn_apply<F: Real>(y: &[F], norm: &Norm<F>, residual: Option<&[F]>, out: &mut [F]) {
    let row = norm.mean.len();
    parallel::for_each(out.chunks_mut(row).enumerate().collect(), |(n, out)| {
        for (c, out) in out.iter_mut().enumerate() {
            let x = norm.affine(y[n * row + c], c);
            let x = if norm.relu && x < F::default() { F::default() } else { x };
            *out = residual.map_or(x, |r| x + r[n * row + c]);
        }
    });
}

/// Runs a recorded op on the host.
pub fn run<F: Real>(op: &BnApplyOp, host: &mut HostTensors<F>) {
    let mut out = host.take_real(op.out);
    let [mean, inv_std, gamma, beta] = [op.mean, op.inv_std, op.gamma, op.beta].map(|id| host.real(id));
    let norm = Norm { mean, inv_std, gamma, beta, relu: op.relu };
    bn_apply(host.real(op.y), &norm, op.residual.map(|r| host.real(r)), &mut out);
    host.put_real(op.out, out);
}
