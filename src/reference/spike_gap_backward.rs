//! The twin of `shaders/spike_gap_backward.wgsl`.

use super::{HostTensors, Real, parallel};
use crate::kernels::spike_gap_backward::SpikeGapBackwardOp;
use crate::tensor::{Shape, vectors};

/// `g_rate` `[B][4⌈C/4⌉]` into `g_s` `[T][B][N][4⌈C/4⌉]` (`shape` is g_s's): each token gets 1 / (T N) of it.
pub fn spike_gap_backward<F: Real>(g_rate: &[F], shape: Shape, g_s: &mut [F]) {
    let row = 4 * vectors(shape.channels);
    let inv_count = F::from((shape.steps * shape.tokens()) as f32).recip();
    parallel::for_each(g_s.chunks_mut((shape.tokens() * row).max(1)).enumerate().collect(), |(n, g_s)| {
        let g_rate = &g_rate[n % shape.batch * row..];
        for g_s in g_s.chunks_exact_mut(row) {
            g_s.iter_mut().zip(g_rate).for_each(|(s, &g)| *s = g * inv_count);
        }
    });
}

/// Runs a recorded op on the host.
pub fn run<F: Real>(op: &SpikeGapBackwardOp, host: &mut HostTensors<F>) {
    let mut g_s = host.take_real(op.g_s);
    spike_gap_backward(host.real(op.g_rate), host.recording.get(op.g_s).shape, &mut g_s);
    host.put_real(op.g_s, g_s);
}
