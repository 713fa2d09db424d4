//! Layers: they own their parameters in the layout the kernels read, and emit their ops into a recording.

use std::ops::Range;

use crate::gpu::{Capabilities, Limits};
use crate::kernels::attention::Order;
use crate::kernels::batch_norm::BatchNorm;
use crate::kernels::lif::LifOp;
use crate::kernels::neuron::Neuron;
use crate::kernels::spike_census::{Layout, SpikeCensusOp};
use crate::kernels::spike_count::{PARTIALS, SpikeCountOp};
use crate::recording::{Counted, Counter, Recording, TensorId};
use crate::tensor::{Element, Shape};

pub mod attention;
pub mod conv_bn;
pub mod head;
pub mod mlp;
pub mod patch_splitting;

/// How a model is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Options {
    /// The attention's order; `None` takes the cheaper, or the one whose tensors the device holds.
    pub order: Option<Order>,
    /// Keep LIF and residual in the epilogue of the product before them. Without it every stage is an op of its own; the
    /// results are the same.
    pub fused: bool,
    /// Read back every spike, membrane, key and attention sum; implies that nothing is fused.
    pub trace: bool,
    /// Count the spikes of every layer.
    pub count: bool,
    /// Count what receipts are made of ([`crate::insight::counts::Counts`]): spikes by layer and timestep, silent and saturated
    /// neurons, what reaches each synaptic layer, attention's additions. The results are the same with and without.
    pub census: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options { order: None, fused: true, trace: false, count: false, census: false }
    }
}

/// A real tensor, cut into windows of channels where it would exceed a binding.
#[derive(Clone, Debug)]
pub struct RealTensor {
    /// Of the whole tensor.
    pub shape: Shape,
    /// Channels and tensor of each window; all but the last are a multiple of 32 channels.
    pub windows: Vec<(Range<usize>, TensorId)>,
}

/// A recording while layers emit into it.
pub struct Recorder {
    /// The ops and tensors so far.
    pub recording: Recording,
    /// What tensors are kept within.
    pub limits: Limits,
    /// How to record.
    pub options: Options,
    /// What the device can do, where ops depend on it; the results do not.
    pub capabilities: Capabilities,
    spikes: Vec<(String, TensorId)>,
}

impl Recorder {
    /// Nothing recorded yet; for a device that runs the portable kernels, until `capabilities` is set.
    pub fn new(limits: Limits, options: Options) -> Self {
        let options = Options { fused: options.fused && !options.trace, ..options };
        let (recording, capabilities) = Default::default();
        Recorder { recording, limits, options, capabilities, spikes: Vec::new() }
    }

    /// Bytes of the largest tensor the device takes.
    pub fn most_bytes(&self) -> u64 {
        self.limits.binding.min(self.limits.buffer)
    }

    /// The windows that keep `shape` within a binding and `most` channels, each a multiple of `granule` channels but the
    /// last.
    fn windows(&self, shape: Shape, granule: usize, most: usize) -> Vec<Range<usize>> {
        let a_channel = 4 * (shape.steps * shape.rows()).max(1) as u64;
        let most = usize::try_from(self.most_bytes() / a_channel).unwrap_or(usize::MAX).min(most);
        if most >= shape.channels.next_multiple_of(4) {
            return std::iter::once(0..shape.channels).collect();
        }
        // Too little for one granule is reported when buffers are planned, with the tensor's name.
        let window = (most / granule * granule).max(granule);
        (0..shape.channels).step_by(window).map(|c| c..(c + window).min(shape.channels)).collect()
    }

    /// A real tensor to be written, if it has to be cut in windows of a multiple of 32 channels.
    pub fn real(&mut self, name: &str, shape: Shape) -> RealTensor {
        self.real_within(name, shape, 32, usize::MAX)
    }

    /// A real tensor to be written, in windows of at most `most` channels and a multiple of `granule`.
    pub fn real_within(&mut self, name: &str, shape: Shape, granule: usize, most: usize) -> RealTensor {
        let windows = self.windows(shape, granule, most);
        let windows = windows
            .into_iter()
            .map(|c| (c.clone(), self.recording.tensor(name, Element::Real, shape.with_channels(c.len()))))
            .collect();
        RealTensor { shape, windows }
    }

    /// A real tensor to be written, of another's shape and cut as that is.
    pub fn real_like(&mut self, name: &str, other: &RealTensor) -> RealTensor {
        let shape = other.shape;
        let mut tensor = |c: &Range<usize>| self.recording.tensor(name, Element::Real, shape.with_channels(c.len()));
        RealTensor { shape, windows: other.windows.iter().map(|(c, _)| (c.clone(), tensor(c))).collect() }
    }

