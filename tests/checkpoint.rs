//! Checkpoints: round trips, and one clear error for everything that is wrong with a file.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::{Map, Value, json};
use spikeshade::checkpoint::{Checkpoint, Dtype, Tensor};
use spikeshade::config::Config;
use spikeshade::error::Error;
use spikeshade::tensor_file;

const MNIST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/mnist-2-64.safetensors");
const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tiny_eval.safetensors");

fn mnist() -> Checkpoint {
    Checkpoint::load(MNIST, true).unwrap()
}

/// A file taken apart, so that a test can break one thing of it.
#[derive(Clone)]
struct Parts {
    header: Map<String, Value>,
    data: Vec<u8>,
}

impl Parts {
    fn read(path: &str) -> Parts {
        let bytes = fs::read(path).unwrap();
        let (length, rest) = bytes.split_first_chunk::<8>().unwrap();
        let (header, data) = rest.split_at(u64::from_le_bytes(*length) as usize);
        Parts { header: serde_json::from_slice(header).unwrap(), data: data.to_vec() }
    }

    fn bytes(&self) -> Vec<u8> {
        let header = serde_json::to_vec(&self.header).unwrap();
        let mut out = (header.len() as u64).to_le_bytes().to_vec();
        out.extend(header);
        out.extend(&self.data);
        out
    }

    fn set_config(&mut self, key: &str, value: Value) -> &mut Self {
        let text = self.header["__metadata__"]["config"].as_str().unwrap();
        let mut config: Map<String, Value> = serde_json::from_str(text).unwrap();
        config.insert(key.into(), value);
        self.header["__metadata__"]["config"] = serde_json::to_string(&config).unwrap().into();
        self
    }

    fn rename(&mut self, from: &str, to: &str) -> &mut Self {
        let entry = self.header.remove(from).unwrap();
        self.header.insert(to.into(), entry);
        self
    }

    fn set_f32(&mut self, name: &str, i: usize, value: f32) -> &mut Self {
        let at = self.header[name]["data_offsets"][0].as_u64().unwrap() as usize + 4 * i;
        self.data[at..at + 4].copy_from_slice(&value.to_le_bytes());
        self
    }
}

/// The error of loading these bytes, after the checks that hold for every message.
fn refused(bytes: &[u8], strict: bool) -> Error {
    let error = Checkpoint::from_bytes(bytes, "broken.safetensors", strict).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("broken.safetensors"), "{text}");
    assert!(text.lines().count() <= 20 && text.len() < 4000, "{text}");
    error
}

fn message(bytes: &[u8]) -> String {
    refused(bytes, false).to_string()
}

#[test]
fn loads_the_trained_model() {
    let c = mnist();
    assert_eq!(c.config, Config::preset("mnist-2-64").unwrap());
    assert_eq!(c.tensors.len(), c.config.parameters().len());
    assert_eq!(c.metadata["test_correct"], "9929");
    assert!(!c.metadata.contains_key("config"));
    assert!(c.unexpected.is_empty());
    assert_eq!(c.dtype, Dtype::F32);
    let raw = tensor_file::read(Path::new(MNIST)).unwrap();
    for (name, t) in &c.tensors {
        assert_eq!(t.data, raw.f32(name).unwrap());
        assert_eq!(t.shape, raw.shape(name).unwrap());
    }
}

#[test]
fn loads_every_fixture() {
    for entry in fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "safetensors") {
            let c = Checkpoint::load(&path, false).unwrap();
            assert!(c.unexpected.iter().any(|n| n == "in.x"));
            let Err(Error::Checkpoint(text)) = Checkpoint::load(&path, true) else { panic!("{}", path.display()) };
            assert!(text.contains(&c.unexpected[0]) && text.contains("more"), "{text}");
        }
    }
}

