//! A²OS²A, accurate addition-only spiking self-attention (arXiv 2503.00226): binary Q, ReLU K, ternary V, no softmax, no scale.

use super::conv_bn::ConvBn;
use super::{RealTensor, Recorder};
use crate::kernels::attention::{Heads, Order, kv_shape, side};
use crate::kernels::attention_census::{KeyValuePairs, NonzeroKeys, pairs_shape};
use crate::kernels::attention_fused::{self, AttentionFused};
use crate::kernels::attention_kv::AttentionKv;
use crate::kernels::attention_q_kv::AttentionQKv;
use crate::kernels::attention_qk_v::AttentionQkV;
use crate::kernels::neuron::Neuron;
use crate::recording::{Counted, Counter, TensorId};
use crate::tensor::{Element, Shape};

/// `U' = BN(A Wo + b) + U` with `A = LIF((Q Kᵀ) V)`, Q, K, V from `S = LIF(U)`.
#[derive(Debug)]
pub struct Attention {
    /// `block.<n>.attn`.
    pub name: String,
    /// Q before its neuron.
    pub q: ConvBn,
    /// K before its ReLU.
    pub k: ConvBn,
    /// V before its ternary neuron.
    pub v: ConvBn,
    /// The output projection.
    pub proj: ConvBn,
    /// Attention heads.
    pub num_heads: usize,
    /// Every neuron but the attention's.
    pub neuron: Neuron,
    /// The neuron after (Q Kᵀ) V.
    pub attn_neuron: Neuron,
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// The channels of the narrowest window of heads of `d` channels that ends at a whole word.
fn granule(d: usize) -> usize {
    d / gcd(d, 32) * 32
}

/// Bytes of a head's `Kᵀ V`.
fn kv_bytes(shape: Shape, d: usize) -> u64 {
    4096 * (shape.steps * shape.batch * side(d) * side(d)) as u64
}

impl Attention {
    /// Records the layer on the residual membrane `u`.
    pub fn record(&self, r: &mut Recorder, u: &RealTensor) -> RealTensor {
        let name = &self.name;
        let shape = u.shape;
        let s = r.lif(&format!("{name}.shortcut_lif"), u, shape.steps, self.neuron, Element::Spikes);
        let q = self.q.record_fire(r, s, &format!("{name}.q_lif"), self.neuron, Element::Spikes);
        let order = r.options.order.unwrap_or_else(|| self.order(r, shape));
        let k = self.key_tensor(r, shape, order);
        self.k.record_into(r, s, true, &k);
        let v = self.v.record_fire(r, s, &format!("{name}.v_lif"), self.neuron, Element::Ternary);
        r.trace(format!("k.{name}"), &k);
        let o = self.record_sums(r, order, q, &k, v);
        r.trace(format!("o.{name}"), &o);
        self.record_census(r, order, q, &k, v);
        let a = r.lif(&format!("{name}.attn_lif"), &o, shape.steps, self.attn_neuron, Element::Spikes);
        let u = self.proj.record_residual(r, a, u);
        r.trace(format!("u.{name}"), &u);
        u
    }

    /// Counts what its additions depend on, if the options say so.
    fn record_census(&self, r: &mut Recorder, order: Order, q: TensorId, k: &RealTensor, v: TensorId) {
        if !r.options.census {
            return;
        }
        let name = format!("{}.k", self.name);
        let keys = r.recording.tensor(name, Element::Spikes, k.shape);
        for (channels, window) in &k.windows {
            let layer = self.name.clone();
            r.recording.push(NonzeroKeys { layer, k: *window, out: keys, first_channel: channels.start });
        }
        r.census(q, true, false, true);
        r.census(keys, false, true, true);
        let (layer, head_dim) = (self.name.clone(), k.shape.channels / self.num_heads);
        let by_host = r.capabilities.software;
        let counted = Counted::Pairs { shape: k.shape, heads: self.num_heads, order, values: by_host.then_some(v) };
        if by_host {
            r.recording.census.push(Counter { name: layer, id: keys, counted });
            return;
        }
        let pairs = r.recording.tensor(format!("{} counters", self.name), Element::Spikes, pairs_shape(k.shape));
        r.recording.census.push(Counter { name: layer.clone(), id: pairs, counted });
        r.recording.push(KeyValuePairs { layer, keys, v, out: pairs, head_dim });
    }

    /// The cheaper order whose `Kᵀ V` of one image, in the narrowest window there is, stays within a binding.
    fn order(&self, r: &Recorder, shape: Shape) -> Order {
        let d = shape.channels / self.num_heads;
        let heads = granule(d).min(shape.channels) / d;
        // One image whatever the batch: a larger batch runs in parts, all of them in one order.
        match kv_bytes(Shape { batch: 1, ..shape }, d) * heads as u64 <= r.most_bytes() {
            true => Order::cheaper(shape.tokens(), d),
            false => Order::QkV,
        }
    }

    /// K (and O, which is cut alike), in windows of whole heads that begin at whole words.
    fn key_tensor(&self, r: &mut Recorder, shape: Shape, order: Order) -> RealTensor {
        let d = shape.channels / self.num_heads;
        let granule = granule(d);
        let a_head = kv_bytes(shape, d);
        let most = match order {
            Order::QKv => usize::try_from(r.most_bytes() / a_head).unwrap_or(usize::MAX).min(self.num_heads) * d,
            Order::QkV => usize::MAX,
        };
        r.real_within(&format!("{}.k", self.name), shape, granule, most)
    }

    fn record_sums(&self, r: &mut Recorder, order: Order, q: TensorId, k: &RealTensor, v: TensorId) -> RealTensor {
        let d = k.shape.channels / self.num_heads;
        let name = format!("{}.qkv", self.name);
        let mut windows = Vec::new();
        for (channels, k) in &k.windows {
            let heads = Heads { dim: d, first: channels.start / d, count: channels.len() / d };
            let shape = r.recording.get(*k).shape;
            let layer = self.name.clone();
            let in_one = attention_fused::size(shape, heads, r.limits);
            let in_one = in_one.is_some_and(|size| r.capabilities.gpu_variant_pays(size));
            match order {
                Order::QkV => {
                    let o = r.recording.tensor(name.clone(), Element::Real, shape);
                    r.recording.push(AttentionQkV { layer, q, k: *k, v, o, heads });
                    windows.push((channels.clone(), o));
                }
                Order::QKv if in_one => {
                    let o = r.recording.tensor(name.clone(), Element::Real, shape);
                    r.recording.push(AttentionFused { layer, q, k: *k, v, o, heads });
                    windows.push((channels.clone(), o));
                }
                Order::QKv => {
                    let m = r.recording.tensor(format!("{}.kv", self.name), Element::Real, kv_shape(shape, heads));
                    r.recording.push(AttentionKv { layer: layer.clone(), k: *k, v, m, heads });
                    let o = r.recording.tensor(name.clone(), Element::Real, shape);
                    r.recording.push(AttentionQKv { layer, q, m, o, heads });
                    windows.push((channels.clone(), o));
                }
            }
        }
        RealTensor { shape: k.shape, windows }
    }
}
