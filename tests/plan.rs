//! Plans on a device: replayed, alternated, cut to tight limits, and after something went wrong.

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use spikeshade::Error;
use spikeshade::checkpoint::{Checkpoint, Dtype, Tensor};
use spikeshade::config::Config;
use spikeshade::gpu::measure::{SAMPLES, Task};
use spikeshade::gpu::{Capabilities, Context, ForGpus, Limits, Measured, MemoryPlan, Plan};
use spikeshade::init::init;
use spikeshade::kernels::attention::Order;
use spikeshade::kernels::lif::LifOp;
use spikeshade::kernels::neuron::Neuron;
use spikeshade::kernels::residual_add::ResidualAddOp;
use spikeshade::kernels::{Dispatch, Kernel, Op};
use spikeshade::layers::Options;
use spikeshade::model::{InputShape, Model};
use spikeshade::outputs::Outputs;
use spikeshade::recording::{Access, Constant, Recording};
use spikeshade::reference::{Executor, HostTensors};
use spikeshade::session::{Device, Input, Output, Session};
use spikeshade::tensor::{Element, Shape};
use spikeshade::tensor_file;

const TRACED: Options = Options { order: None, fused: false, trace: true, count: false, census: false };

/// Four stages without a pool and an MLP of 256: several windows of channels under a tight limit. Parameters lie on a dyadic
/// grid, so that every device gives the same bits.
fn model() -> Arc<Model> {
    model_with_pools("0000")
}

fn model_with_pools(pooling_stat: &str) -> Arc<Model> {
    let json = r#"{"arch": "a2os2a", "img_size": 4, "in_chans": 3, "num_classes": 10, "embed_dim": 64, "depth": 1,
        "num_heads": 4, "mlp_ratio": 4, "T": 4, "pooling_stat": "0000", "tau": 2.0, "v_threshold": 1.0,
        "attn_v_threshold": 1.0, "v_reset": 0.0, "decay_input": true, "detach_reset": true, "surrogate": "sigmoid",
        "alpha": 4.0, "bn_eps": 1e-5}"#;
    let config = Config::from_json(&json.replace("0000", pooling_stat), "test").unwrap();
    let mut rng = Pcg64Mcg::seed_from_u64(7);
    let mut tensors = BTreeMap::new();
    for p in config.parameters() {
        let value = |rng: &mut Pcg64Mcg| match p.name.rsplit('.').next().unwrap() {
            "running_var" => 1.0 - 1e-5,
            "running_mean" => 0.0,
            "weight" if p.shape.len() == 1 => [0.5, 1.0][rng.random_range(0..2)],
            "weight" => rng.random_range(-2..=2) as f32 / 2.0,
            _ => rng.random_range(-4..=4) as f32 / 8.0,
        };
        let data = (0..p.elements()).map(|_| value(&mut rng)).collect();
        tensors.insert(p.name.clone(), Tensor { shape: p.shape.clone(), data });
    }
    let checkpoint = Checkpoint { config, tensors, metadata: BTreeMap::new(), unexpected: vec![], dtype: Dtype::F32 };
    Arc::new(Model::new(&checkpoint).unwrap())
}

fn images(batch: usize) -> Input {
    let mut rng = Pcg64Mcg::seed_from_u64(8);
    let data = (0..batch * 3 * 16).map(|_| rng.random_range(0..=16) as f32 / 8.0 - 1.0).collect();
    Input { batch, timesteps: None, data }
}

/// `input` as a plan takes it.
fn pixels(input: &Input) -> Vec<f32> {
    let mut out = vec![0.0; input.batch * 16 * 4];
    for (i, pixel) in out.chunks_exact_mut(4).enumerate() {
        for (c, x) in pixel[..3].iter_mut().enumerate() {
            *x = input.data[(i / 16 * 3 + c) * 16 + i % 16];
        }
    }
    out
}

fn shape(batch: usize) -> InputShape {
    InputShape { timesteps: 4, batch, sequence: false }
}

fn plan(context: &Arc<Context>, model: &Model, batch: usize, options: Options) -> Plan {
    let recording = model.record(shape(batch), options, context.limits()).unwrap();
    pollster::block_on(Plan::new(context, recording)).unwrap()
}

fn run(plan: &mut Plan, input: &[f32]) -> Outputs {
    let inputs: &[&[f32]] = if input.is_empty() { &[] } else { &[input] };
    pollster::block_on(plan.run(inputs)).unwrap()
}