#[test]
fn round_trips_every_type() {
    let folder = tempfile::tempdir().unwrap();
    let c = mnist();
    for dtype in [Dtype::F32, Dtype::F16, Dtype::Bf16] {
        let path = folder.path().join(dtype.name());
        c.save(&path, dtype).unwrap();
        let back = Checkpoint::load(&path, true).unwrap();
        assert_eq!(back.dtype, dtype);
        assert_eq!(back.config, c.config);
        assert_eq!(back.metadata["format"], "pt");
        assert_eq!(back.metadata["test_total"], c.metadata["test_total"]);
        for (name, t) in &c.tensors {
            let rounded = |v: f32| match dtype {
                Dtype::F32 => v,
                Dtype::F16 => half::f16::from_f32(v).to_f32(),
                Dtype::Bf16 => half::bf16::from_f32(v).to_f32(),
            };
            assert!(t.data.iter().zip(&back.tensors[name].data).all(|(a, b)| rounded(*a).to_bits() == b.to_bits()));
        }
        // What is loaded can be saved again without loss, and to the same bytes.
        assert_eq!(back.to_bytes(dtype).unwrap(), fs::read(&path).unwrap());
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
}

#[test]
fn mixed_types_count_as_the_one_that_holds_both() {
    let c = mnist();
    let (a, b) = (Parts::from_saved(&c, Dtype::F16), Parts::from_saved(&c, Dtype::Bf16));
    let mut mixed = a.clone();
    // Both types take 2 bytes, so a relabelled tensor stays where it is.
    let (from, to) = (b.range("head.weight"), a.range("head.weight"));
    mixed.data[to].copy_from_slice(&b.data[from]);
    mixed.header["head.weight"]["dtype"] = "BF16".into();
    let back = Checkpoint::from_bytes(&mixed.bytes(), "t", true).unwrap();
    assert_eq!(back.dtype, Dtype::F32);
}

impl Parts {
    fn from_saved(c: &Checkpoint, dtype: Dtype) -> Parts {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        c.save(&path, dtype).unwrap();
        Parts::read(path.to_str().unwrap())
    }

    fn range(&self, name: &str) -> std::ops::Range<usize> {
        let at = |i: usize| self.header[name]["data_offsets"][i].as_u64().unwrap() as usize;
        at(0)..at(1)
    }
}

#[test]
fn a_folder_is_a_checkpoint_too() {
    let folder = tempfile::tempdir().unwrap();
    let text = || Checkpoint::load(folder.path(), true).unwrap_err().to_string();
    assert!(text().contains("has no config.json"), "{}", text());
    let c = mnist();
    fs::write(folder.path().join("config.json"), c.config.to_json()).unwrap();
    assert!(text().contains("has no model.safetensors"), "{}", text());
    let mut parts = Parts::read(MNIST);
    parts.header.remove("__metadata__");
    let model = folder.path().join("model.safetensors");
    fs::write(&model, parts.bytes()).unwrap();
    let back = Checkpoint::load(folder.path(), true).unwrap();
    assert_eq!(back.tensors, c.tensors);
    assert_eq!(back.config, c.config);
    let bare = Checkpoint::load(&model, true).unwrap_err().to_string();
    assert!(bare.contains("`config`") && bare.contains("config.json"), "{bare}");
    for (text, part) in [("{", "config.json"), ("", "config.json"), ("{\"depht\": 1}", "`depht`")] {
        fs::write(folder.path().join("config.json"), text).unwrap();
        let message = Checkpoint::load(folder.path(), true).unwrap_err().to_string();
        assert!(message.contains(part), "{message}");
    }
    fs::write(folder.path().join("config.json"), [0xff, 0xfe]).unwrap();
    assert!(text().contains("UTF-8"));
}

#[test]
fn missing_files_are_named() {
    let error = Checkpoint::load("no/such.safetensors", false).unwrap_err();
    assert!(matches!(&error, Error::Io { path, .. } if path.ends_with("such.safetensors")));
    #[cfg(unix)]
    assert!(Checkpoint::load("/dev/zero", false).unwrap_err().to_string().contains("no regular file"));
}

#[test]
fn cut_short_anywhere() {
    let bytes = fs::read(MNIST).unwrap();
    let mut ends: Vec<usize> = (0..64).chain((64..bytes.len()).step_by(997)).collect();
    let header = 8 + u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
    ends.extend(header - 20..header + 20);
    ends.push(bytes.len() - 1);
    for end in ends {
        let text = message(&bytes[..end]);
        assert!(text.contains("again"), "no remedy after {end} bytes: {text}");
    }
    let folder = tempfile::tempdir().unwrap();
    for end in [0, 5, 8, 100, bytes.len() - 1] {
        let path = folder.path().join("cut.safetensors");
        fs::write(&path, &bytes[..end]).unwrap();
        let text = Checkpoint::load(&path, false).unwrap_err().to_string();
        assert!(text.contains("cut.safetensors") && text.contains("again"), "{text}");
    }
}

#[test]
fn damaged_bytes_never_panic() {
    let bytes = fs::read(TINY).unwrap();
    let header = 8 + u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
    for at in 0..header {
        for flip in [0x01, 0x10, 0x80] {
            let mut broken = bytes[..header].to_vec();
            broken[at] ^= flip;
            // The data is left out of most, for speed: a header that survives is then refused for that.
            assert!(Checkpoint::from_bytes(&broken, "t", false).is_err());
            if at % 97 == 0 {
                broken.extend(&bytes[header..]);
                let _ = Checkpoint::from_bytes(&broken, "t", false);
            }
        }
    }
}

#[test]
fn lying_lengths() {
    let mut bytes = fs::read(MNIST).unwrap();
    let size = bytes.len() as u64;
    for length in [u64::MAX, u64::MAX - 8, size + 1, size, size - 7, 1 << 40] {
        bytes[..8].copy_from_slice(&length.to_le_bytes());
        assert!(message(&bytes).contains("cut short or damaged"));
    }
    for length in [0, 1, 2, 100, size - 8] {
        bytes[..8].copy_from_slice(&length.to_le_bytes());
        assert!(message(&bytes).contains("again"));
    }
    bytes.push(0);
    bytes[..8].copy_from_slice(&fs::read(MNIST).unwrap()[..8]);
    assert!(message(&bytes).contains("1 bytes after"));
}

#[test]
fn misnamed_and_misshapen_tensors() {
    let mut parts = Parts::read(MNIST);
    parts.rename("block.0.attn.q_conv.weight", "block.0.attn.query.weight");
    let text = message(&parts.bytes());
    for part in ["block.0.attn.q_conv.weight: missing", "[64, 64, 1, 1]", "block.0.attn.query.weight", "1 tensor "] {
        assert!(text.contains(part), "{part}: {text}");
    }

    let mut parts = Parts::read(MNIST);
    parts.header["head.weight"]["shape"] = json!([64, 10]);
    let text = message(&parts.bytes());
    assert!(text.contains("head.weight: found [64, 10], expected [10, 64]"), "{text}");

    // A linear layer instead of a 1×1 convolution is another shape too.
    let mut parts = Parts::read(MNIST);
    parts.header["block.1.attn.k_conv.weight"]["shape"] = json!([64, 64]);
    assert!(message(&parts.bytes()).contains("found [64, 64], expected [64, 64, 1, 1]"));

    let mut parts = Parts::read(MNIST);
    let names: Vec<String> = parts.header.keys().filter(|n| *n != "__metadata__").cloned().collect();
    for name in &names {
        parts.rename(name, &format!("module.{name}"));
    }
    let text = message(&parts.bytes());
    assert!(text.contains(&format!("{} tensors", names.len())) && text.contains("module."), "{text}");
    assert!(text.contains(&format!("and {} more", names.len() - 10)), "{text}");
    assert!(matches!(refused(&parts.bytes(), true), Error::Checkpoint(_)));
}

#[test]
fn unexpected_tensors() {
    let folder = tempfile::tempdir().unwrap();
    let mut list: Vec<_> =
        mnist().tensors.into_iter().map(|(n, t)| (n, t.shape, tensor_file::Data::F32(t.data))).collect();
    list.push(("block.0.attn.q_bn.num_batches_tracked".into(), vec![], tensor_file::Data::I64(vec![7])));
    let metadata = BTreeMap::from([("config".to_string(), mnist().config.to_json())]);
    let path = folder.path().join("x.safetensors");
    tensor_file::write(&path, list.clone(), &metadata).unwrap();
    assert!(Checkpoint::load(&path, true).unwrap().unexpected.is_empty());
    list.push(("block.0.attn.talking_heads.weight".into(), vec![1], tensor_file::Data::F64(vec![f64::NAN])));
    tensor_file::write(&path, list, &metadata).unwrap();
    let c = Checkpoint::load(&path, false).unwrap();
    assert_eq!(c.unexpected, ["block.0.attn.talking_heads.weight"]);
    let text = Checkpoint::load(&path, true).unwrap_err().to_string();
    assert!(text.contains("talking_heads"), "{text}");
}

#[test]
fn values_no_model_has() {
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut parts = Parts::read(MNIST);
        parts.set_f32("block.1.mlp.fc1_conv.weight", 65, value);
        let text = message(&parts.bytes());
        assert!(text.contains("`block.1.mlp.fc1_conv.weight`") && text.contains("[1, 1, 0, 0]"), "{text}");
    }
    let mut parts = Parts::read(MNIST);
    parts.set_f32("patch_embed.proj_bn2.running_var", 3, -1e-9);
    let text = message(&parts.bytes());
    assert!(text.contains("`patch_embed.proj_bn2.running_var`") && text.contains("[3]"), "{text}");
    // A negative mean, and a variance of nothing, are ordinary.
    let mut parts = Parts::read(MNIST);
    parts.set_f32("patch_embed.proj_bn2.running_mean", 3, -1.0).set_f32("patch_embed.proj_bn2.running_var", 3, 0.0);
    Checkpoint::from_bytes(&parts.bytes(), "t", true).unwrap();

    for dtype in [Dtype::F16, Dtype::Bf16] {
        let mut parts = Parts::from_saved(&mnist(), dtype);
        let range = parts.range("head.bias");
        parts.data[range].fill(0xff);
        assert!(message(&parts.bytes()).contains("`head.bias` holds NaN"));
    }
}

