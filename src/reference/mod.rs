//! The reference executor: every kernel's twin in plain Rust, generic over f32 and f64.
//!
//! The twins are the oracle of the tests, the executor where there is no GPU, and the place to learn what a kernel does. They
//! are event-driven: for every spike, one row of weights is added.

use std::fmt::Debug;
use std::ops::{Add, Mul, Neg, Sub};
use std::sync::Arc;

use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::aligned::Aligned;
use crate::gpu::{Limits, MemoryPlan};
use crate::kernels::Op;
use crate::kernels::neuron::Neuron;
use crate::recording::{Constant, Recording, Role, TensorId};
use crate::tensor::Element;
use crate::{Error, Result};

pub mod accumulate;
pub mod adamw;
pub mod attention_census;
pub mod attention_fused;
pub mod attention_kv;
pub mod attention_kv_backward;
pub mod attention_q_kv;
pub mod attention_q_kv_backward;
pub mod attention_qk_v;
pub mod attention_qk_v_backward;
pub mod bn_apply;
pub mod bn_backward;
pub mod bn_fold;
pub mod bn_statistics;
mod channel_sums;
pub mod conv3x3_real;
pub mod conv3x3_real_backward;
pub mod conv3x3_spike;
pub mod conv3x3_spike_backward;
pub mod conv3x3_spike_f16;
pub mod conv3x3_spike_int8;
pub mod copy;
pub mod cross_entropy;
pub mod dense;
pub mod ema;
pub mod executor;
pub mod gradient_norm;
pub mod head;
pub mod head_backward;
pub mod lif;
pub mod lif_backward;
pub mod linear_spike;
pub mod linear_spike_backward;
pub mod linear_spike_f16;
pub mod linear_spike_int8;
pub mod maxpool_real;
pub mod maxpool_real_backward;
pub mod maxpool_spike;
pub mod maxpool_spike_backward;
pub mod multiply_add;
pub(crate) mod parallel;
pub mod product;
pub mod product_backward;
pub mod residual_add;
pub mod sgd;
pub mod spike_census;
pub mod spike_count;
pub mod spike_gap;
pub mod spike_gap_backward;
pub mod surrogate;

pub use executor::Executor;

/// What a twin computes in: f32 as the kernels do, or f64 to judge both.
pub trait Real:
    Copy
    + Default
    + Debug
    + PartialOrd
    + Send
    + Sync
    + From<f32>
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Neg<Output = Self>
    + bytemuck::Pod
    + 'static
{
    /// 1 / x.
    fn recip(self) -> Self;
    /// eˣ.
    fn exp(self) -> Self;
    /// eˣ without branches, so that loops over it become vectors. In f32 to 2 · 10⁻⁷ of it where -87 ≤ x ≤ 88, elsewhere that of
    /// the nearer end; in f64 [`Real::exp`].
    fn exp_in_range(self) -> Self;
    /// ln x.
    fn ln(self) -> Self;
    /// √x.
    fn sqrt(self) -> Self;
    /// π.
    fn pi() -> Self;
    /// A parameter's values, if they are of this type.
    fn shared(constant: &Constant) -> Option<&[Self]>;
    /// Runs an op's twin of this type.
    fn reference(op: &dyn Op, host: &mut HostTensors<Self>);
    /// As f32, rounded.
    fn to_f32(self) -> f32;
    /// An integer, rounded where it has more digits.
    fn from_i32(i: i32) -> Self;
    /// Writes the values of halves, as many as there are places.
    fn from_f16s(halves: &[f16], to: &mut [Self]);
    /// `c = a b`, or `c + a b` if `accumulate`, of sizes m, k, n: a m × k, b k × n, c m × n, each where its first element lies
    /// and how many elements there are from one row to the next; [`dense::product`] is the safe way to it.
    ///
    /// # Safety
    /// All three matrices must lie in memory that may be read, c's in memory that nothing else refers to, and c's rows must
    /// not overlap.
    unsafe fn gemm(
        sizes: (usize, usize, usize),
        a: (*const Self, usize),
        b: (*const Self, usize),
        accumulate: bool,
        c: (*mut Self, usize),
    );
}

/// [`Real::gemm`] of a type with the function of `matrixmultiply` for it.
macro_rules! gemm {
    ($function:path) => {
        unsafe fn gemm(
            (m, k, n): (usize, usize, usize),
            (a, row_a): (*const Self, usize),
            (b, row_b): (*const Self, usize),
            accumulate: bool,
            (c, row_c): (*mut Self, usize),
        ) {
            let beta = if accumulate { 1.0 } else { 0.0 };
            let [row_a, row_b, row_c] = [row_a, row_b, row_c].map(usize::cast_signed);
            // SAFETY: the caller's promise is the function's own; no slice is longer than isize::MAX.
            unsafe { $function(m, k, n, 1.0, a, row_a, 1, b, row_b, 1, beta, c, row_c, 1) }
        }
    };
}

