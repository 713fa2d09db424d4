//! A batch forward and back as one recording, whatever holds the parameters.
//!
//! Forward, every convolution writes its raw output y. LIF follows as an op of its own, which applies batch norm as it reads y;
//! where others than neurons read its result, so is batch norm. Of these, backward finds packed spikes, the y of each batch norm
//! and the residual membranes between blocks where forward left them; the rest is redone when it is needed, and with
//! [`Options::recompute`] the y too. A gradient takes the place of the one it is made of where nothing else reads that. Liveness
//! analysis frees what has been used.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use super::parameters::tensor;
use super::{Options, Statistics};
use crate::Result;
use crate::checkpoint::Checkpoint;
use crate::config::Config;
use crate::gpu::Limits;
use crate::kernels::attention::{Heads, Order, kv_shape};
use crate::kernels::attention_kv::AttentionKv;
use crate::kernels::attention_kv_backward::{AttentionKvGradKeys, AttentionKvGradValues};
use crate::kernels::attention_q_kv::AttentionQKv;
use crate::kernels::attention_q_kv_backward::{AttentionQKvGradKv, AttentionQKvGradQueries};
use crate::kernels::attention_qk_v::AttentionQkV;
use crate::kernels::attention_qk_v_backward::{AttentionQkVGradKeys, AttentionQkVGradQueries, AttentionQkVGradValues};
use crate::kernels::batch_norm::BatchNorm;
use crate::kernels::bn_apply::BnApplyOp;
use crate::kernels::bn_backward::{BnBackwardApplyOp, BnBackwardCombineOp, BnBackwardPartialOp, BnSaved};
use crate::kernels::bn_statistics::{BnRunningOp, BnStatisticsCombineOp, BnStatisticsPartialOp};
use crate::kernels::channel_sums::partials;
use crate::kernels::conv3x3_real::Conv3x3RealOp;
use crate::kernels::conv3x3_real_backward::{Conv3x3RealCombine, Conv3x3RealWeights};
use crate::kernels::conv3x3_spike::Conv3x3Spike;
use crate::kernels::conv3x3_spike_backward::{Conv3x3SpikeCombine, Conv3x3SpikeInput, Conv3x3SpikeWeights};
use crate::kernels::cross_entropy::CrossEntropyOp;
use crate::kernels::head::HeadOp;
use crate::kernels::head_backward::{HeadInputBackwardOp, HeadWeightsBackwardOp};
use crate::kernels::lif_backward::LifBackwardOp;
use crate::kernels::linear_spike::LinearSpike;
use crate::kernels::linear_spike_backward::{LinearSpikeCombine, LinearSpikeInput, LinearSpikeWeights};
use crate::kernels::maxpool_real::MaxpoolRealOp;
use crate::kernels::maxpool_real_backward::MaxpoolRealBackwardOp;
use crate::kernels::maxpool_spike::MaxpoolSpikeOp;
use crate::kernels::maxpool_spike_backward::MaxpoolSpikeBackwardOp;
use crate::kernels::neuron::Neuron;
use crate::kernels::product::{Epilogue, SpikeProduct, pack_scale_shift};
use crate::kernels::product_backward::{CombineBackward, InputBackward, WeightsBackward, splits, weights_len};
use crate::kernels::residual_add::ResidualAddOp;
use crate::kernels::spike_gap::SpikeGapOp;
use crate::kernels::spike_gap_backward::SpikeGapBackwardOp;
pub(super) use crate::kernels::step::flat;
use crate::layers::{self, RealTensor, Recorder};
use crate::model::InputShape;
use crate::recording::{Constant, Recording, Role, TensorId};
use crate::tensor::{Element, Shape, words};

/// The weight of a batch's statistics in the running ones.
pub(super) const MOMENTUM: f32 = 0.1;

/// A parameter and its gradient in a recording, both in the parameter's [`super::parameters::Layout`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub weights: TensorId,
    pub gradient: TensorId,
}

/// What a caller of [`record`] provides.
pub(super) struct Places {
    /// By the parameter's name.
    pub parameters: BTreeMap<String, Place>,
    /// By the batch norm's name, where running mean and variance are kept; without, the batch's are outputs.
    pub running: BTreeMap<String, (TensorId, TensorId)>,
}

/// A forward and backward pass.
pub(super) struct Pass {
    /// Each image's loss.
    pub loss: TensorId,
    /// `[B][classes]`.
    pub logits: TensorId,
    /// Bytes of what forward leaves behind for backward.
    pub kept: u64,
}

