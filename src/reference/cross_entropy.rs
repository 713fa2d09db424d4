//! The twin of `shaders/cross_entropy.wgsl`.

use super::{HostTensors, Real};
use crate::kernels::cross_entropy::CrossEntropyOp;

/// `logits`, `targets` and `g_logits` `[B][classes]`; the loss of each image into `loss` `[B]`, the gradient of their mean into
/// `g_logits`. The targets of an image add up to 1.
pub fn cross_entropy<F: Real>(logits: &[F], targets: &[F], classes: usize, loss: &mut [F], g_logits: &mut [F]) {
    let inv_batch = F::from(loss.len() as f32).recip();
    let rows = logits.chunks_exact(classes).zip(targets.chunks_exact(classes));
    for (((x, target), loss), g) in rows.zip(loss).zip(g_logits.chunks_exact_mut(classes)) {
        let largest = x.iter().fold(x[0], |a, &b| if b > a { b } else { a });
        let sum = total(classes, |k| (x[k] - largest).exp());
        let (log_sum, inv_sum) = (sum.ln(), sum.recip());
        *loss = total(classes, |k| target[k] * (log_sum - (x[k] - largest)));
        for ((&x, &target), g) in x.iter().zip(target).zip(g) {
            *g = ((x - largest).exp() * inv_sum - target) * inv_batch;
        }
    }
}

/// The sum of `n` terms, by runs of 256: one running f32 would lose three digits over 100,000 classes.
fn total<F: Real>(n: usize, term: impl Fn(usize) -> F) -> F {
    let run = |first: usize| (first..n.min(first + 256)).fold(F::default(), |sum, k| sum + term(k));
    (0..n).step_by(256).fold(F::default(), |sum, first| sum + run(first))
}

/// Runs a recorded op on the host.
pub fn run<F: Real>(op: &CrossEntropyOp, host: &mut HostTensors<F>) {
    let (mut loss, mut g_logits) = (host.take_real(op.loss), host.take_real(op.g_logits));
    let n = op.batch * op.classes;
    let (logits, targets) = (&host.real(op.logits)[..n], &host.real(op.targets)[..n]);
    cross_entropy(logits, targets, op.classes, &mut loss[..op.batch], &mut g_logits[..n]);
    host.put_real(op.loss, loss);
    host.put_real(op.g_logits, g_logits);
}
