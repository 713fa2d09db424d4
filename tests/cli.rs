//! The program: what each command prints, and that everything wrong ends in one short error.
#![cfg(feature = "cli")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
#[cfg(target_os = "linux")]
use std::time::Instant;

use serde_json::Value;
#[cfg(target_os = "linux")]
use spikeshade::checkpoint::Tensor;
use spikeshade::checkpoint::{Checkpoint, Dtype};
use spikeshade::config::Config;
#[cfg(target_os = "linux")]
use spikeshade::config::Parameter;
use spikeshade::gpu::Limits;
use spikeshade::tensor_file::{self, Data, TensorFile};
use tempfile::TempDir;

use common::program;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const MNIST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/mnist-2-64.safetensors");
const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tiny_eval.safetensors");
/// A sequence: an image of its own at each timestep.
const EVENTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/events_eval.safetensors");
const IMAGES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/images");
const DIGITS: [&str; 10] = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"];

fn run<S: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = S>) -> Output {
    program().args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Standard output of a run that has to succeed.
#[track_caller]
fn good<S: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = S>) -> String {
    let output = run(args);
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

/// The JSON document that is all of standard output.
#[track_caller]
fn json<S: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = S>) -> Value {
    let out = good(args);
    serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out}"))
}

/// Checks a refusal: exit code 1 or 2, nothing on stdout, and a short message that names `thing`. Gives the message.
#[track_caller]
fn is_refusal(output: &Output, thing: &str) -> String {
    let message = text(&output.stderr);
    assert!(matches!(output.status.code(), Some(1 | 2)), "{:?}: {message}", output.status);
    assert!(message.lines().any(|l| l.starts_with("error: ")), "{message}");
    assert!(message.lines().count() <= 20 && message.len() < 4000, "{message}");
    assert!(message.contains(thing), "no {thing:?} in {message}");
    assert!(!message.contains("panicked") && !message.contains("internal fault"), "{message}");
    assert!(output.stdout.is_empty(), "{}", text(&output.stdout));
    message
}

/// [`is_refusal`] of a run with these arguments, which has to leave no file at `out`, nor one half written in its folder.
#[track_caller]
fn refused<S: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = S>, thing: &str, out: Option<&Path>) -> String {
    let message = is_refusal(&run(args), thing);
    if let Some(out) = out {
        assert!(!out.exists(), "{}", out.display());
        if let Some(files) = out.parent().and_then(|folder| fs::read_dir(folder).ok()) {
            let mut names = files.map(|f| f.unwrap().file_name().into_string().unwrap());
            assert!(names.all(|name| !name.starts_with(".spikeshade-")));
        }
    }
    message
}

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn file(folder: &TempDir, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.path().join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, bytes).unwrap();
    path
}

fn str(path: &Path) -> &str {
    path.to_str().unwrap()
}

type Tensors = Vec<(String, Vec<usize>, Data)>;

/// A checkpoint's tensors as f32 and its metadata, to be broken and written again.
fn parts(path: &str) -> (Tensors, BTreeMap<String, String>) {
    let checkpoint = Checkpoint::load(path, false).unwrap();
    let tensors = checkpoint.tensors.into_iter().map(|(name, t)| (name, t.shape, Data::F32(t.data))).collect();
    (tensors, BTreeMap::from([("config".to_owned(), checkpoint.config.to_json())]))
}

fn floats(data: &mut Data) -> &mut Vec<f32> {
    match data {
        Data::F32(v) => v,
        _ => panic!("not f32"),
    }
}

/// Checkpoints with one thing wrong each: the name of the file, its bytes, and what the message has to contain besides.
fn broken_checkpoints() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let whole = fs::read(MNIST).unwrap();
    let changed = |change: fn(&mut Tensors, &mut BTreeMap<String, String>)| {
        let (mut tensors, mut metadata) = parts(MNIST);
        change(&mut tensors, &mut metadata);
        tensor_file::to_bytes(tensors, &metadata).unwrap()
    };
    let lying = |length: u64| [&length.to_le_bytes()[..], &whole[8..]].concat();
    vec![
        ("zero.safetensors", Vec::new(), "empty"),
        ("short.safetensors", whole[..whole.len() / 2].to_vec(), "cut short"),
        ("stub.safetensors", whole[..5].to_vec(), "5 bytes"),
        ("longer.safetensors", [&whole[..], b"more"].concat(), "after its last tensor"),
        ("lying.safetensors", lying(u64::MAX), "header claims"),
        ("lying-less.safetensors", lying(100), "header"),
        ("text.safetensors", b"this is a shopping list".to_vec(), "no .safetensors"),
        ("pickle.safetensors", b"PK\x03\x04............".to_vec(), "PyTorch"),
        ("renamed.safetensors", changed(|t, _| t[3].0 = "another.weight".into()), "missing"),
        ("prefixed.safetensors", changed(|t, _| t.iter_mut().for_each(|t| t.0 = format!("module.{}", t.0))), "missing"),
        ("reshaped.safetensors", changed(|t, _| t[0].1.insert(0, 1)), "expected"),
        (
            "nan.safetensors",
            changed(|t, _| t.iter_mut().for_each(|t| floats(&mut t.2).fill(f32::NAN))),
            "undamaged model",
        ),
        ("no-config.safetensors", changed(|_, m| m.clear()), "config"),
        (
            "bad-config.safetensors",
            changed(|_, m| {
                let text = m["config"].replace("\"num_heads\":2", "\"num_heads\":3");
                m.insert("config".into(), text);
            }),
            "num_heads",
        ),
    ]
}

/// A small data set in class folders, from the sample pictures.
fn digits(folder: &TempDir) -> PathBuf {
    let root = folder.path().join("digits");
    for path in pictures() {
        let class = root.join(digit(&path).to_string());
        fs::create_dir_all(&class).unwrap();
        fs::copy(&path, class.join(path.file_name().unwrap())).unwrap();
    }
    root
}

fn pictures() -> Vec<PathBuf> {
    let mut paths: Vec<_> = fs::read_dir(IMAGES).unwrap().map(|e| e.unwrap().path()).collect();
    paths.sort();
    paths
}

/// The digit that a sample's name begins with.
fn digit(path: &Path) -> usize {
    let name = path.file_name().unwrap().to_str().unwrap();
    let word = name.split(['-', '.']).next().unwrap();
    word.parse().unwrap_or_else(|_| DIGITS.iter().position(|d| *d == word).unwrap())
}

/// `cpu` and the index of every adapter.
fn devices() -> Vec<String> {
    let adapters = 0..common::contexts(Limits::default()).len();
    std::iter::once("cpu".to_owned()).chain(adapters.map(|i| i.to_string())).collect()
}

fn huge_png() -> Vec<u8> {
    let mut bytes = fs::read(Path::new(IMAGES).join("two.png")).unwrap();
    bytes[16..20].copy_from_slice(&100_000u32.to_be_bytes());
    bytes[20..24].copy_from_slice(&100_000u32.to_be_bytes());
    let mut crc = flate2::Crc::new();
    crc.update(&bytes[12..29]);
    bytes[29..33].copy_from_slice(&crc.sum().to_be_bytes());
    bytes
}

