//! Counts, on every device, beside those that `counts.py` takes from the fixtures' spikes, and receipts beside arithmetic by hand.

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;
use spikeshade::checkpoint::Checkpoint;
use spikeshade::gpu::{Limits, MemoryPlan};
use spikeshade::insight::comparison::{comparison, differences, names};
use spikeshade::insight::counts::Counts;
use spikeshade::insight::receipt::{Accuracy, COST_MODELS, CostModel, Receipt};
use spikeshade::insight::report::{Report, Sample, comparison_html, html};
use spikeshade::insight::why::{Question, Why, why};
use spikeshade::kernels::attention::Order;
use spikeshade::layers::Options;
use spikeshade::model::{InputShape, Model};
use spikeshade::outputs::Values;
use spikeshade::session::{Device, Input, Session};
use spikeshade::tensor::Shape;
use spikeshade::tensor_file;
use spikeshade::weights::Weights;

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn numpy() -> serde_json::Map<String, Value> {
    let text = std::fs::read_to_string(fixture("counts.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn numbers(value: &Value) -> Vec<u64> {
    value.as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).collect()
}

fn census() -> Options {
    Options { census: true, ..Options::default() }
}

/// The counts and the receipt of a fixture.
fn run(path: &Path, device: &Device, options: Options) -> (Counts, Receipt) {
    let file = tensor_file::read(path).unwrap();
    let model = Arc::new(Model::new(&Checkpoint::load(path, false).unwrap()).unwrap());
    let mut session = Session::new(model.clone(), device.clone());
    let output = session.run_blocking(&common::input(&file), None, options).unwrap();
    let counts = output.census.unwrap();
    let receipt = Receipt::new(&model, "fixture", &counts).unwrap();
    (counts, receipt)
}

fn check(name: &str, expected: &Value, (counts, receipt): &(Counts, Receipt), what: &str) {
    let what = format!("{name} {what}");
    assert_eq!(counts.images, expected["images"].as_u64().unwrap(), "{what}");
    assert_eq!(counts.timesteps as u64, expected["timesteps"].as_u64().unwrap(), "{what}");
    let neurons = expected["neurons"].as_object().unwrap();
    assert_eq!(neurons.len(), receipt.neurons.len(), "{what}");
    for of in &receipt.neurons {
        let what = format!("{} of {what}", of.name);
        let expected = &neurons[&of.name];
        assert_eq!(of.positive, numbers(&expected["positive"]), "{what}");
        assert_eq!(of.negative, numbers(&expected["negative"]), "{what}");
        assert_eq!(of.silent, expected["silent"].as_u64().unwrap(), "silent, {what}");
        assert_eq!(of.saturated, expected["saturated"].as_u64().unwrap(), "saturated, {what}");
    }
    let mut compared = 0;
    for layer in receipt.layers.iter().filter(|l| ["conv", "linear"].contains(&l.kind.as_str())) {
        let expected = &expected["layers"][&layer.name];
        assert_eq!(layer.triggered, numbers(&expected["triggered"]), "{} of {what}", layer.name);
        assert_eq!(layer.dense, numbers(&expected["dense"]).iter().sum::<u64>(), "{} of {what}", layer.name);
        compared += 1;
    }
    let image = &expected["layers"]["patch_embed.proj_conv"];
    let first = &receipt.layers[0];
    assert_eq!(first.operations(), numbers(&image["dense"]).iter().sum::<u64>(), "{what}");
    let outputs = receipt.neurons[0].channels as u64;
    assert_eq!(counts.pixels_reached * outputs, numbers(&image["triggered"]).iter().sum::<u64>(), "{what}");
    assert_eq!(compared + 1, expected["layers"].as_object().unwrap().len(), "{what}");
    let attention = expected["attention"].as_object().unwrap();
    assert_eq!(attention.len(), counts.attention.len(), "{what}");
    for of in &counts.attention {
        let expected = &attention[&of.name];
        let by_step = |order: Order, nonzero: bool| -> Vec<u64> {
            let at = |t| if nonzero { of.nonzero_additions(order, t) } else { of.additions(order, t) };
            (0..counts.timesteps).map(at).collect()
        };
        assert_eq!(by_step(Order::QKv, false), numbers(&expected["q_kv"]), "{} of {what}", of.name);
        assert_eq!(by_step(Order::QKv, true), numbers(&expected["q_kv_nonzero"]), "{} of {what}", of.name);
        assert_eq!(by_step(Order::QkV, false), numbers(&expected["qk_v"]), "{} of {what}", of.name);
        assert_eq!(by_step(Order::QkV, true), numbers(&expected["qk_v_nonzero"]), "{} of {what}", of.name);
        assert_eq!(of.keys, numbers(&expected["keys"]), "{} of {what}", of.name);
    }
}

#[test]
fn counts_are_those_of_the_independent_script() {
    let numpy = numpy();
    let own = fixture("");
    let fixtures: Vec<PathBuf> = common::fixtures().into_iter().filter(|p| p.starts_with(&own)).collect();
    assert_eq!(fixtures.len(), numpy.len(), "counts.json is older than the fixtures; run tests/counts.py");
    // Software drivers leave counting to the host, but for their portable variants.
    let contexts = common::contexts_of_all_variants(Limits::default()).into_iter().map(Device::Gpu);
    for device in std::iter::once(Device::Cpu).chain(contexts) {
        for path in &fixtures {
            let name = path.file_name().unwrap().to_string_lossy();
            for (order, fused) in [(None, true), (None, false), (Some(Order::QkV), true), (Some(Order::QKv), true)] {
                let options = Options { order, fused, ..census() };
                check(&name, &numpy[&*name], &run(path, &device, options), device.name());
            }
        }
    }
}

/// The reference executor and every adapter, with the variants that suit it.
fn devices() -> Vec<Device> {
    let gpus = common::contexts(Limits::default()).into_iter().map(Device::Gpu);
    std::iter::once(Device::Cpu).chain(gpus).collect()
}

#[test]
fn results_are_the_same_with_and_without() {
    for device in devices() {
        for path in common::fixtures() {
            let file = tensor_file::read(&path).unwrap();
            let model = Arc::new(Model::new(&Checkpoint::load(&path, false).unwrap()).unwrap());
            let mut session = Session::new(model, device.clone());
            let input = common::input(&file);
            let plain = session.run_blocking(&input, None, Options { count: true, ..Options::default() }).unwrap();
            let counted = session.run_blocking(&input, None, census()).unwrap();
            assert_eq!(plain.logits, counted.logits, "{} on {}", path.display(), device.name());
            assert_eq!(plain.counts, counted.counts, "{} on {}", path.display(), device.name());
            assert_eq!(plain.census, None);
            assert_eq!(counted, session.run_blocking(&input, None, census()).unwrap(), "a second run");
        }
    }
}

#[test]
fn readouts_are_runs_of_fewer_timesteps() {
    for device in devices() {
        for name in ["odd_eval", "vreset_evalgrad", "long_eval"] {
            let path = fixture(&format!("{name}.safetensors"));
            let file = tensor_file::read(&path).unwrap();
            let model = Arc::new(Model::new(&Checkpoint::load(&path, false).unwrap()).unwrap());
            let input = common::input(&file);
            let mut session = Session::new(model.clone(), device.clone());
            let readouts = session.run_blocking(&input, None, census()).unwrap().readouts;
            let last = model.config().timesteps;
            for t in [1, 2, last.div_ceil(2), last] {
                let alone = session.run_blocking(&input, Some(t), Options::default()).unwrap().logits;
                for (image, logits) in readouts.iter().zip(&alone) {
                    for (a, b) in image[t - 1].iter().zip(logits) {
                        assert!((a - b).abs() <= 1e-6, "{a} {b} after {t} of {} on {}", path.display(), device.name());
                    }
                }
            }
        }
    }
}

/// Counts add up over images, whatever the parts.
#[test]
fn counts_of_parts_add_up() {
    let path = fixture("odd_eval.safetensors");
    let file = tensor_file::read(&path).unwrap();
    let model = Arc::new(Model::new(&Checkpoint::load(&path, false).unwrap()).unwrap());
    let input = common::input(&file);
    let mut session = Session::new(model, Device::Cpu);
    let whole = session.run_blocking(&input, None, census()).unwrap();
    let image = input.data.len() / input.batch;
    let mut sum = Counts::default();
    let mut readouts = Vec::new();
    for data in input.data.chunks(image) {
        let one = Input { batch: 1, timesteps: None, data: data.to_vec() };
        let output = session.run_blocking(&one, None, census()).unwrap();
        sum.merge(&output.census.unwrap()).unwrap();
        readouts.extend(output.readouts);
    }
    assert_eq!(Some(&sum), whole.census.as_ref());
    assert_eq!(readouts, whole.readouts);
    let fewer = session.run_blocking(&input, Some(1), census()).unwrap().census.unwrap();
    assert!(sum.merge(&fewer).unwrap_err().to_string().contains("timesteps"));
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-9 * b.abs()
}

/// The receipt of `tiny_eval` by hand: 16 × 16 pixels, channels 3 → 4 → 8 → 16 → 32, pooled after stages 2 and 3, so 4 × 4 tokens;
/// D 32, one block of 2 heads, hidden width 128, 10 classes, T 4, two images. The spike counts are those of `counts.json`, that of the
/// pooled stage 2 (3613) is `pooled` of `counts.py`.
#[test]
fn receipts_are_those_reckoned_by_hand() {
    let (_, receipt) = run(&fixture("tiny_eval.safetensors"), &Device::Cpu, census());
    let counting = |name: &str| receipt.counting(name).unwrap();

    // Exact. The first convolution sees (3 · 16 - 2)² = 2116 pairs of pixels, each of 3 · 4 channels, once an image; the head has
    // 32 · 10 weights.
    let macs = 2116 * 3 * 4 + 32 * 10;
    assert_eq!(macs, 25_712);
    // Of both images and all timesteps: stages 1 to 3, position encoding, Q, K, V, attention, projection, MLP.
    let acs = 104_328 + 340_464 + 882_496 + 124_448 + 3 * 26_304 + 19_456 + 19_968 + 103_168 + 40_832;
    assert_eq!(acs, 1_714_072);
    assert_eq!((receipt.totals.macs, receipt.totals.acs), (2 * macs, acs));
    // 4.6 · 25,712 + 0.9 · 857,036 = 118,275.2 + 771,332.4
    assert!(close(receipt.picojoules("exact", "45nm-f32").unwrap(), 889_607.6));
    // With 8-bit weights 0.3 · 25,712 + 0.1 · 857,036 = 7,713.6 + 85,703.6
    assert!(close(receipt.picojoules("exact", "45nm-int8").unwrap(), 93_417.2));
    // Neurons: 16² · (4 + 8 + 16) + 16 · 32 of the stages, 5 · 16 · 32 and 16 · 128 of the block, 16 · 32 of the head: 12,800.
    let neurons = 256 * 28 + 512 + 5 * 512 + 2048 + 512;
    assert_eq!((receipt.totals.neurons, receipt.totals.updates), (neurons, neurons * 4 * 2));
    // (4.6 + 20) · 25,712 + (0.9 + 10) · 857,036 + 20 · 51,200 = 632,515.2 + 9,341,692.4 + 1,024,000
    assert!(close(receipt.picojoules("exact", "45nm-f32-sram").unwrap(), 10_998_207.6));

    // Spikformer: E_MAC FL¹ + E_AC Σ fr T FLOPs, and fr T FLOPs = spikes · k² · C_out.
    let conv = 1567 * 9 * 8 + 2579 * 9 * 16 + 3613 * 9 * 32 + 618 * 9 * 32;
    let linear = 3 * 822 * 32 + 624 * 32 + 806 * 128 + 1276 * 32;
    // (Q Kᵀ) V of 16 tokens: spikes of Q and of V, 16 additions each.
    let attention = (580 + 636) * 16;
    assert_eq!(conv + linear + attention, 1_965_064);
    // The head's 805 spikes over 16 tokens, 10 classes: 503.125. Two images.
    let sops = (1_965_064.0 + 503.125) / 2.0;
    let first = 9 * 16 * 16 * 3 * 4;
    assert_eq!((counting("spikformer").macs, counting("spikformer").acs), (f64::from(first), sops));
    // 4.6 · 27,648 + 0.9 · 982,783.5625 = 127,180.8 + 884,505.20625
    assert!(close(receipt.picojoules("spikformer", "45nm-f32").unwrap(), 1_011_686.006_25));

    // Spike-driven: the first convolution at each of 4 timesteps; Q (Kᵀ V) with d = 16 is (580 + 636) · 16 as well.
    assert_eq!((counting("spike-driven").macs, counting("spike-driven").acs), (f64::from(4 * first), sops));
    // 4.6 · 110,592 + 884,505.20625 = 508,723.2 + 884,505.20625: 1.57 times the exact one.
    assert!(close(receipt.picojoules("spike-driven", "45nm-f32").unwrap(), 1_393_228.406_25));

    // NeuroBench's hooks: the first convolution's nonzero pixels (49,476 terms of both images) at 4 timesteps, the head's
    // 24 + 53 + 56 + 54 rates that are not zero times 10 classes; attention is not seen.
    assert_eq!(counting("neurobench").macs, f64::from(4 * 49_476 + 187 * 10) / 2.0);
    assert_eq!(counting("neurobench").acs, f64::from(1_714_072 - 19_456) / 2.0);

    // The dense network, once: stages, position encoding, Q, K, V, projection, MLP, head, and 2 · N² · D of attention.
    let dense = 25_392 + 67_712 + 270_848 + 247_808 + 102_400 + 4 * 16_384 + 2 * 65_536 + 320 + 2 * 16 * 16 * 32;
    assert_eq!((receipt.totals.dense_network_macs, dense), (dense, 927_472));
    assert!(close(receipt.picojoules("dense", "45nm-f32").unwrap(), 4.6 * 927_472.0));
}

/// The receipt of `odd_eval` by hand, where tokens and a head's channels differ: 9 × 9 pixels, channels 1 → 3 → 6 → 12 → 24, pooled
/// after stage 1, so 5 × 5 tokens; D 24 in 8 heads of 3, hidden width 96, 7 classes, T 3, three images.
#[test]
fn receipts_tell_the_orders_of_attention_apart() {
    let (_, receipt) = run(&fixture("odd_eval.safetensors"), &Device::Cpu, census());
    let counting = |name: &str| receipt.counting(name).unwrap();

    // The first convolution sees 25² pairs, each of 1 · 3 channels; the head has 24 · 7 weights.
    let macs = 625 * 3 + 24 * 7;
    let layers = 20_730 + 45_264 + 59_640 + 138_864 + 3 * 27_720 + 9_840 + 111_744 + 43_656;
    // 831 spikes of Q and 2208 of V: 3 additions each in the order Q (Kᵀ V), which ran, 25 in the other.
    let (q_kv, qk_v) = ((831 + 2208) * 3, (831 + 2208) * 25);
    assert_eq!((receipt.totals.macs, receipt.totals.acs), (3 * macs, layers + q_kv));
    let of = receipt.layers.iter().find_map(|l| l.attention.clone().map(|a| (l.dense, a))).unwrap();
    assert_eq!((of.1.order, of.1.q_kv, of.1.qk_v), (Order::QKv, q_kv, qk_v));
    // 2 · N · D · d, at 3 timesteps, of 3 images.
    assert_eq!(of.0, 2 * 25 * 24 * 3 * 3 * 3);

    let conv = 432 * 9 * 6 + 534 * 9 * 12 + 343 * 9 * 24 + 839 * 9 * 24;
    let linear = 3 * 1155 * 24 + 410 * 24 + 1164 * 96 + 1819 * 24;
    // The head's 1154 spikes over 25 tokens, 7 classes.
    let sops = |attention: u64| ((conv + linear + attention) as f64 + 1154.0 * 7.0 / 25.0) / 3.0;
    let first = f64::from(9 * 9 * 9 * 3);
    assert_eq!(counting("spikformer").macs, first);
    assert!(close(counting("spikformer").acs, sops(qk_v)));
    assert_eq!(counting("spike-driven").macs, 3.0 * first);
    assert!(close(counting("spike-driven").acs, sops(q_kv)));

    // The network without attention, of an image at one timestep; its attention in the order (Q Kᵀ) V.
    let pass = 625 * (3 + 18) + 169 * (72 + 288 + 576) + 4 * 25 * 24 * 24 + 2 * 25 * 24 * 96 + 168;
    assert_eq!(pass, 344_277);
    assert_eq!(counting("dense").macs, f64::from(pass + 2 * 25 * 25 * 24));
    assert_eq!(counting("dense").updates, 7629.0);

    // NeuroBench: three copies of the image, rates of the head that are not zero, attention not seen.
    let bench = &receipt.neurobench;
    assert_eq!(bench.effective_macs, f64::from(3 * 1812 * 3 + (27 + 71 + 71) * 7) / 3.0);
    assert_eq!(bench.effective_acs, layers as f64 / 3.0);
    assert_eq!(bench.dense, f64::from(3 * pass));
    // Its hooks see every LIF (7629 neurons at 3 timesteps of 3 images) and K's ReLU (600 keys, of which 2009 are not zero).
    assert_eq!((receipt.totals.updates, receipt.totals.spikes), (7629 * 9, 10_917));
    assert_eq!(bench.activation_sparsity, 1.0 - f64::from(10_917 + 2_009) / f64::from((7629 + 600) * 9));
    // 15,693 weights, of which the fixture's grid leaves 2,513 zero; scale and shift of 285 output channels; the head's bias.
    assert_eq!(bench.connection_sparsity, 2_513.0 / 15_693.0);
    assert_eq!(bench.footprint, 4 * 15_693 + 8 * 285 + 4 * 7);
}

/// The receipt of `events_eval` by hand: `tiny_eval`'s shape, but an image of its own at each of 6 timesteps; two sequences.
#[test]
fn receipts_of_sequences_count_every_frame() {
    let (_, receipt) = run(&fixture("events_eval.safetensors"), &Device::Cpu, census());
    let counting = |name: &str| receipt.counting(name).unwrap();
    assert!(receipt.sequence && receipt.timesteps == 6);
    let first = 2116 * 3 * 4;
    assert_eq!(receipt.totals.macs, 2 * (6 * first + 320));
    assert_eq!(receipt.layers[0].triggered, [2 * first; 6]);
    assert_eq!(receipt.layers[0].dense, 12 * first);
    let acs = 103_016 + 355_680 + 1_152_768 + 179_328 + 3 * 36_608 + 34_752 + 148_224 + 61_664;
    assert_eq!(receipt.totals.acs, acs + (931 + 928) * 16);
    for name in ["spikformer", "spike-driven"] {
        assert_eq!(counting(name).macs, f64::from(6 * 9 * 16 * 16 * 3 * 4), "{name}");
    }
    assert_eq!(counting("neurobench").macs, f64::from(74_018 * 4 + (28 + 48 + 50 + 52 + 54 + 52) * 10) / 2.0);
    assert_eq!(counting("neurobench").acs, acs as f64 / 2.0);
    // The dense network sees each of the 6 frames once, as the spiking one does.
    assert_eq!((counting("dense").macs, counting("dense").updates), (6.0 * 927_472.0, 6.0 * 12_800.0));
    assert_eq!(receipt.neurobench.dense, f64::from(6 * (927_472 - 2 * 16 * 16 * 32)));
}

/// Energies of layers and membranes add up to the total, under every cost model.
#[test]
fn energies_of_layers_add_up() {
    for name in ["odd_eval", "events_eval"] {
        let (_, receipt) = run(&fixture(&format!("{name}.safetensors")), &Device::Cpu, census());
        for cost in COST_MODELS {
            let layers: f64 = receipt.layers.iter().map(|l| l.energy(cost, receipt.images)).sum();
            let total = receipt.picojoules("exact", cost.name).unwrap();
            assert!(close(layers + receipt.membranes(cost), total), "{name}, {}", cost.name);
            assert_eq!(receipt.membranes(cost) > 0.0, cost.name.ends_with("sram"), "{}", cost.name);
        }
    }
}

#[test]
fn receipts_of_other_formats_are_refused() {
    let (_, receipt) = run(&fixture("odd_eval.safetensors"), &Device::Cpu, census());
    let good = serde_json::to_value(&receipt).unwrap();
    assert_eq!(Receipt::parse(&good.to_string()).unwrap(), receipt);
    let refused = |change: &dyn Fn(&mut Value), says: &str| {
        let mut json = good.clone();
        change(&mut json);
        let error = Receipt::parse(&json.to_string()).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    };
    refused(&|j| j["format"] = 99.into(), "format 99");
    refused(&|j| j["format"] = "two".into(), "an unknown format");
    refused(&|j| drop(j.as_object_mut().unwrap().remove("format")), "format 1");
    refused(&|j| drop(j.as_object_mut().unwrap().remove("spikeshade")), "is no receipt");
    refused(&|j| drop(j.as_object_mut().unwrap().remove("images")), "`images`");
    refused(&|j| j["neurons"][0]["positive"] = vec![1, 2].into(), "timesteps");
    refused(&|j| j["layers"][0]["triggered"] = vec![1].into(), "timesteps");
}

#[test]
fn comparisons_say_what_differs() {
    let (_, a) = run(&fixture("odd_eval.safetensors"), &Device::Cpu, census());
    let (_, mut b) = run(&fixture("events_eval.safetensors"), &Device::Cpu, census());
    assert!(differences(&a, &a).is_empty());
    assert_eq!(names(&a, &b), ["fixture (1)", "fixture (2)"]);
    let told = differences(&a, &b).join("; ");
    for what in ["timesteps (3 and 6)", "images (3 and 2)", "static images and sequences", "pixels"] {
        assert!(told.contains(what), "{told}");
    }
    b.energy.retain(|e| e.cost_model != "45nm-f16");
    b.accuracy = Some(Accuracy { labelled: 2, right: vec![0, 1, 1, 2, 2, 2] });
    b.neurons.retain(|n| n.name != "head_lif");
    let sections = comparison(&a, &b);
    let row = |what: &str| sections.iter().flat_map(|s| &s.rows).find(|r| r.what == what).unwrap();
    assert_eq!((row("energy, 45nm-f16").values[1].as_str(), row("energy, 45nm-f16").ratio.as_str()), ("–", "–"));
    assert_eq!(row("head_lif").values[1], "–");
    assert_eq!(row("after timestep 2").values, ["–", "50.00 %"]);
    assert_eq!(row("timesteps").values, ["3", "6"]);
    let rate = |r: &Receipt| 100.0 * r.neurons[0].rate();
    let expected = [format!("{:.1} %", rate(&a)), format!("{:.1} %", rate(&b))];
    assert_eq!(row("patch_embed.proj_lif").values, expected);
    well_formed(&comparison_html(&a, &b));
    assert!(
        comparison_html(&a, &b).contains("The two runs differ") && !comparison_html(&a, &a).contains("The two runs")
    );
}

#[test]
fn receipts_are_read_as_they_were_written() {
    let (_, mut receipt) = run(&fixture("deep_evalgrad.safetensors"), &Device::Cpu, census());
    receipt.accuracy = Some(Accuracy { labelled: 2, right: vec![0, 1, 1, 2] });
    let text = serde_json::to_string_pretty(&receipt).unwrap();
    assert_eq!(serde_json::from_str::<Receipt>(&text).unwrap(), receipt);
    // What is where: a reader of the file finds these.
    let json: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["layers"][0]["operation"], "mac");
    assert_eq!(json["layers"][0]["kind"], "image");
    let attention = json["layers"].as_array().unwrap().iter().find(|l| l["kind"] == "attention").unwrap();
    assert!(["q_kv", "qk_v"].contains(&attention["attention"]["order"].as_str().unwrap()));
    assert!(json["energy"].as_array().unwrap().len() == COST_MODELS.len() * receipt.countings.len());
    assert!(CostModel::named("45nm").unwrap_err().to_string().contains("45nm-f32"));
}

