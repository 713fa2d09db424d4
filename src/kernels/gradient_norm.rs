//! `gradient_norm`: the norm of a gradient that lies in several shards, and the factor that clips it.

use super::{Dispatch, Groups, Kernel, Op, bytes_of, dim, uniform};
use crate::recording::{Access, Recording, TensorId};
use crate::reference::{HostTensors, gradient_norm as twin};

uniform! {
    /// The uniform of `gradient_norm`.
    GradientNorm {
        /// Elements of the shard.
        len: u32,
        /// The first of the shard's blocks.
        first_partial: u32,
        /// Blocks of the shard (partial) or of all shards (combine).
        partials: u32,
        /// The norm that the gradient is clipped to, 0 for none.
        max_norm: f32,
    }
}

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    stem: "gradient_norm",
    sources: &[include_str!("../../shaders/gradient_norm.wgsl"), include_str!("../../shaders/lib/step.wgsl")],
    entries: &["partial", "combine"],
    bindings: &[
        ("gradient", Access::Read),
        ("partials_out", Access::Write),
        ("partials", Access::Read),
        ("clip_out", Access::Write),
    ],
    uniform: GradientNorm::LAYOUT,
    uniform_size: size_of::<GradientNorm>(),
    constants: || vec![vec![]],
};

/// Elements whose squares one workgroup adds.
pub const BLOCK: usize = 16_384;

/// How many partial sums a shard of `len` elements has.
pub fn partials(len: usize) -> usize {
    len.div_ceil(BLOCK)
}

/// First dispatch, one for each shard of the gradient: the sums of squares of its blocks.
#[derive(Clone, Debug)]
pub struct GradientNormPartialOp {
    /// The layer.
    pub layer: String,
    /// The shard, `[1, 1, 1, 1, len]` real.
    pub gradient: TensorId,
    /// The sums of all shards, `[1, 1, 1, 1, blocks]` real; this op writes [`partials`]`(len)` of them.
    pub partials: TensorId,
    /// The first that it writes.
    pub first_partial: usize,
}

impl Op for GradientNormPartialOp {
    fn kernel(&self) -> &'static Kernel {
        &KERNEL
    }

    fn layer(&self) -> &str {
        &self.layer
    }

    fn dispatch(&self, recording: &Recording) -> Dispatch {
        let len = recording.get(self.gradient).shape.channels;
        let norm = GradientNorm {
            len: dim(len),
            first_partial: dim(self.first_partial),
            partials: dim(partials(len)),
            max_norm: 0.0,
        };
        Dispatch {
            kernel: &KERNEL,
            entry: "partial",
            constants: vec![],
            bindings: vec![(0, self.gradient), (1, self.partials)],
            uniform: bytes_of(&norm),
            groups: Groups::Line { n: partials(len) as u64, z: 1 },
        }
    }

    fn reference(&self, host: &mut HostTensors) {
        twin::run_partial(self, host);
    }
}

/// Second dispatch: the norm of all shards, and what is to be done to them.
#[derive(Clone, Debug)]
pub struct GradientNormCombineOp {
    /// The layer.
    pub layer: String,
    /// What every shard's [`GradientNormPartialOp`] wrote; all of it is read.
    pub partials: TensorId,
    /// A [`super::step::Clip`], `[1, 1, 1, 1, 4]` real.
    pub clip: TensorId,
    /// The norm that the gradient is clipped to, 0 for none.
    pub max_norm: f32,
}

impl Op for GradientNormCombineOp {
    fn kernel(&self) -> &'static Kernel {
        &KERNEL
    }

    fn layer(&self) -> &str {
        &self.layer
    }

    fn dispatch(&self, recording: &Recording) -> Dispatch {
        let partials = dim(recording.get(self.partials).shape.channels);
        Dispatch {
            kernel: &KERNEL,
            entry: "combine",
            constants: vec![],
            bindings: vec![(2, self.partials), (3, self.clip)],
            uniform: bytes_of(&GradientNorm { partials, max_norm: self.max_norm, ..Default::default() }),
            groups: Groups::Exact([1, 1, 1]),
        }
    }

    fn reference(&self, host: &mut HostTensors) {
        twin::run_combine(self, host);
    }
}
