//! Which tensor lies in which buffer: liveness analysis over a recording, without a device.

use super::Limits;
use crate::recording::{Constant, Recording, TensorId};
use crate::{Error, Result};

/// The buffers that a plan allocates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Beside each tensor its buffer among `buffers`; parameters have their own.
    pub(super) slots: Vec<Option<usize>>,
    /// Bytes of each shared buffer.
    pub buffers: Vec<u64>,
    /// Bytes of all parameters.
    pub parameters: u64,
    /// Bytes of the uniform buffer.
    pub uniforms: u64,
    /// Bytes of the buffers that outputs are read back through.
    pub readback: u64,
    /// Bytes the tensors would take if each had its own buffer.
    pub without_reuse: u64,
    /// Bytes the tensors would take, each on its own, if every spike were an f32.
    pub unpacked: u64,
}

pub(super) fn constant_bytes(constant: &Constant) -> u64 {
    4 * (constant.data.len() as u64).next_multiple_of(4)
}

impl MemoryPlan {
    /// Lays out `recording` for a device with `limits`. A buffer is handed on when the last op that uses its tensor has run.
    ///
    /// # Errors
    /// [`Error::Gpu`] if a tensor or a parameter exceeds a binding, or a dispatch the workgroups of a dimension.
    pub fn new(recording: &Recording, limits: Limits) -> Result<Self> {
        let last = recording.last_uses();
        let mut plan = MemoryPlan {
            slots: vec![None; recording.tensors.len()],
            buffers: Vec::new(),
            parameters: 0,
            uniforms: 0,
            readback: 0,
            without_reuse: 0,
            unpacked: 0,
        };
        for op in recording.ops() {
            let dispatch = op.dispatch(recording);
            if dispatch.groups.fold(limits.groups).is_none() {
                return Err(Error::Gpu(format!(
                    "{}: {} needs more than {} workgroups a dimension; use a smaller batch, or `--device cpu`",
                    op.layer(),
                    dispatch.kernel.stem,
                    limits.groups
                )));
            }
        }
        let most = limits.binding.min(limits.buffer);
        let mut seen = std::collections::HashSet::new();
        for (_, tensor, role) in recording.tensors() {
            let bytes = role.constant().map_or(tensor.bytes(), |c| constant_bytes(c));
            if bytes > most {
                return Err(Error::Gpu(format!(
                    "`{}` takes {bytes} bytes and the device allows {most} a binding; use fewer timesteps, a smaller image or \
                     a smaller batch, or `--device cpu`",
                    tensor.name
                )));
            }
            if let Some(constant) = role.constant()
                && seen.insert(std::sync::Arc::as_ptr(constant))
            {
                plan.parameters += bytes;
            }
        }
        let mut free: Vec<usize> = Vec::new();
        let place = |plan: &mut MemoryPlan, free: &mut Vec<usize>, id: TensorId| {
            let id = recording.place(id).0;
            let tensor = recording.get(id);
            if plan.slots[id.0].is_some() || recording.roles[id.0].constant().is_some() {
                return;
            }
            let bytes = tensor.bytes().max(16);
            plan.without_reuse += bytes;
            plan.unpacked += tensor.unpacked_bytes();
            // The free buffer that fits closest; else the largest, which grows.
            let fits = free.iter().copied().filter(|&b| plan.buffers[b] >= bytes).min_by_key(|&b| plan.buffers[b]);
            let best = fits.or_else(|| free.iter().copied().max_by_key(|&b| plan.buffers[b]));
            let slot = match best {
                Some(slot) => {
                    free.retain(|&b| b != slot);
                    slot
                }
                None => {
                    plan.buffers.push(0);
                    plan.buffers.len() - 1
                }
            };
            plan.buffers[slot] = plan.buffers[slot].max(bytes);
            plan.slots[id.0] = Some(slot);
        };
        for (id, _) in recording.states() {
            place(&mut plan, &mut free, id);
        }
        for &input in &recording.inputs {
            place(&mut plan, &mut free, input);
        }
        for (i, op) in recording.ops.iter().enumerate() {
            let operands = op.operands(recording);
            for &(id, _) in &operands {
                place(&mut plan, &mut free, id);
            }
            let mut ended: Vec<usize> = operands
                .iter()
                .filter(|(id, _)| last[id.0] == i)
                .filter_map(|&(id, _)| plan.slots[recording.place(id).0.0])
                .collect();
            ended.sort_unstable();
            ended.dedup();
            free.extend(ended);
        }
        let alignment = u64::from(limits.uniform_alignment);
        plan.uniforms =
            recording.ops.iter().map(|op| (op.kernel().uniform_size as u64).next_multiple_of(alignment)).sum();
        let read = recording.outputs.iter().flat_map(|o| o.windows.iter().copied()).chain(recording.counts);
        plan.readback = read.map(|id| recording.get(id).bytes()).sum();
        Ok(plan)
    }

    /// Bytes of everything that the plan allocates on the device.
    pub fn total(&self) -> u64 {
        self.buffers.iter().sum::<u64>() + self.parameters + self.uniforms + self.readback
    }
}
