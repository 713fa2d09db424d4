//! Random models that fire: weights drawn at random, then every batch norm set so that the neurons after it fire at a rate
//! typical of trained spiking transformers.
//!
//! A freshly initialised network is mostly silent, and a silent network tells nothing about correctness or speed. Here the
//! network is walked through once, layer by layer, on synthetic images: the running statistics of each batch norm (of the
//! Spiking Transformer of arXiv 2503.00226) are measured and jittered, and one offset common to all its channels' biases is
//! found by bisection so that the next LIF fires near its target. The network runs on the reference twins, so the rates
//! are those of the finished model.
//!
//! Only additions, multiplications, divisions and square roots are used, in a fixed order: a seed gives the same bits on
//! every platform.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use rand_pcg::Pcg64;
use rand_pcg::rand_core::{Rng, SeedableRng};

use crate::checkpoint::{Checkpoint, Dtype, Tensor};
use crate::config::{Config, ParameterKind};
use crate::kernels::attention::{Heads, Order, kv_shape, side};
use crate::kernels::neuron::Neuron;
use crate::kernels::{conv3x3_real, product};
use crate::reference::attention_kv::attention_kv;
use crate::reference::attention_q_kv::attention_q_kv;
use crate::reference::attention_qk_v::attention_qk_v;
use crate::reference::bn_fold::bn_fold;
use crate::reference::conv3x3_real::conv3x3_real as conv3x3_real_twin;
use crate::reference::lif::{self, Window, lif};
use crate::reference::maxpool_real::maxpool_real;
use crate::reference::maxpool_spike::maxpool_spike;
use crate::reference::product::Product;
use crate::session::{Input, channel_last};
use crate::tensor::{Shape, vectors, words};
use crate::{Error, Result};

/// The firing rates, in spikes per neuron and timestep, that every layer is meant to end within; one that does not is
/// named in the log.
pub const RATES: RangeInclusive<f64> = 0.05..=0.30;

/// A calibrated random model.
#[derive(Clone, Debug)]
pub struct Init {
    /// The model, with f32 tensors.
    pub checkpoint: Checkpoint,
    /// Layer (e.g. `block.0.attn.q_lif`) and firing rate on the calibration images, in spikes per neuron and timestep, in
    /// the order of computation. A ternary spike of either sign counts one.
    pub rates: Vec<(String, f64)>,
}

/// Makes a random model of `config` in which every layer fires, the same for the same `seed` on every platform.
///
/// `progress` is told each layer that is done and the fraction of all layers done, 0 to 1.
///
/// # Errors
/// [`Error::Config`] for a configuration that does not validate; [`Error::Input`] for one that takes more memory than
/// there is.
pub fn init(config: &Config, seed: u64, progress: impl FnMut(&str, f64)) -> Result<Init> {
    config.validate()?;
    let images = calibration_images(config);
    reserve(config, images)?;
    let neuron = Neuron {
        v_threshold: config.v_threshold,
        v_reset: config.v_reset,
        tau: config.tau,
        decay_input: config.decay_input,
    };
    let mut calibration = Calibration {
        config,
        neuron,
        attn_neuron: Neuron { v_threshold: config.attn_v_threshold, ..neuron },
        random: Random(Pcg64::seed_from_u64(seed)),
        tensors: BTreeMap::new(),
        rates: Vec::new(),
        progress,
        done: 0,
    };
    let (mut u, mut s) = calibration.patch_embed(images);
    for block in 0..config.depth {
        (u, s) = calibration.attention(block, u, &s);
        (u, s) = calibration.mlp(block, u, &s);
    }
    calibration.head();
    let checkpoint = Checkpoint {
        config: config.clone(),
        tensors: calibration.tensors,
        metadata: BTreeMap::from([("init_seed".to_owned(), seed.to_string())]),
        unexpected: Vec::new(),
        dtype: Dtype::F32,
    };
    Ok(Init { checkpoint, rates: calibration.rates })
}

