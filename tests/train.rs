//! Training steps: determinism, agreement of devices, accumulation, state that is saved and restored.

mod common;

use std::collections::BTreeMap;

use spikeshade::checkpoint::Checkpoint;
use spikeshade::config::Config;
use spikeshade::gpu::Limits;
use spikeshade::init::{smooth_images, untrained};
use spikeshade::session::{Device, Input};
use spikeshade::train::plan::{Images, Optimizer, Schedule, Settings, StepResult, TrainingPlan};
use spikeshade::train::recipe::Recipe;
use spikeshade::train::{adamw::AdamW, gradients};

const BATCH: usize = 4;

fn config() -> Config {
    Config::preset("tiny").unwrap()
}

/// A batch as the plan takes it: pixels `[B][H][W][C]`, and soft targets.
fn batch(config: &Config, seed: u64) -> (Vec<f32>, Vec<f32>) {
    let (side, channels) = (config.img_size, config.in_chans);
    let first = smooth_images(seed, BATCH, channels, side);
    let mut last = vec![0.0; first.len()];
    for (i, &v) in first.iter().enumerate() {
        let (image, c, at) = (i / (channels * side * side), i / (side * side) % channels, i % (side * side));
        last[(image * side * side + at) * channels + c] = v;
    }
    let mut targets = vec![0.1 / config.num_classes as f32; BATCH * config.num_classes];
    for (image, row) in targets.chunks_exact_mut(config.num_classes).enumerate() {
        row[(image * 3 + seed as usize) % config.num_classes] += 0.9;
    }
    (last, targets)
}

fn settings() -> Settings {
    Settings { batch: BATCH, micro_batches: 1, clip_norm: 1.0, ema: true, ..Settings::default() }
}

fn schedule(step: u64) -> Schedule {
    Schedule { step, lr: 1e-3, weight_decay: 0.06, ema_decay: 0.9 }
}

fn step(plan: &mut TrainingPlan, number: u64, seeds: &[u64]) -> StepResult {
    let batches: Vec<_> = seeds.iter().map(|&seed| batch(&config(), seed)).collect();
    let images: Vec<_> = batches.iter().map(|(pixels, targets)| Images { pixels, targets }).collect();
    pollster::block_on(plan.step(&images, schedule(number))).unwrap()
}

fn plan(device: &Device, settings: Settings) -> TrainingPlan {
    plan_of(device, &config(), settings)
}

fn plan_of(device: &Device, config: &Config, settings: Settings) -> TrainingPlan {
    pollster::block_on(TrainingPlan::new(device, untrained(config, 7).unwrap(), settings)).unwrap()
}

fn weights(plan: &mut TrainingPlan) -> Checkpoint {
    pollster::block_on(plan.checkpoint()).unwrap()
}

fn optimizers() -> [Optimizer; 2] {
    [Optimizer::default(), Optimizer::Sgd { momentum: 0.9, nesterov: true }]
}

#[test]
fn ten_steps_are_those_of_the_f64_twin_and_the_same_twice() {
    for optimizer in optimizers() {
        let settings = Settings { optimizer, ..settings() };
        let mut exact = TrainingPlan::in_f64(untrained(&config(), 7).unwrap(), settings).unwrap();
        let exact: Vec<f64> = (1..=10).map(|n| step(&mut exact, n, &[1]).loss).collect();
        assert!(exact[9] < exact[0] - 0.02, "it learns: {exact:?}");
        for device in common::devices() {
            let mut twice = Vec::new();
            for _ in 0..2 {
                let mut plan = plan(&device, settings);
                let results: Vec<_> = (1..=10).map(|n| step(&mut plan, n, &[1])).collect();
                for (n, (result, exact)) in results.iter().zip(&exact).enumerate() {
                    let off = (result.loss - exact).abs() / exact.abs();
                    assert!(off < 1e-4, "step {n}: {} is not {exact} on {}, {optimizer:?}", result.loss, device.name());
                    assert!(result.grad_norm > 0.0 && !result.skipped && result.logits.len() == BATCH * 10);
                    assert!(result.counts.iter().any(|c| c.spikes > 0));
                }
                let losses: Vec<u64> = results.iter().map(|r| r.loss.to_bits()).collect();
                let averaged = pollster::block_on(plan.averaged()).unwrap().unwrap();
                twice.push((losses, weights(&mut plan).tensors, averaged.tensors));
            }
            assert!(twice[0] == twice[1], "two runs differ on {}", device.name());
        }
    }
}

