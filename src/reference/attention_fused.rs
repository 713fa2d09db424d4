//! The twin of `shaders/attention_fused.wgsl`: the twins of its two products, one after the other.

use super::attention_kv::attention_kv;
use super::attention_q_kv::attention_q_kv;
use super::{HostTensors, Real};
use crate::kernels::attention::kv_shape;
use crate::kernels::attention_fused::AttentionFused;
use crate::tensor::{Element, Tensor};

/// Runs a recorded op on the host.
pub fn run<F: Real>(op: &AttentionFused, host: &mut HostTensors<F>) {
    let shape = host.recording.get(op.q).shape;
    let kv = Tensor { name: String::new(), element: Element::Real, shape: kv_shape(shape, op.heads) };
    let mut m = vec![F::default(); kv.len()];
    attention_kv(host.real(op.k), host.packed(op.v), shape, op.heads, &mut m);
    let mut o = host.take_real(op.o);
    attention_q_kv(host.packed(op.q), &m, shape, op.heads, &mut o);
    host.put_real(op.o, o);
}
