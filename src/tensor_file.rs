//! Named tensors of any element type in a `.safetensors` file: test fixtures, recorded activations, and the format
//! under every checkpoint.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
#[cfg(not(target_arch = "wasm32"))]
use std::path::Path;

pub use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde_json::Value;

use crate::error::{Error, Result, clip};

/// The longest header that the format allows, in bytes.
const MAX_HEADER: u64 = 100_000_000;

/// A file's header, checked against the bytes that follow it.
pub(crate) struct Parsed {
    /// The file's string metadata.
    pub metadata: BTreeMap<String, String>,
    /// Type, shape and place of each tensor.
    pub entries: BTreeMap<String, Entry>,
}

/// Type, shape and place of one tensor in a file.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Element type as stored.
    pub dtype: Dtype,
    /// Extents, outermost first.
    pub shape: Vec<usize>,
    /// Where its little-endian elements lie, in bytes from the start of the file; always inside it.
    pub range: Range<usize>,
}

/// Reads the header of a `.safetensors` file and checks that it describes all of `bytes`, neither less nor more.
///
/// # Errors
/// [`Error::Format`] naming `what` and a remedy, for every other content.
pub(crate) fn parse(bytes: &[u8], what: &str) -> Result<Parsed> {
    let bad = |why: String| Error::format(what, why);
    if bytes.is_empty() {
        return Err(bad("is empty; copy or download it again".into()));
    }
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else {
        return Err(bad(format!("is only {} bytes long; copy or download it again", bytes.len())));
    };
    let length = u64::from_le_bytes(*length);
    if rest.first() != Some(&b'{') || length < 2 {
        return Err(bad(not_safetensors(bytes).into()));
    }
    // Compared before it is used for anything: the length is whatever the file says.
    if length > rest.len() as u64 {
        return Err(bad(format!(
            "is cut short or damaged: its header claims {length} bytes and {} follow; copy or download it again",
            rest.len()
        )));
    }
    if length > MAX_HEADER {
        return Err(bad(format!("has a header of {length} bytes; the format allows {MAX_HEADER}")));
    }
    let (header, data) = rest.split_at(length as usize);
    // Not `SafeTensors::deserialize`: it adds up the file's own offsets unchecked, which can overflow.
    let parsed: Metadata = serde_json::from_slice(header).map_err(|e| {
        let at = culprit(header).map(|name| format!(" at tensor `{name}`")).unwrap_or_default();
        bad(format!("has a damaged header{at} ({}); copy or download it again", clip(&e.to_string())))
    })?;
    let claimed = parsed.data_len();
    if claimed > data.len() {
        return Err(bad(format!(
            "is cut short: its tensors take {claimed} bytes and {} are there; copy or download it again",
            data.len()
        )));
    }
    if claimed < data.len() {
        let extra = data.len() - claimed;
        return Err(bad(format!("has {extra} bytes after its last tensor; copy or download it again")));
    }
    let start = bytes.len() - data.len();
    let entries = parsed.tensors().into_iter().map(|(name, info)| {
        let (from, to) = info.data_offsets;
        (name, Entry { dtype: info.dtype, shape: info.shape.clone(), range: start + from..start + to })
    });
    let metadata = parsed.metadata().clone().unwrap_or_default().into_iter().collect();
    Ok(Parsed { metadata, entries: entries.collect() })
}

/// What a file without a plausible header is, and what to do about it.
fn not_safetensors(bytes: &[u8]) -> &'static str {
    if bytes.starts_with(b"PK\x03\x04") || bytes.starts_with(b"\x80\x02") {
        "is a PyTorch pickle, no .safetensors file; convert it with `safetensors.torch.save_file`"
    } else if bytes.starts_with(b"version https://git-lfs") {
        "is a Git LFS pointer, no .safetensors file; fetch the file itself with `git lfs pull`"
    } else {
        "is no .safetensors file; check the name, or copy or download it again"
    }
}

