//! A receipt: what a model did for each image, layer by layer, and what that costs under named cost models. `ENERGY.md` defines
//! every number.

use serde::{Deserialize, Serialize};

use super::anatomy::{Layer, LayerKind};
use super::counts::{AttentionCounts, Counts, SpikeCounts};
use super::why::Why;
use crate::kernels::attention::Order;
use crate::model::Model;
use crate::weights::Weights;
use crate::{Error, Result};

/// The format of receipts: it goes up when a field changes its meaning or its name. 1 had no number, left the keys out of the activation
/// sparsity, and took one frame of a sequence for its dense network.
pub const FORMAT: u32 = 2;

/// A receipt. Counts are totals over all images; what its name says is per image is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Receipt {
    /// [`FORMAT`].
    pub format: u32,
    /// The version of this library.
    pub spikeshade: String,
    /// What ran.
    pub model: ModelFacts,
    /// Images.
    pub images: u64,
    /// T.
    pub timesteps: usize,
    /// Whether every timestep had an image of its own; otherwise the first convolution is computed once an image.
    pub sequence: bool,
    /// Images that are right, where they have labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<Accuracy>,
    /// Layers of neurons.
    pub neurons: Vec<NeuronsReceipt>,
    /// Layers that compute.
    pub layers: Vec<LayerReceipt>,
    /// Sums over the layers.
    pub totals: Totals,
    /// The metrics of NeuroBench.
    pub neurobench: NeuroBench,
    /// Operations an image, by each way to count them.
    pub countings: Vec<Counting>,
    /// Energy an image, by each way to count and cost model.
    pub energy: Vec<Energy>,
    /// Why a neuron fired or did not, if that was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<Why>,
}

/// A model's name and size.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelFacts {
    /// Its file or name.
    pub name: String,
    /// Pixels of a side.
    pub img_size: usize,
    /// D.
    pub embed_dim: usize,
    /// Blocks.
    pub depth: usize,
    /// Heads.
    pub num_heads: usize,
    /// Classes.
    pub num_classes: usize,
    /// What the weights of spike products are stored as: `f32`, `f16` or `int8`.
    pub weights: String,
}

/// Images that are right when the logits are read out after each timestep.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accuracy {
    /// Images with a label.
    pub labelled: u64,
    /// Of these, right after timestep 1, 2, …, T.
    pub right: Vec<u64>,
}

/// A layer of neurons.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NeuronsReceipt {
    /// E.g. `block.0.attn.q_lif`.
    pub name: String,
    /// H·W·C.
    pub neurons: u64,
    /// H.
    pub height: usize,
    /// W.
    pub width: usize,
    /// C.
    pub channels: usize,
    /// Spikes of +1 by timestep.
    pub positive: Vec<u64>,
    /// Spikes of -1 by timestep.
    pub negative: Vec<u64>,
    /// Neurons that fired at no timestep of any image.
    pub silent: u64,
    /// Neurons that fired at every timestep of every image.
    pub saturated: u64,
    /// Updates of a membrane: neurons × timesteps × images.
    pub updates: u64,
}

impl NeuronsReceipt {
    /// Spikes per neuron, image and timestep `t`.
    pub fn rate_at(&self, t: usize) -> f64 {
        let possible = self.updates as f64 / self.positive.len().max(1) as f64;
        (self.positive[t] + self.negative[t]) as f64 / possible.max(1.0)
    }

    /// Spikes of either sign.
    pub fn spikes(&self) -> u64 {
        self.positive.iter().chain(&self.negative).sum()
    }

    /// Spikes per neuron, image and timestep.
    pub fn rate(&self) -> f64 {
        self.spikes() as f64 / (self.updates as f64).max(1.0)
    }
}

/// What kind of operation a layer does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Operation {
    /// Multiply and accumulate: two real factors.
    Mac,
    /// Accumulate: a spike selects what is added.
    Ac,
}

/// A layer that computes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LayerReceipt {
    /// E.g. `block.0.mlp.fc1_conv`.
    pub name: String,
    /// `image`, `conv`, `linear`, `attention` or `head`.
    pub kind: String,
    /// The spikes that trigger it, if they are those of one tensor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<String>,
    /// What its operations are.
    pub operation: Operation,
    /// Operations by timestep: of an `ac` layer those that spikes triggered; of a `mac` layer all. The first convolution of a static
    /// image is computed once, which counts at the first timestep; the head once, at the last.
    pub triggered: Vec<u64>,
    /// The operations if every input were a spike.
    pub dense: u64,
    /// Weights.
    pub weights: u64,
    /// Weights that are zero, as stored.
    pub zero_weights: u64,
    /// Bytes of its parameters as stored.
    pub bytes: u64,
    /// Attention's additions in both orders.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attention: Option<AttentionReceipt>,
}

