//! The rows of the backward kernels, and of what training needs beside them: two images, T = 4.

use spikeshade::config::Surrogate;
use spikeshade::kernels::attention::kv_shape;
use spikeshade::kernels::attention_kv_backward::{AttentionKvGradKeys, AttentionKvGradValues};
use spikeshade::kernels::attention_q_kv_backward::{AttentionQKvGradKv, AttentionQKvGradQueries};
use spikeshade::kernels::attention_qk_v_backward::{
    AttentionQkVGradKeys, AttentionQkVGradQueries, AttentionQkVGradValues,
};
use spikeshade::kernels::batch_norm::BatchNorm;
use spikeshade::kernels::bn_apply::BnApplyOp;
use spikeshade::kernels::bn_backward::{BnBackwardApplyOp, BnBackwardCombineOp, BnBackwardPartialOp, BnSaved};
use spikeshade::kernels::bn_statistics::{BnStatisticsCombineOp, BnStatisticsPartialOp};
use spikeshade::kernels::channel_sums::partials;
use spikeshade::kernels::conv3x3_real_backward::{Conv3x3RealCombine, Conv3x3RealWeights};
use spikeshade::kernels::conv3x3_spike_backward::{Conv3x3SpikeCombine, Conv3x3SpikeInput, Conv3x3SpikeWeights};
use spikeshade::kernels::cross_entropy::CrossEntropyOp;
use spikeshade::kernels::head_backward::{HeadInputBackwardOp, HeadWeightsBackwardOp};
use spikeshade::kernels::lif_backward::LifBackwardOp;
use spikeshade::kernels::linear_spike_backward::{LinearSpikeCombine, LinearSpikeInput, LinearSpikeWeights};
use spikeshade::kernels::maxpool_real_backward::MaxpoolRealBackwardOp;
use spikeshade::kernels::maxpool_spike_backward::MaxpoolSpikeBackwardOp;
use spikeshade::kernels::product::pack_weights;
use spikeshade::kernels::product_backward::{CombineBackward, InputBackward, WeightsBackward, splits, weights_len};
use spikeshade::kernels::spike_gap_backward::SpikeGapBackwardOp;
use spikeshade::recording::TensorId;
use spikeshade::tensor::{Element, Shape, words};

use crate::harness::{DIM, Data, HEADS, NEURON, RATE, Row, flat, saved, shape};

const BATCH: usize = 2;
const CLASSES: usize = 10;

/// Of the whole batch.
fn batch(side: usize, channels: usize) -> Shape {
    Shape { batch: BATCH, ..shape(side, channels) }
}

fn batch_flat(channels: usize) -> Shape {
    Shape { batch: BATCH, ..flat(channels) }
}

/// The gradient of the weights of a product, in splits of the rows, and their sum. `chunks` are those of `weights_len`.
fn of_weights(d: &mut Data, input: TensorId, of_gradient: Shape, chunks: usize) -> (WeightsBackward, CombineBackward) {
    let (layer, channels_out) = (String::new(), of_gradient.channels);
    let gradient = d.real(of_gradient, -8, 8);
    let len = weights_len(channels_out, chunks);
    let splits = splits(of_gradient.steps * of_gradient.rows(), len, 128 << 20);
    assert!(splits > 1, "nothing to combine");
    let (partials, out) = (d.between(flat(splits * len)), d.out(Element::Real, flat(len)));
    let weights = WeightsBackward { layer, input, gradient, first_channel: 0, channels_out, splits, out: partials };
    (weights, CombineBackward { layer: String::new(), partials, splits, out })
}

/// The gradient of the input of a spike product.
fn of_input(d: &mut Data, input: Shape, channels_out: usize, taps: usize) -> InputBackward {
    let gradient = d.real(input.with_channels(channels_out), -8, 8);
    let weights = d.values(channels_out * input.channels * taps, -2, 3);
    InputBackward {
        layer: String::new(),
        gradient,
        first_channel: 0,
        channels_out,
        weights: d.parameter(pack_weights(&weights, 0..channels_out, input.channels, taps)),
        channels_in: input.channels,
        first_input: 0,
        out: d.out(Element::Real, input),
        accumulate: false,
    }
}