/// The first tensor of a refused header whose entry makes no sense by itself, for the message only.
fn culprit(header: &[u8]) -> Option<String> {
    let map: BTreeMap<String, Value> = serde_json::from_slice(header).ok()?;
    let sane = |value: &Value| {
        let info: TensorInfo = serde_json::from_value(value.clone()).ok()?;
        let bits = info.shape.iter().try_fold(info.dtype.bitsize(), |n, &s| n.checked_mul(s))?;
        let (from, to) = info.data_offsets;
        (to.checked_sub(from)?.checked_mul(8)? == bits).then_some(())
    };
    map.iter().find(|(name, value)| *name != "__metadata__" && sane(value).is_none()).map(|(name, _)| clip(name))
}

/// One tensor to be written: its type, its extents outermost first, and its little-endian elements.
pub(crate) struct Encoded<'a> {
    pub name: &'a str,
    pub dtype: Dtype,
    pub shape: &'a [usize],
    pub bytes: Vec<u8>,
}

/// The bytes of a `.safetensors` file. The same tensors and metadata give the same bytes every time, which the
/// writer of the safetensors crate does not promise (it keeps metadata in a hash map).
pub(crate) fn encode(mut tensors: Vec<Encoded>, metadata: &BTreeMap<String, String>) -> Result<Vec<u8>> {
    // The widest types first keeps every tensor aligned to its element size, as other readers expect.
    tensors.sort_by(|a, b| b.dtype.cmp(&a.dtype).then_with(|| a.name.cmp(b.name)));
    let mut list = Vec::with_capacity(tensors.len());
    let mut offset = 0;
    for t in &tensors {
        let data_offsets = (offset, offset + t.bytes.len());
        offset = data_offsets.1;
        list.push((t.name, TensorInfo { dtype: t.dtype, shape: t.shape.to_vec(), data_offsets }));
    }
    let json = |e: serde_json::Error| Error::Input(format!("the header cannot be written: {e}"));
    let mut header = String::from("{");
    if !metadata.is_empty() {
        header += &format!("\"__metadata__\":{},", serde_json::to_string(metadata).map_err(json)?);
    }
    for (name, info) in &list {
        let entry = format!("{}:{},", Value::from(*name), serde_json::to_string(info).map_err(json)?);
        header += &entry;
    }
    if header.ends_with(',') {
        header.pop();
    }
    header.push('}');
    while !header.len().is_multiple_of(8) {
        header.push(' ');
    }
    let mut out = Vec::with_capacity(8 + header.len() + offset);
    out.extend((header.len() as u64).to_le_bytes());
    out.extend(header.as_bytes());
    for t in tensors {
        out.extend(t.bytes);
    }
    Ok(out)
}

/// A `.safetensors` file in memory.
#[derive(Clone, Debug)]
pub struct TensorFile {
    /// The file's string metadata.
    pub metadata: BTreeMap<String, String>,
    entries: BTreeMap<String, Entry>,
    bytes: Vec<u8>,
    what: String,
}

/// Reads the `.safetensors` file at `path`; see [`TensorFile::from_bytes`].
///
/// # Errors
/// [`Error::Io`] if it cannot be read, [`Error::Format`] if it is damaged or something else.
#[cfg(not(target_arch = "wasm32"))]
pub fn read(path: &Path) -> Result<TensorFile> {
    let mapped = crate::files::open_mapped(path)?;
    TensorFile::from_bytes(mapped.to_vec(), &path.display().to_string())
}

/// Writes a `.safetensors` file at `path`, whole or not at all.
///
/// # Errors
/// [`Error::Input`] as for [`to_bytes`], [`Error::Io`] if it cannot be written.
#[cfg(not(target_arch = "wasm32"))]
pub fn write(path: &Path, tensors: Vec<(String, Vec<usize>, Data)>, metadata: &BTreeMap<String, String>) -> Result<()> {
    crate::files::write_aside(path, &to_bytes(tensors, metadata)?)
}

