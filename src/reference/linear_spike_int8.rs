//! The twin of `shaders/linear_spike_int8.wgsl`; the arithmetic is [`super::product`]'s.

use super::linear_spike::TAPS;
use super::{HostTensors, Real, product};
use crate::kernels::product::SpikeProduct;

/// Runs a recorded op on the host.
pub fn run<F: Real>(op: &SpikeProduct, host: &mut HostTensors<F>) {
    product::run::<F, i8>(op, TAPS, host);
}
