//! The twin of `shaders/spike_gap.wgsl`.

use super::{HostTensors, Real};
use crate::kernels::spike_gap::SpikeGapOp;
use crate::tensor::{Shape, vectors, words};

/// `spikes` `[T][B][N][words]` into `out` `[B][4⌈C/4⌉]`: the count of each channel's spikes times 1 / (T N).
pub fn spike_gap<F: Real>(spikes: &[u32], shape: Shape, out: &mut [F]) {
    let row = words(shape.channels);
    let mut counts = vec![0u32; row * 32];
    let inv_count = F::from((shape.steps * shape.tokens()) as f32).recip();
    for (b, out) in out.chunks_exact_mut(4 * vectors(shape.channels)).enumerate() {
        counts.fill(0);
        for t in 0..shape.steps {
            let at = (t * shape.batch + b) * shape.tokens() * row;
            for token in spikes[at..at + shape.tokens() * row].chunks_exact(row) {
                for (w, &word) in token.iter().enumerate() {
                    let mut left = word;
                    while left != 0 {
                        counts[w * 32 + left.trailing_zeros() as usize] += 1;
                        left &= left - 1;
                    }
                }
            }
        }
        out.iter_mut().zip(&counts).for_each(|(y, &n)| *y = F::from(n as f32) * inv_count);
    }
}

/// Runs a recorded op on the host.
pub fn run<F: Real>(op: &SpikeGapOp, host: &mut HostTensors<F>) {
    let shape = host.recording.get(op.input).shape;
    let mut out = host.take_real(op.out);
    spike_gap(host.packed(op.input), shape, &mut out);
    host.put_real(op.out, out);
}