/// When a tensor of the forward pass is made again for backward.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Redo {
    /// Always: it costs little.
    Always,
    /// With [`Options::recompute`].
    IfAsked,
}

type Recipe<'a> = Rc<dyn Fn(&mut Builder<'a>) -> TensorId + 'a>;

struct Builder<'a> {
    r: Recorder,
    checkpoint: &'a Checkpoint,
    options: Options,
    places: &'a Places,
    /// How to make a tensor that does not outlast the forward pass.
    recipes: HashMap<TensorId, Recipe<'a>>,
    /// What has been made again.
    redone: HashMap<TensorId, TensorId>,
    /// Whether the forward pass is done.
    backward: bool,
}

/// `conv → BN`, forward: what its backward pass needs.
struct ConvBn {
    conv: String,
    bn: String,
    input: TensorId,
    inputs: usize,
    outputs: usize,
    taps: usize,
    weights: Place,
    y: TensorId,
    mean: TensorId,
    inv_std: TensorId,
    gamma: Place,
    beta: Place,
}

impl ConvBn {
    fn norm(&self) -> BatchNorm {
        BatchNorm { mean: self.mean, inv_std: self.inv_std, gamma: self.gamma.weights, beta: self.beta.weights }
    }
}

/// What neurons read: a tensor, and the batch norm that they apply to it as they do.
#[derive(Clone, Copy)]
struct Input {
    x: TensorId,
    norm: Option<BatchNorm>,
}

impl From<TensorId> for Input {
    fn from(x: TensorId) -> Self {
        Input { x, norm: None }
    }
}

impl From<&ConvBn> for Input {
    fn from(c: &ConvBn) -> Self {
        Input { x: c.y, norm: Some(c.norm()) }
    }
}

/// A layer's neurons, forward.
struct Neurons {
    name: String,
    input: Input,
    s: TensorId,
    neuron: Neuron,
    element: Element,
}