impl LayerReceipt {
    /// Operations over all timesteps.
    pub fn operations(&self) -> u64 {
        self.triggered.iter().sum()
    }

    /// Its energy in picojoules an image, with the membranes' part left out.
    pub fn energy(&self, cost: &CostModel, images: u64) -> f64 {
        let each = match self.operation {
            Operation::Mac => cost.mac_with_memory(),
            Operation::Ac => cost.ac_with_memory(),
        };
        each * self.operations() as f64 / (images as f64).max(1.0)
    }
}

/// Attention's additions, over all timesteps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttentionReceipt {
    /// The order it ran in: in a file `q_kv` or `qk_v`, as the fields below.
    pub order: Order,
    /// Additions in the order Q (Kᵀ V).
    pub q_kv: u64,
    /// The same, less those of keys that are zero.
    pub q_kv_nonzero: u64,
    /// Additions in the order (Q Kᵀ) V.
    pub qk_v: u64,
    /// The same, less those of keys that are zero.
    pub qk_v_nonzero: u64,
    /// Keys that are not zero.
    pub keys: u64,
    /// All keys.
    pub possible_keys: u64,
}

/// Sums over the layers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Spikes of neurons.
    pub spikes: u64,
    /// Neurons × timesteps × images; each updates a membrane.
    pub updates: u64,
    /// Neurons.
    pub neurons: u64,
    /// Neurons that fired at no timestep of any image.
    pub silent: u64,
    /// Neurons that fired at every timestep of every image.
    pub saturated: u64,
    /// Synaptic operations that spikes triggered, attention's among them: accumulations.
    pub acs: u64,
    /// Multiply-accumulates: the first convolution and the head.
    pub macs: u64,
    /// All operations if every neuron fired.
    pub dense: u64,
    /// Multiply-accumulates of the dense network of the same shape in one pass: of an image, or of one frame of a sequence.
    pub dense_network_macs: u64,
}

/// The metrics of NeuroBench's algorithm track (Yik et al.).
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NeuroBench {
    /// Bytes of the parameters as stored.
    pub footprint: u64,
    /// The share of weights that are zero.
    pub connection_sparsity: f64,
    /// The share of activations that are zero, over all layers, timesteps and images: neurons' outputs, and keys, which a ReLU makes.
    pub activation_sparsity: f64,
    /// Multiply-accumulates an image of activations that are not zero. Those that meet a weight of zero are counted, too: NeuroBench
    /// has fewer where weights are zero.
    pub effective_macs: f64,
    /// Accumulates an image, likewise.
    pub effective_acs: f64,
    /// Synaptic operations an image on hardware that skips nothing.
    pub dense: f64,
}

/// Operations an image, counted in a named way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Counting {
    /// `exact`, `spikformer`, `spike-driven`, `neurobench`, or `dense` for the dense network.
    pub name: String,
    /// How it counts.
    pub how: String,
    /// Multiply-accumulates.
    pub macs: f64,
    /// Accumulates.
    pub acs: f64,
    /// Updates of membranes, or of a dense network's activations.
    pub updates: f64,
}

/// Energy an image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Energy {
    /// The way operations are counted.
    pub counting: String,
    /// The cost model.
    pub cost_model: String,
    /// Picojoules an image.
    pub picojoules: f64,
}

/// What operations cost, in picojoules.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CostModel {
    /// Its name.
    pub name: &'static str,
    /// A multiply-accumulate.
    pub mac: f64,
    /// An accumulate.
    pub ac: f64,
    /// Reading one weight; every operation does.
    pub weight: f64,
    /// Reading one real activation; every multiply-accumulate does.
    pub activation: f64,
    /// Reading and writing a membrane (or an activation of a dense network); every update does.
    pub update: f64,
    /// Where the numbers are from.
    pub source: &'static str,
}

impl CostModel {
    fn mac_with_memory(&self) -> f64 {
        self.mac + self.weight + self.activation
    }

    fn ac_with_memory(&self) -> f64 {
        self.ac + self.weight
    }

