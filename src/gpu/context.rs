//! A device: its errors scoped to the call that made them, its pipelines and parameters cached, its memory counted.

use std::collections::HashMap;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::measure::Measurement;
use super::oneshot::{Sender, oneshot};
use super::pipelines::Pipelines;
use super::{Adapters, Capabilities, ForGpus, Limits, Opening, Variants};
use crate::recording::Constant;
use crate::{Error, Result};

/// An open device with everything that outlives one plan.
pub struct Context {
    pub(super) device: wgpu::Device,
    pub(super) queue: wgpu::Queue,
    limits: Limits,
    name: String,
    identity: String,
    timestamps: bool,
    #[cfg(not(target_arch = "wasm32"))]
    software: bool,
    capabilities: Capabilities,
    measurement: Option<Measurement>,
    lost: Arc<Mutex<Lost>>,
    allocated: Arc<AtomicU64>,
    pub(super) pipelines: Pipelines,
    constants: Mutex<HashMap<usize, Uploaded>>,
}

/// Whether the device is lost, and who waits for that.
#[derive(Default)]
struct Lost {
    why: Option<String>,
    waiting: Vec<Sender<String>>,
}

impl Lost {
    fn declare(lost: &Mutex<Lost>, why: String) {
        let waiting = {
            let mut lost = lock(lost);
            lost.why = Some(why.clone());
            std::mem::take(&mut lost.waiting)
        };
        waiting.into_iter().for_each(|sender| sender.send(why.clone()));
    }
}

/// A parameter and its buffer, which goes when the last model that has the parameter goes.
type Uploaded = (Weak<Constant>, Arc<Buffer>);

/// A buffer whose bytes are counted while it lives.
pub struct Buffer {
    pub(super) raw: wgpu::Buffer,
    allocated: Arc<AtomicU64>,
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.allocated.fetch_sub(self.raw.size(), Ordering::Relaxed);
    }
}

/// Locks whatever a panicked thread may have left: every value here is valid between any two statements.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn identity(info: &wgpu::AdapterInfo, variants: Variants) -> String {
    let name = super::adapter::name(info);
    let driver = format!("{} {}", info.driver, info.driver_info);
    match variants {
        Variants::Auto => format!("{name}, {}", driver.trim()),
        _ => format!("{name}, {}, {variants:?} variants", driver.trim()),
    }
}

impl Context {
    /// Opens adapter `index` as [`Opening::from_env`] has it.
    ///
    /// # Errors
    /// [`Error::Gpu`] if there is no such adapter or it refuses the device.
    pub async fn open(adapters: &Adapters, index: usize) -> Result<Arc<Context>> {
        Self::open_with(adapters, index, Opening::from_env()?).await
    }

