//! What holds of int8 weights alone: sums are exact whatever their length, and those of the float product where it is exact too.

use spikeshade::kernels::product::{Epilogue, SpikeProduct, pack_scale_shift, pack_weights};
use spikeshade::outputs::Outputs;
use spikeshade::recording::Recording;
use spikeshade::tensor::{Element, Shape};

use crate::harness::*;
use crate::product::{Stored, by_definition};

/// A layer's inputs and parameters.
struct Layer {
    input: Shape,
    taps: usize,
    spikes: Vec<u32>,
    /// `[O][I][taps]`.
    weights: Vec<i8>,
    scale: Vec<f32>,
    shift: Vec<f32>,
}

impl Layer {
    /// `y` and its spikes on every device, the weights stored as `weights` are.
    fn run<W: Stored>(&self, data: &mut Data, choice: NeuronChoice, weights: &[W]) -> Vec<(String, Outputs)> {
        let outputs = self.scale.len();
        let shape = self.input.with_channels(outputs);
        let neuron = data.neuron(choice, shape.steps, 9);
        run(|| {
            let mut r = Recording::default();
            let spikes = packed(&mut r, &self.spikes, Element::Spikes, self.input);
            let y = output(&mut r, "y", Element::Real, shape);
            let ternary = output(&mut r, "ternary", Element::Ternary, shape);
            let weights = W::parameter(&mut r, pack_weights(weights, 0..outputs, self.input.channels, self.taps));
            let scale_shift = parameter(&mut r, &pack_scale_shift(&self.scale, &self.shift, 0..outputs));
            for epilogue in [
                Epilogue::Real { out: y, first_channel: 0, relu: false },
                Epilogue::Fire { out: ternary, neuron, first_channel: 0 },
            ] {
                let layer = format!("{epilogue:?}");
                let product =
                    SpikeProduct { layer, input: spikes, weights, scale_shift, channels_out: outputs, epilogue };
                W::push(&mut r, self.taps, product);
            }
            r
        })
    }
}

fn some_neuron() -> impl proptest::strategy::Strategy<Value = (u64, NeuronChoice)> {
    (proptest::arbitrary::any::<u64>(), neurons())
}

/// Every input fires and every weight is at the end of its range: many times what 16 bits hold.
#[test]
fn long_sums_are_exact() {
    check(2, some_neuron(), |(seed, neuron)| {
        for (taps, inputs) in [(1, 256), (1, 257), (1, 289), (9, 600), (1, 3000)] {
            let mut data = Data::new(seed, Kind::Float);
            let input = Shape { steps: 3, batch: 1, height: 3, width: 3, channels: inputs };
            let spikes = data.spikes(input, 1.0);
            let mut weights = Vec::new();
            for pattern in 0..33 {
                let of_channel = |i: usize| match pattern % 4 {
                    0 => 127,
                    1 => -127,
                    2 => 127 - (i / 300 % 2 * 254) as i32,
                    _ => (i * 7 % 255) as i32 - 127,
                };
                weights.extend((0..inputs * taps).map(|i| of_channel(i) as i8));
            }
            let (scale, shift) = (vec![1.0; 33], vec![0.0; 33]);
            let values: Vec<f64> = weights.iter().map(|&q| q.into()).collect();
            let expected = by_definition(input, taps, &spikes, &values, &f64s(&scale), &f64s(&shift));
            let layer = Layer { input, taps, spikes, weights, scale, shift };
            for (device, outputs) in layer.run(&mut data, neuron, &layer.weights) {
                assert_eq!(f64s(reals(&outputs, "y")), expected, "{taps} × {inputs} on {device}");
            }
        }
    });
}

/// Integers are f32 too, and with scales that are powers of two both products are exact: the same bits.
#[test]
fn integer_weights_give_the_float_products_bits() {
    check(6, some_neuron(), |(seed, neuron)| {
        for taps in [1, 9] {
            let mut data = Data::new(seed, Kind::Float);
            let input = Shape { steps: 5, batch: 2, height: 3, width: 4, channels: 45 };
            let spikes = data.spikes(input, 0.3);
            let outputs = 41;
            let weights = i8::draw(&mut data, outputs, input.channels * taps);
            let scale = data.one_of(outputs, &[1.0 / 1024.0, -1.0 / 2048.0, 1.0 / 512.0]);
            let shift = data.reals(outputs, -16..=32, 0.0625);
            let layer = Layer { input, taps, spikes, weights, scale, shift };
            let floats: Vec<f32> = layer.weights.iter().map(|&q| q.into()).collect();
            // Each of the two draws the same neuron.
            let [mut first, mut second] = [(); 2].map(|()| Data::new(seed, Kind::Float));
            let as_floats = layer.run(&mut first, neuron, &floats);
            let as_integers = layer.run(&mut second, neuron, &layer.weights);
            for ((device, floats), (_, integers)) in as_floats.iter().zip(&as_integers) {
                for (a, b) in floats.tensors.iter().zip(&integers.tensors) {
                    same(&format!("{} of {taps} taps on {device}", a.name), &a.values, &b.values);
                }
            }
            all_same(&as_integers);
        }
    });
}
