//! The twin of `shaders/conv3x3_spike.wgsl`; the arithmetic is [`super::product`]'s.

use super::{HostTensors, Real, product};
use crate::kernels::product::SpikeProduct;

/// Weights of one output and input channel.
pub const TAPS: usize = 9;

/// Runs a recorded op on the host.
pub fn run<F: Real>(op: &SpikeProduct, host: &mut HostTensors<F>) {
    product::run::<F, F>(op, TAPS, host);
}