#[test]
fn other_types_are_refused() {
    for (dtype, width) in [("F64", 8), ("I32", 4), ("U8", 1), ("BOOL", 1), ("F8_E4M3", 1), ("I64", 8)] {
        let mut parts = Parts::read(MNIST);
        let old = parts.header.remove("head.bias").unwrap();
        // The old place is kept filled, and the new tensor appended.
        parts.header.insert("filler".into(), old);
        let start = parts.data.len();
        parts.data.resize(start + 10 * width, 0);
        let entry = json!({"dtype": dtype, "shape": [10], "data_offsets": [start, start + 10 * width]});
        parts.header.insert("head.bias".into(), entry);
        let text = message(&parts.bytes());
        assert!(text.contains(&format!("head.bias: stored as {dtype}")), "{text}");
    }
}

#[test]
fn configurations_out_of_range_name_the_key() {
    for (key, value) in [
        ("arch", json!("vit")),
        ("img_size", json!(0)),
        ("in_chans", json!(0)),
        ("num_classes", json!(0)),
        ("embed_dim", json!(60)),
        ("depth", json!(0)),
        ("num_heads", json!(3)),
        ("mlp_ratio", json!(0)),
        ("T", json!(33)),
        ("pooling_stat", json!("0211")),
        ("tau", json!(0.5)),
        ("v_threshold", json!(0)),
        ("attn_v_threshold", json!(-1)),
        ("v_reset", json!(1)),
        ("decay_input", json!("yes")),
        ("detach_reset", json!(1)),
        ("surrogate", json!("step")),
        ("alpha", json!(0)),
        ("bn_eps", json!(0)),
        ("mean", json!([0.1, 0.2])),
        ("std", json!([0])),
        ("class_names", json!(["one"])),
        ("dropout", json!(0.1)),
        ("embed_dim", json!(u64::MAX)),
        ("depth", json!(u64::MAX)),
    ] {
        let mut parts = Parts::read(MNIST);
        let error = refused(&parts.set_config(key, value).bytes(), false);
        assert!(matches!(&error, Error::Config { key: k, .. } if k == key), "{key}: {error}");
    }
}

