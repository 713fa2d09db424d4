//! The twin of `shaders/head.wgsl`.

use super::{HostTensors, Real};
use crate::kernels::head::HeadOp;

/// `rate` `[B][row]`, of which `channels` count, `weights` `[channels][classes]`, `bias` `[classes]`, `out` `[B][classes]`.
pub fn head<F: Real>(
    rate: &[F],
    row: usize,
    channels: usize,
    weights: &[F],
    bias: &[F],
    classes: usize,
    out: &mut [F],
) {
    for (rate, out) in rate.chunks_exact(row).zip(out.chunks_exact_mut(classes)) {
        out.fill(F::default());
        for (&r, w) in rate[..channels].iter().zip(weights.chunks_exact(classes)) {
            out.iter_mut().zip(w).for_each(|(y, &w)| *y = *y + w * r);
        }
        out.iter_mut().zip(bias).for_each(|(y, &b)| *y = *y + b);
    }
}

/// Runs a recorded op on the host.
pub fn run<F: Real>(op: &HeadOp, host: &mut HostTensors<F>) {
    let input = host.recording.get(op.input);
    let mut out = host.take_real(op.out);
    let (weights, bias) = (host.real(op.weights), host.real(op.bias));
    head(host.real(op.input), input.row(), input.shape.channels, weights, bias, op.classes, &mut out);
    host.put_real(op.out, out);
}