    /// A packed tensor that a layer's neurons will write; counted and traced as `s.<layer>` if the options say so.
    pub fn spikes(&mut self, layer: &str, element: Element, shape: Shape) -> TensorId {
        let id = self.recording.tensor(layer, element, shape);
        self.spikes.push((layer.to_owned(), id));
        if self.options.trace {
            self.recording.output(format!("s.{layer}"), &[id]);
        }
        id
    }

    /// Records that a layer's spikes are all written; counts them if the options say so.
    pub fn fired(&mut self, id: TensorId) {
        if self.options.census {
            self.census(id, true, true, false);
            return;
        }
        if !self.options.count {
            return;
        }
        let counts = match self.recording.counts {
            Some(counts) => counts,
            None => {
                // Its size is known when all layers are; `finish` sets it.
                let shape = Shape { steps: 1, batch: 1, height: 1, width: 1, channels: 0 };
                let counts = self.recording.tensor("spike counts", Element::Spikes, shape);
                *self.recording.counts.insert(counts)
            }
        };
        let slot = self.recording.counted.len();
        let tensor = self.recording.get(id);
        let possible = (tensor.shape.steps * tensor.shape.rows() * tensor.shape.channels) as u64;
        let layer = tensor.name.clone();
        self.recording.counted.push((layer.clone(), possible));
        self.recording.push(SpikeCountOp { layer, input: id, out: counts, slot });
    }

    /// Counts the spikes of `id` by timestep and neuron (`counted`), by channel (`channels`) or both; they are those of `neurons`,
    /// or what something else made of them.
    pub fn census(&mut self, id: TensorId, neurons: bool, counted: bool, channels: bool) {
        if !self.options.census {
            return;
        }
        let tensor = self.recording.get(id);
        let (name, layout) = (tensor.name.clone(), Layout::new(tensor, counted, channels));
        let by_host = self.capabilities.software;
        let counted = Counted::Spikes { layout, neurons, by_host };
        if by_host {
            self.recording.census.push(Counter { name, id, counted });
            return;
        }
        let out = self.recording.tensor(format!("{name} counters"), Element::Spikes, layout.counters());
        self.recording.census.push(Counter { name: name.clone(), id: out, counted });
        self.recording.push(SpikeCensusOp { layer: name, input: id, out, layout });
    }

    /// A layer's neurons over `steps` timesteps of a real tensor, as an op of their own.
    pub fn lif(&mut self, layer: &str, x: &RealTensor, steps: usize, neuron: Neuron, element: Element) -> TensorId {
        self.lif_after(None, layer, x, steps, neuron, element)
    }

    /// As [`Recorder::lif`], of a tensor in one window that goes through a batch norm first, if there is one.
    pub fn lif_after(
        &mut self,
        norm: Option<BatchNorm>,
        layer: &str,
        x: &RealTensor,
        steps: usize,
        neuron: Neuron,
        element: Element,
    ) -> TensorId {
        debug_assert!(norm.is_none() || x.windows.len() == 1, "a batch norm's tensors are not cut");
        let shape = x.shape.with_steps(steps);
        let out = self.spikes(layer, element, shape);
        let mut traced = Vec::new();
        for (channels, input) in &x.windows {
            let h = self.options.trace.then(|| {
                self.recording.tensor(format!("h.{layer}"), Element::Real, shape.with_channels(channels.len()))
            });
            traced.extend(h);
            self.recording.push(LifOp {
                layer: layer.to_owned(),
                input: *input,
                norm,
                out,
                h,
                neuron,
                first_channel: channels.start,
            });
        }
        if self.options.trace {
            self.recording.output(format!("h.{layer}"), &traced);
        }
        self.fired(out);
        out
    }

    /// Marks a real tensor as the trace output `name`, if there is a trace.
    pub fn trace(&mut self, name: String, x: &RealTensor) {
        if self.options.trace {
            let windows: Vec<TensorId> = x.windows.iter().map(|w| w.1).collect();
            self.recording.output(name, &windows);
        }
    }

    /// The finished recording.
    pub fn finish(mut self) -> Recording {
        if let Some(counts) = self.recording.counts {
            self.recording.tensors[counts.0].shape.channels = 32 * PARTIALS * self.recording.counted.len();
        }
        self.recording
    }
}
