//! A recording: the flat list of ops that a model is for one input shape, and the tensors between them. Both executors run
//! it: [`crate::gpu::Plan`] turns each op into dispatches, [`crate::reference::Executor`] calls each op's twin.

use std::sync::Arc;

use crate::kernels::Op;
use crate::tensor::{Element, Shape, Tensor};

/// A tensor's index in its recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TensorId(pub(crate) usize);

/// Parameters in the layout the kernels read, shared by every recording and device that uses them.
#[derive(Debug)]
pub struct Constant {
    /// The layer and role.
    pub name: String,
    /// The values; of packed spikes, the words' bits (see [`Constant::packed`]).
    pub data: Vec<f32>,
}

impl Constant {
    /// Packed spikes that are the same in every run; the words' bits are kept as they are.
    pub fn packed(name: impl Into<String>, words: Vec<u32>) -> Self {
        Constant { name: name.into(), data: bytemuck::cast_vec(words) }
    }
}

/// A tensor that the caller reads back.
#[derive(Clone, Debug)]
pub struct Output {
    /// Its name in a trace file, e.g. `s.block.0.attn.q_lif`; `logits` for the logits.
    pub name: String,
    /// Which tensor, or its channel windows in order.
    pub windows: Vec<TensorId>,
}

/// Where an op's tensor stands: read, or written in full or in part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// The op reads it.
    Read,
    /// The op writes it (a window of it at least).
    Write,
}

/// A recorded model.
#[derive(Default)]
pub struct Recording {
    pub(crate) tensors: Vec<Tensor>,
    /// Beside each tensor, its values if it is a parameter.
    pub(crate) constants: Vec<Option<Arc<Constant>>>,
    pub(crate) ops: Vec<Box<dyn Op>>,
    pub(crate) input: Option<TensorId>,
    pub(crate) outputs: Vec<Output>,
    /// The names of the spike tensors that are counted, in slot order, with how many neurons × timesteps each holds.
    pub(crate) counted: Vec<(String, u64)>,
    pub(crate) counts: Option<TensorId>,
}

impl Recording {
    /// Adds a tensor that an op will write.
    pub fn tensor(&mut self, name: impl Into<String>, element: Element, shape: Shape) -> TensorId {
        self.tensors.push(Tensor { name: name.into(), element, shape });
        self.constants.push(None);
        TensorId(self.tensors.len() - 1)
    }

    /// Adds the tensor that every run is given.
    pub fn input(&mut self, name: impl Into<String>, shape: Shape) -> TensorId {
        let id = self.tensor(name, Element::Real, shape);
        self.input = Some(id);
        id
    }

    /// Adds a parameter; its layout is its kernel's own.
    pub fn constant(&mut self, constant: &Arc<Constant>) -> TensorId {
        let channels = constant.data.len();
        self.constant_as(constant, Element::Real, Shape { steps: 1, batch: 1, height: 1, width: 1, channels })
    }

    /// Adds a tensor whose elements, in its own layout, are the same in every run.
    pub fn constant_as(&mut self, constant: &Arc<Constant>, element: Element, shape: Shape) -> TensorId {
        let id = self.tensor(constant.name.clone(), element, shape);
        self.constants[id.0] = Some(constant.clone());
        id
    }

    /// Adds an op; ops run in the order in which they were added.
    pub fn push(&mut self, op: impl Op + 'static) {
        self.ops.push(Box::new(op));
    }

    /// Marks a tensor (or a real tensor's channel windows) to be read back.
    pub fn output(&mut self, name: impl Into<String>, windows: &[TensorId]) {
        self.outputs.push(Output { name: name.into(), windows: windows.to_vec() });
    }

    /// The tensor behind an id.
    pub fn get(&self, id: TensorId) -> &Tensor {
        &self.tensors[id.0]
    }

    /// All tensors with their parameter values, if they have them.
    pub fn tensors(&self) -> impl Iterator<Item = (TensorId, &Tensor, Option<&Arc<Constant>>)> {
        self.tensors.iter().zip(&self.constants).enumerate().map(|(i, (t, c))| (TensorId(i), t, c.as_ref()))
    }

    /// The ops in order.
    pub fn ops(&self) -> impl Iterator<Item = &dyn Op> {
        self.ops.iter().map(|op| &**op)
    }

    /// Beside each tensor the index of the last op that uses it; outputs live to the end, parameters always.
    pub(crate) fn last_uses(&self) -> Vec<usize> {
        let mut last = vec![0; self.tensors.len()];
        for (i, op) in self.ops.iter().enumerate() {
            for (id, _) in op.operands(self) {
                last[id.0] = i;
            }
        }
        let outputs = self.outputs.iter().flat_map(|o| o.windows.iter().copied());
        for id in outputs.chain(self.counts).chain(self.input) {
            last[id.0] = usize::MAX;
        }
        for (last, constant) in last.iter_mut().zip(&self.constants) {
            if constant.is_some() {
                *last = usize::MAX;
            }
        }
        last
    }
}