impl<'a> Builder<'a> {
    fn config(&self) -> &'a Config {
        &self.checkpoint.config
    }

    fn values(&self, name: &str) -> Result<&'a [f32]> {
        tensor(self.checkpoint, name).map(|t| t.data.as_slice())
    }

    fn place(&self, name: &str) -> Result<Place> {
        // A checkpoint whose parameters are not those of its configuration has been refused; this one lacks the name.
        let place = self.places.parameters.get(name).copied();
        place.ok_or_else(|| crate::Error::Checkpoint(format!("the checkpoint has no `{name}`")))
    }

    fn constant(&mut self, name: &str, data: Vec<f32>) -> TensorId {
        self.r.recording.constant(&Constant { name: name.to_owned(), data: data.into() }.into())
    }

    fn real(&mut self, name: &str, shape: Shape) -> TensorId {
        self.r.recording.tensor(name, Element::Real, shape)
    }

    fn shape(&self, id: TensorId) -> Shape {
        self.r.recording.get(id).shape
    }

    fn whole(&self, id: TensorId) -> RealTensor {
        let shape = self.shape(id);
        RealTensor { shape, windows: vec![(0..shape.channels, id)] }
    }

    fn add(&mut self, layer: &str, a: TensorId, b: TensorId) -> TensorId {
        let out = self.real(layer, self.shape(a));
        self.r.recording.push(ResidualAddOp { layer: layer.to_owned(), input: a, residual: b, out });
        out
    }

    /// A tensor of the forward pass, made by `recipe`, whose memory does not outlast it if `redo` says so. The recipe must
    /// take what it reads through [`Builder::again`].
    fn passing(&mut self, redo: Redo, recipe: impl Fn(&mut Self) -> TensorId + 'a) -> TensorId {
        let id = recipe(self);
        if redo == Redo::Always || self.options.recompute {
            self.recipes.insert(id, Rc::new(recipe));
        }
        id
    }

    /// A tensor of the forward pass, for backward: itself if it is still there, else made again, once.
    fn again(&mut self, id: TensorId) -> TensorId {
        if !self.backward {
            return id;
        }
        if let Some(&redone) = self.redone.get(&id) {
            return redone;
        }
        let Some(recipe) = self.recipes.get(&id).cloned() else { return id };
        let redone = recipe(self);
        self.redone.insert(id, redone);
        redone
    }

    // Forward.

    /// `y = conv(input)`, raw.
    fn conv(
        &mut self,
        conv: &str,
        input: TensorId,
        weights: TensorId,
        outputs: usize,
        taps: usize,
    ) -> Result<TensorId> {
        let bias = match self.checkpoint.tensors.get(&format!("{conv}.bias")) {
            Some(bias) => bias.data.clone(),
            None => vec![0.0; outputs],
        };
        let unscaled = pack_scale_shift(&vec![1.0; outputs], &bias, 0..outputs);
        let scale_shift = self.constant(&format!("{conv}.bias"), unscaled);
        let layer = conv.to_owned();
        Ok(self.passing(Redo::IfAsked, move |b| {
            let y = b.real(&layer, b.shape(input).with_channels(outputs));
            let layer = layer.clone();
            let r = &mut b.r.recording;
            if r.get(input).element == Element::Real {
                r.push(Conv3x3RealOp { layer, input, weights, scale_shift, out: y });
                return y;
            }
            let epilogue = Epilogue::Real { out: y, first_channel: 0, relu: false };
            let product = SpikeProduct { layer, input, weights, scale_shift, channels_out: outputs, epilogue };
            match taps {
                9 => r.push(Conv3x3Spike(product)),
                _ => r.push(LinearSpike(product)),
            }
            y
        }))
    }

    /// A convolution and the statistics of its batch norm, of which `conv` and `bn` are the names. `steps` is T, over which
    /// statistics count.
    fn conv_bn(&mut self, (conv, bn): (&str, &str), input: TensorId, steps: usize) -> Result<ConvBn> {
        let name = format!("{conv}.weight");
        let shape = &tensor(self.checkpoint, &name)?.shape;
        let (outputs, inputs, taps) = (shape[0], shape[1], shape[2..].iter().product());
        let weights = self.place(&name)?;
        let y = self.conv(conv, input, weights.weights, outputs, taps)?;
        let gamma = self.place(&format!("{bn}.weight"))?;
        let beta = self.place(&format!("{bn}.bias"))?;
        let (mean, inv_std) = self.statistics(bn, y, steps)?;
        let (conv, bn) = (conv.to_owned(), bn.to_owned());
        Ok(ConvBn { conv, bn, input, inputs, outputs, taps, weights, y, mean, inv_std, gamma, beta })
    }

    /// A batch norm's result as a tensor, where others than neurons read it, with ReLU or a residual. It is made again in backward
    /// unless it is `kept`.
    fn applied(&mut self, c: &ConvBn, relu: bool, residual: Option<TensorId>, kept: bool) -> TensorId {
        let (layer, y, norm) = (c.bn.clone(), c.y, c.norm());
        let apply = move |b: &mut Self| {
            let (y, residual) = (b.again(y), residual.map(|r| b.again(r)));
            let out = b.real(&layer, b.shape(y));
            let layer = layer.clone();
            let BatchNorm { mean, inv_std, gamma, beta } = norm;
            b.r.recording.push(BnApplyOp { layer, y, mean, inv_std, gamma, beta, residual, out, relu });
            out
        };
        if kept { apply(self) } else { self.passing(Redo::Always, apply) }
    }

    fn statistics(&mut self, bn: &str, y: TensorId, steps: usize) -> Result<(TensorId, TensorId)> {
        let (shape, eps) = (self.shape(y), self.config().bn_eps);
        let channels = flat(shape.channels);
        if self.options.statistics == Statistics::Running {
            let mean = self.values(&format!("{bn}.running_mean"))?.to_vec();
            let root = |&var: &f32| (1.0 / (f64::from(var) + f64::from(eps)).sqrt()) as f32;
            let inv_std = self.values(&format!("{bn}.running_var"))?.iter().map(root).collect();
            let mean = self.constant(&format!("{bn}.running_mean"), mean);
            return Ok((mean, self.constant(&format!("{bn}.inv_std"), inv_std)));
        }
        // A static image's T copies are alike: mean and variance of one are those of all.
        debug_assert!(shape.steps == steps || shape.steps == 1);
        let sums = self.real(bn, partials(shape));
        let mean = self.real(bn, channels);
        let variance = self.real(bn, channels);
        let inv_std = self.real(bn, channels);
        let layer = bn.to_owned();
        let r = &mut self.r.recording;
        r.push(BnStatisticsPartialOp { layer: layer.clone(), y, partials: sums });
        r.push(BnStatisticsCombineOp { layer: layer.clone(), shape, partials: sums, mean, variance, inv_std, eps });
        match self.places.running.get(bn) {
            Some(&(running_mean, running_var)) => {
                let shape = shape.with_steps(steps);
                r.push(BnRunningOp { layer, shape, mean, variance, running_mean, running_var, momentum: MOMENTUM });
            }
            None => {
                r.output(format!("mean.{bn}"), &[mean]);
                r.output(format!("var.{bn}"), &[variance]);
            }
        }
        Ok((mean, inv_std))
    }

    fn neurons(
        &mut self,
        name: &str,
        input: impl Into<Input>,
        steps: usize,
        neuron: Neuron,
        element: Element,
    ) -> Neurons {
        let input = input.into();
        let s = self.r.lif_after(input.norm, name, &self.whole(input.x), steps, neuron, element);
        Neurons { name: name.to_owned(), input, s, neuron, element }
    }

    // Backward.

    /// The gradients of batch norm and convolution from that of their result, which is lost unless `kept`. That of the
    /// convolution's input goes into `g_input`, or is added to it.
    fn conv_bn_backward(&mut self, c: &ConvBn, g_x: TensorId, kept: bool, g_input: Option<(TensorId, bool)>) {
        let shape = self.shape(c.y);
        let layer = c.bn.clone();
        let (y, gamma, beta) = (self.again(c.y), c.gamma.weights, c.beta.weights);
        // K's ReLU has masked its gradient already.
        let saved = BnSaved { g_x, y, mean: c.mean, inv_std: c.inv_std, gamma, beta, relu: false };
        let sums_of_blocks = self.real(&layer, partials(shape));
        let (g_gamma, g_beta) = (c.gamma.gradient, c.beta.gradient);
        let sums = self.real(&layer, Shape { height: 2, ..flat(c.outputs) });
        let g_y = if kept { self.real(&c.conv, shape) } else { g_x };
        debug_assert_eq!(self.shape(g_x), shape, "{layer}: the gradient is its result's");
        let r = &mut self.r.recording;
        r.push(BnBackwardPartialOp { layer: layer.clone(), saved, partials: sums_of_blocks });
        r.push(BnBackwardCombineOp { layer: layer.clone(), shape, partials: sums_of_blocks, g_beta, g_gamma, sums });
        let batch = (self.options.statistics == Statistics::Batch).then_some(sums);
        r.push(BnBackwardApplyOp { layer, saved, sums: batch, g_y });
        self.weights_backward(c, g_y);
        let Some((out, accumulate)) = g_input else { return };
        let input = InputBackward {
            layer: c.conv.clone(),
            gradient: g_y,
            first_channel: 0,
            channels_out: c.outputs,
            weights: c.weights.weights,
            channels_in: c.inputs,
            first_input: 0,
            out,
            accumulate,
        };
        match c.taps {
            9 => self.r.recording.push(Conv3x3SpikeInput(input)),
            _ => self.r.recording.push(LinearSpikeInput(input)),
        }
    }

    fn weights_backward(&mut self, c: &ConvBn, g_y: TensorId) {
        let image = self.r.recording.get(c.input).element == Element::Real;
        let chunks = if image { (9 * c.inputs).div_ceil(32) } else { c.taps * words(c.inputs) };
        let len = weights_len(c.outputs, chunks);
        let shape = self.shape(c.y);
        let parts = splits(shape.steps * shape.rows(), len, self.r.most_bytes().min(64 << 20));
        let g_weights = c.weights.gradient;
        let out = if parts == 1 { g_weights } else { self.real(&c.conv, flat(parts * len)) };
        let layer = c.conv.clone();
        let weights = WeightsBackward {
            layer: layer.clone(),
            input: c.input,
            gradient: g_y,
            first_channel: 0,
            channels_out: c.outputs,
            splits: parts,
            out,
        };
        let combine = (parts > 1).then_some(CombineBackward { layer, partials: out, splits: parts, out: g_weights });
        let r = &mut self.r.recording;
        match (image, c.taps) {
            (true, _) => {
                r.push(Conv3x3RealWeights(weights));
                combine.into_iter().for_each(|c| r.push(Conv3x3RealCombine(c)));
            }
            (false, 9) => {
                r.push(Conv3x3SpikeWeights(weights));
                combine.into_iter().for_each(|c| r.push(Conv3x3SpikeCombine(c)));
            }
            (false, _) => {
                r.push(LinearSpikeWeights(weights));
                combine.into_iter().for_each(|c| r.push(LinearSpikeCombine(c)));
            }
        }
    }

    /// The gradient of what the neurons take, after their batch norm if they have one; that of their spikes is lost.
    fn neurons_backward(&mut self, n: &Neurons, g_s: TensorId) -> TensorId {
        let x = self.again(n.input.x);
        let still = self.shape(x).steps < self.shape(g_s).steps;
        let g_x = if still { self.real(&n.name, self.shape(x)) } else { g_s };
        let config = self.config();
        let op = LifBackwardOp {
            layer: n.name.clone(),
            x,
            norm: n.input.norm,
            g_s,
            g_x,
            neuron: n.neuron,
            element: n.element,
            surrogate: config.surrogate,
            alpha: config.alpha,
            detach_reset: config.detach_reset,
        };
        self.r.recording.push(op);
        g_x
    }
}

