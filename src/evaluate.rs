//! A model's accuracy on a data set.

use std::ops::ControlFlow;
use std::sync::mpsc;

use crate::Result;
use crate::data::Dataset;
use crate::insight::counts::Counts;
use crate::layers::Options;
use crate::outputs::LayerCount;
use crate::session::{Input, Session};

/// What an evaluation counts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tally {
    /// Images.
    pub total: usize,
    /// Images whose own class has the largest logit.
    pub first: usize,
    /// Images whose own class is among the five largest.
    pub first_five: usize,
    /// Sum of the images' cross-entropies, in nats.
    pub loss: f64,
    /// Spikes by layer.
    pub counts: Vec<LayerCount>,
    /// The census of all images, if the options ask for one.
    pub census: Option<Counts>,
    /// With a census, the images that are right after each timestep.
    pub first_after: Vec<u64>,
}

impl Tally {
    /// Counts one image.
    pub fn add(&mut self, logits: &[f32], label: i64) {
        self.total += 1;
        let Some(&own) = usize::try_from(label).ok().and_then(|label| logits.get(label)) else { return };
        // Of equal logits the first counts as the answer.
        let before = logits.iter().zip(0..).filter(|&(&x, i)| x > own || x == own && i < label).count();
        self.first += usize::from(before == 0);
        self.first_five += usize::from(before < 5);
        let largest = logits.iter().fold(f64::NEG_INFINITY, |a, &x| a.max(f64::from(x)));
        let sum: f64 = logits.iter().map(|&x| (f64::from(x) - largest).exp()).sum();
        self.loss += sum.ln() + largest - f64::from(own);
    }

    fn share(&self, n: usize) -> f64 {
        n as f64 / self.total.max(1) as f64
    }

    /// The share of images that are right.
    pub fn top1(&self) -> f64 {
        self.share(self.first)
    }

    /// The share of images whose class is among the five likeliest.
    pub fn top5(&self) -> f64 {
        self.share(self.first_five)
    }

    /// Mean cross-entropy, in nats.
    pub fn mean_loss(&self) -> f64 {
        self.loss / self.total.max(1) as f64
    }

    /// Spikes per neuron and timestep.
    pub fn firing_rate(&self) -> f64 {
        let sum = |of: fn(&LayerCount) -> u64| self.counts.iter().map(of).sum::<u64>() as f64;
        sum(|c| c.spikes) / sum(|c| c.possible).max(1.0)
    }

    /// Counts which readouts `[T][classes]` of an image are right.
    pub fn add_readouts(&mut self, readouts: &[Vec<f32>], label: i64) {
        self.first_after.resize(readouts.len().max(self.first_after.len()), 0);
        for (right, logits) in self.first_after.iter_mut().zip(readouts) {
            let mut alone = Tally::default();
            alone.add(logits, label);
            *right += alone.first as u64;
        }
    }

    fn count(&mut self, counts: &[LayerCount]) {
        if self.counts.is_empty() {
            self.counts = counts.to_vec();
            return;
        }
        for (sum, count) in self.counts.iter_mut().zip(counts) {
            sum.spikes += count.spikes;
            sum.possible += count.possible;
        }
    }
}

/// Runs a session on the first `total` pictures of a data set, `batch` at a time, and tells `each` the tally after each batch;
/// if it breaks, the tally ends there.
///
/// # Errors
/// Those of [`Dataset::batch`] and [`Session::run`].
pub fn evaluate(
    session: &mut Session,
    data: &Dataset,
    total: usize,
    batch: usize,
    timesteps: Option<usize>,
    options: Options,
    mut each: impl FnMut(&Tally, usize) -> ControlFlow<()>,
) -> Result<Tally> {
    let options = Options { count: true, ..options };
    let mut tally = Tally::default();
    // One batch waits while another is decoded and a third runs.
    let (sender, receiver) = mpsc::sync_channel(1);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let indices: Vec<usize> = (0..total).collect();
            for indices in indices.chunks(batch.max(1)) {
                let decoded = data.batch(indices);
                let failed = decoded.is_err();
                if sender.send(decoded).is_err() || failed {
                    return;
                }
            }
        });
        // Moved in, so that an error ends the sender.
        let receiver = receiver;
        for decoded in &receiver {
            let (pixels, labels) = decoded?;
            let input = Input { batch: labels.len(), timesteps: None, data: pixels };
            let output = session.run_blocking(&input, timesteps, options)?;
            for (logits, &label) in output.logits.iter().zip(&labels) {
                tally.add(logits, label);
            }
            tally.count(&output.counts);
            for (readouts, &label) in output.readouts.iter().zip(&labels) {
                tally.add_readouts(readouts, label);
            }
            if let Some(counts) = &output.census {
                tally.census.get_or_insert_default().merge(counts)?;
            }
            if each(&tally, labels.len()).is_break() {
                break;
            }
        }
        Ok(tally)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_counted() {
        let mut tally = Tally::default();
        tally.add(&[1.0, 0.0], 0);
        tally.add(&[1.0, 1.0], 1);
        tally.add(&[6.0, 5.0, 4.0, 3.0, 2.0, 1.0], 5);
        assert_eq!((tally.total, tally.first, tally.first_five), (3, 1, 2));
        let loss = (1.0 + (-1f64).exp()).ln() + 2f64.ln();
        let last: f64 = (0..6).map(|i| f64::from(i).exp()).sum::<f64>().ln();
        assert!((tally.loss - loss - last).abs() < 1e-6);
    }
}
