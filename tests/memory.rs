//! The memory that a plan is said to take is what it allocates.

mod common;

use std::sync::Arc;

use spikeshade::Error;
use spikeshade::checkpoint::{Checkpoint, Dtype, Tensor};
use spikeshade::config::{Config, Parameter};
use spikeshade::gpu::{Capabilities, Limits, MemoryPlan, Plan};
use spikeshade::init::untrained;
use spikeshade::kernels::attention::Order;
use spikeshade::layers::Options;
use spikeshade::model::{InputShape, Model};
use spikeshade::session::{Device, Input, Session, part_that_fits};

const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tiny_eval.safetensors");

fn models() -> [(&'static str, Arc<Model>); 3] {
    let wide = untrained(&Config::preset("cifar10-2-256").unwrap(), 0).unwrap();
    [("mnist-2-64", Model::built_in()), ("tiny", Model::load(TINY)), ("cifar10-2-256", Model::new(&wide))]
        .map(|(name, model)| (name, Arc::new(model.unwrap())))
}

#[test]
fn plans_allocate_what_is_said() {
    let image = |timesteps, batch| InputShape { timesteps, batch, sequence: false };
    let plain = Options::default();
    // Small bindings cut the tensors of the wide model into windows.
    let tight = Limits { binding: 2 << 20, ..Limits::default() };
    for (shape, options, limits) in [
        (image(4, 1), plain, Limits::default()),
        (image(4, 3), Options { count: true, ..plain }, Limits::default()),
        (image(1, 7), Options { fused: false, order: Some(Order::QkV), ..plain }, Limits::default()),
        (image(2, 2), Options { trace: true, order: Some(Order::QKv), ..plain }, Limits::default()),
        (InputShape { timesteps: 3, batch: 2, sequence: true }, plain, Limits::default()),
        (image(4, 2), Options { fused: false, count: true, ..plain }, tight),
    ] {
        for (name, model) in models() {
            // Fresh contexts: plans of one share their parameters.
            for context in common::contexts(limits) {
                let what = format!("{name}, {shape:?}, {options:?} on {}", context.name());
                let record = |limits| model.record(shape, options, limits).unwrap();
                let said = match MemoryPlan::new(&record(limits), limits) {
                    Ok(memory) => memory.total(),
                    Err(e) => panic!("{e}: {what}"),
                };
                assert_eq!(context.allocated(), 0, "{what}");
                let plan = pollster::block_on(Plan::new(&context, record(context.limits()))).unwrap();
                assert_eq!(context.allocated(), plan.memory().total(), "{what}");
                assert_eq!(context.allocated(), said, "{what}");
            }
        }
    }
}

/// A published model at its full size; constant weights, as it is not run.
#[test]
fn a_large_model_allocates_what_is_said() {
    let config = Config::preset("imagenet-8-512").unwrap();
    let constant = |p: Parameter| (p.name.clone(), Tensor { data: vec![0.5; p.elements() as usize], shape: p.shape });
    let tensors = config.parameters().into_iter().map(constant).collect();
    let checkpoint =
        Checkpoint { config, tensors, metadata: Default::default(), unexpected: Vec::new(), dtype: Dtype::F32 };
    let model = Model::new(&checkpoint).unwrap();
    drop(checkpoint);
    let shape = InputShape { timesteps: model.config().timesteps, batch: 8, sequence: false };
    for context in common::contexts(Limits::default()) {
        let record = || model.record(shape, Options::default(), context.limits()).unwrap();
        let said = MemoryPlan::new(&record(), context.limits()).unwrap().total();
        let plan = pollster::block_on(Plan::new(&context, record())).unwrap();
        assert_eq!(plan.memory().total(), said, "{}", context.name());
        assert_eq!(context.allocated(), said, "{}", context.name());
        drop(plan);
        // The parameters stay for other plans.
        assert!(context.allocated() < said, "{}", context.name());
        assert!(context.allocated() > 4 * model.config().trainable_parameters() / 2, "{}", context.name());
    }
}

#[test]
fn running_allocates_nothing_more() {
    let model = Arc::new(Model::new(&Checkpoint::built_in().unwrap()).unwrap());
    let shape = InputShape { timesteps: 4, batch: 2, sequence: false };
    for context in common::contexts(Limits::default()) {
        let mut session = Session::new(model.clone(), Device::Gpu(context.clone()));
        let input = Input { batch: 2, timesteps: None, data: vec![0.5; 2 * 28 * 28] };
        for _ in 0..3 {
            session.run_blocking(&input, None, Options::default()).unwrap();
            // The first run has decided between variants.
            let (_, memory) =
                part_that_fits(&model, shape, Options::default(), context.limits(), context.capabilities()).unwrap();
            assert_eq!(context.allocated(), memory.total(), "{}", context.name());
        }
    }
}

#[test]
fn a_batch_is_cut_until_it_fits() {
    let (_, tiny) = models()[1].clone();
    let whole = InputShape { timesteps: 4, batch: 24, sequence: false };
    let limits = Limits { binding: 160 << 10, ..Limits::default() };
    let (part, memory) = part_that_fits(&tiny, whole, Options::default(), limits, Capabilities::default()).unwrap();
    assert!(part < 24 && memory.buffers.iter().all(|&b| b <= limits.binding), "{part}: {memory:?}");
    let data: Vec<f32> = (0..24 * 3 * 16 * 16).map(|i| (i % 13) as f32 / 6.0 - 1.0).collect();
    let input = Input { batch: 24, timesteps: None, data };
    let expected = Session::new(tiny.clone(), Device::Cpu).run_blocking(&input, None, Options::default()).unwrap();
    for context in common::contexts(limits) {
        let name = context.name().to_owned();
        let mut session = Session::new(tiny.clone(), Device::Gpu(context));
        pollster::block_on(session.prepare(24, None, Options::default())).unwrap();
        for count in [false, true, false] {
            let output = session.run_blocking(&input, None, Options { count, ..Options::default() }).unwrap();
            assert_eq!(output.logits, expected.logits, "{name}");
        }
    }
    let nothing = Limits { binding: 1 << 10, ..limits };
    assert!(part_that_fits(&tiny, whole, Options::default(), nothing, Capabilities::default()).is_err());
}

#[test]
fn absurd_batches_are_refused_or_cut() {
    for (name, model) in models() {
        for batch in [1 << 40, 1 << 54, usize::MAX] {
            let shape = InputShape { timesteps: 32, batch, sequence: true };
            for limits in [Limits::default(), Device::Cpu.limits()] {
                let error = model.record(shape, Options::default(), limits).err().unwrap();
                assert!(matches!(&error, Error::Input(why) if why.contains("is too large")), "{name}: {error}");
                let (part, memory) =
                    part_that_fits(&model, shape, Options::default(), limits, Capabilities::default()).unwrap();
                assert!(part >= 1 && memory.total() < limits.memory, "{name}: {part} of {batch}, {memory:?}");
            }
            for timesteps in [None, Some(4), Some(usize::MAX)] {
                let input = Input { batch, timesteps, data: vec![0.0; 4] };
                let mut session = Session::new(model.clone(), Device::Cpu);
                let error = session.run_blocking(&input, None, Options::default()).unwrap_err();
                assert!(matches!(&error, Error::Input(_)), "{name}: {error}");
            }
        }
    }
}
