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
    assert!(page.contains("Why did it fire, or not?") && page.contains("block.1.attn.q_lif"));

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
    assert!(text.lines().filter(|l| l.ends_with("        1")).count() > 6, "{text}");
}

/// Figures of a table's rows add up to the row `all`, membranes among them.
#[test]
fn rows_of_energies_add_up() {
    let picture = format!("{IMAGES}/five.png");
    let text = good(&[&picture, "--cost-model", "45nm-f32-sram"]);
    let microjoules = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [.., value, unit] = fields[..] else { panic!("{line}") };
        let scale = match unit {
            "µJ" => 1.0,
            "nJ" => 1e-3,
            "pJ" => 1e-6,
            _ => panic!("{line}"),
        };
        value.parse::<f64>().unwrap() * scale
    };
    let table = text.split("layer, per image").nth(1).unwrap().split("\n\n").next().unwrap();
    let (rows, all) = table.trim_end().rsplit_once('\n').unwrap();
    let sum: f64 = rows.lines().skip(1).map(microjoules).sum();
    assert!(rows.contains("membranes") && all.starts_with("all"), "{table}");
    assert!((sum / microjoules(all) - 1.0).abs() < 0.01, "{table}");
}

#[test]
fn two_receipts_stand_side_by_side_without_a_run() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let picture = format!("{IMAGES}/five.png");
    good(&[&picture, "--out", &at("a"), "--timesteps", "1"]);
    let own: Value =
        serde_json::from_str(&good(&[&picture, "--json", "--out", &at("b"), "--why", "head_lif:3:2"])).unwrap();
    assert_eq!(own["why"]["neuron"], 3);
    let path = own["why"]["path"].as_array().unwrap();
    assert!(path.len() == 4 && path[0]["h"].is_f64(), "{path:?}");
    let saved = fs::read_to_string(folder.path().join("b/receipt.json")).unwrap();
    assert_eq!(Receipt::parse(&saved).unwrap(), Receipt::parse(&own.to_string()).unwrap());
    assert!(Receipt::parse(&saved).unwrap().why.is_some());

    let output = profile(&["--compare", &at("a"), &at("b/receipt.json"), "--out", &at("c")]);
    let (text, told) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success() && told.contains("timesteps (1 and 4)"), "{told}");
    for says in ["built-in (1)", "built-in (2)", "firing rate by layer", "head_lif", "energy, 45nm-f32"] {
        assert!(text.contains(says), "no {says:?} in {text}");
    }
    let page = fs::read_to_string(folder.path().join("c/report.html")).unwrap();
    assert!(page.contains("Side by side") && page.contains("The two runs differ"));
    assert!(!folder.path().join("c/receipt.json").exists());

    // A receipt by any name; others' formats and broken ones are refused.
    let receipt = fs::read_to_string(folder.path().join("a/receipt.json")).unwrap();
    fs::write(at("old.txt"), receipt.replace("\"format\": 2", "\"format\": 99")).unwrap();
    refused(&["--compare", &at("a"), &at("old.txt")], "format 99");
    fs::write(at("same"), &receipt).unwrap();
    good(&["--compare", &at("a"), &at("same")]);
    refused(&["--compare", &at("a"), MNIST], "give pictures");
    refused(&["--compare", &at("a")], "give pictures");
    refused(&[&picture, "--compare", &at("a"), &at("b")], "without a run");
    // A picture after --compare is one to run on.
    let json: Value = serde_json::from_str(&good(&["--json", "--compare", &at("a"), &picture])).unwrap();
    assert_eq!((&json["images"], &json["compared_with"]["timesteps"]), (&1.into(), &1.into()));
    refused(&[&picture, "--compare", &picture], "nor a folder with one");
    refused(&["--compare", &at("a"), &at("nowhere")], "nowhere");
}

/// What `forward` takes, `profile` takes, too: batches and sequences.
#[test]
fn sequences_are_profiled() {
    let fixtures = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");
    let folder = tempfile::tempdir().unwrap();
    let model = format!("{fixtures}/events_eval.safetensors");
    let file = spikeshade::tensor_file::read(Path::new(&model)).unwrap();
    let (shape, x) = (file.shape("in.x").unwrap().to_vec(), file.f32("in.x").unwrap());
    let bytes: Vec<u8> = x.iter().flat_map(|x| x.to_le_bytes()).collect();
    let header = format!("{{\"x\":{{\"dtype\":\"F32\",\"shape\":{shape:?},\"data_offsets\":[0,{}]}}}}", bytes.len());
    let mut text = (header.len() as u64).to_le_bytes().to_vec();
    text.extend_from_slice(header.as_bytes());
    text.extend_from_slice(&bytes);
    let input = folder.path().join("x.safetensors");
    fs::write(&input, text).unwrap();
    let input = input.to_str().unwrap();
    let out = folder.path().join("r");
    let mut of_batches = Vec::new();
    for batch in ["1", "2"] {
        let args = ["--model", &model, "--input", input, "--json", "--batch", batch, "--out", out.to_str().unwrap()];
        let json: Value = serde_json::from_str(&good(&args)).unwrap();
        assert_eq!((&json["sequence"], &json["images"], &json["timesteps"]), (&true.into(), &2.into(), &6.into()));
        of_batches.push(json);
    }
    assert_eq!(of_batches[0], of_batches[1]);
    assert_eq!(of_batches[0]["totals"]["acs"], 2_175_000);
    assert!(fs::read_to_string(out.join("report.html")).unwrap().contains("at the first timestep"));
    refused(&["--model", &model, "--input", input, "--why", "head_lif:0:7"], "timestep 7");
    assert!(good(&["--model", &model, "--input", input]).contains(": 2 sequences at 6 timesteps"));
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
    refused(&[IMAGES, "--out", out, "--layer", "block.0.attn"], "block.0.attn.q_lif");
    refused(&[IMAGES, "--out", out, "--image", "4000"], "--image 4000");
    refused(&[IMAGES, "--cost-model", "7nm"], "45nm-f32");
    refused(&[IMAGES, "--why", "head_lif"], "layer:neuron:timestep");
    // Before anything runs: the device is not there.
    let early = |args: &[&str], says: &str| {
        let nowhere = [&["--device", "no such adapter"], args].concat();
        let output = Command::new(env!("CARGO_BIN_EXE_spikeshade")).arg("profile").args(&nowhere).output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && message.contains(says), "{message}");
    };
    early(&[IMAGES, "--why", "head_lif:0:9"], "timestep 9");
    early(&[IMAGES, "--why", "head_lif:99999999:1"], "neurons");
    early(&[IMAGES, "--why", "head:0:1"], "block.0.attn.q_lif");
    early(&[IMAGES, "--out", out, "--neurons", "99999999"], "block.1.attn.q_lif has 3136 neurons");
    early(&[IMAGES, "--out", out, "--neurons", "1,1,70000"], "--neurons 70000");
    early(&[IMAGES, "--layer", "head_lif"], "add --out");
    early(&[IMAGES, "--neurons", "1"], "add --out");
    early(&[IMAGES, "--image", "1"], "add --out");
    early(&[IMAGES, "--out", out, "--limit", "3", "--image", "4"], "there are 3 images (--limit)");
    refused(&[IMAGES, "--compare", "/nowhere/receipt.json"], "/nowhere/receipt.json");
    let wrong = Path::new(out).join("wrong.json");
    fs::write(&wrong, "{}").unwrap();
    refused(&[IMAGES, "--compare", wrong.to_str().unwrap()], "is no receipt");
    refused(&[IMAGES, "--out", wrong.to_str().unwrap()], "give a folder");
}
