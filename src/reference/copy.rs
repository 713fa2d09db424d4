//! The twin of `shaders/copy.wgsl`.

use super::{HostTensors, Real, parallel};
use crate::kernels::copy::CopyOp;

/// `out = x`.
pub fn copy<F: Real>(x: &[F], out: &mut [F]) {
    const BLOCK: usize = 1 << 16;
    parallel::for_each(out.chunks_mut(BLOCK).zip(x.chunks(BLOCK)).collect(), |(out, x): (&mut [F], &[F])| {
        out.copy_from_slice(x);
    });
}

/// Runs a recorded op on the host.
pub fn run<F: Real>(op: &CopyOp, host: &mut HostTensors<F>) {
    let mut out = host.take_real(op.out);
    copy(host.real(op.input), &mut out);
    host.put_real(op.out, out);
}