/// An attention layer, forward.
struct Attention {
    name: String,
    shortcut: Neurons,
    q: (ConvBn, Neurons),
    k: (TensorId, ConvBn),
    v: (ConvBn, Neurons),
    /// `Kᵀ V` in the order that has it.
    m: Option<TensorId>,
    heads: Heads,
    sums: Neurons,
    proj: ConvBn,
}

impl Builder<'_> {
    fn attention(&mut self, i: usize, u: TensorId, neuron: Neuron) -> Result<(TensorId, Attention)> {
        let name = format!("block.{i}.attn");
        let shape = self.shape(u);
        let steps = shape.steps;
        let of = |part: &str| (format!("{name}.{part}_conv"), format!("{name}.{part}_bn"));
        let shortcut = self.neurons(&format!("{name}.shortcut_lif"), u, steps, neuron, Element::Spikes);
        let fired = |b: &mut Self, part: &str, lif: &str, element| -> Result<(ConvBn, Neurons)> {
            let (conv, bn) = of(part);
            let saved = b.conv_bn((&conv, &bn), shortcut.s, steps)?;
            let neurons = b.neurons(&format!("{name}.{lif}"), &saved, steps, neuron, element);
            Ok((saved, neurons))
        };
        let q = fired(self, "q", "q_lif", Element::Spikes)?;
        let (conv, bn) = of("k");
        let k = self.conv_bn((&conv, &bn), shortcut.s, steps)?;
        let k = (self.applied(&k, true, None, false), k);
        self.r.trace(format!("k.{name}"), &self.whole(k.0));
        let v = fired(self, "v", "v_lif", Element::Ternary)?;
        let num_heads = self.config().num_heads;
        let heads = Heads { dim: shape.channels / num_heads, first: 0, count: num_heads };
        let layer = name.clone();
        let (q_s, k_x, v_s) = (q.1.s, k.0, v.1.s);
        let (m, o) = match self.options.order.unwrap_or(Order::cheaper(shape.tokens(), heads.dim)) {
            Order::QkV => {
                let o = self.passing(Redo::Always, move |b| {
                    let (k, o) = (b.again(k_x), b.real(&format!("{layer}.qkv"), shape));
                    b.r.recording.push(AttentionQkV { layer: layer.clone(), q: q_s, k, v: v_s, o, heads });
                    o
                });
                (None, o)
            }
            Order::QKv => {
                let of = name.clone();
                let m = self.passing(Redo::Always, move |b| {
                    let (k, m) = (b.again(k_x), b.real(&format!("{of}.kv"), kv_shape(shape, heads)));
                    b.r.recording.push(AttentionKv { layer: of.clone(), k, v: v_s, m, heads });
                    m
                });
                let o = self.passing(Redo::Always, move |b| {
                    let (m, o) = (b.again(m), b.real(&format!("{layer}.qkv"), shape));
                    b.r.recording.push(AttentionQKv { layer: layer.clone(), q: q_s, m, o, heads });
                    o
                });
                (Some(m), o)
            }
        };
        self.r.trace(format!("o.{name}"), &self.whole(o));
        let attn_neuron = Neuron { v_threshold: self.config().attn_v_threshold, ..neuron };
        let sums = self.neurons(&format!("{name}.attn_lif"), o, steps, attn_neuron, Element::Spikes);
        let (conv, bn) = of("proj");
        let proj = self.conv_bn((&conv, &bn), sums.s, steps)?;
        let out = self.applied(&proj, false, Some(u), false);
        self.r.trace(format!("u.{name}"), &self.whole(out));
        Ok((out, Attention { name, shortcut, q, k, v, m, heads, sums, proj }))
    }

    /// The gradient of the residual membrane before the layer from that after it.
    fn attention_backward(&mut self, a: &Attention, g_u: TensorId) -> TensorId {
        let shape = self.shape(a.shortcut.input.x);
        let layer = a.name.clone();
        let g_a = self.real(&layer, shape);
        self.conv_bn_backward(&a.proj, g_u, true, Some((g_a, false)));
        let g = self.neurons_backward(&a.sums, g_a);
        let dq = self.real(&format!("{layer}.q"), shape);
        let dk = self.real(&format!("{layer}.k"), shape);
        let dv = self.real(&format!("{layer}.v"), shape);
        let (q, k, v, heads) = (a.q.1.s, self.again(a.k.0), a.v.1.s, a.heads);
        match a.m.map(|m| self.again(m)) {
            Some(m) => {
                let dm = self.real(&format!("{layer}.kv"), kv_shape(shape, heads));
                let r = &mut self.r.recording;
                r.push(AttentionQKvGradKv { layer: layer.clone(), q, g, dm, heads });
                r.push(AttentionQKvGradQueries { layer: layer.clone(), m, g, dq, heads });
                r.push(AttentionKvGradKeys { layer: layer.clone(), k, v, dm, dk, heads });
                r.push(AttentionKvGradValues { layer, k, dm, dv, heads });
            }
            None => {
                let r = &mut self.r.recording;
                r.push(AttentionQkVGradQueries { layer: layer.clone(), k, v, g, dq, heads });
                r.push(AttentionQkVGradKeys { layer: layer.clone(), q, k, v, g, dk, heads });
                r.push(AttentionQkVGradValues { layer, q, k, g, dv, heads });
            }
        }
        // S is read by all three, so its gradient is their sum.
        let g_s = self.real(&a.shortcut.name, shape);
        let g_q = self.neurons_backward(&a.q.1, dq);
        self.conv_bn_backward(&a.q.0, g_q, false, Some((g_s, false)));
        self.conv_bn_backward(&a.k.1, dk, false, Some((g_s, true)));
        let g_v = self.neurons_backward(&a.v.1, dv);
        self.conv_bn_backward(&a.v.0, g_v, false, Some((g_s, true)));
        let g_x = self.neurons_backward(&a.shortcut, g_s);
        self.add(&a.shortcut.name, g_u, g_x)
    }
}

