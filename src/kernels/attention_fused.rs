//! `attention_fused`: `O = Q (Kᵀ V)` of every timestep, image and head in one kernel, for GPUs: what `attention_kv` and
//! `attention_q_kv` give, to the bit, with `Kᵀ V` in workgroup memory.

use super::attention::{Attention, Heads, uniform_of};
use super::{Arithmetic, Dispatch, Groups, Kernel, Op, bytes_of, dim, twins};
use crate::gpu::measure::{Size, Task};
use crate::recording::{Access, Recording, TensorId};
use crate::reference::attention_fused as twin;
use crate::tensor::Shape;

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    stem: "attention_fused",
    sources: &[include_str!("../../shaders/attention_fused.wgsl"), include_str!("../../shaders/lib/head_slice.wgsl")],
    entries: &["main"],
    bindings: &[("q_in", Access::Read), ("k_in", Access::Read), ("v_in", Access::Read), ("o_out", Access::Write)],
    uniform: Attention::LAYOUT,
    uniform_size: size_of::<Attention>(),
    constants: || vec![vec![("BLOCKS", 8.0)], vec![("BLOCKS", 16.0)]],
};

/// The most channels of a head whose `Kᵀ V` the workgroup memory of every WebGPU device holds: 64² floats are 16 KiB.
pub const MOST_CHANNELS: usize = 64;

/// `o = q (kᵀ v)`: q `[T, B, H, W, D]` packed, k `[T, B, H, W, window]` real, v `[T, B, H, W, D]` ternary, o as k; heads of at most
/// [`MOST_CHANNELS`] channels.
#[derive(Clone, Debug)]
pub struct AttentionFused {
    /// The layer.
    pub layer: String,
    /// Packed queries, all heads.
    pub q: TensorId,
    /// Keys of the window, real.
    pub k: TensorId,
    /// Ternary values, all heads.
    pub v: TensorId,
    /// Attention sums of the window, real.
    pub o: TensorId,
    /// The window of heads.
    pub heads: Heads,
}

/// Blocks of four channels on a side of what a workgroup has threads for.
fn blocks(heads: Heads) -> usize {
    if heads.dim <= 32 { 8 } else { 16 }
}

/// Workgroups of an image and timestep; each takes as many heads as it has threads for.
fn groups(heads: Heads) -> usize {
    heads.count.div_ceil((blocks(heads).pow(2) / heads.dim.div_ceil(4).pow(2)).max(1))
}

/// What the speed of such an op depends on; `None` if its heads are too large for it.
pub(crate) fn size(of: Shape, heads: Heads) -> Option<Size> {
    let groups = (of.steps * of.batch * groups(heads)) as u64;
    (heads.dim <= MOST_CHANNELS).then_some(Size { task: Task::Attention, groups, depth: of.tokens() as u64 })
}

impl Op for AttentionFused {
    fn kernel(&self) -> &'static Kernel {
        &KERNEL
    }

    fn layer(&self) -> &str {
        &self.layer
    }

    fn dispatch(&self, recording: &Recording) -> Dispatch {
        let attention = uniform_of(recording, self.q, self.k, self.heads);
        Dispatch {
            kernel: &KERNEL,
            entry: "main",
            constants: vec![("BLOCKS", blocks(self.heads) as f64)],
            bindings: vec![(0, self.q), (1, self.k), (2, self.v), (3, self.o)],
            uniform: bytes_of(&attention),
            groups: Groups::Exact([dim(groups(self.heads)), 1, attention.images]),
        }
    }

    fn arithmetic(&self, recording: &Recording) -> Arithmetic {
        // Half of them are selected by V, half by Q.
        let additions = 2 * self.heads.linear_terms(recording.get(self.q).shape);
        Arithmetic { additions, ..Arithmetic::default() }
    }

    twins!(twin::run);
}