pub fn rows() -> Vec<Row> {
    [products(), attention(), batch_norm(), neurons_and_pools(), classes()].into_iter().flatten().collect()
}

fn products() -> Vec<Row> {
    vec![
        Row::new("linear_spike_backward", "fc1 256 to 1024, N 64, weights", |d| {
            let input = d.spikes(batch(8, DIM), Element::Spikes, RATE);
            let (weights, combine) = of_weights(d, input, batch(8, 4 * DIM), words(DIM));
            d.recording.push(LinearSpikeWeights(weights));
            d.recording.push(LinearSpikeCombine(combine));
        }),
        Row::new("linear_spike_backward", "fc1 256 to 1024, N 64, input", |d| {
            let input = of_input(d, batch(8, DIM), 4 * DIM, 1);
            d.recording.push(LinearSpikeInput(input));
        }),
        Row::new("conv3x3_spike_backward", "stage 2, 64 to 128, 16x16, weights", |d| {
            let input = d.spikes(batch(16, DIM / 4), Element::Spikes, RATE);
            let (weights, combine) = of_weights(d, input, batch(16, DIM / 2), 9 * words(DIM / 4));
            d.recording.push(Conv3x3SpikeWeights(weights));
            d.recording.push(Conv3x3SpikeCombine(combine));
        }),
        Row::new("conv3x3_spike_backward", "stage 2, 64 to 128, 16x16, input", |d| {
            let input = of_input(d, batch(16, DIM / 4), DIM / 2, 9);
            d.recording.push(Conv3x3SpikeInput(input));
        }),
        Row::new("conv3x3_real_backward", "stage 0, 3 to 32, 32x32, one input for T", |d| {
            let input = d.real(batch(32, 3).with_steps(1), -4, 4);
            let (weights, combine) = of_weights(d, input, batch(32, DIM / 8), 1);
            d.recording.push(Conv3x3RealWeights(weights));
            d.recording.push(Conv3x3RealCombine(combine));
        }),
    ]
}

fn attention() -> Vec<Row> {
    fn tokens() -> Shape {
        batch(8, DIM)
    }
    fn keys(d: &mut Data) -> TensorId {
        d.real(tokens(), 0, 8)
    }
    fn values(d: &mut Data) -> TensorId {
        d.spikes(tokens(), Element::Ternary, RATE)
    }
    fn queries(d: &mut Data) -> TensorId {
        d.spikes(tokens(), Element::Spikes, RATE)
    }
    fn kv(d: &mut Data) -> TensorId {
        d.real(kv_shape(tokens(), HEADS), -16, 16)
    }
    fn gradient(d: &mut Data) -> TensorId {
        d.real(tokens(), -8, 8)
    }
    fn out(d: &mut Data) -> TensorId {
        d.out(Element::Real, tokens())
    }
    vec![
        Row::new("attention_kv_backward", "8 heads of 32, N 64, keys", |d| {
            let (k, v, dm, dk) = (keys(d), values(d), kv(d), out(d));
            d.recording.push(AttentionKvGradKeys { layer: String::new(), k, v, dm, dk, heads: HEADS });
        }),
        Row::new("attention_kv_backward", "8 heads of 32, N 64, values", |d| {
            let (k, dm, dv) = (keys(d), kv(d), out(d));
            d.recording.push(AttentionKvGradValues { layer: String::new(), k, dm, dv, heads: HEADS });
        }),
        Row::new("attention_q_kv_backward", "8 heads of 32, N 64, kv", |d| {
            let (q, g, dm) = (queries(d), gradient(d), d.out(Element::Real, kv_shape(tokens(), HEADS)));
            d.recording.push(AttentionQKvGradKv { layer: String::new(), q, g, dm, heads: HEADS });
        }),
        Row::new("attention_q_kv_backward", "8 heads of 32, N 64, queries", |d| {
            let (m, g, dq) = (kv(d), gradient(d), out(d));
            d.recording.push(AttentionQKvGradQueries { layer: String::new(), m, g, dq, heads: HEADS });
        }),
        Row::new("attention_qk_v_backward", "8 heads of 32, N 64, queries", |d| {
            let (k, v, g, dq) = (keys(d), values(d), gradient(d), out(d));
            d.recording.push(AttentionQkVGradQueries { layer: String::new(), k, v, g, dq, heads: HEADS });
        }),
        Row::new("attention_qk_v_backward", "8 heads of 32, N 64, keys", |d| {
            let (q, k, v, g, dk) = (queries(d), keys(d), values(d), gradient(d), out(d));
            d.recording.push(AttentionQkVGradKeys { layer: String::new(), q, k, v, g, dk, heads: HEADS });
        }),
        Row::new("attention_qk_v_backward", "8 heads of 32, N 64, values", |d| {
            let (q, k, g, dv) = (queries(d), keys(d), gradient(d), out(d));
            d.recording.push(AttentionQkVGradValues { layer: String::new(), q, k, g, dv, heads: HEADS });
        }),
    ]
}