#[test]
fn help_teaches_each_command() {
    for command in ["classify", "eval", "forward", "convert", "init", "inspect", "devices"] {
        let help = good([command, "--help"]);
        assert!(help.contains("Examples:") && help.contains("--json"), "{help}");
        assert!(help.contains(&format!("spikeshade {command} ")), "{help}");
        assert_eq!(help.contains("--device"), ["classify", "eval", "forward", "devices"].contains(&command), "{help}");
    }
    assert!(good(["--help"]).contains("Examples:"));
    assert!(good(["--version"]).contains(env!("CARGO_PKG_VERSION")));
}

#[test]
fn mistakes_in_arguments_exit_with_2() {
    for args in [
        &["classify"][..],
        &["classify", "--timesteps", "0", "x.png"],
        &["classify", "--timesteps", "33", "x.png"],
        &["classify", "--batch", "0", "x.png"],
        &["classify", "--order", "vqk", "x.png"],
        &["classify", "--invert", "perhaps", "x.png"],
        &["classify", "--weights", "int4", "x.png"],
        &["eval", "--model", MNIST],
        &["eval", "--model", MNIST, "--data", ".", "--split", "dev"],
        &["eval", "--model", MNIST, "--data", ".", "--limit", "0"],
        &["forward", "--model", MNIST],
        &["convert", MNIST],
        &["convert", MNIST, "out", "--dtype", "f8"],
        &["inspect", MNIST, "--batch", "-1"],
        &["conjure"],
        &["devices", "--colour"],
    ] {
        let output = run(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        is_refusal(&output, "");
    }
}

#[test]
fn classify_reads_every_sample() {
    let paths = pictures();
    assert!(paths.len() >= 10);
    for device in devices() {
        let found = json(["classify", "--json", "--device", &device, "--batch", "4", IMAGES]);
        let images = found["images"].as_array().unwrap();
        assert_eq!(images.len(), paths.len());
        for (image, path) in images.iter().zip(&paths) {
            assert_eq!(image["image"], str(path));
            let top = image["top"].as_array().unwrap();
            assert_eq!(top.len(), 5);
            assert_eq!(top[0]["class"], digit(path), "{image}");
            assert_eq!(top[0]["name"], digit(path).to_string());
            let p: Vec<f64> = top.iter().map(|t| t["probability"].as_f64().unwrap()).collect();
            assert!(p.is_sorted_by(|a, b| a >= b) && p.iter().sum::<f64>() <= 1.0 + 1e-9, "{p:?}");
        }
        assert!(found["seconds_per_image"].as_f64().unwrap() > 0.0);
        let rate = found["firing_rate"].as_f64().unwrap();
        assert!(rate > 0.01 && rate < 0.5, "{rate}");
        assert_eq!(found["failed"], Value::Array(vec![]));
    }
}

#[test]
fn classify_for_people() {
    let seven = format!("{IMAGES}/seven.png");
    let out = good(["classify", &seven, "--device", "cpu", "--model", MNIST, "--strict", "--timesteps", "2"]);
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines.len(), 7, "{out}");
    assert_eq!(lines[0], seven);
    assert!(lines[1].trim_end().ends_with("%  7"), "{out}");
    assert!(lines[6].contains("ms an image") && lines[6].contains("firing rate"), "{out}");
    // Dark on light is seen by itself, and not if told otherwise.
    let dark = format!("{IMAGES}/7-dark-on-light.png");
    let top = |invert| {
        let found = json(["classify", "--json", "--device", "cpu", "--invert", invert, &dark]);
        (found["images"][0]["top"][0]["class"].as_u64().unwrap(), found["images"][0]["top"].clone())
    };
    assert_eq!(top("auto"), top("yes"));
    assert_eq!(top("yes").0, 7);
    assert_ne!(top("no").1, top("yes").1);
    // Both orders give the same bits.
    let order = |order| json(["classify", "--json", "--device", "cpu", "--order", order, &dark])["images"].clone();
    assert_eq!(order("qk_v"), order("q_kv"));
}

#[test]
fn classify_goes_on_after_an_unreadable_picture() {
    let dir = folder();
    let fake = file(&dir, "fake.png", "no picture at all");
    let (one, two) = (format!("{IMAGES}/one.png"), format!("{IMAGES}/two.png"));
    let absent = dir.path().join("absent.png");
    let output = run(["classify", "--json", "--device", "cpu", "--batch", "1", &one, str(&fake), str(&absent), &two]);
    assert_eq!(output.status.code(), Some(1));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["images"][0]["top"][0]["class"], 1);
    assert_eq!(found["images"][1]["top"][0]["class"], 2);
    assert_eq!(found["failed"].as_array().unwrap().len(), 2);
    let message = text(&output.stderr);
    assert!(message.contains("error: ") && message.contains("fake.png") && message.contains("absent.png"), "{message}");
    // However many there are, the message stays short.
    for i in 0..40 {
        file(&dir, &format!("many/{i}.PNG"), "nothing");
    }
    assert!(refused(["classify", str(&dir.path().join("many"))], "0.PNG", None).contains("25 more"));
    let found = run(["classify", "--json", str(&dir.path().join("many"))]);
    let found: Value = serde_json::from_slice(&found.stdout).unwrap();
    assert_eq!(found["failed"].as_array().unwrap().len(), 40);
}

#[test]
fn unusable_pictures_are_refused() {
    let dir = folder();
    let png = fs::read(format!("{IMAGES}/two.png")).unwrap();
    let jpg = fs::read(format!("{IMAGES}/5-dark-on-light.jpg")).unwrap();
    fs::create_dir(dir.path().join("bare")).unwrap();
    file(&dir, "notes/readme.txt", "no pictures");
    file(&dir, "text.png", "text");
    file(&dir, "zero.png", "");
    file(&dir, "short.png", &png[..png.len() / 2]);
    file(&dir, "short.jpg", &jpg[..jpg.len() / 2]);
    file(&dir, "huge.png", huge_png());
    file(&dir, "checkpoint.png", fs::read(TINY).unwrap());
    for (name, why) in [
        ("text.png", "convert it"),
        ("zero.png", "0 bytes"),
        ("short.png", "again"),
        ("short.jpg", "cut short"),
        ("huge.png", "smaller"),
        ("checkpoint.png", "convert it"),
        ("absent.png", "check the path"),
        ("bare", "name one that has some"),
        ("notes", "name one that has some"),
    ] {
        let path = dir.path().join(name);
        let message = refused(["classify", str(&path)], name, None);
        assert!(message.contains(why), "{message}");
        // Its document says so too.
        let output = run(["classify", "--json", str(&path)]);
        assert_eq!((output.status.code(), text(&output.stderr)), (Some(1), message));
        let found: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((&found["images"], &found["device"]), (&Value::Array(vec![]), &Value::Null));
        assert_eq!(found["failed"][0]["image"], str(&path));
        assert!(found["failed"][0]["error"].as_str().unwrap().contains(why), "{found}");
    }
}