fn reference(model: &Model, batch: usize, options: Options, input: &[f32]) -> Outputs {
    Executor::new(model.record(shape(batch), options, Limits::default()).unwrap()).unwrap().run(&[input]).unwrap()
}

/// A recording of one sum.
fn sum(x: Constant, channels: usize) -> Recording {
    let mut r = Recording::default();
    let shape = Shape { steps: 1, batch: 1, height: 1, width: 1, channels };
    let input = r.constant(&Arc::new(x));
    let out = r.tensor("the sum", Element::Real, shape);
    r.push(ResidualAddOp { layer: "add".to_owned(), input, residual: input, out });
    r.output("sum", &[out]);
    r
}

#[test]
fn replays_and_alternating_plans_give_the_same_bits() {
    let model = model();
    let (one, two) = (pixels(&images(3)), pixels(&images(2)));
    let silent = vec![-1.0; one.len()];
    for context in common::contexts(Limits::default()) {
        let options = Options { count: true, ..Options::default() };
        let mut a = plan(&context, &model, 3, options);
        let mut b = plan(&context, &model, 2, TRACED);
        let first = run(&mut a, &one);
        assert_eq!(run(&mut a, &one), first, "{}", context.name());
        // Nothing of another input, and nothing of another plan's run, is left behind.
        assert_ne!(run(&mut a, &silent), first);
        assert_eq!(run(&mut a, &one), first, "{}", context.name());
        let second = run(&mut b, &two);
        for _ in 0..2 {
            assert_eq!(run(&mut a, &one), first, "{}", context.name());
            assert_eq!(run(&mut b, &two), second, "{}", context.name());
        }
        let again = run(&mut plan(&context, &model, 3, options), &one);
        assert_eq!(again, first, "{}", context.name());
    }
}

#[test]
fn shared_buffers_change_nothing() {
    let model = model();
    let input = pixels(&images(2));
    for order in [Order::QkV, Order::QKv] {
        for fused in [true, false] {
            let options = Options { order: Some(order), fused, trace: false, count: true, census: false };
            let expected = reference(&model, 2, options, &input);
            for context in common::contexts(Limits::default()) {
                let mut plan = plan(&context, &model, 2, options);
                let memory = plan.memory();
                assert!(memory.buffers.iter().sum::<u64>() < memory.without_reuse, "{memory:?}");
                assert_eq!(run(&mut plan, &input), expected, "{order:?}, fused {fused} on {}", context.name());
            }
        }
        // With a trace nothing is handed on, and every stage can be compared.
        let options = Options { order: Some(order), ..TRACED };
        let expected = reference(&model, 2, options, &input);
        for context in common::contexts(Limits::default()) {
            assert_eq!(run(&mut plan(&context, &model, 2, options), &input), expected, "{}", context.name());
        }
    }
}

#[test]
fn one_tensor_is_read_back_under_two_names() {
    for context in common::contexts(Limits::default()) {
        let record = || {
            let mut r = sum(Constant { name: "x".to_owned(), data: vec![1.0, 2.0, 3.0, 4.0].into() }, 4);
            let out = r.tensors().map(|t| t.0).last().unwrap();
            r.output("again", &[out]);
            r
        };
        let mut plan = pollster::block_on(Plan::new(&context, record())).unwrap();
        assert_eq!(run(&mut plan, &[]), Executor::new(record()).unwrap().run(&[]).unwrap());
    }
}

#[test]
fn the_model_of_these_tests_is_alive() {
    let options = Options { count: true, ..Options::default() };
    let output = Session::new(model(), Device::Cpu).run_blocking(&images(8), None, options).unwrap();
    for count in &output.counts {
        assert!(count.spikes > 0 && count.spikes < count.possible, "{count:?}");
    }
    assert_ne!(output.logits[0], output.logits[1]);
    let rate = output.firing_rate().unwrap();
    assert!((0.05..0.5).contains(&rate), "{rate}");
}

fn session(model: &Arc<Model>, context: &Arc<Context>, input: &Input, options: Options) -> Result<Output, Error> {
    Session::new(model.clone(), Device::Gpu(context.clone())).run_blocking(input, None, options)
}

fn same(a: &Output, b: &Output, what: &str) {
    assert_eq!(a.logits, b.logits, "{what}");
    assert_eq!(a.counts, b.counts, "{what}");
    assert_eq!(a.trace.len(), b.trace.len(), "{what}");
    for (a, b) in a.trace.iter().zip(&b.trace) {
        assert_eq!(a, b, "{what}");
    }
}