/// The bytes of a `.safetensors` file of `tensors`, each a name, its extents outermost first, and its elements in
/// row-major order.
///
/// # Errors
/// [`Error::Input`] for a name given twice or reserved, or extents that do not fit the number of elements.
pub fn to_bytes(tensors: Vec<(String, Vec<usize>, Data)>, metadata: &BTreeMap<String, String>) -> Result<Vec<u8>> {
    let mut seen = HashMap::new();
    let mut list = Vec::with_capacity(tensors.len());
    for (name, shape, data) in &tensors {
        if name == "__metadata__" || seen.insert(name, ()).is_some() {
            return Err(Error::Input(format!("tensor `{}`: the name is reserved or given twice", clip(name))));
        }
        let count = shape.iter().try_fold(1usize, |n, &s| n.checked_mul(s));
        if count != Some(data.len()) {
            let (name, n) = (clip(name), data.len());
            return Err(Error::Input(format!("tensor `{name}` has {n} elements, which do not fill {shape:?}")));
        }
        list.push(Encoded { name, dtype: data.dtype(), shape, bytes: data.le_bytes() });
    }
    encode(list, metadata)
}

/// The elements of a tensor to be written.
#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    /// 32-bit floats.
    F32(Vec<f32>),
    /// Unsigned bytes, e.g. spikes.
    U8(Vec<u8>),
    /// Signed bytes, e.g. ternary spikes.
    I8(Vec<i8>),
    /// 64-bit integers, e.g. labels.
    I64(Vec<i64>),
    /// 64-bit floats.
    F64(Vec<f64>),
}

