//! `spike_count`: how many spikes a packed tensor holds.

use super::{Dispatch, Groups, Kernel, Op, bytes_of, dim, twins, uniform};
use crate::recording::{Access, Recording, TensorId};
use crate::reference::spike_count as twin;

uniform! {
    /// The uniform of `spike_count`.
    SpikeCount {
        /// Words of the tensor.
        words: u32,
        /// Which 64 partial counts to write.
        slot: u32,
    }
}

/// The kernel.
pub static KERNEL: Kernel = Kernel {
    stem: "spike_count",
    sources: &[include_str!("../../shaders/spike_count.wgsl")],
    entries: &["main"],
    bindings: &[("spikes_in", Access::Read), ("counts_out", Access::Write)],
    uniform: SpikeCount::LAYOUT,
    uniform_size: size_of::<SpikeCount>(),
    constants: || vec![vec![]],
};

/// Partial counts of one tensor.
pub const PARTIALS: usize = 64;

/// Input packed or ternary, output 64 partial counts (u32) in a slot of the recording's counters.
#[derive(Clone, Debug)]
pub struct SpikeCountOp {
    /// The layer.
    pub layer: String,
    /// Packed spikes.
    pub input: TensorId,
    /// The counters of the whole recording.
    pub out: TensorId,
    /// Which 64 of them.
    pub slot: usize,
}

impl Op for SpikeCountOp {
    fn kernel(&self) -> &'static Kernel {
        &KERNEL
    }

    fn layer(&self) -> &str {
        &self.layer
    }

    fn dispatch(&self, recording: &Recording) -> Dispatch {
        let count = SpikeCount { words: dim(recording.get(self.input).len()), slot: dim(self.slot) };
        Dispatch {
            kernel: &KERNEL,
            entry: "main",
            constants: vec![],
            bindings: vec![(0, self.input), (1, self.out)],
            uniform: bytes_of(&count),
            groups: Groups::Exact([dim(PARTIALS), 1, 1]),
        }
    }

    twins!(twin::run);
}