#[test]
fn configurations_that_ask_for_more_than_the_file_holds() {
    for path in [MNIST, TINY] {
        for (key, value) in [
            ("embed_dim", 16384),
            ("embed_dim", 128),
            ("depth", 1024),
            ("mlp_ratio", 64),
            ("num_classes", 1_000_000),
            ("in_chans", 4096),
        ] {
            let mut parts = Parts::read(path);
            for key in ["mean", "std", "class_names"] {
                parts.set_config(key, Value::Null);
            }
            let error = refused(&parts.set_config(key, json!(value)).bytes(), false);
            let text = error.to_string();
            assert!(matches!(&error, Error::Config { key: k, .. } if k == key), "{key}: {text}");
            assert!(text.contains(&format!("{key} is {value} where the tensors suggest")), "{text}");
        }
    }
    // A little more, or less, is a list of misfits that names the key as well.
    for (key, value) in [("embed_dim", 72), ("embed_dim", 32), ("depth", 3), ("depth", 1), ("mlp_ratio", 3)] {
        let mut parts = Parts::read(MNIST);
        let bytes = parts.set_config(key, json!(value)).bytes();
        let result = Checkpoint::from_bytes(&bytes, "broken.safetensors", true);
        assert!(result.unwrap_err().to_string().contains(if value == 1 { "block.1." } else { key }));
    }
}

