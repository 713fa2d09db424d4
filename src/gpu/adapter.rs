//! Which adapters there are, and which one a name, an index or nothing at all chooses.

use super::{Capabilities, ForGpus};
use crate::error::clip;
use crate::{Error, Result};

/// What an adapter runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AdapterKind {
    /// A software driver on the processor (lavapipe, SwiftShader, WARP).
    Software,
    /// The driver does not say.
    Other,
    /// A GPU passed through to a virtual machine.
    Virtual,
    /// A GPU that shares the processor's memory.
    Integrated,
    /// A GPU of its own.
    Discrete,
}

impl AdapterKind {
    /// As a person reads it.
    pub fn label(self) -> &'static str {
        match self {
            AdapterKind::Software => "software",
            AdapterKind::Other => "other",
            AdapterKind::Virtual => "virtual GPU",
            AdapterKind::Integrated => "integrated GPU",
            AdapterKind::Discrete => "discrete GPU",
        }
    }
}

/// An adapter as `spikeshade devices` shows it.
#[derive(Clone, Debug)]
pub struct AdapterDescription {
    /// Its place in the list, which `--device` takes.
    pub index: usize,
    /// The driver's name for it.
    pub name: String,
    /// Vulkan, Metal, Dx12 or BrowserWebGpu.
    pub backend: String,
    /// The driver and its version.
    pub driver: String,
    /// What it runs on.
    pub kind: AdapterKind,
    /// Its own limits by WebGPU's names, beside what a device asks for: WebGPU's defaults, but for the sizes of bindings and
    /// buffers, which may be larger.
    pub limits: Vec<(&'static str, u64, u64)>,
    /// Optional features that could be of use, and whether it has them.
    pub features: Vec<(&'static str, bool)>,
    /// Smallest and largest subgroup, in invocations.
    pub subgroup: (u32, u32),
}

/// The adapters of this machine.
pub struct Adapters {
    pub(super) all: Vec<wgpu::Adapter>,
}

fn kind(info: &wgpu::AdapterInfo) -> AdapterKind {
    match info.device_type {
        wgpu::DeviceType::DiscreteGpu => AdapterKind::Discrete,
        wgpu::DeviceType::IntegratedGpu => AdapterKind::Integrated,
        wgpu::DeviceType::VirtualGpu => AdapterKind::Virtual,
        wgpu::DeviceType::Cpu => AdapterKind::Software,
        wgpu::DeviceType::Other => AdapterKind::Other,
    }
}

/// Kind first; among equals wider subgroups (of the software drivers the faster one has them). Whoever takes the greatest of
/// what is left should take the first, which the backend prefers.
fn rank(info: &wgpu::AdapterInfo) -> (AdapterKind, u32) {
    (kind(info), info.subgroup_max_size)
}

impl Adapters {
    /// Asks every backend this build has. Waits for the browser where there is one.
    pub async fn enumerate() -> Self {
        let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
        #[cfg(not(target_arch = "wasm32"))]
        let all = instance
            .enumerate_adapters(wgpu::Backends::all())
            .await
            .into_iter()
            .filter(|a| a.get_downlevel_capabilities().flags.contains(wgpu::DownlevelFlags::COMPUTE_SHADERS))
            .collect();
        #[cfg(target_arch = "wasm32")]
        let all = {
            let options = wgpu::RequestAdapterOptions {
                power_preference: wgpu::PowerPreference::HighPerformance,
                ..Default::default()
            };
            instance.request_adapter(&options).await.into_iter().collect()
        };
        Adapters { all }
    }

    /// All of them, in the order of their indices.
    pub fn describe(&self) -> Vec<AdapterDescription> {
        self.all.iter().enumerate().map(|(index, adapter)| describe(index, adapter)).collect()
    }

    /// The index of the fastest kind of adapter, software ones last; `None` where there are none.
    pub fn best(&self) -> Option<usize> {
        (0..self.all.len()).rev().max_by_key(|&i| rank(&self.all[i].get_info()))
    }

    /// The index of the best adapter that is not a software driver.
    pub fn best_hardware(&self) -> Option<usize> {
        self.best().filter(|&i| kind(&self.all[i].get_info()) != AdapterKind::Software)
    }

    /// What `text` chooses: `gpu` the best adapter, a number that index, anything else the best adapter whose name, driver or
    /// backend contains it, whatever the case.
    ///
    /// # Errors
    /// [`Error::Gpu`] with the list of adapters where there is none, or none that fits; blank text fits none.
    pub fn choose(&self, text: &str) -> Result<usize> {
        if self.all.is_empty() {
            return Err(Error::Gpu(
                "no GPU adapter was found; install a Vulkan driver (Debian and Ubuntu: mesa-vulkan-drivers has a software one), \
                 or use `--device cpu`"
                    .to_owned(),
            ));
        }
        if text.eq_ignore_ascii_case("gpu") {
            return self.best().ok_or_else(|| Error::Gpu("no GPU adapter was found; use `--device cpu`".to_owned()));
        }
        // Part of every name, and hardly meant.
        if text.trim().is_empty() {
            return Err(self.no_such(text));
        }
        if let Ok(index) = text.parse::<usize>() {
            return if index < self.all.len() { Ok(index) } else { Err(self.no_such(text)) };
        }
        let wanted = text.to_lowercase();
        let fits = |i: &usize| {
            let info = self.all[*i].get_info();
            let about = format!("{} {} {} {:?}", info.name, info.driver, info.driver_info, info.backend);
            about.to_lowercase().contains(&wanted)
        };
        (0..self.all.len())
            .rev()
            .filter(fits)
            .max_by_key(|&i| rank(&self.all[i].get_info()))
            .ok_or_else(|| self.no_such(text))
    }

    fn no_such(&self, text: &str) -> Error {
        let list: Vec<String> =
            self.describe().iter().map(|a| format!("\n  {}: {} ({})", a.index, clip(&a.name), a.backend)).collect();
        Error::Gpu(format!(
            "no adapter `{}`; `--device` takes auto, cpu, gpu, an index or a part of a name:{}",
            clip(text),
            list.concat()
        ))
    }
}

/// What decides between variants of a kernel.
pub(super) fn capabilities(adapter: &wgpu::Adapter) -> Capabilities {
    let info = adapter.get_info();
    let has_subgroups = adapter.features().contains(wgpu::Features::SUBGROUP);
    Capabilities {
        software: kind(&info) == AdapterKind::Software,
        subgroup: has_subgroups.then_some((info.subgroup_min_size, info.subgroup_max_size)),
        for_gpus: ForGpus::Never,
    }
}

/// What an adapter is called: browsers leave its name empty, and messages name it.
pub(super) fn name(info: &wgpu::AdapterInfo) -> String {
    match info.name.trim() {
        "" => "the GPU".to_owned(),
        name => name.to_owned(),
    }
}

fn describe(index: usize, adapter: &wgpu::Adapter) -> AdapterDescription {
    let info = adapter.get_info();
    let (own, standard) = (adapter.limits(), wgpu::Limits::default());
    let has = adapter.features();
    let driver = format!("{} {}", info.driver, info.driver_info);
    AdapterDescription {
        index,
        kind: kind(&info),
        backend: format!("{:?}", info.backend),
        driver: driver.trim().to_owned(),
        limits: vec![
            (
                "maxStorageBufferBindingSize",
                own.max_storage_buffer_binding_size,
                super::LARGEST.max(standard.max_storage_buffer_binding_size),
            ),
            ("maxBufferSize", own.max_buffer_size, super::LARGEST.max(standard.max_buffer_size)),
            (
                "maxStorageBuffersPerShaderStage",
                own.max_storage_buffers_per_shader_stage.into(),
                standard.max_storage_buffers_per_shader_stage.into(),
            ),
            (
                "maxComputeWorkgroupStorageSize",
                own.max_compute_workgroup_storage_size.into(),
                standard.max_compute_workgroup_storage_size.into(),
            ),
            (
                "maxComputeInvocationsPerWorkgroup",
                own.max_compute_invocations_per_workgroup.into(),
                standard.max_compute_invocations_per_workgroup.into(),
            ),
            (
                "maxComputeWorkgroupsPerDimension",
                own.max_compute_workgroups_per_dimension.into(),
                standard.max_compute_workgroups_per_dimension.into(),
            ),
        ],
        features: vec![
            ("subgroups", has.contains(wgpu::Features::SUBGROUP)),
            ("shader-f16", has.contains(wgpu::Features::SHADER_F16)),
            ("timestamp-query", has.contains(wgpu::Features::TIMESTAMP_QUERY)),
            ("cooperative-matrix", has.contains(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX)),
        ],
        subgroup: (info.subgroup_min_size, info.subgroup_max_size),
        name: name(&info),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_adapter_without_a_name_is_called_the_gpu() {
        let mut info = wgpu::AdapterInfo::new(wgpu::DeviceType::Other, wgpu::Backend::BrowserWebGpu);
        for (given, called) in [("", "the GPU"), (" ", "the GPU"), (" llvmpipe ", "llvmpipe")] {
            info.name = given.to_owned();
            assert_eq!(name(&info), called);
        }
    }
}
