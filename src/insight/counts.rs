//! Counts of a run, made by the device (`spike_census`, `attention_census`) or, beside a software driver, by their twins: exact
//! integers that add up over the parts of a batch and over the batches of a data set.

use crate::kernels::attention::Order;
use crate::kernels::spike_census::Layout;
use crate::outputs::{LayerCount, Raw};
use crate::recording::{Counted, Recording, TensorId};
use crate::reference::attention_census::key_value_pairs;
use crate::reference::spike_census::spike_census;
use crate::tensor::{Shape, words};
use crate::{Error, Result};

/// What one packed tensor held, over all images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpikeCounts {
    /// The layer, e.g. `block.0.attn.q_lif`.
    pub name: String,
    /// Whether neurons fired it; a pool's output and the keys that are not zero (`block.0.attn.k`) are counted too.
    pub neurons: bool,
    /// H.
    pub height: usize,
    /// W.
    pub width: usize,
    /// C.
    pub channels: usize,
    /// Whether spikes have a sign.
    pub ternary: bool,
    /// Spikes of +1 by timestep.
    pub positive: Vec<u64>,
    /// Spikes of -1 by timestep.
    pub negative: Vec<u64>,
    /// By timestep, spikes times the outputs of a 3×3 convolution (pad 1) that see them: 9, at an edge 6, in a corner 4.
    pub reached: Vec<u64>,
    /// `[H·W][⌈C/32⌉]`: which neurons fired at least once.
    pub ever: Vec<u32>,
    /// `[H·W][⌈C/32⌉]`: which neurons fired at every timestep of every image.
    pub always: Vec<u32>,
}

impl SpikeCounts {
    /// Neurons: H·W·C.
    pub fn len(&self) -> u64 {
        (self.height * self.width * self.channels) as u64
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Spikes of either sign, over all timesteps.
    pub fn spikes(&self) -> u64 {
        self.positive.iter().chain(&self.negative).sum()
    }

    /// Spikes of either sign at a timestep.
    pub fn spikes_at(&self, t: usize) -> u64 {
        self.positive[t] + self.negative[t]
    }

    /// Neurons that never fired.
    pub fn silent(&self) -> u64 {
        self.len() - self.ever.iter().map(|w| u64::from(w.count_ones())).sum::<u64>()
    }

    /// Neurons that always fired.
    pub fn saturated(&self) -> u64 {
        self.always.iter().map(|w| u64::from(w.count_ones())).sum()
    }

    fn merge(&mut self, other: &SpikeCounts) {
        let add = |to: &mut Vec<u64>, from: &[u64]| to.iter_mut().zip(from).for_each(|(a, b)| *a += b);
        add(&mut self.positive, &other.positive);
        add(&mut self.negative, &other.negative);
        add(&mut self.reached, &other.reached);
        self.ever.iter_mut().zip(&other.ever).for_each(|(a, b)| *a |= b);
        self.always.iter_mut().zip(&other.always).for_each(|(a, b)| *a &= b);
    }
}

/// What attention met, over all images, by timestep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttentionCounts {
    /// The layer, e.g. `block.0.attn`.
    pub name: String,
    /// N.
    pub tokens: usize,
    /// Heads.
    pub heads: usize,
    /// d, channels of a head.
    pub head_dim: usize,
    /// The order in which it ran.
    pub order: Order,
    /// Spikes of Q.
    pub queries: Vec<u64>,
    /// Spikes of V, of either sign.
    pub values: Vec<u64>,
    /// Keys that are not zero.
    pub keys: Vec<u64>,
    /// Σ over tokens and heads of (keys that are not zero) × (spikes of V): additions of Kᵀ V, less those of zeros.
    pub key_value: Vec<u64>,
    /// Σ over channels of (spikes of Q) × (keys that are not zero), over tokens each: additions of Q Kᵀ, less those of zeros.
    pub query_key: Vec<u64>,
}

impl AttentionCounts {
    /// Additions of both products in `order`, at a timestep: each spike of V and of Q adds d values in the order Q (Kᵀ V), and N
    /// values in the order (Q Kᵀ) V.
    pub fn additions(&self, order: Order, t: usize) -> u64 {
        (self.queries[t] + self.values[t]) * self.each(order)
    }

    /// The same less additions of keys that are zero. Sums (Kᵀ V and Q Kᵀ) count as if none were zero.
    pub fn nonzero_additions(&self, order: Order, t: usize) -> u64 {
        match order {
            Order::QKv => self.key_value[t] + self.queries[t] * self.each(order),
            Order::QkV => self.query_key[t] + self.values[t] * self.each(order),
        }
    }

