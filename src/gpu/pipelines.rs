//! Compute pipelines: each compiled once for a device, several at a time where there are threads.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};
#[cfg(not(target_arch = "wasm32"))]
use std::time::{Duration, Instant};

use super::Context;
#[cfg(not(target_arch = "wasm32"))]
use super::cache::PipelineCache;
use super::context::lock;
use crate::kernels::{Dispatch, Kernel};
use crate::{Error, Result};

/// Kernel, entry point and the bits of its constants.
type Key = (usize, &'static str, Vec<(&'static str, u64)>);

/// A module once it is made, or why it cannot be, for everyone who waited for it.
type Module = OnceLock<Result<wgpu::ShaderModule>>;

/// What was compiled for a device. What failed is not kept.
#[derive(Default)]
pub(super) struct Pipelines {
    /// By kernel; a thread that wants a module which another one is making waits for it.
    modules: Mutex<HashMap<usize, Arc<Module>>>,
    made: Mutex<HashMap<Key, wgpu::ComputePipeline>>,
    /// What earlier processes compiled.
    #[cfg(not(target_arch = "wasm32"))]
    cache: Option<PipelineCache>,
    #[cfg(not(target_arch = "wasm32"))]
    spent: Mutex<Preparation>,
}

/// How long a context's plans took to make ready.
#[cfg(not(target_arch = "wasm32"))]
#[derive(Clone, Copy, Debug, Default)]
pub struct Preparation {
    /// Compiling pipelines, and what went on meanwhile.
    pub whole: Duration,
    /// Of this, how long one of the threads allocated buffers and uploaded parameters instead of compiling.
    pub upload: Duration,
}

/// Which one: two kernels may have one stem, but no place.
fn address(kernel: &'static Kernel) -> usize {
    std::ptr::from_ref(kernel).addr()
}

fn key(dispatch: &Dispatch) -> Key {
    let bits = dispatch.constants.iter().map(|&(name, value)| (name, value.to_bits())).collect();
    (address(dispatch.kernel), dispatch.entry, bits)
}

impl Pipelines {
    /// None yet, but for what earlier processes left in `folder` of a device made from `adapter`.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn new(device: &wgpu::Device, adapter: &wgpu::AdapterInfo, folder: Option<&Path>) -> Self {
        let cache = folder.and_then(|folder| PipelineCache::open(device, adapter, folder));
        Pipelines { cache, ..Pipelines::default() }
    }

    /// None yet; a browser keeps its own.
    #[cfg(target_arch = "wasm32")]
    pub fn new(_: &wgpu::Device, _: &wgpu::AdapterInfo, _: Option<&Path>) -> Self {
        Pipelines::default()
    }

    fn get(&self, dispatch: &Dispatch) -> Option<wgpu::ComputePipeline> {
        lock(&self.made).get(&key(dispatch)).cloned()
    }
}

