//! Grids folded into a tight limit of workgroups a dimension, with workgroups left over: 7 or 8 of them in 3 × 3.

use spikeshade::gpu::{ForGpus, Limits, Plan};
use spikeshade::kernels::Groups;
use spikeshade::kernels::accumulate::AccumulateOp;
use spikeshade::kernels::adamw::AdamWOp;
use spikeshade::kernels::conv3x3_real::{self, Conv3x3RealOp};
use spikeshade::kernels::conv3x3_spike::Conv3x3Spike;
use spikeshade::kernels::ema::EmaOp;
use spikeshade::kernels::gradient_norm::{self, GradientNormPartialOp};
use spikeshade::kernels::head::HeadOp;
use spikeshade::kernels::lif::LifOp;
use spikeshade::kernels::linear_spike::LinearSpike;
use spikeshade::kernels::maxpool_real::MaxpoolRealOp;
use spikeshade::kernels::maxpool_spike::MaxpoolSpikeOp;
use spikeshade::kernels::neuron::Neuron;
use spikeshade::kernels::product::{Epilogue, SpikeProduct, pack_scale_shift, pack_weights};
use spikeshade::kernels::residual_add::ResidualAddOp;
use spikeshade::kernels::sgd::SgdOp;
use spikeshade::kernels::spike_gap::SpikeGapOp;
use spikeshade::kernels::step::{Clip, Step};
use spikeshade::recording::Recording;
use spikeshade::reference::Executor;
use spikeshade::tensor::{Element, Shape};

use crate::harness::*;

const NEURON: Neuron = Neuron { v_threshold: 1.0, v_reset: None, tau: 2.0, decay_input: true };

fn product(r: &mut Recording, data: &mut Data, taps: usize, input: Shape, outputs: usize, fire: bool) -> SpikeProduct {
    let spikes = data.spikes(input, 0.3);
    let spikes = packed(r, &spikes, Element::Spikes, input);
    let weights = data.reals(outputs * input.channels * taps, -2..=2, 0.5);
    let shift = data.reals(outputs, -8..=16, 0.125);
    let name = format!("{taps} taps, fire {fire}");
    let first_channel = 0;
    let epilogue = if fire {
        let out = output(r, &name, Element::Ternary, input.with_channels(outputs));
        Epilogue::Fire { out, neuron: NEURON, first_channel }
    } else {
        let out = output(r, &name, Element::Real, input.with_channels(outputs));
        Epilogue::Real { out, first_channel, relu: false }
    };
    SpikeProduct {
        layer: name,
        input: spikes,
        weights: parameter(r, &pack_weights(&weights, 0..outputs, input.channels, taps)),
        scale_shift: parameter(r, &pack_scale_shift(&vec![0.25; outputs], &shift, 0..outputs)),
        channels_out: outputs,
        epilogue,
    }
}

