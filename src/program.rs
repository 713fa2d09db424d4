//! A recording made ready for whichever device runs it.

use std::ops::Range;

use crate::Result;
use crate::gpu::Plan;
use crate::outputs::Outputs;
use crate::profile::{OpTime, op_times};
use crate::recording::{Recording, TensorId};
use crate::reference::Executor;
use crate::session::Device;

/// A recording on a device.
pub enum Program {
    /// On the reference executor.
    Cpu(Box<Executor>),
    /// On the reference executor in f64, to judge the others.
    Exact(Box<Executor<f64>>),
    /// On a GPU.
    Gpu(Box<Plan>),
}

impl Program {
    /// Compiles `recording`.
    ///
    /// # Errors
    /// As [`Plan::new`] and [`Executor::new`].
    pub async fn new(device: &Device, recording: Recording) -> Result<Self> {
        Ok(match device {
            Device::Cpu => Program::Cpu(Box::new(Executor::new(recording)?)),
            Device::Gpu(context) => Program::Gpu(Box::new(Plan::new(context, recording).await?)),
        })
    }

    /// Runs on `inputs`, each input tensor's elements in its own layout; reads every output back.
    ///
    /// # Errors
    /// As [`Plan::run`].
    pub async fn run(&mut self, inputs: &[&[f32]]) -> Result<Outputs> {
        match self {
            Program::Cpu(executor) => executor.run(inputs),
            Program::Exact(executor) => executor.run(inputs),
            Program::Gpu(plan) => plan.run(inputs).await,
        }
    }

    /// As [`Program::run`], with each op's time. The whole takes longer than a run.
    ///
    /// # Errors
    /// As [`Plan::run_timed`]; a device need not have timestamps.
    pub async fn run_timed(&mut self, inputs: &[&[f32]]) -> Result<(Outputs, Vec<OpTime>)> {
        let (mut kernels, mut times) = (Vec::new(), Vec::new());
        let outputs = match self {
            Program::Cpu(executor) => executor.run_timed(inputs, |_, time| times.push(time))?,
            Program::Exact(executor) => executor.run_timed(inputs, |_, time| times.push(time))?,
            Program::Gpu(plan) => {
                let (outputs, timed) = plan.run_timed(inputs).await?;
                kernels.extend(timed.iter().map(|t| t.kernel));
                times.extend(timed.iter().map(|t| t.time));
                outputs
            }
        };
        let mut all = op_times(self.recording(), times);
        all.iter_mut().zip(kernels).for_each(|(op, kernel)| op.kernel = kernel);
        Ok((outputs, all))
    }

    /// The recording it runs.
    pub fn recording(&self) -> &Recording {
        match self {
            Program::Cpu(executor) => executor.recording(),
            Program::Exact(executor) => executor.recording(),
            Program::Gpu(plan) => plan.recording(),
        }
    }

    /// Runs a range of the ops; outputs that no op has written yet hold anything.
    ///
    /// # Errors
    /// As [`Plan::run`].
    pub async fn run_ops(&mut self, inputs: &[&[f32]], ops: Range<usize>) -> Result<Outputs> {
        match self {
            Program::Cpu(executor) => executor.run_ops(inputs, ops, |_, _| ()),
            Program::Exact(executor) => executor.run_ops(inputs, ops, |_, _| ()),
            Program::Gpu(plan) => plan.run_ops(inputs, ops).await,
        }
    }

    /// The values of real tensors that stay, or of outputs after a run.
    ///
    /// # Errors
    /// As [`Plan::read`].
    pub async fn read(&mut self, ids: &[TensorId]) -> Result<Vec<Vec<f32>>> {
        match self {
            Program::Cpu(executor) => Ok(executor.read(ids)),
            Program::Exact(executor) => Ok(executor.read(ids)),
            Program::Gpu(plan) => plan.read(ids).await,
        }
    }

    /// Sets a tensor that stays.
    ///
    /// # Errors
    /// As [`Plan::write`].
    pub async fn write(&mut self, id: TensorId, values: &[f32]) -> Result<()> {
        match self {
            Program::Cpu(executor) => executor.write(id, values),
            Program::Exact(executor) => executor.write(id, values),
            Program::Gpu(plan) => plan.write(id, values).await,
        }
    }
}
