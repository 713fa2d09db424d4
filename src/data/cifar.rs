//! The binary versions of CIFAR-10 and CIFAR-100.

use std::io::Read;
use std::path::{Path, PathBuf};

use super::dataset::{MAX_SET_BYTES, Raw, Split, open_maybe_gz, read_error};
use crate::{Error, Result};

/// Bytes of a picture: 32×32, the planes of red, green and blue one after the other.
const PICTURE: usize = 3 * 32 * 32;

/// Which of the two sets a folder holds.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Records of a label and a picture.
    Cifar10,
    /// Records of a coarse label, a fine label (the one used) and a picture.
    Cifar100,
}

/// The set whose files for `split` a folder holds, if any.
pub(super) fn find(dir: &Path, split: Split) -> Option<Kind> {
    let has = |name: &str| dir.join(name).is_file();
    let (ten, hundred) = match split {
        Split::Train => ((1..=5).any(|i| has(&format!("data_batch_{i}.bin"))), has("train.bin")),
        Split::Test => (has("test_batch.bin"), has("test.bin")),
    };
    ten.then_some(Kind::Cifar10).or_else(|| hundred.then_some(Kind::Cifar100))
}

/// Reads a split, and the names of the classes where the folder has them.
pub(super) fn load(dir: &Path, kind: Kind, split: Split) -> Result<(Raw, Option<Vec<String>>)> {
    let files: Vec<PathBuf> = match (kind, split) {
        (Kind::Cifar10, Split::Train) => (1..=5).map(|i| dir.join(format!("data_batch_{i}.bin"))).collect(),
        (Kind::Cifar10, Split::Test) => vec![dir.join("test_batch.bin")],
        (Kind::Cifar100, Split::Train) => vec![dir.join("train.bin")],
        (Kind::Cifar100, Split::Test) => vec![dir.join("test.bin")],
    };
    let (labels_per_record, classes, names) = match kind {
        Kind::Cifar10 => (1, 10, "batches.meta.txt"),
        Kind::Cifar100 => (2, 100, "fine_label_names.txt"),
    };
    let (mut pixels, mut labels) = (Vec::new(), Vec::new());
    for path in &files {
        append(path, labels_per_record, classes, &mut pixels, &mut labels)?;
    }
    // Only ever one file can hold a label out of range, and `append` has named it.
    let raw = Raw { width: 32, height: 32, channels: 3, pixels, labels, labels_in: dir.to_path_buf() };
    Ok((raw, read_names(&dir.join(names), classes)?))
}

fn append(path: &Path, lead: usize, classes: usize, pixels: &mut Vec<u8>, labels: &mut Vec<u8>) -> Result<()> {
    let bad = |why: String| Error::format(path.display(), why);
    let mut bytes = Vec::new();
    let room = MAX_SET_BYTES - pixels.len() as u64;
    open_maybe_gz(path)?.take(room + 1).read_to_end(&mut bytes).map_err(|e| read_error(path.display(), e))?;
    if bytes.len() as u64 > room {
        return Err(bad(format!("goes beyond the {} MiB a data set may take", MAX_SET_BYTES >> 20)));
    }
    let record = lead + PICTURE;
    if bytes.is_empty() || bytes.len() % record != 0 {
        let n = bytes.len();
        return Err(bad(format!("holds {n} bytes, not one or more records of {record}; get the file again")));
    }
    pixels.reserve(bytes.len() / record * PICTURE);
    for (i, record) in bytes.chunks_exact(record).enumerate() {
        let (label, planes) = (record[lead - 1], &record[lead..]);
        if usize::from(label) >= classes {
            return Err(bad(format!(
                "record {i} has label {label}, but there are {classes} classes; get the file again"
            )));
        }
        labels.push(label);
        pixels.extend((0..1024).flat_map(|p| [planes[p], planes[1024 + p], planes[2048 + p]]));
    }
    Ok(())
}

/// One class name a line; `None` if the file is not there.
fn read_names(path: &Path, classes: usize) -> Result<Option<Vec<String>>> {
    if !path.is_file() {
        return Ok(None);
    }
    let mut text = String::new();
    open_maybe_gz(path)?.take(1 << 20).read_to_string(&mut text).map_err(|e| read_error(path.display(), e))?;
    let names: Vec<String> = text.lines().map(str::trim).filter(|l| !l.is_empty()).map(str::to_owned).collect();
    if names.len() != classes {
        let why = format!("holds {} class names, not {classes}; get the file again or remove it", names.len());
        return Err(Error::format(path.display(), why));
    }
    Ok(Some(names))
}
