//! The twin of `shaders/lib/surrogate.wgsl`, and the functions whose derivatives the surrogates are.

use super::Real;
use crate::config::Surrogate;

/// φ(x), the surrogate derivative of the spike at distance x above the threshold.
#[inline(always)]
pub fn surrogate<F: Real>(kind: Surrogate, alpha: F, x: F) -> F {
    let (zero, one) = (F::default(), F::from(1.0));
    let distance = if x < zero { -x } else { x };
    match kind {
        Surrogate::Sigmoid => {
            // σ(z)(1 - σ(z)) is even in z: taken at -|z|, where the exponential cannot overflow.
            let e = (-(alpha * distance)).exp_in_range();
            alpha * e * ((one + e) * (one + e)).recip()
        }
        Surrogate::Atan => {
            let u = F::from(0.5) * F::pi() * alpha * x;
            F::from(0.5) * alpha * (one + u * u).recip()
        }
        Surrogate::Rectangular => {
            if F::from(2.0) * alpha * distance < one {
                alpha
            } else {
                zero
            }
        }
        Surrogate::Triangular => {
            let height = one - alpha * distance;
            if height > zero { alpha * height } else { zero }
        }
    }
}

/// A primitive of φ: a smooth step from 0 to 1 that stands for the spike when gradients are checked by finite differences.
pub fn primitive(kind: Surrogate, alpha: f64, x: f64) -> f64 {
    match kind {
        Surrogate::Sigmoid => 1.0 / (1.0 + (-alpha * x).exp()),
        Surrogate::Atan => (std::f64::consts::FRAC_PI_2 * alpha * x).atan() / std::f64::consts::PI + 0.5,
        Surrogate::Rectangular => (alpha * x + 0.5).clamp(0.0, 1.0),
        Surrogate::Triangular => {
            let u = (alpha * x).clamp(-1.0, 1.0);
            0.5 + u - 0.5 * u * u.abs()
        }
    }
}
