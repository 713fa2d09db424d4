//! `spikeshade grad` as a program.
#![cfg(feature = "cli")]

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Output;

use spikeshade::tensor_file::{self, Data};

fn spikeshade(args: &[&str]) -> Output {
    common::program().args(args).output().unwrap()
}

fn fixture(name: &str) -> String {
    format!("{}/tests/fixtures/{name}", env!("CARGO_MANIFEST_DIR"))
}

fn split(fixture: &str, to: &Path, labels: &[i64]) {
    let file = tensor_file::read(Path::new(fixture)).unwrap();
    let x = ("x".to_owned(), file.shape("in.x").unwrap().to_vec(), Data::F32(file.f32("in.x").unwrap()));
    let mut tensors = vec![x];
    if !labels.is_empty() {
        tensors.push(("label".to_owned(), vec![labels.len()], Data::I64(labels.to_vec())));
    }
    tensor_file::write(to, tensors, &BTreeMap::new()).unwrap();
}

#[test]
fn a_training_step_writes_everything_it_names() {
    let folder = tempfile::tempdir().unwrap();
    let (input, output) = (folder.path().join("in.safetensors"), folder.path().join("out.safetensors"));
    let model = fixture("tiny_traingrad.safetensors");
    let file = tensor_file::read(Path::new(&model)).unwrap();
    split(&model, &input, &file.i64("in.label").unwrap());
    let (i, o) = (input.to_str().unwrap(), output.to_str().unwrap());
    let args = ["grad", "-m", &model, "-i", i, "-o", o, "--mode", "train", "--adamw-step", "-d", "cpu", "--json"];
    let run = spikeshade(&args);
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let json: serde_json::Value = serde_json::from_slice(&run.stdout).unwrap();
    let out = tensor_file::read(&output).unwrap();
    let loss = file.f64("out.loss").unwrap()[0];
    assert!((json["loss"].as_f64().unwrap() - loss).abs() < 1e-5 * loss);
    assert_eq!(out.f64("loss").unwrap().len(), 1);
    for name in file.names().filter(|n| ["g.", "r.", "n."].iter().any(|p| n.starts_with(p))) {
        assert_eq!(out.shape(name).unwrap(), file.shape(name).unwrap(), "{name}");
    }
}

#[test]
fn bad_labels_are_short_errors() {
    let folder = tempfile::tempdir().unwrap();
    let (input, output) = (folder.path().join("in.safetensors"), folder.path().join("out.safetensors"));
    let model = fixture("tiny_evalgrad.safetensors");
    for labels in [&[][..], &[0], &[0, 10], &[-1, 1]] {
        split(&model, &input, labels);
        let (i, o) = (input.to_str().unwrap(), output.to_str().unwrap());
        let run = spikeshade(&["grad", "-m", &model, "-i", i, "-o", o, "-d", "cpu"]);
        let text = String::from_utf8_lossy(&run.stderr).into_owned();
        assert_eq!(run.status.code(), Some(1), "{text}");
        assert!(text.contains("label") && text.lines().count() <= 20 && !text.contains("panicked"), "{text}");
        assert!(run.stdout.is_empty() && !output.exists());
    }
}
