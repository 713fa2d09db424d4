//! A batch norm's tensors, as the kernels of neurons take them that apply it to their input (equation:
//! `shaders/lib/batch_norm.wgsl`).

use crate::recording::TensorId;
use crate::reference::bn_apply::Norm;
use crate::reference::{HostTensors, Real};

/// Statistics and parameters, `[1, 1, 1, 1, C]` real each.
#[derive(Clone, Copy, Debug)]
pub struct BatchNorm {
    /// Mean of each channel.
    pub mean: TensorId,
    /// 1 / √(variance + eps) of each channel.
    pub inv_std: TensorId,
    /// Scale.
    pub gamma: TensorId,
    /// Shift.
    pub beta: TensorId,
}

impl BatchNorm {
    /// Bindings from `first` on.
    pub(crate) fn bindings(&self, first: u32) -> impl Iterator<Item = (u32, TensorId)> {
        (first..).zip([self.mean, self.inv_std, self.gamma, self.beta])
    }

    /// The values on the host, for a result that is not cut off below 0.
    pub(crate) fn values<'h, F: Real>(&self, host: &'h HostTensors<F>) -> Norm<'h, F> {
        let [mean, inv_std, gamma, beta] = [self.mean, self.inv_std, self.gamma, self.beta].map(|id| host.real(id));
        Norm { mean, inv_std, gamma, beta, relu: false }
    }
}
