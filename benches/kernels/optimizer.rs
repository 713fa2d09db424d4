//! The rows of the optimizer: a shard of 2²⁰ parameters. What works in place starts from zeros and goes on from replay to
//! replay.

use spikeshade::kernels::accumulate::AccumulateOp;
use spikeshade::kernels::adamw::AdamWOp;
use spikeshade::kernels::ema::EmaOp;
use spikeshade::kernels::gradient_norm::{GradientNormCombineOp, GradientNormPartialOp, partials};
use spikeshade::kernels::sgd::SgdOp;
use spikeshade::kernels::step::{Clip, Step};
use spikeshade::recording::TensorId;
use spikeshade::tensor::Element;

use crate::harness::{Data, Row, flat};

const LEN: usize = 1 << 20;

fn step(d: &mut Data) -> TensorId {
    let step = Step::new(1, 0.125, 0.25, [0.5, 0.75]);
    let step = Step { ema_decay: 0.75, accumulate_keep: 1.0, accumulate_share: 0.5, ..step };
    d.parameter(step.encode().to_vec())
}

fn clip(d: &mut Data) -> TensorId {
    d.parameter(Clip { factor: 0.5f32, norm: 2.0, skipped: false }.encode().to_vec())
}

pub fn rows() -> Vec<Row> {
    vec![
        Row::new("gradient_norm", "2^20 elements", |d| {
            let (gradient, blocks) = (d.real(flat(LEN), -8, 8), d.between(flat(partials(LEN))));
            d.recording.push(GradientNormPartialOp {
                layer: String::new(),
                gradient,
                partials: blocks,
                first_partial: 0,
            });
            let clip = d.out(Element::Real, flat(4));
            d.recording.push(GradientNormCombineOp { layer: String::new(), partials: blocks, clip, max_norm: 1.0 });
        })
        .within(1e-5),
        Row::new("adamw", "2^20 parameters", |d| {
            let g = d.real(flat(LEN), -8, 8);
            let [p, m, v] = [(); 3].map(|()| d.out(Element::Real, flat(LEN)));
            let (step, clip, layer) = (step(d), clip(d), String::new());
            let (decayed, beta1, beta2, eps) = (LEN / 2, 0.5, 0.75, 1e-8);
            d.recording.push(AdamWOp { layer, p, m, v, g, step, clip, decayed, beta1, beta2, eps });
        })
        .within(1e-5),
        Row::new("sgd", "2^20 parameters", |d| {
            let g = d.real(flat(LEN), -8, 8);
            let [p, b] = [(); 2].map(|()| d.out(Element::Real, flat(LEN)));
            let (step, clip, layer) = (step(d), clip(d), String::new());
            d.recording.push(SgdOp { layer, p, b, g, step, clip, decayed: LEN / 2, momentum: 0.5, nesterov: false });
        }),
        Row::new("ema", "2^20 parameters", |d| {
            let (p, step) = (d.real(flat(LEN), -8, 8), step(d));
            let e = d.out(Element::Real, flat(LEN));
            d.recording.push(EmaOp { layer: String::new(), e, p, step });
        }),
        Row::new("accumulate", "2^20 elements", |d| {
            let (g, step) = (d.real(flat(LEN), -8, 8), step(d));
            let sum = d.out(Element::Real, flat(LEN));
            d.recording.push(AccumulateOp { layer: String::new(), sum, g, step });
        }),
    ]
}
