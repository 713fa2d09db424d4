//! The twin of `shaders/maxpool_real.wgsl`.

use super::maxpool_spike::pool;
use super::{HostTensors, Real};
use crate::kernels::maxpool_real::MaxpoolRealOp;

/// `x` `[images][H][W][row]` into `out` `[images][⌈H/2⌉][⌈W/2⌉][row]`.
pub fn maxpool_real<F: Real>(x: &[F], height: usize, width: usize, row: usize, out: &mut [F]) {
    pool(x, height, width, row, out, |a, b| if b > a { b } else { a });
}

/// Runs a recorded op on the host.
pub fn run<F: Real>(op: &MaxpoolRealOp, host: &mut HostTensors<F>) {
    let input = host.recording.get(op.input);
    let mut out = host.take_real(op.out);
    maxpool_real(host.real(op.input), input.shape.height, input.shape.width, input.row(), &mut out);
    host.put_real(op.out, out);
}
