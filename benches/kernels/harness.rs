//! What a row is, and the data of its tensors.

use std::sync::Arc;

use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use spikeshade::kernels::attention::Heads;
use spikeshade::kernels::bn_backward::BnSaved;
use spikeshade::kernels::copy::CopyOp;
use spikeshade::kernels::neuron::Neuron;
use spikeshade::outputs::{Outputs, Values};
use spikeshade::recording::{Constant, Recording, TensorId};
use spikeshade::tensor::{Element, Shape, words};
use spikeshade::weights::Weights;

pub const RATE: f64 = 0.15;
pub const STEPS: usize = 4;
pub const DIM: usize = 256;
pub const HEADS: Heads = Heads { dim: 32, first: 0, count: 8 };
pub const NEURON: Neuron = Neuron { v_threshold: 1.0, v_reset: Some(0.0), tau: 2.0, decay_input: true };

/// Of one image.
pub fn shape(side: usize, channels: usize) -> Shape {
    Shape { steps: STEPS, batch: 1, height: side, width: side, channels }
}

pub fn flat(channels: usize) -> Shape {
    Shape { steps: 1, batch: 1, height: 1, width: 1, channels }
}

/// Data on a dyadic grid, where sums and products are exact and every order of addition gives the same bits.
pub struct Data {
    rng: Pcg64Mcg,
    pub recording: Recording,
    outs: Vec<TensorId>,
}

impl Data {
    pub fn values(&mut self, n: usize, low: i32, high: i32) -> Vec<f32> {
        (0..n).map(|_| self.rng.random_range(low..=high) as f32 / 4.0).collect()
    }

    pub fn parameter(&mut self, data: Vec<f32>) -> TensorId {
        self.recording.constant(&Arc::new(Constant { name: "parameter".to_owned(), data: data.into() }))
    }

    /// Weights stored as `stored`, a whole number of words.
    pub fn packed_weights<W: bytemuck::Pod>(&mut self, stored: Weights, packed: &[W]) -> TensorId {
        let words = bytemuck::pod_collect_to_vec(packed);
        let constant = Arc::new(Constant::packed("weights", words));
        self.recording.constant_as(&constant, stored.element(), flat(packed.len()))
    }

    /// Real values of a shape whose channels are a multiple of four.
    pub fn real(&mut self, shape: Shape, low: i32, high: i32) -> TensorId {
        let data = self.values(shape.steps * shape.rows() * shape.channels.next_multiple_of(4), low, high);
        self.recording.constant_as(
            &Arc::new(Constant { name: "real".to_owned(), data: data.into() }),
            Element::Real,
            shape,
        )
    }

    /// Spikes of a shape whose channels are a multiple of 32.
    pub fn spikes(&mut self, shape: Shape, element: Element, rate: f64) -> TensorId {
        let row = words(shape.channels);
        let mut data = Vec::new();
        for _ in 0..shape.steps * shape.rows() * row {
            let word = (0..32).map(|c| u32::from(self.rng.random::<f64>() < rate) << c).sum::<u32>();
            data.push(word);
        }
        if element == Element::Ternary {
            let sign = |rng: &mut Pcg64Mcg| rng.random::<u32>();
            let signs: Vec<u32> = data.iter().map(|_| sign(&mut self.rng)).collect();
            let planes = |(token, signs): (&[u32], &[u32])| {
                let plus = token.iter().zip(signs).map(|(t, s)| t & s);
                plus.chain(token.iter().zip(signs).map(|(t, s)| t & !s)).collect::<Vec<u32>>()
            };
            data = data.chunks(row).zip(signs.chunks(row)).flat_map(planes).collect();
        }
        self.recording.constant_as(&Arc::new(Constant::packed("spikes", data)), element, shape)
    }

    /// A tensor that is compared.
    pub fn out(&mut self, element: Element, shape: Shape) -> TensorId {
        let id = self.recording.tensor("out", element, shape);
        self.outs.push(id);
        id
    }

    /// A real tensor between two ops.
    pub fn between(&mut self, shape: Shape) -> TensorId {
        self.recording.tensor("between", Element::Real, shape)
    }

    /// A tensor that is compared, a copy of `input` first: what an op changes in place.
    pub fn changed(&mut self, input: TensorId) -> TensorId {
        let shape = self.recording.get(input).shape;
        let out = self.out(Element::Real, shape);
        self.recording.push(CopyOp { layer: String::new(), input, out });
        out
    }
}

/// What batch norm was given and the gradient of its result.
pub fn saved(d: &mut Data, shape: Shape) -> BnSaved {
    let channels = flat(shape.channels);
    BnSaved {
        g_x: d.real(shape, -4, 4),
        y: d.real(shape, -16, 16),
        mean: d.real(channels, -4, 4),
        inv_std: d.real(channels, 1, 4),
        gamma: d.real(channels, -4, 4),
        beta: d.real(channels, -4, 4),
        relu: false,
    }
}

/// A row: the kernel, what is run, and its ops.
pub struct Row {
    pub stem: &'static str,
    pub shape: &'static str,
    record: fn(&mut Data),
    tolerance: f32,
}

impl Row {
    pub fn new(stem: &'static str, shape: &'static str, record: fn(&mut Data)) -> Self {
        Row { stem, shape, record, tolerance: 0.0 }
    }

    /// For results that are rounded even on a dyadic grid: how far they may be apart, by the largest of their tensor.
    pub fn within(self, tolerance: f32) -> Self {
        Row { tolerance, ..self }
    }

    pub fn recording(&self, read_back: bool) -> Recording {
        let rng = Pcg64Mcg::seed_from_u64(1);
        let mut data = Data { rng, recording: Recording::default(), outs: Vec::new() };
        (self.record)(&mut data);
        if read_back {
            for (i, &out) in data.outs.iter().enumerate() {
                data.recording.output(format!("out{i}"), &[out]);
            }
        }
        data.recording
    }

    /// Whether an adapter's outputs are the twin's.
    pub fn agrees(&self, outputs: &Outputs, expected: &Outputs) -> bool {
        let agree = |values: &Values, expected: &Values| match (values, expected) {
            (Values::Real(values), Values::Real(expected)) => {
                let margin = self.tolerance * expected.iter().fold(0.0, |most: f32, x| most.max(x.abs()));
                values.len() == expected.len() && values.iter().zip(expected).all(|(a, b)| (a - b).abs() <= margin)
            }
            _ => values == expected,
        };
        let (outputs, expected) = (&outputs.tensors, &expected.tensors);
        outputs.len() == expected.len() && outputs.iter().zip(expected).all(|(a, b)| agree(&a.values, &b.values))
    }
}
