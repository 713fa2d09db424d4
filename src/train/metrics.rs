//! What a training run tells of each epoch.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

/// One line of `metrics.jsonl`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EpochMetrics {
    /// The epoch; the first is 1.
    pub epoch: u64,
    /// Steps done in all.
    pub step: u64,
    /// Learning rate of the last step.
    pub lr: f64,
    /// Mean loss of the epoch's training pictures as they were shown, in nats.
    #[serde(deserialize_with = "number")]
    pub train_loss: f64,
    /// Share of the training pictures that were right, as they were shown.
    pub train_accuracy: f64,
    /// Mean cross-entropy of the test pictures, in nats.
    #[serde(deserialize_with = "number")]
    pub test_loss: f64,
    /// Share of the test pictures that are right.
    pub test_accuracy: f64,
    /// Mean global norm of the gradient before clipping.
    #[serde(deserialize_with = "number")]
    pub grad_norm: f64,
    /// Spikes per neuron and timestep of all layers, in training; of the last micro-batch of each step.
    pub firing_rate: f64,
    /// The same by layer.
    pub firing_rates: BTreeMap<String, f64>,
    /// Spikes per neuron and timestep of all layers, on the test pictures.
    #[serde(default)]
    pub test_firing_rate: f64,
    /// Layers that are dead or saturated, on either.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// Seconds spent in training steps.
    pub train_seconds: f64,
    /// Seconds spent in the evaluation.
    pub test_seconds: f64,
    /// Training pictures a second.
    pub images_per_second: f64,
    /// Whether no epoch before had a higher test accuracy.
    pub best: bool,
}

/// JSON has no NaN: what is not finite is written as null.
fn number<'de, D: Deserializer<'de>>(d: D) -> Result<f64, D::Error> {
    Ok(Option::<f64>::deserialize(d)?.unwrap_or(f64::NAN))
}