fn batch_norm() -> Vec<Row> {
    vec![
        Row::new("bn_statistics", "stage 0, 32x32x32", |d| {
            let (layer, shape) = (String::new(), batch(32, DIM / 8));
            let (y, partials) = (d.real(shape, -16, 16), d.between(partials(shape)));
            let [mean, variance, inv_std] = [(); 3].map(|()| d.out(Element::Real, flat(shape.channels)));
            d.recording.push(BnStatisticsPartialOp { layer: layer.clone(), y, partials });
            d.recording.push(BnStatisticsCombineOp { layer, shape, partials, mean, variance, inv_std, eps: 1e-5 });
        })
        .within(1e-5),
        Row::new("bn_apply", "stage 0, 32x32x32", |d| {
            let shape = batch(32, DIM / 8);
            let BnSaved { y, mean, inv_std, gamma, beta, relu, .. } = saved(d, shape);
            let (layer, out) = (String::new(), d.out(Element::Real, shape));
            d.recording.push(BnApplyOp { layer, y, mean, inv_std, gamma, beta, residual: None, out, relu });
        }),
        Row::new("bn_backward", "stage 0, 32x32x32", |d| {
            let (layer, shape) = (String::new(), batch(32, DIM / 8));
            let (saved, partials) = (saved(d, shape), d.between(partials(shape)));
            let [g_beta, g_gamma] = [(); 2].map(|()| d.out(Element::Real, flat(shape.channels)));
            let sums = d.between(Shape { height: 2, ..flat(shape.channels) });
            let g_y = d.out(Element::Real, shape);
            d.recording.push(BnBackwardPartialOp { layer: layer.clone(), saved, partials });
            let combine = BnBackwardCombineOp { layer: layer.clone(), shape, partials, g_beta, g_gamma, sums };
            d.recording.push(combine);
            d.recording.push(BnBackwardApplyOp { layer, saved, sums: Some(sums), g_y });
        })
        .within(1e-5),
        Row::new("bn_backward", "stage 0, 32x32x32, frozen statistics", |d| {
            let (layer, shape) = (String::new(), batch(32, DIM / 8));
            let (saved, g_y) = (saved(d, shape), d.out(Element::Real, shape));
            d.recording.push(BnBackwardApplyOp { layer, saved, sums: None, g_y });
        })
        .within(1e-5),
        Row::new("bn_backward", "stage 0, 32x32x32, frozen, copied, then in place", |d| {
            let (layer, saved) = (String::new(), saved(d, batch(32, DIM / 8)));
            let g_y = d.changed(saved.g_x);
            let saved = BnSaved { g_x: g_y, ..saved };
            d.recording.push(BnBackwardApplyOp { layer, saved, sums: None, g_y });
        })
        .within(1e-5),
    ]
}

fn lif_backward(d: &mut Data, x: TensorId, norm: Option<BatchNorm>, g_s: TensorId, g_x: TensorId) {
    let surrogate = Surrogate::Sigmoid;
    d.recording.push(LifBackwardOp {
        layer: String::new(),
        x,
        norm,
        g_s,
        g_x,
        neuron: NEURON,
        element: Element::Spikes,
        surrogate,
        alpha: surrogate.default_alpha(),
        detach_reset: false,
    });
}

