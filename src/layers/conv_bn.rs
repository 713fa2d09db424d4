//! A convolution of packed spikes (3×3 or 1×1) with its batch norm folded in.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::{RealTensor, Recorder};
use crate::insight::anatomy::{Layer, LayerKind};
use crate::kernels::conv3x3_spike::Conv3x3Spike;
use crate::kernels::conv3x3_spike_f16::Conv3x3SpikeF16;
use crate::kernels::conv3x3_spike_int8::Conv3x3SpikeInt8;
use crate::kernels::linear_spike::LinearSpike;
use crate::kernels::linear_spike_f16::LinearSpikeF16;
use crate::kernels::linear_spike_int8::LinearSpikeInt8;
use crate::kernels::neuron::Neuron;
use crate::kernels::product::{Epilogue, SpikeProduct, pack_scale_shift, pack_weights};
use crate::kernels::residual_add::ResidualAddOp;
use crate::recording::{Constant, TensorId};
use crate::tensor::{Element, Shape, words};
use crate::weights::{Weights, quantise, round_to_f16};
use crate::{Error, Result};

/// A parameter in tiles of 32 output channels, whole and cut into windows; plans share a cut, which goes with the last of them.
#[derive(Debug)]
pub(super) struct Tiled {
    pub(super) whole: Arc<Constant>,
    a_tile: usize,
    cuts: Mutex<HashMap<Range<usize>, Weak<Constant>>>,
}

impl Tiled {
    pub(super) fn new(name: String, data: Vec<f32>, a_tile: usize) -> Self {
        Tiled { whole: Arc::new(Constant { name, data: data.into() }), a_tile, cuts: Mutex::default() }
    }

    /// The part of the output channels `out`, which begins at a multiple of 32.
    pub(super) fn window(&self, out: &Range<usize>) -> Arc<Constant> {
        let part = out.start / 32 * self.a_tile..out.end.div_ceil(32) * self.a_tile;
        if part == (0..self.whole.data.len()) {
            return self.whole.clone();
        }
        let mut cuts = self.cuts.lock().unwrap_or_else(PoisonError::into_inner);
        let cut = cuts.entry(part.clone()).or_default();
        cut.upgrade().unwrap_or_else(|| {
            let name = format!("{} {out:?}", self.whole.name);
            let made = Arc::new(Constant { name, data: self.whole.data[part].into() });
            *cut = Arc::downgrade(&made);
            made
        })
    }

    /// The most output channels whose part stays within `bytes`, a multiple of 32; no more than there are.
    pub(super) fn channels_within(&self, bytes: u64) -> usize {
        let tiles = usize::try_from(bytes / (4 * self.a_tile as u64)).unwrap_or(usize::MAX);
        tiles.min(self.whole.data.len() / self.a_tile) * 32
    }
}

/// Scale and shift of output channel `o` among [`pack_scale_shift`]'s.
pub(super) fn scale_shift(packed: &Tiled, o: usize) -> (f32, f32) {
    let at = o / 4 * 8 + o % 4;
    (packed.whole.data[at], packed.whole.data[at + 4])
}

/// Says that a layer's weight `w` has no place in f16.
fn beyond_f16(layer: &str, w: f32) -> Error {
    Error::Checkpoint(format!(
        "`{layer}.weight` has a weight of {w:e}, beyond f16's largest, {}; use f32 or int8 weights",
        half::f16::MAX
    ))
}

/// `conv → BN`, its input packed spikes.
#[derive(Debug)]
pub struct ConvBn {
    name: String,
    inputs: usize,
    outputs: usize,
    taps: usize,
    stored: Weights,
    weights: Tiled,
    scale_shift: Tiled,
    quantisation_error: f64,
    zeros: u64,
}

