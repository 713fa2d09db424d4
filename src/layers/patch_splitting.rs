//! Spiking patch splitting (SPS): four convolution stages from the image to the tokens' first membrane.

use super::conv_bn::{ConvBn, Tiled, scale_shift};
use super::{RealTensor, Recorder};
use crate::insight::anatomy::{Layer, LayerKind};
use crate::kernels::conv3x3_real::{Conv3x3RealOp, pack_weights};
use crate::kernels::maxpool_real::MaxpoolRealOp;
use crate::kernels::maxpool_spike::MaxpoolSpikeOp;
use crate::kernels::neuron::Neuron;
use crate::kernels::product::pack_scale_shift;
use crate::recording::TensorId;
use crate::tensor::Element;

/// The first stage's `conv → BN`, its input the real image.
#[derive(Debug)]
pub struct ImageConvBn {
    weights: Tiled,
    scale_shift: Tiled,
    inputs: usize,
    outputs: usize,
    zeros: u64,
}

impl ImageConvBn {
    /// `weights` `[O][I][9]`, `scale` and `shift` `[O]`.
    pub fn new(weights: &[f32], inputs: usize, scale: &[f32], shift: &[f32]) -> Self {
        let outputs = scale.len();
        let a_tile = (9 * inputs).div_ceil(32) * 1024;
        ImageConvBn {
            weights: Tiled::new(
                "patch_embed.proj_conv weights".to_owned(),
                pack_weights(weights, 0..outputs, inputs),
                a_tile,
            ),
            scale_shift: Tiled::new(
                "patch_embed.proj_bn scale and shift".to_owned(),
                pack_scale_shift(scale, shift, 0..outputs),
                64,
            ),
            inputs,
            outputs,
            zeros: weights.iter().filter(|&&w| w == 0.0).count() as u64,
        }
    }

    /// Input channels.
    pub(crate) fn inputs(&self) -> usize {
        self.inputs
    }

    /// The weights `[I][9]` of output channel `o`, batch norm's scale on them, and its shift.
    pub(crate) fn row(&self, o: usize) -> (Vec<f32>, f32) {
        let chunks = (9 * self.inputs).div_ceil(32);
        let (scale, shift) = scale_shift(&self.scale_shift, o);
        let at = |i: usize, tap: usize| (o / 32 * chunks * 32 + tap * self.inputs + i) * 32 + o % 32;
        let all = (0..self.inputs).flat_map(|i| (0..9).map(move |tap| (i, tap)));
        (all.map(|(i, tap)| scale * self.weights.whole.data[at(i, tap)]).collect(), shift)
    }

    /// What it is, on a grid of `side` × `side` pixels.
    pub(crate) fn describe(&self, side: usize) -> Layer {
        Layer {
            name: "patch_embed.proj_conv".to_owned(),
            kind: LayerKind::Image { height: side, width: side, inputs: self.inputs, outputs: self.outputs },
            weights: (9 * self.inputs * self.outputs) as u64,
            zeros: self.zeros,
            bytes: (4 * 9 * self.inputs * self.outputs + 8 * self.outputs) as u64,
        }
    }

    fn record(&self, r: &mut Recorder, image: TensorId) -> RealTensor {
        let shape = r.recording.get(image).shape.with_channels(self.outputs);
        let most = self.weights.channels_within(r.most_bytes()).max(32);
        let y = r.real_within("patch_embed.proj_conv", shape, 32, most);
        for (channels, out) in &y.windows {
            let op = Conv3x3RealOp {
                layer: "patch_embed.proj_conv".to_owned(),
                input: image,
                weights: r.recording.constant(&self.weights.window(channels)),
                scale_shift: r.recording.constant(&self.scale_shift.window(channels)),
                out: *out,
            };
            r.recording.push(op);
        }
        y
    }
}

/// Four stages `conv3×3 → BN → LIF`, pooled where `pooling_stat` says so, and the position convolution:
/// `U0 = BN(conv(LIF(x3))) + x3`, x3 the pooled real values of the last stage.
#[derive(Debug)]
pub struct PatchSplitting {
    /// Stage 0.
    pub image: ImageConvBn,
    /// Stages 1 to 3.
    pub stages: [ConvBn; 3],
    /// The relative position encoding.
    pub rpe: ConvBn,
    /// After which stages a max-pool follows.
    pub pooling_stat: [bool; 4],
    /// Its neurons.
    pub neuron: Neuron,
}

impl PatchSplitting {
    /// Records the layer on an image `[T or 1, B, H, W, in_chans]` for `steps` timesteps.
    pub fn record(&self, r: &mut Recorder, image: TensorId, steps: usize) -> RealTensor {
        // A static image's first stage is the same at every timestep: computed once, fired T times.
        let x = self.image.record(r, image);
        let mut s = r.lif("patch_embed.proj_lif", &x, steps, self.neuron, Element::Spikes);
        if self.pooling_stat[0] {
            s = pool_spikes(r, "patch_embed.maxpool", s);
        }
        let [stage1, stage2, stage3] = &self.stages;
        for (i, stage) in [(1, stage1), (2, stage2)] {
            s = stage.record_fire(r, s, &format!("patch_embed.proj_lif{i}"), self.neuron, Element::Spikes);
            if self.pooling_stat[i] {
                s = pool_spikes(r, &format!("patch_embed.maxpool{i}"), s);
            }
        }
        let mut x = stage3.record_real(r, s);
        if self.pooling_stat[3] {
            x = pool_real(r, "patch_embed.maxpool3", &x);
        }
        let s = r.lif("patch_embed.proj_lif3", &x, steps, self.neuron, Element::Spikes);
        let u = self.rpe.record_residual(r, s, &x);
        r.trace("u.patch_embed".to_owned(), &u);
        u
    }
}

fn pool_spikes(r: &mut Recorder, layer: &str, input: TensorId) -> TensorId {
    let tensor = r.recording.get(input);
    let (element, shape) = (tensor.element, tensor.shape.pooled());
    let out = r.recording.tensor(layer, element, shape);
    r.recording.push(MaxpoolSpikeOp { layer: layer.to_owned(), input, out });
    r.census(out, false, true, false);
    out
}

fn pool_real(r: &mut Recorder, layer: &str, x: &RealTensor) -> RealTensor {
    let shape = x.shape.pooled();
    let mut windows = Vec::new();
    for (channels, input) in &x.windows {
        let out = r.recording.tensor(layer, Element::Real, shape.with_channels(channels.len()));
        r.recording.push(MaxpoolRealOp { layer: layer.to_owned(), input: *input, out });
        windows.push((channels.clone(), out));
    }
    RealTensor { shape, windows }
}
