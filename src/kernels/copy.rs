//! `copy`: a real tensor to another, which shows how fast a device moves bytes.

use super::{Dispatch, Groups, Kernel, Op, bytes_of, dim, twins, uniform};
use crate::recording::{Access, Recording, TensorId};
use crate::reference::copy as twin;

uniform! {
    /// The uniform of `copy`.
    Copy {
        /// vec4f of the tensor.
        vectors: u32,
    }
}

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    stem: "copy",
    sources: &[include_str!("../../shaders/copy.wgsl")],
    entries: &["main"],
    bindings: &[("x", Access::Read), ("real_out", Access::Write)],
    uniform: Copy::LAYOUT,
    uniform_size: size_of::<Copy>(),
    constants: || vec![vec![]],
};

/// Two real tensors of one shape.
#[derive(Clone, Debug)]
pub struct CopyOp {
    /// The layer.
    pub layer: String,
    /// What is copied.
    pub input: TensorId,
    /// The copy.
    pub out: TensorId,
}

impl Op for CopyOp {
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
            bindings: vec![(0, self.input), (1, self.out)],
            uniform: bytes_of(&Copy { vectors: dim(vectors) }),
            groups: Groups::Line { n: vectors.div_ceil(64) as u64, z: 1 },
        }
    }

    twins!(twin::run);
}
