//! Where an attention layer looks: how much each token's key weighs, head by head.

use crate::config::Config;
use crate::outputs::{OutputTensor, Values};

/// How much each token is attended to in one layer.
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionMap {
    /// The block.
    pub block: usize,
    /// Heads.
    pub heads: usize,
    /// H of the token grid.
    pub height: usize,
    /// W of the token grid.
    pub width: usize,
    /// `[B][heads][H·W]`: of each token m the mean over timesteps and queries n of `(Q Kᵀ)[n, m]`, which A²OS²A multiplies V
    /// with as it is: no softmax, no scale. At least 0.
    pub weights: Vec<f32>,
}

/// The attention maps of every block in the trace of a model of that configuration; none of a block that is not in it.
pub fn attention_maps(config: &Config, trace: &[OutputTensor]) -> Vec<AttentionMap> {
    let named = |name: String| trace.iter().find(|t| t.name == name);
    let of_block = |block: usize| {
        let queries = named(format!("s.block.{block}.attn.q_lif"))?;
        let keys = named(format!("k.block.{block}.attn"))?;
        let (Values::Spikes(q), Values::Real(k)) = (&queries.values, &keys.values) else { return None };
        let shape = keys.shape;
        let weights = weights(q, k, shape.steps, shape.batch, shape.tokens(), shape.channels, config.num_heads);
        Some(AttentionMap { block, heads: config.num_heads, height: shape.height, width: shape.width, weights })
    };
    (0..config.depth).filter_map(of_block).collect()
}

/// `q`, `k` `[T][B][N][D]`. The mean over queries is taken first: it commutes with the product.
fn weights(q: &[u8], k: &[f32], steps: usize, batch: usize, tokens: usize, channels: usize, heads: usize) -> Vec<f32> {
    let dim = channels / heads;
    let mut sums = vec![0.0f64; batch * heads * tokens];
    for (image, (q, k)) in q.chunks_exact(tokens * channels).zip(k.chunks_exact(tokens * channels)).enumerate() {
        let mut fired = vec![0u32; channels];
        q.chunks_exact(channels).for_each(|row| fired.iter_mut().zip(row).for_each(|(n, &s)| *n += u32::from(s)));
        for (m, row) in k.chunks_exact(channels).enumerate() {
            for (head, (fired, row)) in fired.chunks_exact(dim).zip(row.chunks_exact(dim)).enumerate() {
                let sum: f64 = fired.iter().zip(row).map(|(&n, &k)| f64::from(n) * f64::from(k)).sum();
                sums[(image % batch * heads + head) * tokens + m] += sum;
            }
        }
    }
    sums.into_iter().map(|sum| (sum / (steps * tokens) as f64) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_mean_row_of_the_scores() {
        // T 1, B 1, two tokens, two heads of one channel.
        let (q, k) = ([1, 0, 1, 1], [0.5, 2.0, 0.25, 4.0]);
        // Head 0: both queries fire; head 1: one of two.
        assert_eq!(weights(&q, &k, 1, 1, 2, 2, 2), [0.5, 0.25, 1.0, 2.0]);
        // Two timesteps of two images: the mean over time, image by image.
        let (q, k) = ([1, 1, 0, 1], [1.0, 2.0, 3.0, 4.0]);
        assert_eq!(weights(&q, &k, 2, 2, 1, 1, 1), [0.5, 3.0]);
    }
}