impl Data {
    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Data::F32(v) => v.len(),
            Data::U8(v) => v.len(),
            Data::I8(v) => v.len(),
            Data::I64(v) => v.len(),
            Data::F64(v) => v.len(),
        }
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The element type in a file.
    pub fn dtype(&self) -> Dtype {
        match self {
            Data::F32(_) => Dtype::F32,
            Data::U8(_) => Dtype::U8,
            Data::I8(_) => Dtype::I8,
            Data::I64(_) => Dtype::I64,
            Data::F64(_) => Dtype::F64,
        }
    }

    fn le_bytes(&self) -> Vec<u8> {
        match self {
            Data::F32(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Data::U8(v) => v.clone(),
            Data::I8(v) => v.iter().map(|x| x.cast_unsigned()).collect(),
            Data::I64(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Data::F64(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
        }
    }
}

impl TensorFile {
    /// Reads a `.safetensors` file that is already in memory; `what` names it in messages.
    ///
    /// # Errors
    /// [`Error::Format`] if it is cut short, damaged or something else.
    pub fn from_bytes(bytes: Vec<u8>, what: &str) -> Result<TensorFile> {
        let Parsed { metadata, entries } = parse(&bytes, what)?;
        Ok(TensorFile { metadata, entries, bytes, what: what.to_string() })
    }

    /// Every tensor's name, in alphabetical order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// Whether there is a tensor of that name.
    pub fn contains(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    /// Type, shape and place of a tensor.
    ///
    /// # Errors
    /// [`Error::Input`] if there is none of that name.
    pub fn entry(&self, name: &str) -> Result<&Entry> {
        self.entries
            .get(name)
            .ok_or_else(|| Error::Input(format!("{}: there is no tensor `{}` in it", self.what, clip(name))))
    }

    /// A tensor's extents, outermost first.
    ///
    /// # Errors
    /// [`Error::Input`] if there is none of that name.
    pub fn shape(&self, name: &str) -> Result<&[usize]> {
        Ok(&self.entry(name)?.shape)
    }

    /// A tensor's little-endian elements as stored, in row-major order.
    ///
    /// # Errors
    /// [`Error::Input`] if there is none of that name.
    pub fn bytes(&self, name: &str) -> Result<&[u8]> {
        Ok(&self.bytes[self.entry(name)?.range.clone()])
    }

    /// The elements of a tensor stored as f32, f16 or bf16.
    ///
    /// # Errors
    /// [`Error::Input`] if there is none of that name or it has another type.
    pub fn f32(&self, name: &str) -> Result<Vec<f32>> {
        let dtype = self.entry(name)?.dtype;
        floats(dtype, self.bytes(name)?).ok_or_else(|| self.mistyped(name, dtype, "F32, F16 or BF16"))
    }

    /// The elements of a tensor stored as f64.
    ///
    /// # Errors
    /// [`Error::Input`] if there is none of that name or it has another type.
    pub fn f64(&self, name: &str) -> Result<Vec<f64>> {
        self.exact(name, Dtype::F64, f64::from_le_bytes)
    }

    /// The elements of a tensor stored as u8.
    ///
    /// # Errors
    /// [`Error::Input`] if there is none of that name or it has another type.
    pub fn u8(&self, name: &str) -> Result<Vec<u8>> {
        self.exact(name, Dtype::U8, u8::from_le_bytes)
    }

    /// The elements of a tensor stored as i8.
    ///
    /// # Errors
    /// [`Error::Input`] if there is none of that name or it has another type.
    pub fn i8(&self, name: &str) -> Result<Vec<i8>> {
        self.exact(name, Dtype::I8, i8::from_le_bytes)
    }

    /// The elements of a tensor stored as i64.
    ///
    /// # Errors
    /// [`Error::Input`] if there is none of that name or it has another type.
    pub fn i64(&self, name: &str) -> Result<Vec<i64>> {
        self.exact(name, Dtype::I64, i64::from_le_bytes)
    }

    fn exact<T, const N: usize>(&self, name: &str, dtype: Dtype, read: fn([u8; N]) -> T) -> Result<Vec<T>> {
        let found = self.entry(name)?.dtype;
        if found != dtype {
            return Err(self.mistyped(name, found, &dtype.to_string()));
        }
        Ok(self.bytes(name)?.as_chunks::<N>().0.iter().map(|b| read(*b)).collect())
    }

    fn mistyped(&self, name: &str, found: Dtype, wanted: &str) -> Error {
        Error::Input(format!("{}: tensor `{}` is stored as {found}; it must be {wanted}", self.what, clip(name)))
    }
}

/// Little-endian f32, f16 or bf16 elements as f32; `None` for any other type.
pub(crate) fn floats(dtype: Dtype, bytes: &[u8]) -> Option<Vec<f32>> {
    let halves = |read: fn([u8; 2]) -> f32| bytes.as_chunks::<2>().0.iter().map(|b| read(*b)).collect();
    match dtype {
        Dtype::F32 => Some(bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()),
        Dtype::F16 => Some(halves(|b| half::f16::from_le_bytes(b).to_f32())),
        Dtype::BF16 => Some(halves(|b| half::bf16::from_le_bytes(b).to_f32())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, data: usize) -> Vec<u8> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        bytes
    }

    fn message(bytes: &[u8]) -> String {
        let message = TensorFile::from_bytes(bytes.to_vec(), "f.safetensors").unwrap_err().to_string();
        assert!(message.starts_with("f.safetensors: ") && message.lines().count() == 1, "{message}");
        assert!(message.len() < 400, "{message}");
        message
    }

    #[test]
    fn every_type_comes_back() {
        let data = [
            ("a", Data::U8(vec![0, 255])),
            ("b\"\n", Data::F32(vec![-0.0, f32::MIN_POSITIVE])),
            ("c", Data::I8(vec![-1, 1])),
            ("d", Data::I64(vec![i64::MIN, 7])),
            ("e", Data::F64(vec![0.1, f64::NAN])),
            ("none", Data::F32(vec![])),
        ];
        let list = || data.iter().map(|(n, d)| (n.to_string(), vec![1, d.len()], d.clone())).collect();
        let metadata = BTreeMap::from([("k".to_string(), "\"v\"\n".to_string()), ("j".into(), "".into())]);
        let bytes = to_bytes(list(), &metadata).unwrap();
        assert_eq!(bytes, to_bytes(list(), &metadata).unwrap());
        let f = TensorFile::from_bytes(bytes.clone(), "t").unwrap();
        assert_eq!(f.metadata, metadata);
        assert_eq!(f.u8("a").unwrap(), [0, 255]);
        assert_eq!(f.f32("b\"\n").unwrap().iter().map(|x| x.to_bits()).collect::<Vec<_>>(), [1 << 31, 1 << 23]);
        assert_eq!(f.i8("c").unwrap(), [-1, 1]);
        assert_eq!(f.i64("d").unwrap(), [i64::MIN, 7]);
        assert_eq!(f.f64("e").unwrap()[0], 0.1);
        assert_eq!(f.shape("none").unwrap(), [1, 0]);
        assert!(f.f32("none").unwrap().is_empty());
        assert!(f.entry("e").unwrap().range.start.is_multiple_of(8));
        for wrong in [f.f32("a").map(|_| ()), f.u8("c").map(|_| ()), f.f32("z").map(|_| ())] {
            assert!(matches!(wrong, Err(Error::Input(_))));
        }
        // The crate's own reader agrees.
        assert_eq!(safetensors::SafeTensors::deserialize(&bytes).unwrap().len(), data.len());
        let empty = to_bytes(vec![], &BTreeMap::new()).unwrap();
        assert_eq!(TensorFile::from_bytes(empty, "t").unwrap().names().count(), 0);
    }

    #[test]
    fn unusable_lists_are_refused() {
        let one = |shape: &[usize]| ("a".to_string(), shape.to_vec(), Data::U8(vec![1]));
        for list in [
            vec![one(&[2])],
            vec![one(&[usize::MAX, 2])],
            vec![one(&[1]), one(&[1])],
            vec![("__metadata__".to_string(), vec![0], Data::U8(vec![]))],
        ] {
            assert!(matches!(to_bytes(list, &BTreeMap::new()), Err(Error::Input(_))));
        }
    }

    #[test]
    fn damaged_headers_name_the_file() {
        assert!(message(b"").contains("empty"));
        assert!(message(b"1234567").contains("7 bytes"));
        assert!(message(b"some text, not a tensor file").contains("no .safetensors"));
        assert!(message(b"PK\x03\x04aaaaaaaaaaaa").contains("PyTorch"));
        assert!(message(b"version https://git-lfs.github.com/spec/v1").contains("git lfs pull"));
        assert!(message(&[0; 64]).contains("no .safetensors"));
        let good = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
        TensorFile::from_bytes(file(good, 8), "t").unwrap();
        assert!(message(&file(good, 7)).contains("cut short"));
        assert!(message(&file(good, 9)).contains("after its last tensor"));
        for length in [u64::MAX, u64::MAX - 7, 1 << 63, good.len() as u64 + 9, 100_000_001] {
            let mut lying = file(good, 8);
            lying[..8].copy_from_slice(&length.to_le_bytes());
            assert!(message(&lying).contains("cut short"), "{length}");
        }
        for (from, to) in [
            ("F32", "F64"),
            ("F32", "F99"),
            ("[2]", "[3]"),
            ("[2]", "[-2]"),
            ("[2]", "[18446744073709551615,8]"),
            ("[0,8]", "[8,0]"),
            ("[0,8]", "[0,18446744073709551615]"),
            ("[0,8]", "[0]"),
        ] {
            assert!(message(&file(&good.replace(from, to), 8)).contains("`a`"), "{from} {to}");
        }
        message(&file(&good.replace("[0,8]", "[4,12]"), 12));
        message(&file(r#"{"__metadata__":{"config":{}}}"#, 0));
        message(&file(&good.replace("\"a\"", "\"__metadata__\""), 8));
        message(&file(&format!("{{\"{}\":1}}", "x\\n".repeat(1000)), 0));
        message(&file(&"{\"a\":".repeat(10_000), 0));
    }

    #[test]
    fn offsets_that_overflow_together_are_refused() {
        // Each tensor is possible by itself; their sum plus the header wraps round to the file's length.
        let part = usize::MAX / 8;
        let mut header = String::from("{");
        let mut at = 0usize;
        for i in 0..9 {
            let n = part.min(usize::MAX - at);
            header += &format!("\"t{i}\":{{\"dtype\":\"U8\",\"shape\":[{n}],\"data_offsets\":[{at},{}]}},", at + n);
            at += n;
        }
        header.pop();
        header.push('}');
        assert!(message(&file(&header, 0)).contains("cut short"));
    }
}