/// An MLP, forward.
struct Mlp {
    fc1: (Neurons, ConvBn),
    fc2: (Neurons, ConvBn),
}

impl Builder<'_> {
    fn mlp(&mut self, i: usize, u: TensorId, neuron: Neuron) -> Result<(TensorId, Mlp)> {
        let name = format!("block.{i}.mlp");
        let steps = self.shape(u).steps;
        let of = |part: &str, what: &str| format!("{name}.{part}_{what}");
        let s = self.neurons(&of("fc1", "lif"), u, steps, neuron, Element::Spikes);
        let fc1 = self.conv_bn((&of("fc1", "conv"), &of("fc1", "bn")), s.s, steps)?;
        let hidden = self.neurons(&of("fc2", "lif"), &fc1, steps, neuron, Element::Spikes);
        let fc2 = self.conv_bn((&of("fc2", "conv"), &of("fc2", "bn")), hidden.s, steps)?;
        let out = self.applied(&fc2, false, Some(u), true);
        self.r.trace(format!("u.{name}"), &self.whole(out));
        Ok((out, Mlp { fc1: (s, fc1), fc2: (hidden, fc2) }))
    }

    fn mlp_backward(&mut self, m: &Mlp, g_u: TensorId) -> TensorId {
        let g_hidden = self.real(&m.fc2.0.name, self.shape(m.fc2.0.input.x));
        self.conv_bn_backward(&m.fc2.1, g_u, true, Some((g_hidden, false)));
        let g_x = self.neurons_backward(&m.fc2.0, g_hidden);
        let g_s = self.real(&m.fc1.0.name, self.shape(m.fc1.0.input.x));
        self.conv_bn_backward(&m.fc1.1, g_x, false, Some((g_s, false)));
        let g_x = self.neurons_backward(&m.fc1.0, g_s);
        self.add(&m.fc1.0.name, g_u, g_x)
    }
}