impl Real for f32 {
    fn recip(self) -> Self {
        1.0 / self
    }

    fn exp(self) -> Self {
        f32::exp(self)
    }

    #[inline(always)]
    fn exp_in_range(self) -> Self {
        let x = if self < -87.0 { -87.0 } else { self };
        let x = if x > 88.0 { 88.0 } else { x };
        // x = n ln 2 + r. Adding 1.5 · 2²³ leaves n, rounded, in the low bits of the sum.
        const SHIFT: f32 = 12_582_912.0;
        let shifted = x * std::f32::consts::LOG2_E + SHIFT;
        let n = shifted - SHIFT;
        // ln 2 in two parts, the first so short that n times it is exact.
        let r = (x - n * 0.693_359_4) + n * 2.121_944_4e-4;
        // The coefficients of the Cephes library for |r| ≤ ln 2 / 2.
        let p =
            ((((1.987_569_1e-4 * r + 1.398_2e-3) * r + 8.333_452e-3) * r + 4.166_579_6e-2) * r + 1.666_666_5e-1) * r;
        let e_r = ((p + 0.5) * (r * r) + r) + 1.0;
        // 2ⁿ multiplies as n added to the exponent.
        f32::from_bits(e_r.to_bits().wrapping_add(shifted.to_bits() << 23))
    }

    fn ln(self) -> Self {
        f32::ln(self)
    }

    fn sqrt(self) -> Self {
        f32::sqrt(self)
    }

    fn pi() -> Self {
        std::f32::consts::PI
    }

    fn shared(constant: &Constant) -> Option<&[Self]> {
        Some(&constant.data)
    }

    fn reference(op: &dyn Op, host: &mut HostTensors<Self>) {
        op.reference(host);
    }

    fn to_f32(self) -> f32 {
        self
    }

    fn from_i32(i: i32) -> Self {
        i as f32
    }

    fn from_f16s(halves: &[f16], to: &mut [Self]) {
        halves.convert_to_f32_slice(to);
    }

    gemm!(matrixmultiply::sgemm);
}

impl Real for f64 {
    fn recip(self) -> Self {
        1.0 / self
    }

    fn exp(self) -> Self {
        f64::exp(self)
    }

    fn exp_in_range(self) -> Self {
        f64::exp(self)
    }

    fn ln(self) -> Self {
        f64::ln(self)
    }

    fn sqrt(self) -> Self {
        f64::sqrt(self)
    }

    fn pi() -> Self {
        std::f64::consts::PI
    }

    fn shared(_: &Constant) -> Option<&[Self]> {
        None
    }

    fn reference(op: &dyn Op, host: &mut HostTensors<Self>) {
        op.reference_f64(host);
    }

    fn to_f32(self) -> f32 {
        self as f32
    }

    fn from_i32(i: i32) -> Self {
        i.into()
    }

    fn from_f16s(halves: &[f16], to: &mut [Self]) {
        halves.convert_to_f64_slice(to);
    }

    gemm!(matrixmultiply::dgemm);
}

/// Up to N values, and zeros after them.
#[inline(always)]
fn lanes<F: Real, const N: usize>(values: &[F]) -> [F; N] {
    // A copy of known length is a few instructions, any other a call.
    if let Ok(all) = values.try_into() {
        return all;
    }
    let mut lanes = [F::default(); N];
    lanes[..values.len()].copy_from_slice(values);
    lanes
}

/// The first of the values, as many as there are places.
#[inline(always)]
fn store<F: Real, const N: usize>(values: &[F; N], to: &mut [F]) {
    match <&mut [F; N]>::try_from(&mut *to) {
        Ok(to) => *to = *values,
        Err(_) => to.copy_from_slice(&values[..to.len()]),
    }
}

/// The LIF neuron's arithmetic (equations: `shaders/lib/neuron.wgsl`), one channel at a time.
#[derive(Clone, Copy, Debug)]
pub struct Lif<F> {
    /// Firing threshold.
    pub v_threshold: F,
    /// Reset potential and start of the membrane.
    pub v_reset: F,
    /// 1/τ.
    pub inv_tau: F,
    /// Soft reset: the threshold is subtracted.
    pub soft: bool,
    /// Whether the input is divided by τ too.
    pub decay_input: bool,
}