/// The ops that a model takes within `limits`, and why it cannot be planned within them, if it cannot.
fn ops(model: &Model, batch: usize, options: Options, limits: Limits) -> (usize, Option<String>) {
    let recording = model.record(shape(batch), options, limits).unwrap();
    (recording.ops().count(), MemoryPlan::new(&recording, limits).err().map(|e| e.to_string()))
}

#[test]
fn tight_limits_cut_the_work_and_change_no_bit() {
    let model = model();
    let narrow = Limits { binding: 72 << 10, ..Limits::default() };
    let few = Limits { groups: 8, ..Limits::default() };
    let both = Limits { binding: 72 << 10, groups: 64, ..Limits::default() };
    let count = Options { fused: true, count: true, ..Options::default() };
    let with = |order| Options { order: Some(order), ..TRACED };

    // 72 KiB hold one window of 32 channels of rpe_conv's weights, or of a real tensor of 8 images.
    let (whole, _) = ops(&model, 8, with(Order::QkV), Limits::default());
    let (cut, fails) = ops(&model, 8, with(Order::QkV), narrow);
    assert!(fails.is_none() && cut > whole + 10, "{cut} ops, {whole} uncut, {fails:?}");
    let (whole, _) = ops(&model, 2, with(Order::QKv), Limits::default());
    let (cut, fails) = ops(&model, 2, with(Order::QKv), narrow);
    assert!(fails.is_none() && cut > whole, "{cut} ops, {whole} uncut, {fails:?}");
    // Kᵀ V of 8 images does not fit, so that the batch is cut; nor does a grid of 32 images in 8 groups.
    assert!(ops(&model, 8, with(Order::QKv), narrow).1.is_some());
    assert!(ops(&model, 8, Options::default(), few).1.is_some());
    assert_eq!(ops(&model, 2, Options::default(), few).1, None);

    // A pool over windows: what comes after it is small enough for one, and stays in two.
    let pooled = model_with_pools("0001");
    let (whole, _) = ops(&pooled, 8, Options::default(), Limits::default());
    let (cut, fails) = ops(&pooled, 8, Options::default(), narrow);
    assert!(fails.is_none() && cut > whole, "{cut} ops, {whole} uncut, {fails:?}");

    for options in [with(Order::QkV), with(Order::QKv), Options::default(), count] {
        tight(&model, options, &[narrow, few, both]);
    }
    for options in [with(Order::QkV), Options::default()] {
        tight(&pooled, options, &[narrow]);
    }
}

#[test]
fn where_no_kv_fits_attention_takes_the_other_order() {
    let model = model();
    let narrow = Limits { binding: 128 << 10, ..Limits::default() };
    // Two heads of 16 channels fill a window; at 32 timesteps their Kᵀ V is 256 KiB an image.
    let kernels = |order, timesteps, limits| {
        let shape = InputShape { timesteps, batch: 1, sequence: false };
        let recording = model.record(shape, Options { order, ..Options::default() }, limits).unwrap();
        let fits = MemoryPlan::new(&recording, limits).is_ok();
        (fits, recording.ops().any(|op| op.kernel().stem == "attention_kv"))
    };
    assert_eq!(kernels(None, 32, Limits::default()), (true, true));
    assert_eq!(kernels(None, 16, narrow), (true, true));
    assert_eq!(kernels(None, 32, narrow), (true, false));
    assert_eq!(kernels(Some(Order::QKv), 32, narrow), (false, true));
    let (input, options) = (images(3), Options::default());
    let run = |device| Session::new(model.clone(), device).run_blocking(&input, Some(32), options).unwrap();
    let expected = run(Device::Cpu);
    for context in common::contexts(narrow) {
        let name = context.name().to_owned();
        same(&run(Device::Gpu(context)), &expected, &name);
    }
}

