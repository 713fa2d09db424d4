//! Where a run's time goes, op by op, and what the device could do at most.

#[cfg(not(target_arch = "wasm32"))]
use std::sync::Arc;
use std::time::Duration;

use crate::kernels::Arithmetic;
use crate::recording::Recording;
#[cfg(not(target_arch = "wasm32"))]
use crate::{
    Result,
    kernels::{Op, copy::CopyOp, multiply_add::MultiplyAddOp},
    program::Program,
    recording::Constant,
    session::Device,
    tensor::{Element, Shape},
};

/// How long one op took, and what it does.
#[derive(Clone, Debug)]
pub struct OpTime {
    /// The kernel's stem; on a GPU that of the variant which ran.
    pub kernel: &'static str,
    /// The layer.
    pub layer: String,
    /// On a GPU between two timestamps of the device, else on the processor's clock.
    pub time: Duration,
    /// Bytes of its operands.
    pub bytes: u64,
    /// What it computes.
    pub arithmetic: Arithmetic,
    /// The name of the spikes that select its additions, if it is those of one layer.
    pub spikes: Option<String>,
}

/// Beside each op of `recording` its time.
pub(crate) fn op_times(recording: &Recording, times: impl IntoIterator<Item = Duration>) -> Vec<OpTime> {
    let describe = |(op, time): (&dyn crate::kernels::Op, Duration)| {
        let arithmetic = op.arithmetic(recording);
        OpTime {
            kernel: op.kernel().stem,
            layer: op.layer().to_owned(),
            time,
            bytes: op.bytes(recording),
            arithmetic,
            spikes: arithmetic.spikes.map(|id| recording.get(id).name.clone()),
        }
    };
    recording.ops().zip(times).map(describe).collect()
}

/// What a device does at most, measured with a kernel that does nothing else.
#[cfg(not(target_arch = "wasm32"))]
#[derive(Clone, Copy, Debug)]
pub struct Ceilings {
    /// Bytes a second, read and written together, of a copy of 256 MiB, or of the most that fits a binding.
    pub bytes: f64,
    /// f32 multiply-adds a second.
    pub multiply_adds: f64,
}

#[cfg(not(target_arch = "wasm32"))]
impl Ceilings {
    /// Measures them; takes about half a second.
    ///
    /// # Errors
    /// As [`Program::run`].
    pub async fn measure(device: &Device) -> Result<Self> {
        const COPIED: usize = 256 << 20;
        /// Enough invocations for the largest GPUs, and few enough that a software driver takes milliseconds.
        const ELEMENTS: usize = 1 << 20;
        let most = usize::try_from(device.limits().binding).unwrap_or(usize::MAX);
        let copy = |layer: String, input, out| CopyOp { layer, input, out };
        let (bytes, _) = fastest(device, COPIED.min(most) / 4, copy, |op| op.bytes as f64).await?;
        let mut rounds = 4;
        loop {
            let op = |layer: String, input, out| MultiplyAddOp { layer, input, out, rounds, map: (-1.0, 1.0) };
            let (multiply_adds, took) = fastest(device, ELEMENTS, op, |op| op.arithmetic.multiply_adds as f64).await?;
            // Long enough that starting and ending it do not count.
            if took > Duration::from_millis(5) || rounds >= 1 << 14 {
                return Ok(Ceilings { bytes, multiply_adds });
            }
            rounds *= 4;
        }
    }
}

/// The most of `what` a second, and the least time, of a few runs of an op on a real tensor of `len` elements.
#[cfg(not(target_arch = "wasm32"))]
async fn fastest<O: Op + 'static>(
    device: &Device,
    len: usize,
    op: impl Fn(String, crate::recording::TensorId, crate::recording::TensorId) -> O,
    what: impl Fn(&OpTime) -> f64,
) -> Result<(f64, Duration)> {
    const RUNS: usize = 5;
    let shape = Shape { steps: 1, batch: 1, height: 1, width: 1, channels: len / 4 * 4 };
    let mut recording = Recording::default();
    let data = vec![1.0; shape.channels].into();
    let input = recording.constant_as(&Arc::new(Constant { name: "x".to_owned(), data }), Element::Real, shape);
    let out = recording.tensor("y", Element::Real, shape);
    recording.push(op("ceiling".to_owned(), input, out));
    let mut program = Program::new(device, recording).await?;
    let (mut most, mut least) = (0.0f64, Duration::MAX);
    // The first run is not one of them: drivers compile at the first dispatch.
    program.run(&[]).await?;
    for _ in 0..RUNS {
        for op in program.run_timed(&[]).await?.1 {
            most = most.max(what(&op) / op.time.as_secs_f64().max(1e-9));
            least = least.min(op.time);
        }
    }
    Ok((most, least))
}