impl ConvBn {
    /// `weights` `[O][I][taps]` (taps 1 or 9), `scale` and `shift` `[O]`, to be stored as `stored`.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] where f16 is to hold a weight that is beyond it.
    pub fn new(
        name: &str,
        weights: &[f32],
        inputs: usize,
        taps: usize,
        (scale, shift): (&[f32], &[f32]),
        stored: Weights,
    ) -> Result<Self> {
        let outputs = scale.len();
        // 4-byte elements of 32 outputs' weights.
        let a_tile = taps * words(inputs) * 1024 / stored.in_a_word();
        let zeros;
        let (packed, scale_shift, quantisation_error) = match stored {
            Weights::F32 => {
                let packed = pack_weights(weights, 0..outputs, inputs, taps);
                zeros = weights.iter().filter(|&&w| w == 0.0).count();
                (packed, pack_scale_shift(scale, shift, 0..outputs), 0.0)
            }
            Weights::F16 => {
                let halves = round_to_f16(weights, scale).map_err(|w| beyond_f16(name, w))?;
                zeros = halves.weights.iter().filter(|w| w.to_f32() == 0.0).count();
                let packed = pack_weights(&halves.weights, 0..outputs, inputs, taps);
                let scale_shift = pack_scale_shift(scale, shift, 0..outputs);
                (bytemuck::pod_collect_to_vec(&packed), scale_shift, halves.relative_error)
            }
            Weights::Int8 => {
                let quantised = quantise(weights, scale);
                zeros = quantised.q.iter().filter(|&&q| q == 0).count();
                let packed = pack_weights(&quantised.q, 0..outputs, inputs, taps);
                let scale_shift = pack_scale_shift(&quantised.scale, shift, 0..outputs);
                (bytemuck::pod_collect_to_vec(&packed), scale_shift, quantised.relative_error)
            }
        };
        Ok(ConvBn {
            name: name.to_owned(),
            inputs,
            outputs,
            taps,
            stored,
            weights: Tiled::new(format!("{name} weights"), packed, a_tile),
            scale_shift: Tiled::new(format!("{name} scale and shift"), scale_shift, 64),
            quantisation_error,
            zeros: zeros as u64,
        })
    }

    /// Its name, e.g. `block.0.mlp.fc1_conv`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What its weights lose by being stored as they are (see [`crate::weights::Quantised::relative_error`]); 0 for f32.
    pub fn quantisation_error(&self) -> f64 {
        self.quantisation_error
    }

    /// What it is, with the spikes of `input` on a grid of `side` × `side` tokens.
    pub(crate) fn describe(&self, input: &str, side: usize) -> Layer {
        let weights = (self.taps * self.inputs * self.outputs) as u64;
        let kind = LayerKind::Spikes {
            input: input.to_owned(),
            taps: self.taps,
            height: side,
            width: side,
            inputs: self.inputs,
            outputs: self.outputs,
        };
        let bytes = 4 * weights / self.stored.in_a_word() as u64 + 8 * self.outputs as u64;
        Layer { name: self.name.clone(), kind, weights, zeros: self.zeros, bytes }
    }

    /// Weights from an input channel to an output channel: 9 or 1.
    pub(crate) fn taps(&self) -> usize {
        self.taps
    }

    /// The weights `[I][taps]` of output channel `o` as they are stored, batch norm's scale on them, and its shift.
    pub(crate) fn row(&self, o: usize) -> (Vec<f32>, f32) {
        let (data, words_in) = (&self.weights.whole.data, words(self.inputs));
        let (scale, shift) = scale_shift(&self.scale_shift, o);
        let at = |i: usize, tap: usize| {
            let chunk = (o / 32 * self.taps + tap) * words_in + i / 32;
            let at = (chunk * 32 + i % 32) * 32 + o % 32;
            match self.stored {
                Weights::F32 => data[at],
                Weights::F16 => bytemuck::cast_slice::<f32, half::f16>(data)[at].to_f32(),
                Weights::Int8 => f32::from(bytemuck::cast_slice::<f32, i8>(data)[at]),
            }
        };
        let all = (0..self.inputs).flat_map(|i| (0..self.taps).map(move |tap| (i, tap)));
        (all.map(|(i, tap)| scale * at(i, tap)).collect(), shift)
    }

