//! AdamW (Loshchilov and Hutter, arXiv 1711.05101, algorithm 2) on one parameter tensor.

/// The optimizer's settings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Learning rate.
    pub lr: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
}

impl Default for AdamW {
    /// lr 1e-3, betas 0.9 and 0.999, eps 1e-8, weight decay 0.06.
    fn default() -> Self {
        AdamW { lr: 1e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.06 }
    }
}

impl AdamW {
    /// Step number `step` (the first is 1): updates parameters and both moments from the gradient, all of one length.
    pub fn step(&self, step: u32, parameters: &mut [f32], gradient: &[f32], moments: (&mut [f64], &mut [f64])) {
        let (first, second) = moments;
        let n = f64::from(step);
        let (correction1, correction2) = (1.0 - self.beta1.powf(n), 1.0 - self.beta2.powf(n));
        let moments = first.iter_mut().zip(second);
        for ((p, &g), (m, v)) in parameters.iter_mut().zip(gradient).zip(moments) {
            let g = f64::from(g);
            *m = self.beta1 * *m + (1.0 - self.beta1) * g;
            *v = self.beta2 * *v + (1.0 - self.beta2) * g * g;
            let decayed = f64::from(*p) * (1.0 - self.lr * self.weight_decay);
            *p = (decayed - self.lr * (*m / correction1) / ((*v / correction2).sqrt() + self.eps)) as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_step_is_one_lr_against_the_gradients_sign() {
        let mut p = [1.0f32, -2.0, 0.5];
        let (mut m, mut v) = ([0.0; 3], [0.0; 3]);
        let adamw = AdamW { weight_decay: 0.5, ..AdamW::default() };
        adamw.step(1, &mut p, &[3.0, -0.25, 0.0], (&mut m, &mut v));
        for (p, expected) in p.iter().zip([0.9995 - 1e-3, -1.999 + 1e-3, 0.499_75]) {
            assert!((f64::from(*p) - expected).abs() < 1e-7, "{p} {expected}");
        }
    }
}