#[test]
fn recomputing_and_small_bindings_change_no_bit() {
    for device in common::devices() {
        let mut all = Vec::new();
        for settings in [settings(), Settings { recompute: true, ..settings() }] {
            let mut plan = plan(&device, settings);
            for n in 1..=3 {
                step(&mut plan, n, &[n]);
            }
            all.push(weights(&mut plan).tensors);
        }
        assert!(all[0] == all[1], "{}", device.name());
    }
    // Several shards; with fewer timesteps, so that activations are smaller than parameters.
    let config = Config { timesteps: 2, ..config() };
    let limits = Limits { binding: 160 << 10, ..Limits::default() };
    let mut whole = None;
    for context in common::contexts(limits) {
        let (small, large) = (Device::Gpu(context.clone()), &mut whole);
        let mut plan = plan_of(&small, &config, settings());
        for n in 1..=3 {
            step(&mut plan, n, &[n]);
        }
        let state = (weights(&mut plan).tensors, pollster::block_on(plan.state()).unwrap());
        for context in common::contexts(Limits::default()).into_iter().filter(|c| c.name() == context.name()) {
            let mut plan = plan_of(&Device::Gpu(context), &config, settings());
            for n in 1..=3 {
                step(&mut plan, n, &[n]);
            }
            *large = Some((weights(&mut plan).tensors, pollster::block_on(plan.state()).unwrap()));
        }
        // The norm's partial sums are others where shards are.
        let (a, b) = (&state.0, &large.as_ref().unwrap().0);
        for (name, a) in a {
            for (a, b) in a.data.iter().zip(&b[name].data) {
                assert!((a - b).abs() <= 1e-5 * b.abs().max(1e-2), "{name}: {a} is not {b} on {}", context.name());
            }
        }
    }
}

#[test]
fn a_step_is_the_gradient_and_adamw() {
    let checkpoint = untrained(&config(), 7).unwrap();
    let (pixels, targets) = batch(&config(), 1);
    let labels: Vec<i64> = (0..BATCH).map(|i| ((i * 3 + 1) % 10) as i64).collect();
    let (side, channels) = (config().img_size, config().in_chans);
    let mut first = vec![0.0; pixels.len()];
    for (i, &v) in pixels.iter().enumerate() {
        let (image, at, c) = (i / (channels * side * side), i / channels % (side * side), i % channels);
        first[(image * channels + c) * side * side + at] = v;
    }
    let input = spikeshade::session::Input { batch: BATCH, timesteps: None, data: first };
    let one_hot: Vec<f32> = targets.iter().map(|&t| f32::from(u8::from(t > 0.5))).collect();
    let options = gradients::Options { statistics: gradients::Statistics::Batch, ..Default::default() };
    for device in common::devices() {
        let got =
            pollster::block_on(spikeshade::train::gradients(&device, &checkpoint, &input, &labels, options)).unwrap();
        let settings = Settings { clip_norm: 0.0, ..settings() };
        let mut plan = plan(&device, settings);
        let images = [Images { pixels: &pixels, targets: &one_hot }];
        let result = pollster::block_on(plan.step(&images, schedule(1))).unwrap();
        assert!((result.loss - got.loss).abs() < 1e-6, "{}", device.name());
        let norm: f64 = got.gradients.values().flat_map(|t| &t.data).map(|&g| f64::from(g).powi(2)).sum::<f64>().sqrt();
        assert!((result.grad_norm - norm).abs() < 1e-4 * norm, "{} is not {norm}", result.grad_norm);
        let after = weights(&mut plan);
        for (name, tensor) in &after.tensors {
            if let Some(running) = got.running.get(name) {
                for (a, b) in tensor.data.iter().zip(&running.data) {
                    assert!((a - b).abs() <= 1e-5 * b.abs().max(1.0), "{name}: {a} is not {b}");
                }
                continue;
            }
            let mut expected = checkpoint.tensors[name].data.clone();
            if !name.ends_with("_conv.bias") {
                let decay = if tensor.shape.len() > 1 { 0.06 } else { 0.0 };
                let adamw = AdamW { weight_decay: decay, ..AdamW::default() };
                let (mut m, mut v) = (vec![0.0; expected.len()], vec![0.0; expected.len()]);
                adamw.step(1, &mut expected, &got.gradients[name].data, (&mut m, &mut v));
            }
            for (a, b) in tensor.data.iter().zip(&expected) {
                assert!((a - b).abs() <= 1e-6, "{name}: {a} is not {b} on {}", device.name());
            }
        }
    }
}