impl<F: Real> From<&Neuron> for Lif<F> {
    fn from(n: &Neuron) -> Self {
        Lif {
            v_threshold: n.v_threshold.into(),
            v_reset: n.start().into(),
            inv_tau: F::from(n.tau).recip(),
            soft: n.v_reset.is_none(),
            decay_input: n.decay_input,
        }
    }
}

impl<F: Real> Lif<F> {
    /// `h_t = v_{t-1} + (x_t - (v_{t-1} - v_reset)) / τ`, or with the input undecayed `v_{t-1} - (v_{t-1} - v_reset) / τ + x_t`.
    #[inline(always)]
    pub fn charge(&self, v: F, x: F) -> F {
        let leak = v - self.v_reset;
        if self.decay_input { v + (x - leak) * self.inv_tau } else { v - leak * self.inv_tau + x }
    }

    /// Whether h fires upwards, and whether (ternary neurons only) downwards.
    #[inline(always)]
    pub fn fire(&self, h: F, ternary: bool) -> (bool, bool) {
        (h >= self.v_threshold, ternary & (h <= -self.v_threshold))
    }

    /// The membrane after firing.
    #[inline(always)]
    pub fn reset(&self, h: F, up: bool, down: bool) -> F {
        if !self.soft {
            if up | down { self.v_reset } else { h }
        } else if up {
            h - self.v_threshold
        } else if down {
            h + self.v_threshold
        } else {
            h
        }
    }
}

/// A recording's tensors in host memory, real ones in f32 as on a device or in f64 to judge both.
pub struct HostTensors<'r, F = f32> {
    /// The recording they belong to.
    pub recording: &'r Recording,
    pub(super) memory: &'r mut HostMemory<F>,
}

/// What [`HostTensors`] keeps from one run to the next: the values of states, and the buffers of the memory plan.
#[derive(Debug)]
pub(super) struct HostMemory<F> {
    data: Vec<Host<F>>,
    /// Beside each tensor its buffer, as on a device.
    slots: Vec<Option<usize>>,
    buffers: Vec<Slot>,
    /// For copies of parts of tensors.
    copies: Vec<Aligned<F>>,
}

/// A buffer of the memory plan: at home, or with a tensor.
#[derive(Debug)]
struct Slot {
    memory: Aligned<u32>,
    tenant: Option<TensorId>,
}

#[derive(Debug)]
enum Host<F> {
    Empty,
    Real(Aligned<F>),
    Packed(Aligned<u32>),
    Constant(Arc<Constant>),
}

impl<F: Real> HostMemory<F> {
    /// Allocates everything that a run needs, as [`MemoryPlan`] says: states with their first values, parameters shared.
    ///
    /// # Errors
    /// [`Error::Input`] if there is not as much memory.
    pub fn new(recording: &Recording) -> Result<Self> {
        let plan = MemoryPlan::new(recording, Limits::of_the_host())?;
        let buffers = plan.buffers.iter().map(|bytes| {
            // Of f32 as many as of words; f64 take twice as much.
            let words = usize::try_from(bytes / 4).ok().and_then(|n| n.checked_mul(size_of::<F>() / 4));
            let memory = words.and_then(Aligned::try_zeros).ok_or_else(|| no_memory(plan.total()))?;
            Ok(Slot { memory, tenant: None })
        });
        let buffers = buffers.collect::<Result<Vec<_>>>()?;
        let mut data: Vec<Host<F>> = Vec::with_capacity(recording.tensors.len());
        for (_, tensor, role) in recording.tensors() {
            data.push(match role {
                Role::Constant(c) if tensor.element == Element::Real && F::shared(c).is_none() => {
                    let values: Vec<F> = c.data.iter().map(|&v| F::from(v)).collect();
                    Host::Real(values.into())
                }
                Role::Constant(c) => Host::Constant(c.clone()),
                _ => Host::Empty,
            });
        }
        let mut memory = HostMemory { data, slots: plan.slots, buffers, copies: Vec::new() };
        let mut host = HostTensors { recording, memory: &mut memory };
        for (id, initial) in recording.states() {
            let mut values = host.take_real(id);
            values.fill(F::default());
            values.iter_mut().zip(&*initial.data).for_each(|(v, &x)| *v = F::from(x));
            host.put_real(id, values);
        }
        Ok(memory)
    }

    /// The buffer of tensor `id`, taken back from whatever a partial run left in it.
    fn take(&mut self, id: TensorId) -> Aligned<u32> {
        let Some(slot) = self.slots[id.0] else { return Aligned::default() };
        if let Some(tenant) = self.buffers[slot].tenant.replace(id) {
            self.empty(tenant, slot);
        }
        std::mem::take(&mut self.buffers[slot].memory)
    }

