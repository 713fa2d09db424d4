//! Gradients of the reference fixtures, on every device, in both attention orders.

mod common;

use std::path::Path;

use spikeshade::Error;
use spikeshade::checkpoint::Checkpoint;
use spikeshade::kernels::attention::Order;
use spikeshade::outputs::Values;
use spikeshade::session::{Device, Input};
use spikeshade::tensor_file;
use spikeshade::train::{Gradients, Options, Statistics, adamw::AdamW, gradients};

fn largest(v: &[f32]) -> f32 {
    v.iter().fold(0.0, |a, b| a.max(b.abs()))
}

fn check(path: &Path, device: &Device, order: Option<Order>) -> Gradients {
    let file = tensor_file::read(path).unwrap();
    let checkpoint = Checkpoint::load(path, false).unwrap();
    let batch = file.metadata.get("mode").map(String::as_str) == Some("traingrad");
    let statistics = if batch { Statistics::Batch } else { Statistics::Running };
    let input = common::input(&file);
    let labels = file.i64("in.label").unwrap();
    let traced = file.names().any(|n| n.starts_with("s."));
    let options = Options { statistics, order, trace: traced, ..Options::default() };
    let what = format!("{} on {}, {order:?}", path.display(), device.name());
    let got = pollster::block_on(gradients(device, &checkpoint, &input, &labels, options)).unwrap();
    let options = Options { recompute: true, ..options };
    let redone = pollster::block_on(gradients(device, &checkpoint, &input, &labels, options)).unwrap();
    assert_eq!((redone.loss, &redone.gradients), (got.loss, &got.gradients), "recomputed: {what}");

    let loss = file.f64("out.loss").unwrap()[0];
    assert!((got.loss - loss).abs() <= 1e-5 * loss.abs(), "loss {} is not {loss}: {what}", got.loss);
    let zero = file.metadata.get("zero_grads").map_or(String::new(), String::clone);
    let mut compared = 0;
    for name in file.names().filter(|n| n.starts_with("g.")) {
        let parameter = &name[2..];
        let expected = file.f32(name).unwrap();
        let found = got.gradients.get(parameter).unwrap_or_else(|| panic!("no {name}: {what}"));
        assert_eq!(found.shape, file.shape(name).unwrap(), "{name}: {what}");
        if zero.contains(&format!("\"{parameter}\"")) {
            continue;
        }
        let scale = largest(&expected);
        for (i, (a, b)) in found.data.iter().zip(&expected).enumerate() {
            assert!((a - b).abs() <= 1e-4 * scale, "{name}[{i}] {a} is not {b} (largest {scale}): {what}");
        }
        compared += 1;
    }
    assert_eq!(got.gradients.len(), file.names().filter(|n| n.starts_with("g.")).count(), "{what}");
    assert!(compared > 20, "{what}");
    for tensor in &got.trace {
        let name = &tensor.name;
        match tensor.channel_first() {
            Values::Spikes(v) => assert_eq!(v, file.u8(name).unwrap(), "{name}: {what}"),
            Values::Ternary(v) => assert_eq!(v, file.i8(name).unwrap(), "{name}: {what}"),
            // With batch statistics membranes agree to 1e-5; frozen ones are not folded here, so they may round.
            Values::Real(v) => {
                let expected = file.f32(name).unwrap();
                let worst = v.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                let allowed = 1e-5 * largest(&expected).max(1.0);
                assert!(worst <= allowed, "{name} is off by {worst}: {what}");
            }
        }
    }
    assert_eq!(traced, !got.trace.is_empty(), "{what}");
    let running = file.names().filter(|n| n.starts_with("r.")).count();
    assert_eq!(got.running.len(), running, "{what}");
    for (name, found) in &got.running {
        let expected = file.f32(&format!("r.{name}")).unwrap();
        for (a, b) in found.data.iter().zip(&expected) {
            assert!((a - b).abs() <= 2e-5 * b.abs().max(1.0), "r.{name} {a} is not {b}: {what}");
        }
    }
    if batch {
        check_adamw(&file, &checkpoint, &got, &zero, &what);
    }
    got
}