#[test]
fn another_models_counts_are_refused() {
    let (counts, _) = run(&fixture("deep_evalgrad.safetensors"), &Device::Cpu, census());
    let model = Model::new(&Checkpoint::load(fixture("heads_eval.safetensors"), false).unwrap()).unwrap();
    let error = Receipt::new(&model, "other", &counts).unwrap_err().to_string();
    assert!(error.contains("was not counted"), "{error}");
}

fn page(checkpoint: &Checkpoint, input: &Input, timesteps: Option<usize>, compare: bool) -> String {
    let model = Arc::new(Model::new(checkpoint).unwrap());
    let mut session = Session::new(model.clone(), Device::Cpu);
    let mut output = session.run_blocking(input, timesteps, Options { trace: true, ..census() }).unwrap();
    let mut receipt = Receipt::new(&model, "<b>a & b</b>", output.census.as_ref().unwrap()).unwrap();
    receipt.accuracy = Some(Accuracy { labelled: 1, right: vec![1; receipt.timesteps] });
    for layer in model.anatomy().neurons {
        let sample = Sample {
            name: "</title><script>".to_owned(),
            label: Some("<i>".to_owned()),
            image: input.data.clone(),
            readouts: output.readouts[0].clone(),
            trace: std::mem::take(&mut output.trace),
            layer: layer.name.clone(),
            neurons: Vec::new(),
            why: None,
        };
        let other = compare.then_some(&receipt);
        let page = html(&Report { receipt: &receipt, config: model.config(), sample: Some(&sample), other });
        well_formed(&page);
        output.trace = sample.trace;
    }
    let layer = "head_lif".to_owned();
    let question = Question { layer: layer.clone(), neuron: 0, timestep: 1 };
    let answer = why(&model, &input.data, &output.trace, &question).unwrap();
    let sample = Sample {
        name: "image".to_owned(),
        label: None,
        image: input.data.clone(),
        readouts: output.readouts[0].clone(),
        trace: output.trace,
        layer,
        neurons: vec![0],
        why: Some(answer),
    };
    html(&Report { receipt: &receipt, config: model.config(), sample: Some(&sample), other: None })
}

