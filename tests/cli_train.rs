//! `spikeshade train` as a program: what it writes, how it goes on after every kind of end, and what it refuses.
#![cfg(feature = "cli")]

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use spikeshade::checkpoint::Checkpoint;
use spikeshade::tensor_file;
use spikeshade::train::metrics::EpochMetrics;

const RECIPE: &str = "
model = 'tiny'
epochs = 12
batch = 8
lr = 2e-2
warmup_epochs = 0.5
weight_decay = 0.05
clip_norm = 1.0
ema_decay = 0.5
label_smoothing = 0.1

[augmentation]
pad_crop = 1
flip = 0.5
mixing = { mixup = 0.2, epochs = 6 }
";

fn spikeshade(args: &[&str]) -> Output {
    common::program().args(args).output().unwrap()
}

fn error(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.lines().count() <= 20 && !text.contains("panicked"), "{text}");
    text
}

/// A folder with pictures of three colours in class folders, and a recipe.
struct Setting {
    folder: tempfile::TempDir,
}

impl Setting {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (split, count) in [("train", 11), ("test", 4)] {
            for (class, colour) in [("red", [220, 40, 40]), ("green", [40, 220, 40]), ("blue", [40, 40, 220])] {
                let of_class = folder.path().join("data").join(split).join(class);
                std::fs::create_dir_all(&of_class).unwrap();
                for i in 0..count {
                    let pixel =
                        |x: u32, y: u32| image::Rgb(colour.map(|c: u32| (c + (x * 7 + y * 5 + i * 11) % 31) as u8));
                    image::RgbImage::from_fn(16, 16, pixel).save(of_class.join(format!("{i}.png"))).unwrap();
                }
            }
        }
        std::fs::write(folder.path().join("recipe.toml"), RECIPE).unwrap();
        Setting { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, run: &str, more: &[&str]) -> Command {
        let mut command = common::program();
        command.args(["train", "--device", "cpu", "--config"]).arg(self.path("recipe.toml"));
        command.arg("--data").arg(self.path("data")).arg("--out").arg(self.path(run)).args(more);
        command
    }

    fn train(&self, run: &str, more: &[&str]) -> Output {
        self.command(run, more).output().unwrap()
    }
}

