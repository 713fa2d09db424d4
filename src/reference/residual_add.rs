//! The twin of `shaders/residual_add.wgsl`.

use super::{HostTensors, Real};
use crate::kernels::residual_add::ResidualAddOp;

/// `out = x + residual`.
pub fn residual_add<F: Real>(x: &[F], residual: &[F], out: &mut [F]) {
    out.iter_mut().zip(x.iter().zip(residual)).for_each(|(y, (&x, &u))| *y = x + u);
}

/// Runs a recorded op on the host.
pub fn run<F: Real>(op: &ResidualAddOp, host: &mut HostTensors<F>) {
    let mut out = host.take_real(op.out);
    residual_add(host.real(op.input), host.real(op.residual), &mut out);
    host.put_real(op.out, out);
}
