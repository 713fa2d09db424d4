//! Checkpoints: a configuration and the tensors that it needs, in one `.safetensors` file or a folder with
//! `config.json` and `model.safetensors`.

use std::collections::BTreeMap;
use std::fmt;
#[cfg(not(target_arch = "wasm32"))]
use std::path::Path;

use crate::config::{Config, Parameter, ParameterKind};
use crate::error::{Error, Result, clip};
use crate::tensor_file::{self, Encoded, Entry, Parsed};

/// The largest `config.json` that is read, in bytes: a million class names of 60 letters.
#[cfg(not(target_arch = "wasm32"))]
const MAX_CONFIG: u64 = 64 << 20;

/// How many tensors a message lists before it only counts.
const LISTED: usize = 10;

/// A tensor in memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Extents, outermost first.
    pub shape: Vec<usize>,
    /// Elements in row-major order; as many as the product of the extents.
    pub data: Vec<f32>,
}

/// How a checkpoint stores its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// 32-bit floats.
    F32,
    /// IEEE half precision: 11 significant bits, up to 65,504.
    F16,
    /// The upper half of an f32: 8 significant bits, the range of an f32.
    Bf16,
}

impl Dtype {
    /// The name on the command line: `f32`, `f16` or `bf16`.
    pub fn name(self) -> &'static str {
        match self {
            Dtype::F32 => "f32",
            Dtype::F16 => "f16",
            Dtype::Bf16 => "bf16",
        }
    }

    fn stored(self) -> tensor_file::Dtype {
        match self {
            Dtype::F32 => tensor_file::Dtype::F32,
            Dtype::F16 => tensor_file::Dtype::F16,
            Dtype::Bf16 => tensor_file::Dtype::BF16,
        }
    }

    fn from_stored(dtype: tensor_file::Dtype) -> Option<Dtype> {
        [Dtype::F32, Dtype::F16, Dtype::Bf16].into_iter().find(|d| d.stored() == dtype)
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A model's configuration and weights.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    /// What the tensors belong to.
    pub config: Config,
    /// Exactly the tensors of [`Config::parameters`], by name.
    pub tensors: BTreeMap<String, Tensor>,
    /// The file's other metadata, without `config`.
    pub metadata: BTreeMap<String, String>,
    /// Names of the file's tensors that the configuration does not know; they were not read.
    pub unexpected: Vec<String>,
    /// The narrowest type that holds every tensor as it was stored (f32 for a mixture of f16 and bf16).
    pub dtype: Dtype,
}