fn record() -> Recording {
    let (mut r, mut data) = (Recording::default(), Data::new(3, Kind::Dyadic));
    let layer = || "folded".to_owned();
    let grid = Shape { steps: 4, batch: 8, height: 4, width: 4, channels: 40 };
    for fire in [true, false] {
        // 128 rows, 16 a workgroup.
        let op = product(&mut r, &mut data, 1, grid, 70, fire);
        r.push(LinearSpike(op));
        let op = product(&mut r, &mut data, 9, grid, 70, fire);
        r.push(Conv3x3Spike(op));
    }

    // 512 rows, 64 a workgroup.
    let shape = grid.with_channels(3);
    let x = data.reals(512 * 3, -8..=8, 0.25);
    let weights = data.reals(33 * 3 * 9, -8..=8, 0.25);
    let out = output(&mut r, "real", Element::Real, shape.with_channels(33));
    let op = Conv3x3RealOp {
        layer: layer(),
        input: real(&mut r, &x, shape),
        weights: parameter(&mut r, &conv3x3_real::pack_weights(&weights, 0..33, 3)),
        scale_shift: parameter(&mut r, &pack_scale_shift(&[0.5; 33], &[1.0; 33], 0..33)),
        out,
    };
    r.push(op);

    // 60 words, 8 a workgroup.
    let shape = Shape { steps: 5, batch: 2, height: 5, width: 3, channels: 50 };
    let x = data.reals(150 * 50, -8..=16, 0.25);
    let input = real(&mut r, &x, shape);
    for (name, element) in [("spikes", Element::Spikes), ("ternary", Element::Ternary)] {
        let out = output(&mut r, name, element, shape);
        let h = Some(output(&mut r, &format!("{name} h"), Element::Real, shape));
        r.push(LifOp { layer: layer(), input, norm: None, out, h, neuron: NEURON, first_channel: 0 });
    }

    // 512 words, 480 vec4f, 448 vec4f, 64 a workgroup.
    let shape = Shape { height: 7, width: 8, channels: 32, ..grid };
    let spikes = data.spikes(shape, 0.2);
    let input = packed(&mut r, &spikes, Element::Spikes, shape);
    let out = output(&mut r, "spike pool", Element::Spikes, shape.pooled());
    r.push(MaxpoolSpikeOp { layer: layer(), input, out });
    let shape = Shape { steps: 1, batch: 5, height: 7, width: 7, channels: 23 };
    let x = data.reals(shape.rows() * 23, -64..=64, 0.25);
    let input = real(&mut r, &x, shape);
    let out = output(&mut r, "real pool", Element::Real, shape.pooled());
    r.push(MaxpoolRealOp { layer: layer(), input, out });
    let shape = flat(1790);
    let (x, u) = (data.reals(1790, -64..=64, 0.25), data.reals(1790, -64..=64, 0.25));
    let (input, residual) = (real(&mut r, &x, shape), real(&mut r, &u, shape));
    let out = output(&mut r, "sum", Element::Real, shape);
    r.push(ResidualAddOp { layer: layer(), input, residual, out });
    let g = input;
    let step = Step { accumulate_keep: 1.0, ema_decay: 0.5, ..Step::new(1, 0.5, 0.25, [0.5, 0.75]) };
    let step = parameter(&mut r, &step.encode());
    let clip = parameter(&mut r, &Clip { factor: 0.5f32, norm: 2.0, skipped: false }.encode());
    let [sum, e, p, b, m, v] = ["accumulated", "averaged", "sgd p", "sgd b", "adamw m", "adamw v"].map(|name| {
        let out = output(&mut r, name, Element::Real, shape);
        r.push(ResidualAddOp { layer: layer(), input, residual, out });
        out
    });
    r.push(AccumulateOp { layer: layer(), sum, g, step });
    r.push(EmaOp { layer: layer(), e, p: g, step });
    r.push(SgdOp { layer: layer(), p, b, g, step, clip, decayed: 1000, momentum: 0.5, nesterov: true });
    // Its moments are exact, its parameters are not.
    let p = r.tensor("adamw p", Element::Real, shape);
    r.push(ResidualAddOp { layer: layer(), input, residual, out: p });
    let (decayed, beta1, beta2, eps) = (1000, 0.5, 0.75, 1e-8);
    r.push(AdamWOp { layer: layer(), p, m, v, g, step, clip, decayed, beta1, beta2, eps });

    // 7 blocks, one a workgroup.
    let len = 7 * gradient_norm::BLOCK - 5;
    let gradient = data.reals(len, -8..=8, 0.25);
    let gradient = real(&mut r, &gradient, flat(len));
    let partials = output(&mut r, "norm partials", Element::Real, flat(7));
    r.push(GradientNormPartialOp { layer: layer(), gradient, partials, first_partial: 0 });

    // 8 images.
    let spikes = data.spikes(grid, 0.4);
    let input = packed(&mut r, &spikes, Element::Spikes, grid);
    let rate = output(&mut r, "rate", Element::Real, Shape { batch: 8, ..flat(40) });
    r.push(SpikeGapOp { layer: layer(), input, out: rate });
    let (weights, bias) = (data.reals(40 * 100, -8..=8, 0.25), data.reals(100, -8..=8, 0.25));
    let (weights, bias) = (parameter(&mut r, &weights), parameter(&mut r, &bias));
    let out = output(&mut r, "logits", Element::Real, flat(800));
    r.push(HeadOp { layer: layer(), input: rate, weights, bias, out, classes: 100 });
    r
}

#[test]
fn folded_grids_leave_nothing_out() {
    let recording = record();
    for op in recording.ops() {
        let [x, y, z] = op.dispatch(&recording).groups.fold(3).unwrap();
        assert!(y == 3 && (x == 3 || z == 3), "{} in {x} × {y} × {z}", op.kernel().stem);
    }
    let mut all = vec![("f32 twin".to_owned(), Executor::new(recording).unwrap().run(&[]).unwrap())];
    for context in crate::common::contexts(Limits { groups: 3, ..Limits::default() }) {
        let outputs = pollster::block_on(async { Plan::new(&context, record()).await?.run(&[]).await });
        all.push((context.name().to_owned(), outputs.unwrap()));
    }
    all_same(&all);
}