/// Tags are nested and closed, and no number is none.
fn well_formed(page: &str) {
    let mut open: Vec<&str> = Vec::new();
    let body = &page[page.find("<html").unwrap()..];
    for piece in body.split('<').skip(1) {
        let (tag, _) = piece.split_once('>').unwrap_or_else(|| panic!("no end: {piece}"));
        let name = tag.trim_start_matches('/').split([' ', '/']).next().unwrap();
        match tag.strip_prefix('/') {
            Some(name) => assert_eq!(open.pop(), Some(name), "{piece}"),
            None if tag.ends_with('/') || ["meta", "img", "br"].contains(&name) => {}
            None => open.push(name),
        }
        assert!(tag.matches('"').count() % 2 == 0, "{tag}");
    }
    assert!(open.is_empty(), "{open:?}");
    let text = page.replace("base64,", "\u{0}");
    for wrong in ["NaN", "inf ", "\"inf", "-inf", "<script", "<i>", "http://", "https://"] {
        let found = text.split('"').filter(|part| !part.starts_with("data:")).any(|part| part.contains(wrong));
        assert!(!found, "{wrong}");
    }
}

/// The same with batch norms that give -0.01 to every neuron: a silent network.
fn silent(mut checkpoint: Checkpoint) -> Checkpoint {
    for (name, tensor) in checkpoint.tensors.iter_mut().filter(|(name, _)| name.contains("_bn")) {
        match name.rsplit('.').next() {
            Some("weight") => tensor.data.fill(0.0),
            Some("bias") => tensor.data.fill(-0.01),
            _ => {}
        }
    }
    checkpoint
}

