//! `adamw`: one step of AdamW on a flat shard of parameters, in place.

use super::step::groups;
use super::{Dispatch, Kernel, Op, bytes_of, dim, uniform};
use crate::recording::{Access, Recording, TensorId};
use crate::reference::{HostTensors, adamw as twin};

uniform! {
    /// The uniform of `adamw`.
    Adamw {
        /// Elements of the shard.
        len: u32,
        /// How many of them, from the first, decay.
        decayed: u32,
        /// β1.
        beta1: f32,
        /// 1 - β1.
        share1: f32,
        /// β2.
        beta2: f32,
        /// 1 - β2.
        share2: f32,
        /// Added to the root of the second moment.
        eps: f32,
    }
}

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    stem: "adamw",
    sources: &[include_str!("../../shaders/adamw.wgsl"), include_str!("../../shaders/lib/step.wgsl")],
    entries: &["main"],
    bindings: &[
        ("p", Access::Write),
        ("m", Access::Write),
        ("v", Access::Write),
        ("g", Access::Read),
        ("scalars", Access::Read),
        ("clip", Access::Read),
    ],
    uniform: Adamw::LAYOUT,
    uniform_size: size_of::<Adamw>(),
    constants: || vec![vec![]],
};

/// Shards `[1, 1, 1, 1, len]` real, each a buffer of its own. Those in place are read and written, so that an op or an upload
/// must have written them before.
#[derive(Clone, Debug)]
pub struct AdamWOp {
    /// The layer.
    pub layer: String,
    /// The parameters, in place.
    pub p: TensorId,
    /// The first moments, in place; they start at 0.
    pub m: TensorId,
    /// The second moments, in place; they start at 0.
    pub v: TensorId,
    /// The gradient.
    pub g: TensorId,
    /// A [`super::step::Step`].
    pub step: TensorId,
    /// A [`super::step::Clip`].
    pub clip: TensorId,
    /// How many elements, from the first, decay.
    pub decayed: usize,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
}

impl AdamWOp {
    /// The constants as kernel and twin take them, for a shard of `len` elements.
    pub fn uniform(&self, len: usize) -> Adamw {
        Adamw {
            len: dim(len),
            decayed: dim(self.decayed),
            beta1: self.beta1 as f32,
            share1: (1.0 - self.beta1) as f32,
            beta2: self.beta2 as f32,
            share2: (1.0 - self.beta2) as f32,
            eps: self.eps as f32,
        }
    }
}

impl Op for AdamWOp {
    fn kernel(&self) -> &'static Kernel {
        &KERNEL
    }

    fn layer(&self) -> &str {
        &self.layer
    }

    fn dispatch(&self, recording: &Recording) -> Dispatch {
        let len = recording.get(self.p).shape.channels;
        Dispatch {
            kernel: &KERNEL,
            entry: "main",
            constants: vec![],
            bindings: vec![(0, self.p), (1, self.m), (2, self.v), (3, self.g), (4, self.step), (5, self.clip)],
            uniform: bytes_of(&self.uniform(len)),
            groups: groups(len),
        }
    }

    fn reference(&self, host: &mut HostTensors) {
        twin::run(self, host);
    }
}