    /// Output channels.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// `of` cut into windows whose weights stay within a binding.
    fn cut(&self, r: &Recorder, of: &Range<usize>) -> Vec<Range<usize>> {
        let most = self.weights.channels_within(r.most_bytes()).max(32);
        of.clone().step_by(most).map(|c| c..(c + most).min(of.end)).collect()
    }

    fn push(&self, r: &mut Recorder, input: TensorId, out: &Range<usize>, epilogue: Epilogue) {
        debug_assert_eq!(r.recording.get(input).shape.channels, self.inputs);
        let weights = self.weights.window(out);
        let channels = self.stored.in_a_word() * weights.data.len();
        let shape = Shape { steps: 1, batch: 1, height: 1, width: 1, channels };
        let product = SpikeProduct {
            layer: self.name.clone(),
            input,
            weights: r.recording.constant_as(&weights, self.stored.element(), shape),
            scale_shift: r.recording.constant(&self.scale_shift.window(out)),
            channels_out: out.len(),
            epilogue,
        };
        match (self.taps, self.stored) {
            (9, Weights::F32) => r.recording.push(Conv3x3Spike(product)),
            (9, Weights::F16) => r.recording.push(Conv3x3SpikeF16(product)),
            (9, Weights::Int8) => r.recording.push(Conv3x3SpikeInt8(product)),
            (_, Weights::F32) => r.recording.push(LinearSpike(product)),
            (_, Weights::F16) => r.recording.push(LinearSpikeF16(product)),
            (_, Weights::Int8) => r.recording.push(LinearSpikeInt8(product)),
        }
    }

    /// `y = [relu](BN(conv(input)))` into `y`, whose shape must be this layer's.
    pub fn record_into(&self, r: &mut Recorder, input: TensorId, relu: bool, y: &RealTensor) {
        for (window, out) in &y.windows {
            for c in self.cut(r, window) {
                let first_channel = c.start - window.start;
                self.push(r, input, &c, Epilogue::Real { out: *out, first_channel, relu });
            }
        }
    }

    /// `y = BN(conv(input))`.
    pub fn record_real(&self, r: &mut Recorder, input: TensorId) -> RealTensor {
        let shape = r.recording.get(input).shape.with_channels(self.outputs);
        let y = r.real(&self.name, shape);
        self.record_into(r, input, false, &y);
        y
    }

    /// `y = BN(conv(input)) + residual`.
    pub fn record_residual(&self, r: &mut Recorder, input: TensorId, residual: &RealTensor) -> RealTensor {
        // Window stands beside window: a pooled tensor is cut as the larger one before the pool was.
        let y = r.real_like(&self.name, residual);
        if !r.options.fused {
            let x = r.real_like(&self.name, residual);
            self.record_into(r, input, false, &x);
            for (((_, x), (_, residual)), (_, out)) in x.windows.iter().zip(&residual.windows).zip(&y.windows) {
                let layer = self.name.clone();
                r.recording.push(ResidualAddOp { layer, input: *x, residual: *residual, out: *out });
            }
            return y;
        }
        for ((window, out), (_, residual)) in y.windows.iter().zip(&residual.windows) {
            for c in self.cut(r, window) {
                let first_channel = c.start - window.start;
                self.push(r, input, &c, Epilogue::Residual { residual: *residual, out: *out, first_channel });
            }
        }
        y
    }

    /// `s = LIF(BN(conv(input)))`, packed.
    pub fn record_fire(
        &self,
        r: &mut Recorder,
        input: TensorId,
        lif: &str,
        neuron: Neuron,
        element: Element,
    ) -> TensorId {
        let shape = r.recording.get(input).shape.with_channels(self.outputs);
        if !r.options.fused {
            let x = self.record_real(r, input);
            return r.lif(lif, &x, shape.steps, neuron, element);
        }
        let out = r.spikes(lif, element, shape);
        for c in self.cut(r, &(0..self.outputs)) {
            self.push(r, input, &c, Epilogue::Fire { out, neuron, first_channel: c.start });
        }
        r.fired(out);
        out
    }
}