    /// As [`Context::open`], as `opening` has it.
    ///
    /// # Errors
    /// [`Error::Gpu`] if there is no such adapter or it refuses the device.
    pub async fn open_with(adapters: &Adapters, index: usize, opening: Opening) -> Result<Arc<Context>> {
        let Opening { limits, variants, cache } = opening;
        let adapter = adapters.all.get(index).ok_or_else(|| Error::Gpu(format!("there is no adapter {index}")))?;
        let info = adapter.get_info();
        let name = super::adapter::name(&info);
        let mut features = adapter.features() & (wgpu::Features::TIMESTAMP_QUERY | wgpu::Features::PIPELINE_CACHE);
        let capabilities = match variants {
            Variants::Auto => super::adapter::capabilities(adapter),
            Variants::Portable | Variants::Measured => Capabilities::default(),
            Variants::Events => Capabilities { for_gpus: ForGpus::Always, ..Capabilities::default() },
        };
        features.set(wgpu::Features::SUBGROUP, capabilities.subgroup.is_some());
        let own = adapter.limits();
        let mut required_limits = wgpu::Limits::default().or_worse_values_from(&own);
        let larger = |asked: u64, own: u64, default: u64| asked.min(own).max(default);
        required_limits.max_storage_buffer_binding_size = larger(
            limits.binding,
            own.max_storage_buffer_binding_size,
            required_limits.max_storage_buffer_binding_size,
        );
        required_limits.max_buffer_size = larger(limits.buffer, own.max_buffer_size, required_limits.max_buffer_size);
        let granted = Limits {
            binding: required_limits.max_storage_buffer_binding_size.min(limits.binding),
            buffer: required_limits.max_buffer_size.min(limits.buffer),
            memory: limits.memory,
            groups: required_limits.max_compute_workgroups_per_dimension.min(limits.groups),
            workgroup_memory: u64::from(required_limits.max_compute_workgroup_storage_size)
                .min(limits.workgroup_memory),
            uniform_alignment: required_limits.min_uniform_buffer_offset_alignment.max(16),
        };
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("spikeshade"),
            required_features: features,
            required_limits,
            ..Default::default()
        };
        let (device, queue) = adapter.request_device(&descriptor).await.map_err(|e| {
            Error::Gpu(format!("{name} refused a device ({e}); choose another with `--device`, or `--device cpu`"))
        })?;
        let lost = Arc::new(Mutex::new(Lost::default()));
        device.set_device_lost_callback({
            let lost = lost.clone();
            move |reason, message| {
                // Natively that is the context's own end; a browser's page can destroy a device that others use.
                if cfg!(target_arch = "wasm32") || reason != wgpu::DeviceLostReason::Destroyed {
                    Lost::declare(&lost, if message.is_empty() { format!("{reason:?}") } else { message });
                }
            }
        });
        device.on_uncaptured_error(Arc::new(|e| log::error!("{e}")));
        let pipelines = Pipelines::new(&device, &info, cache.as_deref());
        let by_measurement = match variants {
            Variants::Auto => !capabilities.software,
            Variants::Measured => true,
            Variants::Portable | Variants::Events => false,
        };
        Ok(Arc::new(Context {
            device,
            queue,
            limits: granted,
            identity: identity(&info, variants),
            name,
            timestamps: features.contains(wgpu::Features::TIMESTAMP_QUERY),
            #[cfg(not(target_arch = "wasm32"))]
            software: super::adapter::capabilities(adapter).software,
            capabilities,
            // A browser has no clock that could tell.
            measurement: (by_measurement && cfg!(not(target_arch = "wasm32")))
                .then(|| Measurement::new(&info, cache.as_deref())),
            lost,
            allocated: Arc::default(),
            pipelines,
            constants: Mutex::default(),
        }))
    }

    /// The adapter's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its name, driver and choice of variants: what the last bits of a result may depend on. What a measurement chose is not part
    /// of it, though a driver may fuse batch norm's multiplication and addition in one kernel and not in another.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// What plans are kept within.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Whether dispatches can be timed on the device.
    pub fn has_timestamps(&self) -> bool {
        self.timestamps
    }

    /// Whether its driver works on the processor, whatever the variants.
    #[cfg(not(target_arch = "wasm32"))]
    pub(super) fn is_software(&self) -> bool {
        self.software
    }

    /// What decides between variants of a kernel, as far as it is known.
    pub fn capabilities(&self) -> Capabilities {
        match self.measurement.as_ref().and_then(Measurement::get) {
            Some(measured) => Capabilities { for_gpus: ForGpus::Measured(measured), ..self.capabilities },
            None => self.capabilities,
        }
    }

    /// Which variants for GPUs are faster here; `None` where that is no question.
    pub(super) fn measurement(&self) -> Option<&Measurement> {
        self.measurement.as_ref()
    }

    /// Bytes of all buffers that exist on the device now.
    pub fn allocated(&self) -> u64 {
        self.release_constants();
        self.allocated.load(Ordering::Relaxed)
    }

    /// Why the device was lost, if it was.
    pub fn lost(&self) -> Option<String> {
        lock(&self.lost).why.clone()
    }

    /// Waits until the device is lost, and says why; an error if the context goes first.
    pub fn until_lost(&self) -> impl Future<Output = Result<String>> + use<> {
        let (sender, receiver) = oneshot();
        let mut lost = lock(&self.lost);
        match lost.why.clone() {
            Some(why) => sender.send(why),
            None => lost.waiting.push(sender),
        }
        receiver
    }

    /// Declares the device lost, as a driver would; every later call answers [`Error::DeviceLost`].
    pub fn mark_lost(&self, why: &str) {
        Lost::declare(&self.lost, why.to_owned());
        self.device.destroy();
    }

    pub(super) fn check(&self) -> Result<()> {
        self.lost().map_or(Ok(()), |why| Err(Error::DeviceLost(why)))
    }

    /// Runs `f` and turns whatever wgpu objects to inside it into an error that begins with `what`.
    pub(super) fn scoped<R>(&self, what: &str, f: impl FnOnce() -> R) -> impl Future<Output = Result<R>> {
        let checked = self.check();
        let filters = [wgpu::ErrorFilter::Internal, wgpu::ErrorFilter::OutOfMemory, wgpu::ErrorFilter::Validation];
        let mut scopes: Vec<_> = filters.map(|f| self.device.push_error_scope(f)).into();
        let value = checked.map(|()| f());
        // Scopes are popped innermost first, and here, as they belong to this thread; their answers may come later.
        let mut popped = Vec::new();
        while let Some(scope) = scopes.pop() {
            popped.push(scope.pop());
        }
        let what = what.to_owned();
        async move {
            let value = value?;
            let mut errors = Vec::new();
            for answer in popped {
                errors.extend(answer.await);
            }
            self.check()?;
            match errors.into_iter().next() {
                None => Ok(value),
                Some(wgpu::Error::OutOfMemory { .. }) => Err(Error::OutOfMemory(format!(
                    "{what}: {} is out of memory; use a smaller batch, or `--device cpu`",
                    self.name
                ))),
                Some(e) => Err(Error::Gpu(format!("{what}: {e}"))),
            }
        }
    }

    /// A new buffer; call inside [`Context::scoped`].
    pub(super) fn buffer(&self, label: &str, size: u64, usage: wgpu::BufferUsages) -> Buffer {
        let raw = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some(label),
            size: size.max(4).next_multiple_of(4),
            usage,
            mapped_at_creation: false,
        });
        self.allocated.fetch_add(raw.size(), Ordering::Relaxed);
        Buffer { raw, allocated: self.allocated.clone() }
    }

    /// Lets go of the buffers of parameters that no model has any more.
    fn release_constants(&self) {
        lock(&self.constants).retain(|_, (alive, _)| alive.strong_count() > 0);
    }

    /// The buffer of a parameter, uploaded once for all plans; call inside [`Context::scoped`].
    pub(super) fn constant(&self, constant: &Arc<Constant>) -> Arc<Buffer> {
        self.release_constants();
        let mut constants = lock(&self.constants);
        let key = Arc::as_ptr(constant) as usize;
        let (_, buffer) = constants.entry(key).or_insert_with(|| {
            let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST;
            let size = super::memory::constant_bytes(constant);
            let buffer = self.buffer(&constant.name, size, usage);
            self.queue.write_buffer(&buffer.raw, 0, bytemuck::cast_slice(&constant.data));
            (Arc::downgrade(constant), Arc::new(buffer))
        });
        buffer.clone()
    }

    /// Lets go of the buffers of parameters that no plan uses: after an error some may be invalid.
    pub(super) fn release_unused_constants(&self) {
        lock(&self.constants).retain(|_, (_, buffer)| Arc::strong_count(buffer) > 1);
    }
}