/// Waiting for a writer, or reading for ever, is no answer.
#[cfg(target_os = "linux")]
#[test]
fn pipes_and_devices_are_refused() {
    let dir = folder();
    let pipe = dir.path().join("pipe.png");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let link = dir.path().join("link.png");
    std::os::unix::fs::symlink("/dev/zero", &link).unwrap();
    fs::create_dir(dir.path().join("cifar")).unwrap();
    file(&dir, "cifar/data_batch_1.bin", [7; 3073]);
    fs::hard_link(&pipe, dir.path().join("cifar/data_batch_2.bin")).unwrap();
    fs::create_dir_all(dir.path().join("set/0")).unwrap();
    fs::hard_link(&pipe, dir.path().join("set/0/pipe.png")).unwrap();
    for class in 1..10 {
        file(&dir, &format!("set/{class}/x.png"), huge_png());
    }
    for path in [&pipe, &link] {
        refused(["classify", str(path)], "no regular file", None);
        refused(["inspect", str(path)], "no regular file", None);
    }
    for (data, name) in [("pipe.png", "pipe.png"), ("link.png", "link.png"), ("cifar", "batch_2"), ("set", "pipe.png")]
    {
        let data = dir.path().join(data);
        let args = ["eval", "-m", MNIST, "-d", "cpu", "--split", "train", "--data", str(&data)];
        assert!(refused(args, "no regular file", None).contains(name));
    }
    // A link to a picture is one.
    let two = dir.path().join("two.png");
    std::os::unix::fs::symlink(format!("{IMAGES}/two.png"), &two).unwrap();
    good(["classify", "-d", "cpu", str(&two)]);
}

/// What a file's name or content holds cannot move the cursor, nor pass for a line of the program's.
#[cfg(target_os = "linux")]
#[test]
fn text_of_files_is_escaped() {
    let dir = folder();
    let name = "a\u{1b}[2Jb\nerror: c.png";
    let bad = file(&dir, &format!("bad/{name}"), "no picture");
    let good_one = dir.path().join(name);
    fs::copy(format!("{IMAGES}/two.png"), &good_one).unwrap();
    let shown = "a\\u{1b}[2Jb\\nerror: c.png";
    for path in [str(&bad), str(&dir.path().join(format!("absent{name}")))] {
        let message = refused(["classify", path], shown, None);
        assert!(message.lines().count() == 1 && !message.contains('\u{1b}'), "{message}");
    }
    assert!(good(["classify", "-d", "cpu", str(&good_one)]).lines().next().unwrap().ends_with(shown));
    // Names without end.
    let (mut tensors, metadata) = parts(MNIST);
    tensors.push((format!("\u{1b}{}", "x".repeat(1 << 16)), vec![1], Data::F32(vec![0.0])));
    let model = file(&dir, "more.safetensors", tensor_file::to_bytes(tensors, &metadata).unwrap());
    let message = text(&run(["inspect", str(&model)]).stderr);
    assert!(message.starts_with("warning: ") && message.len() < 600 && !message.contains('\u{1b}'), "{message}");
    let class = format!("\u{1b}{}", "x".repeat(200));
    file(&dir, &format!("set/{class}/x.png"), "");
    let message =
        refused(["eval", "-m", MNIST, "-d", "cpu", "--data", str(&dir.path().join("set"))], "rename it", None);
    assert!(message.len() < 600 && !message.contains('\u{1b}'), "{message}");
}

/// Finite weights whose sums are not: no probability is made up of them.
#[test]
fn overflowing_logits_are_an_error() {
    let dir = folder();
    let (mut tensors, metadata) = parts(MNIST);
    for (name, _, data) in &mut tensors {
        if name.starts_with("head.") {
            floats(data).fill(3e38);
        }
    }
    let model = file(&dir, "large.safetensors", tensor_file::to_bytes(tensors, &metadata).unwrap());
    let (picture, data) = (format!("{IMAGES}/two.png"), digits(&dir));
    for device in devices() {
        refused(["classify", "-m", str(&model), "-d", &device, &picture], "not finite", None);
        refused(["eval", "-m", str(&model), "-d", &device, "--data", str(&data)], "not finite", None);
    }
}

/// A small file can ask for more memory than there is.
#[cfg(target_os = "linux")]
#[test]
fn too_little_memory_is_an_error() {
    let dir = folder();
    let model = |img_size| {
        let small =
            Config { embed_dim: 8, num_heads: 1, mlp_ratio: 1, timesteps: 32, ..Config::preset("tiny").unwrap() };
        let config = Config { img_size, pooling_stat: [false; 4], ..small };
        let filled = |p: Parameter| (p.name.clone(), Tensor { data: vec![0.5; p.elements() as usize], shape: p.shape });
        let tensors = config.parameters().into_iter().map(filled).collect();
        let (metadata, unexpected) = Default::default();
        let path = dir.path().join(format!("{img_size}.safetensors"));
        Checkpoint { config, tensors, metadata, unexpected, dtype: Dtype::F32 }.save(&path, Dtype::F32).unwrap();
        path
    };
    let run = |model: &Path, kib: usize| {
        let mut shell = Command::new("sh");
        // Each thread reserves addresses, which the limit counts as memory.
        shell.env("RAYON_NUM_THREADS", "2");
        shell.args(["-c", "ulimit -v $0; exec \"$@\"", &kib.to_string(), env!("CARGO_BIN_EXE_spikeshade")]);
        shell.args(["classify", "-d", "cpu", "-m", str(model), &format!("{IMAGES}/two.png")]).output().unwrap()
    };
    let message = is_refusal(&run(&model(4096), 3 << 20), "`img_size` 4096");
    assert!(message.contains("`T` 32") && message.contains("use a smaller"), "{message}");
    // From what starts the program to what suffices: an error or a result, and no abort between.
    let model = model(256);
    let (mut refusals, mut results) = (0, 0);
    for kib in (250_000..=750_000).step_by(10_000) {
        let output = run(&model, kib);
        if output.status.success() {
            results += 1;
        } else {
            is_refusal(&output, "`img_size`");
            refusals += 1;
        }
        if results > 4 {
            break;
        }
    }
    assert!(refusals > 0 && results > 0, "{refusals} {results}");
}

/// Drivers look for a display there, and complain where it is unset.
#[cfg(target_os = "linux")]
#[test]
fn no_runtime_folder_is_no_trouble() {
    for args in [&["devices"][..], &["classify", "-d", "gpu", &format!("{IMAGES}/two.png")]] {
        for value in [None, Some("")] {
            let mut program = program();
            program.args(args).env_remove("XDG_RUNTIME_DIR").envs(value.map(|v| ("XDG_RUNTIME_DIR", v)));
            let output = program.output().unwrap();
            let message = text(&output.stderr);
            if output.status.success() {
                assert!(!message.lines().any(|l| l.starts_with("error:")), "{message}");
            } else {
                // No adapter at all.
                assert_eq!(message.lines().filter(|l| l.starts_with("error:")).count(), 1, "{message}");
            }
        }
    }
}

#[test]
fn links_in_an_archive_are_counted() {
    let dir = folder();
    let mut archive = tar::Builder::new(Vec::new());
    let picture = fs::read(format!("{IMAGES}/two.png")).unwrap();
    for class in 0..10 {
        let mut header = tar::Header::new_gnu();
        header.set_size(picture.len() as u64);
        archive.append_data(&mut header, format!("{class}/a.png"), &picture[..]).unwrap();
        header.set_size(0);
        header.set_entry_type(if class % 2 == 0 { tar::EntryType::Symlink } else { tar::EntryType::Link });
        archive.append_link(&mut header, format!("{class}/b.png"), "0/a.png").unwrap();
    }
    let data = file(&dir, "set.tar", archive.into_inner().unwrap());
    let output = run(["eval", "-m", MNIST, "-d", "cpu", "--data", str(&data)]);
    assert!(text(&output.stdout).starts_with("1 of 10 right\n"), "{}", text(&output.stdout));
    let message = text(&output.stderr);
    assert!(message.starts_with("warning: ") && message.contains("set.tar: 10 of its pictures are links"), "{message}");
}

