//! What holds of f16 weights alone: every one of them is unpacked as it is. (`product` compares their sums with those of f32.)

use half::f16;
use spikeshade::kernels::product::{Epilogue, SpikeProduct, pack_scale_shift, pack_weights};
use spikeshade::recording::Recording;
use spikeshade::tensor::{Element, Shape, words};

use crate::harness::*;
use crate::product::Stored;

/// Each token has one spike of its own, so that y are the weights.
#[test]
fn every_half_is_unpacked() {
    let halves: Vec<f16> = (0..=u16::MAX).map(f16::from_bits).filter(|h| h.is_finite()).collect();
    let outputs = 33;
    let inputs = halves.len().div_ceil(outputs);
    let weights: Vec<f16> = (0..outputs * inputs).map(|i| halves[i % halves.len()]).collect();
    let input = Shape { steps: 1, batch: 1, height: 1, width: inputs, channels: inputs };
    let row = words(inputs);
    let spikes: Vec<u32> =
        (0..inputs * row).map(|at| u32::from(at % row == at / row / 32) << (at / row % 32)).collect();
    let all = run(|| {
        let mut r = Recording::default();
        let spikes = packed(&mut r, &spikes, Element::Spikes, input);
        let out = output(&mut r, "y", Element::Real, input.with_channels(outputs));
        let weights = f16::parameter(&mut r, pack_weights(&weights, 0..outputs, inputs, 1));
        let scale_shift = parameter(&mut r, &pack_scale_shift(&vec![1.0; outputs], &vec![0.0; outputs], 0..outputs));
        let epilogue = Epilogue::Real { out, first_channel: 0, relu: false };
        let layer = String::new();
        let product = SpikeProduct { layer, input: spikes, weights, scale_shift, channels_out: outputs, epilogue };
        f16::push(&mut r, 1, product);
        r
    });
    for (device, found) in &all {
        for (i, y) in reals(found, "y").chunks_exact(outputs).enumerate() {
            for (o, &y) in y.iter().enumerate() {
                assert_eq!(y, weights[o * inputs + i].to_f32(), "on {device}");
            }
        }
    }
}