#[test]
fn attention_is_one_kernel_where_that_pays_and_its_heads_fit() {
    let always = Capabilities { for_gpus: ForGpus::Always, ..Capabilities::default() };
    let kernels = |model: &Model, order, capabilities| -> Vec<&str> {
        let options = Options { order: Some(order), ..Options::default() };
        let recording = model.record_for(shape(1), options, Limits::default(), capabilities).unwrap();
        let stems = recording.ops().map(|op| op.kernel().stem);
        stems.filter(|stem| stem.starts_with("attention")).collect()
    };
    let two = ["attention_kv", "attention_q_kv"];
    let model = model();
    assert_eq!(kernels(&model, Order::QKv, Capabilities::default()), two);
    assert_eq!(kernels(&model, Order::QKv, always), ["attention_fused"]);
    assert_eq!(kernels(&model, Order::QkV, always), ["attention_qk_v"]);
    // By measurement of attention alone.
    for (thousandths, expected) in [(900, &["attention_fused"][..]), (1000, &two), (0, &two)] {
        let all = SAMPLES.map(|of| if of.task == Task::Attention { thousandths } else { 500 });
        let measured = Capabilities { for_gpus: ForGpus::Measured(Measured(all)), ..always };
        assert_eq!(kernels(&model, Order::QKv, measured), expected, "{thousandths}");
    }
    // Heads of 64 channels fill the workgroup memory, those of 96 would not fit.
    for (embed_dim, heads, expected) in
        [(64, 1, &["attention_fused"][..]), (96, 1, &two), (96, 8, &["attention_fused"])]
    {
        let config = Config { embed_dim, num_heads: heads, ..Config::preset("tiny").unwrap() };
        let model = Model::new(&init(&config, 1, |_, _| ()).unwrap().checkpoint).unwrap();
        assert_eq!(kernels(&model, Order::QKv, always), expected, "{embed_dim} in {heads} heads");
    }

    // Where workgroup memory is scarce, small heads still fit.
    let scarce = Limits { workgroup_memory: (16 << 10) - 1, ..Limits::default() };
    for (heads, expected) in [(1, &two[..]), (4, &["attention_fused"])] {
        let config = Config { embed_dim: 64, num_heads: heads, ..Config::preset("tiny").unwrap() };
        let model = Model::new(&init(&config, 1, |_, _| ()).unwrap().checkpoint).unwrap();
        let options = Options { order: Some(Order::QKv), ..Options::default() };
        let recording = model.record_for(shape(1), options, scarce, always).unwrap();
        let stems: Vec<_> = recording.ops().map(|op| op.kernel().stem).filter(|s| s.starts_with("attention")).collect();
        assert_eq!(stems, expected, "{heads} heads");
    }

    // Windows, traces, counts and memory are as with two kernels, less Kᵀ V.
    let narrow = Limits { binding: 72 << 10, ..Limits::default() };
    let options = Options { order: Some(Order::QKv), ..TRACED };
    for limits in [Limits::default(), narrow] {
        let [one, two] = [always, Capabilities::default()]
            .map(|capabilities| model.record_for(shape(2), options, limits, capabilities).unwrap());
        let windows = two.ops().filter(|op| op.kernel().stem == "attention_kv").count();
        assert_eq!(one.ops().count() + windows, two.ops().count());
        let [one, two] = [one, two].map(|recording| MemoryPlan::new(&recording, limits).unwrap());
        assert!(one.without_reuse < two.without_reuse);
    }
    let expected = Session::new(model.clone(), Device::Cpu).run_blocking(&images(2), None, options).unwrap();
    for limits in [Limits::default(), narrow] {
        for context in common::contexts_of_all_variants(limits) {
            // Kept to a batch that fits either way.
            same(&session(&model, &context, &images(2), options).unwrap(), &expected, context.identity());
        }
    }
}

/// Eight images give the same within each of `limits` as on the processor, which cuts nothing.
fn tight(model: &Arc<Model>, options: Options, limits: &[Limits]) {
    let input = images(8);
    let expected = Session::new(model.clone(), Device::Cpu).run_blocking(&input, None, options).unwrap();
    for &limits in limits {
        // Counting takes 64 workgroups whatever the size.
        if limits.groups < 64 && options.count {
            continue;
        }
        for context in common::contexts(limits) {
            let what = format!("{options:?} within {limits:?} on {}", context.name());
            let output = session(model, &context, &input, options).unwrap_or_else(|e| panic!("{what}: {e}"));
            same(&output, &expected, &what);
        }
    }
}

#[test]
fn cuts_of_weights_go_with_their_plans() {
    let limits = Limits { binding: 72 << 10, ..Limits::default() };
    for context in common::contexts(limits) {
        let (model, name) = (model(), context.name());
        let (mut whole, mut cut) = (0, 0);
        let mut seen = std::collections::HashSet::new();
        let recording = model.record(shape(2), Options::default(), limits).unwrap();
        for constant in recording.tensors().filter_map(|t| t.2.constant()).filter(|c| seen.insert(Arc::as_ptr(c))) {
            // A cut's name ends in its channels.
            let bytes = 4 * constant.data.len().next_multiple_of(4) as u64;
            *if constant.name.contains("..") { &mut cut } else { &mut whole } += bytes;
        }
        assert!(cut > 0, "nothing was cut");
        drop(recording);
        let mut expected = None;
        for _ in 0..2 {
            let output = session(&model, &context, &images(2), Options::default()).unwrap();
            assert_eq!(context.allocated(), whole, "{name}");
            same(expected.get_or_insert(output.clone()), &output, name);
        }
        drop(model);
        assert_eq!(context.allocated(), 0, "{name}");
    }
}

