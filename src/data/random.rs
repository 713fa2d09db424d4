//! Random draws that depend on nothing but a few numbers, and are the same on every machine.

use rand_pcg::Pcg64;
use rand_pcg::rand_core::{Rng, SeedableRng};

/// A generator and the draws that augmentation needs. Transcendental functions are `libm`'s, the same everywhere.
pub(super) struct Random(Pcg64);

impl Random {
    /// The generator that belongs to `words`, such as a seed, an epoch and the index of a picture.
    pub fn of(words: [u64; 4]) -> Self {
        // SplitMix64's mixing function over each word in turn.
        let seed = words.into_iter().fold(0u64, |hash, word| {
            let z = (hash ^ word).wrapping_add(0x9e37_79b9_7f4a_7c15);
            let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        });
        Random(Pcg64::seed_from_u64(seed))
    }

    /// Uniform in [0, 1).
    pub fn unit(&mut self) -> f64 {
        (self.0.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// Uniform between `low` and `high`.
    pub fn between(&mut self, [low, high]: [f64; 2]) -> f64 {
        low + (high - low) * self.unit()
    }

    /// Such that its logarithm is uniform between those of `low` and `high`, both above 0.
    pub fn log_between(&mut self, range: [f64; 2]) -> f64 {
        libm::exp(self.between(range.map(libm::log)))
    }

    /// Uniform in -`most` to `most`.
    pub fn around(&mut self, most: f64) -> f64 {
        self.between([-most, most])
    }

    /// True with this probability.
    pub fn chance(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }

    /// Uniform in 0 to `n` - 1; 0 if `n` is 0.
    pub fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.0.next_u64()) * n as u128) >> 64) as usize
    }

    /// Puts `items` in a random order (Fisher and Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }

    /// Two independent normal values of mean 0 and variance 1 (Marsaglia's polar method).
    pub fn normals(&mut self) -> [f64; 2] {
        loop {
            let [x, y] = [self.around(1.0), self.around(1.0)];
            let s = x * x + y * y;
            if s > 0.0 && s < 1.0 {
                let scale = (-2.0 * libm::log(s) / s).sqrt();
                return [x * scale, y * scale];
            }
        }
    }

    /// Gamma-distributed with this shape, above 0, and scale 1 (Marsaglia and Tsang).
    fn gamma(&mut self, shape: f64) -> f64 {
        if shape < 1.0 {
            return self.gamma(shape + 1.0) * libm::pow(self.unit(), 1.0 / shape);
        }
        let d = shape - 1.0 / 3.0;
        let c = 1.0 / (9.0 * d).sqrt();
        loop {
            let [x, _] = self.normals();
            let v = 1.0 + c * x;
            let v = v * v * v;
            if v > 0.0 && libm::log(self.unit()) < 0.5 * x * x + d - d * v + d * libm::log(v) {
                return d * v;
            }
        }
    }

    /// Beta-distributed with both parameters `alpha`, above 0; in [0, 1].
    pub fn beta(&mut self, alpha: f64) -> f64 {
        let [x, y] = [self.gamma(alpha), self.gamma(alpha)];
        // A tiny alpha makes both 0, and the distribution one of two points.
        if x + y > 0.0 { x / (x + y) } else { self.below(2) as f64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_have_their_distributions() {
        let mut r = Random::of([1, 2, 3, 4]);
        let mut moments = |draw: &mut dyn FnMut(&mut Random) -> f64| {
            let n = 40_000;
            let values: Vec<f64> = (0..n).map(|_| draw(&mut r)).collect();
            let mean = values.iter().sum::<f64>() / n as f64;
            (mean, values.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / n as f64)
        };
        let near = |(m, v): (f64, f64), mean: f64, variance: f64| {
            assert!((m - mean).abs() < 0.02 && (v - variance).abs() < 0.03, "{m} {v}, not {mean} {variance}");
        };
        near(moments(&mut |r| r.unit()), 0.5, 1.0 / 12.0);
        near(moments(&mut |r| r.below(3) as f64), 1.0, 2.0 / 3.0);
        near(moments(&mut |r| r.normals()[0]), 0.0, 1.0);
        near(moments(&mut |r| r.normals()[1]), 0.0, 1.0);
        for alpha in [0.01, 0.2, 0.8, 1.0, 4.0] {
            near(moments(&mut |r| r.beta(alpha)), 0.5, 0.25 / (2.0 * alpha + 1.0));
        }
        near(moments(&mut |r| f64::from(u8::from(r.chance(0.3)))), 0.3, 0.21);
        assert_eq!((r.below(0), r.below(1)), (0, 0));
        assert!([1e-300, 1e-5, 1e6].iter().all(|&a| (0.0..=1.0).contains(&r.beta(a))));
        let mut order: Vec<usize> = (0..100).collect();
        r.shuffle(&mut order);
        assert_ne!(order, (0..100).collect::<Vec<_>>());
        order.sort();
        assert_eq!(order, (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn every_word_matters() {
        let first = |words| Random::of(words).0.next_u64();
        let all = [[0, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [1, 1, 0, 0]].map(first);
        assert!((0..6).all(|i| (0..i).all(|j| all[i] != all[j])));
        // The same on every machine, and from one release to the next.
        assert_eq!(all[1], 10_522_502_360_758_256_872);
    }
}