fn neurons_and_pools() -> Vec<Row> {
    vec![
        Row::new("lif_backward", "block, N 64, 256", |d| {
            let shape = batch(8, DIM);
            let (x, g_s, g_x) = (d.real(shape, -4, 6), d.real(shape, -8, 8), d.out(Element::Real, shape));
            lif_backward(d, x, None, g_s, g_x);
        })
        .within(1e-5),
        Row::new("lif_backward", "block, N 64, 256, batch norm", |d| {
            let shape = batch(8, DIM);
            let BnSaved { y, mean, inv_std, gamma, beta, .. } = saved(d, shape);
            let (g_s, g_x) = (d.real(shape, -8, 8), d.out(Element::Real, shape));
            lif_backward(d, y, Some(BatchNorm { mean, inv_std, gamma, beta }), g_s, g_x);
        })
        .within(1e-5),
        // What one kernel for both replaces.
        Row::new("lif_backward", "block, N 64, 256, after bn_apply", |d| {
            let shape = batch(8, DIM);
            let BnSaved { y, mean, inv_std, gamma, beta, relu, .. } = saved(d, shape);
            let (g_s, g_x, out) = (d.real(shape, -8, 8), d.out(Element::Real, shape), d.between(shape));
            let layer = String::new();
            d.recording.push(BnApplyOp { layer, y, mean, inv_std, gamma, beta, residual: None, out, relu });
            lif_backward(d, out, None, g_s, g_x);
        })
        .within(1e-5),
        Row::new("lif_backward", "block, N 64, 256, copied, then in place", |d| {
            let shape = batch(8, DIM);
            let (x, g_s) = (d.real(shape, -4, 6), d.real(shape, -8, 8));
            let changed = d.changed(g_s);
            lif_backward(d, x, None, changed, changed);
        })
        .within(1e-5),
        Row::new("maxpool_spike_backward", "stage 2, 32x32x128", |d| {
            let shape = batch(32, DIM / 2);
            let (input, g_y) = (d.spikes(shape, Element::Spikes, RATE), d.real(shape.pooled(), -8, 8));
            let g_s = d.out(Element::Real, shape);
            d.recording.push(MaxpoolSpikeBackwardOp { layer: String::new(), input, g_y, g_s });
        }),
        Row::new("maxpool_real_backward", "stage 3, 16x16x256", |d| {
            let shape = batch(16, DIM);
            let (input, g_y) = (d.real(shape, -16, 16), d.real(shape.pooled(), -8, 8));
            let g_x = d.out(Element::Real, shape);
            d.recording.push(MaxpoolRealBackwardOp { layer: String::new(), input, g_y, g_x });
        }),
    ]
}

fn classes() -> Vec<Row> {
    vec![
        Row::new("spike_gap_backward", "N 64, 256", |d| {
            let (g_rate, g_s) = (d.real(batch_flat(DIM), -8, 8), d.out(Element::Real, batch(8, DIM)));
            d.recording.push(SpikeGapBackwardOp { layer: String::new(), g_rate, g_s });
        }),
        Row::new("head_backward", "256 to 10", |d| {
            let (layer, classes) = (String::new(), CLASSES);
            let (rate, g_logits) = (d.real(batch_flat(DIM), 0, 4), d.real(flat(BATCH * classes), -4, 4));
            let weights = d.real(flat(DIM * classes), -8, 8);
            let [g_weights, g_bias] = [DIM * classes, classes].map(|n| d.out(Element::Real, flat(n)));
            let g_rate = d.out(Element::Real, batch_flat(DIM));
            let of_weights = HeadWeightsBackwardOp { layer, rate, g_logits, g_weights, g_bias, classes };
            d.recording.push(of_weights);
            d.recording.push(HeadInputBackwardOp { layer: String::new(), weights, g_logits, g_rate, classes });
        }),
        Row::new("cross_entropy", "32 images, 1000 classes", |d| {
            let (batch, classes) = (32, 1000);
            let logits = d.real(flat(batch * classes), -16, 16);
            // Labels smoothed by 0.1.
            let mut targets = vec![0.1 / classes as f32; batch * classes];
            (0..batch).for_each(|b| targets[b * classes + b * 31] += 0.9);
            let targets = d.parameter(targets);
            let [loss, g_logits] = [batch, batch * classes].map(|n| d.out(Element::Real, flat(n)));
            let layer = String::new();
            d.recording.push(CrossEntropyOp { layer, logits, targets, loss, g_logits, batch, classes });
        })
        .within(1e-5),
    ]
}
