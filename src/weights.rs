//! What the weights of spike products are stored as: f32, or int8 with one scale an output channel.

/// A choice of what they are stored as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Weights {
    /// f32, as trained.
    #[default]
    F32,
    /// Symmetric int8 with one scale an output channel (see [`quantise`]), summed exactly in integers; inference only.
    Int8,
}

/// Weights as 8-bit integers with the batch norm's scale folded in: `q[o, k] · scale[o] ≈ w[o, k] · bn_scale[o]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Quantised {
    /// `[O][K]`, -127 to 127.
    pub q: Vec<i8>,
    /// `[O]`, 0 where all of a channel's weights are.
    pub scale: Vec<f32>,
    /// The root mean square of what is lost of `w · bn_scale`, by its own.
    pub relative_error: f64,
}

/// Quantises `weights` `[O][K]` before batch norm of `bn_scale` `[O]`: `q = round(w · bn_scale / scale)`.
///
/// `scale` is the largest magnitude of a channel's `w · bn_scale` over 127, rounded up to so few binary digits that it times any
/// sum of the channel's q is exact in f32 (as long as sums are, below 2²⁴). A result `sum · scale + shift` is then rounded once,
/// and is the same where a compiler fuses the two operations.
pub fn quantise(weights: &[f32], bn_scale: &[f32]) -> Quantised {
    let k = weights.len() / bn_scale.len().max(1);
    let mut q = Vec::with_capacity(weights.len());
    let mut scales = Vec::with_capacity(bn_scale.len());
    let (mut lost, mut all) = (0.0, 0.0);
    for (channel, &bn_scale) in weights.chunks_exact(k.max(1)).zip(bn_scale) {
        let folded = |&w: &f32| f64::from(w) * f64::from(bn_scale);
        let scale = scale(channel.iter().map(folded));
        for w in channel.iter().map(folded) {
            let rounded = if scale > 0.0 { (w / scale).round().clamp(-127.0, 127.0) } else { 0.0 };
            q.push(rounded as i8);
            lost += (w - rounded * scale).powi(2);
            all += w.powi(2);
        }
        scales.push(scale as f32);
    }
    let relative_error = if all > 0.0 { (lost / all).sqrt() } else { 0.0 };
    Quantised { q, scale: scales, relative_error }
}

/// One channel's scale; 0 where f32 has no normal number for it.
fn scale(folded: impl Iterator<Item = f64>) -> f64 {
    let (mut largest, mut up, mut down, mut count) = (0.0f64, 0.0, 0.0, 0.0);
    for w in folded {
        largest = largest.max(w.abs());
        up += w.max(0.0);
        down += (-w).max(0.0);
        count += 1.0;
    }
    let scale = largest / 127.0;
    if scale < f64::from(f32::MIN_POSITIVE) {
        return 0.0;
    }
    // What spikes select sums to no more than all positive or all negative q, each at most 1/2 above its weight.
    let most = f64::max(up, down) / scale + count / 2.0;
    round_up(scale, (24.0 - most.log2().ceil()).clamp(1.0, 24.0) as u32)
}

/// The least number of `digits` binary digits that is no less than the positive `x`.
fn round_up(x: f64, digits: u32) -> f64 {
    let last = 1u64 << (53 - digits);
    f64::from_bits((x.to_bits() + (last - 1)) & !(last - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_rounded_up() {
        assert_eq!([1.0, 1.25, 1.26, 1.51, 1.9].map(|x| round_up(x, 2)), [1.0, 1.5, 1.5, 2.0, 2.0]);
        assert_eq!([1.0, 1.01, 0.3].map(|x| round_up(x, 1)), [1.0, 2.0, 0.5]);
        assert_eq!(round_up(0.1, 24), f64::from(0.1f32));
    }

    #[test]
    fn integers_with_a_power_of_two_stay() {
        let weights = [127.0, -3.0, 0.0, 64.0, 1.0, -127.0];
        let quantised = quantise(&weights, &[0.25, -2.0]);
        assert_eq!(
            quantised,
            Quantised { q: vec![127, -3, 0, -64, -1, 127], scale: vec![0.25, 2.0], relative_error: 0.0 }
        );
    }

    #[test]
    fn silent_channels_are_zeros() {
        let weights = [0.0, 0.0, 1.0, 1.0, 1e-30, -1e-30, 1.0, 0.25];
        let quantised = quantise(&weights, &[1.0, 0.0, 1e-15, 1.0]);
        assert_eq!(quantised.q, [0, 0, 0, 0, 0, 0, 127, 32]);
        assert_eq!(quantised.scale[..3], [0.0; 3]);
        assert!(quantised.relative_error < 0.01);
        assert_eq!(quantise(&[], &[]), Quantised { q: vec![], scale: vec![], relative_error: 0.0 });
    }

    /// The largest magnitude becomes ±127 or little less, every weight is within half a step, and no sum's product rounds.
    #[test]
    fn products_with_sums_are_exact() {
        let mut state = 1u32;
        let mut random = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state as f32 / u32::MAX as f32 - 0.4
        };
        for k in [1, 3, 100, 4608, 40_000] {
            let weights: Vec<f32> = (0..k).map(|_| random()).collect();
            let bn_scale = [random()];
            let Quantised { q, scale, .. } = quantise(&weights, &bn_scale);
            let largest = q.iter().map(|q| q.unsigned_abs()).max().unwrap();
            assert!(largest == 127 || k > 1000 && largest > 63, "{k}: {largest}");
            for (q, w) in q.iter().zip(&weights) {
                let exact = f64::from(*w) * f64::from(bn_scale[0]);
                assert!((f64::from(*q) * f64::from(scale[0]) - exact).abs() <= f64::from(scale[0]) * 0.500_001);
            }
            let up: i32 = q.iter().map(|&q| i32::from(q.max(0))).sum();
            let down: i32 = q.iter().map(|&q| i32::from(q.min(0))).sum();
            for sum in [up, down, up - 1, down + 1, up / 3, down / 7] {
                let product = sum as f32 * scale[0];
                assert_eq!(f64::from(product), f64::from(sum) * f64::from(scale[0]), "{k}: {sum} times {}", scale[0]);
            }
        }
    }
}