/// One stage of the patch splitting, forward.
struct Stage {
    conv: ConvBn,
    /// The membrane input of the last stage, which is the residual of what follows.
    x: Option<TensorId>,
    /// The real values before the pool of the last stage.
    unpooled: Option<TensorId>,
    neurons: Neurons,
    /// Whether the spikes were pooled.
    pooled: bool,
}

impl Builder<'_> {
    fn stage(&mut self, i: usize, input: TensorId, steps: usize, neuron: Neuron) -> Result<(TensorId, Stage)> {
        let n = if i == 0 { String::new() } else { i.to_string() };
        let of = |what: &str| format!("patch_embed.{what}{n}");
        let conv = self.conv_bn((&of("proj_conv"), &of("proj_bn")), input, steps)?;
        let pooled = self.config().pooling_stat[i];
        let layer = of("maxpool");
        let mut x = (i == 3).then(|| self.applied(&conv, false, None, false));
        let mut unpooled = None;
        if let Some(before) = x.filter(|_| pooled) {
            let layer = layer.clone();
            x = Some(self.passing(Redo::Always, move |b| {
                let input = b.again(before);
                let out = b.real(&layer, b.shape(input).pooled());
                b.r.recording.push(MaxpoolRealOp { layer: layer.clone(), input, out });
                out
            }));
            unpooled = Some(before);
        }
        let read = x.map_or((&conv).into(), Input::from);
        let neurons = self.neurons(&of("proj_lif"), read, steps, neuron, Element::Spikes);
        let mut s = neurons.s;
        if pooled && i < 3 {
            let shape = self.shape(s).pooled();
            let out = self.r.recording.tensor(layer.clone(), Element::Spikes, shape);
            self.r.recording.push(MaxpoolSpikeOp { layer, input: s, out });
            s = out;
        }
        Ok((s, Stage { conv, x, unpooled, neurons, pooled: pooled && i < 3 }))
    }

    /// `g_s` is the gradient of the stage's spikes, `g_x` one that reaches its membrane input directly.
    fn stage_backward(&mut self, stage: &Stage, g_s: TensorId, g_x: Option<TensorId>, g_input: Option<TensorId>) {
        let layer = stage.neurons.name.clone();
        let mut g_s = g_s;
        if stage.pooled {
            let s = stage.neurons.s;
            let out = self.real(&layer, self.shape(s));
            self.r.recording.push(MaxpoolSpikeBackwardOp { layer: layer.clone(), input: s, g_y: g_s, g_s: out });
            g_s = out;
        }
        let mut g = self.neurons_backward(&stage.neurons, g_s);
        if let Some(direct) = g_x {
            g = self.add(&layer, g, direct);
        }
        if let Some(unpooled) = stage.unpooled {
            let input = self.again(unpooled);
            let out = self.real(&layer, self.shape(input));
            self.r.recording.push(MaxpoolRealBackwardOp { layer, input, g_y: g, g_x: out });
            g = out;
        }
        self.conv_bn_backward(&stage.conv, g, false, g_input.map(|g| (g, false)));
    }
}

