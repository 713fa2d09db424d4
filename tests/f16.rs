//! F16 weights in whole models: the bits of the f32 model whose weights are rounded, little lost, and half the memory.

mod common;

use std::sync::Arc;

use spikeshade::checkpoint::Checkpoint;
use spikeshade::config::Config;
use spikeshade::gpu::{Limits, MemoryPlan};
use spikeshade::init::untrained;
use spikeshade::layers::Options;
use spikeshade::model::{InputShape, Model};
use spikeshade::session::{Device, Input, Output, Session};
use spikeshade::weights::{Weights, round_to_f16};

/// Whether a parameter is the weights of a spike product.
fn is_stored(name: &str) -> bool {
    name.contains("_conv") && name.ends_with(".weight") && name != "patch_embed.proj_conv.weight"
}

fn run(model: &Arc<Model>, device: Device, options: Options) -> Output {
    let Config { img_size, in_chans, .. } = *model.config();
    // Strokes of several greys, no two pictures alike.
    let pixel = |i: usize| if (i / img_size + i % img_size).is_multiple_of(5) { 2.0 + i as f32 * 1e-3 } else { -0.42 };
    let batch = 3;
    let input =
        Input { batch, timesteps: None, data: (0..batch * in_chans * img_size * img_size).map(pixel).collect() };
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
fn rounded_f32_weights_give_the_same_bits() {
    let checkpoint = Checkpoint::built_in().unwrap();
    let model = Arc::new(Model::with_weights(&checkpoint, Weights::F16).unwrap());
    let mut rounded = checkpoint.clone();
    let mut n = 0;
    for (_, tensor) in rounded.tensors.iter_mut().filter(|(name, _)| is_stored(name)) {
        let halves = round_to_f16(&tensor.data, &[1.0]).unwrap().weights;
        assert_ne!(halves.iter().map(|h| h.to_f32()).collect::<Vec<f32>>(), tensor.data);
        tensor.data = halves.iter().map(|h| h.to_f32()).collect();
        n += 1;
    }
    assert_eq!(n, model.quantisation_errors().len());
    let rounded = Arc::new(Model::new(&rounded).unwrap());
    let traced = Options { trace: true, ..Options::default() };
    let devices = common::contexts_of_all_variants(Limits::default()).into_iter().map(Device::Gpu);
    for device in [Device::Cpu].into_iter().chain(devices) {
        let what = device.name().to_owned();
        let output = run(&model, device.clone(), traced);
        same_trace(&output, &run(&rounded, device.clone(), traced), &what);
        assert_eq!(run(&model, device, Options::default()).logits, output.logits, "fused, on {what}");
    }
}

#[test]
fn cuts_change_no_bit() {
    let json = r#"{"arch": "a2os2a", "img_size": 4, "in_chans": 3, "num_classes": 10, "embed_dim": 64, "depth": 1,
        "num_heads": 4, "mlp_ratio": 4, "T": 4, "pooling_stat": "0000", "tau": 2.0, "v_threshold": 1.0,
        "attn_v_threshold": 1.0, "v_reset": 0.0, "decay_input": true, "detach_reset": true, "surrogate": "sigmoid",
        "alpha": 4.0, "bn_eps": 1e-5}"#;
    let checkpoint = untrained(&Config::from_json(json, "test").unwrap(), 3).unwrap();
    let model = Arc::new(Model::with_weights(&checkpoint, Weights::F16).unwrap());
    // As much as 32 outputs of the last convolution's 64 take.
    let limits = Limits { binding: 9 * 64 * 32 * 2, ..Limits::default() };
    let whole = common::contexts_of_all_variants(Limits::default());
    for (context, whole_context) in common::contexts_of_all_variants(limits).into_iter().zip(whole) {
        let name = context.name().to_owned();
        let shape = InputShape { timesteps: 4, batch: 1, sequence: false };
        let [whole, cut] = [Limits::default(), context.limits()].map(|limits| {
            let recording = model.record(shape, Options::default(), limits).unwrap();
            recording.ops().filter(|op| op.kernel().stem == "conv3x3_spike_f16").count()
        });
        assert!(cut > whole, "nothing was cut");
        let expected = run(&model, Device::Gpu(whole_context), Options::default());
        let output = run(&model, Device::Gpu(context), Options::default());
        assert_eq!(output.logits, expected.logits, "{name}");
    }
}

#[test]
fn parameters_take_half() {
    let checkpoint = untrained(&Config::preset("cifar10-2-256").unwrap(), 0).unwrap();
    let memory = |weights| {
        let model = Model::with_weights(&checkpoint, weights).unwrap();
        let shape = InputShape { timesteps: 4, batch: 2, sequence: false };
        let recording = model.record(shape, Options::default(), Limits::default()).unwrap();
        MemoryPlan::new(&recording, Limits::default()).unwrap()
    };
    let (whole, small) = (memory(Weights::F32), memory(Weights::F16));
    assert_eq!(whole.buffers, small.buffers);
    let ratio = whole.parameters as f64 / small.parameters as f64;
    assert!((1.95..2.0).contains(&ratio), "{ratio}");
}

#[test]
fn layers_lose_little() {
    let model = Model::with_weights(&Checkpoint::built_in().unwrap(), Weights::F16).unwrap();
    let errors = model.quantisation_errors();
    assert_eq!(errors.len(), 4 + 6 * model.config().depth);
    for (layer, error) in errors {
        assert!((1e-5..5e-4).contains(&error), "{layer}: {error}");
    }
    assert_eq!(model.weights(), Weights::F16);
}

#[test]
fn weights_beyond_f16_are_refused() {
    let mut checkpoint = Checkpoint::built_in().unwrap();
    checkpoint.tensors.get_mut("block.1.mlp.fc1_conv.weight").unwrap().data[7] = -7e4;
    let error = Model::with_weights(&checkpoint, Weights::F16).unwrap_err().to_string();
    assert!(error.contains("`block.1.mlp.fc1_conv.weight`") && error.contains("-7e4"), "{error}");
    assert!(error.contains("65504") && error.contains("use f32"), "{error}");
    assert!(Model::with_weights(&checkpoint, Weights::Int8).is_ok() && Model::new(&checkpoint).is_ok());
    // What stays f32 may be as large.
    let mut checkpoint = Checkpoint::built_in().unwrap();
    for name in ["patch_embed.proj_conv.weight", "head.weight"] {
        checkpoint.tensors.get_mut(name).unwrap().data[0] = 7e4;
    }
    assert!(Model::with_weights(&checkpoint, Weights::F16).is_ok());
}