    /// Moves tensor `id`'s memory back to its buffer.
    fn empty(&mut self, id: TensorId, slot: usize) {
        match std::mem::replace(&mut self.data[id.0], Host::Empty) {
            Host::Real(v) => self.buffers[slot].memory = v.reuse(0),
            Host::Packed(v) => self.buffers[slot].memory = v,
            other => self.data[id.0] = other,
        }
    }
}

/// Says that there is not as much memory as a plan takes.
pub(crate) fn no_memory(bytes: u64) -> Error {
    let gib = bytes as f64 / (1u64 << 30) as f64;
    Error::OutOfMemory(format!("{gib:.2} GiB of memory are more than there is; use a smaller batch, `img_size` or `T`"))
}

impl<F: Real> HostTensors<'_, F> {
    /// A real tensor; empty if nothing has written it.
    pub fn real(&self, id: TensorId) -> &[F] {
        let (of, offset) = self.recording.place(id);
        let whole = match &self.memory.data[of.0] {
            Host::Real(v) => v,
            Host::Constant(c) => F::shared(c).unwrap_or(&[]),
            Host::Empty | Host::Packed(_) => &[],
        };
        if of == id { whole } else { whole.get(offset..offset + self.recording.get(id).len()).unwrap_or(&[]) }
    }

    /// A packed tensor; empty if nothing has written it.
    pub fn packed(&self, id: TensorId) -> &[u32] {
        match &self.memory.data[id.0] {
            Host::Packed(v) => v,
            Host::Constant(c) => bytemuck::cast_slice(&c.data),
            Host::Empty | Host::Real(_) => &[],
        }
    }

    /// Takes a real tensor out to be written; if it is new it holds anything. A part of another is copied out, and back by
    /// [`HostTensors::put_real`].
    pub fn take_real(&mut self, id: TensorId) -> Aligned<F> {
        let len = self.recording.get(id).len();
        if self.recording.place(id).0 != id {
            let mut copy: Aligned<F> = self.memory.copies.pop().unwrap_or_default().reuse(len);
            let part = self.real(id);
            copy[..part.len()].copy_from_slice(part);
            return copy;
        }
        match std::mem::replace(&mut self.memory.data[id.0], Host::Empty) {
            Host::Real(v) => v,
            _ => {
                let mut new: Aligned<F> = self.memory.take(id).reuse(len);
                if cfg!(debug_assertions) {
                    new.fill(f32::NAN.into());
                }
                new
            }
        }
    }

    /// Takes a packed tensor out to be written; zeros if it is new.
    pub fn take_packed(&mut self, id: TensorId) -> Aligned<u32> {
        match std::mem::replace(&mut self.memory.data[id.0], Host::Empty) {
            Host::Packed(v) => v,
            _ => {
                let mut new: Aligned<u32> = self.memory.take(id).reuse(self.recording.get(id).len());
                new.fill(0);
                new
            }
        }
    }

    /// Puts a real tensor back.
    pub fn put_real(&mut self, id: TensorId, v: Aligned<F>) {
        let (of, offset) = self.recording.place(id);
        if of == id {
            self.memory.data[id.0] = Host::Real(v);
            return;
        }
        let mut whole = self.take_real(of);
        whole[offset..offset + v.len()].copy_from_slice(&v);
        self.put_real(of, whole);
        self.memory.copies.push(v);
    }

    /// Puts a packed tensor back.
    pub fn put_packed(&mut self, id: TensorId, v: Aligned<u32>) {
        self.memory.data[id.0] = Host::Packed(v);
    }

    /// Hands on the memory of a tensor that nothing will read again.
    pub fn free(&mut self, id: TensorId) {
        if let Some(slot) = self.memory.slots[id.0]
            && self.memory.buffers[slot].tenant == Some(id)
        {
            self.memory.buffers[slot].tenant = None;
            self.memory.empty(id, slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Real;

    #[test]
    fn exp_in_range_is_exp() {
        let mut worst = 0.0f64;
        for i in -870_000..=880_000 {
            let x = i as f32 * 1e-4;
            let exact = f64::from(x).exp();
            worst = worst.max((f64::from(x.exp_in_range()) - exact).abs() / exact);
        }
        assert!(worst < 2e-7, "off by {worst:e}");
        assert_eq!(0f32.exp_in_range(), 1.0);
        assert_eq!(f32::NEG_INFINITY.exp_in_range(), (-87f32).exp_in_range());
        assert_eq!(f32::INFINITY.exp_in_range(), 88f32.exp_in_range());
        assert!(f32::NAN.exp_in_range().is_nan());
    }
}
