//! One batch forward and back: the loss and the gradient of every parameter, as one recording for either executor.
//!
//! Forward, every convolution writes its raw output y, batch norm and LIF follow as ops of their own, and what backward needs
//! (packed spikes, y, the membrane inputs) stays alive until it has been used; liveness analysis frees the rest.

use std::collections::BTreeMap;

use crate::checkpoint::{Checkpoint, Tensor};
use crate::config::Config;
use crate::gpu::Limits;
use crate::kernels::attention::{Heads, Order, kv_shape};
use crate::kernels::attention_kv::AttentionKv;
use crate::kernels::attention_kv_backward::{AttentionKvGradKeys, AttentionKvGradValues};
use crate::kernels::attention_q_kv::AttentionQKv;
use crate::kernels::attention_q_kv_backward::{AttentionQKvGradKv, AttentionQKvGradQueries};
use crate::kernels::attention_qk_v::AttentionQkV;
use crate::kernels::attention_qk_v_backward::{AttentionQkVGradKeys, AttentionQkVGradQueries, AttentionQkVGradValues};
use crate::kernels::bn_apply::BnApplyOp;
use crate::kernels::bn_backward::{BnBackwardApplyOp, BnBackwardCombineOp, BnBackwardPartialOp, BnSaved};
use crate::kernels::bn_statistics::{BnStatisticsCombineOp, BnStatisticsPartialOp, unbias};
use crate::kernels::channel_sums::partials;
use crate::kernels::conv3x3_real::{self, Conv3x3RealOp};
use crate::kernels::conv3x3_real_backward::{Conv3x3RealCombine, Conv3x3RealWeights};
use crate::kernels::conv3x3_spike::Conv3x3Spike;
use crate::kernels::conv3x3_spike_backward::{Conv3x3SpikeCombine, Conv3x3SpikeInput, Conv3x3SpikeWeights};
use crate::kernels::cross_entropy::CrossEntropyOp;
use crate::kernels::head::{HeadOp, transpose_weights};
use crate::kernels::head_backward::{HeadInputBackwardOp, HeadWeightsBackwardOp};
use crate::kernels::lif_backward::LifBackwardOp;
use crate::kernels::linear_spike::LinearSpike;
use crate::kernels::linear_spike_backward::{LinearSpikeCombine, LinearSpikeInput, LinearSpikeWeights};
use crate::kernels::maxpool_real::MaxpoolRealOp;
use crate::kernels::maxpool_real_backward::MaxpoolRealBackwardOp;
use crate::kernels::maxpool_spike::MaxpoolSpikeOp;
use crate::kernels::maxpool_spike_backward::MaxpoolSpikeBackwardOp;
use crate::kernels::neuron::Neuron;
use crate::kernels::product::{Epilogue, SpikeProduct, pack_scale_shift, pack_weights, unpack_weights};
use crate::kernels::product_backward::{CombineBackward, InputBackward, WeightsBackward, splits, weights_len};
use crate::kernels::residual_add::ResidualAddOp;
use crate::kernels::spike_gap::SpikeGapOp;
use crate::kernels::spike_gap_backward::SpikeGapBackwardOp;
use crate::layers::{self, RealTensor, Recorder};
use crate::model::InputShape;
use crate::outputs::{OutputTensor, Outputs, Values};
use crate::program::Program;
use crate::recording::{Constant, Recording, TensorId};
use crate::session::{Device, Input, channel_last};
use crate::tensor::{Element, Shape, words};
use crate::{Error, Result};

/// Which mean and variance batch norm normalises with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Statistics {
    /// The checkpoint's running ones, frozen.
    #[default]
    Running,
    /// The batch's own, over T·B·H·W, through which gradients flow.
    Batch,
}

/// How gradients are computed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Batch norm's statistics.
    pub statistics: Statistics,
    /// The attention's order; `None` takes the cheaper.
    pub order: Option<Order>,
    /// Read back every spike, membrane, key and attention sum.
    pub trace: bool,
}

/// A batch's loss and gradients.
#[derive(Clone, Debug)]
pub struct Gradients {
    /// Mean cross-entropy of the batch, in nats.
    pub loss: f64,
    /// `[B][classes]`.
    pub logits: Vec<Vec<f32>>,
    /// By the parameter's name, in its shape in the checkpoint.
    pub gradients: BTreeMap<String, Tensor>,
    /// With [`Statistics::Batch`]: the running statistics after the step, by their names.
    pub running: BTreeMap<String, Tensor>,
    /// The trace, if asked for, `[T, B, H, W, C]` each.
    pub trace: Vec<OutputTensor>,
}