#[test]
fn fixtures_keep_their_bits_within_tight_limits() {
    let mut cuts = 0;
    for path in common::fixtures() {
        let file = tensor_file::read(&path).unwrap();
        let model = Arc::new(Model::new(&Checkpoint::load(&path, false).unwrap()).unwrap());
        if model.config().embed_dim > 128 {
            continue; // the limits below are made for the small ones
        }
        let input = common::input(&file);
        let options = Options { count: true, ..Options::default() };
        let logits = file.f32("out.logits").unwrap();
        // The tightest that hold one image and one window of weights.
        let timesteps = input.timesteps.unwrap_or(model.config().timesteps);
        let one = InputShape { timesteps, batch: 1, sequence: input.timesteps.is_some() };
        let fits = |binding: u64, groups: u32| {
            let limits = Limits { binding, groups, ..Limits::default() };
            MemoryPlan::new(&model.record(one, options, limits).unwrap(), limits).is_ok()
        };
        let binding = (1..).map(|i| i * 1024).find(|&b| fits(b, 65_535)).unwrap();
        let limits = Limits { binding, groups: (1..).find(|&g| fits(binding, g)).unwrap(), ..Limits::default() };
        assert!(limits.binding <= 1 << 20 && limits.groups <= 64, "{limits:?}");
        let batch = InputShape { batch: input.batch, ..one };
        let tight = model.record(batch, options, limits).unwrap();
        let wide = model.record(batch, options, Limits::default()).unwrap();
        let cut = MemoryPlan::new(&tight, limits).is_err() || tight.ops().count() > wide.ops().count();
        if cut {
            cuts += 1;
        }
        for (context, wide) in common::contexts(limits).iter().zip(common::contexts(Limits::default())) {
            let what = format!("{} within {limits:?} on {}", path.display(), context.name());
            let output = session(&model, context, &input, options).unwrap_or_else(|e| panic!("{what}: {e}"));
            same(&output, &session(&model, &wide, &input, options).unwrap(), &what);
            // Where T or N is no power of two the last means round.
            for (a, b) in output.logits.concat().iter().zip(&logits) {
                assert!((a - b).abs() <= 1e-6, "{a} {b}: {what}");
            }
        }
    }
    // The largest weights of some models leave room for their whole batch.
    assert!(cuts >= 4, "only {cuts} of the fixtures were cut");
}

#[test]
fn what_cannot_be_cut_is_named() {
    let model = model();
    for (limits, named) in [
        (Limits { binding: 64 << 10, ..Limits::default() }, "patch_embed.rpe_conv weights"),
        (Limits { buffer: 64 << 10, ..Limits::default() }, "patch_embed.rpe_conv weights"),
        (Limits { groups: 3, ..Limits::default() }, "attn"),
    ] {
        for context in common::contexts(limits) {
            let error = session(&model, &context, &images(1), Options::default()).unwrap_err();
            assert!(matches!(&error, Error::Gpu(why) if why.contains(named)), "{error}");
        }
    }
}

#[test]
fn an_error_stays_with_the_call_that_made_it() {
    let model = model();
    let input = pixels(&images(2));
    let expected = reference(&model, 2, Options::default(), &input);
    for context in common::contexts(Limits::default()) {
        let mut plan = plan(&context, &model, 2, Options::default());
        assert_eq!(run(&mut plan, &input), expected);
        // An empty binding passes the host's own checks; the device refuses it.
        let empty = sum(Constant { name: "nothing".to_owned(), data: vec![].into() }, 4);
        let error = pollster::block_on(Plan::new(&context, empty)).err().unwrap();
        assert!(matches!(&error, Error::Gpu(_)), "{error}");
        let error = pollster::block_on(plan.run(&[&input[1..]])).unwrap_err();
        assert!(matches!(&error, Error::Input(_)), "{error}");
        assert_eq!(run(&mut plan, &input), expected, "{}", context.name());
        let good = sum(Constant { name: "x".to_owned(), data: vec![0.5; 4].into() }, 4);
        assert_eq!(run(&mut pollster::block_on(Plan::new(&context, good)).unwrap(), &[]).tensors.len(), 1);
    }
}