#[test]
fn what_cannot_be_loaded_is_not_saved() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    mnist().save(&path, Dtype::F32).unwrap();
    let before = fs::read(&path).unwrap();
    type Break = fn(&mut Checkpoint);
    let cases: [(Break, Dtype, &str); 7] = [
        (|c| c.tensors.get_mut("head.bias").unwrap().data[3] = 70_000.0, Dtype::F16, "bf16"),
        (|c| c.tensors.get_mut("head.bias").unwrap().data[3] = f32::MAX, Dtype::Bf16, "use f32"),
        (|c| c.tensors.get_mut("head.bias").unwrap().data[3] = f32::NAN, Dtype::F32, "`head.bias` holds NaN at [3]"),
        (|c| c.tensors.get_mut("head.bias").unwrap().data.truncate(9), Dtype::F32, "head.bias"),
        (|c| drop(c.tensors.remove("head.bias")), Dtype::F32, "head.bias: missing"),
        (|c| drop(c.tensors.insert("x".into(), Tensor { shape: vec![], data: vec![0.0] })), Dtype::F32, ": x"),
        (|c| c.config.timesteps = 0, Dtype::F32, "`T`"),
    ];
    for (change, dtype, part) in cases {
        let mut c = mnist();
        change(&mut c);
        let text = c.save(&path, dtype).unwrap_err().to_string();
        assert!(text.contains(part), "{part}: {text}");
        assert_eq!(fs::read(&path).unwrap(), before);
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn unwritable_places_leave_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "kept").unwrap();
    for path in [folder.path().to_path_buf(), folder.path().join("none/model"), file.join("model")] {
        let error = mnist().save(&path, Dtype::F32).unwrap_err();
        assert!(matches!(&error, Error::Io { path: p, .. } if *p == path), "{error}");
    }
    assert_eq!(fs::read_to_string(&file).unwrap(), "kept");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn further_classes_begin_behind_the_others() {
    let digits = Checkpoint::load(MNIST, true).unwrap();
    let (old, wide) = (digits.config.num_classes, digits.config.embed_dim);
    assert!(digits.metadata.contains_key("test_correct"));
    let more = digits.clone().with_more_classes(&["star".to_owned(), "moon".to_owned()]).unwrap();
    more.check().unwrap();
    assert_eq!(more.config.num_classes, old + 2);
    assert_eq!(more.config.class_names.as_deref().unwrap()[old..], ["star", "moon"]);
    let of = |checkpoint: &Checkpoint, name: &str| checkpoint.tensors[name].data.clone();
    let (before, after) = (of(&digits, "head.weight"), of(&more, "head.weight"));
    assert_eq!(after[..old * wide], before);
    let mean: f32 = (0..old).map(|class| before[class * wide + 5]).sum::<f32>() / old as f32;
    assert!((after[old * wide + 5] - mean).abs() < 1e-6 && after[old * wide..][..wide] == after[(old + 1) * wide..]);
    assert!(more.metadata.is_empty(), "what the digits reached is not said of it");
    for names in [["star", "star"], ["moon", "3"]] {
        let error = digits.clone().with_more_classes(&names.map(str::to_owned)).unwrap_err().to_string();
        assert!(error.contains("already; choose another name"), "{error}");
    }
}