    /// Energy of operations, in picojoules.
    pub fn energy(&self, macs: f64, acs: f64, updates: f64) -> f64 {
        self.mac_with_memory() * macs + self.ac_with_memory() * acs + self.update * updates
    }

    /// The cost model of that name.
    ///
    /// # Errors
    /// [`Error::Input`] if there is none, with those there are.
    pub fn named(name: &str) -> Result<&'static CostModel> {
        COST_MODELS.iter().find(|m| m.name == name).ok_or_else(|| {
            let names: Vec<&str> = COST_MODELS.iter().map(|m| m.name).collect();
            Error::Input(format!("there is no cost model `{name}`; use one of {}", names.join(", ")))
        })
    }
}

/// The cost models; the first is the one that spiking papers use.
pub const COST_MODELS: &[CostModel] = &[
    CostModel {
        name: "45nm-f32",
        mac: 4.6,
        ac: 0.9,
        weight: 0.0,
        activation: 0.0,
        update: 0.0,
        source: "Horowitz, ISSCC 2014, 45 nm at 0.9 V: 32-bit float multiplication 3.7 pJ, addition 0.9 pJ",
    },
    CostModel {
        name: "45nm-f16",
        mac: 1.5,
        ac: 0.4,
        weight: 0.0,
        activation: 0.0,
        update: 0.0,
        source: "Horowitz, ISSCC 2014: 16-bit float multiplication 1.1 pJ, addition 0.4 pJ",
    },
    CostModel {
        name: "45nm-int8",
        mac: 0.3,
        ac: 0.1,
        weight: 0.0,
        activation: 0.0,
        update: 0.0,
        source: "Horowitz, ISSCC 2014: 8-bit integer multiplication 0.2 pJ, 32-bit integer addition 0.1 pJ (8-bit weights, 32-bit \
                 sums)",
    },
    CostModel {
        name: "45nm-int8-narrow",
        mac: 0.23,
        ac: 0.03,
        weight: 0.0,
        activation: 0.0,
        update: 0.0,
        source: "Horowitz, ISSCC 2014: 8-bit integer multiplication 0.2 pJ, 8-bit integer addition 0.03 pJ (sums of 8 bits, which \
                 overflow)",
    },
    CostModel {
        name: "45nm-f32-sram",
        mac: 4.6,
        ac: 0.9,
        weight: 10.0,
        activation: 10.0,
        update: 20.0,
        source: "45nm-f32, and Horowitz, ISSCC 2014: 20 pJ for 64 bits of a 32 KiB cache; 32-bit weights, activations and \
                 membranes; every operation reads its weight, sums stay in a register",
    },
    CostModel {
        name: "45nm-int8-sram",
        mac: 0.3,
        ac: 0.1,
        weight: 2.5,
        activation: 2.5,
        update: 20.0,
        source: "45nm-int8, and Horowitz, ISSCC 2014: 20 pJ for 64 bits of a 32 KiB cache; 8-bit weights and activations, 32-bit \
                 membranes; every operation reads its weight, sums stay in a register; K and Kᵀ V as if they had 8 bits",
    },
];

fn missing(name: &str) -> Error {
    Error::Input(format!("`{name}` was not counted; run with a census of the same model"))
}

