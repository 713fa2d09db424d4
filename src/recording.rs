//! A recording: the flat list of ops that a model is for one input shape, and the tensors between them. Both executors run
//! it: [`crate::gpu::Plan`] turns each op into dispatches, [`crate::reference::Executor`] calls each op's twin.

use std::collections::HashSet;
use std::sync::Arc;

use crate::aligned::Aligned;
use crate::kernels::Op;
use crate::kernels::attention::Order;
use crate::kernels::spike_census::Layout;
use crate::tensor::{Element, Shape, Tensor};
use crate::{Error, Result};

/// A tensor's index in its recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TensorId(pub(crate) usize);

/// Parameters in the layout the kernels read, shared by every recording and device that uses them.
#[derive(Debug)]
pub struct Constant {
    /// The layer and role.
    pub name: String,
    /// The values; of packed spikes and of f16 and int8 weights, the words' bits (see [`Constant::packed`]).
    pub data: Aligned<f32>,
}

impl Constant {
    /// Packed spikes, or f16 or int8 weights, that are the same in every run; the words' bits are kept as they are.
    pub fn packed(name: impl Into<String>, words: Vec<u32>) -> Self {
        Constant { name: name.into(), data: bytemuck::cast_slice(&words).into() }
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

/// Where a tensor's values come from, and how long they stay.
#[derive(Clone, Debug)]
pub enum Role {
    /// Ops write it; its memory is another tensor's once the last op that uses it has run.
    Passing,
    /// The same in every run.
    Constant(Arc<Constant>),
    /// Starts with these values; ops update it, and it stays from run to run.
    State(Arc<Constant>),
    /// A range of another tensor's elements, which begins at `offset`.
    Part {
        /// The tensor, no part itself.
        of: TensorId,
        /// In elements, a multiple of [`PART_ALIGNMENT`].
        offset: usize,
    },
}

impl Role {
    /// The values, if they are the same in every run.
    pub fn constant(&self) -> Option<&Arc<Constant>> {
        match self {
            Role::Constant(constant) => Some(constant),
            _ => None,
        }
    }
}

/// Where a [`Role::Part`] may begin: WebGPU binds a buffer from multiples of 256 bytes on.
pub const PART_ALIGNMENT: usize = 64;

/// A recorded model.
#[derive(Default)]
pub struct Recording {
    pub(crate) tensors: Vec<Tensor>,
    /// Beside each tensor, its role.
    pub(crate) roles: Vec<Role>,
    pub(crate) ops: Vec<Box<dyn Op>>,
    pub(crate) inputs: Vec<TensorId>,
    pub(crate) outputs: Vec<Output>,
    /// The names of the spike tensors that are counted, in slot order, with how many neurons × timesteps each holds.
    pub(crate) counted: Vec<(String, u64)>,
    pub(crate) counts: Option<TensorId>,
    /// What the census counts.
    pub(crate) census: Vec<Counter>,
}

/// Counters of a recording with a census.
#[derive(Clone, Debug)]
pub(crate) struct Counter {
    /// The tensor that is counted, or the attention layer.
    pub name: String,
    /// The counters, or where a software driver runs the plan the tensor itself: there the host counts it in less time than a dispatch
    /// takes.
    pub id: TensorId,
    /// What they are.
    pub counted: Counted,
}

impl Counter {
    /// What is read back.
    fn read(&self) -> impl Iterator<Item = TensorId> {
        let values = match self.counted {
            Counted::Pairs { values, .. } => values,
            Counted::Spikes { .. } => None,
        };
        std::iter::once(self.id).chain(values)
    }
}

/// What counters count.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Counted {
    /// Spikes: of neurons, or what a pool or a comparison with zero made of them.
    Spikes { layout: Layout, neurons: bool, by_host: bool },
    /// Pairs of keys and values of an attention layer of that shape; where the host counts them these are the values, beside the
    /// keys.
    Pairs { shape: Shape, heads: usize, order: Order, values: Option<TensorId> },
}

impl Recording {
    /// Adds a tensor that an op will write.
    pub fn tensor(&mut self, name: impl Into<String>, element: Element, shape: Shape) -> TensorId {
        self.tensors.push(Tensor { name: name.into(), element, shape });
        self.roles.push(Role::Passing);
        TensorId(self.tensors.len() - 1)
    }

    /// Adds a tensor that every run is given, in the order in which they were added.
    pub fn input(&mut self, name: impl Into<String>, shape: Shape) -> TensorId {
        let id = self.tensor(name, Element::Real, shape);
        self.inputs.push(id);
        id
    }

    /// Adds flat real values that stay from run to run and start as `initial`.
    pub fn state(&mut self, initial: &Arc<Constant>) -> TensorId {
        let shape = Shape { steps: 1, batch: 1, height: 1, width: 1, channels: initial.data.len() };
        let id = self.tensor(initial.name.clone(), Element::Real, shape);
        self.roles[id.0] = Role::State(initial.clone());
        id
    }

