//! What the weights of spike products are stored as: f32, f16, or int8 with one scale an output channel.

use half::f16;

use crate::tensor::Element;

/// A choice of what they are stored as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Weights {
    /// f32, as trained.
    #[default]
    F32,
    /// Rounded to f16 (see [`round_to_f16`]), summed in f32; inference only.
    F16,
    /// Symmetric int8 with one scale an output channel (see [`quantise`]), summed exactly in integers; inference only.
    Int8,
}

impl Weights {
    /// The element type of a tensor of them.
    pub fn element(self) -> Element {
        match self {
            Weights::F32 => Element::Real,
            Weights::F16 => Element::F16,
            Weights::Int8 => Element::Int8,
        }
    }

    /// How many of them a u32 holds.
    pub fn in_a_word(self) -> usize {
        match self {
            Weights::F32 => 1,
            Weights::F16 => 2,
            Weights::Int8 => 4,
        }
    }
}

/// What is lost of all weights together.
#[derive(Default)]
struct Loss {
    /// The sum of the squares of what is lost.
    lost: f64,
    /// The sum of the weights' own squares.
    all: f64,
}

impl Loss {
    fn add(&mut self, exact: f64, stored: f64) {
        self.lost += (exact - stored).powi(2);
        self.all += exact.powi(2);
    }

    /// The root mean square of what is lost, by the weights' own.
    fn relative(&self) -> f64 {
        if self.all > 0.0 { (self.lost / self.all).sqrt() } else { 0.0 }
    }
}

/// Weights rounded to f16.
#[derive(Clone, Debug, PartialEq)]
pub struct Halves {
    /// `[O][K]`, finite.
    pub weights: Vec<f16>,
    /// The root mean square of what is lost of `w · bn_scale`, by its own.
    pub relative_error: f64,
}

/// Rounds `weights` `[O][K]` to the nearest f16, ties to even; batch norm's `bn_scale` `[O]` is not folded in, it weighs the error.
///
/// # Errors
/// The first weight that is beyond f16's largest number, 65504.
pub fn round_to_f16(weights: &[f32], bn_scale: &[f32]) -> Result<Halves, f32> {
    let k = weights.len() / bn_scale.len().max(1);
    let mut rounded = Vec::with_capacity(weights.len());
    let mut loss = Loss::default();
    for (channel, &bn_scale) in weights.chunks_exact(k.max(1)).zip(bn_scale) {
        for &w in channel {
            let half = f16::from_f32(w);
            if !half.is_finite() {
                return Err(w);
            }
            rounded.push(half);
            loss.add(f64::from(w) * f64::from(bn_scale), f64::from(half) * f64::from(bn_scale));
        }
    }
    Ok(Halves { weights: rounded, relative_error: loss.relative() })
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
    let mut loss = Loss::default();
    for (channel, &bn_scale) in weights.chunks_exact(k.max(1)).zip(bn_scale) {
        let folded = |&w: &f32| f64::from(w) * f64::from(bn_scale);
        let scale = scale(channel.iter().map(folded));
        for w in channel.iter().map(folded) {
            let rounded = if scale > 0.0 { (w / scale).round().clamp(-127.0, 127.0) } else { 0.0 };
            q.push(rounded as i8);
            loss.add(w, rounded * scale);
        }
        scales.push(scale as f32);
    }
    Quantised { q, scale: scales, relative_error: loss.relative() }
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
    fn halves_are_the_nearest_ones() {
        let least = f16::MIN_POSITIVE_SUBNORMAL.to_f32();
        let cases = [
            (0.0, 0.0),
            (1.0, 1.0),
            // Halfway between two, to the even one.
            (1.0 + 1.0 / 2048.0, 1.0),
            (-1.0 - 3.0 / 2048.0, -1.0 - 2.0 / 1024.0),
            (1.0 + 1.0 / 2048.0 + 1e-6, 1.0 + 1.0 / 1024.0),
            (65_504.0, 65_504.0),
            (-65_519.0, -65_504.0),
            (least, least),
            (-1.49 * least, -least),
            (0.51 * least, least),
            (-0.51 * least, -least),
            (0.5 * least, 0.0),
            (-0.49 * least, 0.0),
            (f32::MIN_POSITIVE, 0.0),
        ];
        for (w, expected) in cases {
            let halves = round_to_f16(&[w], &[1.0]).unwrap();
            assert_eq!(halves.weights[0].to_f32(), expected, "{w}");
        }
        for w in [65_520.0, -7e4, f32::MAX, f32::INFINITY] {
            assert_eq!(round_to_f16(&[0.5, w, 8e4], &[1.0; 3]), Err(w));
        }
        assert!(round_to_f16(&[f32::NAN], &[1.0]).is_err());
    }

    #[test]
    fn the_error_of_halves_weighs_batch_norm() {
        let weights = [1.0, -0.5, 1.0 + 1.0 / 2048.0, 0.0];
        let of = |bn_scale| round_to_f16(&weights, bn_scale).unwrap().relative_error;
        assert_eq!(of(&[3.0, 0.0]), 0.0);
        let lost = 1.0 / 2049.0;
        assert!((of(&[0.0, -2.0]) - lost).abs() < 1e-9);
        assert!(of(&[1.0, 1.0]) < lost);
        assert_eq!(round_to_f16(&[], &[]).unwrap(), Halves { weights: vec![], relative_error: 0.0 });
    }

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