/// A model to be trained from the beginning: weights and biases uniform within ±1/√fan-in, as PyTorch draws them, and batch
/// norms that change nothing yet. The same for the same seed on every platform.
///
/// # Errors
/// [`Error::Config`] for a configuration that does not validate; [`Error::Input`] for one that takes more memory than
/// there is.
pub fn untrained(config: &Config, seed: u64) -> Result<Checkpoint> {
    config.validate()?;
    let elements = config.parameters().iter().fold(0u64, |n, p| n.saturating_add(p.elements()));
    let had = usize::try_from(elements).is_ok_and(|n| Vec::<f32>::new().try_reserve_exact(n).is_ok());
    if !had {
        let why = format!("a model of {elements} parameters takes more memory than there is; choose a smaller one");
        return Err(Error::Input(why));
    }
    let mut random = Random(Pcg64::seed_from_u64(seed));
    let mut tensors = BTreeMap::new();
    let mut bound = 0.0;
    for parameter in config.parameters() {
        let n = parameter.shape.iter().product();
        let data = match parameter.kind {
            ParameterKind::Weight | ParameterKind::Bias => {
                if parameter.kind == ParameterKind::Weight {
                    bound = 1.0 / (parameter.shape[1..].iter().product::<usize>() as f32).sqrt();
                }
                (0..n).map(|_| bound * random.signed()).collect()
            }
            ParameterKind::BnWeight | ParameterKind::RunningVar => vec![1.0; n],
            ParameterKind::BnBias | ParameterKind::RunningMean => vec![0.0; n],
        };
        tensors.insert(parameter.name, Tensor { shape: parameter.shape, data });
    }
    let (config, metadata) = (config.clone(), BTreeMap::new());
    Ok(Checkpoint { config, tensors, metadata, unexpected: Vec::new(), dtype: Dtype::F32 })
}

/// Smooth random images `[count, channels, side, side]`, standardised roughly like a normalised photo: noise at three
/// scales. The same for the same seed on every platform.
pub fn smooth_images(seed: u64, count: usize, channels: usize, side: usize) -> Vec<f32> {
    Random(Pcg64::seed_from_u64(seed)).smooth_images(count, channels, side)
}

/// Enough images that a channel's statistics mean something, and no more. Attention multiplies three rates, so that what
/// one image has too much of grows from block to block: up to 256 × 256 there are two at least.
fn calibration_images(config: &Config) -> usize {
    let least = if config.img_size <= 256 { 2 } else { 1 };
    (8192 / (config.img_size * config.img_size)).clamp(least, 32)
}

/// Checks that the memory of a calibration can be had, as a failed allocation half way would end the program.
fn reserve(config: &Config, images: usize) -> Result<()> {
    let of = |factors: &[usize]| factors.iter().fold(4u64, |n, &f| n.saturating_mul(f as u64));
    let (sizes, widths, steps) = (config.stage_sizes(), config.stage_widths(), config.timesteps);
    let stages = (0..4).map(|i| of(&[images, sizes[i], sizes[i], widths[i], if i == 0 { 1 } else { steps }]));
    let hidden = of(&[images, config.tokens(), config.hidden_dim(), steps]);
    let tiles = side(config.head_dim());
    let kv = of(&[images, steps, config.num_heads, tiles, tiles, 1024]);
    // Raw sums, normalised sums, a trial of them and the residual lie in memory together.
    let largest = stages.chain([hidden, kv]).max().unwrap_or(0).saturating_mul(4);
    let parameters = config.parameters().iter().fold(0u64, |n, p| n.saturating_add(p.elements().saturating_mul(4)));
    let needed = largest.saturating_add(parameters.saturating_mul(2));
    let had = usize::try_from(needed).is_ok_and(|n| Vec::<u8>::new().try_reserve_exact(n).is_ok());
    if had {
        return Ok(());
    }
    let gib = needed as f64 / (1u64 << 30) as f64;
    Err(Error::Input(format!(
        "making this model takes about {gib:.1} GiB of memory, which is not to be had; \
         choose a smaller img_size, embed_dim, depth or T"
    )))
}

/// The firing rate that a layer is tuned to, in spikes per neuron and timestep.
fn target(config: &Config, layer: &str) -> f64 {
    match layer.rsplit_once('.').map_or(layer, |(_, name)| name) {
        "proj_lif" => 0.18,
        "proj_lif2" => 0.12,
        "shortcut_lif" | "fc1_lif" | "head_lif" => 0.20,
        "fc2_lif" => 0.08,
        // With few channels a head's sum is often zero whatever K and V are: the attention fires at most as often as Q.
        "q_lif" if config.head_dim() < 8 => 0.25,
        "v_lif" if config.head_dim() * config.tokens() < 8 => 0.25,
        _ => 0.15,
    }
}

