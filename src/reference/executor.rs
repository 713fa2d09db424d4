//! Runs a recording on the host, op by op, with the twins.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::{HostTensors, Spare};
use crate::outputs::{Outputs, Raw};
use crate::recording::Recording;
use crate::tensor::Element;
use crate::{Error, Result};

/// A recording on the reference executor.
pub struct Executor {
    recording: Recording,
    last_uses: Vec<usize>,
    /// Left by the last run.
    spare: Mutex<Spare>,
}

impl Executor {
    /// Takes a recording.
    pub fn new(recording: Recording) -> Self {
        let last_uses = recording.last_uses();
        Executor { recording, last_uses, spare: Mutex::default() }
    }

    /// The recording it runs.
    pub fn recording(&self) -> &Recording {
        &self.recording
    }

    /// Runs on `input`, the input tensor's elements in its own layout; reads every output back.
    ///
    /// # Errors
    /// [`Error::Input`] if the length of `input` is not the input tensor's.
    pub fn run(&self, input: &[f32]) -> Result<Outputs> {
        self.run_timed(input, |_, _| ())
    }

    /// As [`Executor::run`], telling `each` how long each op (by index) took.
    pub fn run_timed(&self, input: &[f32], mut each: impl FnMut(usize, Duration)) -> Result<Outputs> {
        let spare = std::mem::take(&mut *self.spare.lock().unwrap_or_else(PoisonError::into_inner));
        let mut host = HostTensors::new(&self.recording).with_spare(spare);
        if let Some(id) = self.recording.input {
            let expected = self.recording.get(id).len();
            if input.len() != expected {
                return Err(Error::Input(format!("the input has {} elements; the plan takes {expected}", input.len())));
            }
            let mut own = host.take_real(id);
            own.copy_from_slice(input);
            host.put_real(id, own);
        }
        for (i, op) in self.recording.ops.iter().enumerate() {
            let start = Instant::now();
            op.reference(&mut host);
            each(i, start.elapsed());
            for (id, _) in op.operands(&self.recording) {
                if self.last_uses[id.0] == i {
                    host.free(id);
                }
            }
        }
        let outputs = Outputs::read(&self.recording, |id| match self.recording.get(id).element {
            Element::Real => Raw::Real(host.real(id).to_vec()),
            _ => Raw::Packed(host.packed(id).to_vec()),
        });
        *self.spare.lock().unwrap_or_else(PoisonError::into_inner) = host.into_spare();
        Ok(outputs)
    }
}
