//! The twin of `shaders/accumulate.wgsl`.

use super::{HostTensors, Real};
use crate::kernels::accumulate::AccumulateOp;
use crate::kernels::step::Step;

/// `sum = before + g · share`, before = 0 for the first micro-batch, else the sum.
pub fn accumulate<F: Real>(sum: &mut [F], g: &[F], first: bool, share: F) {
    for (sum, &g) in sum.iter_mut().zip(g) {
        let before = if first { F::default() } else { *sum };
        *sum = before + g * share;
    }
}

/// Runs a recorded op on the host.
pub fn run(op: &AccumulateOp, host: &mut HostTensors) {
    let len = host.recording.get(op.sum).shape.channels;
    let mut sum = host.take_real(op.sum);
    let step = Step::decode(host.real(op.step));
    accumulate(&mut sum[..len], host.real(op.g), step.accumulate_keep == 0.0, step.accumulate_share);
    sum[len..].fill(0.0);
    host.put_real(op.sum, sum);
}
