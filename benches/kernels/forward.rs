//! The rows of the forward kernels: one image, T = 4.

use half::f16;
use spikeshade::kernels::attention::kv_shape;
use spikeshade::kernels::attention_census::{KeyValuePairs, NonzeroKeys, pairs_shape};
use spikeshade::kernels::attention_fused::AttentionFused;
use spikeshade::kernels::attention_kv::AttentionKv;
use spikeshade::kernels::attention_q_kv::AttentionQKv;
use spikeshade::kernels::attention_qk_v::AttentionQkV;
use spikeshade::kernels::batch_norm::BatchNorm;
use spikeshade::kernels::bn_apply::BnApplyOp;
use spikeshade::kernels::bn_backward::BnSaved;
use spikeshade::kernels::conv3x3_real::{self, Conv3x3RealOp};
use spikeshade::kernels::conv3x3_spike::Conv3x3Spike;
use spikeshade::kernels::conv3x3_spike_f16::Conv3x3SpikeF16;
use spikeshade::kernels::conv3x3_spike_int8::Conv3x3SpikeInt8;
use spikeshade::kernels::copy::CopyOp;
use spikeshade::kernels::head::HeadOp;
use spikeshade::kernels::lif::LifOp;
use spikeshade::kernels::linear_spike::LinearSpike;
use spikeshade::kernels::linear_spike_f16::LinearSpikeF16;
use spikeshade::kernels::linear_spike_int8::LinearSpikeInt8;
use spikeshade::kernels::maxpool_real::MaxpoolRealOp;
use spikeshade::kernels::maxpool_spike::MaxpoolSpikeOp;
use spikeshade::kernels::multiply_add::MultiplyAddOp;
use spikeshade::kernels::product::{Epilogue, SpikeProduct, pack_scale_shift, pack_weights};
use spikeshade::kernels::residual_add::ResidualAddOp;
use spikeshade::kernels::spike_census::{Layout, SpikeCensusOp};
use spikeshade::kernels::spike_count::{PARTIALS, SpikeCountOp};
use spikeshade::kernels::spike_gap::SpikeGapOp;
use spikeshade::recording::TensorId;
use spikeshade::tensor::{Element, Shape};
use spikeshade::weights::Weights;

use crate::harness::{DIM, Data, HEADS, NEURON, RATE, Row, STEPS, flat, saved, shape};

/// Neurons of a block, T = 4.
fn lif(d: &mut Data, input: TensorId, norm: Option<BatchNorm>) {
    let (layer, out) = (String::new(), d.out(Element::Spikes, shape(8, DIM)));
    d.recording.push(LifOp { layer, input, norm, out, h: None, neuron: NEURON, first_channel: 0 });
}

/// The parameter that holds packed weights of a product.
type Pack = fn(&mut Data, &[f32], usize, usize, usize) -> TensorId;

fn f32s(d: &mut Data, weights: &[f32], outputs: usize, inputs: usize, taps: usize) -> TensorId {
    d.parameter(pack_weights(weights, 0..outputs, inputs, taps))
}

fn f16s(d: &mut Data, weights: &[f32], outputs: usize, inputs: usize, taps: usize) -> TensorId {
    let weights: Vec<f16> = weights.iter().map(|&w| f16::from_f32(w)).collect();
    d.packed_weights(Weights::F16, &pack_weights(&weights, 0..outputs, inputs, taps))
}

/// Four times the weights, which are integers then.
fn int8s(d: &mut Data, weights: &[f32], outputs: usize, inputs: usize, taps: usize) -> TensorId {
    let weights: Vec<i8> = weights.iter().map(|w| (4.0 * w) as i8).collect();
    d.packed_weights(Weights::Int8, &pack_weights(&weights, 0..outputs, inputs, taps))
}

