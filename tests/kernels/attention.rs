//! Queries, keys and values of the attention kernels' cases.

use proptest::prelude::*;
use spikeshade::kernels::attention::Heads;
use spikeshade::recording::{Recording, TensorId};
use spikeshade::tensor::{Element, Shape, words};

use crate::harness::*;

#[derive(Debug, Clone)]
pub struct Case {
    pub kind: Kind,
    seed: u64,
    /// Of Q and V, all heads.
    pub shape: Shape,
    /// All heads, in two windows (or one).
    pub windows: Vec<Heads>,
    rates: (f64, f64),
}

pub fn cases() -> impl Strategy<Value = Case> {
    cases_of(prop_oneof![Just(1usize), Just(3), Just(12), Just(32), Just(33), Just(40), Just(64), 2..50usize])
}

/// Cases whose heads have as many channels as `dims` says.
pub fn cases_of(dims: impl Strategy<Value = usize>) -> impl Strategy<Value = Case> {
    (
        kinds(),
        any::<u64>(),
        1..=5usize,
        1..=3usize,
        1..=13usize,
        1..=7usize,
        dims,
        (1..=5usize, 0..5usize),
        (rates(), rates()),
    )
        .prop_map(|(kind, seed, steps, batch, height, width, dim, (heads, first), rates)| {
            let mut shape = Shape { steps, batch, height, width, channels: dim * heads };
            while shape.steps * shape.batch > 1 && shape.steps * shape.rows() * shape.channels > 20_000 {
                if shape.steps > shape.batch { shape.steps -= 1 } else { shape.batch -= 1 }
            }
            let first = first % heads;
            let mut windows = vec![Heads { dim, first: 0, count: first }, Heads { dim, first, count: heads - first }];
            windows.retain(|w| w.count > 0);
            Case { kind, seed, shape, windows, rates }
        })
}

/// A case's data: Q packed, V ternary, K `[T·B·N][window's channels]` for each window.
pub struct Qkv {
    pub q: Vec<u32>,
    pub v: Vec<u32>,
    pub k: Vec<Vec<f32>>,
}

impl Case {
    /// A few tokens of `count` heads of `dim` channels.
    pub fn of(dim: usize, count: usize) -> Case {
        let shape = Shape { steps: 2, batch: 1, height: 2, width: 3, channels: dim * count };
        let windows = vec![Heads { dim, first: 0, count }];
        Case { kind: Kind::Dyadic, seed: 0, shape, windows, rates: (0.5, 0.5) }
    }

    pub fn data(&self) -> (Data, Qkv) {
        let mut data = Data::new(self.seed, self.kind);
        let q = data.spikes(self.shape, self.rates.0);
        let v = data.ternary(self.shape, self.rates.1);
        let tokens = self.shape.steps * self.shape.rows();
        let mut k = Vec::new();
        for w in &self.windows {
            // Half of the keys are silent, as after the ReLU.
            let mut of = data.reals(tokens * w.count * w.dim, -15..=16, 0.25);
            of.iter_mut().for_each(|k| *k = k.max(0.0));
            k.push(of);
        }
        (data, Qkv { q, v, k })
    }

    /// The shape of a window's K and O.
    pub fn window(&self, heads: Heads) -> Shape {
        self.shape.with_channels(heads.count * heads.dim)
    }

    /// Q and V in a recording.
    pub fn record(&self, r: &mut Recording, qkv: &Qkv) -> (TensorId, TensorId) {
        (packed(r, &qkv.q, Element::Spikes, self.shape), packed(r, &qkv.v, Element::Ternary, self.shape))
    }
}

/// V with every spike positive.
pub fn positive(v: &[u32], shape: Shape) -> Vec<u32> {
    let row = words(shape.channels);
    v.chunks_exact(2 * row)
        .flat_map(|t| (0..2 * row).map(move |w| if w < row { t[w] | t[w + row] } else { 0 }))
        .collect()
}