/// Labels that mean something else are nobody's fault that can be seen for sure.
#[test]
fn other_class_names_are_warned_of() {
    let dir = folder();
    let named = |name: &str, names: Option<Vec<String>>| {
        let (tensors, mut metadata) = parts(MNIST);
        let config = Config { class_names: names, ..Config::from_json(&metadata["config"], name).unwrap() };
        metadata.insert("config".to_owned(), config.to_json());
        file(&dir, name, tensor_file::to_bytes(tensors, &metadata).unwrap())
    };
    let words = |words: &str| Some(words.split(' ').map(str::to_owned).collect::<Vec<_>>());
    let clothes = "top trousers pullover dress coat sandal shirt sneaker bag boot";
    let models = [
        named("plain", None),
        named("digits", words("zero one two three four five six seven eight nine")),
        named("clothes", words(clothes)),
        named("capitals", words(&clothes.to_uppercase())),
    ];
    file(
        &dir,
        "idx/t10k-images-idx3-ubyte",
        [&[0, 0, 8, 3, 0, 0, 0, 1, 0, 0, 0, 28, 0, 0, 0, 28][..], &[9; 784]].concat(),
    );
    file(&dir, "idx/t10k-labels-idx1-ubyte", [0, 0, 8, 1, 0, 0, 0, 1, 3]);
    file(&dir, "cifar/test_batch.bin", [3; 3073]);
    file(&dir, "cifar/batches.meta.txt", clothes.split(' ').rev().collect::<Vec<_>>().join("\n"));
    file(&dir, "unnamed/test_batch.bin", [3; 3073]);
    for (data, warned) in [("idx", ["clothes", "capitals"]), ("cifar", ["digits", ""]), ("unnamed", ["", ""])] {
        let data = dir.path().join(data);
        for model in &models {
            let args = ["eval", "-m", str(model), "-d", "cpu", "--data", str(&data), "--limit", "18446744073709551615"];
            let output = run(args);
            let message = text(&output.stderr);
            assert!(output.status.success(), "{message}");
            if warned.contains(&model.file_name().unwrap().to_str().unwrap()) {
                assert!(message.starts_with("warning: ") && message.lines().count() == 1, "{message}");
                assert!(message.contains(str(&data)) && message.contains("accuracy means nothing"), "{message}");
            } else {
                assert!(message.is_empty(), "{message}");
            }
        }
    }
}

#[test]
fn eval_measures_accuracy() {
    let dir = folder();
    let data = digits(&dir);
    let n = pictures().len();
    let args = ["eval", "--model", MNIST, "--data", str(&data), "--batch", "5"];
    for device in devices() {
        let found = json([&args[..], &["--json", "--device", &device]].concat());
        assert_eq!((&found["correct"], &found["total"]), (&n.into(), &n.into()), "{found}");
        assert_eq!((&found["top1"], &found["top5"]), (&1.0.into(), &1.0.into()));
        assert!(found["images_per_second"].as_f64().unwrap() > 0.0);
        assert!(found["firing_rate"].as_f64().unwrap() > 0.0);
    }
    let out = good([&args[..], &["--device", "cpu", "--limit", "7", "--split", "train"]].concat());
    assert!(out.starts_with("7 of 7 right\n"), "{out}");
    assert!(out.contains("images a second"), "{out}");
    let output = run([&args[..], &["--device", "cpu"]].concat());
    assert!(output.stderr.is_empty(), "a progress bar without a terminal: {}", text(&output.stderr));
}

#[test]
fn int8_weights_print_what_they_lose() {
    narrow_weights_print_what_they_lose("int8", 0.001..0.02, 3);
}

#[test]
fn f16_weights_print_what_they_lose() {
    narrow_weights_print_what_they_lose("f16", 1e-5..5e-4, 1);
}

/// `--weights name` on every command that takes it: each layer's relative error, and more than how many times less memory.
fn narrow_weights_print_what_they_lose(name: &str, lost: Range<f64>, times: u64) {
    let dir = folder();
    let data = digits(&dir);
    let n = pictures().len();
    let narrow = ["--weights", name, "--device", "cpu"];
    let args = ["eval", "--model", MNIST, "--data", str(&data)];
    let found = json([&args[..], &narrow, &["--json"]].concat());
    assert_eq!((&found["weights"], &found["correct"]), (&name.into(), &n.into()), "{found}");
    assert_eq!((&found["f32"]["correct"], &found["top1_difference"]), (&n.into(), &0.0.into()), "{found}");
    assert_ne!(found["loss"], found["f32"]["loss"]);
    let errors = found["quantisation_error"].as_object().unwrap();
    assert_eq!(errors.len(), 4 + 2 * 6);
    assert!(errors.values().all(|e| lost.contains(&e.as_f64().unwrap())), "{errors:?}");
    let f32 = json([&args[..], &["--device", "cpu", "--json"]].concat());
    assert_eq!((&f32["weights"], &f32["loss"]), (&"f32".into(), &found["f32"]["loss"]));
    assert!(f32["f32"].is_null() && f32["quantisation_error"].is_null(), "{f32}");

    let output = run([&args[..], &narrow].concat());
    let (out, note) = (text(&output.stdout), text(&output.stderr));
    assert!(out.contains(&format!("\nf32 weights: {n} right, top-1 100.00 %, ")), "{out}");
    assert!(out.ends_with(&format!("\n{name} weights change top-1 by +0.00 percentage points\n")), "{out}");
    assert!(
        note.starts_with(&format!("note: {name} weights: the largest relative error is ")) && note.lines().count() == 1,
        "{note}"
    );
    let output = run([&args[..], &narrow, &["-v"]].concat());
    for layer in errors.keys() {
        assert!(text(&output.stderr).contains(&format!("{name} weights of {layer}: relative error ")), "{layer}");
    }

    let seven = format!("{IMAGES}/seven.png");
    let classified = json([&["classify", "--json", &seven], &narrow[..]].concat());
    assert_eq!((&classified["images"][0]["top"][0]["class"], &classified["weights"]), (&7.into(), &name.into()));

    let whole = json(["inspect", MNIST, "--json"]);
    let small = json(["inspect", MNIST, "--json", "--weights", name]);
    let parameters = |found: &Value| found["memory"]["parameters"].as_u64().unwrap();
    assert!(times * parameters(&small) < parameters(&whole), "{} and {}", parameters(&small), parameters(&whole));
    assert_eq!(small["memory"]["tensors"], whole["memory"]["tensors"]);
    assert_eq!(small["quantisation_error"], found["quantisation_error"]);
    assert!(good(["inspect", MNIST, "--weights", name]).contains("\n  block.1.mlp.fc2_conv "));
}

#[test]
fn forward_takes_int8_and_f16_weights() {
    let dir = folder();
    let (model, input, _) = split_fixture(TINY, &dir);
    let out = |weights: &str, device: &str| {
        let path = dir.path().join("out.safetensors");
        let args = ["forward", "--model", str(&model), "--input", str(&input), "--output", str(&path)];
        good([&args[..], &["--trace", "--weights", weights, "--device", device]].concat());
        let file = tensor_file::read(&path).unwrap();
        assert_eq!(file.metadata["weights"], weights);
        file
    };
    let f32 = out("f32", "cpu");
    let mut first: Option<TensorFile> = None;
    for device in devices() {
        let file = out("int8", &device);
        let first = first.get_or_insert_with(|| out("int8", "cpu"));
        for name in first.names().filter(|name| name.starts_with("s.")) {
            assert!(file.bytes(name).unwrap() == first.bytes(name).unwrap(), "{name} on {device}");
        }
        // Other weights, though not by much.
        let (a, b) = (file.f32("logits").unwrap(), f32.f32("logits").unwrap());
        assert!(a != b, "{device}");
    }
    // The fixture's weights are halves already.
    assert_eq!(out("f16", "cpu").f32("logits").unwrap(), f32.f32("logits").unwrap());
}

