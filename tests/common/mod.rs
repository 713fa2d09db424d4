//! What the integration tests share.
#![allow(dead_code)]

use std::path::PathBuf;

use spikeshade::gpu::{AdapterKind, Adapters, Context, Limits, Opening, Variants};
use spikeshade::session::{Device, Input};
use spikeshade::tensor_file::TensorFile;

/// The folder for compiled pipelines that whoever runs the tests named; else none is kept, and never among the user's own.
pub fn cache() -> Option<PathBuf> {
    std::env::var_os("SPIKESHADE_CACHE_DIR").filter(|folder| !folder.is_empty()).map(PathBuf::from)
}

/// The `spikeshade` program, which keeps as little among the user's files as the tests themselves.
#[cfg(feature = "cli")]
pub fn program() -> std::process::Command {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_spikeshade"));
    command.env("SPIKESHADE_CACHE_DIR", cache().unwrap_or_default());
    command
}

/// Every adapter of the machine as a context within `limits`. The names in `SPIKESHADE_TEST_ADAPTERS` (comma-separated parts
/// of names) must be among them.
pub fn contexts(limits: Limits) -> Vec<std::sync::Arc<Context>> {
    contexts_of(limits, Variants::Auto)
}

/// The same, and again those that run variants: with portable kernels, and with the variants for GPUs (which SwiftShader's compiler
/// runs out of memory on).
pub fn contexts_of_all_variants(limits: Limits) -> Vec<std::sync::Arc<Context>> {
    let mut contexts = contexts_of(limits, Variants::Auto);
    let hardware = hardware();
    let with_variants: Vec<bool> =
        contexts.iter().map(|c| has_tables(c) || hardware.iter().any(|name| name == c.name())).collect();
    for variants in [Variants::Portable, Variants::Events] {
        let again = contexts_of(limits, variants).into_iter().zip(&with_variants);
        contexts.extend(again.filter(|(_, has)| **has).map(|(context, _)| context));
    }
    contexts
}

/// The names of the hardware GPUs. The drivers of some fuse a multiplication and an addition, where those of the tests, and the host,
/// round both.
pub fn hardware() -> Vec<String> {
    let described = pollster::block_on(Adapters::enumerate()).describe();
    described.into_iter().filter(|a| a.kind != AdapterKind::Software).map(|a| a.name).collect()
}

/// Whether a device runs tables: software drivers whose subgroups hold eight sums.
pub fn has_tables(context: &Context) -> bool {
    let capabilities = context.capabilities();
    capabilities.software && capabilities.subgroup.is_some_and(|(least, _)| least >= 8)
}

fn contexts_of(limits: Limits, variants: Variants) -> Vec<std::sync::Arc<Context>> {
    let adapters = pollster::block_on(Adapters::enumerate());
    let described = adapters.describe();
    assert!(
        !described.is_empty(),
        "no GPU adapter; the tests run on software drivers: see the README's test command, which installs them"
    );
    for wanted in std::env::var("SPIKESHADE_TEST_ADAPTERS").unwrap_or_default().split(',').filter(|w| !w.is_empty()) {
        let found = described.iter().any(|a| a.name.to_lowercase().contains(&wanted.to_lowercase()));
        assert!(found, "no adapter {wanted:?} among {:?}", described.iter().map(|a| &a.name).collect::<Vec<_>>());
    }
    let open = |index| {
        let opening = Opening { limits, variants, cache: cache() };
        pollster::block_on(Context::open_with(&adapters, index, opening)).unwrap()
    };
    described.iter().map(|a| open(a.index)).collect()
}

/// The reference executor and every adapter.
pub fn devices() -> Vec<Device> {
    let mut devices = vec![Device::Cpu];
    devices.extend(contexts_of_all_variants(Limits::default()).into_iter().map(Device::Gpu));
    devices
}

/// The reference fixtures that the repository holds, and those of the folder `SPIKESHADE_FIXTURES`, if it is set. Fixtures of
/// a training step have batch statistics and are left out.
pub fn fixtures() -> Vec<PathBuf> {
    ending_in(&["_eval.safetensors", "_evalgrad.safetensors"])
}

/// Of the same folders, the fixtures with gradients, of training steps too.
pub fn gradient_fixtures() -> Vec<PathBuf> {
    ending_in(&["_evalgrad.safetensors", "_traingrad.safetensors"])
}

fn ending_in(ends: &[&str]) -> Vec<PathBuf> {
    let own = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let folders = [Some(own), std::env::var_os("SPIKESHADE_FIXTURES").map(PathBuf::from)];
    let mut paths: Vec<PathBuf> = folders
        .into_iter()
        .flatten()
        .flat_map(|folder| std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()))
        .filter(|p| {
            let name = p.file_name().unwrap().to_string_lossy();
            ends.iter().any(|end| name.ends_with(end))
        })
        .collect();
    paths.sort();
    paths
}

/// A fixture's input: images `[B, C, H, W]`, or a sequence `[T, B, C, H, W]`.
pub fn input(file: &TensorFile) -> Input {
    let shape = file.shape("in.x").unwrap();
    let (timesteps, batch) = if shape.len() == 5 { (Some(shape[0]), shape[1]) } else { (None, shape[0]) };
    Input { batch, timesteps, data: file.f32("in.x").unwrap() }
}
