//! The twin of `shaders/conv3x3_spike_backward.wgsl`; the arithmetic is [`super::product_backward`]'s.

use super::conv3x3_spike::TAPS;
use super::{HostTensors, Real, product_backward};
use crate::kernels::product_backward::{CombineBackward, InputBackward, WeightsBackward};

/// Runs a recorded op on the host.
pub fn weights<F: Real>(op: &WeightsBackward, host: &mut HostTensors<F>) {
    product_backward::run_weights(op, TAPS, host);
}

/// Runs a recorded op on the host.
pub fn combine<F: Real>(op: &CombineBackward, host: &mut HostTensors<F>) {
    product_backward::run_combine(op, host);
}

/// Runs a recorded op on the host.
pub fn input<F: Real>(op: &InputBackward, host: &mut HostTensors<F>) {
    product_backward::run_input(op, TAPS, host);
}