#[test]
fn training_refuses_int8_and_f16_weights() {
    let dir = folder();
    let (model, input, _) = split_fixture(TINY, &dir);
    let out = dir.path().join("out.safetensors");
    let grad = ["grad", "--model", str(&model), "--input", str(&input), "--output", str(&out)];
    let run = dir.path().join("run");
    let train = ["train", "--preset", "mnist", "--data", str(dir.path()), "--out", str(&run)];
    for name in ["int8", "f16"] {
        let (narrow, why) = (["--weights", name], &format!("--weights {name} is for inference")[..]);
        refused([&grad[..], &narrow].concat(), why, Some(&out));
        refused([&train[..], &narrow].concat(), why, Some(&run));
        refused([&["inspect", MNIST, "--training"], &narrow[..]].concat(), why, None);
    }
}

#[test]
fn weights_that_f16_cannot_hold_are_refused() {
    let dir = folder();
    let mut checkpoint = Checkpoint::load(MNIST, false).unwrap();
    checkpoint.tensors.get_mut("block.0.attn.q_conv.weight").unwrap().data[3] = 1e5;
    let path = dir.path().join("large.safetensors");
    checkpoint.save(&path, Dtype::F32).unwrap();
    refused(["inspect", str(&path), "--weights", "f16"], "`block.0.attn.q_conv.weight` has a weight of 1e5", None);
    good(["inspect", str(&path)]);
}

#[test]
fn unusable_data_is_refused() {
    let dir = folder();
    fs::create_dir(dir.path().join("bare")).unwrap();
    let data = digits(&dir);
    file(&dir, "digits/3/fake.png", "no picture");
    file(&dir, "cut/t10k-images-idx3-ubyte", [0, 0, 8, 3, 0, 0, 0, 9, 0, 0, 0, 28, 0, 0, 0, 28, 1, 2, 3]);
    file(&dir, "cut/t10k-labels-idx1-ubyte", [0, 0, 8, 1, 0, 0, 0, 9, 1, 2, 3]);
    file(&dir, "archive.tar.gz", "no archive");
    for (name, thing) in [
        ("bare", "bare"),
        ("cut", "t10k-"),
        ("absent", "absent"),
        ("archive.tar.gz", "archive.tar.gz"),
        ("digits", "fake.png"),
    ] {
        let path = dir.path().join(name);
        refused(["eval", "--model", MNIST, "--device", "cpu", "--data", str(&path), "--json"], thing, None);
    }
    refused(["eval", "--model", TINY, "--device", "cpu", "--data", str(&data)], "fake.png", None);
}

/// A fixture's weights and input in files of their own.
fn split_fixture(path: &str, dir: &TempDir) -> (PathBuf, PathBuf, TensorFile) {
    let (model, input) = (dir.path().join("weights.safetensors"), dir.path().join("in.safetensors"));
    Checkpoint::load(path, false).unwrap().save(&model, Dtype::F32).unwrap();
    let fixture = tensor_file::read(Path::new(path)).unwrap();
    let x = ("x".to_owned(), fixture.shape("in.x").unwrap().to_vec(), Data::F32(fixture.f32("in.x").unwrap()));
    tensor_file::write(&input, vec![x], &BTreeMap::new()).unwrap();
    (model, input, fixture)
}

#[test]
fn forward_reproduces_the_fixtures() {
    forward_reproduces(TINY, 0.0);
    // A mean over 6 timesteps may be rounded otherwise.
    forward_reproduces(EVENTS, 1e-6);
}

fn forward_reproduces(path: &str, tolerance: f32) {
    let dir = folder();
    let (model, input, fixture) = split_fixture(path, &dir);
    let (plain, traced) = (dir.path().join("plain.safetensors"), dir.path().join("traced.safetensors"));
    let mut first: Option<Vec<u8>> = None;
    for device in devices() {
        for order in ["qk_v", "q_kv", "auto"] {
            let args =
                ["forward", "--model", str(&model), "--input", str(&input), "--device", &device, "--order", order];
            let found = json([&args[..], &["--json", "--trace", "--output", str(&traced)]].concat());
            good([&args[..], &["--output", str(&plain)]].concat());
            let (out, logits) = (tensor_file::read(&traced).unwrap(), tensor_file::read(&plain).unwrap());
            assert_eq!(logits.names().collect::<Vec<_>>(), ["logits"]);
            assert_eq!(logits.bytes("logits").unwrap(), out.bytes("logits").unwrap());
            let first = first.get_or_insert_with(|| out.bytes("logits").unwrap().to_vec());
            assert_eq!(first, out.bytes("logits").unwrap(), "{device} {order}");
            let (found_logits, expected) = (logits.f32("logits").unwrap(), fixture.f32("out.logits").unwrap());
            assert_eq!(found_logits.len(), expected.len());
            assert!(found_logits.iter().zip(&expected).all(|(a, b)| (a - b).abs() <= tolerance), "{device} {order}");
            let of_trace = |n: &&str| ["s.", "h.", "u.", "k.", "o."].iter().any(|p| n.starts_with(p));
            let expected: Vec<&str> = fixture.names().filter(of_trace).collect();
            assert!(!expected.is_empty());
            assert_eq!(out.names().filter(of_trace).collect::<Vec<_>>(), expected);
            assert_eq!(found["tensors"].as_object().unwrap().len(), expected.len() + 1);
            for name in expected {
                let what = format!("{name}, {device} {order}");
                assert_eq!(out.entry(name).unwrap().dtype, fixture.entry(name).unwrap().dtype, "{what}");
                assert_eq!(out.shape(name).unwrap(), fixture.shape(name).unwrap(), "{what}");
                if name.starts_with("s.") {
                    assert!(out.bytes(name).unwrap() == fixture.bytes(name).unwrap(), "{what}");
                } else {
                    // As numbers: a zero may have either sign.
                    assert!(out.f32(name).unwrap() == fixture.f32(name).unwrap(), "{what}");
                }
            }
            let config = Config::from_json(&out.metadata["config"], "trace").unwrap();
            assert_eq!(config, Checkpoint::load(path, false).unwrap().config);
            assert!(out.metadata["producer"].contains("spikeshade"));
        }
    }
}

