//! `multiply_add`: many multiply-adds an element, which show how fast a device computes.

use super::{Arithmetic, Dispatch, Groups, Kernel, Op, bytes_of, dim, twins, uniform};
use crate::recording::{Access, Recording, TensorId};
use crate::reference::multiply_add as twin;

uniform! {
    /// The uniform of `multiply_add`.
    MultiplyAdd {
        /// vec4f of the tensor.
        vectors: u32,
        /// How often each chain is multiplied and added to.
        rounds: u32,
        /// a.
        factor: f32,
        /// b.
        term: f32,
    }
}

/// Chains an element, none of which waits for another.
pub const CHAINS: usize = 8;

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    stem: "multiply_add",
    sources: &[include_str!("../../shaders/multiply_add.wgsl")],
    entries: &["main"],
    bindings: &[("x", Access::Read), ("real_out", Access::Write)],
    uniform: MultiplyAdd::LAYOUT,
    uniform_size: size_of::<MultiplyAdd>(),
    constants: || vec![vec![]],
};

/// Two real tensors of one shape.
#[derive(Clone, Debug)]
pub struct MultiplyAddOp {
    /// The layer.
    pub layer: String,
    /// Where the chains begin.
    pub input: TensorId,
    /// The sum of each element's chains.
    pub out: TensorId,
    /// How often each chain is multiplied and added to.
    pub rounds: u32,
    /// By what each chain is multiplied, and what is added.
    pub map: (f32, f32),
}

impl Op for MultiplyAddOp {
    fn kernel(&self) -> &'static Kernel {
        &KERNEL
    }

    fn layer(&self) -> &str {
        &self.layer
    }

    fn arithmetic(&self, recording: &Recording) -> Arithmetic {
        Arithmetic::real((recording.get(self.out).len() * CHAINS) as u64 * u64::from(self.rounds))
    }

    fn dispatch(&self, recording: &Recording) -> Dispatch {
        let vectors = recording.get(self.out).len() / 4;
        let (factor, term) = self.map;
        Dispatch {
            kernel: &KERNEL,
            entry: "main",
            constants: vec![],
            bindings: vec![(0, self.input), (1, self.out)],
            uniform: bytes_of(&MultiplyAdd { vectors: dim(vectors), rounds: self.rounds, factor, term }),
            groups: Groups::Line { n: vectors.div_ceil(64) as u64, z: 1 },
        }
    }

    twins!(twin::run);
}