#[test]
fn two_contexts_work_side_by_side() {
    let model = model();
    let input = pixels(&images(2));
    let expected = reference(&model, 2, Options::default(), &input);
    let contexts: Vec<_> = (0..2).flat_map(|_| common::contexts(Limits::default())).collect();
    let mut plans: Vec<Plan> = contexts.iter().map(|c| plan(c, &model, 2, Options::default())).collect();
    for _ in 0..2 {
        for plan in &mut plans {
            assert_eq!(run(plan, &input), expected);
        }
    }
    std::thread::scope(|scope| {
        for plan in &mut plans {
            scope.spawn(|| assert_eq!(run(plan, &input), expected));
        }
    });
}

#[test]
fn a_lost_device_is_an_error_and_no_panic() {
    let model = model();
    let input = pixels(&images(2));
    let count = common::contexts(Limits::default()).len();
    for i in 0..count {
        let contexts = common::contexts(Limits::default());
        let mut lost = plan(&contexts[i], &model, 2, Options::default());
        let expected = run(&mut lost, &input);
        contexts[i].mark_lost("pulled out");
        for _ in 0..2 {
            let error = pollster::block_on(lost.run(&[&input])).unwrap_err();
            assert!(matches!(&error, Error::DeviceLost(why) if why == "pulled out"), "{error}");
        }
        let recording = model.record(shape(1), Options::default(), Limits::default()).unwrap();
        let error = pollster::block_on(Plan::new(&contexts[i], recording)).err().unwrap();
        assert!(matches!(&error, Error::DeviceLost(_)), "{error}");
        let error = session(&model, &contexts[i], &images(1), Options::default()).unwrap_err();
        assert!(matches!(&error, Error::DeviceLost(_)), "{error}");
        drop(lost);
        // A new context on the same adapter works.
        let again = common::contexts(Limits::default());
        assert_eq!(run(&mut plan(&again[i], &model, 2, Options::default()), &input), expected);
    }
}

#[test]
fn a_model_refuses_tensors_that_do_not_fit() {
    let good = Checkpoint::built_in().unwrap();
    for p in good.config.parameters() {
        let refused = |change: &dyn Fn(&mut Checkpoint)| {
            let mut bad = good.clone();
            change(&mut bad);
            let error = Model::new(&bad).err().unwrap();
            assert!(matches!(&error, Error::Checkpoint(why) if why.contains(&p.name)), "{error}");
        };
        refused(&|c| drop(c.tensors.remove(&p.name)));
        refused(&|c| c.tensors.get_mut(&p.name).unwrap().data.push(0.0));
        refused(&|c| c.tensors.get_mut(&p.name).unwrap().shape.push(2));
    }
}

#[test]
fn a_run_does_not_keep_the_thread_that_polls_it() {
    let model = model();
    let input = pixels(&images(8));
    for context in common::contexts(Limits::default()) {
        let mut plan = plan(&context, &model, 8, Options::default());
        let expected = run(&mut plan, &input);
        let mut waited = false;
        for _ in 0..20 {
            let inputs: [&[f32]; 1] = [&input];
            let mut running = std::pin::pin!(plan.run(&inputs));
            let nobody = &mut std::task::Context::from_waker(std::task::Waker::noop());
            match running.as_mut().poll(nobody) {
                std::task::Poll::Ready(outputs) => assert_eq!(outputs.unwrap(), expected),
                std::task::Poll::Pending => {
                    waited = true;
                    assert_eq!(pollster::block_on(running).unwrap(), expected);
                }
            }
        }
        // A GPU may be ready at once.
        let hardware = common::hardware().iter().any(|name| name == context.name());
        assert!(waited || hardware, "{}", context.name());
        // One that is dropped half-way leaves the plan usable.
        let nobody = &mut std::task::Context::from_waker(std::task::Waker::noop());
        let _ = std::pin::pin!(plan.run(&[&input])).poll(nobody);
        assert_eq!(run(&mut plan, &input), expected, "{}", context.name());
    }
}