impl Context {
    /// How long its plans took to make ready so far.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn preparation(&self) -> Preparation {
        *lock(&self.pipelines.spent)
    }

    /// The pipeline of each dispatch, which stands beside its layer; `meanwhile` runs on this thread while others compile.
    ///
    /// # Errors
    /// [`crate::Error::Gpu`] with the first layer and kernel that the device refuses, [`crate::Error::DeviceLost`].
    pub(super) async fn pipelines<R>(
        &self,
        dispatches: &[(&str, Dispatch)],
        meanwhile: impl FnOnce() -> R,
    ) -> (Result<Vec<wgpu::ComputePipeline>>, R) {
        let mut known = HashSet::new();
        let new: Vec<&(&str, Dispatch)> =
            dispatches.iter().filter(|(_, d)| known.insert(key(d)) && self.pipelines.get(d).is_none()).collect();
        let (compiled, value) = self.compile_all(&new, meanwhile).await;
        let found = compiled.and_then(|()| {
            let lost = || Error::Gpu("a pipeline was not compiled; run again".to_owned());
            dispatches.iter().map(|(_, d)| self.pipelines.get(d).ok_or_else(lost)).collect()
        });
        (found, value)
    }

    #[cfg(target_arch = "wasm32")]
    async fn compile_all<R>(&self, new: &[&(&str, Dispatch)], meanwhile: impl FnOnce() -> R) -> (Result<()>, R) {
        use std::future::poll_fn;
        use std::task::Poll;

        let value = meanwhile();
        // All modules, and then all pipelines, are handed to the browser before any is waited for. One scope each: it reports an
        // invalid shader only through its scope, and silently goes on.
        let mut kernels = HashSet::new();
        let kernels = new.iter().map(|(_, d)| d.kernel).filter(|kernel| kernels.insert(address(kernel)));
        let cells = kernels.map(|kernel| (kernel, self.cell(kernel))).filter(|(_, cell)| cell.get().is_none());
        let modules: Vec<_> = cells.map(|(kernel, cell)| (cell, self.module(kernel))).collect();
        for (cell, module) in modules {
            // Another plan's may have been first.
            let _ = cell.set(module.await);
        }
        let mut compiling: Vec<_> = new.iter().map(|(layer, d)| Some(Box::pin(self.compile(layer, d)))).collect();
        let mut failed = None;
        poll_fn(|cx| {
            for slot in &mut compiling {
                if let Some(Poll::Ready(done)) = slot.as_mut().map(|f| f.as_mut().poll(cx)) {
                    *slot = None;
                    failed = failed.take().or(done.err());
                }
            }
            if compiling.iter().all(Option::is_none) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        (failed.map_or(Ok(()), Err), value)
    }

    #[cfg(not(target_arch = "wasm32"))]
    async fn compile_all<R>(&self, new: &[&(&str, Dispatch)], meanwhile: impl FnOnce() -> R) -> (Result<()>, R) {
        use std::sync::atomic::{AtomicUsize, Ordering};
        /// As the main thread of most programs has; naga's parser recurses.
        const STACK: usize = 8 << 20;

        let next = AtomicUsize::new(0);
        let failed: Mutex<Option<(usize, Error)>> = Mutex::new(None);
        // Taken in order, so that everything before a failure is tried, and the first in order is reported.
        let work = || {
            while lock(&failed).is_none() {
                let i = next.fetch_add(1, Ordering::Relaxed);
                let Some((layer, dispatch)) = new.get(i) else { return };
                if let Err(e) = pollster::block_on(self.compile(layer, dispatch)) {
                    let mut failed = lock(&failed);
                    if failed.as_ref().is_none_or(|(first, _)| i < *first) {
                        *failed = Some((i, e));
                    }
                }
            }
        };
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(new.len());
        let start = Instant::now();
        let mut apart = Duration::ZERO;
        let value = std::thread::scope(|scope| {
            for _ in 1..threads {
                // Where no thread can be started, this one does all of it.
                let builder = std::thread::Builder::new().name("spikeshade compiles".to_owned()).stack_size(STACK);
                let _ = builder.spawn_scoped(scope, work);
            }
            let value = meanwhile();
            apart = start.elapsed();
            work();
            value
        });
        {
            let mut spent = lock(&self.pipelines.spent);
            *spent = Preparation { whole: spent.whole + start.elapsed(), upload: spent.upload + apart };
        }
        if let Some((_, e)) = failed.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
            return (Err(e), value);
        }
        if let Some(cache) = self.pipelines.cache.as_ref().filter(|_| !new.is_empty()) {
            cache.save();
        }
        (Ok(()), value)
    }

    fn cell(&self, kernel: &'static Kernel) -> Arc<Module> {
        lock(&self.pipelines.modules).entry(address(kernel)).or_default().clone()
    }

    /// Compiles a kernel's text, in error scopes of its own.
    fn module(&self, kernel: &'static Kernel) -> impl Future<Output = Result<wgpu::ShaderModule>> {
        self.scoped(kernel.stem, || {
            self.device.create_shader_module(wgpu::ShaderModuleDescriptor {
                label: Some(kernel.stem),
                source: wgpu::ShaderSource::Wgsl(kernel.source().into()),
            })
        })
    }

    async fn compile(&self, layer: &str, dispatch: &Dispatch) -> Result<()> {
        let kernel = dispatch.kernel;
        let cell = self.cell(kernel);
        #[cfg(not(target_arch = "wasm32"))]
        let module = cell.get_or_init(|| pollster::block_on(self.module(kernel)));
        #[cfg(target_arch = "wasm32")]
        let module = match cell.get() {
            Some(module) => module,
            None => {
                let module = self.module(kernel).await;
                cell.get_or_init(|| module)
            }
        };
        let module = match module {
            Ok(module) => module,
            Err(why) => {
                let mut modules = lock(&self.pipelines.modules);
                if modules.get(&address(kernel)).is_some_and(|m| Arc::ptr_eq(m, &cell)) {
                    modules.remove(&address(kernel));
                }
                drop(modules);
                self.check()?;
                return Err(match why {
                    Error::OutOfMemory(why) => Error::OutOfMemory(format!("{layer}: {why}")),
                    why => Error::Gpu(format!("{layer}: {why}")),
                });
            }
        };
        let what = format!("{layer}: {}", kernel.stem);
        let made = self.scoped(&what, || {
            self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: Some(kernel.stem),
                layout: None,
                module,
                entry_point: Some(dispatch.entry),
                compilation_options: wgpu::PipelineCompilationOptions {
                    constants: &dispatch.constants,
                    // Every kernel writes its workgroup memory before it reads it.
                    zero_initialize_workgroup_memory: false,
                },
                #[cfg(not(target_arch = "wasm32"))]
                cache: self.pipelines.cache.as_ref().map(PipelineCache::raw),
                #[cfg(target_arch = "wasm32")]
                cache: None,
            })
        });
        let pipeline = made.await?;
        lock(&self.pipelines.made).insert(key(dispatch), pipeline);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::{Adapters, Limits, Opening, Variants};
    use crate::kernels::Op;
    use crate::kernels::residual_add::ResidualAddOp;
    use crate::recording::{Constant, Recording};
    use crate::tensor::{Element, Shape};

    #[test]
    fn whoever_waited_for_a_broken_module_is_told_why() {
        let mut r = Recording::default();
        let shape = Shape { steps: 1, batch: 1, height: 1, width: 1, channels: 4 };
        let x = r.constant(&Arc::new(Constant { name: "x".to_owned(), data: vec![1.5; 4].into() }));
        let out = r.tensor("out", Element::Real, shape);
        let op = ResidualAddOp { layer: String::new(), input: x, residual: x, out };
        let dispatch = op.dispatch(&r);
        let kernel = dispatch.kernel;
        let adapters = pollster::block_on(Adapters::enumerate());
        for index in 0..adapters.all.len() {
            let opening = Opening { limits: Limits::default(), variants: Variants::Portable, cache: None };
            let context = pollster::block_on(Context::open_with(&adapters, index, opening)).unwrap();
            let compile = |layer| pollster::block_on(context.compile(layer, &dispatch));
            let broken = |as_what: fn(String) -> Error| {
                let cell = Module::from(Err(as_what(format!("{}: line 3 is nonsense", kernel.stem))));
                lock(&context.pipelines.modules).insert(address(kernel), Arc::new(cell));
            };
            // Each of two layers that share it names itself and the cause.
            for layer in ["a", "b"] {
                let expected = format!("{layer}: {}: line 3 is nonsense", kernel.stem);
                broken(Error::Gpu);
                let error = compile(layer).unwrap_err();
                assert!(matches!(&error, Error::Gpu(why) if *why == expected), "{error}");
                broken(Error::OutOfMemory);
                let error = compile(layer).unwrap_err();
                assert!(matches!(&error, Error::OutOfMemory(why) if *why == expected), "{error}");
                // It is not kept.
                assert!(lock(&context.pipelines.modules).is_empty());
            }
            compile("c").unwrap();
            assert_eq!(lock(&context.pipelines.modules).len(), 1);
            broken(Error::Gpu);
            context.mark_lost("pulled out");
            assert!(matches!(compile("d"), Err(Error::DeviceLost(why)) if why == "pulled out"));
        }
    }
}
