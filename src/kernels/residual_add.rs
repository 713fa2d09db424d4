//! `residual_add`: the sum of two real tensors, standing alone.

use super::{Dispatch, Groups, Kernel, Op, bytes_of, dim, twins, uniform};
use crate::recording::{Access, Recording, TensorId};
use crate::reference::residual_add as twin;

uniform! {
    /// The uniform of `residual_add`.
    ResidualAdd {
        /// T·B·N·⌈C/4⌉.
        vectors: u32,
    }
}

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    stem: "residual_add",
    sources: &[include_str!("../../shaders/residual_add.wgsl")],
    entries: &["main"],
    bindings: &[("x", Access::Read), ("residual", Access::Read), ("real_out", Access::Write)],
    uniform: ResidualAdd::LAYOUT,
    uniform_size: size_of::<ResidualAdd>(),
    constants: || vec![vec![]],
};

/// Three real tensors of one shape (one channel window).
#[derive(Clone, Debug)]
pub struct ResidualAddOp {
    /// The layer.
    pub layer: String,
    /// One term.
    pub input: TensorId,
    /// The other.
    pub residual: TensorId,
    /// The sum.
    pub out: TensorId,
}

impl Op for ResidualAddOp {
    fn kernel(&self) -> &'static Kernel {
        &KERNEL
    }

    fn layer(&self) -> &str {
        &self.layer
    }

    fn dispatch(&self, recording: &Recording) -> Dispatch {
        let vectors = recording.get(self.out).len() / 4;
        Dispatch {
            kernel: &KERNEL,
            entry: "main",
            constants: vec![],
            bindings: vec![(0, self.input), (1, self.residual), (2, self.out)],
            uniform: bytes_of(&ResidualAdd { vectors: dim(vectors) }),
            groups: Groups::Line { n: vectors.div_ceil(64) as u64, z: 1 },
        }
    }

    twins!(twin::run);
}