#[test]
fn pages_stand_at_the_edges() {
    for name in ["tiny_eval", "odd_eval", "heads_eval", "events_eval"] {
        let path = fixture(&format!("{name}.safetensors"));
        let input = common::input(&tensor_file::read(&path).unwrap());
        let checkpoint = Checkpoint::load(&path, false).unwrap();
        // One image of it.
        let images = input.timesteps.unwrap_or(1) * input.batch;
        let size = input.data.len() / images;
        let steps = (0..input.timesteps.unwrap_or(1)).map(|t| t * input.batch * size);
        let data: Vec<f32> = steps.flat_map(|at| input.data[at..at + size].to_vec()).collect();
        let one = Input { batch: 1, timesteps: input.timesteps, data };
        let whole = page(&checkpoint, &one, None, true);
        well_formed(&whole);
        for says in ["ENERGY.md", "What the words mean", "connection sparsity", "weights are zero"] {
            assert!(whole.contains(says), "{says}");
        }
        // The picture once; of a map a pixel a token.
        let picture = 54 + (3 * checkpoint.config.img_size).next_multiple_of(4) * checkpoint.config.img_size;
        let size = |bytes: usize| bytes.div_ceil(3) * 4;
        let bitmaps: Vec<usize> = whole.split("base64,").skip(1).map(|b| b.split('"').next().unwrap().len()).collect();
        assert_eq!(bitmaps[0], size(picture));
        let side = checkpoint.config.stage_sizes()[4];
        let map = size(54 + (3 * side).next_multiple_of(4) * side);
        assert!(bitmaps.len() > checkpoint.config.num_heads && bitmaps[1..].iter().all(|&b| b == map), "{bitmaps:?}");
        if input.timesteps.is_none() {
            let at_once = page(&checkpoint, &one, Some(1), false);
            assert!(at_once.contains("1 timestep;"));
        }
        let page = page(&silent(checkpoint), &one, None, true);
        assert!(page.contains("No neuron fired.") && page.contains("no ratio where nothing fires"));
        assert!(page.contains("</figure>") && page.contains(": silent</figcaption>"));
        well_formed(&page);
    }
}