/// The weight of a batch's statistics in the running ones.
const MOMENTUM: f32 = 0.1;

/// Runs one batch forward and back. `labels` are class indices, one an image.
///
/// # Errors
/// [`Error::Config`] or [`Error::Checkpoint`] if the checkpoint is not consistent (a loaded one is), [`Error::Input`] for a batch
/// that does not fit the model or its labels, [`Error::Gpu`] where it exceeds the device,
/// [`Error::DeviceLost`].
pub async fn gradients(
    device: &Device,
    checkpoint: &Checkpoint,
    input: &Input,
    labels: &[i64],
    options: Options,
) -> Result<Gradients> {
    let config = &checkpoint.config;
    config.validate()?;
    checkpoint.fitting(&config.parameters(), "the model's checkpoint")?;
    let timesteps = input.timesteps.unwrap_or(config.timesteps);
    let shape = InputShape { timesteps, batch: input.batch, sequence: input.timesteps.is_some() };
    check(config, input, labels)?;
    let (recording, learned) = record(checkpoint, shape, labels, options, device.limits())?;
    let pixels = channel_last(input, 0, input.batch, config.in_chans, config.img_size * config.img_size);
    let outputs = Program::new(device, recording).await?.run(&[&pixels]).await?;
    collect(checkpoint, outputs, &learned, shape, options)
}

fn check(config: &Config, input: &Input, labels: &[i64]) -> Result<()> {
    input.check(config)?;
    if labels.len() != input.batch {
        return Err(Error::Input(format!("{} labels for {} images", labels.len(), input.batch)));
    }
    let outside = |&&l: &&i64| usize::try_from(l).map_or(true, |l| l >= config.num_classes);
    if let Some(label) = labels.iter().find(outside) {
        return Err(Error::Input(format!("label {label} is outside 0..{}", config.num_classes)));
    }
    Ok(())
}

/// How a gradient's layout goes back to the checkpoint's.
#[derive(Clone, Copy, Debug)]
enum Layout {
    /// As the spike products pack weights.
    Product { inputs: usize, taps: usize },
    /// As `conv3x3_real` packs them.
    Image { inputs: usize },
    /// One value a channel.
    Channels,
    /// `[D][classes]`.
    Head,
}

/// A parameter with the output `g.<name>`.
struct Learned {
    name: String,
    layout: Layout,
}

/// `conv → BN`, forward: what its backward pass needs.
struct ConvBn {
    conv: String,
    bn: String,
    input: TensorId,
    inputs: usize,
    outputs: usize,
    taps: usize,
    weights: TensorId,
    y: TensorId,
    mean: TensorId,
    inv_std: TensorId,
    gamma: TensorId,
    beta: TensorId,
}

/// A layer's neurons, forward.
struct Neurons {
    name: String,
    x: TensorId,
    s: TensorId,
    neuron: Neuron,
    element: Element,
}

struct Builder<'a> {
    r: Recorder,
    checkpoint: &'a Checkpoint,
    options: Options,
    learned: Vec<Learned>,
}

fn flat(channels: usize) -> Shape {
    Shape { steps: 1, batch: 1, height: 1, width: 1, channels }
}

