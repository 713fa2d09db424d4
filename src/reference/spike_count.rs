//! The twin of `shaders/spike_count.wgsl`.

use super::{HostTensors, Real};
use crate::kernels::spike_count::{PARTIALS, SpikeCountOp};

/// The set bits of the words that workgroup g (0..64) of the kernel visits, for each g.
pub fn spike_count(spikes: &[u32]) -> [u32; PARTIALS] {
    let mut counts = [0; PARTIALS];
    for (i, run) in spikes.chunks(64).enumerate() {
        counts[i % PARTIALS] += run.iter().map(|w| w.count_ones()).sum::<u32>();
    }
    counts
}

/// Runs a recorded op on the host.
pub fn run<F: Real>(op: &SpikeCountOp, host: &mut HostTensors<F>) {
    let mut out = host.take_packed(op.out);
    out[op.slot * PARTIALS..(op.slot + 1) * PARTIALS].copy_from_slice(&spike_count(host.packed(op.input)));
    host.put_packed(op.out, out);
}
