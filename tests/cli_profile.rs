//! `spikeshade profile`.
#![cfg(feature = "cli")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use spikeshade::insight::receipt::Receipt;

const IMAGES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/images");
const MNIST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/mnist-2-64.safetensors");

fn profile(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_spikeshade")).arg("profile").args(["--device", "cpu"]).args(args).output().unwrap()
}

#[track_caller]
fn good(args: &[&str]) -> String {
    let output = profile(args);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn refused(args: &[&str], says: &str) {
    let output = profile(args);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(matches!(output.status.code(), Some(1 | 2)) && message.contains(says), "{message}");
    assert!(output.stdout.is_empty());
}

fn class_folders(at: &Path) {
    for (class, picture) in [("3", "3-dark-on-light.png"), ("4", "four.png"), ("9", "nine.png")] {
        fs::create_dir_all(at.join(class)).unwrap();
        fs::copy(Path::new(IMAGES).join(picture), at.join(class).join(picture)).unwrap();
    }
}

#[test]
fn a_profile_is_a_table_a_receipt_and_a_page() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("report");
    let text = good(&[IMAGES, "--out", out.to_str().unwrap(), "--why", "patch_embed.proj_lif:3144:1"]);
    for says in
        ["patch_embed.proj_conv", "spike-driven", "synaptic operations an image", "report.html", "threshold 1; reset"]
    {
        assert!(text.contains(says), "no {says:?} in {text}");
    }
    let receipt: Receipt = serde_json::from_slice(&fs::read(out.join("receipt.json")).unwrap()).unwrap();
    assert!(receipt.images > 9 && receipt.totals.acs > 0 && receipt.accuracy.is_none());
    let page = fs::read_to_string(out.join("report.html")).unwrap();
    assert!(page.contains("Why did it fire?") && page.contains("block.1.attn.q_lif"));

    // The answer as numbers, which are those of the text.
    let json = good(&[IMAGES, "--json", "--why", "patch_embed.proj_lif:3144:1"]);
    let why = serde_json::from_str::<Value>(&json).unwrap()["why"].take();
    assert_eq!((why["layer"].as_str().unwrap(), why["neuron"].as_u64().unwrap()), ("patch_embed.proj_lif", 3144));
    assert_eq!(why["path"].as_array().unwrap().len() as u64, 4);
    let parts = why["contributions"].as_array().unwrap();
    let total: f64 = parts.iter().map(|p| p["amount"].as_f64().unwrap()).sum();
    assert!((total - why["input"].as_f64().unwrap()).abs() < 1e-9 && parts.iter().any(|p| p["place"].is_array()));
    assert!(text.contains(&format!("is {:.4}, the sum of", why["input"].as_f64().unwrap())), "{why} in {text}");

    // A receipt beside itself: all alike.
    let before = out.join("receipt.json");
    let json = good(&[IMAGES, "--json", "--compare", before.to_str().unwrap(), "--batch", "3"]);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["layers"], json["compared_with"]["layers"]);
    assert_eq!(json["neurons"], json["compared_with"]["neurons"]);
    // And beside other weights of the same model, run anew.
    let text = good(&[IMAGES, "--compare", MNIST, "--timesteps", "1"]);
    assert!(text.lines().filter(|l| l.trim_end().ends_with("1.000")).count() > 6, "{text}");
}

#[test]
fn labelled_pictures_have_an_accuracy_after_each_timestep() {
    let folder = tempfile::tempdir().unwrap();
    class_folders(folder.path());
    let data = folder.path().to_str().unwrap();
    let json: Value =
        serde_json::from_str(&good(&["--model", MNIST, "--data", data, "--json", "--batch", "2"])).unwrap();
    assert_eq!(json["accuracy"]["labelled"], 3);
    let right = json["accuracy"]["right"].as_array().unwrap();
    assert_eq!(right.len() as u64, json["timesteps"].as_u64().unwrap());
    assert_eq!(right[right.len() - 1], 3);
    let one: Value =
        serde_json::from_str(&good(&["--model", MNIST, "--data", data, "--json", "--timesteps", "1"])).unwrap();
    assert_eq!(one["accuracy"]["right"][0], right[0], "the first readout is a run of one timestep");
}

#[test]
fn mistakes_are_said() {
    let out = tempfile::tempdir().unwrap();
    let out = out.path().to_str().unwrap();
    refused(&[], "<IMAGE>");
    refused(&[IMAGES, "--layer", "block.0.attn"], "block.0.attn.q_lif");
    refused(&[IMAGES, "--out", out, "--image", "4000"], "--image 4000");
    refused(&[IMAGES, "--cost-model", "7nm"], "45nm-f32");
    refused(&[IMAGES, "--why", "head_lif"], "layer:neuron:timestep");
    refused(&[IMAGES, "--why", "head_lif:0:9"], "timestep 9");
    refused(&[IMAGES, "--compare", "/nowhere/receipt.json"], "/nowhere/receipt.json");
    let wrong = Path::new(out).join("wrong.json");
    fs::write(&wrong, "{}").unwrap();
    refused(&[IMAGES, "--compare", wrong.to_str().unwrap()], "is no receipt");
}