/// Products and neurons whose grids, 11 workgroups in 6 × 2 or with smaller tiles more, leave workgroups over.
fn record_variants() -> Recording {
    let (mut r, mut data) = (Recording::default(), Data::new(4, Kind::Dyadic));
    // 350 tokens: 32 a workgroup of the variants, 16 of the portable kernel.
    let grid = Shape { steps: 4, batch: 14, height: 5, width: 5, channels: 40 };
    for fire in [true, false] {
        let op = product(&mut r, &mut data, 1, grid, 70, fire);
        r.push(LinearSpike(op));
        let op = product(&mut r, &mut data, 9, grid, 70, fire);
        r.push(Conv3x3Spike(op));
    }
    // 700 words, 64 a workgroup of the variant, 8 of the portable kernel.
    let shape = Shape { steps: 5, channels: 50, ..grid };
    let x = data.reals(shape.steps * shape.rows() * 50, -8..=16, 0.25);
    let input = real(&mut r, &x, shape);
    for (name, element) in [("spikes", Element::Spikes), ("ternary", Element::Ternary)] {
        let out = output(&mut r, name, element, shape);
        r.push(LifOp { layer: "folded".to_owned(), input, norm: None, out, h: None, neuron: NEURON, first_channel: 0 });
    }
    r
}

#[test]
fn folded_grids_of_variants_leave_nothing_out() {
    const GROUPS: u32 = 10;
    let recording = record_variants();
    let contexts = crate::common::contexts_of_all_variants(Limits { groups: GROUPS, ..Limits::default() });
    for context in &contexts {
        let mut stems = std::collections::BTreeSet::new();
        for op in recording.ops() {
            let dispatch = op.dispatch_on(&recording, context.capabilities());
            stems.insert(dispatch.kernel.stem);
            let Groups::Line { n, .. } = dispatch.groups else { continue };
            let [x, y, _] = dispatch.groups.fold(GROUPS).unwrap();
            let stem = dispatch.kernel.stem;
            assert!(y > 1 && u64::from(x * y) > n, "{stem} in {x} × {y}");
        }
        if crate::common::has_tables(context) {
            let variants = ["conv3x3_spike.table", "lif.words", "linear_spike.table"];
            assert!(stems.iter().eq(variants.iter()), "{}: {stems:?}", context.identity());
        }
    }
    let mut all = vec![("f32 twin".to_owned(), Executor::new(recording).unwrap().run(&[]).unwrap())];
    for context in contexts {
        let outputs = pollster::block_on(async { Plan::new(&context, record_variants()).await?.run(&[]).await });
        all.push((context.identity().to_owned(), outputs.unwrap()));
    }
    all_same(&all);
}

/// Products of so many tokens that the variants for GPUs give a thread eight outputs, of a width for each number of lanes.
fn record_wide() -> Recording {
    let (mut r, mut data) = (Recording::default(), Data::new(5, Kind::Dyadic));
    for (outputs, width, fire) in [(40, 4100, true), (97, 2100, false), (97, 2100, true), (300, 700, true)] {
        let grid = Shape { steps: 3, batch: 1, height: 1, width, channels: 40 };
        let op = product(&mut r, &mut data, 1, grid, outputs, fire);
        r.push(LinearSpike(op));
    }
    let grid = Shape { steps: 1, batch: 3, height: 25, width: 28, channels: 33 };
    let op = product(&mut r, &mut data, 9, grid, 97, true);
    r.push(Conv3x3Spike(op));
    r
}

#[test]
fn of_many_tokens_a_thread_has_eight_outputs() {
    let recording = record_wide();
    let contexts = crate::common::contexts_of_all_variants(Limits::default());
    let mut all = vec![("f32 twin".to_owned(), Executor::new(recording).unwrap().run(&[]).unwrap())];
    for context in contexts {
        let recording = record_wide();
        if context.capabilities().for_gpus == ForGpus::Always {
            for op in recording.ops() {
                let dispatch = op.dispatch_on(&recording, context.capabilities());
                assert!(dispatch.constants.contains(&("WIDE", 1.0)), "{}: {:?}", op.layer(), dispatch.constants);
            }
        }
        let outputs = pollster::block_on(async { Plan::new(&context, recording).await?.run(&[]).await });
        all.push((context.identity().to_owned(), outputs.unwrap()));
    }
    all_same(&all);
}
