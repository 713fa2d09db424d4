//! The reference fixtures, bit for bit, on every device.

mod common;

use std::path::Path;
use std::sync::Arc;

use spikeshade::checkpoint::Checkpoint;
use spikeshade::kernels::attention::Order;
use spikeshade::layers::Options;
use spikeshade::model::Model;
use spikeshade::outputs::Values;
use spikeshade::session::{Device, Session};
use spikeshade::tensor_file;

/// `-0 = 0`, and otherwise the same bits.
fn same(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a == b)
}

fn check(path: &Path, device: &Device) {
    let file = tensor_file::read(path).unwrap();
    let model = Arc::new(Model::new(&Checkpoint::load(path, false).unwrap()).unwrap());
    let input = common::input(&file);
    let logits = file.f32("out.logits").unwrap();
    let steps = input.timesteps.unwrap_or(model.config().timesteps);
    let exact = steps.is_power_of_two() && model.config().tokens().is_power_of_two();
    let mut session = Session::new(model, device.clone());
    let mut first: Option<Vec<Vec<f32>>> = None;
    for order in [None, Some(Order::QkV), Some(Order::QKv)] {
        for (fused, trace) in [(true, false), (false, false), (true, true)] {
            let what = format!("{} on {}, {order:?}, fused {fused}, trace {trace}", path.display(), device.name());
            let options = Options { order, fused, trace, count: !trace, census: false };
            let output = session.run_blocking(&input, None, options).unwrap();
            let flat = output.logits.concat();
            if exact {
                assert!(same(&flat, &logits), "logits: {what}");
            } else {
                for (a, b) in flat.iter().zip(&logits) {
                    assert!((a - b).abs() <= 1e-6, "logits {a} {b}: {what}");
                }
            }
            let first = first.get_or_insert_with(|| output.logits.clone());
            assert_eq!(*first, output.logits, "{what}");
            if trace {
                let expected: Vec<&str> =
                    file.names().filter(|n| ["s.", "h.", "u.", "k.", "o."].iter().any(|p| n.starts_with(p))).collect();
                if !expected.is_empty() {
                    assert_eq!(expected.len(), output.trace.len(), "{what}");
                }
                for name in expected {
                    let tensor =
                        output.trace.iter().find(|t| t.name == name).unwrap_or_else(|| panic!("no {name}: {what}"));
                    let s = tensor.shape;
                    assert_eq!(
                        file.shape(name).unwrap(),
                        [s.steps, s.batch, s.channels, s.height, s.width],
                        "{name}: {what}"
                    );
                    match tensor.channel_first() {
                        Values::Real(v) => assert!(same(&v, &file.f32(name).unwrap()), "{name}: {what}"),
                        Values::Spikes(v) => assert_eq!(v, file.u8(name).unwrap(), "{name}: {what}"),
                        Values::Ternary(v) => assert_eq!(v, file.i8(name).unwrap(), "{name}: {what}"),
                    }
                }
            } else {
                for count in &output.counts {
                    let name = format!("s.{}", count.layer);
                    if file.contains(&name) {
                        let spikes = file.bytes(&name).unwrap().iter().filter(|&&s| s != 0).count();
                        assert_eq!(count.spikes, spikes as u64, "{name}: {what}");
                        assert_eq!(count.possible, file.bytes(&name).unwrap().len() as u64, "{name}: {what}");
                    }
                }
            }
        }
    }
}

#[test]
fn fixtures_are_reproduced_bit_for_bit() {
    for device in common::devices() {
        for path in common::fixtures() {
            check(&path, &device);
        }
    }
}
