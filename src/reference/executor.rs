//! Runs a recording on the host, op by op, with the twins.

use std::ops::Range;
use std::time::Duration;
#[cfg(not(target_arch = "wasm32"))]
use std::time::Instant;
#[cfg(target_arch = "wasm32")]
use web_time::Instant;

use super::{HostMemory, HostTensors, Real, no_memory, parallel};
use crate::Result;
use crate::outputs::{Outputs, Raw};
use crate::recording::{Recording, Role, TensorId};
use crate::tensor::Element;

/// A recording on the reference executor, in f32 as on a device or in f64 to judge both.
pub struct Executor<F: Real = f32> {
    recording: Recording,
    last_uses: Vec<usize>,
    memory: HostMemory<F>,
}

impl Executor {
    /// Takes a recording, and the memory to run it.
    ///
    /// # Errors
    /// As [`Executor::in_precision`].
    pub fn new(recording: Recording) -> Result<Self> {
        Executor::in_precision(recording)
    }
}

impl<F: Real> Executor<F> {
    /// Takes a recording, to run it in `F`, and the memory for that.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory) if there is not as much memory.
    pub fn in_precision(mut recording: Recording) -> Result<Self> {
        parallel::start();
        let last_uses = recording.last_uses();
        let memory = HostMemory::new(&recording)?;
        recording.forget_first_values();
        // An allocation that fails inside a twin ends the process; asked for like this, it is an error.
        let extra = scratch(&recording);
        let had = usize::try_from(extra).is_ok_and(|n| Vec::<u8>::new().try_reserve_exact(n).is_ok());
        if !had {
            return Err(no_memory(extra));
        }
        Ok(Executor { recording, last_uses, memory })
    }

    /// The recording it runs.
    pub fn recording(&self) -> &Recording {
        &self.recording
    }

    /// Runs on `inputs`, each input tensor's elements in its own layout; reads every output back.
    ///
    /// # Errors
    /// [`Error::Input`](crate::Error::Input) if the inputs are not as many, or as long, as the input tensors.
    pub fn run(&mut self, inputs: &[&[f32]]) -> Result<Outputs> {
        self.run_timed(inputs, |_, _| ())
    }

    /// As [`Executor::run`], telling `each` how long each op (by index) took.
    pub fn run_timed(&mut self, inputs: &[&[f32]], each: impl FnMut(usize, Duration) + Send) -> Result<Outputs> {
        let all = 0..self.recording.ops.len();
        self.run_ops(inputs, all, each)
    }

    /// Runs a range of the ops; outputs that no op has written yet are empty.
    ///
    /// # Errors
    /// As [`Executor::run`].
    pub fn run_ops(
        &mut self,
        inputs: &[&[f32]],
        ops: Range<usize>,
        mut each: impl FnMut(usize, Duration) + Send,
    ) -> Result<Outputs> {
        self.recording.check_inputs(inputs)?;
        let mut host = HostTensors { recording: &self.recording, memory: &mut self.memory };
        for (&id, input) in self.recording.inputs.iter().zip(inputs) {
            let mut values = host.take_real(id);
            values.iter_mut().zip(*input).for_each(|(v, &x)| *v = F::from(x));
            host.put_real(id, values);
        }
        let last_uses = &self.last_uses;
        parallel::inside(|| {
            for (i, op) in host.recording.ops.iter().enumerate().take(ops.end).skip(ops.start) {
                let start = Instant::now();
                F::reference(&**op, &mut host);
                each(i, start.elapsed());
                for (id, _) in op.operands(host.recording) {
                    if last_uses[id.0] == i {
                        host.free(host.recording.place(id).0);
                    }
                }
            }
        });
        Ok(Outputs::read(&self.recording, |id| read(&self.recording, &mut self.memory, id)))
    }

    /// The values of tensors that stay, or of outputs after a run, rounded to f32.
    pub fn read(&mut self, ids: &[TensorId]) -> Vec<Vec<f32>> {
        let host = HostTensors { recording: &self.recording, memory: &mut self.memory };
        ids.iter().map(|&id| host.real(id).iter().map(|v| v.to_f32()).collect()).collect()
    }

    /// Sets a tensor that stays.
    ///
    /// # Errors
    /// [`Error::Input`](crate::Error::Input) if `values` are not as many as its elements.
    pub fn write(&mut self, id: TensorId, values: &[f32]) -> Result<()> {
        self.recording.check_values(id, values)?;
        let mut host = HostTensors { recording: &self.recording, memory: &mut self.memory };
        let mut own = host.take_real(id);
        own.iter_mut().zip(values).for_each(|(v, &x)| *v = F::from(x));
        host.put_real(id, own);
        Ok(())
    }
}

/// Bytes that the twins take beside the memory plan's: what their loops note of each row of the largest tensor, plus something
/// for each thread.
pub(crate) fn scratch(recording: &Recording) -> u64 {
    const EACH_ROW: u64 = 64;
    const THREADS: u64 = 16 << 20;
    /// Of each word of spikes, in the gradient of weights: its bits in another order.
    const EACH_WORD: u64 = 8;
    let of_tensor = recording.tensors().map(|(_, t, _)| {
        let words = if t.element == Element::Real { 0 } else { EACH_WORD * t.row() as u64 };
        (t.shape.steps * t.shape.rows()) as u64 * (EACH_ROW + words)
    });
    // A parameter's part of a shard is copied out, and so is its gradient's.
    let parts = recording.tensors().filter(|(_, _, role)| matches!(role, Role::Part { .. }));
    let part = parts.map(|(_, t, _)| t.bytes()).max().unwrap_or(0);
    of_tensor.max().unwrap_or(0) + 4 * part + THREADS * parallel::threads() as u64
}

fn read<F: Real>(recording: &Recording, memory: &mut HostMemory<F>, id: TensorId) -> Raw {
    let host = HostTensors { recording, memory };
    match recording.get(id).element {
        Element::Real => Raw::Real(host.real(id).iter().map(|v| v.to_f32()).collect()),
        _ => Raw::Packed(host.packed(id).to_vec()),
    }
}