    fn each(&self, order: Order) -> u64 {
        match order {
            Order::QKv => self.head_dim as u64,
            Order::QkV => self.tokens as u64,
        }
    }

    fn merge(&mut self, other: &AttentionCounts) {
        let add = |to: &mut Vec<u64>, from: &[u64]| to.iter_mut().zip(from).for_each(|(a, b)| *a += b);
        add(&mut self.queries, &other.queries);
        add(&mut self.values, &other.values);
        add(&mut self.keys, &other.keys);
        add(&mut self.key_value, &other.key_value);
        add(&mut self.query_key, &other.query_key);
    }
}

/// What a run counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Images.
    pub images: u64,
    /// T.
    pub timesteps: usize,
    /// Whether every timestep had an image of its own; otherwise the first convolution was computed once an image.
    pub sequence: bool,
    /// Pixels' channels that are not zero, times the outputs of the first convolution's channels that see them, over all images.
    pub pixels_reached: u64,
    /// By timestep, the head's channels that fired at least once, over all images.
    pub head_active: Vec<u64>,
    /// Packed tensors in the order of computation.
    pub spikes: Vec<SpikeCounts>,
    /// Attention layers.
    pub attention: Vec<AttentionCounts>,
}

/// Spikes by timestep, image and channel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChannelCounts {
    /// T.
    pub steps: usize,
    /// B.
    pub batch: usize,
    /// C.
    pub channels: usize,
    counts: Vec<u32>,
}

impl ChannelCounts {
    fn new(layout: &Layout, raw: &[u32]) -> Self {
        let Shape { steps, batch, channels, .. } = layout.shape;
        ChannelCounts { steps, batch, channels, counts: raw.to_vec() }
    }

    /// The channels of image `b` at timestep `t`.
    pub fn of(&self, t: usize, b: usize) -> &[u32] {
        &self.counts[(t * self.batch + b) * 32 * words(self.channels)..][..self.channels]
    }
}

impl Counts {
    /// The packed tensor of that name.
    pub fn spikes_of(&self, name: &str) -> Option<&SpikeCounts> {
        self.spikes.iter().find(|s| s.name == name)
    }

    /// The attention layer of that name.
    pub fn attention_of(&self, name: &str) -> Option<&AttentionCounts> {
        self.attention.iter().find(|a| a.name == name)
    }

    /// Adds what another run of the same model counted.
    ///
    /// # Errors
    /// [`Error::Input`] if it was another model, with other timesteps or in another order.
    pub fn merge(&mut self, other: &Counts) -> Result<()> {
        if self.spikes.is_empty() {
            *self = other.clone();
            return Ok(());
        }
        let spikes =
            |c: &Counts| -> Vec<(String, u64)> { c.spikes.iter().map(|s| (s.name.clone(), s.len())).collect() };
        let attention =
            |c: &Counts| -> Vec<(String, Order)> { c.attention.iter().map(|a| (a.name.clone(), a.order)).collect() };
        let alike = (self.timesteps, self.sequence) == (other.timesteps, other.sequence)
            && spikes(self) == spikes(other)
            && attention(self) == attention(other);
        if !alike {
            return Err(Error::Input(
                "counts of different models, timesteps or orders of attention do not add up; count them apart"
                    .to_owned(),
            ));
        }
        self.images += other.images;
        self.pixels_reached += other.pixels_reached;
        self.head_active.iter_mut().zip(&other.head_active).for_each(|(a, b)| *a += b);
        self.spikes.iter_mut().zip(&other.spikes).for_each(|(a, b)| a.merge(b));
        self.attention.iter_mut().zip(&other.attention).for_each(|(a, b)| a.merge(b));
        Ok(())
    }

    /// Spikes by layer of neurons.
    pub(crate) fn layer_counts(&self) -> Vec<LayerCount> {
        let neurons = self.spikes.iter().filter(|s| s.neurons);
        let count = |s: &SpikeCounts| LayerCount {
            layer: s.name.clone(),
            spikes: s.spikes(),
            possible: s.len() * self.images * self.timesteps as u64,
        };
        neurons.map(count).collect()
    }