impl Checkpoint {
    /// Loads a `.safetensors` file whose metadata holds `config`, or a folder with `config.json` and
    /// `model.safetensors`. f16 and bf16 become f32; `*.num_batches_tracked` is ignored.
    ///
    /// Tensors that the configuration does not know are listed in [`Checkpoint::unexpected`] with a warning in the
    /// log, or refused if `strict`.
    ///
    /// # Errors
    /// [`Error::Io`] if a file cannot be read; [`Error::Format`] if it is cut short, damaged or something else;
    /// [`Error::Config`] for a bad configuration; [`Error::Checkpoint`] for tensors that are missing, have another shape
    /// or type than the configuration asks for, or hold values that no model can have.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn load(path: impl AsRef<Path>, strict: bool) -> Result<Checkpoint> {
        let path = path.as_ref();
        let kind = std::fs::metadata(path).map_err(|e| Error::io(path, e))?;
        if !kind.is_dir() {
            return Self::from_bytes(&crate::files::open_mapped(path)?, &path.display().to_string(), strict);
        }
        let (config_path, model_path) = (path.join("config.json"), path.join("model.safetensors"));
        for part in [&config_path, &model_path] {
            if !part.is_file() {
                let name = part.file_name().unwrap_or_default().display();
                let why = format!("has no {name}; a checkpoint's folder holds config.json and model.safetensors");
                return Err(Error::format(path.display(), why));
            }
        }
        let text = crate::files::open_mapped(&config_path)?;
        if text.len() as u64 > MAX_CONFIG {
            return Err(Error::format(config_path.display(), format!("is larger than {MAX_CONFIG} bytes")));
        }
        let text = std::str::from_utf8(&text)
            .map_err(|e| Error::format(config_path.display(), format!("is no UTF-8 text: {e}")))?;
        let config = Config::from_json(text, &config_path.display().to_string())?;
        let what = model_path.display().to_string();
        let bytes = crate::files::open_mapped(&model_path)?;
        let mut parsed = tensor_file::parse(&bytes, &what)?;
        if let Some(own) = parsed.metadata.remove("config")
            && Config::from_json(&own, &what).ok().as_ref() != Some(&config)
        {
            log::warn!("{what}: the config in its metadata differs from config.json, which is used");
        }
        Self::build(config, parsed, &bytes, &what, strict)
    }

    /// The model trained on MNIST that the library carries, `models/mnist-2-64.safetensors`.
    ///
    /// # Errors
    /// None in a released build: a test loads it.
    pub fn built_in() -> Result<Checkpoint> {
        let bytes = include_bytes!("../models/mnist-2-64.safetensors");
        Self::from_bytes(bytes, "models/mnist-2-64.safetensors", true)
    }

    /// [`Checkpoint::load`] from a `.safetensors` file in memory; `what` names it in messages.
    ///
    /// # Errors
    /// As for [`Checkpoint::load`], less [`Error::Io`].
    pub fn from_bytes(bytes: &[u8], what: &str, strict: bool) -> Result<Checkpoint> {
        let mut parsed = tensor_file::parse(bytes, what)?;
        let Some(text) = parsed.metadata.remove("config") else {
            let why = "has no `config` in its metadata; save it with one, or put it in a folder as model.safetensors \
                       beside a config.json";
            return Err(Error::format(what, why));
        };
        let config = Config::from_json(&text, what)?;
        Self::build(config, parsed, bytes, what, strict)
    }

    fn build(config: Config, parsed: Parsed, bytes: &[u8], what: &str, strict: bool) -> Result<Checkpoint> {
        let Parsed { metadata, mut entries } = parsed;
        let parameters = config.parameters();
        let off = contradictions(&config, &entries);
        check_size(&off, &parameters, &entries, what)?;

        let mut problems = Vec::new();
        let mut found = Vec::with_capacity(parameters.len());
        for p in parameters {
            match entries.remove(&p.name) {
                None => problems.push(format!("{}: missing, expected {:?}", p.name, p.shape)),
                Some(e) if e.shape != p.shape => {
                    let shape = clip(&format!("{:?}", e.shape));
                    problems.push(format!("{}: found {shape}, expected {:?}", p.name, p.shape));
                }
                Some(e) => match Dtype::from_stored(e.dtype) {
                    None => problems.push(format!("{}: stored as {}, expected F32, F16 or BF16", p.name, e.dtype)),
                    Some(dtype) => found.push((p, e, dtype)),
                },
            }
        }
        let known = |n: &String| n.ends_with(".num_batches_tracked") || Checkpoint::is_training_state(n);
        let unexpected: Vec<String> = entries.into_keys().filter(|n| !known(n)).collect();
        if !problems.is_empty() {
            return Err(misfit(&problems, &unexpected, &off, what));
        }
        if !unexpected.is_empty() {
            let text =
                format!("{what}: {} unknown to the model: {}", tensors(unexpected.len()), some_names(&unexpected));
            if strict {
                return Err(Error::Checkpoint(format!("{text}; remove them, or load without strict checks")));
            }
            log::warn!("{text}; ignored");
        }

        let mut map = BTreeMap::new();
        let mut dtypes = Vec::new();
        for (p, entry, dtype) in found {
            // Never absent, as the type was checked and the header's ranges lie within the file.
            let data = tensor_file::floats(entry.dtype, bytes.get(entry.range.clone()).unwrap_or_default());
            let data = data.unwrap_or_default();
            check_values(&p, &data, what)?;
            if !dtypes.contains(&dtype) {
                dtypes.push(dtype);
            }
            map.insert(p.name, Tensor { shape: entry.shape, data });
        }
        let dtype = if let [one] = dtypes[..] { one } else { Dtype::F32 };
        Ok(Checkpoint { config, tensors: map, metadata, unexpected, dtype })
    }

    /// Writes a `.safetensors` file that [`Checkpoint::load`] and PyTorch read, whole or not at all: on failure
    /// whatever was at `path` is still there.
    ///
    /// # Errors
    /// As for [`Checkpoint::to_bytes`], or [`Error::Io`] naming `path`.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn save(&self, path: impl AsRef<Path>, dtype: Dtype) -> Result<()> {
        crate::files::write_aside(path.as_ref(), &self.to_bytes(dtype)?)
    }

    /// The bytes of a `.safetensors` file with every tensor rounded to `dtype` (to nearest, ties to even). The same
    /// checkpoint gives the same bytes every time.
    ///
    /// # Errors
    /// [`Error::Config`] for an invalid configuration; [`Error::Checkpoint`] naming a tensor that is missing, not the
    /// configuration's, of another shape, or that holds a value that cannot be loaded again: NaN, an infinity, or a
    /// number that overflows `dtype`.
    pub fn to_bytes(&self, dtype: Dtype) -> Result<Vec<u8>> {
        self.config.validate()?;
        let what = "the checkpoint to be saved";
        let parameters = self.config.parameters();
        let (list, extra) = self.fitting(&parameters, what)?;
        if !extra.is_empty() {
            let (n, names) = (tensors(extra.len()), some_names(&extra));
            return Err(Error::Checkpoint(format!("{what}: {n} unknown to the model: {names}")));
        }
        let mut encoded = Vec::with_capacity(list.len());
        for (p, t) in list {
            check_values(p, &t.data, what)?;
            let bytes = encode(&t.data, dtype).map_err(|i| {
                let (name, value, at) = (&p.name, t.data[i], index(i, &p.shape));
                let other = if dtype == Dtype::F16 { "bf16 or f32" } else { "f32" };
                Error::Checkpoint(format!("tensor `{name}`: {value:e} at {at} is too large for {dtype}; use {other}"))
            })?;
            encoded.push(Encoded { name: &p.name, dtype: dtype.stored(), shape: &p.shape, bytes });
        }
        let mut metadata = self.metadata.clone();
        metadata.insert("config".into(), self.config.to_json());
        metadata.insert("format".into(), "pt".into());
        tensor_file::encode(encoded, &metadata)
    }

    /// The same model with further classes after its own, whose logits it keeps: `names` are theirs. Classes without names get
    /// their numbers for it. A new class begins as the mean of the others, and so ahead of none that is recognised.
    ///
    /// # Errors
    /// [`Error::Input`] for a name that another class has, [`Error::Checkpoint`] if the head is not there, [`Error::Config`] for
    /// more classes than there can be. Other metadata, which tells of the former classes, is left out.
    pub fn with_more_classes(mut self, names: &[String]) -> Result<Checkpoint> {
        let (old, wide) = (self.config.num_classes, self.config.embed_dim);
        let all = self.config.class_names.take().unwrap_or_else(|| (0..old).map(|i| i.to_string()).collect());
        for (i, name) in names.iter().enumerate() {
            if all.contains(name) || names[..i].contains(name) {
                return Err(Error::Input(format!("there is a class \"{name}\" already; choose another name")));
            }
        }
        let config = Config {
            num_classes: old + names.len(),
            class_names: Some(all.into_iter().chain(names.iter().cloned()).collect()),
            ..self.config
        };
        config.validate()?;
        for (name, row) in [("head.weight", wide), ("head.bias", 1)] {
            let missing = || Error::Checkpoint(format!("the checkpoint has no `{name}` of {old} classes"));
            let tensor = self.tensors.get_mut(name).filter(|t| t.data.len() == old * row).ok_or_else(missing)?;
            let mean: Vec<f32> = (0..row)
                .map(|i| tensor.data[i..].iter().step_by(row).map(|&w| f64::from(w)).sum::<f64>() / old as f64)
                .map(|w| w as f32)
                .collect();
            (0..names.len()).for_each(|_| tensor.data.extend(&mean));
            tensor.shape[0] = config.num_classes;
        }
        Ok(Checkpoint { config, metadata: BTreeMap::new(), ..self })
    }

    /// Whether a tensor of this name belongs to the state of a training run that its last checkpoint also holds.
    pub fn is_training_state(name: &str) -> bool {
        name.starts_with("optimizer.") || name.starts_with("ema.")
    }

    /// Checks that every tensor is there, of its shape, and finite, as it must be to be loaded again.
    ///
    /// # Errors
    /// [`Error::Config`] or [`Error::Checkpoint`] naming what is not.
    pub fn check(&self) -> Result<()> {
        self.config.validate()?;
        let (what, parameters) = ("the checkpoint", self.config.parameters());
        let (list, _) = self.fitting(&parameters, what)?;
        list.into_iter().try_for_each(|(p, t)| check_values(p, &t.data, what))
    }

    /// The tensor of each of `parameters`, and the names of all others.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] naming the tensors that are missing or whose shape or length is another.
    pub(crate) fn fitting<'a>(&'a self, parameters: &'a [Parameter], what: &str) -> Result<Fitting<'a>> {
        let mut problems = Vec::new();
        let mut list = Vec::with_capacity(parameters.len());
        for p in parameters {
            match self.tensors.get(&p.name) {
                None => problems.push(format!("{}: missing, expected {:?}", p.name, p.shape)),
                Some(t) if t.shape != p.shape || t.data.len() as u64 != p.elements() => {
                    let (shape, n) = (clip(&format!("{:?}", t.shape)), t.data.len());
                    problems.push(format!("{}: found {shape} with {n} elements, expected {:?}", p.name, p.shape));
                }
                Some(t) => list.push((p, t)),
            }
        }
        let known: std::collections::HashSet<_> = parameters.iter().map(|p| p.name.as_str()).collect();
        let extra: Vec<String> = self.tensors.keys().filter(|n| !known.contains(n.as_str())).cloned().collect();
        if problems.is_empty() { Ok((list, extra)) } else { Err(misfit(&problems, &extra, &Vec::new(), what)) }
    }
}