#[test]
fn a_model_of_one_class_has_a_page() {
    let path = fixture("tiny_eval.safetensors");
    let input = common::input(&tensor_file::read(&path).unwrap());
    let mut checkpoint = Checkpoint::load(&path, false).unwrap();
    checkpoint.config.num_classes = 1;
    for (name, kept) in [("head.weight", 32), ("head.bias", 1)] {
        let tensor = checkpoint.tensors.get_mut(name).unwrap();
        tensor.shape[0] = 1;
        tensor.data.truncate(kept);
    }
    let one = Input { batch: 1, timesteps: None, data: input.data[..3 * 16 * 16].to_vec() };
    let page = page(&checkpoint, &one, None, false);
    assert!(page.contains("100.0 %") && page.contains("class 0"));
    well_formed(&page);
}

/// The text has τ, and as many parts as it says, whose sum is the input.
fn tells_all(answer: &Why, text: &str) {
    assert!(text.contains(&format!("τ = {}", answer.tau)), "{text}");
    let active = answer.contributions.iter().filter(|c| c.amount != 0.0).count();
    let Some((_, parts)) = text.split_once("the sum of ") else { return assert!(active < 2, "{text}") };
    assert_eq!(parts.split(' ').next().unwrap().parse::<usize>().unwrap(), active, "{text}");
    let (mut shown, mut sum) = (0, 0.0);
    for line in parts.lines().skip(1).filter(|l| l.starts_with("  ")) {
        let (amount, from) = line.trim_start().split_once("  ").unwrap();
        sum += amount.parse::<f64>().unwrap();
        let more = from.split_once(" smaller one").map(|(n, _)| n.parse::<usize>().unwrap());
        shown += more.unwrap_or(1);
    }
    assert_eq!(shown, active, "{text}");
    assert!((sum - answer.input).abs() < 1e-4 * 15.0, "{text}");
}