    /// Adds a name for the elements of the flat tensor `of` from `offset` on, as a real tensor of `shape`. `None` if they are
    /// not within it, `of` is a part itself or `offset` is no multiple of [`PART_ALIGNMENT`].
    pub fn part(&mut self, name: impl Into<String>, of: TensorId, offset: usize, shape: Shape) -> Option<TensorId> {
        if !offset.is_multiple_of(PART_ALIGNMENT) || matches!(self.roles[of.0], Role::Part { .. }) {
            return None;
        }
        let id = self.tensor(name, Element::Real, shape);
        self.roles[id.0] = Role::Part { of, offset };
        (offset + self.get(id).len() <= self.get(of).len()).then_some(id)
    }

    /// Adds a parameter; its layout is its kernel's own.
    pub fn constant(&mut self, constant: &Arc<Constant>) -> TensorId {
        let channels = constant.data.len();
        self.constant_as(constant, Element::Real, Shape { steps: 1, batch: 1, height: 1, width: 1, channels })
    }

    /// Adds a tensor whose elements, in its own layout, are the same in every run.
    pub fn constant_as(&mut self, constant: &Arc<Constant>, element: Element, shape: Shape) -> TensorId {
        let id = self.tensor(constant.name.clone(), element, shape);
        self.roles[id.0] = Role::Constant(constant.clone());
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

    /// All tensors with their roles.
    pub fn tensors(&self) -> impl Iterator<Item = (TensorId, &Tensor, &Role)> {
        self.tensors.iter().zip(&self.roles).enumerate().map(|(i, (tensor, role))| (TensorId(i), tensor, role))
    }

    /// The tensor whose memory holds `id`, and the element at which it begins there.
    pub(crate) fn place(&self, id: TensorId) -> (TensorId, usize) {
        match self.roles[id.0] {
            Role::Part { of, offset } => (of, offset),
            _ => (id, 0),
        }
    }

    /// The tensors that stay from run to run, with their first values.
    pub fn states(&self) -> impl Iterator<Item = (TensorId, &Arc<Constant>)> {
        self.tensors().filter_map(|(id, _, role)| match role {
            Role::State(initial) => Some((id, initial)),
            _ => None,
        })
    }

    /// Lets go of the first values of what stays from run to run, once they are where they are updated.
    pub(crate) fn forget_first_values(&mut self) {
        for role in &mut self.roles {
            if let Role::State(initial) = role {
                *initial = Arc::new(Constant { name: initial.name.clone(), data: Aligned::default() });
            }
        }
    }

    /// Whether `inputs` fit the input tensors.
    pub(crate) fn check_inputs(&self, inputs: &[&[f32]]) -> Result<()> {
        if inputs.len() != self.inputs.len() {
            let n = self.inputs.len();
            return Err(Error::Input(format!("{} inputs are given; the plan takes {n}", inputs.len())));
        }
        self.inputs.iter().zip(inputs).try_for_each(|(&id, input)| self.check_values(id, input))
    }

    /// Whether `values` fit a tensor.
    pub(crate) fn check_values(&self, id: TensorId, values: &[f32]) -> Result<()> {
        let tensor = self.get(id);
        if values.len() == tensor.len() {
            return Ok(());
        }
        let (name, given, expected) = (&tensor.name, values.len(), tensor.len());
        Err(Error::Input(format!("`{name}` is given {given} elements; the plan takes {expected}")))
    }

    /// The ops in order.
    pub fn ops(&self) -> impl Iterator<Item = &dyn Op> {
        self.ops.iter().map(|op| &**op)
    }

    /// The tensors that are read back, in groups that share a buffer of at most `most` bytes: counters are many and small.
    pub(crate) fn read_back(&self, most: u64) -> Vec<Vec<TensorId>> {
        let outputs = self.outputs.iter().flat_map(|o| o.windows.iter().copied()).chain(self.counts);
        let mut groups: Vec<Vec<TensorId>> = outputs.map(|id| vec![id]).collect();
        let mut bytes = u64::MAX;
        let mut seen: HashSet<TensorId> = groups.iter().flatten().copied().collect();
        for id in self.census.iter().flat_map(Counter::read).filter(|&id| seen.insert(id)) {
            let own = self.get(id).bytes();
            bytes = bytes.saturating_add(own);
            match groups.last_mut() {
                Some(group) if bytes <= most => group.push(id),
                _ => {
                    groups.push(vec![id]);
                    bytes = own;
                }
            }
        }
        groups
    }

    /// Beside each tensor the index of the last op that uses it or a part of it; inputs and outputs live to the end, parameters
    /// and states always.
    pub(crate) fn last_uses(&self) -> Vec<usize> {
        let mut last = vec![0; self.tensors.len()];
        for (i, op) in self.ops.iter().enumerate() {
            for (id, _) in op.operands(self) {
                last[self.place(id).0.0] = i;
            }
        }
        let outputs = self.outputs.iter().flat_map(|o| o.windows.iter().copied());
        let counters = self.census.iter().flat_map(Counter::read);
        for id in outputs.chain(self.counts).chain(counters).chain(self.inputs.iter().copied()) {
            last[self.place(id).0.0] = usize::MAX;
        }
        for (last, role) in last.iter_mut().zip(&self.roles) {
            if matches!(role, Role::Constant(_) | Role::State(_)) {
                *last = usize::MAX;
            }
        }
        for i in 0..last.len() {
            last[i] = last[self.place(TensorId(i)).0.0];
        }
        last
    }
}
