//! Int8 weights in whole models: the same bits on every device, cut or not, little lost, and a quarter of the memory.

mod common;

use std::collections::HashMap;
use std::sync::Arc;

use spikeshade::checkpoint::Checkpoint;
use spikeshade::config::Config;
use spikeshade::gpu::{Limits, MemoryPlan};
use spikeshade::init::untrained;
use spikeshade::layers::Options;
use spikeshade::model::{InputShape, Model};
use spikeshade::outputs::Values;
use spikeshade::session::{Device, Input, Output, Session};
use spikeshade::weights::Weights;

fn built_in(weights: Weights) -> Arc<Model> {
    Arc::new(Model::with_weights(&Checkpoint::built_in().unwrap(), weights).unwrap())
}

/// Strokes of several greys, no two pictures alike.
fn images(config: &Config, batch: usize) -> Input {
    let side = config.img_size;
    let pixel = |b: usize, i: usize| {
        let (y, x) = (i / side % side, i % side);
        if (y + x * (b % 3) + b).is_multiple_of(5 + b % 4) { 2.0 + b as f32 * 0.173 } else { -0.42 }
    };
    let data = (0..batch).flat_map(|b| (0..config.in_chans * side * side).map(move |i| pixel(b, i))).collect();
    Input { batch, timesteps: None, data }
}

fn run(model: &Arc<Model>, device: Device, options: Options) -> Output {
    let input = images(model.config(), 3);
    Session::new(model.clone(), device).run_blocking(&input, None, options).unwrap()
}

/// Every spike, membrane, key and attention sum, to the bit (-0 = 0).
fn same_trace(a: &Output, b: &Output, what: &str) {
    assert_eq!(a.trace.len(), b.trace.len(), "{what}");
    for (a, b) in a.trace.iter().zip(&b.trace) {
        assert_eq!(a.name, b.name, "{what}");
        assert!(a.values == b.values, "{}: {what}", a.name);
    }
    assert_eq!(a.logits, b.logits, "{what}");
}

#[test]
fn every_device_gives_the_same_bits() {
    let traced = Options { trace: true, ..Options::default() };
    let small = Checkpoint::load(concat!(env!("CARGO_MANIFEST_DIR"), "/models/cifar10-2-128.safetensors"), false);
    let small = Arc::new(Model::with_weights(&small.unwrap(), Weights::Int8).unwrap());
    for model in [built_in(Weights::Int8), small] {
        let expected = run(&model, Device::Cpu, traced);
        let fired = |t: &Values| matches!(t, Values::Spikes(s) if s.contains(&1)) || matches!(t, Values::Ternary(_));
        assert!(expected.trace.iter().filter(|t| t.name.starts_with("s.")).all(|t| fired(&t.values)));
        let mut of_gpus: HashMap<String, Option<Output>> =
            common::hardware().into_iter().map(|name| (name, None)).collect();
        for device in common::devices() {
            let name = device.name().to_owned();
            let found = run(&model, device.clone(), traced);
            // A GPU's driver may round the first convolution otherwise; its variants then do as its portable kernels.
            let expected = match of_gpus.get_mut(&name) {
                Some(first) => first.get_or_insert_with(|| found.clone()),
                None => &expected,
            };
            same_trace(&found, expected, &name);
            let fused = run(&model, device, Options::default());
            assert_eq!(fused.logits, expected.logits, "fused, on {name}");
        }
    }
}

#[test]
fn cuts_change_no_bit() {
    let json = r#"{"arch": "a2os2a", "img_size": 4, "in_chans": 3, "num_classes": 10, "embed_dim": 64, "depth": 1,
        "num_heads": 4, "mlp_ratio": 4, "T": 4, "pooling_stat": "0000", "tau": 2.0, "v_threshold": 1.0,
        "attn_v_threshold": 1.0, "v_reset": 0.0, "decay_input": true, "detach_reset": true, "surrogate": "sigmoid",
        "alpha": 4.0, "bn_eps": 1e-5}"#;
    let checkpoint = untrained(&Config::from_json(json, "test").unwrap(), 3).unwrap();
    let model = Arc::new(Model::with_weights(&checkpoint, Weights::Int8).unwrap());
    let expected = run(&model, Device::Cpu, Options::default());
    // As much as 32 outputs of the last convolution's 64 take.
    let limits = Limits { binding: 9 * 64 * 32, ..Limits::default() };
    for context in common::contexts(limits) {
        let name = context.name().to_owned();
        let shape = InputShape { timesteps: 4, batch: 1, sequence: false };
        let [whole, cut] = [Limits::default(), context.limits()].map(|limits| {
            let recording = model.record(shape, Options::default(), limits).unwrap();
            recording.ops().filter(|op| op.kernel().stem == "conv3x3_spike_int8").count()
        });
        assert!(cut > whole, "nothing was cut");
        let output = run(&model, Device::Gpu(context), Options::default());
        assert_eq!(output.logits, expected.logits, "{name}");
    }
}

#[test]
fn parameters_take_a_quarter() {
    let checkpoint = untrained(&Config::preset("cifar10-2-256").unwrap(), 0).unwrap();
    let memory = |weights| {
        let model = Model::with_weights(&checkpoint, weights).unwrap();
        let shape = InputShape { timesteps: 4, batch: 2, sequence: false };
        let recording = model.record(shape, Options::default(), Limits::default()).unwrap();
        MemoryPlan::new(&recording, Limits::default()).unwrap()
    };
    let (whole, small) = (memory(Weights::F32), memory(Weights::Int8));
    assert_eq!(whole.buffers, small.buffers);
    let ratio = whole.parameters as f64 / small.parameters as f64;
    assert!((3.8..4.0).contains(&ratio), "{ratio}");
}

#[test]
fn layers_lose_little() {
    let model = built_in(Weights::Int8);
    let errors = model.quantisation_errors();
    assert_eq!(errors.len(), 4 + 6 * model.config().depth);
    for (layer, error) in errors {
        assert!((1e-3..2e-2).contains(&error), "{layer}: {error}");
    }
    assert!(built_in(Weights::F32).quantisation_errors().is_empty());
    assert_eq!((built_in(Weights::F32).weights(), model.weights()), (Weights::F32, Weights::Int8));
}