impl Receipt {
    /// The receipt of what a run of `model`, called `name`, counted.
    ///
    /// # Errors
    /// [`Error::Input`] if the counts are of another model.
    pub fn new(model: &Model, name: &str, counts: &Counts) -> Result<Receipt> {
        let config = model.config();
        let anatomy = model.anatomy();
        let (steps, images) = (counts.timesteps, counts.images);
        let spikes_of = |name: &str| counts.spikes_of(name).ok_or_else(|| missing(name));
        let mut neurons = Vec::new();
        for of in &anatomy.neurons {
            let counted = spikes_of(&of.name)?;
            if counted.len() != of.len() {
                return Err(missing(&of.name));
            }
            neurons.push(NeuronsReceipt {
                name: of.name.clone(),
                neurons: of.len(),
                height: of.height,
                width: of.width,
                channels: of.channels,
                positive: counted.positive.clone(),
                negative: counted.negative.clone(),
                silent: counted.silent(),
                saturated: counted.saturated(),
                updates: of.len() * steps as u64 * images,
            });
        }
        let mut layers = Vec::new();
        for layer in &anatomy.layers {
            layers.push(layer_receipt(layer, counts)?);
        }
        let sum = |of: &dyn Fn(&LayerReceipt) -> u64, operation: Operation| -> u64 {
            layers.iter().filter(|l| l.operation == operation).map(of).sum()
        };
        let of_neurons = |of: fn(&NeuronsReceipt) -> u64| neurons.iter().map(of).sum::<u64>();
        let totals = Totals {
            spikes: of_neurons(NeuronsReceipt::spikes),
            updates: of_neurons(|n| n.updates),
            neurons: of_neurons(|n| n.neurons),
            silent: of_neurons(|n| n.silent),
            saturated: of_neurons(|n| n.saturated),
            acs: sum(&LayerReceipt::operations, Operation::Ac),
            macs: sum(&LayerReceipt::operations, Operation::Mac),
            dense: layers.iter().map(|l| l.dense).sum(),
            dense_network_macs: anatomy.layers.iter().map(|l| l.kind.dense(Order::QkV)).sum(),
        };
        let countings = countings(&anatomy.layers, &layers, &totals, counts)?;
        let energy = countings
            .iter()
            .flat_map(|c| {
                COST_MODELS.iter().map(|cost| Energy {
                    counting: c.name.clone(),
                    cost_model: cost.name.to_owned(),
                    picojoules: cost.energy(c.macs, c.acs, c.updates),
                })
            })
            .collect();
        let weights: u64 = layers.iter().map(|l| l.weights).sum();
        let zeros: u64 = layers.iter().map(|l| l.zero_weights).sum();
        let hooked = countings.iter().find(|c| c.name == "neurobench");
        let hooked_dense = anatomy.layers.iter().filter(|l| !matches!(l.kind, LayerKind::Attention { .. }));
        let keys: u64 = layers.iter().filter_map(|l| l.attention.as_ref()).map(|a| a.keys).sum();
        let possible_keys: u64 = layers.iter().filter_map(|l| l.attention.as_ref()).map(|a| a.possible_keys).sum();
        let neurobench = NeuroBench {
            footprint: layers.iter().map(|l| l.bytes).sum(),
            connection_sparsity: zeros as f64 / (weights as f64).max(1.0),
            activation_sparsity: 1.0
                - (totals.spikes + keys) as f64 / ((totals.updates + possible_keys) as f64).max(1.0),
            effective_macs: hooked.map_or(0.0, |c| c.macs),
            effective_acs: hooked.map_or(0.0, |c| c.acs),
            dense: (steps as u64 * hooked_dense.map(|l| l.kind.dense(Order::QkV)).sum::<u64>()) as f64,
        };
        let weights = match model.weights() {
            Weights::F32 => "f32",
            Weights::F16 => "f16",
            Weights::Int8 => "int8",
        };
        Ok(Receipt {
            format: FORMAT,
            spikeshade: env!("CARGO_PKG_VERSION").to_owned(),
            model: ModelFacts {
                name: name.to_owned(),
                img_size: config.img_size,
                embed_dim: config.embed_dim,
                depth: config.depth,
                num_heads: config.num_heads,
                num_classes: config.num_classes,
                weights: weights.to_owned(),
            },
            images,
            timesteps: steps,
            sequence: counts.sequence,
            accuracy: None,
            neurons,
            layers,
            totals,
            neurobench,
            countings,
            energy,
            why: None,
        })
    }

    /// Reads a receipt from the text of its file.
    ///
    /// # Errors
    /// [`Error::Input`] if it is none, is one of another format, or does not agree with itself.
    pub fn parse(text: &str) -> Result<Receipt> {
        let none = |why: &dyn std::fmt::Display| {
            Error::Input(format!("is no receipt: {why}; give a receipt.json of `spikeshade profile`"))
        };
        let value: serde_json::Value = serde_json::from_str(text).map_err(|e| none(&e))?;
        // What all formats have.
        if value.get("spikeshade").is_none() || value.get("totals").is_none() {
            return Err(none(&"it has no `spikeshade` and `totals`"));
        }
        let format = value.get("format").map_or(Some(1), serde_json::Value::as_u64);
        if format != Some(FORMAT.into()) {
            let format = format.map_or("an unknown format".to_owned(), |n| format!("format {n}"));
            let of = value["spikeshade"].as_str().unwrap_or("another version");
            return Err(Error::Input(format!(
                "is a receipt of {format} (spikeshade {}), and this version reads format {FORMAT}; make it anew with `spikeshade \
                 profile`",
                crate::error::clip(of)
            )));
        }
        let receipt: Receipt = serde_json::from_value(value).map_err(|e| none(&e))?;
        let steps = receipt.timesteps;
        let neurons = receipt.neurons.iter().all(|n| n.positive.len() == steps && n.negative.len() == steps);
        let layers = receipt.layers.iter().all(|l| l.triggered.len() == steps);
        if !neurons || !layers || receipt.accuracy.as_ref().is_some_and(|a| a.right.len() != steps) {
            return Err(none(&format_args!("not everything in it has {steps} timesteps")));
        }
        Ok(receipt)
    }