/// The head and its loss, forward.
struct Head {
    neurons: Neurons,
    rate: TensorId,
    weights: Place,
    bias: Place,
    g_logits: TensorId,
}

impl Builder<'_> {
    /// Mean firing rate, logits and loss against `targets` `[B][classes]`. Returns loss and logits too.
    fn head(&mut self, u: TensorId, targets: TensorId, neuron: Neuron) -> Result<(TensorId, TensorId, Head)> {
        let shape = self.shape(u);
        let (batch, classes) = (shape.batch, self.config().num_classes);
        let neurons = self.neurons("head_lif", u, shape.steps, neuron, Element::Spikes);
        let rate = self.real("head rate", Shape { steps: 1, height: 1, width: 1, ..shape });
        let (weights, bias) = (self.place("head.weight")?, self.place("head.bias")?);
        let [logits, g_logits] = ["logits", "logits"].map(|name| self.real(name, flat(batch * classes)));
        let loss = self.real("loss", flat(batch));
        let layer = "head".to_owned();
        let r = &mut self.r.recording;
        r.push(SpikeGapOp { layer: layer.clone(), input: neurons.s, out: rate });
        let (w, b) = (weights.weights, bias.weights);
        r.push(HeadOp { layer: layer.clone(), input: rate, weights: w, bias: b, out: logits, classes });
        r.push(CrossEntropyOp { layer, logits, targets, loss, g_logits, batch, classes });
        Ok((loss, logits, Head { neurons, rate, weights, bias, g_logits }))
    }

    /// The gradient of the last residual membrane.
    fn head_backward(&mut self, h: &Head) -> TensorId {
        let (classes, layer) = (self.config().num_classes, "head".to_owned());
        let g_rate = self.real("head rate", self.shape(h.rate));
        let g_s = self.real("head_lif", self.shape(h.neurons.s));
        let (rate, g_logits, weights) = (h.rate, h.g_logits, h.weights.weights);
        let (g_weights, g_bias) = (h.weights.gradient, h.bias.gradient);
        let r = &mut self.r.recording;
        r.push(HeadWeightsBackwardOp { layer: layer.clone(), rate, g_logits, g_weights, g_bias, classes });
        r.push(HeadInputBackwardOp { layer: layer.clone(), weights, g_logits, g_rate, classes });
        r.push(SpikeGapBackwardOp { layer, g_rate, g_s });
        self.neurons_backward(&h.neurons, g_s)
    }
}