#[test]
fn forward_takes_sequences_halves_and_timesteps() {
    let dir = folder();
    let (model, _, fixture) = split_fixture(TINY, &dir);
    let x = fixture.f32("in.x").unwrap();
    let mut shape = fixture.shape("in.x").unwrap().to_vec();
    let logits = |input: &Path, more: &[&str]| {
        let out = dir.path().join("out.safetensors");
        let args = ["forward", "-m", str(&model), "-i", str(input), "-o", str(&out), "-d", "cpu"];
        good([&args[..], more].concat());
        tensor_file::read(&out).unwrap().f32("logits").unwrap()
    };
    let still = dir.path().join("still.safetensors");
    let tensor = |shape: &[usize], x: &[f32]| vec![("x".to_owned(), shape.to_vec(), Data::F32(x.to_vec()))];
    tensor_file::write(&still, tensor(&shape, &x), &BTreeMap::new()).unwrap();
    shape.insert(0, 3);
    let moving = dir.path().join("moving.safetensors");
    tensor_file::write(&moving, tensor(&shape, &x.repeat(3)), &BTreeMap::new()).unwrap();
    assert_eq!(logits(&moving, &[]), logits(&still, &["--timesteps", "3"]));
    assert_ne!(logits(&moving, &[]), logits(&still, &[]));
    let args = ["forward", "-m", str(&model), "-i", str(&moving), "-o", "never.safetensors", "-t", "4"];
    refused(args, "moving.safetensors", Some(Path::new("never.safetensors")));
    // bf16 is the upper half of an f32: an input that bf16 holds gives the same bits.
    let round = |v: &f32| f32::from_bits(v.to_bits() & 0xffff_0000);
    let rounded: Vec<f32> = x.iter().map(round).collect();
    tensor_file::write(&still, tensor(&shape[1..], &rounded), &BTreeMap::new()).unwrap();
    let header =
        format!("{{\"x\":{{\"dtype\":\"BF16\",\"shape\":{:?},\"data_offsets\":[0,{}]}}}}", &shape[1..], 2 * x.len());
    let data: Vec<u8> = rounded.iter().flat_map(|v| ((v.to_bits() >> 16) as u16).to_le_bytes()).collect();
    let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat();
    assert_eq!(logits(&file(&dir, "half.safetensors", bytes), &[]), logits(&still, &[]));
}

#[test]
fn unusable_inputs_are_refused() {
    let dir = folder();
    let (model, input, fixture) = split_fixture(TINY, &dir);
    let x = fixture.f32("in.x").unwrap();
    let shape = fixture.shape("in.x").unwrap().to_vec();
    let out = dir.path().join("out.safetensors");
    let with = |name: &str, tensor: &str, shape: &[usize], data: Data| {
        let tensors = vec![(tensor.to_owned(), shape.to_vec(), data)];
        file(&dir, name, tensor_file::to_bytes(tensors, &BTreeMap::new()).unwrap())
    };
    let image = &shape[1..];
    let mut nan = x.clone();
    nan[7] = f32::NAN;
    let whole = fs::read(&input).unwrap();
    let cases = [
        (with("y.safetensors", "y", &shape, Data::F32(x.clone())), "holds y"),
        (with("rank.safetensors", "x", &[x.len()], Data::F32(x.clone())), "[T, B, 3, 16, 16]"),
        (with("shape.safetensors", "x", &[shape[0], 16, 16, 3], Data::F32(x.clone())), "takes [B, 3, 16, 16]"),
        (with("batch.safetensors", "x", &[&[0], image].concat(), Data::F32(vec![])), "empty batch"),
        (with("no-time.safetensors", "x", &[&[0, 2], image].concat(), Data::F32(vec![])), "timesteps"),
        (with("long.safetensors", "x", &[&[33, 1], image].concat(), Data::F32(vec![0.0; 33 * 768])), "33 timesteps"),
        (with("nan.safetensors", "x", &shape, Data::F32(nan)), "value 7 is NaN"),
        (with("bytes.safetensors", "x", &shape, Data::U8(vec![0; x.len()])), "stored as U8"),
        (file(&dir, "zero.safetensors", ""), "empty"),
        (file(&dir, "short.safetensors", &whole[..whole.len() - 9]), "cut short"),
        (file(&dir, "lying.safetensors", [&[0xff; 8], &whole[8..]].concat()), "header"),
        (dir.path().join("absent.safetensors"), "check the path"),
    ];
    for (path, why) in &cases {
        let name = path.file_name().unwrap().to_str().unwrap();
        for more in [&[][..], &["--trace", "--json"]] {
            let args = ["forward", "-m", str(&model), "-i", str(path), "-o", str(&out), "-d", "cpu"];
            let message = refused([&args[..], more].concat(), name, Some(&out));
            assert!(message.contains(why), "{message}");
        }
    }
    // Neither the input nor the model is overwritten.
    let link = dir.path().join("link.safetensors");
    #[cfg(unix)]
    std::os::unix::fs::symlink(&input, &link).unwrap();
    #[cfg(not(unix))]
    fs::copy(&input, &link).unwrap();
    for target in [&input, &model].into_iter().chain(cfg!(unix).then_some(&link)) {
        let before = fs::read(target).unwrap();
        refused(["forward", "-m", str(&model), "-i", str(&input), "-o", str(target)], "another file", None);
        assert_eq!(fs::read(target).unwrap(), before);
    }
}

#[test]
fn unwritable_outputs_are_refused() {
    let dir = folder();
    let (model, input, _) = split_fixture(TINY, &dir);
    let locked = file(&dir, "locked.safetensors", "kept");
    let mut permissions = fs::metadata(&locked).unwrap().permissions();
    permissions.set_readonly(true);
    fs::set_permissions(&locked, permissions).unwrap();
    for (out, why) in [
        (dir.path().to_path_buf(), "is a folder"),
        (dir.path().join("none/out.safetensors"), "make it"),
        (locked.join("out.safetensors"), "no folder"),
        (locked.clone(), "read-only"),
    ] {
        for args in [
            &["forward", "-m", str(&model), "-i", str(&input), "-d", "cpu", "-o", str(&out)][..],
            &["convert", str(&model), str(&out)],
            &["init", "--preset", "tiny", "--force", "--out", str(&out)],
        ] {
            let message = refused(args, str(&out), None);
            assert!(message.contains(why), "{message}");
        }
    }
    assert_eq!(fs::read(&locked).unwrap(), b"kept");
}

/// Before any work is done, and whoever runs this: nobody can make a file there.
#[cfg(target_os = "linux")]
#[test]
fn unwritable_folders_are_seen_first() {
    let dir = folder();
    let (model, input, _) = split_fixture(TINY, &dir);
    let (absent, out) = (dir.path().join("absent"), "/proc/self/fdinfo/out.safetensors");
    for args in [
        &["forward", "-m", str(&absent), "-i", str(&input), "-o", out][..],
        &["forward", "-m", str(&model), "-i", str(&input), "-o", out],
        &["convert", str(&model), out],
        &["convert", str(&absent), out],
        &["init", "--preset", "imagenet-8-768", "--out", out],
    ] {
        let message = refused(args, "no file can be made in /proc/self/fdinfo: ", None);
        assert!(message.starts_with(&format!("error: {out}: ")), "{message}");
        assert!(message.ends_with("; choose another folder\n") && !message.contains(".spikeshade"), "{message}");
    }
}