#[test]
fn micro_batches_make_the_mean_gradient() {
    for device in common::devices() {
        // A plain step of gradient descent is linear in the gradient: that of two micro-batches is the mean of those of each.
        let optimizer = Optimizer::Sgd { momentum: 0.0, nesterov: false };
        let plain = Settings { optimizer, clip_norm: 0.0, ema: false, ..settings() };
        let plan_with = |micro_batches| plan(&device, Settings { micro_batches, ..plain });
        let once = Schedule { step: 1, lr: 0.5, weight_decay: 0.0, ema_decay: 0.0 };
        let after = |mut plan: TrainingPlan, seeds: &[u64]| {
            let batches: Vec<_> = seeds.iter().map(|&seed| batch(&config(), seed)).collect();
            let images: Vec<_> = batches.iter().map(|(pixels, targets)| Images { pixels, targets }).collect();
            pollster::block_on(plan.step(&images, once)).unwrap();
            weights(&mut plan).tensors
        };
        let [a, b, both] = [(1, &[1u64][..]), (1, &[2]), (2, &[1, 2])].map(|(n, seeds)| after(plan_with(n), seeds));
        let mut differ = 0;
        for (name, both) in both.iter().filter(|(name, _)| !name.contains("running")) {
            for ((x, a), b) in both.data.iter().zip(&a[name].data).zip(&b[name].data) {
                assert!((x - (a + b) / 2.0).abs() <= 1e-6, "{name}: {x}, {a}, {b} on {}", device.name());
                differ += usize::from((a - b).abs() > 1e-4);
            }
        }
        assert!(differ > 1000, "the two batches' gradients differ in {differ} elements only");

        // Two equal micro-batches make the same step as one.
        let mut one = plan(&device, settings());
        let mut two = plan(&device, Settings { micro_batches: 2, ..settings() });
        for n in 1..=3 {
            let (a, b) = (step(&mut one, n, &[n]), step(&mut two, n, &[n, n]));
            assert!((a.loss - b.loss).abs() < 1e-6 && (a.grad_norm - b.grad_norm).abs() < 1e-5 * a.grad_norm);
            assert_eq!(b.logits.len(), 2 * a.logits.len());
        }
        let (a, b) = (weights(&mut one), weights(&mut two));
        for (name, a) in a.tensors.iter().filter(|(name, _)| !name.contains("running")) {
            for (x, y) in a.data.iter().zip(&b.tensors[name].data) {
                assert!((x - y).abs() <= 1e-6 + 1e-5 * y.abs(), "{name}: {x} is not {y} on {}", device.name());
            }
        }
        // And the wrong number is an error.
        let (pixels, targets) = batch(&config(), 1);
        let images = [Images { pixels: &pixels, targets: &targets }];
        assert!(pollster::block_on(two.step(&images, schedule(4))).is_err());
        let images = [Images { pixels: &pixels[1..], targets: &targets }];
        assert!(pollster::block_on(one.step(&images, schedule(4))).is_err());
    }
}

#[test]
fn state_that_is_restored_goes_on_bit_for_bit() {
    for device in common::devices() {
        for optimizer in optimizers() {
            let settings = Settings { optimizer, ..settings() };
            let mut whole = plan(&device, settings);
            (1..=3).for_each(|n| drop(step(&mut whole, n, &[n])));
            let (saved, state) = (weights(&mut whole), pollster::block_on(whole.state()).unwrap());
            let mut resumed = pollster::block_on(TrainingPlan::new(&device, saved, settings)).unwrap();
            pollster::block_on(resumed.restore(&state)).unwrap();
            for n in 4..=6 {
                assert_eq!(step(&mut whole, n, &[n]).loss.to_bits(), step(&mut resumed, n, &[n]).loss.to_bits());
            }
            assert!(weights(&mut whole).tensors == weights(&mut resumed).tensors, "{}", device.name());
            let [a, b] = [&mut whole, &mut resumed].map(|plan| pollster::block_on(plan.state()).unwrap());
            assert!(a == b, "{}", device.name());
            // What is not a state of this plan is refused.
            assert!(pollster::block_on(resumed.restore(&BTreeMap::new())).is_err());
        }
    }
}

#[test]
fn a_gradient_that_is_not_finite_changes_nothing() {
    for device in common::devices() {
        let mut plan = plan(&device, settings());
        let before = weights(&mut plan).tensors;
        let (pixels, mut targets) = batch(&config(), 1);
        targets[0] = f32::INFINITY;
        let images = [Images { pixels: &pixels, targets: &targets }];
        let result = pollster::block_on(plan.step(&images, schedule(1))).unwrap();
        assert!(result.skipped, "{}", device.name());
        let after = weights(&mut plan).tensors;
        for (name, before) in before.iter().filter(|(name, _)| !name.contains("running")) {
            assert_eq!(before.data, after[name].data, "{name} on {}", device.name());
        }
    }
}