/// Packed spikes of a layer.
struct Spikes {
    shape: Shape,
    ternary: bool,
    data: Vec<u32>,
}

impl Spikes {
    /// Spikes per neuron and timestep.
    fn rate(&self) -> f64 {
        let spikes: u64 = self.data.iter().map(|w| u64::from(w.count_ones())).sum();
        spikes as f64 / (self.shape.steps * self.shape.rows() * self.shape.channels) as f64
    }

    fn pooled(&self) -> Spikes {
        let (s, shape) = (self.shape, self.shape.pooled());
        let row = words(s.channels);
        let mut data = vec![0; shape.steps * shape.rows() * row];
        maxpool_spike(&self.data, s.height, s.width, row, &mut data);
        Spikes { shape, ternary: self.ternary, data }
    }
}

/// Real values in rows padded to a multiple of four.
struct Reals {
    shape: Shape,
    data: Vec<f32>,
}

impl Reals {
    fn zeros(shape: Shape) -> Reals {
        Reals { shape, data: vec![0.0; shape.steps * shape.rows() * 4 * vectors(shape.channels)] }
    }

    fn rows(&self) -> impl Iterator<Item = &[f32]> {
        let channels = self.shape.channels;
        self.data.chunks_exact(4 * vectors(channels)).map(move |row| &row[..channels])
    }

    /// The least and the largest value.
    fn range(&self) -> (f64, f64) {
        let (mut low, mut high) = (f32::INFINITY, f32::NEG_INFINITY);
        for &x in self.rows().flatten() {
            (low, high) = (low.min(x), high.max(x));
        }
        (low.into(), high.into())
    }

    fn map(&self, f: impl Fn(f32) -> f32) -> Reals {
        Reals { shape: self.shape, data: self.data.iter().map(|&x| f(x)).collect() }
    }

    fn add(mut self, other: &Reals) -> Reals {
        self.data.iter_mut().zip(&other.data).for_each(|(x, &u)| *x += u);
        self
    }

    fn pooled(&self) -> Reals {
        let mut out = Reals::zeros(self.shape.pooled());
        let Shape { height, width, channels, .. } = self.shape;
        maxpool_real(&self.data, height, width, 4 * vectors(channels), &mut out.data);
        out
    }

    /// The neurons' spikes over `steps` timesteps.
    fn fire(&self, steps: usize, neuron: Neuron, ternary: bool) -> Spikes {
        let shape = self.shape.with_steps(steps);
        let plane = words(shape.channels);
        let window = Window { row: if ternary { 2 * plane } else { plane }, first_word: 0, minus_plane: None };
        let window = Window { minus_plane: ternary.then_some(plane), ..window };
        let mut data = vec![0; shape.steps * shape.rows() * window.row];
        let input = lif::Input { x: &self.data, shape: self.shape, norm: None };
        lif(&input, steps, &(&neuron).into(), window, &mut data, None);
        Spikes { shape, ternary, data }
    }
}

/// A batch norm while it is being set.
struct BatchNorm {
    name: String,
    weight: Vec<f32>,
    bias: Vec<f32>,
    mean: Vec<f32>,
    var: Vec<f32>,
    conv_bias: Vec<f32>,
}

impl BatchNorm {
    /// `BN(raw)`, folded as the model folds it.
    fn apply(&self, raw: &Reals, eps: f32) -> Reals {
        let (scale, shift) = bn_fold(&self.weight, &self.bias, &self.mean, &self.var, eps, &self.conv_bias);
        let mut out = Reals::zeros(raw.shape);
        let row = 4 * vectors(raw.shape.channels);
        for (y, x) in out.data.chunks_exact_mut(row).zip(raw.data.chunks_exact(row)) {
            for (((y, &x), &a), &b) in y.iter_mut().zip(x).zip(&scale).zip(&shift) {
                *y = x * a + b;
            }
        }
        out
    }
}

