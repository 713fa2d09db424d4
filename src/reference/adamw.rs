//! The twin of `shaders/adamw.wgsl`.

use super::{HostTensors, Real};
use crate::kernels::adamw::{AdamWOp, Adamw};
use crate::kernels::step::{Clip, Step};

/// One step on the `adamw.len` elements of parameters and both moments.
pub fn adamw<F: Real>([p, m, v]: [&mut [F]; 3], g: &[F], step: &Step<F>, clip: &Clip<F>, adamw: &Adamw) {
    if clip.skipped {
        return;
    }
    let [beta1, share1, beta2, share2, eps] =
        [adamw.beta1, adamw.share1, adamw.beta2, adamw.share2, adamw.eps].map(F::from);
    let (len, decayed) = (adamw.len as usize, adamw.decayed as usize);
    for (i, ((p, &g), (m, v))) in p.iter_mut().zip(g).zip(m.iter_mut().zip(v)).enumerate().take(len) {
        let g = g * clip.factor;
        *m = beta1 * *m + share1 * g;
        *v = beta2 * *v + share2 * (g * g);
        let keep = if i < decayed { step.keep } else { F::from(1.0) };
        let root = (*v * step.correction2).sqrt() + eps;
        *p = *p * keep - step.lr * (*m * step.correction1) * root.recip();
    }
}

/// Runs a recorded op on the host.
pub fn run(op: &AdamWOp, host: &mut HostTensors) {
    let len = host.recording.get(op.p).shape.channels;
    let [mut p, mut m, mut v] = [op.p, op.m, op.v].map(|id| host.take_real(id));
    let (step, clip) = (Step::decode(host.real(op.step)), Clip::decode(host.real(op.clip)));
    adamw([&mut p, &mut m, &mut v], host.real(op.g), &step, &clip, &op.uniform(len));
    for (id, values) in [(op.p, p), (op.m, m), (op.v, v)] {
        host.put_real(id, values);
    }
}
