//! A recording made ready for one device: pipelines, buffers and bind groups, made once and replayed.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::context::{Buffer, Context};
use super::memory::MemoryPlan;
use super::oneshot::oneshot;
use super::{Capabilities, measure};
use crate::kernels::Dispatch;
use crate::outputs::{Outputs, Raw};
use crate::recording::{Constant, Recording, TensorId};
use crate::tensor::Element;
use crate::{Error, Result};

/// A recording on a device.
pub struct Plan {
    context: Arc<Context>,
    recording: Recording,
    memory: MemoryPlan,
    buffers: Vec<Buffer>,
    steps: Vec<Step>,
    /// Beside the tensors that share it, one after another, each buffer that is read back.
    readback: Vec<(Vec<TensorId>, Buffer)>,
    /// Whether `readback` is mapped or about to be: a run that was dropped half-way leaves it so.
    mapped: bool,
    // Kept alive for the bind groups.
    _uniforms: Buffer,
    _constants: Vec<Arc<Buffer>>,
}

struct Step {
    /// The stem of the kernel or variant.
    kernel: &'static str,
    pipeline: wgpu::ComputePipeline,
    bind_group: wgpu::BindGroup,
    grid: [u32; 3],
}

/// How long one dispatch took on the device.
#[derive(Clone, Debug)]
pub struct DispatchTime {
    /// The stem of the kernel, or of the variant that ran.
    pub kernel: &'static str,
    /// The layer.
    pub layer: String,
    /// Between the pass's two timestamps.
    pub time: Duration,
}

/// How long whoever waits for a GPU looks itself whether it is ready.
#[cfg(not(target_arch = "wasm32"))]
const BRIEF: Duration = Duration::from_millis(2);

impl Plan {
    /// Compiles pipelines, allocates buffers and uploads parameters.
    ///
    /// # Errors
    /// [`Error::Gpu`] if something exceeds the device's limits or memory, [`Error::DeviceLost`].
    pub async fn new(context: &Arc<Context>, recording: Recording) -> Result<Plan> {
        if measure::decides(&recording) {
            measure::settle(context).await?;
        }
        let capabilities = context.capabilities();
        Self::with(context, recording, capabilities).await
    }

