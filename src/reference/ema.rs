//! The twin of `shaders/ema.wgsl`.

use super::{HostTensors, Real};
use crate::kernels::ema::EmaOp;
use crate::kernels::step::Step;

/// `e = e + (1 - decay) (p - e)`.
pub fn ema<F: Real>(e: &mut [F], p: &[F], decay: F) {
    let share = F::from(1.0) - decay;
    e.iter_mut().zip(p).for_each(|(e, &p)| *e = *e + share * (p - *e));
}

/// Runs a recorded op on the host.
pub fn run(op: &EmaOp, host: &mut HostTensors) {
    let len = host.recording.get(op.e).shape.channels;
    let mut e = host.take_real(op.e);
    ema(&mut e[..len], host.real(op.p), Step::decode(host.real(op.step)).ema_decay);
    host.put_real(op.e, e);
}
