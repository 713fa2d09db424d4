//! `attention_fused`: `O = Q (Kᵀ V)` of every timestep, image and head in one kernel, for GPUs: what `attention_kv` and
//! `attention_q_kv` give, to the bit, with `Kᵀ V` in workgroup memory.

use super::attention::{Attention, Heads, uniform_of};
use super::{Arithmetic, Dispatch, Groups, Kernel, Op, bytes_of, dim, twins};
use crate::gpu::Limits;
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
fn blocks(head_dim: usize) -> usize {
    if head_dim <= 32 { 8 } else { 16 }
}

/// Heads of a workgroup: as many as it has threads for.
pub(crate) fn heads_a_group(head_dim: usize) -> usize {
    (blocks(head_dim).pow(2) / head_dim.div_ceil(4).pow(2).max(1)).max(1)
}

/// Workgroups of an image and timestep.
fn groups(heads: Heads) -> usize {
    heads.count.div_ceil(heads_a_group(heads.dim))
}

/// Bytes of workgroup memory: 16 floats a thread.
fn workgroup_memory(head_dim: usize) -> u64 {
    64 * blocks(head_dim).pow(2) as u64
}

/// What the speed of such an op depends on; `None` if its heads are too large for it, or for the device's workgroup memory.
pub(crate) fn size(of: Shape, heads: Heads, limits: Limits) -> Option<Size> {
    let groups = (of.steps * of.batch * groups(heads)) as u64;
    let fits = heads.dim <= MOST_CHANNELS && workgroup_memory(heads.dim) <= limits.workgroup_memory;
    let (task, depth, head_dim) = (Task::Attention, of.tokens() as u64, heads.dim as u64);
    fits.then_some(Size { task, groups, depth, head_dim })
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
            constants: vec![("BLOCKS", blocks(self.heads.dim) as f64)],
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
