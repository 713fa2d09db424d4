//! MNIST-style IDX files, plain or gzipped.

use std::io::Read;
use std::path::{Path, PathBuf};

use super::dataset::{MAX_SET_BYTES, Raw, Split, open_maybe_gz, read_error};
use crate::{Error, Result};

/// The images file of a split in a folder, and the labels file if it is there too.
pub(super) fn find(dir: &Path, split: Split) -> Option<(PathBuf, Option<PathBuf>)> {
    let prefixes: &[&str] = match split {
        Split::Train => &["train"],
        Split::Test => &["t10k", "test"],
    };
    let file = |prefix: &str, kind: &str| {
        ["-", "."]
            .iter()
            .flat_map(|dot| ["", ".gz"].map(|gz| format!("{prefix}-{kind}-ubyte{gz}").replace("|", dot)))
            .map(|name| dir.join(name))
            .find(|path| path.is_file())
    };
    prefixes.iter().find_map(|p| Some((file(p, "images|idx3")?, file(p, "labels|idx1"))))
}

/// Reads a split's images and labels.
pub(super) fn load(images: &Path, labels: Option<&Path>) -> Result<Raw> {
    let Some(labels) = labels else {
        let why = "has no labels file beside it; add the one of the same name with `labels` and `idx1`";
        return Err(Error::format(images.display(), why));
    };
    let ([count, height, width], pixels) = read::<3>(images)?;
    let ([label_count], label_bytes) = read::<1>(labels)?;
    if count != label_count {
        let why = format!("holds {label_count} labels, but {} holds {count} images; get both again", images.display());
        return Err(Error::format(labels.display(), why));
    }
    Ok(Raw { width, height, channels: 1, pixels, labels: label_bytes, labels_in: labels.to_path_buf() })
}

/// The `N` dimensions of an IDX file of bytes, and its data.
fn read<const N: usize>(path: &Path) -> Result<([usize; N], Vec<u8>)> {
    let bad = |why: String| Error::format(path.display(), why);
    let fail = |e| read_error(path.display(), e);
    let mut file = open_maybe_gz(path)?;
    let mut word = || -> Result<[u8; 4]> {
        let mut b = [0; 4];
        file.read_exact(&mut b).map_err(fail)?;
        Ok(b)
    };
    let magic = word()?;
    if magic != [0, 0, 8, N as u8] {
        return Err(bad(format!(
            "begins with {:08x}, but an IDX file of bytes in {N} dimensions begins with {:08x}; get the file again",
            u32::from_be_bytes(magic),
            0x0800 + N
        )));
    }
    let mut dims = [0; N];
    for d in &mut dims {
        *d = u32::from_be_bytes(word()?) as usize;
    }
    if dims.contains(&0) {
        return Err(bad(format!("is empty: its header says {dims:?}; get the file again")));
    }
    let total = dims.iter().try_fold(1u64, |n, &d| n.checked_mul(d as u64)).filter(|&n| n <= MAX_SET_BYTES);
    let Some(total) = total else {
        let limit = MAX_SET_BYTES >> 20;
        return Err(bad(format!(
            "claims {dims:?} bytes, more than the {limit} MiB a data set may take; it is damaged"
        )));
    };
    // Grows with what is really there: the header's word is not taken for it.
    let mut data = Vec::new();
    file.take(total + 1).read_to_end(&mut data).map_err(fail)?;
    if data.len() as u64 != total {
        let found = if data.len() as u64 > total { "more".into() } else { data.len().to_string() };
        return Err(bad(format!(
            "should hold {total} bytes of data after its header, but holds {found}; get it again"
        )));
    }
    Ok((dims, data))
}
