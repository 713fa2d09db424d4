//! The twin of `shaders/linear_spike_f16.wgsl`; the arithmetic is [`super::product`]'s.

use half::f16;

use super::linear_spike::TAPS;
use super::{HostTensors, Real, product};
use crate::kernels::product::SpikeProduct;

/// Runs a recorded op on the host.
pub fn run<F: Real>(op: &SpikeProduct, host: &mut HostTensors<F>) {
    product::run::<F, f16>(op, TAPS, host);
}