/// The inputs of a recording with [`record`]'s pass: image `[T or 1, B, H, W, C]` and targets `[B][classes]`.
pub(super) fn inputs(recording: &mut Recording, config: &Config, input: InputShape) -> (TensorId, TensorId) {
    let steps = if input.sequence { input.timesteps } else { 1 };
    let (side, channels) = (config.img_size, config.in_chans);
    let shape = Shape { steps, batch: input.batch, height: side, width: side, channels };
    (recording.input("image", shape), recording.input("targets", flat(input.batch * config.num_classes)))
}

/// Records a batch forward and back into `recording`, which has the parameters at `places` and [`inputs`].
///
/// # Errors
/// [`crate::Error::Checkpoint`] if the checkpoint lacks a tensor.
pub(super) fn record(
    recording: &mut Recording,
    checkpoint: &Checkpoint,
    places: &Places,
    (image, targets): (TensorId, TensorId),
    timesteps: usize,
    options: Options,
    limits: Limits,
) -> Result<Pass> {
    let config = &checkpoint.config;
    let neuron = Neuron {
        v_threshold: config.v_threshold,
        v_reset: config.v_reset,
        tau: config.tau,
        decay_input: config.decay_input,
    };
    let layer_options = layers::Options {
        order: options.order,
        trace: options.trace,
        count: options.count,
        fused: false,
        census: false,
    };
    let mut r = Recorder::new(limits, layer_options);
    r.recording = std::mem::take(recording);
    let (recipes, redone) = Default::default();
    let mut b = Builder { r, checkpoint, options, places, recipes, redone, backward: false };

    let mut s = image;
    let mut stages = Vec::new();
    for i in 0..4 {
        let (spikes, stage) = b.stage(i, s, timesteps, neuron)?;
        stages.push(stage);
        s = spikes;
    }
    let last = stages.last().and_then(|stage| stage.x);
    let rpe = ("patch_embed.rpe_conv", "patch_embed.rpe_bn");
    let rpe = b.conv_bn(rpe, s, timesteps)?;
    let mut u = b.applied(&rpe, false, last, true);
    b.r.trace("u.patch_embed".to_owned(), &b.whole(u));
    let mut blocks = Vec::new();
    for i in 0..config.depth {
        let (after, attention) = b.attention(i, u, neuron)?;
        let (after, mlp) = b.mlp(i, after, neuron)?;
        blocks.push((attention, mlp));
        u = after;
    }
    let (loss, logits, head) = b.head(u, targets, neuron)?;

    b.backward = true;
    let forward = b.r.recording.ops.len();
    let mut g_u = b.head_backward(&head);
    for (attention, mlp) in blocks.iter().rev() {
        g_u = b.mlp_backward(mlp, g_u);
        g_u = b.attention_backward(attention, g_u);
    }
    let mut g_s = b.real("patch_embed.proj_lif3", b.shape(s));
    b.conv_bn_backward(&rpe, g_u, true, Some((g_s, false)));
    let mut direct = Some(g_u);
    for stage in stages.iter().rev() {
        let spikes_in = b.r.recording.get(stage.conv.input);
        let g_input = (spikes_in.element != Element::Real).then(|| (spikes_in.name.clone(), spikes_in.shape));
        let g_input = g_input.map(|(name, shape)| b.real(&name, shape));
        b.stage_backward(stage, g_s, direct.take(), g_input);
        g_s = g_input.unwrap_or(g_s);
    }
    *recording = b.r.finish();
    let kept = kept(recording, forward);
    Ok(Pass { loss, logits, kept })
}

/// Bytes of the tensors that ops before `boundary` write and ops from there on read; not those of states and parameters.
fn kept(recording: &Recording, boundary: usize) -> u64 {
    let mut written = vec![false; recording.tensors.len()];
    let mut kept = vec![false; recording.tensors.len()];
    for (i, op) in recording.ops.iter().enumerate() {
        for (id, _) in op.operands(recording) {
            let id = recording.place(id).0.0;
            if i < boundary {
                written[id] = true;
            } else {
                kept[id] = written[id];
            }
        }
    }
    let passing = |(i, role): (usize, &Role)| (kept[i] && matches!(role, Role::Passing)).then_some(TensorId(i));
    let kept = recording.roles.iter().enumerate().filter_map(passing).filter(|id| !recording.inputs.contains(id));
    kept.map(|id| recording.get(id).bytes()).sum()
}
