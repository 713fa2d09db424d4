//! The twin of `shaders/gradient_norm.wgsl`.

use super::{HostTensors, Real};
use crate::kernels::gradient_norm::{BLOCK, GradientNormCombineOp, GradientNormPartialOp};
use crate::kernels::step::Clip;

/// Elements added one after another; a longer chain would cost f32 more digits than the kernel's threads do.
const CHAIN: usize = 128;

/// Zero times anything finite is zero, and NaN otherwise.
fn is_finite<F: Real>(x: F) -> bool {
    x * F::default() == F::default()
}

/// The sum of squares of each block of a shard, -1 where it is not finite.
pub fn partial<F: Real>(gradient: &[F], partials: &mut [F]) {
    for (block, out) in gradient.chunks(BLOCK).zip(partials) {
        let chains = block.chunks(CHAIN).map(|c| c.iter().fold(F::default(), |sum, &g| sum + g * g));
        let sum = chains.fold(F::default(), |sum, chain| sum + chain);
        *out = if is_finite(sum) { sum } else { F::from(-1.0) };
    }
}

/// The norm of all shards, and the factor that clips it to `max_norm` (0 for none).
pub fn combine<F: Real>(partials: &[F], max_norm: F) -> Clip<F> {
    let sum = partials.iter().fold(F::default(), |sum, &p| sum + p);
    if !is_finite(sum) || partials.iter().any(|&p| p < F::default()) {
        return Clip { factor: F::default(), norm: F::from(f32::INFINITY), skipped: true };
    }
    let (one, norm) = (F::from(1.0), sum.sqrt());
    let clipped = max_norm * (norm + F::from(1e-6)).recip();
    let factor = if max_norm == F::default() || clipped > one { one } else { clipped };
    Clip { factor, norm, skipped: false }
}

/// Runs a recorded first dispatch on the host.
pub fn run_partial<F: Real>(op: &GradientNormPartialOp, host: &mut HostTensors<F>) {
    let len = host.recording.get(op.gradient).shape.channels;
    let mut partials = host.take_real(op.partials);
    partial(&host.real(op.gradient)[..len], &mut partials[op.first_partial..]);
    host.put_real(op.partials, partials);
}

/// Runs a recorded second dispatch on the host.
pub fn run_combine<F: Real>(op: &GradientNormCombineOp, host: &mut HostTensors<F>) {
    let blocks = host.recording.get(op.partials).shape.channels;
    let clip = combine(&host.real(op.partials)[..blocks], op.max_norm.into());
    let mut out = host.take_real(op.clip);
    out.copy_from_slice(&clip.encode());
    host.put_real(op.clip, out);
}