/// Whenever the end comes, there is a whole file or none.
#[cfg(target_os = "linux")]
#[test]
fn a_signal_leaves_nothing_behind() {
    let dir = folder();
    let (model, out) = (dir.path().join("m.safetensors"), dir.path().join("out/m.safetensors"));
    fs::create_dir(out.parent().unwrap()).unwrap();
    let config = Config { embed_dim: 512, depth: 4, ..Config::preset("tiny").unwrap() };
    let filled = |p: Parameter| (p.name.clone(), Tensor { data: vec![1.0; p.elements() as usize], shape: p.shape });
    let tensors = config.parameters().into_iter().map(filled).collect();
    let (metadata, unexpected) = Default::default();
    Checkpoint { config, tensors, metadata, unexpected, dtype: Dtype::F32 }.save(&model, Dtype::F32).unwrap();
    let start = Instant::now();
    good(["convert", str(&model), str(&out)]);
    let (whole, size) = (start.elapsed(), fs::metadata(&out).unwrap().len());
    let names = || -> Vec<_> {
        fs::read_dir(out.parent().unwrap()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
    };
    let mut interrupted = 0;
    for round in 0..24 {
        fs::remove_file(&out).ok();
        // Signals may be ignored where the tests run, and that would be inherited.
        let mut program = Command::new("env");
        program.arg("--default-signal").arg(env!("CARGO_BIN_EXE_spikeshade"));
        program.args(["convert", str(&model), str(&out)]).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = program.spawn().unwrap();
        if round % 2 == 0 {
            std::thread::sleep(whole * round / 24);
        } else {
            // While it writes: the file that is there at first, empty, is a test of the folder.
            let writes = |name: &String| {
                let size = fs::metadata(out.with_file_name(name)).map_or(0, |m| m.len());
                name.starts_with(".spikeshade-") && size > 0
            };
            while !names().iter().any(writes) && child.try_wait().unwrap().is_none() {}
        }
        let signal = if round % 3 == 0 { "-INT" } else { "-TERM" };
        Command::new("kill").args([signal, &child.id().to_string()]).stderr(Stdio::null()).status().unwrap();
        let status = child.wait().unwrap();
        // Or at an end of its own, or before there is anything to remove.
        assert!(matches!(status.code(), Some(0 | 130) | None), "{status}");
        interrupted += usize::from(status.code() == Some(130));
        assert!(names().is_empty() || names() == ["m.safetensors"], "{:?}", names());
        assert!(fs::metadata(&out).map_or(size, |m| m.len()) == size);
    }
    assert!(interrupted > 3, "{interrupted} of 24");
}

#[test]
fn convert_keeps_what_matters() {
    let dir = folder();
    let out = |name: &str| dir.path().join(name);
    let half = out("half.safetensors");
    let found = json(["convert", MNIST, str(&half), "--dtype", "f16", "--json", "--strict"]);
    assert_eq!(found["dtype"], "f16");
    let (before, after) = (found["bytes_before"].as_u64().unwrap(), found["bytes"].as_u64().unwrap());
    assert_eq!(before, fs::metadata(MNIST).unwrap().len());
    assert_eq!(after, fs::metadata(&half).unwrap().len());
    let (from, to) = (Checkpoint::load(MNIST, true).unwrap(), Checkpoint::load(&half, true).unwrap());
    assert_eq!(from.config, to.config);
    let errors = from.tensors.iter().flat_map(|(name, t)| {
        t.data.iter().zip(&to.tensors[name].data).map(|(a, b)| (f64::from(*a) - f64::from(*b)).abs())
    });
    assert_eq!(found["largest_error"].as_f64().unwrap(), errors.fold(0.0, f64::max));
    let spoken = good(["convert", TINY, str(&out("bf16.safetensors")), "--dtype", "bf16"]);
    assert!(spoken.contains("largest rounding error") && spoken.contains("bf16"), "{spoken}");
    // Without a type nothing is rounded, and a second time gives the same bytes.
    let same = good(["convert", str(&half), str(&out("same.safetensors"))]);
    assert!(same.contains("f16") && same.contains("no number was changed"), "{same}");
    assert_eq!(fs::read(&half).unwrap(), fs::read(out("same.safetensors")).unwrap());
    // A folder becomes one file.
    let config = from.config.to_json();
    file(&dir, "folder/config.json", config);
    fs::copy(MNIST, out("folder/model.safetensors")).unwrap();
    let single = out("single.safetensors");
    good(["convert", str(&out("folder")), str(&single), "--dtype", "f32"]);
    assert_eq!(Checkpoint::load(&single, true).unwrap().tensors, from.tensors);
    for own in [out("folder/model.safetensors"), half.clone()] {
        let source = if own == half { half.clone() } else { out("folder") };
        refused(["convert", str(&source), str(&own)], "another file", None);
    }
    // A number that f16 cannot hold.
    let (mut tensors, metadata) = parts(MNIST);
    let (name, _, data) = &mut tensors[0];
    floats(data)[0] = 70_000.0;
    let name = name.clone();
    let large = file(&dir, "large.safetensors", tensor_file::to_bytes(tensors, &metadata).unwrap());
    let never = out("never.safetensors");
    assert!(refused(["convert", str(&large), str(&never), "--dtype", "f16"], &name, Some(&never)).contains("bf16"));
}

#[test]
fn init_makes_a_model_that_runs() {
    let dir = folder();
    let model = dir.path().join("m.safetensors");
    let found = json(["init", "--preset", "tiny", "--seed", "3", "--out", str(&model), "--json"]);
    assert_eq!(found["parameters"], 28_942);
    assert_eq!(json(["inspect", str(&model), "--json", "--strict"])["parameters"], 28_942);
    let picture = format!("{IMAGES}/two.png");
    let found = json(["classify", "--model", str(&model), "--device", "cpu", "--json", &picture]);
    assert_eq!(found["images"][0]["top"][0]["name"].as_str().map(|n| n.starts_with("class ")), Some(true), "{found}");
    let before = fs::read(&model).unwrap();
    refused(["init", "--preset", "tiny", "--out", str(&model)], "--force", None);
    assert_eq!(fs::read(&model).unwrap(), before);
    let never = dir.path().join("never.safetensors");
    refused(["init", "--preset", "teeny", "--out", str(&never)], "teeny", Some(&never));
    let config = file(&dir, "c.json", "{");
    refused(["init", "--config", str(&config), "--out", str(&never)], "c.json", Some(&never));
    assert_eq!(run(["init", "--out", str(&never)]).status.code(), Some(2));
    for source in ["--preset", "--config"] {
        let output = run(["init", source, "tiny"]);
        assert_eq!(output.status.code(), Some(2));
        is_refusal(&output, "--out");
    }
    // The byte order mark of an editor is no part of the configuration.
    let text = format!("\u{feff}{}", Config::preset("tiny").unwrap().to_json());
    for name in ["mark.json", "mark"] {
        let config = file(&dir, name, &text);
        assert_eq!(json(["inspect", str(&config), "--json"])["parameters"], 28_942);
        good(["init", "--config", str(&config), "--out", str(&model), "--force"]);
    }
    let listed = good(["init", "--preset", "list"]);
    let as_json = json(["init", "--preset", "list", "--json"]);
    assert_eq!(as_json["presets"].as_array().unwrap().len(), Config::presets().len());
    for ((name, text), listed) in Config::presets().iter().zip(listed.lines()) {
        assert!(listed.starts_with(name) && listed.ends_with(text), "{listed}");
    }
    assert_eq!(
        (&as_json["presets"][0]["name"], as_json["presets"][0]["description"].is_string()),
        (&"tiny".into(), true)
    );
}

#[test]
fn unknown_tensors_are_warned_of_or_refused() {
    let dir = folder();
    let (mut tensors, metadata) = parts(MNIST);
    tensors.push(("talking.heads".into(), vec![1], Data::F32(vec![0.0])));
    let model = file(&dir, "more.safetensors", tensor_file::to_bytes(tensors, &metadata).unwrap());
    let output = run(["inspect", str(&model)]);
    assert!(output.status.success());
    let message = text(&output.stderr);
    assert!(message.starts_with("warning: ") && message.contains("talking.heads"), "{message}");
    refused(["inspect", "--strict", str(&model)], "talking.heads", None);
    assert_eq!(json(["inspect", str(&model), "--json"])["unknown_tensors"][0], "talking.heads");
}

#[test]
fn inspect_shows_layers_and_memory() {
    let found = json(["inspect", MNIST, "--json", "--batch", "8"]);
    let config = Checkpoint::load(MNIST, true).unwrap().config;
    assert_eq!(Config::from_json(&found["config"].to_string(), "found").unwrap(), config);
    assert_eq!(found["parameters"], 163_522);
    let layers = found["layers"].as_array().unwrap();
    assert_eq!(layers.iter().map(|l| l["parameters"].as_u64().unwrap()).sum::<u64>(), 163_522);
    assert_eq!(layers[0]["tensors"]["weight"], serde_json::json!([8, 1, 3, 3]));
    let memory = &found["memory"];
    let sum: u64 = ["tensors", "parameters", "uniforms", "readback"].iter().map(|k| memory[k].as_u64().unwrap()).sum();
    assert_eq!(memory["total"], sum);
    assert!(memory["tensors_unpacked"].as_u64() > memory["tensors_without_reuse"].as_u64());
    assert_eq!((&memory["batch"], &memory["part"]), (&8.into(), &8.into()));
    let out = good(["inspect", MNIST]);
    for part in ["block.1.mlp.fc2_conv", "163,522", "embed_dim", "total", "49 tokens (7 × 7)"] {
        assert!(out.contains(part), "{part}: {out}");
    }
    // A batch that no binding holds runs in parts.
    assert!(good(["inspect", MNIST, "--batch", "100000"]).contains("in parts of "));
    // A configuration alone gives the same figures.
    let dir = folder();
    let path = file(&dir, "config.json", config.to_json());
    let alone = json(["inspect", str(&path), "--json", "--batch", "8"]);
    assert_eq!(alone["memory"], *memory);
    assert_eq!(alone["layers"], found["layers"]);
    assert!(alone["dtype"].is_null());
    // Giants end in a sentence.
    for (key, value) in [("embed_dim", 16_384), ("img_size", 16_384), ("depth", 1_024)] {
        let mut giant: Value = serde_json::from_str(&config.to_json()).unwrap();
        giant[key] = value.into();
        let path = file(&dir, "giant.json", giant.to_string());
        json(["inspect", str(&path), "--json", "--batch", "1000000"]);
    }
    for (name, content, why) in [
        ("empty.json", "", "empty.json"),
        ("list.json", "[1]", "list.json"),
        ("key.json", "{\"arch\": \"a2os2a\", \"sise\": 3}", "sise"),
        ("config", "{\"arch\": \"spikformer\"}", "arch"),
    ] {
        refused(["inspect", str(&file(&dir, name, content))], why, None);
    }
    fs::create_dir(dir.path().join("bare")).unwrap();
    refused(["inspect", str(&dir.path().join("bare"))], "config.json", None);
}

#[test]
fn broken_checkpoints_are_refused_by_every_command() {
    let dir = folder();
    let out = dir.path().join("out.safetensors");
    let (_, input, _) = split_fixture(TINY, &dir);
    for (name, bytes, why) in broken_checkpoints() {
        let model = file(&dir, name, bytes);
        let picture = format!("{IMAGES}/two.png");
        let commands: [&[&str]; 5] = [
            &["classify", "-m", str(&model), &picture],
            &["eval", "-m", str(&model), "--data", IMAGES],
            &["forward", "-m", str(&model), "-i", str(&input), "-o", str(&out)],
            &["convert", str(&model), str(&out)],
            &["inspect", str(&model), "--json"],
        ];
        for args in commands {
            let message = refused(args, name, Some(&out));
            assert!(message.contains(why), "{message}");
        }
    }
    let absent = dir.path().join("absent");
    assert!(refused(["inspect", str(&absent)], "absent", None).contains("check the path"));
}

#[test]
fn devices_are_listed() {
    let found = json(["devices", "--json"]);
    let adapters = found["adapters"].as_array().unwrap();
    assert_eq!(adapters.len(), devices().len() - 1);
    let out = good(["devices"]);
    for adapter in adapters {
        assert!(out.contains(adapter["name"].as_str().unwrap()), "{out}");
        assert!(adapter["limits"]["maxBufferSize"]["adapter"].as_u64().unwrap() > 0);
        assert!(adapter["features"]["subgroups"].is_boolean());
    }
    assert!(out.contains("--device auto takes"), "{out}");
    let name = adapters[0]["name"].as_str().unwrap();
    let found = json(["classify", "--json", "--device", name, &format!("{IMAGES}/two.png")]);
    assert_eq!(found["images"][0]["top"][0]["class"], 2);
    for nonsense in ["99", "Abacus 3000", "", " "] {
        let args = ["classify", "--device", nonsense, &format!("{IMAGES}/two.png")];
        let message = refused(args, &format!("no adapter `{nonsense}`"), None);
        assert!(message.contains(name), "{message}");
    }
}

/// Only Vulkan's loader can be told to find nothing.
#[cfg(target_os = "linux")]
#[test]
fn without_any_adapter() {
    let picture = format!("{IMAGES}/two.png");
    let run = |args: &[&str]| {
        let mut program = program();
        for variable in ["VK_DRIVER_FILES", "VK_ICD_FILENAMES"] {
            program.env(variable, "/nonexistent");
        }
        program.args(args).output().unwrap()
    };
    for device in ["gpu", "0", "llvmpipe"] {
        let message = is_refusal(&run(&["classify", "--device", device, &picture]), "adapter");
        assert!(message.contains("--device cpu"), "{message}");
    }
    let output = run(&["classify", "--json", &picture]);
    assert!(output.status.success());
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["images"][0]["top"][0]["class"], 2);
    let note = text(&output.stderr);
    assert!(note.starts_with("note: ") && note.lines().count() == 1, "{note}");
    assert!(run(&["classify", "--device", "cpu", &picture]).stderr.is_empty());
    let output = run(&["devices"]);
    assert!(output.status.success() && text(&output.stdout).contains("No GPU adapter was found"));
    let found: Value = serde_json::from_slice(&run(&["devices", "--json"]).stdout).unwrap();
    assert_eq!(found["adapters"], Value::Array(vec![]));
    assert!(found["auto"]["index"].is_null());
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    let mut child = program()
        .args(["classify", "--device", "cpu", "--batch", "1", IMAGES])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{}", text(&output.stderr));
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_an_error() {
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = program().args(["inspect", MNIST]).stdout(full).output().unwrap();
    is_refusal(&output, "standard output");
}

#[test]
fn log_levels() {
    let args = ["classify", "--device", "cpu", "--model", MNIST, &format!("{IMAGES}/two.png")];
    assert!(run(args).stderr.is_empty());
    let output = run([&args[..], &["-v"]].concat());
    assert!(text(&output.stderr).contains("info: loading"), "{}", text(&output.stderr));
}

#[test]
fn the_samples_are_where_the_help_says() {
    assert!(Path::new(ROOT).join("examples/images").is_dir());
    assert!(good(["classify", "--help"]).contains("examples/images"));
}