impl Builder<'_> {
    fn config(&self) -> &Config {
        &self.checkpoint.config
    }

    fn parameter(&self, name: &str) -> Result<&[f32]> {
        let tensor = self.checkpoint.tensors.get(name);
        tensor.map(|t| t.data.as_slice()).ok_or_else(|| Error::Checkpoint(format!("the checkpoint has no `{name}`")))
    }

    fn constant(&mut self, name: &str, data: Vec<f32>) -> TensorId {
        self.r.recording.constant(&Constant { name: name.to_owned(), data }.into())
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

    /// Marks a gradient as an output.
    fn learned(&mut self, name: String, id: TensorId, layout: Layout) {
        self.r.recording.output(format!("g.{name}"), &[id]);
        self.learned.push(Learned { name, layout });
    }

    fn add(&mut self, layer: &str, a: TensorId, b: TensorId) -> TensorId {
        let out = self.real(layer, self.shape(a));
        self.r.recording.push(ResidualAddOp { layer: layer.to_owned(), input: a, residual: b, out });
        out
    }

    // Forward.

    /// `y = conv(input)`, raw, then `BN(y)` with ReLU or a residual. `steps` is T, over which statistics count.
    fn conv_bn(
        &mut self,
        (conv, bn): (&str, &str),
        input: TensorId,
        steps: usize,
        relu: bool,
        residual: Option<TensorId>,
    ) -> Result<(TensorId, ConvBn)> {
        let name = format!("{conv}.weight");
        let tensor = self.checkpoint.tensors.get(&name);
        let tensor = tensor.ok_or_else(|| Error::Checkpoint(format!("the checkpoint has no `{name}`")))?;
        let (outputs, inputs) = (tensor.shape[0], tensor.shape[1]);
        let taps = tensor.shape[2..].iter().product();
        let bias = self.checkpoint.tensors.get(&format!("{conv}.bias")).map(|b| b.data.clone());
        let bias = bias.unwrap_or_else(|| vec![0.0; outputs]);
        let image = self.r.recording.get(input).element == Element::Real;
        let packed = match image {
            true => conv3x3_real::pack_weights(&tensor.data, 0..outputs, inputs),
            false => pack_weights(&tensor.data, 0..outputs, inputs, taps),
        };
        let weights = self.constant(&name, packed);
        let unscaled = pack_scale_shift(&vec![1.0; outputs], &bias, 0..outputs);
        let scale_shift = self.constant(&format!("{conv}.bias"), unscaled);
        let shape = self.shape(input).with_channels(outputs);
        let y = self.real(conv, shape);
        let layer = conv.to_owned();
        if image {
            self.r.recording.push(Conv3x3RealOp { layer, input, weights, scale_shift, out: y });
        } else {
            let epilogue = Epilogue::Real { out: y, first_channel: 0, relu: false };
            let product = SpikeProduct { layer, input, weights, scale_shift, channels_out: outputs, epilogue };
            match taps {
                9 => self.r.recording.push(Conv3x3Spike(product)),
                _ => self.r.recording.push(LinearSpike(product)),
            }
        }
        let gamma = self.constant(&format!("{bn}.weight"), self.parameter(&format!("{bn}.weight"))?.to_vec());
        let beta = self.constant(&format!("{bn}.bias"), self.parameter(&format!("{bn}.bias"))?.to_vec());
        let (mean, inv_std) = self.statistics(bn, y, steps)?;
        let out = self.real(bn, shape);
        let layer = bn.to_owned();
        self.r.recording.push(BnApplyOp { layer, y, mean, inv_std, gamma, beta, residual, out, relu });
        let (conv, bn) = (conv.to_owned(), bn.to_owned());
        Ok((out, ConvBn { conv, bn, input, inputs, outputs, taps, weights, y, mean, inv_std, gamma, beta }))
    }

    fn statistics(&mut self, bn: &str, y: TensorId, steps: usize) -> Result<(TensorId, TensorId)> {
        let (shape, eps) = (self.shape(y), self.config().bn_eps);
        let channels = flat(shape.channels);
        if self.options.statistics == Statistics::Running {
            let mean = self.parameter(&format!("{bn}.running_mean"))?.to_vec();
            let root = |&var: &f32| (1.0 / (f64::from(var) + f64::from(eps)).sqrt()) as f32;
            let inv_std = self.parameter(&format!("{bn}.running_var"))?.iter().map(root).collect();
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
        self.r.recording.push(BnStatisticsPartialOp { layer: layer.clone(), y, partials: sums });
        self.r.recording.push(BnStatisticsCombineOp { layer, shape, partials: sums, mean, variance, inv_std, eps });
        self.r.recording.output(format!("mean.{bn}"), &[mean]);
        self.r.recording.output(format!("var.{bn}"), &[variance]);
        Ok((mean, inv_std))
    }

    fn neurons(&mut self, name: &str, x: TensorId, steps: usize, neuron: Neuron, element: Element) -> Neurons {
        let s = self.r.lif(name, &self.whole(x), steps, neuron, element);
        Neurons { name: name.to_owned(), x, s, neuron, element }
    }

    // Backward.

    /// The gradients of batch norm and convolution from that of their result. That of the convolution's input goes into
    /// `g_input`, or is added to it.
    fn conv_bn_backward(&mut self, c: &ConvBn, g_x: TensorId, g_input: Option<(TensorId, bool)>) {
        let shape = self.shape(c.y);
        let layer = c.bn.clone();
        // K's ReLU has masked its gradient already.
        let saved =
            BnSaved { g_x, y: c.y, mean: c.mean, inv_std: c.inv_std, gamma: c.gamma, beta: c.beta, relu: false };
        let sums_of_blocks = self.real(&layer, partials(shape));
        let g_beta = self.real(&layer, flat(c.outputs));
        let g_gamma = self.real(&layer, flat(c.outputs));
        let sums = self.real(&layer, Shape { height: 2, ..flat(c.outputs) });
        let g_y = self.real(&c.conv, shape);
        let r = &mut self.r.recording;
        r.push(BnBackwardPartialOp { layer: layer.clone(), saved, partials: sums_of_blocks });
        r.push(BnBackwardCombineOp { layer: layer.clone(), shape, partials: sums_of_blocks, g_beta, g_gamma, sums });
        let batch = (self.options.statistics == Statistics::Batch).then_some(sums);
        r.push(BnBackwardApplyOp { layer, saved, sums: batch, g_y });
        self.learned(format!("{}.weight", c.bn), g_gamma, Layout::Channels);
        self.learned(format!("{}.bias", c.bn), g_beta, Layout::Channels);
        self.weights_backward(c, g_y);
        let Some((out, accumulate)) = g_input else { return };
        let input = InputBackward {
            layer: c.conv.clone(),
            gradient: g_y,
            first_channel: 0,
            channels_out: c.outputs,
            weights: c.weights,
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
        let g_weights = self.real(&c.conv, flat(len));
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
        let (inputs, taps) = (c.inputs, c.taps);
        let layout = if image { Layout::Image { inputs } } else { Layout::Product { inputs, taps } };
        self.learned(format!("{}.weight", c.conv), g_weights, layout);
    }

    fn neurons_backward(&mut self, n: &Neurons, g_s: TensorId) -> TensorId {
        let g_x = self.real(&n.name, self.shape(n.x));
        let config = self.config();
        let op = LifBackwardOp {
            layer: n.name.clone(),
            x: n.x,
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
            let (x, saved) = b.conv_bn((&conv, &bn), shortcut.s, steps, false, None)?;
            Ok((saved, b.neurons(&format!("{name}.{lif}"), x, steps, neuron, element)))
        };
        let q = fired(self, "q", "q_lif", Element::Spikes)?;
        let (conv, bn) = of("k");
        let k = self.conv_bn((&conv, &bn), shortcut.s, steps, true, None)?;
        self.r.trace(format!("k.{name}"), &self.whole(k.0));
        let v = fired(self, "v", "v_lif", Element::Ternary)?;
        let num_heads = self.config().num_heads;
        let heads = Heads { dim: shape.channels / num_heads, first: 0, count: num_heads };
        let o = self.real(&format!("{name}.qkv"), shape);
        let layer = name.clone();
        let m = match self.options.order.unwrap_or(Order::cheaper(shape.tokens(), heads.dim)) {
            Order::QkV => {
                self.r.recording.push(AttentionQkV { layer, q: q.1.s, k: k.0, v: v.1.s, o, heads });
                None
            }
            Order::QKv => {
                let m = self.real(&format!("{name}.kv"), kv_shape(shape, heads));
                self.r.recording.push(AttentionKv { layer: layer.clone(), k: k.0, v: v.1.s, m, heads });
                self.r.recording.push(AttentionQKv { layer, q: q.1.s, m, o, heads });
                Some(m)
            }
        };
        self.r.trace(format!("o.{name}"), &self.whole(o));
        let attn_neuron = Neuron { v_threshold: self.config().attn_v_threshold, ..neuron };
        let sums = self.neurons(&format!("{name}.attn_lif"), o, steps, attn_neuron, Element::Spikes);
        let (conv, bn) = of("proj");
        let (out, proj) = self.conv_bn((&conv, &bn), sums.s, steps, false, Some(u))?;
        self.r.trace(format!("u.{name}"), &self.whole(out));
        Ok((out, Attention { name: name.clone(), shortcut, q, k, v, m, heads, sums, proj }))
    }

    /// The gradient of the residual membrane before the layer from that after it.
    fn attention_backward(&mut self, a: &Attention, g_u: TensorId) -> TensorId {
        let shape = self.shape(a.shortcut.x);
        let layer = a.name.clone();
        let g_a = self.real(&layer, shape);
        self.conv_bn_backward(&a.proj, g_u, Some((g_a, false)));
        let g = self.neurons_backward(&a.sums, g_a);
        let dq = self.real(&format!("{layer}.q"), shape);
        let dk = self.real(&format!("{layer}.k"), shape);
        let dv = self.real(&format!("{layer}.v"), shape);
        let (q, k, v, heads) = (a.q.1.s, a.k.0, a.v.1.s, a.heads);
        match a.m {
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
        self.conv_bn_backward(&a.q.0, g_q, Some((g_s, false)));
        self.conv_bn_backward(&a.k.1, dk, Some((g_s, true)));
        let g_v = self.neurons_backward(&a.v.1, dv);
        self.conv_bn_backward(&a.v.0, g_v, Some((g_s, true)));
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
        let (x, fc1) = self.conv_bn((&of("fc1", "conv"), &of("fc1", "bn")), s.s, steps, false, None)?;
        let hidden = self.neurons(&of("fc2", "lif"), x, steps, neuron, Element::Spikes);
        let (out, fc2) = self.conv_bn((&of("fc2", "conv"), &of("fc2", "bn")), hidden.s, steps, false, Some(u))?;
        self.r.trace(format!("u.{name}"), &self.whole(out));
        Ok((out, Mlp { fc1: (s, fc1), fc2: (hidden, fc2) }))
    }

    fn mlp_backward(&mut self, m: &Mlp, g_u: TensorId) -> TensorId {
        let g_hidden = self.real(&m.fc2.0.name, self.shape(m.fc2.0.x));
        self.conv_bn_backward(&m.fc2.1, g_u, Some((g_hidden, false)));
        let g_x = self.neurons_backward(&m.fc2.0, g_hidden);
        let g_s = self.real(&m.fc1.0.name, self.shape(m.fc1.0.x));
        self.conv_bn_backward(&m.fc1.1, g_x, Some((g_s, false)));
        let g_x = self.neurons_backward(&m.fc1.0, g_s);
        self.add(&m.fc1.0.name, g_u, g_x)
    }
}

/// One stage of the patch splitting, forward.
struct Stage {
    conv: ConvBn,
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
        let (mut x, conv) = self.conv_bn((&of("proj_conv"), &of("proj_bn")), input, steps, false, None)?;
        let pooled = self.config().pooling_stat[i];
        let layer = of("maxpool");
        let mut unpooled = None;
        if pooled && i == 3 {
            let out = self.real(&layer, self.shape(x).pooled());
            self.r.recording.push(MaxpoolRealOp { layer: layer.clone(), input: x, out });
            unpooled = Some(std::mem::replace(&mut x, out));
        }
        let neurons = self.neurons(&of("proj_lif"), x, steps, neuron, Element::Spikes);
        let mut s = neurons.s;
        if pooled && i < 3 {
            let shape = self.shape(s).pooled();
            let out = self.r.recording.tensor(layer.clone(), Element::Spikes, shape);
            self.r.recording.push(MaxpoolSpikeOp { layer, input: s, out });
            s = out;
        }
        Ok((s, Stage { conv, unpooled, neurons, pooled: pooled && i < 3 }))
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
        if let Some(input) = stage.unpooled {
            let out = self.real(&layer, self.shape(input));
            self.r.recording.push(MaxpoolRealBackwardOp { layer, input, g_y: g, g_x: out });
            g = out;
        }
        self.conv_bn_backward(&stage.conv, g, g_input.map(|g| (g, false)));
    }
}

fn record(
    checkpoint: &Checkpoint,
    input: InputShape,
    labels: &[i64],
    options: Options,
    limits: Limits,
) -> Result<(Recording, Vec<Learned>)> {
    let config = &checkpoint.config;
    let neuron = Neuron {
        v_threshold: config.v_threshold,
        v_reset: config.v_reset,
        tau: config.tau,
        decay_input: config.decay_input,
    };
    let steps = input.timesteps;
    let layer_options = layers::Options { order: options.order, fused: false, trace: options.trace, count: false };
    let r = Recorder::new(limits, layer_options);
    let mut b = Builder { r, checkpoint, options, learned: Vec::new() };
    let image = b.r.recording.input(
        "image",
        Shape {
            steps: if input.sequence { steps } else { 1 },
            batch: input.batch,
            height: config.img_size,
            width: config.img_size,
            channels: config.in_chans,
        },
    );

    let mut s = image;
    let mut stages = Vec::new();
    for i in 0..4 {
        let (spikes, stage) = b.stage(i, s, steps, neuron)?;
        stages.push(stage);
        s = spikes;
    }
    let last = stages.last().map_or(image, |stage| stage.neurons.x);
    let (mut u, rpe) = b.conv_bn(("patch_embed.rpe_conv", "patch_embed.rpe_bn"), s, steps, false, Some(last))?;
    b.r.trace("u.patch_embed".to_owned(), &b.whole(u));
    let mut blocks = Vec::new();
    for i in 0..config.depth {
        let (after, attention) = b.attention(i, u, neuron)?;
        let (after, mlp) = b.mlp(i, after, neuron)?;
        blocks.push((attention, mlp));
        u = after;
    }
    let mut g_u = head(&mut b, u, labels, neuron)?;
    for (attention, mlp) in blocks.iter().rev() {
        g_u = b.mlp_backward(mlp, g_u);
        g_u = b.attention_backward(attention, g_u);
    }
    let mut g_s = b.real("patch_embed.proj_lif3", b.shape(s));
    b.conv_bn_backward(&rpe, g_u, Some((g_s, false)));
    let mut direct = Some(g_u);
    for stage in stages.iter().rev() {
        let spikes_in = b.r.recording.get(stage.conv.input);
        let g_input = (spikes_in.element == Element::Spikes).then_some((spikes_in.name.clone(), spikes_in.shape));
        let g_input = g_input.map(|(name, shape)| b.real(&name, shape));
        b.stage_backward(stage, g_s, direct.take(), g_input);
        g_s = g_input.unwrap_or(g_s);
    }
    let learned = b.learned;
    Ok((b.r.finish(), learned))
}

/// Head, loss and their gradients; returns that of the last residual membrane.
fn head(b: &mut Builder, u: TensorId, labels: &[i64], neuron: Neuron) -> Result<TensorId> {
    let shape = b.shape(u);
    let (batch, classes) = (shape.batch, b.config().num_classes);
    let neurons = b.neurons("head_lif", u, shape.steps, neuron, Element::Spikes);
    let rate = b.real("head rate", Shape { steps: 1, height: 1, width: 1, ..shape });
    let layer = "head".to_owned();
    b.r.recording.push(SpikeGapOp { layer: layer.clone(), input: neurons.s, out: rate });
    let transposed = transpose_weights(b.parameter("head.weight")?, classes);
    let bias = b.parameter("head.bias")?.to_vec();
    let weights = b.constant("head.weight", transposed);
    let bias = b.constant("head.bias", bias);
    let logits = b.real("logits", flat(batch * classes));
    b.r.recording.push(HeadOp { layer: layer.clone(), input: rate, weights, bias, out: logits, classes });
    b.r.recording.output("logits", &[logits]);
    let mut targets = vec![0.0; batch * classes];
    for (row, &label) in targets.chunks_exact_mut(classes).zip(labels) {
        if let Some(t) = usize::try_from(label).ok().and_then(|l| row.get_mut(l)) {
            *t = 1.0;
        }
    }
    let targets = b.constant("targets", targets);
    let loss = b.real("loss", flat(batch));
    let g_logits = b.real("logits", flat(batch * classes));
    b.r.recording.push(CrossEntropyOp { layer: layer.clone(), logits, targets, loss, g_logits, batch, classes });
    b.r.recording.output("loss", &[loss]);
    let g_weights = b.real("head.weight", flat(shape.channels * classes));
    let g_bias = b.real("head.bias", flat(classes));
    let g_rate = b.real("head rate", b.shape(rate));
    let g_s = b.real("head_lif", shape);
    let r = &mut b.r.recording;
    r.push(HeadWeightsBackwardOp { layer: layer.clone(), rate, g_logits, g_weights, g_bias, classes });
    r.push(HeadInputBackwardOp { layer: layer.clone(), weights, g_logits, g_rate, classes });
    r.push(SpikeGapBackwardOp { layer, g_rate, g_s });
    b.learned("head.weight".to_owned(), g_weights, Layout::Head);
    b.learned("head.bias".to_owned(), g_bias, Layout::Channels);
    Ok(b.neurons_backward(&neurons, g_s))
}

fn reals(outputs: &Outputs, name: &str) -> Vec<f32> {
    match outputs.get(name).map(|t| &t.values) {
        Some(Values::Real(v)) => v.clone(),
        _ => Vec::new(),
    }
}

fn collect(
    checkpoint: &Checkpoint,
    outputs: Outputs,
    learned: &[Learned],
    input: InputShape,
    options: Options,
) -> Result<Gradients> {
    let config = &checkpoint.config;
    let losses = reals(&outputs, "loss");
    let logits = reals(&outputs, "logits").chunks_exact(config.num_classes).map(<[f32]>::to_vec).collect();
    let mut gradients = BTreeMap::new();
    for Learned { name, layout } in learned {
        let Some(parameter) = checkpoint.tensors.get(name) else { continue };
        let packed = reals(&outputs, &format!("g.{name}"));
        let outputs_of = parameter.shape[0];
        let data = match *layout {
            Layout::Product { inputs, taps } => unpack_weights(&packed, outputs_of, inputs, taps),
            Layout::Image { inputs } => conv3x3_real::unpack_weights(&packed, outputs_of, inputs),
            Layout::Channels => packed,
            Layout::Head => (0..outputs_of).flat_map(|k| packed[k..].iter().step_by(outputs_of).copied()).collect(),
        };
        gradients.insert(name.clone(), Tensor { shape: parameter.shape.clone(), data });
    }
    conv_biases(checkpoint, &mut gradients, options.statistics);
    let running = match options.statistics {
        Statistics::Running => BTreeMap::new(),
        Statistics::Batch => running(checkpoint, &outputs, input),
    };
    let of_trace = |t: &OutputTensor| ["s.", "h.", "u.", "k.", "o."].iter().any(|p| t.name.starts_with(p));
    Ok(Gradients {
        loss: losses.iter().map(|&l| f64::from(l)).sum::<f64>() / losses.len().max(1) as f64,
        logits,
        gradients,
        running,
        trace: outputs.tensors.into_iter().filter(of_trace).collect(),
    })
}

/// A convolution's bias ahead of batch norm: with frozen statistics its gradient is scale · g_beta; the batch's own mean takes
/// it away again, so that with those it is zero.
fn conv_biases(checkpoint: &Checkpoint, gradients: &mut BTreeMap<String, Tensor>, statistics: Statistics) {
    let tensors = &checkpoint.tensors;
    for (name, parameter) in tensors.iter().filter(|(n, _)| n.ends_with("_conv.bias")) {
        let bn = name.replace("_conv.bias", "_bn");
        let of = |part: &str| tensors.get(&format!("{bn}.{part}"));
        let (Some(gamma), Some(var), Some(g_beta)) =
            (of("weight"), of("running_var"), gradients.get(&format!("{bn}.bias")))
        else {
            continue;
        };
        let scale = |(&gamma, &var): (&f32, &f32)| {
            f64::from(gamma) / (f64::from(var) + f64::from(checkpoint.config.bn_eps)).sqrt()
        };
        let data = match statistics {
            Statistics::Batch => vec![0.0; parameter.data.len()],
            Statistics::Running => {
                let scales = gamma.data.iter().zip(&var.data).map(scale);
                scales.zip(&g_beta.data).map(|(a, &g)| (a * f64::from(g)) as f32).collect()
            }
        };
        gradients.insert(name.clone(), Tensor { shape: parameter.shape.clone(), data });
    }
}

fn running(checkpoint: &Checkpoint, outputs: &Outputs, input: InputShape) -> BTreeMap<String, Tensor> {
    let sides = checkpoint.config.stage_sizes();
    let mut running = BTreeMap::new();
    for (name, old) in &checkpoint.tensors {
        let (bn, new, factor) = if let Some(bn) = name.strip_suffix(".running_mean") {
            (bn, reals(outputs, &format!("mean.{bn}")), 1.0)
        } else if let Some(bn) = name.strip_suffix(".running_var") {
            let side = match bn.strip_prefix("patch_embed.proj_bn") {
                Some("") => sides[0],
                Some(stage) => sides[stage.parse::<usize>().unwrap_or(3).min(3)],
                None => sides[4],
            };
            let n = input.timesteps * input.batch * side * side;
            (bn, reals(outputs, &format!("var.{bn}")), unbias(n))
        } else {
            continue;
        };
        debug_assert_eq!(new.len(), old.data.len(), "{bn}");
        let mix = |(&old, &new): (&f32, &f32)| (1.0 - MOMENTUM) * old + MOMENTUM * (new * factor);
        let data = old.data.iter().zip(&new).map(mix).collect();
        running.insert(name.clone(), Tensor { shape: old.shape.clone(), data });
    }
    running
}