/// Each parameter with its tensor, and the names of tensors that belong to none.
type Fitting<'a> = (Vec<(&'a Parameter, &'a Tensor)>, Vec<String>);

/// The keys whose value the shapes and names in the file contradict: key, configured value, suggested value.
type Contradictions = Vec<(&'static str, usize, usize)>;

fn contradictions(config: &Config, entries: &BTreeMap<String, Entry>) -> Contradictions {
    let dim = |name: &str, axis: usize| entries.get(name).and_then(|e| e.shape.get(axis)).copied();
    let blocks = entries.keys().filter_map(|n| n.strip_prefix("block.")?.split_once('.')?.0.parse::<usize>().ok());
    let hidden = dim("block.0.mlp.fc1_conv.weight", 0);
    let width = dim("head.weight", 1);
    let suggested = [
        ("embed_dim", config.embed_dim, width),
        ("depth", config.depth, blocks.max().and_then(|n| n.checked_add(1))),
        ("mlp_ratio", config.mlp_ratio, hidden.zip(width).and_then(|(h, d)| h.checked_div(d))),
        ("num_classes", config.num_classes, dim("head.weight", 0)),
        ("in_chans", config.in_chans, dim("patch_embed.proj_conv.weight", 1)),
    ];
    suggested.iter().filter_map(|(k, v, s)| s.filter(|s| s != v).map(|s| (*k, *v, s))).collect()
}

fn contradicted(off: &Contradictions) -> String {
    let list: Vec<_> = off.iter().map(|(k, v, s)| format!("{k} is {v} where the tensors suggest {s}")).collect();
    list.join(", ")
}

/// Refuses a configuration whose tensors take more bytes than the file has for them, naming the keys at fault. Where no
/// key is, tensors are simply missing, and the list of those says more.
fn check_size(
    off: &Contradictions,
    parameters: &[Parameter],
    entries: &BTreeMap<String, Entry>,
    what: &str,
) -> Result<()> {
    // The narrowest type of a checkpoint takes 2 bytes.
    let needed = parameters.iter().fold(0u64, |n, p| n.saturating_add(p.elements().saturating_mul(2)));
    let held: u64 = parameters.iter().filter_map(|p| entries.get(&p.name)).map(|e| e.range.len() as u64).sum();
    if needed <= held || off.is_empty() {
        return Ok(());
    }
    let keys: Vec<_> = off.iter().map(|(k, ..)| *k).collect();
    let values = contradicted(off);
    let why =
        format!("takes at least {needed} bytes of tensors, and {what} holds {held}: {values}; correct the config");
    Err(Error::config(keys.join("`, `"), why))
}

/// One message for every tensor that does not fit.
fn misfit(problems: &[String], unexpected: &[String], off: &Contradictions, what: &str) -> Error {
    let mut text = format!("{what}: {} unfit for its configuration:", tensors(problems.len()));
    for problem in problems.iter().take(LISTED) {
        text += "\n  ";
        text += problem;
    }
    if problems.len() > LISTED {
        text += &format!("\n  and {} more", problems.len() - LISTED);
    }
    if !unexpected.is_empty() {
        text += &format!("\n{} unknown to it: {}", tensors(unexpected.len()), some_names(unexpected));
    }
    if !off.is_empty() {
        text += &format!("\nin the configuration, {}", contradicted(off));
    }
    text += "\ncheck that the file belongs to this configuration, or rename its tensors";
    Error::Checkpoint(text)
}

fn tensors(n: usize) -> String {
    if n == 1 { "1 tensor".into() } else { format!("{n} tensors") }
}

/// The first names and how many more there are, on one line.
fn some_names(names: &[String]) -> String {
    let mut text = names.iter().take(LISTED).map(|n| clip(n)).collect::<Vec<_>>().join(", ");
    if names.len() > LISTED {
        text += &format!(" and {} more", names.len() - LISTED);
    }
    text
}

/// Refuses values that no trained model has and that would spread over every output.
fn check_values(p: &Parameter, data: &[f32], what: &str) -> Result<()> {
    let variance = p.kind == ParameterKind::RunningVar;
    // As bn_eps is above 0, a variance that is not negative can be divided by.
    let good = |v: f32| v.is_finite() && !(variance && v < 0.0);
    let Some(i) = data.iter().position(|v| !good(*v)) else { return Ok(()) };
    let value = data[i];
    let why = if value.is_finite() { "a variance cannot be negative" } else { "every value must be finite" };
    let at = index(i, &p.shape);
    let name = &p.name;
    Err(Error::Checkpoint(format!("{what}: tensor `{name}` holds {value} at {at}; {why}: save an undamaged model")))
}

/// A flat index as one per axis, e.g. `[3, 0, 1, 1]`.
fn index(mut flat: usize, shape: &[usize]) -> String {
    let mut at = vec![0; shape.len()];
    for (a, s) in at.iter_mut().zip(shape).rev() {
        (*a, flat) = (flat % s, flat / s);
    }
    format!("{at:?}")
}

/// Finite values as little-endian `dtype`, or the index of the first that overflows it.
fn encode(data: &[f32], dtype: Dtype) -> std::result::Result<Vec<u8>, usize> {
    let halves = |round: fn(f32) -> ([u8; 2], bool)| {
        let mut bytes = Vec::with_capacity(2 * data.len());
        for (i, v) in data.iter().enumerate() {
            let (half, finite) = round(*v);
            if !finite {
                return Err(i);
            }
            bytes.extend(half);
        }
        Ok(bytes)
    };
    match dtype {
        Dtype::F32 => Ok(data.iter().flat_map(|v| v.to_le_bytes()).collect()),
        Dtype::F16 => halves(|v| {
            let h = half::f16::from_f32(v);
            (h.to_le_bytes(), h.is_finite())
        }),
        Dtype::Bf16 => halves(|v| {
            let h = half::bf16::from_f32(v);
            (h.to_le_bytes(), h.is_finite())
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_stay_short() {
        let many: Vec<String> = (0..500).map(|i| format!("block.{i}\n.weight")).collect();
        let text =
            misfit(&many.iter().map(|n| clip(n)).collect::<Vec<_>>(), &many, &vec![("depth", 1, 2)], "f").to_string();
        assert!(text.lines().count() <= 20, "{text}");
        assert!(text.contains("500 tensors") && text.contains("and 490 more"), "{text}");
    }

    #[test]
    fn flat_indices_are_unfolded() {
        assert_eq!(index(0, &[2, 3]), "[0, 0]");
        assert_eq!(index(5, &[2, 3]), "[1, 2]");
        assert_eq!(index(7, &[8]), "[7]");
    }

    #[test]
    fn overflow_is_found() {
        assert_eq!(encode(&[1.0, 65504.0, 65520.0], Dtype::F16), Err(2));
        assert_eq!(encode(&[1.0, 65520.0], Dtype::Bf16).unwrap().len(), 4);
        assert_eq!(encode(&[f32::MAX], Dtype::Bf16), Err(0));
        assert!(encode(&[f32::MAX], Dtype::F32).is_ok());
    }
}
