//! The reference executor: every kernel's twin in plain Rust, generic over f32 and f64.
//!
//! The twins are the oracle of the tests, the executor where there is no GPU, and the place to learn what a kernel does. They
//! are event-driven: for every spike, one row of weights is added.

use std::fmt::Debug;
use std::ops::{Add, Mul, Neg, Sub};
use std::sync::Arc;

use crate::kernels::neuron::Neuron;
use crate::recording::{Constant, Recording, TensorId};

pub mod accumulate;
pub mod adamw;
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
pub mod cross_entropy;
pub mod ema;
pub mod executor;
pub mod gradient_norm;
pub mod head;
pub mod head_backward;
pub mod lif;
pub mod lif_backward;
pub mod linear_spike;
pub mod linear_spike_backward;
pub mod maxpool_real;
pub mod maxpool_real_backward;
pub mod maxpool_spike;
pub mod maxpool_spike_backward;
pub(crate) mod parallel;
pub mod product;
pub mod product_backward;
pub mod residual_add;
pub mod sgd;
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
    + 'static
{
    /// 1 / x.
    fn recip(self) -> Self;
    /// eˣ.
    fn exp(self) -> Self;
    /// ln x.
    fn ln(self) -> Self;
    /// √x.
    fn sqrt(self) -> Self;
    /// π.
    fn pi() -> Self;
}

impl Real for f32 {
    fn recip(self) -> Self {
        1.0 / self
    }

    fn exp(self) -> Self {
        f32::exp(self)
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
}

impl Real for f64 {
    fn recip(self) -> Self {
        1.0 / self
    }

    fn exp(self) -> Self {
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
        (h >= self.v_threshold, ternary && h <= -self.v_threshold)
    }

    /// The membrane after firing.
    #[inline(always)]
    pub fn reset(&self, h: F, up: bool, down: bool) -> F {
        match (self.soft, up, down) {
            (_, false, false) => h,
            (false, ..) => self.v_reset,
            (true, true, _) => h - self.v_threshold,
            (true, ..) => h + self.v_threshold,
        }
    }
}

/// A recording's tensors in host memory.
pub struct HostTensors<'r> {
    /// The recording they belong to.
    pub recording: &'r Recording,
    data: Vec<Host>,
}

enum Host {
    Empty,
    Real(Vec<f32>),
    Packed(Vec<u32>),
    Constant(Arc<Constant>),
}

impl<'r> HostTensors<'r> {
    /// No tensor allocated yet but the parameters, which are shared.
    pub fn new(recording: &'r Recording) -> Self {
        let data = recording.tensors().map(|(_, _, c)| c.map_or(Host::Empty, |c| Host::Constant(c.clone()))).collect();
        HostTensors { recording, data }
    }

    /// A real tensor; empty if nothing has written it.
    pub fn real(&self, id: TensorId) -> &[f32] {
        match &self.data[id.0] {
            Host::Real(v) => v,
            Host::Constant(c) => &c.data,
            Host::Empty | Host::Packed(_) => &[],
        }
    }

    /// A packed tensor; empty if nothing has written it.
    pub fn packed(&self, id: TensorId) -> &[u32] {
        match &self.data[id.0] {
            Host::Packed(v) => v,
            Host::Constant(c) => bytemuck::cast_slice(&c.data),
            Host::Empty | Host::Real(_) => &[],
        }
    }

    /// Takes a real tensor out to be written; zeros if it is new.
    pub fn take_real(&mut self, id: TensorId) -> Vec<f32> {
        match std::mem::replace(&mut self.data[id.0], Host::Empty) {
            Host::Real(v) => v,
            _ => vec![0.0; self.recording.get(id).len()],
        }
    }

    /// Takes a packed tensor out to be written; zeros if it is new.
    pub fn take_packed(&mut self, id: TensorId) -> Vec<u32> {
        match std::mem::replace(&mut self.data[id.0], Host::Empty) {
            Host::Packed(v) => v,
            _ => vec![0; self.recording.get(id).len()],
        }
    }

    /// Puts a real tensor back.
    pub fn put_real(&mut self, id: TensorId, v: Vec<f32>) {
        self.data[id.0] = Host::Real(v);
    }

    /// Puts a packed tensor back.
    pub fn put_packed(&mut self, id: TensorId, v: Vec<u32>) {
        self.data[id.0] = Host::Packed(v);
    }

    /// Frees a tensor that nothing will read again.
    pub fn free(&mut self, id: TensorId) {
        self.data[id.0] = Host::Empty;
    }
}
