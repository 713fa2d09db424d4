//! `spikeshade bench` as a program. Nothing here depends on how long anything takes.
#![cfg(feature = "cli")]

mod common;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use serde_json::Value;
use spikeshade::gpu::Limits;
use spikeshade::model::Model;
use spikeshade::session::{Device, Input, Session};
use spikeshade::tensor_file::{self, Data};
use tempfile::TempDir;

const MNIST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/mnist-2-64.safetensors");
const EVENTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/events_eval.safetensors");
const BATCH: usize = 3;

fn program(args: &[&str]) -> Command {
    let mut command = common::program();
    command.arg("bench").args(args);
    command
}

fn run(args: &[&str]) -> Output {
    program(args).output().unwrap()
}

#[track_caller]
fn json(args: &[&str]) -> Value {
    let output = run(&[args, &["--json"]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[track_caller]
fn refused(args: &[&str], thing: &str) {
    let output = program(args).stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(matches!(output.status.code(), Some(1 | 2)), "{text}");
    assert!(text.contains(thing) && !text.contains("internal fault"), "no {thing:?} in {text}");
    assert!(output.stdout.is_empty());
}

/// Any adapter's name, for `--device`.
fn adapter() -> String {
    common::contexts(Limits::default())[0].name().to_owned()
}

fn pixels() -> Vec<f32> {
    (0..BATCH * 28 * 28).map(|i| ((i * 37 % 101) as f32 - 50.0) / 40.0).collect()
}

/// A file with `x` and, if there are any, labels.
fn input(folder: &TempDir, labels: &[i64]) -> PathBuf {
    let path = folder.path().join("in.safetensors");
    let mut tensors = vec![("x".to_owned(), vec![BATCH, 1, 28, 28], Data::F32(pixels()))];
    if !labels.is_empty() {
        tensors.push(("label".to_owned(), vec![labels.len()], Data::I64(labels.to_vec())));
    }
    tensor_file::write(&path, tensors, &BTreeMap::new()).unwrap();
    path
}

/// A serving process, asked one line at a time.
struct Served {
    child: Child,
    answers: BufReader<ChildStdout>,
}

impl Served {
    fn start(input: &Path, device: &str, more: &[&str]) -> (Self, Value) {
        let args = ["--serve", "-m", MNIST, "-i", input.to_str().unwrap(), "-d", device];
        let mut command = program(&[&args, more].concat());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap());
        let mut this = Served { child, answers };
        let ready = this.answer();
        (this, ready)
    }

    fn answer(&mut self) -> Value {
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line:?}"))
    }

    fn ask(&mut self, line: &[u8]) -> Value {
        let stdin = self.child.stdin.as_mut().unwrap();
        stdin.write_all(line).unwrap();
        stdin.flush().unwrap();
        self.answer()
    }

    fn logits(&mut self) -> Vec<Vec<f32>> {
        serde_json::from_value(self.ask(b"logits\n")["logits"].take()).unwrap()
    }

    /// Ends its input; it has to end too, with nothing more to say.
    fn end(mut self) {
        drop(self.child.stdin.take());
        let mut rest = String::new();
        self.answers.read_line(&mut rest).unwrap();
        assert_eq!(rest, "");
        assert!(self.child.wait().unwrap().success());
    }
}

#[test]
fn it_serves_runs_logits_and_errors() {
    let folder = tempfile::tempdir().unwrap();
    let input = input(&folder, &[]);
    let given = Input { batch: BATCH, timesteps: None, data: pixels() };
    let model = std::sync::Arc::new(Model::load(MNIST).unwrap());
    for timesteps in [None, Some(2)] {
        let expected = Session::new(model.clone(), Device::Cpu).run_blocking(&given, timesteps, Default::default());
        let expected = expected.unwrap().logits;
        let more: &[&str] = if timesteps.is_some() { &["--timesteps", "2"] } else { &[] };
        for device in ["cpu", &adapter()] {
            let (mut served, ready) = Served::start(&input, device, more);
            assert_eq!((ready["ready"].as_bool(), ready["batch"].as_u64()), (Some(true), Some(BATCH as u64)));
            assert!(ready["device"].as_str().unwrap().contains(device));
            // Asked first, it runs.
            let logits = served.logits();
            assert_eq!(logits.len(), BATCH);
            let far = logits.concat().iter().zip(expected.concat()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(far < 1e-3, "{far} on {device}");
            for line in ["run\n", "  run \r\n"] {
                assert!(served.ask(line.as_bytes())["seconds"].as_f64().unwrap() > 0.0);
            }
            for line in [
                &b"stop\n"[..],
                b"\n",
                b"run run\n",
                b"RUN\n",
                b"\xff\xfe\0\n",
                &[b"x".repeat(100_000), b"\n".to_vec()].concat(),
            ] {
                let answer = served.ask(line);
                let error = answer["error"].as_str().unwrap();
                assert!(error.contains("run and logits") && error.len() < 500, "{error}");
            }
            assert_eq!(served.logits(), logits);
            served.end();
        }
    }
}

#[test]
fn it_serves_training_steps() {
    let folder = tempfile::tempdir().unwrap();
    let input = input(&folder, &[0, 3, 9]);
    let (mut cpu, _) = Served::start(&input, "cpu", &["--train"]);
    let (mut gpu, ready) = Served::start(&input, &adapter(), &["--train"]);
    assert_eq!(ready["batch"], BATCH);
    let mut before = Vec::new();
    for step in 0..3 {
        for served in [&mut cpu, &mut gpu] {
            assert!(served.ask(b"run\n")["seconds"].as_f64().unwrap() > 0.0);
        }
        let (logits, others) = (cpu.logits(), gpu.logits());
        assert_ne!(logits, before, "step {step} learned nothing");
        let far = logits.concat().iter().zip(others.concat()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(step > 0 || far < 1e-3, "{far}");
        before = logits;
    }
    cpu.end();
    gpu.end();
}

#[test]
fn what_cannot_be_served_is_said_before_it_is_ready() {
    let folder = tempfile::tempdir().unwrap();
    let path = input(&folder, &[]);
    let input = path.to_str().unwrap();
    refused(&["--serve"], "--input");
    refused(&["--serve", "-m", MNIST], "--input");
    refused(&["--serve", "-m", MNIST, "-i", "nothing.safetensors", "-d", "cpu"], "nothing.safetensors");
    refused(&["--serve", "-m", "nothing.safetensors", "-i", input, "-d", "cpu"], "nothing.safetensors");
    refused(&["--serve", "-m", MNIST, "-i", input, "-d", "cpu", "--train"], "label");
    refused(&["--serve", "-m", MNIST, "-i", input, "-d", "no such device"], "no such device");
    refused(&["--serve", "-m", MNIST, "-i", MNIST, "-d", "cpu"], "`x`");
    let labels = self::input(&folder, &[1, 2, 10]);
    refused(&["--serve", "-m", MNIST, "-i", labels.to_str().unwrap(), "-d", "cpu", "--train"], "label 10");
    let file = tensor_file::read(Path::new(EVENTS)).unwrap();
    let x = ("x".to_owned(), file.shape("in.x").unwrap().to_vec(), Data::F32(file.f32("in.x").unwrap()));
    let label = ("label".to_owned(), vec![x.1[1]], Data::I64(vec![0; x.1[1]]));
    tensor_file::write(&path, vec![x, label], &BTreeMap::new()).unwrap();
    refused(&["--serve", "-m", EVENTS, "-i", input, "-d", "cpu", "--train"], "sequence");
}

#[test]
fn a_bench_says_what_ran_and_where_its_time_went() {
    let adapter = adapter();
    for (device, train) in [("cpu", false), ("cpu", true), (&adapter[..], false), (&adapter, true)] {
        let what = format!("{device}, train: {train}");
        let mut args = vec!["--batch", "1,2", "--runs", "2", "--device", device, "--timesteps", "2"];
        args.extend(train.then_some("--train"));
        let whole = json(&args);
        assert!(whole["device"].as_str().unwrap().contains(device), "{what}");
        assert_eq!((&whole["timesteps"], &whole["train"]), (&2.into(), &train.into()), "{what}");
        let timed = whole["ceilings"].is_object();
        assert!(timed || device != "cpu", "{what}");
        let batches = whole["batches"].as_array().unwrap();
        assert_eq!(batches.iter().map(|b| b["batch"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 2], "{what}");
        for batch in batches {
            assert_eq!(batch["seconds"]["all"].as_array().unwrap().len(), 2);
            let time = |key: &str| batch["seconds"][key].as_f64().unwrap();
            assert!(0.0 < time("min") && time("min") <= time("median") && time("median") <= time("max"), "{what}");
            assert!(batch["images_per_second"].as_f64().unwrap() > 0.0, "{what}");
            assert_eq!(batch["against_reference"].is_object(), device != "cpu", "{what}");
            let breakdown = &batch["breakdown"];
            assert_eq!(breakdown.is_object(), timed, "{what}");
            if !timed {
                continue;
            }
            let rows = breakdown["rows"].as_array().unwrap();
            let sum = |key: &str| rows.iter().map(|row| row[key].as_f64().unwrap()).sum::<f64>();
            for key in ["ops", "seconds", "bytes", "additions", "multiply_adds"] {
                let all = breakdown["all"][key].as_f64().unwrap();
                assert!((sum(key) - all).abs() <= 1e-9 * all, "{what}: {key}");
            }
            let row =
                |name: &str| rows.iter().find(|row| row["name"] == name).unwrap_or_else(|| panic!("{what}: {name}"));
            let linear = row("linear_spike");
            let (dense, issued) =
                (linear["additions"].as_f64().unwrap(), linear["synaptic_operations"].as_f64().unwrap());
            assert!(0.0 < issued && issued < dense, "{what}: {issued} of {dense}");
            // Two blocks of 64 channels on 7 × 7 tokens at two timesteps: q, k, v and proj, and an MLP four times as wide.
            let images = batch["batch"].as_f64().unwrap();
            assert_eq!(dense, images * 2.0 * 2.0 * 49.0 * 64.0 * 64.0 * 12.0, "{what}");
            assert_eq!(rows.iter().any(|row| row["name"] == "adamw"), train, "{what}");
        }
    }
    let layers = json(&["--batch", "1", "--runs", "1", "--device", "cpu", "--by", "layer", "-m", MNIST]);
    let breakdown = &layers["batches"][0]["breakdown"];
    assert_eq!(breakdown["by"], "layer");
    assert!(breakdown["rows"].as_array().unwrap().iter().any(|row| row["name"] == "head"));
}

#[test]
fn backward_does_what_forward_does_twice() {
    let whole = json(&["--batch", "1", "--runs", "1", "--device", "cpu", "--by", "layer", "--train"]);
    let rows = whole["batches"][0]["breakdown"]["rows"].as_array().unwrap();
    // Attention is also made again for its backward pass.
    let layers =
        [("patch_embed.rpe_conv", 2), ("block.0.attn.q_conv", 2), ("block.1.mlp.fc1_conv", 2), ("block.0.attn", 3)];
    for (layer, times) in layers {
        let row = rows.iter().find(|row| row["name"] == layer).unwrap_or_else(|| panic!("{layer}"));
        // Spikes select in the product and in the gradient of its weights; the input's gradient has two real factors.
        let (added, multiplied) = (row["additions"].as_u64().unwrap(), row["multiply_adds"].as_u64().unwrap());
        assert!(multiplied > 0 && added == times * multiplied, "{layer}: {row}");
    }
}

#[test]
fn a_bench_times_the_census() {
    let measured = json(&["--batch", "2", "--runs", "3", "--device", "cpu", "--census", "-m", MNIST]);
    let ratio = measured["batches"][0]["census_ratio"].as_f64().unwrap();
    assert!(ratio > 0.2 && ratio < 5.0, "{ratio}");
    let without = json(&["--batch", "2", "--runs", "1", "--device", "cpu", "-m", MNIST]);
    assert!(without["batches"][0]["census_ratio"].is_null());
}

#[test]
fn a_bench_prints_a_table() {
    let output = run(&["--batch", "2", "--runs", "1", "--device", "cpu"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && text.contains("batch 2: ") && text.contains("conv3x3_spike"), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 130), "{text}");
    refused(&["--batch", "0"], "--batch");
    refused(&["--runs", "0"], "--runs");
    refused(&["--preset", "nothing"], "nothing");
    refused(&["--preset", "mnist-2-64", "-m", MNIST], "--model");
    refused(&["-m", "nothing.safetensors"], "nothing.safetensors");
    refused(&["--input", MNIST], "--serve");
}

#[test]
fn a_start_is_told_by_its_stages() {
    let adapter = adapter();
    for (device, stages) in [
        ("cpu", &["process", "model", "plan", "first run"][..]),
        (&adapter, &["process", "adapters", "device", "model", "plan", "first run"]),
    ] {
        let whole = json(&["--startup", "--device", device, "--runs", "1"]);
        assert!(whole["device"].as_str().unwrap().contains(device));
        for caches in ["cold", "warm"] {
            let seconds = |key: &str| whole[caches]["seconds"][key].as_f64().unwrap();
            assert!(0.0 < seconds("min") && seconds("min") <= seconds("max"));
            for stage in stages {
                assert!(whole[caches]["stages"][*stage].as_f64().unwrap() >= 0.0, "{caches}, {stage}: {whole}");
            }
        }
        assert_eq!(whole["cold"]["stages"].get("adapters").is_some(), device != "cpu");
    }
    let output = run(&["--startup", "--device", "cpu", "--runs", "1"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("cold: ") && text.contains("warm: ") && text.contains("first run"), "{text}");
    refused(&["--startup", "--device", "no such device", "--runs", "1"], "no such device");
    refused(&["--startup", "--model", MNIST], "--startup");
}

#[test]
fn a_cache_that_cannot_be_used_is_no_error() {
    let folder = tempfile::tempdir().unwrap();
    let input = input(&folder, &[]);
    let output = folder.path().join("out.safetensors");
    let adapter = adapter();
    let forward = |caches: &str| {
        let mut command = common::program();
        let (i, o) = (input.to_str().unwrap(), output.to_str().unwrap());
        command.args(["forward", "-m", MNIST, "-i", i, "-o", o, "-d", &adapter]).env("SPIKESHADE_CACHE_DIR", caches);
        let run = command.output().unwrap();
        assert!(run.status.success() && run.stderr.is_empty(), "{}", String::from_utf8_lossy(&run.stderr));
        tensor_file::read(&output).unwrap().f32("logits").unwrap()
    };
    let expected = forward("");
    let caches = folder.path().join("new/folder");
    for _ in 0..2 {
        assert_eq!(forward(caches.to_str().unwrap()), expected);
    }
    let files: Vec<_> = std::fs::read_dir(&caches).into_iter().flatten().map(|file| file.unwrap().path()).collect();
    // Both of the tests' drivers keep pipelines.
    assert_eq!(files.len(), 1, "{}", caches.display());
    for file in files {
        std::fs::write(file, b"spikeshade pso 1 and nonsense").unwrap();
    }
    assert_eq!(forward(caches.to_str().unwrap()), expected);
    assert_eq!(forward("/dev/null"), expected);
    assert_eq!(forward(input.to_str().unwrap()), expected);
}

#[test]
fn which_variants_are_faster_is_measured_once() {
    let contexts = common::contexts(Limits::default());
    let Some(adapter) = contexts.iter().find(|c| common::has_tables(c)).map(|c| c.name().to_owned()) else { return };
    let folder = tempfile::tempdir().unwrap();
    let input = input(&folder, &[]);
    let output = folder.path().join("out.safetensors");
    let caches = folder.path().join("caches");
    let forward = |variants: &str| {
        let mut command = common::program();
        let (i, o) = (input.to_str().unwrap(), output.to_str().unwrap());
        command.args(["forward", "-m", MNIST, "-i", i, "-o", o, "-d", &adapter]);
        let run = command.env("SPIKESHADE_CACHE_DIR", &caches).env("SPIKESHADE_VARIANTS", variants).output().unwrap();
        assert!(run.status.success() && run.stderr.is_empty(), "{}", String::from_utf8_lossy(&run.stderr));
        tensor_file::read(&output).unwrap().f32("logits").unwrap()
    };
    let files = || -> Vec<_> {
        let all = std::fs::read_dir(&caches).unwrap().map(|file| file.unwrap().path());
        all.filter(|path| path.extension().is_some_and(|e| e == "variants")).collect()
    };
    // Without a measurement: a software driver, and choices that are given.
    let portable = forward("portable");
    forward("auto");
    assert_eq!(forward("events"), portable);
    assert!(files().is_empty(), "{:?}", files());
    assert_eq!(forward("measured"), portable);
    let [file] = &files()[..] else { panic!("{:?}", files()) };
    let written = || (std::fs::metadata(file).unwrap().modified().unwrap(), std::fs::read(file).unwrap());
    let first = written();
    assert_eq!(forward("measured"), portable);
    assert!(written() == first, "it was measured again");
    std::fs::write(file, &first.1[..first.1.len() - 1]).unwrap();
    assert_eq!(forward("measured"), portable);
    // It was measured anew, and what was written is taken the next time.
    let again = written();
    assert!(again.1 != first.1[..first.1.len() - 1], "it was not replaced");
    assert_eq!(forward("measured"), portable);
    assert!(written() == again, "what replaced it was not taken");
}

/// What was measured before something failed is printed, with the failure.
#[cfg(target_os = "linux")]
#[test]
fn a_batch_that_fails_does_not_take_the_others_along() {
    let limited = |more: &[&str]| {
        let mut shell = Command::new("sh");
        // Each thread reserves addresses, which the limit counts as memory.
        shell.env("RAYON_NUM_THREADS", "2").args(["-c", "ulimit -v 2000000; exec \"$@\"", "sh"]);
        shell.args([env!("CARGO_BIN_EXE_spikeshade"), "bench", "--device", "cpu", "--runs", "1"]).args(more);
        shell.output().unwrap()
    };
    let output = limited(&["--json", "--batch", "1,1000000"]);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("1000000") && error.contains("smaller batch"), "{error}");
    let printed: Value = serde_json::from_slice(&output.stdout).unwrap();
    let batches = printed["batches"].as_array().unwrap();
    assert!(batches.len() == 1 && batches[0]["batch"] == 1, "{printed}");
    assert!(printed["error"].as_str().is_some_and(|e| error.contains(e)), "{printed}");
    // Nothing was measured: nothing is printed.
    let output = limited(&["--json", "--batch", "1000000,1"]);
    assert!(output.status.code() == Some(1) && output.stdout.is_empty());
    let printed = json(&["--device", "cpu", "--runs", "1", "--batch", "1"]);
    assert!(printed["error"].is_null() && printed["batches"].as_array().unwrap().len() == 1);
}