#[test]
fn memory_for_backward_is_what_was_promised() {
    let checkpoint = untrained(&Config::preset("cifar10-2-256").unwrap(), 0).unwrap();
    let settings = Settings { batch: 16, ..settings() };
    let limits = Limits::default();
    let kept =
        |settings| TrainingPlan::memory(&checkpoint, settings, limits).unwrap().kept as f64 / 16.0 / (1 << 20) as f64;
    let (kept, recomputed) = (kept(settings), kept(Settings { recompute: true, ..settings }));
    println!("kept {kept:.3} MiB an image, {recomputed:.3} recomputing");
    assert!(kept <= 10.0 && recomputed <= 1.5, "{kept} and {recomputed} MiB an image");
}

#[test]
fn every_preset_fits_a_usual_gpu() {
    // Bindings of 2 GiB and 24 GiB of memory.
    let limits = Limits { binding: 2 << 30, buffer: 2 << 30, ..Limits::default() };
    // The largest has the shapes of the others, and takes gigabytes to write down.
    for (name, _) in Recipe::presets().filter(|p| p.0 != "imagenet-8-768") {
        let recipe = Recipe::preset(name).unwrap();
        let checkpoint = untrained(&recipe.model, 0).unwrap();
        let memory = TrainingPlan::memory(&checkpoint, recipe.settings(None), limits).unwrap();
        let gib = memory.plan.total() as f64 / (1u64 << 30) as f64;
        println!("{name}: {gib:.2} GiB");
        assert!(gib < 24.0, "{name} takes {gib:.2} GiB");
    }
}

/// A step with frozen statistics goes along the gradient that [`gradients`] computes with them, and leaves them as they are.
#[test]
fn frozen_statistics_stay_and_their_gradient_is_followed() {
    let config = config();
    let mut checkpoint = untrained(&config, 7).unwrap();
    // Statistics that are not those of any batch.
    for (name, tensor) in &mut checkpoint.tensors {
        if name.ends_with("running_var") {
            tensor.data.iter_mut().enumerate().for_each(|(i, v)| *v = 0.2 + 0.01 * (i % 7) as f32);
        }
    }
    let (side, channels) = (config.img_size, config.in_chans);
    let data = smooth_images(3, BATCH, channels, side);
    let labels: Vec<i64> = (0..BATCH as i64).collect();
    let input = Input { batch: BATCH, timesteps: None, data: data.clone() };
    let area = side * side;
    let pixels: Vec<f32> = data
        .chunks_exact(channels * area)
        .flat_map(|image| (0..area).flat_map(move |p| image[p..].iter().step_by(area).copied()))
        .collect();
    let mut targets = vec![0.0; BATCH * config.num_classes];
    labels.iter().enumerate().for_each(|(i, &l)| targets[i * config.num_classes + l as usize] = 1.0);
    let sgd = Optimizer::Sgd { momentum: 0.0, nesterov: false };
    let frozen = Settings { optimizer: sgd, clip_norm: 0.0, ema: false, frozen: true, ..settings() };
    for device in common::devices() {
        let of = gradients(&device, &checkpoint, &input, &labels, Default::default());
        let expected = pollster::block_on(of).unwrap();
        let mut plan = pollster::block_on(TrainingPlan::new(&device, checkpoint.clone(), frozen)).unwrap();
        let images = [Images { pixels: &pixels, targets: &targets }];
        let schedule = Schedule { step: 1, lr: 0.5, weight_decay: 0.0, ema_decay: 0.0 };
        let result = pollster::block_on(plan.step(&images, schedule)).unwrap();
        assert!((result.loss - expected.loss).abs() <= 1e-6 * expected.loss, "{}", device.name());
        let after = weights(&mut plan);
        let mut moved = 0;
        for (name, tensor) in &after.tensors {
            let before = &checkpoint.tensors[name].data;
            if name.contains("running_") {
                assert_eq!(&tensor.data, before, "{name} on {}", device.name());
                continue;
            }
            // A bias ahead of batch norm is not learned.
            if name.ends_with("_conv.bias") {
                continue;
            }
            let gradient = &expected.gradients[name].data;
            for ((after, before), g) in tensor.data.iter().zip(before).zip(gradient) {
                let step = before - 0.5 * g;
                assert!(
                    (after - step).abs() <= 1e-5 * step.abs().max(1.0),
                    "{name}: {after}, {step} on {}",
                    device.name()
                );
                moved += usize::from(after != before);
            }
        }
        assert!(moved > 1000, "{moved} on {}", device.name());
        // The same plan again: the second step reads the weights of the first.
        let second = pollster::block_on(plan.step(&images, Schedule { step: 2, ..schedule })).unwrap();
        assert_ne!(second.loss, result.loss);
    }
}
