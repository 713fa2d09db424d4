//! The twin of `shaders/sgd.wgsl`.

use super::{HostTensors, Real};
use crate::kernels::sgd::SgdOp;
use crate::kernels::step::{Clip, Step};

/// One step on the parameters `p` and their momentum buffer `b`, all of one length.
pub fn sgd<F: Real>(
    [p, b]: [&mut [F]; 2],
    g: &[F],
    step: &Step<F>,
    clip: &Clip<F>,
    decayed: usize,
    momentum: F,
    nesterov: bool,
) {
    if clip.skipped {
        return;
    }
    for (i, ((p, &g), b)) in p.iter_mut().zip(g).zip(b).enumerate() {
        let decay = if i < decayed { step.weight_decay } else { F::default() };
        let g = g * clip.factor + decay * *p;
        *b = momentum * *b + g;
        let direction = if nesterov { g + momentum * *b } else { *b };
        *p = *p - step.lr * direction;
    }
}

/// Runs a recorded op on the host.
pub fn run(op: &SgdOp, host: &mut HostTensors) {
    let len = host.recording.get(op.p).shape.channels;
    let [mut p, mut b] = [op.p, op.b].map(|id| host.take_real(id));
    let (step, clip) = (Step::decode(host.real(op.step)), Clip::decode(host.real(op.clip)));
    let in_place = [&mut p[..len], &mut b[..len]];
    sgd(in_place, host.real(op.g), &step, &clip, op.decayed, op.momentum, op.nesterov);
    host.put_real(op.p, p);
    host.put_real(op.b, b);
}
