//! `bn_apply`: batch norm by given statistics, with ReLU or a residual if wanted.

use super::{Dispatch, Groups, Kernel, Op, bytes_of, dim, twins, uniform};
use crate::recording::{Access, Recording, TensorId};
use crate::reference::bn_apply as twin;

uniform! {
    /// The uniform of `bn_apply`.
    BnApply {
        /// T·B·H·W·⌈C/4⌉.
        count: u32,
        /// vec4f of a row.
        vectors: u32,
    }
}

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    stem: "bn_apply",
    sources: &[include_str!("../../shaders/bn_apply.wgsl"), include_str!("../../shaders/lib/batch_norm.wgsl")],
    entries: &["plain", "with_residual"],
    bindings: &[
        ("y", Access::Read),
        ("mean", Access::Read),
        ("inv_std", Access::Read),
        ("gamma", Access::Read),
        ("beta", Access::Read),
        ("residual", Access::Read),
        ("x_out", Access::Write),
    ],
    uniform: BnApply::LAYOUT,
    uniform_size: size_of::<BnApply>(),
    constants: || [0.0, 1.0].map(|relu| vec![("RELU", relu)]).to_vec(),
};

/// y, residual and out `[T, B, H, W, C]` real, the others `[1, 1, 1, 1, C]`.
#[derive(Clone, Debug)]
pub struct BnApplyOp {
    /// The layer.
    pub layer: String,
    /// What is normalised.
    pub y: TensorId,
    /// Mean of each channel.
    pub mean: TensorId,
    /// 1 / √(variance + eps) of each channel.
    pub inv_std: TensorId,
    /// Scale.
    pub gamma: TensorId,
    /// Shift.
    pub beta: TensorId,
    /// What is added at the end, if anything.
    pub residual: Option<TensorId>,
    /// The result.
    pub out: TensorId,
    /// Whether the normalised value is cut off below 0.
    pub relu: bool,
}

impl Op for BnApplyOp {
    fn kernel(&self) -> &'static Kernel {
        &KERNEL
    }

    fn layer(&self) -> &str {
        &self.layer
    }

    fn dispatch(&self, recording: &Recording) -> Dispatch {
        let y = recording.get(self.y);
        let count = y.len() / 4;
        let mut bindings = vec![(0, self.y), (1, self.mean), (2, self.inv_std), (3, self.gamma), (4, self.beta)];
        bindings.extend(self.residual.map(|r| (5, r)));
        bindings.push((6, self.out));
        Dispatch {
            kernel: &KERNEL,
            entry: if self.residual.is_some() { "with_residual" } else { "plain" },
            constants: vec![("RELU", self.relu.into())],
            bindings,
            uniform: bytes_of(&BnApply { count: dim(count), vectors: dim(y.row() / 4) }),
            groups: Groups::Line { n: count.div_ceil(64) as u64, z: 1 },
        }
    }

    twins!(twin::run);
}
