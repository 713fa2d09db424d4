//! The twin of `shaders/head_backward.wgsl`.

use super::{HostTensors, Real, parallel};
use crate::kernels::head_backward::{HeadInputBackwardOp, HeadWeightsBackwardOp};

/// `rate` `[B][row]` and `g_logits` `[B][classes]` into `g_weights` `[channels][classes]` and `g_bias` `[classes]`.
pub fn weights<F: Real>(rate: &[F], row: usize, g_logits: &[F], g_weights: &mut [F], g_bias: &mut [F]) {
    let classes = g_bias.len();
    parallel::for_each(g_weights.chunks_exact_mut(classes).enumerate().collect(), |(c, g_weights)| {
        g_weights.fill(F::default());
        for (rate, g) in rate.chunks_exact(row).zip(g_logits.chunks_exact(classes)) {
            g_weights.iter_mut().zip(g).for_each(|(w, &g)| *w = *w + rate[c] * g);
        }
    });
    g_bias.fill(F::default());
    for g in g_logits.chunks_exact(classes) {
        g_bias.iter_mut().zip(g).for_each(|(b, &g)| *b = *b + g);
    }
}

/// `weights` `[channels][classes]` and `g_logits` `[B][classes]` into `g_rate` `[B][row]`.
pub fn input<F: Real>(weights: &[F], g_logits: &[F], classes: usize, row: usize, g_rate: &mut [F]) {
    g_rate.fill(F::default());
    for (g_rate, g) in g_rate.chunks_exact_mut(row).zip(g_logits.chunks_exact(classes)) {
        for (out, w) in g_rate.iter_mut().zip(weights.chunks_exact(classes)) {
            *out = w.iter().zip(g).fold(F::default(), |sum, (&w, &g)| sum + w * g);
        }
    }
}

/// Runs a recorded gradient of weights and bias on the host.
pub fn run_weights<F: Real>(op: &HeadWeightsBackwardOp, host: &mut HostTensors<F>) {
    let tensor = host.recording.get(op.rate);
    let (mut g_weights, mut g_bias) = (host.take_real(op.g_weights), host.take_real(op.g_bias));
    // Tensors are padded to four floats, these matrices are not.
    let n = tensor.shape.channels * op.classes;
    let g_logits = &host.real(op.g_logits)[..tensor.shape.batch * op.classes];
    weights(host.real(op.rate), tensor.row(), g_logits, &mut g_weights[..n], &mut g_bias[..op.classes]);
    host.put_real(op.g_weights, g_weights);
    host.put_real(op.g_bias, g_bias);
}

/// Runs a recorded gradient of the firing rates on the host.
pub fn run_input<F: Real>(op: &HeadInputBackwardOp, host: &mut HostTensors<F>) {
    let tensor = host.recording.get(op.g_rate);
    let mut g_rate = host.take_real(op.g_rate);
    let w = &host.real(op.weights)[..tensor.shape.channels * op.classes];
    let g_logits = &host.real(op.g_logits)[..tensor.shape.batch * op.classes];
    input(w, g_logits, op.classes, tensor.row(), &mut g_rate);
    host.put_real(op.g_rate, g_rate);
}