/// Random numbers that are the same on every platform.
struct Random(Pcg64);

impl Random {
    /// Normal to the eye: twelve uniforms of 16 bits, less their mean (Irwin and Hall). Unlike every transform with
    /// logarithms or sines it is exact; mean 0, variance 1, at most 6.
    fn normal(&mut self) -> f32 {
        let sum: i32 = (0..3)
            .map(|_| {
                let bits = self.0.next_u64();
                (0..4).map(|i| (bits >> (16 * i) & 0xffff) as i32).sum::<i32>()
            })
            .sum();
        (sum - 6 * 65_535) as f32 / 65_536.0
    }

    fn normals(&mut self, n: usize, spread: f64) -> Vec<f32> {
        (0..n).map(|_| (f64::from(self.normal()) * spread) as f32).collect()
    }

    /// Uniform in [-1, 1).
    fn signed(&mut self) -> f32 {
        (self.0.next_u64() >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    }

    /// Factors around 1, none near 0.
    fn jitter(&mut self, spread: f32) -> f32 {
        (1.0 + spread * self.normal()).max(0.4)
    }

    fn smooth_images(&mut self, count: usize, channels: usize, side: usize) -> Vec<f32> {
        let mut images = vec![0.0; count * channels * side * side];
        for plane in images.chunks_exact_mut((side * side).max(1)) {
            for (scale, weight) in [(1, 1.0 / 3.0), (4, 1.0 / 1.5), (8, 1.0)] {
                let coarse_side = (side / scale).max(1);
                let coarse = self.normals(coarse_side * coarse_side, weight);
                // Pixel centres in the coarse grid, and their bilinear neighbours.
                let taps: Vec<(usize, usize, f32)> = (0..side)
                    .map(|i| {
                        let at = ((i as f64 + 0.5) * coarse_side as f64 / side as f64 - 0.5).max(0.0);
                        let first = (at as usize).min(coarse_side - 1);
                        (first, (first + 1).min(coarse_side - 1), (at - first as f64) as f32)
                    })
                    .collect();
                for (line, &(top, bottom, down)) in plane.chunks_exact_mut(side).zip(&taps) {
                    for (pixel, &(left, right, across)) in line.iter_mut().zip(&taps) {
                        let of = |row: usize| {
                            let row = &coarse[row * coarse_side..][..coarse_side];
                            row[left] + (row[right] - row[left]) * across
                        };
                        *pixel += of(top) + (of(bottom) - of(top)) * down;
                    }
                }
            }
        }
        images
    }
}

/// The trial whose rate is nearest to the target. A silent layer is worse than any other.
struct Nearest<X> {
    best: Option<(f64, X)>,
    target: f64,
}

impl<X> Nearest<X> {
    fn new(target: f64) -> Self {
        Nearest { best: None, target }
    }

    /// Takes a trial; whether it is near enough to stop.
    fn offer(&mut self, rate: f64, penalty: f64, x: X) -> bool {
        let distance = if rate > 0.0 { (rate - self.target).abs() + penalty } else { f64::MAX };
        if self.best.as_ref().is_none_or(|(d, _)| distance < *d) {
            self.best = Some((distance, x));
        }
        distance < 0.02 * self.target
    }
}

struct Calibration<'a, P> {
    config: &'a Config,
    neuron: Neuron,
    attn_neuron: Neuron,
    random: Random,
    tensors: BTreeMap<String, Tensor>,
    rates: Vec<(String, f64)>,
    progress: P,
    done: usize,
}