#[test]
fn timed_runs_give_the_same_and_a_time_for_each_op() {
    let model = model();
    let input = pixels(&images(2));
    // More dispatches than one set of timestamps holds: x, 2x, 3x and so on.
    let many = || {
        let mut r = Recording::default();
        let shape = Shape { steps: 1, batch: 1, height: 1, width: 1, channels: 4 };
        let x = r.constant(&Arc::new(Constant { name: "x".to_owned(), data: vec![1.0, 2.0, 3.0, 4.0].into() }));
        let mut sum = x;
        for i in 0..2500 {
            let out = r.tensor("sum", Element::Real, shape);
            r.push(ResidualAddOp { layer: format!("add {i}"), input: sum, residual: x, out });
            sum = out;
        }
        r.output("sum", &[sum]);
        r
    };
    let mut timed = 0;
    for context in common::contexts(Limits::default()) {
        let options = Options { count: true, ..Options::default() };
        let model = plan(&context, &model, 2, options);
        let many = pollster::block_on(Plan::new(&context, many())).unwrap();
        for (mut plan, input) in [(model, &input[..]), (many, &[])] {
            let what = format!("{} ops on {}", plan.recording().ops().count(), context.name());
            let expected = run(&mut plan, input);
            let allocated = context.allocated();
            let inputs: &[&[f32]] = if input.is_empty() { &[] } else { &[input] };
            let run_timed = |plan: &mut Plan| pollster::block_on(plan.run_timed(inputs));
            if !context.has_timestamps() {
                assert!(matches!(run_timed(&mut plan), Err(Error::Gpu(_))), "{what}");
                continue;
            }
            for _ in 0..2 {
                let (outputs, times) = run_timed(&mut plan).unwrap_or_else(|e| panic!("{what}: {e}"));
                assert_eq!(outputs, expected, "{what}");
                let named: Vec<_> = times.iter().map(|t| (t.kernel, t.layer.as_str())).collect();
                let recording = plan.recording();
                let stem = |op: &dyn Op| op.dispatch_on(recording, context.capabilities()).kernel.stem;
                let ops: Vec<_> = recording.ops().map(|op| (stem(op), op.layer())).collect();
                assert_eq!(named, ops, "{what}");
                assert!(times.iter().all(|t| t.time.as_secs() < 60), "{what}: {times:?}");
                assert!(times.iter().any(|t| !t.time.is_zero()), "{what}");
            }
            assert_eq!(run(&mut plan, input), expected, "{what}");
            assert_eq!(context.allocated(), allocated, "{what}");
            timed += 1;
        }
    }
    assert!(timed > 0, "no adapter has timestamps");
}

/// `residual_add` in a text that no device takes.
struct Broken(ResidualAddOp);

static BROKEN: Kernel = Kernel {
    stem: "residual_add",
    sources: &["fn main() { nothing }"],
    entries: &["main"],
    bindings: &[("x", Access::Read), ("residual", Access::Read), ("real_out", Access::Write)],
    uniform: ("ResidualAdd", &[]),
    uniform_size: 4,
    constants: || vec![vec![]],
};

impl Op for Broken {
    fn kernel(&self) -> &'static Kernel {
        &BROKEN
    }

    fn layer(&self) -> &str {
        self.0.layer()
    }

    fn dispatch(&self, recording: &Recording) -> Dispatch {
        Dispatch { kernel: &BROKEN, ..self.0.dispatch(recording) }
    }

    fn reference(&self, host: &mut HostTensors) {
        self.0.reference(host);
    }

    fn reference_f64(&self, host: &mut HostTensors<f64>) {
        self.0.reference_f64(host);
    }
}

#[test]
fn what_failed_is_not_kept() {
    let x = Arc::new(Constant { name: "x".to_owned(), data: vec![0.5; 4].into() });
    let nothing = Arc::new(Constant { name: "nothing".to_owned(), data: vec![].into() });
    let add = |with: &Arc<Constant>, broken: bool| {
        let mut r = Recording::default();
        let shape = Shape { steps: 1, batch: 1, height: 1, width: 1, channels: 4 };
        let (input, residual) = (r.constant(&x), r.constant(with));
        let out = r.tensor("the sum", Element::Real, shape);
        let op = ResidualAddOp { layer: "add".to_owned(), input, residual, out };
        if broken {
            r.push(Broken(op))
        } else {
            r.push(op)
        }
        r.output("sum", &[out]);
        r
    };
    for context in common::contexts(Limits::default()) {
        let name = context.name();
        let plan = |recording| pollster::block_on(Plan::new(&context, recording));
        let error = plan(add(&x, true)).err().unwrap();
        assert!(matches!(&error, Error::Gpu(why) if why.contains("add: residual_add")), "{error}");
        let error = plan(add(&nothing, false)).err().unwrap();
        assert!(matches!(&error, Error::Gpu(_)), "{error}");
        assert_eq!(context.allocated(), 0, "{name}");
        let mut good = plan(add(&x, false)).unwrap();
        assert_eq!(run(&mut good, &[]), Executor::new(add(&x, false)).unwrap().run(&[]).unwrap(), "{name}");
        // A parameter that another plan uses stays.
        let allocated = context.allocated();
        assert!(plan(add(&nothing, false)).is_err());
        assert_eq!(context.allocated(), allocated, "{name}");
    }
}

