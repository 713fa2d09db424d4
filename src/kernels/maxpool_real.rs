//! `maxpool_real`: 3×3 stride-2 pad-1 max-pool of real values.

use super::{Dispatch, Groups, Kernel, Op, bytes_of, dim, twins, uniform};
use crate::recording::{Access, Recording, TensorId};
use crate::reference::maxpool_real as twin;

uniform! {
    /// The uniform of `maxpool_real`.
    MaxpoolReal {
        /// T·B·H_out·W_out·⌈C/4⌉.
        vectors_out: u32,
        /// H of the input.
        height: u32,
        /// W of the input.
        width: u32,
        /// vec4f of a token.
        vectors: u32,
    }
}

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    stem: "maxpool_real",
    sources: &[include_str!("../../shaders/maxpool_real.wgsl")],
    entries: &["main"],
    bindings: &[("x", Access::Read), ("real_out", Access::Write)],
    uniform: MaxpoolReal::LAYOUT,
    uniform_size: size_of::<MaxpoolReal>(),
    constants: || vec![vec![]],
};

/// Input `[T, B, H, W, C]` real (one channel window), output `[T, B, ⌈H/2⌉, ⌈W/2⌉, C]` real.
#[derive(Clone, Debug)]
pub struct MaxpoolRealOp {
    /// The layer.
    pub layer: String,
    /// Real values (one channel window).
    pub input: TensorId,
    /// Real values (one channel window).
    pub out: TensorId,
}

impl Op for MaxpoolRealOp {
    fn kernel(&self) -> &'static Kernel {
        &KERNEL
    }

    fn layer(&self) -> &str {
        &self.layer
    }

    fn dispatch(&self, recording: &Recording) -> Dispatch {
        let input = recording.get(self.input);
        let vectors_out = recording.get(self.out).len() / 4;
        let pool = MaxpoolReal {
            vectors_out: dim(vectors_out),
            height: dim(input.shape.height),
            width: dim(input.shape.width),
            vectors: dim(input.row() / 4),
        };
        Dispatch {
            kernel: &KERNEL,
            entry: "main",
            constants: vec![],
            bindings: vec![(0, self.input), (1, self.out)],
            uniform: bytes_of(&pool),
            groups: Groups::Line { n: vectors_out.div_ceil(64) as u64, z: 1 },
        }
    }

    twins!(twin::run);
}