impl<P: FnMut(&str, f64)> Calibration<'_, P> {
    fn put(&mut self, name: String, shape: &[usize], data: Vec<f32>) {
        self.tensors.insert(name, Tensor { shape: shape.to_vec(), data });
    }

    fn done(&mut self, layer: &str) {
        self.done += 1;
        // Five convolutions, six a block, and the head.
        (self.progress)(layer, self.done as f64 / (6 + 6 * self.config.depth) as f64);
    }

    fn fired(&mut self, layer: &str, s: &Spikes) {
        let rate = s.rate();
        if !RATES.contains(&rate) {
            log::warn!(
                "{layer} fires at {:.1} % and no setting comes nearer to {:.0} %",
                100.0 * rate,
                100.0 * target(self.config, layer)
            );
        }
        self.rates.push((layer.to_owned(), rate));
    }

    /// Random weights of a convolution, N(0, 1 / fan_in), and with `bias` small biases. Gives back both.
    fn draw(&mut self, conv: &str, out: usize, inputs: usize, taps: usize, bias: bool) -> (Vec<f32>, Vec<f32>) {
        let side = if taps == 9 { 3 } else { 1 };
        let weights = self.random.normals(out * inputs * taps, 1.0 / ((inputs * taps) as f64).sqrt());
        self.put(format!("{conv}.weight"), &[out, inputs, side, side], weights.clone());
        let mut biases = Vec::new();
        if bias {
            biases = self.random.normals(out, 0.05);
            self.put(format!("{conv}.bias"), &[out], biases.clone());
        }
        (weights, biases)
    }

    /// A new convolution `conv` of spikes: its sums, and the batch norm that standardises them to about N(0, `gamma`²).
    fn conv(&mut self, conv: &str, s: &Spikes, out: usize, bias: bool, gamma: f32) -> (Reals, BatchNorm) {
        let inputs = s.shape.channels;
        let taps = if conv.starts_with("patch_embed") { 9 } else { 1 };
        let (weights, biases) = self.draw(conv, out, inputs, taps, bias);
        let packed = product::pack_weights(&weights, 0..out, inputs, taps);
        let scale_shift = product::pack_scale_shift(&vec![1.0; out], &vec![0.0; out], 0..out);
        let mut raw = Reals::zeros(s.shape.with_channels(out));
        let product = Product {
            spikes: &s.data,
            shape: s.shape,
            taps,
            weights: &packed,
            scale_shift: &scale_shift,
            channels_out: out,
        };
        product.real(4 * vectors(out), 0, false, None, &mut raw.data);
        let bn = self.batch_norm(conv, &raw, biases, gamma);
        (raw, bn)
    }

    /// The batch norm after `conv`: statistics as measured, with jitter as training leaves it.
    fn batch_norm(&mut self, conv: &str, raw: &Reals, conv_bias: Vec<f32>, gamma: f32) -> BatchNorm {
        let channels = raw.shape.channels;
        let count = (raw.shape.steps * raw.shape.rows()) as f64;
        let mut mean = vec![0.0f64; channels];
        for row in raw.rows() {
            mean.iter_mut().zip(row).for_each(|(m, &x)| *m += f64::from(x));
        }
        mean.iter_mut().for_each(|m| *m /= count);
        let mut var = vec![0.0f64; channels];
        for row in raw.rows() {
            for ((v, &m), &x) in var.iter_mut().zip(&mean).zip(row) {
                let d = f64::from(x) - m;
                *v += d * d;
            }
        }
        var.iter_mut().for_each(|v| *v /= count);
        let r = &mut self.random;
        let shifted = |c: usize, m: f64| m + conv_bias.get(c).copied().map_or(0.0, f64::from);
        let mean =
            (0..channels).map(|c| (shifted(c, mean[c]) + 0.1 * f64::from(r.normal()) * var[c].sqrt()) as f32).collect();
        // A channel that never varies must not be blown up.
        let var = var.iter().map(|v| v.max(1e-3) as f32 * r.jitter(0.2)).collect();
        let weight = (0..channels).map(|_| gamma * r.jitter(0.15)).collect();
        let bias = r.normals(channels, 0.2);
        BatchNorm { name: conv.replace("_conv", "_bn"), weight, bias, mean, var, conv_bias }
    }

    fn put_batch_norm(&mut self, bn: BatchNorm) {
        let parts = [("weight", bn.weight), ("bias", bn.bias), ("running_mean", bn.mean), ("running_var", bn.var)];
        for (part, data) in parts {
            self.put(format!("{}.{part}", bn.name), &[data.len()], data);
        }
    }

    /// The offset of `x` at which its neurons fire nearest to `target`.
    fn offset(&self, x: &Reals, target: f64) -> f32 {
        let n = self.neuron;
        let (low, high) = x.range();
        let rise = f64::from(n.v_threshold) - f64::from(n.start());
        let rise = if n.decay_input { rise * f64::from(n.tau) } else { rise };
        // Below, no input is positive and no membrane leaves its start; above, each reaches the threshold in one step.
        // The checkpoint must stay finite whatever the threshold.
        let finite = |x: f64| x.clamp(-1e37, 1e37);
        let (mut below, mut above) = (finite(-high), finite(rise - low));
        let mut nearest = Nearest::new(target);
        for _ in 0..24 {
            let offset = ((below + above) / 2.0) as f32;
            let rate = x.map(|x| x + offset).fire(self.config.timesteps, n, false).rate();
            if nearest.offer(rate, 0.0, offset) {
                break;
            }
            if rate < target { below = offset.into() } else { above = offset.into() }
        }
        nearest.best.map_or(0.0, |(_, offset)| offset)
    }

    /// Sets the bias of `bn` so that `layer`, whose input is `then(BN(raw))`, fires at its target. Gives back that input and
    /// the spikes.
    fn settle(
        &mut self,
        raw: &Reals,
        mut bn: BatchNorm,
        layer: &str,
        then: impl Fn(Reals) -> Reals,
    ) -> (Reals, Spikes) {
        let eps = self.config.bn_eps;
        let offset = self.offset(&then(bn.apply(raw, eps)), target(self.config, layer));
        bn.bias.iter_mut().for_each(|b| *b += offset);
        let x = then(bn.apply(raw, eps));
        self.put_batch_norm(bn);
        let s = x.fire(self.config.timesteps, self.neuron, false);
        self.fired(layer, &s);
        (x, s)
    }

    /// Spiking patch splitting: gives back the residual membrane and the spikes of the first block's shortcut.
    fn patch_embed(&mut self, images: usize) -> (Reals, Spikes) {
        let (inputs, side) = (self.config.in_chans, self.config.img_size);
        let (widths, pooling) = (self.config.stage_widths(), self.config.pooling_stat);
        let data = self.random.smooth_images(images, inputs, side);
        let pixels = channel_last(&Input { batch: images, timesteps: None, data }, 0, images, inputs, side * side);
        let shape = Shape { steps: 1, batch: images, height: side, width: side, channels: inputs };

        let conv = "patch_embed.proj_conv";
        let out = widths[0];
        let (weights, _) = self.draw(conv, out, inputs, 9, false);
        let packed = conv3x3_real::pack_weights(&weights, 0..out, inputs);
        let scale_shift = product::pack_scale_shift(&vec![1.0; out], &vec![0.0; out], 0..out);
        let mut raw = Reals::zeros(shape.with_channels(out));
        conv3x3_real_twin(&pixels, shape, &packed, &scale_shift, out, &mut raw.data);
        let bn = self.batch_norm(conv, &raw, Vec::new(), 1.0);
        let (_, mut s) = self.settle(&raw, bn, "patch_embed.proj_lif", |x| x);
        self.done("patch_embed.proj_conv");

        let mut residual = None;
        for i in 1..4 {
            if pooling[i - 1] {
                s = s.pooled();
            }
            let conv = format!("patch_embed.proj_conv{i}");
            let (raw, bn) = self.conv(&conv, &s, widths[i], false, 1.0);
            let lif = format!("patch_embed.proj_lif{i}");
            // The last stage's pool acts on the membrane.
            let pool = i == 3 && pooling[3];
            let x;
            (x, s) = self.settle(&raw, bn, &lif, |x| if pool { x.pooled() } else { x });
            residual = Some(x);
            self.done(&conv);
        }
        let (raw, bn) = self.conv("patch_embed.rpe_conv", &s, widths[3], false, 0.7);
        let next = self.settle(&raw, bn, "block.0.attn.shortcut_lif", |x| match &residual {
            Some(u) => x.add(u),
            None => x,
        });
        self.done("patch_embed.rpe_conv");
        next
    }

    /// A²OS²A of one block on the residual membrane `u`, whose spikes are `s`: gives back the new membrane, and calibrates
    /// the neurons of the MLP that it feeds.
    fn attention(&mut self, block: usize, u: Reals, s: &Spikes) -> (Reals, Spikes) {
        let (d, eps) = (self.config.embed_dim, self.config.bn_eps);
        let name = format!("block.{block}.attn");
        let (raw, bn) = self.conv(&format!("{name}.q_conv"), s, d, false, 1.0);
        let (_, q) = self.settle(&raw, bn, &format!("{name}.q_lif"), |x| x);
        self.done(&format!("{name}.q_conv"));

        let (k_raw, mut k_bn) = self.conv(&format!("{name}.k_conv"), s, d, false, 0.25);
        self.done(&format!("{name}.k_conv"));
        let (raw, mut v_bn) = self.conv(&format!("{name}.v_conv"), s, d, false, 1.0);
        let z = v_bn.apply(&raw, eps);
        let k = self.keys(&k_raw, &mut k_bn, &q, &z);
        self.put_batch_norm(k_bn);
        let (gain, offset) = self.values(&q, &k, &z);
        v_bn.weight.iter_mut().for_each(|w| *w *= gain);
        v_bn.bias.iter_mut().for_each(|b| *b = gain * (*b + offset));
        let v = v_bn.apply(&raw, eps).fire(self.config.timesteps, self.neuron, true);
        self.put_batch_norm(v_bn);
        self.fired(&format!("{name}.v_lif"), &v);
        self.done(&format!("{name}.v_conv"));

        let a = self.mix(&q, &k, &v).fire(self.config.timesteps, self.attn_neuron, false);
        self.fired(&format!("{name}.attn_lif"), &a);
        let (raw, bn) = self.conv(&format!("{name}.proj_conv"), &a, d, true, 0.5);
        let next = self.settle(&raw, bn, &format!("block.{block}.mlp.fc1_lif"), |x| x.add(&u));
        self.done(&format!("{name}.proj_conv"));
        next
    }

    /// The spiking MLP on the residual membrane `u`, whose spikes are `s`: gives back the new membrane, and calibrates the
    /// neurons of the next block or the head.
    fn mlp(&mut self, block: usize, u: Reals, s: &Spikes) -> (Reals, Spikes) {
        let (d, hidden, depth) = (self.config.embed_dim, self.config.hidden_dim(), self.config.depth);
        let name = format!("block.{block}.mlp");
        let (raw, bn) = self.conv(&format!("{name}.fc1_conv"), s, hidden, true, 1.0);
        let (_, s) = self.settle(&raw, bn, &format!("{name}.fc2_lif"), |x| x);
        self.done(&format!("{name}.fc1_conv"));
        let (raw, bn) = self.conv(&format!("{name}.fc2_conv"), &s, d, true, 0.5);
        let next =
            if block + 1 < depth { format!("block.{}.attn.shortcut_lif", block + 1) } else { "head_lif".to_owned() };
        let next = self.settle(&raw, bn, &next, |x| x.add(&u));
        self.done(&format!("{name}.fc2_conv"));
        next
    }

    fn head(&mut self) {
        let (classes, d) = (self.config.num_classes, self.config.embed_dim);
        // Rates are small and vary little between images; the factor sets the logits apart.
        let weights = self.random.normals(classes * d, 4.0 / (d as f64).sqrt());
        let bias = self.random.normals(classes, 0.1);
        self.put("head.weight".to_owned(), &[classes, d], weights);
        self.put("head.bias".to_owned(), &[classes], bias);
        self.done("head");
    }

    /// (Q Kᵀ) V, in the order that the model takes.
    fn mix(&self, q: &Spikes, k: &Reals, v: &Spikes) -> Reals {
        let heads = Heads { dim: self.config.head_dim(), first: 0, count: self.config.num_heads };
        let mut o = Reals::zeros(q.shape);
        match Order::cheaper(q.shape.tokens(), heads.dim) {
            Order::QkV => attention_qk_v(&q.data, &k.data, &v.data, q.shape, heads, &mut o.data),
            Order::QKv => {
                let mut m = Reals::zeros(kv_shape(q.shape, heads));
                attention_kv(&k.data, &v.data, q.shape, heads, &mut m.data);
                attention_q_kv(&q.data, &m.data, q.shape, heads, &mut o.data);
            }
        }
        o
    }

    /// The gain at which V = ternary LIF(gain · (z + offset)) fires nearest to its target, and its spikes.
    fn ternary(&self, z: &Reals, offset: f32) -> (f32, Spikes) {
        let n = self.neuron;
        let v_target = target(self.config, "v_lif");
        // An input of this size fires at once from rest. Over 32 timesteps one a thirty-second of it may fire too.
        let unit = if n.decay_input { n.v_threshold * n.tau } else { n.v_threshold };
        // The checkpoint must stay finite whatever the threshold.
        let unit = unit.clamp(1e-30, 1e30);
        let (mut below, mut above) = (unit / 256.0, unit * 256.0);
        let mut nearest = Nearest::new(v_target);
        for _ in 0..14 {
            let gain = below.sqrt() * above.sqrt();
            let v = z.map(|z| gain * (z + offset)).fire(self.config.timesteps, n, true);
            let rate = v.rate();
            if nearest.offer(rate, 0.0, (gain, v)) {
                break;
            }
            if rate < v_target { below = gain } else { above = gain }
        }
        match nearest.best {
            Some((_, found)) => found,
            None => (1.0, z.fire(self.config.timesteps, n, true)),
        }
    }

    /// Sets K's batch norm so that the attention's neurons can reach their target with V mostly, but not all, positive. Gives
    /// back K.
    ///
    /// K ≥ 0 starts small, as (Q Kᵀ) V is unscaled. Where that leaves the sums too small it grows by powers of two; where Q
    /// and K meet too seldom (few tokens, few channels) its bias grows.
    fn keys(&self, raw: &Reals, bn: &mut BatchNorm, q: &Spikes, z: &Reals) -> Reals {
        let a_target = target(self.config, "attn_lif");
        let relu = |x: Reals| x.map(|x| if x > 0.0 { x } else { 0.0 });
        let bias = bn.bias.clone();
        // One standard deviation up.
        let v = self.ternary(z, 1.0).1;
        let mut best: Option<(f64, f32, f32)> = None;
        for shift in [0.0, 0.25, 0.5, 1.0] {
            bn.bias = bias.iter().map(|b| b + shift).collect();
            let o = self.mix(q, &relu(bn.apply(raw, self.config.bn_eps)), &v);
            let largest = o.range().1;
            let rate = |scale: f32| self.attention_rate(&o.map(|o| o * scale));
            let mut scale = 1.0f32;
            let mut reached = rate(scale);
            while reached < a_target && scale < 1e30 && largest > 0.0 {
                let next = rate(2.0 * scale);
                if reached > 0.0 && next <= 1.02 * reached {
                    break;
                }
                (scale, reached) = (2.0 * scale, next);
            }
            if best.is_none_or(|(rate, ..)| reached > rate) {
                best = Some((reached, shift, scale));
            }
            if reached >= a_target {
                break;
            }
        }
        let (_, shift, scale) = best.filter(|(rate, ..)| *rate > 0.0).unwrap_or((0.0, 0.0, 1.0));
        bn.weight.iter_mut().for_each(|w| *w *= scale);
        bn.bias = bias.iter().map(|b| (b + shift) * scale).collect();
        relu(bn.apply(raw, self.config.bn_eps))
    }

    fn attention_rate(&self, o: &Reals) -> f64 {
        o.fire(self.config.timesteps, self.attn_neuron, false).rate()
    }

    /// The gain and offset of V's normalised sums `z` for which V and the attention's neurons both fire near their targets.
    ///
    /// V's gain sets its rate. Its offset sets how much more often it fires up than down, and so, K being positive, how
    /// often the attention does.
    fn values(&self, q: &Spikes, k: &Reals, z: &Reals) -> (f32, f32) {
        let a_target = target(self.config, "attn_lif");
        let (low, high) = z.range();
        let (mut below, mut above) = (-high as f32, -low as f32);
        let mut nearest = Nearest::new(a_target);
        for _ in 0..14 {
            let offset = (below + above) / 2.0;
            let (gain, v) = self.ternary(z, offset);
            let penalty = if RATES.contains(&v.rate()) { 0.0 } else { 1.0 };
            let rate = self.attention_rate(&self.mix(q, k, &v));
            if nearest.offer(rate, penalty, (gain, offset)) {
                break;
            }
            if rate < a_target { below = offset } else { above = offset }
        }
        nearest.best.map_or((1.0, 0.0), |(_, found)| found)
    }
}