    /// A count per image.
    pub fn per_image(&self, total: u64) -> f64 {
        total as f64 / (self.images as f64).max(1.0)
    }

    /// The operations counted in that way.
    pub fn counting(&self, name: &str) -> Option<&Counting> {
        self.countings.iter().find(|c| c.name == name)
    }

    /// Picojoules an image that go to membranes, of the operations as `exact` counts them; a cost model without memory has none.
    pub fn membranes(&self, cost: &CostModel) -> f64 {
        cost.update * self.per_image(self.totals.updates)
    }

    /// The share of images that are right after each timestep, where they have labels.
    pub fn right(&self) -> Option<Vec<f64>> {
        let of = self.accuracy.as_ref()?;
        Some(of.right.iter().map(|&n| n as f64 / (of.labelled as f64).max(1.0)).collect())
    }

    /// Picojoules an image.
    pub fn picojoules(&self, counting: &str, cost_model: &str) -> Option<f64> {
        let of = |e: &&Energy| e.counting == counting && e.cost_model == cost_model;
        self.energy.iter().find(of).map(|e| e.picojoules)
    }

    /// Spikes per neuron, image and timestep, of all layers.
    pub fn firing_rate(&self) -> f64 {
        self.totals.spikes as f64 / (self.totals.updates as f64).max(1.0)
    }
}

fn layer_receipt(layer: &Layer, counts: &Counts) -> Result<LayerReceipt> {
    let steps = counts.timesteps;
    let total = |order| layer.kind.dense(order) * counts.images;
    let mut receipt = LayerReceipt {
        name: layer.name.clone(),
        kind: String::new(),
        input: None,
        operation: Operation::Ac,
        triggered: vec![0; steps],
        dense: 0,
        weights: layer.weights,
        zero_weights: layer.zeros,
        bytes: layer.bytes,
        attention: None,
    };
    match &layer.kind {
        LayerKind::Image { .. } => {
            receipt.kind = "image".to_owned();
            receipt.operation = Operation::Mac;
            let computed = if counts.sequence { steps } else { 1 };
            receipt.triggered.iter_mut().take(computed).for_each(|n| *n = total(Order::QkV));
            receipt.dense = computed as u64 * total(Order::QkV);
        }
        LayerKind::Spikes { input, taps, inputs, outputs, .. } => {
            let spikes = counts.spikes_of(input).ok_or_else(|| missing(input))?;
            if spikes.channels != *inputs {
                return Err(missing(input));
            }
            receipt.kind = if *taps == 9 { "conv" } else { "linear" }.to_owned();
            receipt.input = Some(input.clone());
            let terms = |t: usize| if *taps == 9 { spikes.reached[t] } else { spikes.spikes_at(t) };
            receipt.triggered = (0..steps).map(|t| terms(t) * *outputs as u64).collect();
            receipt.dense = steps as u64 * total(Order::QkV);
        }
        LayerKind::Attention { .. } => {
            let of = counts.attention_of(&layer.name).ok_or_else(|| missing(&layer.name))?;
            receipt.kind = "attention".to_owned();
            receipt.triggered = (0..steps).map(|t| of.additions(of.order, t)).collect();
            receipt.dense = steps as u64 * total(of.order);
            receipt.attention = Some(attention_receipt(of, counts));
        }
        LayerKind::Head { .. } => {
            receipt.kind = "head".to_owned();
            receipt.operation = Operation::Mac;
            receipt.triggered.iter_mut().rev().take(1).for_each(|n| *n = total(Order::QkV));
            receipt.dense = total(Order::QkV);
        }
    }
    Ok(receipt)
}