fn product(
    d: &mut Data,
    pack: Pack,
    input: Shape,
    outputs: usize,
    taps: usize,
    rate: f64,
    residual: bool,
) -> SpikeProduct {
    let out_shape = input.with_channels(outputs);
    let inputs = input.channels;
    let input = d.spikes(input, Element::Spikes, rate);
    let weights = d.values(outputs * inputs * taps, -2, 3);
    let weights = pack(d, &weights, outputs, inputs, taps);
    let (scale, shift) = (vec![0.125; outputs], d.values(outputs, -2, 4));
    let scale_shift = d.parameter(pack_scale_shift(&scale, &shift, 0..outputs));
    let epilogue = if residual {
        let residual = d.real(out_shape, -8, 8);
        let out = d.out(Element::Real, out_shape);
        Epilogue::Residual { residual, out, first_channel: 0 }
    } else {
        let out = d.out(Element::Spikes, out_shape);
        Epilogue::Fire { out, neuron: NEURON, first_channel: 0 }
    };
    SpikeProduct { layer: String::new(), input, weights, scale_shift, channels_out: outputs, epilogue }
}

pub fn rows() -> Vec<Row> {
    vec![
        Row::new("residual_add", "control: 4 values", |d| {
            let (input, residual) = (d.real(flat(4), -8, 8), d.real(flat(4), -8, 8));
            let out = d.out(Element::Real, flat(4));
            d.recording.push(ResidualAddOp { layer: String::new(), input, residual, out });
        }),
        Row::new("linear_spike", "control: 256 to 1024, N 64, silent", |d| {
            let product = product(d, f32s, shape(8, DIM), 4 * DIM, 1, 0.0, false);
            d.recording.push(LinearSpike(product));
        }),
        Row::new("linear_spike", "control: 32 to 32, one token", |d| {
            let product = product(d, f32s, shape(1, DIM / 8), DIM / 8, 1, RATE, false);
            d.recording.push(LinearSpike(product));
        }),
        Row::new("linear_spike", "fc1 256 to 1024, N 64, fire", |d| {
            let product = product(d, f32s, shape(8, DIM), 4 * DIM, 1, RATE, false);
            d.recording.push(LinearSpike(product));
        }),
        Row::new("linear_spike", "fc2 1024 to 256, N 64, residual", |d| {
            let product = product(d, f32s, shape(8, 4 * DIM), DIM, 1, RATE, true);
            d.recording.push(LinearSpike(product));
        }),
        Row::new("conv3x3_spike", "stage 1, 32 to 64, 32x32, fire", |d| {
            let product = product(d, f32s, shape(32, DIM / 8), DIM / 4, 9, RATE, false);
            d.recording.push(Conv3x3Spike(product));
        }),
        Row::new("conv3x3_spike", "rpe, 256 to 256, 8x8, residual", |d| {
            let product = product(d, f32s, shape(8, DIM), DIM, 9, RATE, true);
            d.recording.push(Conv3x3Spike(product));
        }),
        Row::new("linear_spike_f16", "fc1 256 to 1024, N 64, fire", |d| {
            let product = product(d, f16s, shape(8, DIM), 4 * DIM, 1, RATE, false);
            d.recording.push(LinearSpikeF16(product));
        }),
        Row::new("linear_spike_f16", "fc2 1024 to 256, N 64, residual", |d| {
            let product = product(d, f16s, shape(8, 4 * DIM), DIM, 1, RATE, true);
            d.recording.push(LinearSpikeF16(product));
        }),
        Row::new("conv3x3_spike_f16", "stage 1, 32 to 64, 32x32, fire", |d| {
            let product = product(d, f16s, shape(32, DIM / 8), DIM / 4, 9, RATE, false);
            d.recording.push(Conv3x3SpikeF16(product));
        }),
        Row::new("conv3x3_spike_f16", "rpe, 256 to 256, 8x8, residual", |d| {
            let product = product(d, f16s, shape(8, DIM), DIM, 9, RATE, true);
            d.recording.push(Conv3x3SpikeF16(product));
        }),
        Row::new("linear_spike_int8", "control: 256 to 1024, N 64, silent", |d| {
            let product = product(d, int8s, shape(8, DIM), 4 * DIM, 1, 0.0, false);
            d.recording.push(LinearSpikeInt8(product));
        }),
        Row::new("linear_spike_int8", "fc1 256 to 1024, N 64, fire", |d| {
            let product = product(d, int8s, shape(8, DIM), 4 * DIM, 1, RATE, false);
            d.recording.push(LinearSpikeInt8(product));
        }),
        Row::new("linear_spike_int8", "fc2 1024 to 256, N 64, residual", |d| {
            let product = product(d, int8s, shape(8, 4 * DIM), DIM, 1, RATE, true);
            d.recording.push(LinearSpikeInt8(product));
        }),
        Row::new("conv3x3_spike_int8", "stage 1, 32 to 64, 32x32, fire", |d| {
            let product = product(d, int8s, shape(32, DIM / 8), DIM / 4, 9, RATE, false);
            d.recording.push(Conv3x3SpikeInt8(product));
        }),
        Row::new("conv3x3_spike_int8", "rpe, 256 to 256, 8x8, residual", |d| {
            let product = product(d, int8s, shape(8, DIM), DIM, 9, RATE, true);
            d.recording.push(Conv3x3SpikeInt8(product));
        }),
        Row::new("conv3x3_real", "stage 0, 3 to 32, 32x32", |d| {
            let (outputs, inputs) = (DIM / 8, 3);
            let input_shape = shape(32, inputs).with_steps(1);
            let input = d.real(input_shape, -4, 4);
            let weights = d.values(outputs * inputs * 9, -8, 8);
            let weights = d.parameter(conv3x3_real::pack_weights(&weights, 0..outputs, inputs));
            let shift = d.values(outputs, -2, 4);
            let scale_shift = d.parameter(pack_scale_shift(&vec![0.5; outputs], &shift, 0..outputs));
            let out = d.out(Element::Real, input_shape.with_channels(outputs));
            d.recording.push(Conv3x3RealOp { layer: String::new(), input, weights, scale_shift, out });
        }),
        Row::new("lif", "stage 0, 32x32x32, one input for T", |d| {
            let x = shape(32, DIM / 8).with_steps(1);
            let input = d.real(x, -4, 6);
            let out = d.out(Element::Spikes, x.with_steps(STEPS));
            d.recording.push(LifOp {
                layer: String::new(),
                input,
                norm: None,
                out,
                h: None,
                neuron: NEURON,
                first_channel: 0,
            });
        }),
        Row::new("lif", "block, N 64, 256", |d| {
            let input = d.real(shape(8, DIM), -4, 6);
            lif(d, input, None);
        }),
        Row::new("lif", "block, N 64, 256, batch norm", |d| {
            let BnSaved { y, mean, inv_std, gamma, beta, .. } = saved(d, shape(8, DIM));
            lif(d, y, Some(BatchNorm { mean, inv_std, gamma, beta }));
        }),
        // What one kernel for both replaces.
        Row::new("lif", "block, N 64, 256, after bn_apply", |d| {
            let BnSaved { y, mean, inv_std, gamma, beta, relu, .. } = saved(d, shape(8, DIM));
            let (layer, out) = (String::new(), d.between(shape(8, DIM)));
            d.recording.push(BnApplyOp { layer, y, mean, inv_std, gamma, beta, residual: None, out, relu });
            lif(d, out, None);
        }),
        Row::new("maxpool_spike", "stage 2, 32x32x128", |d| {
            let input = d.spikes(shape(32, DIM / 2), Element::Spikes, RATE);
            let out = d.out(Element::Spikes, shape(16, DIM / 2));
            d.recording.push(MaxpoolSpikeOp { layer: String::new(), input, out });
        }),
        Row::new("maxpool_real", "stage 3, 16x16x256", |d| {
            let input = d.real(shape(16, DIM), -16, 16);
            let out = d.out(Element::Real, shape(8, DIM));
            d.recording.push(MaxpoolRealOp { layer: String::new(), input, out });
        }),
        Row::new("residual_add", "block, N 64, 256", |d| {
            let (input, residual) = (d.real(shape(8, DIM), -8, 8), d.real(shape(8, DIM), -8, 8));
            let out = d.out(Element::Real, shape(8, DIM));
            d.recording.push(ResidualAddOp { layer: String::new(), input, residual, out });
        }),
        Row::new("copy", "4 MiB", |d| {
            let input = d.real(flat(1 << 20), -8, 8);
            let out = d.out(Element::Real, flat(1 << 20));
            d.recording.push(CopyOp { layer: String::new(), input, out });
        }),
        Row::new("multiply_add", "64 Ki chains, 256 rounds", |d| {
            let input = d.real(flat(1 << 13), -8, 8);
            let out = d.out(Element::Real, flat(1 << 13));
            d.recording.push(MultiplyAddOp { layer: String::new(), input, out, rounds: 256, map: (-1.0, 1.0) });
        }),
        Row::new("attention_kv", "8 heads of 32, N 64", |d| {
            let (k, v) = (d.real(shape(8, DIM), 0, 8), d.spikes(shape(8, DIM), Element::Ternary, RATE));
            let m = d.out(Element::Real, kv_shape(shape(8, DIM), HEADS));
            d.recording.push(AttentionKv { layer: String::new(), k, v, m, heads: HEADS });
        }),
        Row::new("attention_q_kv", "8 heads of 32, N 64", |d| {
            let q = d.spikes(shape(8, DIM), Element::Spikes, RATE);
            let m = d.real(kv_shape(shape(8, DIM), HEADS), -16, 16);
            let o = d.out(Element::Real, shape(8, DIM));
            d.recording.push(AttentionQKv { layer: String::new(), q, m, o, heads: HEADS });
        }),
        Row::new("attention_fused", "8 heads of 32, N 64", |d| {
            let q = d.spikes(shape(8, DIM), Element::Spikes, RATE);
            let (k, v) = (d.real(shape(8, DIM), 0, 8), d.spikes(shape(8, DIM), Element::Ternary, RATE));
            let o = d.out(Element::Real, shape(8, DIM));
            d.recording.push(AttentionFused { layer: String::new(), q, k, v, o, heads: HEADS });
        }),
        Row::new("attention_qk_v", "8 heads of 32, N 64", |d| {
            let q = d.spikes(shape(8, DIM), Element::Spikes, RATE);
            let (k, v) = (d.real(shape(8, DIM), 0, 8), d.spikes(shape(8, DIM), Element::Ternary, RATE));
            let o = d.out(Element::Real, shape(8, DIM));
            d.recording.push(AttentionQkV { layer: String::new(), q, k, v, o, heads: HEADS });
        }),
        Row::new("spike_census", "stage 2, 32x32x128", |d| {
            let input = d.spikes(shape(32, DIM / 2), Element::Spikes, RATE);
            let layout = Layout { shape: shape(32, DIM / 2), ternary: false, neurons: true, channels: false };
            let out = d.out(Element::Spikes, layout.counters());
            d.recording.push(SpikeCensusOp { layer: String::new(), input, out, layout });
        }),
        Row::new("attention_census", "8 heads of 32, N 64", |d| {
            let (k, v) = (d.real(shape(8, DIM), 0, 8), d.spikes(shape(8, DIM), Element::Ternary, RATE));
            let keys = d.out(Element::Spikes, shape(8, DIM));
            d.recording.push(NonzeroKeys { layer: String::new(), k, out: keys, first_channel: 0 });
            let out = d.out(Element::Spikes, pairs_shape(shape(8, DIM)));
            d.recording.push(KeyValuePairs { layer: String::new(), keys, v, out, head_dim: 32 });
        }),
        Row::new("spike_count", "stage 2, 32x32x128", |d| {
            let input = d.spikes(shape(32, DIM / 2), Element::Spikes, RATE);
            let out = d.out(Element::Spikes, flat(32 * PARTIALS));
            d.recording.push(SpikeCountOp { layer: String::new(), input, out, slot: 0 });
        }),
        Row::new("spike_gap", "N 64, 256", |d| {
            let input = d.spikes(shape(8, DIM), Element::Spikes, RATE);
            let out = d.out(Element::Real, flat(DIM));
            d.recording.push(SpikeGapOp { layer: String::new(), input, out });
        }),
        Row::new("head", "256 to 10", |d| {
            let (input, classes) = (d.real(flat(DIM), 0, 4), 10);
            let (weights, bias) = (d.values(DIM * classes, -8, 8), d.values(classes, -8, 8));
            let (weights, bias) = (d.parameter(weights), d.parameter(bias));
            let out = d.out(Element::Real, flat(classes));
            d.recording.push(HeadOp { layer: String::new(), input, weights, bias, out, classes });
        }),
    ]
}
