//! The twin of `shaders/maxpool_spike_backward.wgsl`.

use super::maxpool_real_backward::scatter;
use super::{HostTensors, Real};
use crate::kernels::maxpool_spike_backward::MaxpoolSpikeBackwardOp;
use crate::tensor::{Shape, words};

/// `spikes` `[T][B][H][W][⌈C/32⌉]` (`shape` is theirs), `g_y` `[T][B][⌈H/2⌉][⌈W/2⌉][4⌈C/4⌉]`, `g_s` `[T][B][H][W][4⌈C/4⌉]`.
pub fn maxpool_spike_backward<F: Real>(spikes: &[u32], g_y: &[F], shape: Shape, g_s: &mut [F]) {
    let row = words(shape.channels);
    scatter(
        shape,
        g_y,
        g_s,
        #[inline(always)]
        |token, values| {
            for (values, &word) in values.chunks_mut(32).zip(&spikes[token * row..]) {
                for (c, value) in values.iter_mut().enumerate() {
                    *value = if word >> c & 1 == 1 { F::from(1.0) } else { F::default() };
                }
            }
        },
    );
}

/// Runs a recorded op on the host.
pub fn run<F: Real>(op: &MaxpoolSpikeBackwardOp, host: &mut HostTensors<F>) {
    let mut g_s = host.take_real(op.g_s);
    let shape = host.recording.get(op.input).shape;
    maxpool_spike_backward(host.packed(op.input), host.real(op.g_y), shape, &mut g_s);
    host.put_real(op.g_s, g_s);
}