    /// Reads the counters of a recording through `raw`; the second value is the head's spikes. `None` if nothing is counted.
    pub(crate) fn read(recording: &Recording, mut raw: impl FnMut(TensorId) -> Raw) -> Option<(Counts, ChannelCounts)> {
        let (mut counts, mut channels) = (Counts::default(), Vec::<(&str, ChannelCounts)>::new());
        let mut pairs: Vec<(&str, Shape, usize, Order, Vec<u64>)> = Vec::new();
        for counter in &recording.census {
            let Raw::Packed(mut values) = raw(counter.id) else { continue };
            match &counter.counted {
                Counted::Spikes { layout, neurons, by_host } => {
                    if *by_host {
                        let mut counters = vec![0; words(layout.counters().channels)];
                        spike_census(&values, layout, &mut counters);
                        values = counters;
                    }
                    let (of_neurons, of_channels) = values.split_at(layout.step_counts() + layout.neuron_words());
                    if layout.channels {
                        channels.push((&counter.name, ChannelCounts::new(layout, of_channels)));
                    }
                    if layout.neurons {
                        counts.images = layout.shape.batch as u64;
                        counts.timesteps = layout.shape.steps;
                        counts.spikes.push(spike_counts(&counter.name, *neurons, layout, of_neurons));
                    }
                }
                Counted::Pairs { shape, heads, order, values: of_host } => {
                    let sums = match of_host.map(&mut raw) {
                        Some(Raw::Packed(v)) => key_value_pairs(&values, &v, *shape, shape.channels / heads),
                        _ => values.chunks_exact(2).map(|w| u64::from(w[0]) | u64::from(w[1]) << 32).collect(),
                    };
                    pairs.push((&counter.name, *shape, *heads, *order, sums));
                }
            }
        }
        if counts.spikes.is_empty() {
            return None;
        }
        let of = |name: &str| channels.iter().find(|c| c.0 == name).map(|c| &c.1);
        for (name, shape, heads, order, sums) in pairs {
            let by_step = |part: &str| -> Vec<u64> {
                let tensor = counts.spikes_of(&format!("{name}.{part}"));
                tensor.map_or_else(|| vec![0; shape.steps], |s| (0..shape.steps).map(|t| s.spikes_at(t)).collect())
            };
            let query_key = match (of(&format!("{name}.q_lif")), of(&format!("{name}.k"))) {
                (Some(q), Some(k)) => {
                    (0..shape.steps).map(|t| (0..shape.batch).map(|b| dot(q.of(t, b), k.of(t, b))).sum())
                }
                _ => continue,
            };
            let attention = AttentionCounts {
                name: name.to_owned(),
                tokens: shape.tokens(),
                heads,
                head_dim: shape.channels / heads,
                order,
                queries: by_step("q_lif"),
                values: by_step("v_lif"),
                keys: by_step("k"),
                key_value: sums.chunks(shape.batch.max(1)).map(|of_step| of_step.iter().sum()).collect(),
                query_key: query_key.collect(),
            };
            counts.attention.push(attention);
        }
        let head = channels.iter().position(|c| c.0 == "head_lif");
        let head = head.map(|i| channels.swap_remove(i).1).unwrap_or_default();
        let active = |t: usize| (0..head.batch).flat_map(|b| head.of(t, b)).filter(|&&n| n > 0).count() as u64;
        counts.head_active = (0..head.steps).map(active).collect();
        Some((counts, head))
    }
}

fn dot(a: &[u32], b: &[u32]) -> u64 {
    a.iter().zip(b).map(|(&a, &b)| u64::from(a) * u64::from(b)).sum()
}

fn spike_counts(name: &str, neurons: bool, layout: &Layout, raw: &[u32]) -> SpikeCounts {
    let (steps, words) = raw.split_at(layout.step_counts());
    let (ever, always) = words.split_at(layout.image_words());
    let a_step = 3 * layout.parts() * layout.shape.batch;
    let sum = |i: usize| -> Vec<u64> {
        let of_step = |counts: &[u32]| counts[i..].iter().step_by(3).map(|&n| u64::from(n)).sum();
        steps.chunks(a_step.max(1)).map(of_step).collect()
    };
    SpikeCounts {
        name: name.to_owned(),
        neurons,
        height: layout.shape.height,
        width: layout.shape.width,
        channels: layout.shape.channels,
        ternary: layout.ternary,
        positive: sum(0),
        negative: sum(1),
        reached: sum(2),
        ever: ever.to_vec(),
        always: always.to_vec(),
    }
}

/// Over the nonzero values of images `[..][C][H][W]`, the outputs of a 3×3 convolution (pad 1) that see them.
pub(crate) fn pixels_reached(data: &[f32], side: usize) -> u64 {
    let reach = |at: usize| 1 + u64::from(at > 0) + u64::from(at + 1 < side);
    let of_line = |(y, line): (usize, &[f32])| -> u64 {
        let columns = line.iter().enumerate().filter(|(_, x)| **x != 0.0).map(|(x, _)| reach(x));
        reach(y % side) * columns.sum::<u64>()
    };
    data.chunks(side.max(1)).enumerate().map(of_line).sum()
}
