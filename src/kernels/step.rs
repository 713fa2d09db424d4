//! What the optimizer's kernels share (`shaders/lib/step.wgsl`): the scalars of a step, what `gradient_norm` says of a gradient,
//! and the grid over a flat tensor.

use super::Groups;
use crate::tensor::{Shape, vectors};

/// The scalars of a step: a real tensor `[1, 1, 1, 1, 8]` that is uploaded before the step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step<F = f32> {
    /// Learning rate.
    pub lr: F,
    /// 1 - lr · weight decay, by which AdamW multiplies.
    pub keep: F,
    /// 1 / (1 - β1ⁿ), n the step's number from 1.
    pub correction1: F,
    /// 1 / (1 - β2ⁿ).
    pub correction2: F,
    /// How much of the moving average stays.
    pub ema_decay: F,
    /// 0 for the first micro-batch of a step, 1 after it.
    pub accumulate_keep: F,
    /// 1 / number of micro-batches.
    pub accumulate_share: F,
    /// Weight decay, which SGD adds to the gradient.
    pub weight_decay: F,
}

impl Step {
    /// The names of the fields in the tensor's order, which a test compares with the WGSL struct's.
    pub const FIELDS: [&str; 8] = [
        "lr",
        "keep",
        "correction1",
        "correction2",
        "ema_decay",
        "accumulate_keep",
        "accumulate_share",
        "weight_decay",
    ];

    /// Step number `n` (the first is 1) with AdamW's `betas`, which SGD does not look at. One micro-batch, and a moving average
    /// that follows at once: other values of those stand in the fields.
    pub fn new(n: u32, lr: f64, weight_decay: f64, betas: [f64; 2]) -> Self {
        let [correction1, correction2] = betas.map(|beta| (1.0 / (1.0 - libm::pow(beta, f64::from(n)))) as f32);
        Step {
            lr: lr as f32,
            keep: (1.0 - lr * weight_decay) as f32,
            correction1,
            correction2,
            ema_decay: 0.0,
            accumulate_keep: 0.0,
            accumulate_share: 1.0,
            weight_decay: weight_decay as f32,
        }
    }
}

impl<F: Copy + Default> Step<F> {
    /// The tensor's elements.
    pub fn encode(&self) -> [F; 8] {
        [
            self.lr,
            self.keep,
            self.correction1,
            self.correction2,
            self.ema_decay,
            self.accumulate_keep,
            self.accumulate_share,
            self.weight_decay,
        ]
    }

    /// From the tensor's elements; what is missing is 0.
    pub fn decode(scalars: &[F]) -> Self {
        let at = |i: usize| scalars.get(i).copied().unwrap_or_default();
        Step {
            lr: at(0),
            keep: at(1),
            correction1: at(2),
            correction2: at(3),
            ema_decay: at(4),
            accumulate_keep: at(5),
            accumulate_share: at(6),
            weight_decay: at(7),
        }
    }
}

/// What `gradient_norm` says of a gradient: a real tensor `[1, 1, 1, 1, 4]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Clip<F = f32> {
    /// What the gradient is to be multiplied by.
    pub factor: F,
    /// The gradient's norm; infinite where it is not finite.
    pub norm: F,
    /// Whether the gradient is not finite, and the step must change nothing.
    pub skipped: bool,
}

impl<F: Copy + Default + PartialOrd + From<f32>> Clip<F> {
    /// The tensor's elements.
    pub fn encode(&self) -> [F; 4] {
        [self.factor, self.norm, F::from(f32::from(u8::from(self.skipped))), F::default()]
    }

    /// From the tensor's elements; what is missing is 0.
    pub fn decode(clip: &[F]) -> Self {
        let at = |i: usize| clip.get(i).copied().unwrap_or_default();
        Clip { factor: at(0), norm: at(1), skipped: at(2) != F::default() }
    }
}

/// The shape of a flat tensor of `len` elements.
pub fn flat(len: usize) -> Shape {
    Shape { steps: 1, batch: 1, height: 1, width: 1, channels: len }
}

/// The workgroups over a flat tensor of `len` elements, a thread to a vec4f.
pub(crate) fn groups(len: usize) -> Groups {
    Groups::Line { n: vectors(len).div_ceil(64) as u64, z: 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scalars_and_clip_are_what_was_encoded() {
        let step = Step::new(2, 0.5, 0.25, [0.5, 0.75]);
        assert_eq!((step.lr, step.keep, step.weight_decay), (0.5, 0.875, 0.25));
        assert_eq!((step.correction1, step.correction2), (1.0 / 0.75, 1.0 / 0.4375));
        let step = Step { ema_decay: 0.75, accumulate_keep: 1.0, accumulate_share: 0.5, ..step };
        assert_eq!(Step::decode(&step.encode()), step);
        let clip = Clip { factor: 0.5f32, norm: 3.0, skipped: true };
        assert_eq!(clip.encode(), [0.5, 3.0, 1.0, 0.0]);
        assert_eq!(Clip::decode(&clip.encode()), clip);
    }
}
