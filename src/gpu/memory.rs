//! Which tensor lies in which buffer: liveness analysis over a recording, without a device.

use super::Limits;
use crate::recording::{Constant, Recording};
use crate::{Error, Result};

/// The buffers that a plan allocates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Beside each tensor its buffer among `buffers`; parameters have their own.
    pub(crate) slots: Vec<Option<usize>>,
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

/// Beside each tensor with memory of its own, the first and the last op that use it, or the end for what is read or kept after
/// the run; none for a parameter, a part of another tensor, or what nothing uses.
fn lives(recording: &Recording) -> Vec<Option<(usize, usize)>> {
    let last = recording.last_uses();
    let mut lives: Vec<Option<(usize, usize)>> = vec![None; recording.tensors.len()];
    let whole_run = recording.states().map(|(id, _)| id).chain(recording.inputs.iter().copied());
    whole_run.for_each(|id| lives[id.0] = Some((0, usize::MAX)));
    for (i, op) in recording.ops().enumerate() {
        for (id, _) in op.operands(recording) {
            let id = recording.place(id).0;
            if recording.roles[id.0].constant().is_none() {
                lives[id.0].get_or_insert((i, last[id.0]));
            }
        }
    }
    lives
}

impl MemoryPlan {
    /// Lays out `recording` for a device with `limits`. A buffer serves one tensor after another, each from the first op that
    /// uses it to the last.
    ///
    /// # Errors
    /// [`Error::Gpu`] if a tensor or a parameter exceeds a binding, or a dispatch the workgroups of a dimension.
    pub fn new(recording: &Recording, limits: Limits) -> Result<Self> {
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
        let lives = lives(recording);
        // The largest first, each into the smallest buffer in which nothing lives at the same time: none ever grows.
        let mut order: Vec<usize> = (0..lives.len()).filter(|&i| lives[i].is_some()).collect();
        let bytes = |i: usize| recording.tensors[i].bytes().max(16);
        order.sort_by_key(|&i| (std::cmp::Reverse(bytes(i)), lives[i]));
        let mut living: Vec<Vec<(usize, usize)>> = Vec::new();
        for i in order {
            let Some((first, last)) = lives[i] else { continue };
            plan.without_reuse += bytes(i);
            plan.unpacked += recording.tensors[i].unpacked_bytes();
            let free = |lives: &Vec<(usize, usize)>| lives.iter().all(|&(f, l)| l < first || last < f);
            // Later buffers are smaller.
            let slot = living.iter().rposition(free).unwrap_or_else(|| {
                plan.buffers.push(bytes(i));
                living.push(Vec::new());
                living.len() - 1
            });
            living[slot].push((first, last));
            plan.slots[i] = Some(slot);
        }
        let alignment = u64::from(limits.uniform_alignment);
        plan.uniforms =
            recording.ops.iter().map(|op| (op.kernel().uniform_size as u64).next_multiple_of(alignment)).sum();
        plan.readback = recording.read_back(u64::MAX).iter().flatten().map(|&id| recording.get(id).bytes()).sum();
        Ok(plan)
    }

    /// Bytes of everything that the plan allocates on the device.
    pub fn total(&self) -> u64 {
        self.buffers.iter().sum::<u64>() + self.parameters + self.uniforms + self.readback
    }
}