fn metrics(run: &Path) -> Vec<EpochMetrics> {
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The bits of each tensor to go on from, the losses' of each epoch, and the best model's file.
type Results = (Vec<(String, Vec<u32>)>, Vec<(u64, u64, u64)>, Vec<u8>);

/// Everything of a run that does not depend on when it ran.
fn results(run: &Path) -> Results {
    let last = tensor_file::read(&run.join("last.safetensors")).unwrap();
    let bits = |name: &str| last.f32(name).unwrap().iter().map(|v| v.to_bits()).collect();
    let tensors = last.names().map(|name| (name.to_owned(), bits(name))).collect();
    let epochs = metrics(run).iter().map(|m| (m.epoch, m.train_loss.to_bits(), m.test_loss.to_bits())).collect();
    (tensors, epochs, std::fs::read(run.join("best.safetensors")).unwrap())
}

#[test]
fn a_run_writes_what_it_promises() {
    let setting = Setting::new();
    let output = setting.train("run", &["--json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let run = setting.path("run");
    let epochs = metrics(&run);
    assert_eq!(
        epochs.iter().map(|m| (m.epoch, m.step)).collect::<Vec<_>>(),
        (1..=12).map(|e| (e, 4 * e)).collect::<Vec<_>>()
    );
    assert!(epochs.iter().all(|m| m.firing_rate > 0.0 && m.firing_rates.len() == 11 && m.grad_norm > 0.0));
    assert_eq!(json["epochs"].as_array().unwrap().len(), 12);
    assert_eq!(json["finished"], true);
    let most = epochs.iter().map(|m| m.test_accuracy).fold(0.0, f64::max);
    assert_eq!(json["best_accuracy"].as_f64().unwrap(), most);
    assert!(most > 0.9 && epochs[0].test_accuracy < most, "it has not learned three colours: {epochs:?}");
    assert!(epochs[11].test_firing_rate > 0.0 && epochs[11].train_loss < epochs[0].train_loss);

    // The classes are those of the folders, and the best model is as good as is said.
    let best = run.join("best.safetensors");
    let checkpoint = Checkpoint::load(&best, true).unwrap();
    assert_eq!(checkpoint.config.class_names.as_deref().unwrap(), ["blue", "green", "red"]);
    assert_eq!(checkpoint.config.num_classes, 3);
    let data = setting.path("data");
    let (best, data) = (best.to_str().unwrap(), data.to_str().unwrap());
    let eval = spikeshade(&["eval", "-m", best, "--data", data, "-d", "cpu", "--json"]);
    let eval: serde_json::Value = serde_json::from_slice(&eval.stdout).unwrap();
    assert_eq!(eval["top1"].as_f64().unwrap(), most);
    // What it goes on from is a checkpoint too, and the curves are a picture.
    Checkpoint::load(run.join("last.safetensors"), true).unwrap();
    assert!(std::fs::read_to_string(run.join("curves.svg")).unwrap().starts_with("<svg"));
    assert!(std::fs::read_to_string(run.join("recipe.json")).unwrap().contains("\"red\""));

    // On one core and with other threads for pictures it is the same.
    let one = setting.command("one", &["--threads", "3"]).env("RAYON_NUM_THREADS", "1").output().unwrap();
    assert!(one.status.success() && results(&setting.path("one")) == results(&run));

    // Done is done: going on changes nothing.
    let before = results(&run);
    let again = setting.command("run", &["--resume"]).output().unwrap();
    assert!(again.status.success() && results(&run) == before);
    // Without --resume nothing is overwritten.
    assert!(error(&setting.train("run", &[])).contains("--resume"));
    assert!(error(&setting.train("run", &["--resume", "--lr", "1e-4"])).contains("recipe"));
    assert!(error(&setting.train("run", &["--resume", "--limit", "24"])).contains("--limit"));
    assert!(error(&setting.train("run", &["--resume", "--order", "qk_v"])).contains("--order"));
    // That rounds nothing otherwise.
    assert!(setting.train("run", &["--resume", "--recompute", "--threads", "2"]).status.success());
    assert!(results(&run) == before);
}

#[test]
fn killed_at_any_moment_it_goes_on_to_the_same_weights() {
    // In micro-batches, to have those resumed too.
    let options = ["--save-every", "0", "--micro-batch", "4", "--epochs", "6"];
    let setting = Setting::new();
    assert!(setting.train("whole", &options).status.success());
    let expected = results(&setting.path("whole"));
    let run = setting.path("killed");
    let step = || {
        let last = run.join("last.safetensors");
        let text = last.exists().then(|| tensor_file::read(&last).unwrap().metadata["training"].clone());
        let state: serde_json::Value = text.map_or_else(Default::default, |text| serde_json::from_str(&text).unwrap());
        state["progress"]["step"].as_u64().unwrap_or(0)
    };
    let resumed = [&options[..], &["--resume"]].concat();
    let mut random = 12345u64;
    let mut killed_at = Vec::new();
    // Each life is some saves and some milliseconds long; the last goes to the end.
    while step() < 20 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let until = step() + 1 + (random >> 33) % 4;
        let mut child = Running(setting.command("killed", &resumed).stdout(Stdio::null()).spawn().unwrap());
        let begun = Instant::now();
        while step() < until && child.0.try_wait().unwrap().is_none() {
            assert!(begun.elapsed() < Duration::from_secs(120), "no step came to its end");
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_micros((random >> 40) % 20_000));
        child.0.kill().unwrap();
        let status = child.0.wait().unwrap();
        assert!(status.code().is_none_or(|code| code == 0), "{status}");
        killed_at.push(step());
        // Whatever is there is whole.
        for file in ["last.safetensors", "best.safetensors"].iter().map(|f| run.join(f)).filter(|f| f.exists()) {
            Checkpoint::load(&file, true).unwrap();
        }
        if run.join("metrics.jsonl").exists() {
            metrics(&run);
        }
    }
    assert!(killed_at.len() >= 3, "it was killed at {killed_at:?} only");
    assert!(setting.train("killed", &resumed).status.success());
    let got = results(&run);
    for ((name, got), (_, expected)) in got.0.iter().zip(&expected.0) {
        assert_eq!(got, expected, "{name}");
    }
    assert_eq!(got.1, expected.1);
    assert!(got == expected);
}

#[cfg(unix)]
#[test]
fn interrupted_it_saves_and_goes_on() {
    let setting = Setting::new();
    // So many epochs that it is still at it when the signal comes.
    let epochs = ["--epochs", "40"];
    let run = setting.path("run");
    let mut child = Running(setting.command("run", &epochs).stdout(Stdio::null()).spawn().unwrap());
    let begun = Instant::now();
    while !run.join("metrics.jsonl").exists() {
        assert!(begun.elapsed() < Duration::from_secs(120), "no epoch came to its end");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(Command::new("kill").args(["-INT", &child.0.id().to_string()]).status().unwrap().success());
    assert_eq!(child.0.wait().unwrap().code(), Some(130));
    let saved = tensor_file::read(&run.join("last.safetensors")).unwrap();
    let state: serde_json::Value = serde_json::from_str(&saved.metadata["training"]).unwrap();
    assert!(state["progress"]["step"].as_u64().unwrap() >= 4);
    assert_eq!(metrics(&run).len() as u64, state["progress"]["epoch"].as_u64().unwrap());
    assert!(metrics(&run).len() < 40);
    assert!(setting.train("run", &[&epochs[..], &["--resume"]].concat()).status.success());
    assert!(setting.train("whole", &epochs).status.success());
    assert!(results(&run) == results(&setting.path("whole")));
}

/// A program that does not outlive its test.
struct Running(std::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn fine_tuning_keeps_all_but_the_head() {
    let setting = Setting::new();
    let model = setting.path("ten.safetensors");
    let ten = spikeshade::init::init(&spikeshade::config::Config::preset("tiny").unwrap(), 3, |_, _| ()).unwrap();
    ten.checkpoint.save(&model, spikeshade::checkpoint::Dtype::F32).unwrap();
    let output = setting.train("run", &["--init", model.to_str().unwrap(), "--epochs", "1", "--lr", "0"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let last = Checkpoint::load(setting.path("run/last.safetensors"), true).unwrap();
    for (name, tensor) in &last.tensors {
        let before = &ten.checkpoint.tensors[name];
        if name.starts_with("head.") {
            assert_eq!(tensor.shape[0], 3, "{name}");
        } else if name.contains("running_") {
            assert_ne!(tensor.data, before.data, "{name}");
        } else {
            assert_eq!(tensor.data, before.data, "{name}");
        }
    }
}

#[test]
fn what_cannot_be_trained_is_a_short_error() {
    let setting = Setting::new();
    let recipe = |text: &str| std::fs::write(setting.path("recipe.toml"), text).unwrap();
    let trained = |more: &[&str], named: &str| {
        let text = error(&setting.train("run", more));
        assert!(text.contains(named), "{named}: {text}");
        assert!(!setting.path("run/last.safetensors").exists(), "{text}");
    };
    trained(&["--batch", "64"], "64");
    trained(&["--micro-batch", "3"], "micro_batch");
    trained(&["--lr", "nan"], "lr");
    trained(&["--init", "no such"], "no such");
    recipe(&RECIPE.replace("lr = ", "learning_rate = "));
    trained(&[], "learning_rate");
    recipe(&RECIPE.replace("'tiny'", "'giant'"));
    trained(&[], "giant");
    recipe(&RECIPE.replace("2e-2", "1e3").replace("clip_norm = 1.0", "optimizer = { kind = 'sgd', momentum = 0.99 }"));
    // That one saves first.
    let output = setting.train("diverges", &["--epochs", "40"]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("is not finite in step"), "{text}");
    Checkpoint::load(setting.path("diverges/last.safetensors"), true).unwrap();
    // Two at once.
    let lock = std::fs::File::open(setting.path("diverges/.lock")).unwrap();
    lock.lock().unwrap();
    assert!(error(&setting.train("diverges", &["--resume"])).contains("in use"));
    drop(lock);
    let bytes = std::fs::read(setting.path("data/train/red/0.png")).unwrap();
    std::fs::write(setting.path("data/train/red/0.png"), &bytes[..40]).unwrap();
    recipe(RECIPE);
    assert!(error(&setting.train("damaged", &[])).contains("0.png"));
    std::fs::remove_dir_all(setting.path("data/test")).unwrap();
    trained(&[], "test");
    // A file that is no run's.
    std::fs::create_dir_all(setting.path("other")).unwrap();
    std::fs::write(setting.path("other/last.safetensors"), [0; 100]).unwrap();
    assert!(error(&setting.train("other", &["--resume"])).contains("last.safetensors"));
    for args in [
        &["train", "--preset", "mnist"][..],
        &["train", "--preset", "x", "--data", "d", "--out", "o"],
        &["train", "--print"],
    ] {
        error(&spikeshade(args));
    }
    let list = spikeshade(&["train", "--list"]);
    assert!(String::from_utf8_lossy(&list.stdout).contains("mnist"));
    let text = spikeshade(&["train", "--preset", "mnist", "--print"]);
    assert!(String::from_utf8_lossy(&text.stdout).contains("model = "));
}