#[test]
fn of_pipelines_compiled_together_the_first_broken_one_is_named() {
    let neuron = |tau| Neuron { v_threshold: 1.0, v_reset: Some(0.0), tau, decay_input: tau == 2.0 };
    let flat = |channels| Shape { steps: 1, batch: 1, height: 1, width: 1, channels };
    // Good ones, of several entry points and constants, before, between and after two that are broken.
    let recording = |broken: &[usize]| {
        let mut r = Recording::default();
        let x = r.constant(&Arc::new(Constant { name: "x".to_owned(), data: vec![1.5; 32].into() }));
        for i in 0..8 {
            let layer = format!("layer {i}");
            if broken.contains(&i) {
                let out = r.tensor("sum", Element::Real, flat(32));
                r.push(Broken(ResidualAddOp { layer, input: x, residual: x, out }));
                continue;
            }
            let element = if i % 2 == 0 { Element::Spikes } else { Element::Ternary };
            let out = r.tensor("spikes", element, flat(32));
            let neuron = neuron(if i % 4 < 2 { 2.0 } else { 3.0 });
            r.push(LifOp { layer, input: x, norm: None, out, h: None, neuron, first_channel: 0 });
            r.output(format!("s{i}"), &[out]);
        }
        r
    };
    for context in common::contexts(Limits::default()) {
        let plan = |broken: &[usize]| pollster::block_on(Plan::new(&context, recording(broken)));
        for _ in 0..3 {
            let error = plan(&[3, 6]).err().unwrap();
            assert!(matches!(&error, Error::Gpu(why) if why.contains("layer 3: residual_add")), "{error}");
            assert_eq!(context.allocated(), 0, "{}", context.name());
        }
        let expected = Executor::new(recording(&[])).unwrap().run(&[]).unwrap();
        assert_eq!(run(&mut plan(&[]).unwrap(), &[]), expected, "{}", context.name());
        let error = plan(&[7]).err().unwrap();
        assert!(matches!(&error, Error::Gpu(why) if why.contains("layer 7: residual_add")), "{error}");
    }
}

/// A module that several pipelines share is made by one of the threads; the others are told why it is invalid.
#[test]
fn of_a_module_that_several_share_the_fault_itself_is_told() {
    const SHARED: usize = 4;
    let recording = |plan: usize| {
        let mut r = Recording::default();
        let flat = Shape { steps: 1, batch: 1, height: 1, width: 1, channels: 4 };
        let x = r.constant(&Arc::new(Constant { name: "x".to_owned(), data: vec![1.5; 4].into() }));
        for i in 0..SHARED {
            let out = r.tensor("sum", Element::Real, flat);
            let op = ResidualAddOp { layer: format!("layer {plan}.{i}"), input: x, residual: x, out };
            r.push(BrokenWith(Broken(op), i as f64));
        }
        r
    };
    for context in common::contexts(Limits::default()) {
        for _ in 0..20 {
            // Two plans of one context at a time.
            let plan = |i| pollster::block_on(Plan::new(&context, recording(i))).err().unwrap().to_string();
            let errors = std::thread::scope(|scope| {
                [0, 1].map(|i| scope.spawn(move || plan(i))).map(|thread| thread.join().unwrap())
            });
            for (i, error) in errors.iter().enumerate() {
                let named = format!("layer {i}.0: residual_add: ");
                assert!(error.starts_with(&named) && error.contains("nothing"), "{}: {error}", context.name());
            }
        }
    }
}

/// The same text with a constant of its own, so that it is a pipeline of its own.
struct BrokenWith(Broken, f64);

impl Op for BrokenWith {
    fn kernel(&self) -> &'static Kernel {
        &BROKEN
    }

    fn layer(&self) -> &str {
        self.0.layer()
    }

    fn dispatch(&self, recording: &Recording) -> Dispatch {
        Dispatch { constants: vec![("X", self.1)], ..self.0.dispatch(recording) }
    }

    fn reference(&self, host: &mut HostTensors) {
        self.0.reference(host);
    }

    fn reference_f64(&self, host: &mut HostTensors<f64>) {
        self.0.reference_f64(host);
    }
}