    /// As [`Plan::new`], with the kernels' variants for `capabilities`.
    pub(super) async fn with(
        context: &Arc<Context>,
        mut recording: Recording,
        capabilities: Capabilities,
    ) -> Result<Plan> {
        let limits = context.limits();
        let memory = MemoryPlan::new(&recording, limits)?;
        let dispatches: Vec<(&str, Dispatch)> =
            recording.ops().map(|op| (op.layer(), op.dispatch_on(&recording, capabilities))).collect();
        let folded = |(layer, d): &(&str, Dispatch)| {
            let too_many = || Error::Gpu(format!("{layer}: {} needs more workgroups than a grid has", d.kernel.stem));
            d.groups.fold(limits.groups).ok_or_else(too_many)
        };
        let grids = dispatches.iter().map(folded).collect::<Result<Vec<[u32; 3]>>>()?;
        let storage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC;
        let allocate = || {
            let buffers: Vec<Buffer> = memory
                .buffers
                .iter()
                .enumerate()
                .map(|(i, &n)| context.buffer(&format!("tensors {i}"), n, storage))
                .collect();
            let constants: Vec<Option<Arc<Buffer>>> =
                recording.tensors().map(|(_, _, role)| role.constant().map(|c| context.constant(c))).collect();
            for (id, initial) in recording.states() {
                let to = &buffers[memory.slots[id.0].unwrap_or(0)];
                context.queue.write_buffer(&to.raw, 0, bytemuck::cast_slice(&whole_rows(initial, &recording, id)));
            }
            let alignment = u64::from(limits.uniform_alignment);
            let mut uniform_bytes = Vec::new();
            let mut offsets = Vec::new();
            for (_, d) in &dispatches {
                offsets.push(uniform_bytes.len() as u64);
                uniform_bytes.extend_from_slice(&d.uniform);
                uniform_bytes.resize(uniform_bytes.len().next_multiple_of(alignment as usize), 0);
            }
            let usage = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
            let uniforms = context.buffer("uniforms", uniform_bytes.len() as u64, usage);
            context.queue.write_buffer(&uniforms.raw, 0, &uniform_bytes);
            let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
            let readback: Vec<_> = recording
                .read_back(limits.buffer)
                .into_iter()
                .map(|ids| {
                    let bytes = ids.iter().map(|&id| recording.get(id).bytes()).sum();
                    (ids, context.buffer("readback", bytes, usage))
                })
                .collect();
            // Copies begin while pipelines are still being compiled.
            context.queue.submit([]);
            (buffers, constants, uniforms, offsets, readback)
        };
        let (pipelines, allocated) =
            context.pipelines(&dispatches, || context.scoped("allocating the plan's buffers", allocate)).await;
        let allocated = allocated.await;
        let made = pipelines.and_then(|pipelines| allocated.map(|allocated| (pipelines, allocated)));
        let made = made.inspect_err(|_| context.release_unused_constants());
        let (pipelines, (buffers, constants, uniforms, offsets, readback)) = made?;
        let bound = context.scoped("binding the plan's buffers", || {
            let whole = |id: TensorId| match (&constants[id.0], location(&recording, &memory, id)) {
                (Some(constant), _) => constant.raw.as_entire_binding(),
                (None, (slot, offset)) => wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                    buffer: &buffers[slot].raw,
                    offset,
                    size: wgpu::BufferSize::new(recording.get(id).bytes().max(16)),
                }),
            };
            dispatches
                .iter()
                .zip(pipelines)
                .zip(&grids)
                .zip(offsets)
                .map(|((((layer, d), pipeline), &grid), offset)| {
                    let mut entries: Vec<_> = d
                        .bindings
                        .iter()
                        .map(|&(binding, id)| wgpu::BindGroupEntry { binding, resource: whole(id) })
                        .collect();
                    entries.push(wgpu::BindGroupEntry {
                        binding: d.kernel.bindings.len() as u32,
                        resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                            buffer: &uniforms.raw,
                            offset,
                            size: wgpu::BufferSize::new(d.uniform.len() as u64),
                        }),
                    });
                    let bind_group = context.device.create_bind_group(&wgpu::BindGroupDescriptor {
                        label: Some(layer),
                        layout: &pipeline.get_bind_group_layout(0),
                        entries: &entries,
                    });
                    Step { kernel: d.kernel.stem, pipeline, bind_group, grid }
                })
                .collect::<Vec<Step>>()
        });
        let steps = match bound.await {
            Ok(steps) => steps,
            Err(e) => {
                drop(constants);
                context.release_unused_constants();
                return Err(e);
            }
        };
        drop(dispatches);
        recording.forget_first_values();
        Ok(Plan {
            context: context.clone(),
            recording,
            memory,
            buffers,
            steps,
            readback,
            mapped: false,
            _uniforms: uniforms,
            _constants: constants.into_iter().flatten().collect(),
        })
    }

    /// The recording it runs.
    pub fn recording(&self) -> &Recording {
        &self.recording
    }

    /// What it allocated.
    pub fn memory(&self) -> &MemoryPlan {
        &self.memory
    }

    /// Runs on `inputs`, each input tensor's elements in its own layout; reads every output back. Whoever polls it may be kept up to
    /// 2 ms, in which a GPU is often ready.
    ///
    /// # Errors
    /// [`Error::Input`] if the inputs are not as many, or as long, as the input tensors, [`Error::Gpu`],
    /// [`Error::DeviceLost`].
    pub async fn run(&mut self, inputs: &[&[f32]]) -> Result<Outputs> {
        self.run_ops(inputs, 0..self.steps.len()).await
    }

    /// Runs a range of the ops; outputs that no op has written yet hold anything.
    ///
    /// # Errors
    /// As [`Plan::run`].
    pub async fn run_ops(&mut self, inputs: &[&[f32]], ops: Range<usize>) -> Result<Outputs> {
        self.upload(inputs).await?;
        let recorded = self.context.scoped("running the plan", || {
            let mut encoder = self.context.device.create_command_encoder(&Default::default());
            {
                let mut pass = encoder.begin_compute_pass(&Default::default());
                for step in self.steps.iter().take(ops.end).skip(ops.start) {
                    pass.set_pipeline(&step.pipeline);
                    pass.set_bind_group(0, &step.bind_group, &[]);
                    pass.dispatch_workgroups(step.grid[0], step.grid[1], step.grid[2]);
                }
            }
            self.copy_outputs(&mut encoder);
            self.context.queue.submit([encoder.finish()]);
        });
        recorded.await?;
        self.read_back().await
    }

    fn copy_outputs(&self, encoder: &mut wgpu::CommandEncoder) {
        for (ids, buffer) in &self.readback {
            let mut to = 0;
            for &id in ids {
                let (from, offset) = self.location(id);
                let bytes = self.recording.get(id).bytes();
                encoder.copy_buffer_to_buffer(&from.raw, offset, &buffer.raw, to, bytes);
                to += bytes;
            }
        }
    }

    fn location(&self, id: TensorId) -> (&Buffer, u64) {
        let (slot, offset) = location(&self.recording, &self.memory, id);
        (&self.buffers[slot], offset)
    }

    /// The values of real tensors that stay, or of outputs after a run.
    ///
    /// # Errors
    /// [`Error::Gpu`], [`Error::DeviceLost`].
    pub async fn read(&self, ids: &[TensorId]) -> Result<Vec<Vec<f32>>> {
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let copied = self.context.scoped("reading tensors back", || {
            let mut encoder = self.context.device.create_command_encoder(&Default::default());
            let copies: Vec<_> = ids
                .iter()
                .map(|&id| {
                    let (from, offset) = self.location(id);
                    let bytes = self.recording.get(id).bytes();
                    let to = self.context.buffer("read", bytes, usage);
                    encoder.copy_buffer_to_buffer(&from.raw, offset, &to.raw, 0, bytes);
                    (vec![id], to)
                })
                .collect();
            self.context.queue.submit([encoder.finish()]);
            copies
        });
        let copies = copied.await?;
        let values = self.map(&copies).await?;
        Ok(values.into_iter().map(|bytes| bytemuck::pod_collect_to_vec(&bytes)).collect())
    }

    /// Sets a tensor that stays.
    ///
    /// # Errors
    /// [`Error::Input`] if `values` are not as many as its elements, [`Error::Gpu`], [`Error::DeviceLost`].
    pub async fn write(&mut self, id: TensorId, values: &[f32]) -> Result<()> {
        self.recording.check_values(id, values)?;
        let (to, offset) = self.location(id);
        let written = self.context.scoped("uploading a tensor", || {
            self.context.queue.write_buffer(&to.raw, offset, bytemuck::cast_slice(values));
        });
        written.await
    }

    async fn upload(&mut self, inputs: &[&[f32]]) -> Result<()> {
        if std::mem::take(&mut self.mapped) {
            self.readback.iter().for_each(|(_, buffer)| buffer.raw.unmap());
        }
        self.recording.check_inputs(inputs)?;
        let written = self.context.scoped("uploading the input", || {
            for (&id, input) in self.recording.inputs.iter().zip(inputs) {
                let (to, offset) = self.location(id);
                self.context.queue.write_buffer(&to.raw, offset, bytemuck::cast_slice(input));
            }
        });
        written.await
    }

    async fn read_back(&mut self) -> Result<Outputs> {
        self.mapped = true;
        let bytes = self.map(&self.readback).await?;
        self.mapped = false;
        let mut read: std::collections::HashMap<TensorId, Raw> = Default::default();
        for ((ids, _), bytes) in self.readback.iter().zip(bytes) {
            let mut left = &bytes[..];
            for &id in ids {
                let tensor = self.recording.get(id);
                let (own, rest) = left.split_at(tensor.bytes() as usize);
                let raw = match tensor.element {
                    Element::Real => Raw::Real(bytemuck::pod_collect_to_vec(own)),
                    _ => Raw::Packed(bytemuck::pod_collect_to_vec(own)),
                };
                read.insert(id, raw);
                left = rest;
            }
        }
        // Two outputs may name one tensor.
        Ok(Outputs::read(&self.recording, |id| read.get(&id).cloned().unwrap_or_else(|| Raw::Packed(Vec::new()))))
    }

    /// The bytes of tensors in buffers they were copied to.
    async fn map(&self, copies: &[(Vec<TensorId>, Buffer)]) -> Result<Vec<Vec<u8>>> {
        let mut waiting = Vec::new();
        for (ids, buffer) in copies {
            let (sender, receiver) = oneshot();
            buffer.raw.map_async(wgpu::MapMode::Read, .., move |result| sender.send(result));
            waiting.push((ids, buffer, receiver));
        }
        // A plan without outputs is waited for as well: measurements time such.
        let answered = |idle| if waiting.is_empty() { idle } else { waiting.iter().all(|(.., r)| r.is_answered()) };
        self.wait(answered).await?;
        let mut all = Vec::new();
        for (ids, buffer, receiver) in waiting {
            let failed = |e: &dyn std::fmt::Display| {
                let name = ids.first().map_or("nothing", |&id| &self.recording.get(id).name);
                Error::Gpu(format!("reading `{name}` back: {e}"))
            };
            let mapped = receiver.await;
            self.context.check()?;
            mapped?.map_err(|e| failed(&e))?;
            let view = buffer.raw.get_mapped_range(..).map_err(|e| failed(&e))?;
            let bytes: u64 = ids.iter().map(|&id| self.recording.get(id).bytes()).sum();
            all.push(view[..bytes as usize].to_vec());
        }
        copies.iter().for_each(|(_, buffer)| buffer.raw.unmap());
        Ok(all)
    }

    /// Lets the device finish, after [`BRIEF`] on a thread of its own: whoever polls this future is not kept. The browser does so by
    /// itself. `answered` tells whether all that is waited for is there, given whether the device has nothing left to do.
    #[cfg(not(target_arch = "wasm32"))]
    async fn wait(&self, answered: impl Fn(bool) -> bool) -> Result<()> {
        // A GPU is often ready sooner than a thread is woken. A software driver would be kept from the processor.
        let start = std::time::Instant::now();
        while !self.context.is_software() && start.elapsed() < BRIEF {
            match self.context.device.poll(wgpu::PollType::Poll) {
                Ok(status) if answered(status.is_queue_empty()) => return self.context.check(),
                Ok(_) => std::hint::spin_loop(),
                // It fails again below, and is told there.
                Err(_) => break,
            }
        }
        let poll = |device: &wgpu::Device| device.poll(wgpu::PollType::wait_indefinitely());
        let (sender, receiver) = oneshot();
        let device = self.context.device.clone();
        let spawned = std::thread::Builder::new().name("spikeshade waits".to_owned()).spawn(move || {
            let polled = poll(&device);
            // First, so that the device never ends on this thread, behind the back of a program that ends too.
            drop(device);
            sender.send(polled);
        });
        let polled = match spawned {
            Ok(_) => receiver.await,
            Err(_) => Ok(poll(&self.context.device)),
        };
        self.context.check()?;
        polled?.map_err(|e| Error::Gpu(format!("waiting for {}: {e}", self.context.name())))?;
        Ok(())
    }

    #[cfg(target_arch = "wasm32")]
    async fn wait(&self, _: impl Fn(bool) -> bool) -> Result<()> {
        self.context.check()
    }

    /// Runs each dispatch in a pass of its own between two timestamps. Slower than [`Plan::run`] as a whole.
    ///
    /// # Errors
    /// [`Error::Gpu`] if the device has no timestamps, and as [`Plan::run`].
    pub async fn run_timed(&mut self, inputs: &[&[f32]]) -> Result<(Outputs, Vec<DispatchTime>)> {
        if !self.context.has_timestamps() {
            return Err(Error::Gpu(format!("{} has no timestamp queries", self.context.name())));
        }
        self.upload(inputs).await?;
        const PAIRS: usize = 1024; // a query set holds at most 4,096 timestamps
        let mut times = Vec::new();
        for (n, chunk) in self.steps.chunks(PAIRS).enumerate() {
            let count = 2 * chunk.len() as u32;
            let bytes = 8 * u64::from(count);
            let usage = wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::MAP_READ;
            let run = self.context.scoped("timing the plan", || {
                let device = &self.context.device;
                let queries = device.create_query_set(&wgpu::QuerySetDescriptor {
                    label: Some("timestamps"),
                    ty: wgpu::QueryType::Timestamp,
                    count,
                });
                let usage_resolve = wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC;
                let resolved = self.context.buffer("timestamps", bytes, usage_resolve);
                let mapped = self.context.buffer("timestamps read back", bytes, usage);
                let mut encoder = device.create_command_encoder(&Default::default());
                for (i, step) in chunk.iter().enumerate() {
                    let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
                        label: None,
                        timestamp_writes: Some(wgpu::ComputePassTimestampWrites {
                            query_set: &queries,
                            beginning_of_pass_write_index: Some(2 * i as u32),
                            end_of_pass_write_index: Some(2 * i as u32 + 1),
                        }),
                    });
                    pass.set_pipeline(&step.pipeline);
                    pass.set_bind_group(0, &step.bind_group, &[]);
                    pass.dispatch_workgroups(step.grid[0], step.grid[1], step.grid[2]);
                }
                encoder.resolve_query_set(&queries, 0..count, &resolved.raw, 0);
                encoder.copy_buffer_to_buffer(&resolved.raw, 0, &mapped.raw, 0, bytes);
                if (n + 1) * PAIRS >= self.steps.len() {
                    self.copy_outputs(&mut encoder);
                }
                self.context.queue.submit([encoder.finish()]);
                mapped
            });
            let mapped = run.await?;
            let (sender, receiver) = oneshot();
            mapped.raw.map_async(wgpu::MapMode::Read, .., move |result| sender.send(result));
            self.wait(|_| receiver.is_answered()).await?;
            receiver.await?.map_err(|e| Error::Gpu(format!("reading timestamps: {e}")))?;
            let view = mapped.raw.get_mapped_range(..).map_err(|e| Error::Gpu(format!("reading timestamps: {e}")))?;
            let stamps: Vec<u64> = bytemuck::pod_collect_to_vec(&view[..bytes as usize]);
            let period = f64::from(self.context.queue.get_timestamp_period());
            times.extend(stamps.chunks_exact(2).map(|s| (s[1].saturating_sub(s[0])) as f64 * period));
        }
        let outputs = self.read_back().await?;
        let times = self
            .recording
            .ops()
            .zip(&self.steps)
            .zip(times)
            .map(|((op, step), ns)| DispatchTime {
                kernel: step.kernel,
                layer: op.layer().to_owned(),
                time: Duration::from_nanos(ns as u64),
            })
            .collect();
        Ok((outputs, times))
    }
}

/// The shared buffer that holds a tensor, and the byte at which it begins there.
fn location(recording: &Recording, memory: &MemoryPlan, id: TensorId) -> (usize, u64) {
    let (of, offset) = recording.place(id);
    (memory.slots[of.0].unwrap_or(0), 4 * offset as u64)
}

/// A state's first values, as long as its tensor.
fn whole_rows(initial: &Constant, recording: &Recording, id: TensorId) -> Vec<f32> {
    let mut values = initial.data.to_vec();
    values.resize(recording.get(id).len(), 0.0);
    values
}
