//! The twin of `shaders/residual_add.wgsl`.

use super::{HostTensors, Real, parallel};
use crate::kernels::residual_add::ResidualAddOp;

/// `out = x + residual`.
pub fn residual_add<F: Real>(x: &[F], residual: &[F], out: &mut [F]) {
    const BLOCK: usize = 1 << 14;
    parallel::for_each(out.chunks_mut(BLOCK).enumerate().collect(), |(i, out)| {
        let at = i * BLOCK;
        out.iter_mut().zip(x[at..].iter().zip(&residual[at..])).for_each(|(y, (&x, &u))| *y = x + u);
    });
}

/// Runs a recorded op on the host.
pub fn run<F: Real>(op: &ResidualAddOp, host: &mut HostTensors<F>) {
    let mut out = host.take_real(op.out);
    residual_add(host.real(op.input), host.real(op.residual), &mut out);
    host.put_real(op.out, out);
}