/// The parts of an input add up to what charges the membrane from one timestep to the next, of every layer.
#[test]
fn contributions_add_up_to_the_membrane() {
    for (name, weights) in [
        ("tiny_eval", Weights::F32),
        ("odd_eval", Weights::F32),
        ("long_eval", Weights::F32),
        ("heads_eval", Weights::F32),
        ("deep_evalgrad", Weights::F32),
        ("events_eval", Weights::F32),
        ("deep_evalgrad", Weights::F16),
        ("deep_evalgrad", Weights::Int8),
    ] {
        let path = fixture(&format!("{name}.safetensors"));
        let input = common::input(&tensor_file::read(&path).unwrap());
        let model = Arc::new(Model::with_weights(&Checkpoint::load(&path, false).unwrap(), weights).unwrap());
        let config = model.config().clone();
        let images = input.timesteps.unwrap_or(1) * input.batch;
        let size = input.data.len() / images;
        let steps = (0..input.timesteps.unwrap_or(1)).map(|t| t * input.batch * size);
        let data: Vec<f32> = steps.flat_map(|at| input.data[at..at + size].to_vec()).collect();
        let one = Input { batch: 1, timesteps: input.timesteps, data };
        let mut session = Session::new(model.clone(), Device::Cpu);
        let output = session.run_blocking(&one, None, Options { trace: true, ..Options::default() }).unwrap();
        let timesteps = output.trace[0].shape.steps;
        let mut spikes = 0;
        for layer in model.anatomy().neurons {
            for (i, neuron) in (0..layer.len() as usize).step_by((layer.len() as usize / 9).max(1) | 1).enumerate() {
                let timestep = 1 + i % timesteps;
                let question = Question { layer: layer.name.clone(), neuron, timestep };
                let answer = why(&model, &one.data, &output.trace, &question).unwrap();
                let now = answer.path[timestep - 1];
                let (before, start) = (f64::from(now.before), f64::from(config.v_reset.unwrap_or(0.0)));
                let tau = f64::from(config.tau);
                let h = match config.decay_input {
                    true => before + (answer.input - (before - start)) / tau,
                    false => before - (before - start) / tau + answer.input,
                };
                let what = format!("{name} {weights:?} {question:?}");
                assert!((h - f64::from(now.h)).abs() < 1e-4 * (1.0 + h.abs()), "{what}: {h} and {}", now.h);
                assert_eq!(now.spike > 0, now.h >= answer.threshold, "{what}");
                let parts = &answer.contributions;
                assert_eq!(Question::at(&model, &layer.name, answer.place, timestep).unwrap(), question, "{what}");
                let total: f64 = parts.iter().map(|p| p.amount).sum();
                assert!((total - answer.input).abs() <= 1e-9 * (1.0 + total.abs()), "{what}");
                // What spiked there is what the trace has.
                for part in parts.iter().filter(|p| p.from.contains(", channel ") && !p.from.contains("pooled")) {
                    let (Some(layer), Some([y, x, c])) = (&part.layer, part.place) else { continue };
                    let there = output.trace.iter().find(|t| t.name == format!("s.{layer}")).unwrap();
                    let Shape { width, channels, steps, .. } = there.shape;
                    let at = ((timestep - 1).min(steps - 1) * there.shape.rows() + y * width + x) * channels + c;
                    assert!(matches!(&there.values, Values::Spikes(v) if v[at] != 0), "{what}: {}", part.from);
                }
                assert_eq!(answer.ternary, layer.ternary, "{what}");
                assert!(parts.windows(2).all(|w| w[0].amount.abs() >= w[1].amount.abs()), "{what}");
                let text = answer.to_string();
                assert!(text.starts_with(&layer.name) && text.contains("reset"), "{text}");
                tells_all(&answer, &text);
                let json = serde_json::to_value(&answer).unwrap();
                assert_eq!(json["path"].as_array().unwrap().len(), timesteps);
                assert_eq!(json["contributions"].as_array().unwrap().len(), answer.contributions.len());
                spikes += answer.path.iter().filter(|m| m.spike != 0).count();
            }
        }
        assert!(spikes > 20, "{name}: {spikes} spikes");
        let wrong = [("head_lif", 1 << 40, 1, "neurons"), ("head_lif", 0, 99, "timestep"), ("head", 0, 1, "no layer")];
        for (layer, neuron, timestep, says) in wrong {
            let question = Question { layer: layer.to_owned(), neuron, timestep };
            let error = why(&model, &one.data, &output.trace, &question).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
        let error = Question::at(&model, "head_lif", [0, 0, 1 << 40], 1).unwrap_err().to_string();
        assert!(error.contains("channels"), "{error}");
    }
    let question = Question { layer: "a.b".to_owned(), neuron: 3, timestep: 1 };
    assert_eq!("a.b:3:1".parse::<Question>().unwrap(), question);
    assert!("a:b".parse::<Question>().unwrap_err().to_string().contains("layer:neuron:timestep"));
}

/// Where one image hardly fits, tensors are cut into windows and batches into parts; the counts are the same.
#[test]
fn counts_are_the_same_within_tight_limits() {
    for name in ["long_eval", "heads_eval"] {
        let path = fixture(&format!("{name}.safetensors"));
        let input = common::input(&tensor_file::read(&path).unwrap());
        let model = Arc::new(Model::new(&Checkpoint::load(&path, false).unwrap()).unwrap());
        let options = Options { order: Some(Order::QkV), ..census() };
        let shape = |batch| InputShape { timesteps: model.config().timesteps, batch, sequence: false };
        let limits = |binding| Limits { binding, ..Limits::default() };
        let plan = |batch, limits| MemoryPlan::new(&model.record(shape(batch), options, limits).unwrap(), limits);
        let binding = (1..).map(|i| i * 1024).find(|&b| plan(1, limits(b)).is_ok()).unwrap();
        let ops = |limits| model.record(shape(1), options, limits).unwrap().ops().count();
        let cut = plan(input.batch, limits(binding)).is_err() || ops(limits(binding)) > ops(Limits::default());
        assert!(cut, "{name}: {binding} bytes cut nothing");
        let (expected, _) = run(&path, &Device::Cpu, options);
        for context in common::contexts(limits(binding)) {
            let device = Device::Gpu(context);
            assert_eq!(run(&path, &device, options).0, expected, "{name} on {}", device.name());
        }
    }
}