fn attention_receipt(of: &AttentionCounts, counts: &Counts) -> AttentionReceipt {
    let steps = counts.timesteps;
    let sum = |additions: &dyn Fn(usize) -> u64| (0..steps).map(additions).sum();
    AttentionReceipt {
        order: of.order,
        q_kv: sum(&|t| of.additions(Order::QKv, t)),
        q_kv_nonzero: sum(&|t| of.nonzero_additions(Order::QKv, t)),
        qk_v: sum(&|t| of.additions(Order::QkV, t)),
        qk_v_nonzero: sum(&|t| of.nonzero_additions(Order::QkV, t)),
        keys: of.keys.iter().sum(),
        possible_keys: (of.tokens * of.heads * of.head_dim * steps) as u64 * counts.images,
    }
}

fn countings(anatomy: &[Layer], layers: &[LayerReceipt], totals: &Totals, counts: &Counts) -> Result<Vec<Counting>> {
    let images = (counts.images as f64).max(1.0);
    let steps = counts.timesteps as f64;
    let presented = if counts.sequence { steps } else { 1.0 };
    let spikes_of = |name: &str| -> Result<&SpikeCounts> { counts.spikes_of(name).ok_or_else(|| missing(name)) };
    let attention = |order: Order| -> u64 {
        counts.attention.iter().map(|a| (0..counts.timesteps).map(|t| a.additions(order, t)).sum::<u64>()).sum()
    };
    let (mut image, mut rated, mut hooked, mut first_outputs, mut classes) = (0u64, 0.0, 0u64, 0u64, 0u64);
    for (layer, receipt) in anatomy.iter().zip(layers) {
        match &layer.kind {
            LayerKind::Image { outputs, .. } => {
                image = layer.kind.formula(Order::QkV);
                first_outputs = *outputs as u64;
            }
            LayerKind::Spikes { input, taps, outputs, .. } => {
                // fr · T · FLOPs = spikes · taps · C_out: both leave H W C_in out.
                rated += (spikes_of(input)?.spikes() * (taps * outputs) as u64) as f64;
                hooked += receipt.operations();
            }
            LayerKind::Attention { .. } => {}
            LayerKind::Head { classes: n, .. } => {
                let spikes = spikes_of("head_lif")?;
                // fr · T · D · classes = spikes · classes / N.
                rated += spikes.spikes() as f64 * *n as f64 / (spikes.height * spikes.width) as f64;
                classes = *n as u64;
            }
        }
    }
    let updates = totals.updates as f64 / images;
    let way = |name: &str, how: &str, macs: f64, acs: f64, updates: f64| Counting {
        name: name.to_owned(),
        how: how.to_owned(),
        macs,
        acs,
        updates,
    };
    let copies = if counts.sequence { 1.0 } else { steps };
    let hooked_macs = copies * (counts.pixels_reached * first_outputs) as f64
        + (counts.head_active.iter().sum::<u64>() * classes) as f64;
    Ok(vec![
        way(
            "exact",
            "what this library does: additions that spikes trigger, borders exact; attention in the order it ran; the first \
             convolution of a static image once; the head once, on mean rates",
            totals.macs as f64 / images,
            totals.acs as f64 / images,
            updates,
        ),
        way(
            "spikformer",
            "Zhou et al., ICLR 2023: E_MAC FL¹ + E_AC Σ SOP, SOP = fr T FLOPs, FLOPs = k² H W C_in C_out; attention (Q Kᵀ) V; the \
             first convolution once",
            presented * image as f64,
            (rated + attention(Order::QkV) as f64) / images,
            updates,
        ),
        way(
            "spike-driven",
            "Yao et al., NeurIPS 2023: the same FLOPs and rates; the first convolution at every timestep; attention linear in N, \
             here Q (Kᵀ V)",
            steps * image as f64,
            (rated + attention(Order::QKv) as f64) / images,
            updates,
        ),
        way(
            "neurobench",
            "Yik et al.: effective operations of layers that hooks see (convolutions and linear layers, at every timestep); zero \
             pixels and zero rates left out, zero weights not; attention is not seen",
            hooked_macs / images,
            hooked as f64 / images,
            updates,
        ),
        way(
            "dense",
            "the dense network of the same shape: every operation once (of a sequence once a frame), with real activations; \
             attention (Q Kᵀ) V, softmax left out",
            presented * totals.dense_network_macs as f64,
            0.0,
            presented * updates / steps.max(1.0),
        ),
    ])
}