/// One AdamW step: within 2e-5, but for entries whose gradient is too small to fix its sign, at most 2 % of a tensor and off by
/// at most the learning rate.
fn check_adamw(file: &tensor_file::TensorFile, checkpoint: &Checkpoint, got: &Gradients, zero: &str, what: &str) {
    let adamw = AdamW::default();
    for (name, gradient) in &got.gradients {
        if zero.contains(&format!("\"{name}\"")) {
            continue;
        }
        let mut p = checkpoint.tensors[name].data.clone();
        let (mut m, mut v) = (vec![0.0; p.len()], vec![0.0; p.len()]);
        adamw.step(1, &mut p, &gradient.data, (&mut m, &mut v));
        let expected = file.f32(&format!("n.{name}")).unwrap();
        let off: Vec<f32> = p.iter().zip(&expected).map(|(a, b)| (a - b).abs()).filter(|&d| d > 2e-5).collect();
        assert!(off.len() * 50 <= p.len(), "n.{name}: {} of {} are off: {what}", off.len(), p.len());
        assert!(off.iter().all(|&d| f64::from(d) <= adamw.lr * 1.001), "n.{name}: off by {}: {what}", largest(&off));
    }
}

#[test]
fn gradients_are_those_of_the_fixtures() {
    for device in common::devices() {
        for path in common::gradient_fixtures() {
            for order in [Order::QkV, Order::QKv] {
                check(&path, &device, Some(order));
            }
        }
    }
}

#[test]
fn two_runs_give_the_same_bits() {
    for device in common::devices() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny_traingrad.safetensors");
        let (a, b) = (check(&path, &device, None), check(&path, &device, None));
        assert_eq!(a.gradients, b.gradients, "{}", device.name());
        assert_eq!(a.loss.to_bits(), b.loss.to_bits());
    }
}

#[test]
fn other_timesteps_are_those_of_a_model_that_has_them() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny_evalgrad.safetensors");
    let file = tensor_file::read(&path).unwrap();
    let (input, labels) = (common::input(&file), file.i64("in.label").unwrap());
    let own = Checkpoint::load(&path, false).unwrap();
    let mut other = own.clone();
    other.config.timesteps = 3;
    let run = |checkpoint: &Checkpoint, timesteps, input: &Input| {
        let options = Options { timesteps, ..Options::default() };
        pollster::block_on(gradients(&Device::Cpu, checkpoint, input, &labels, options))
    };
    let (asked, has) = (run(&own, Some(3), &input).unwrap(), run(&other, None, &input).unwrap());
    assert_eq!((asked.loss, &asked.gradients), (has.loss, &has.gradients));
    assert_ne!(asked.loss, run(&own, None, &input).unwrap().loss);
    // The same of a still sequence, which has timesteps of its own.
    let still = Input { timesteps: Some(3), data: input.data.repeat(3), ..input };
    let sequence = run(&own, Some(3), &still).unwrap();
    assert!((sequence.loss - asked.loss).abs() < 1e-6, "{} and {}", sequence.loss, asked.loss);
    let input = common::input(&file);
    for (timesteps, input) in [(0, &input), (33, &input), (2, &still)] {
        let error = run(&own, Some(timesteps), input).unwrap_err();
        assert!(matches!(&error, Error::Input(why) if why.contains("timesteps")), "{error}");
    }
}

#[test]
fn labels_that_do_not_fit_are_errors() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny_evalgrad.safetensors");
    let checkpoint = Checkpoint::load(&path, false).unwrap();
    let input = common::input(&tensor_file::read(&path).unwrap());
    for labels in [&[0][..], &[0, 10], &[-1, 0], &[0, 1, 2]] {
        let result = pollster::block_on(gradients(&Device::Cpu, &checkpoint, &input, labels, Options::default()));
        assert!(result.is_err(), "{labels:?}");
    }
}
