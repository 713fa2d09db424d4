//! Labelled sets of pictures.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::picture::{self, Picture, Preparation};
use super::{cifar, classes, idx};
use crate::error::clip;
use crate::{Error, Result};

/// The most bytes of pixels an IDX or CIFAR split may take in memory.
pub const MAX_SET_BYTES: u64 = 1 << 30;

/// Which part of a data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Split {
    /// What a model is trained on.
    Train,
    /// What it is measured on.
    Test,
}

impl Display for Split {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Split::Train => "train",
            Split::Test => "test",
        })
    }
}

impl std::str::FromStr for Split {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "train" => Ok(Split::Train),
            "test" => Ok(Split::Test),
            _ => Err(Error::Input(format!("there is no split {name:?}; use `train` or `test`"))),
        }
    }
}

/// The pixels and labels of a set of equal pictures, [N, height, width, channels] and [N].
pub(super) struct Raw {
    pub width: usize,
    pub height: usize,
    pub channels: usize,
    pub pixels: Vec<u8>,
    pub labels: Vec<u8>,
    /// The file or folder to name when a label does not fit.
    pub labels_in: PathBuf,
}

/// Where a data set's pictures are.
pub(super) enum Store {
    /// All pixels, in memory.
    Raw { width: usize, height: usize, channels: usize, pixels: Vec<u8> },
    /// A file each.
    Files(Vec<PathBuf>),
    /// Still compressed, in memory, each with its name in the archive.
    Packed { archive: PathBuf, bytes: Vec<u8>, members: Vec<(String, Range<usize>)> },
}

/// One split of a labelled set of pictures, decoded and prepared on demand and in any order.
pub struct Dataset {
    pub(super) preparation: Preparation,
    pub(super) store: Store,
    pub(super) labels: Vec<i64>,
    pub(super) class_names: Option<Vec<String>>,
}

impl Dataset {
    /// Opens a split of the data set at `path`, told by what is in it:
    ///
    /// - a folder with MNIST-like IDX files, plain or gzipped: `train-images-idx3-ubyte`, `train-labels-idx1-ubyte`,
    ///   `t10k-…` (or `test-…`), also written `images.idx3`;
    /// - a folder with CIFAR-10's `data_batch_1.bin` to `_5.bin` and `test_batch.bin`, or CIFAR-100's `train.bin` and
    ///   `test.bin` (fine labels);
    /// - a folder with a folder of pictures for each class, `train/CLASS/*.png` and `test/CLASS/*.png` (`val` stands
    ///   in for a missing `test`), or `CLASS/*.png` alone, which is then both splits;
    /// - a .tar, .tar.gz or .tar.xz of such class folders, read once; the split's compressed pictures stay in memory.
    ///
    /// IDX and CIFAR files may also be in a folder in the folder, or in a `raw` folder in that; class folders may
    /// have one folder around all. Files that are no pictures are ignored there.
    ///
    /// Class folders that bear the model's class names (capitals aside) get the model's labels. If the model has no
    /// class names, there must be a folder for each class, and labels follow the order of their names, of numbers by
    /// value. Pictures then come in turn from each class, so that the first n are a fair sample.
    ///
    /// IDX and CIFAR files have labels of their own. If their classes' names, which IDX files lack, are not the model's, or
    /// an IDX file meets a model of something else than digits, a warning is logged. A folder of CIFAR files that names the
    /// model's classes in another order gets the model's labels.
    ///
    /// Pictures of IDX and CIFAR files are never inverted unless `preparation` says [`Invert::Yes`](super::Invert).
    ///
    /// # Errors
    /// [`Error::Io`] for what cannot be read, [`Error::Format`] for anything unusable: a damaged, empty or lying
    /// file, a missing split or labels file, a label or class folder that is none of the model's classes, or a set
    /// larger than [`MAX_SET_BYTES`] or [`MAX_ARCHIVE_BYTES`](super::MAX_ARCHIVE_BYTES). Class folders' pictures are
    /// only decoded, and found damaged, when asked for.
    pub fn open(path: impl AsRef<Path>, split: Split, preparation: &Preparation) -> Result<Self> {
        let path = path.as_ref();
        let kind = std::fs::metadata(path).map_err(|e| Error::io(path, e))?;
        if !kind.is_dir() {
            let packed = classes::in_archive(path, split)?;
            let (labels, class_names, members) = label_folders(path, packed.pictures, preparation)?;
            let store = Store::Packed { archive: path.to_path_buf(), bytes: packed.bytes, members };
            return Ok(Self::of_folders(preparation, store, labels, class_names));
        }
        let folders = candidates(path)?;
        for folder in &folders {
            if let Some((images, labels)) = idx::find(folder, split) {
                let raw = idx::load(&images, labels.as_deref())?;
                // MNIST and its like; others with as many classes have the same files.
                let others = |names: &&Vec<String>| !names.iter().all(|n| picture::is_digit(n));
                if let Some(ours) = preparation.class_names.as_ref().filter(others) {
                    warn_of_other_classes(&raw.labels_in, None, ours);
                }
                return Self::of_raw(preparation, raw, None);
            }
            if let Some(kind) = cifar::find(folder, split) {
                let (raw, names) = cifar::load(folder, kind, split)?;
                if let (Some(theirs), Some(ours), false) = (&names, &preparation.class_names, preparation.any_classes) {
                    warn_of_other_classes(&raw.labels_in, Some(theirs), ours);
                }
                return Self::of_raw(preparation, raw, names);
            }
        }
        let other = if split == Split::Train { Split::Test } else { Split::Train };
        if let Some(folder) = folders.iter().find(|f| idx::find(f, other).is_some() || cifar::find(f, other).is_some())
        {
            let why =
                format!("holds the {other} split, but not the files of the {split} split; add them or use {other}");
            return Err(Error::format(folder.display(), why));
        }
        let (labels, class_names, files) = label_folders(path, classes::in_directory(path, split)?, preparation)?;
        Ok(Self::of_folders(preparation, Store::Files(files), labels, class_names))
    }

    fn of_folders(preparation: &Preparation, store: Store, labels: Vec<i64>, class_names: Vec<String>) -> Self {
        let mut preparation = preparation.clone();
        // Whether this is a set of digits is then seen from its folders.
        preparation.class_names = Some(class_names.clone());
        if preparation.any_classes {
            preparation.num_classes = class_names.len();
        }
        Dataset { preparation, store, labels, class_names: Some(class_names) }
    }

    fn of_raw(preparation: &Preparation, raw: Raw, names: Option<Vec<String>>) -> Result<Self> {
        let mut preparation = preparation.clone();
        if let (true, Some(names)) = (preparation.any_classes, &names) {
            let same = |ours: &Vec<String>| {
                ours.len() == names.len() && names.iter().all(|name| place_of(name, ours).is_some())
            };
            preparation.class_names = Some(preparation.class_names.filter(same).unwrap_or_else(|| names.clone()));
            preparation.num_classes = names.len();
        }
        let classes = preparation.num_classes;
        // A model with the set's names in another order has its own labels for them.
        let renumber: Option<Vec<i64>> = match (&names, &preparation.class_names) {
            (Some(theirs), Some(ours)) if theirs.len() == ours.len() => {
                theirs.iter().map(|t| place_of(t, ours).map(|i| i as i64)).collect()
            }
            _ => None,
        };
        let mut labels = Vec::with_capacity(raw.labels.len());
        for (i, &label) in raw.labels.iter().enumerate() {
            if usize::from(label) >= classes {
                let remedy = if preparation.any_classes { "give it more" } else { "use the model's own data set" };
                let why = format!("label {i} is {label}, but the model has {classes} classes; {remedy}");
                return Err(Error::format(raw.labels_in.display(), why));
            }
            let own = renumber.as_ref().and_then(|r| r.get(usize::from(label)));
            labels.push(own.copied().unwrap_or(i64::from(label)));
        }
        let class_names = preparation.class_names.clone().or(names);
        let Raw { width, height, channels, pixels, .. } = raw;
        let store = Store::Raw { width, height, channels, pixels };
        Ok(Dataset { preparation: preparation.for_ready_made_set(), store, labels, class_names })
    }

    /// The first `limit` pictures of it, at least 1; of class folders, as many from each class.
    pub fn limited(mut self, limit: usize) -> Self {
        self.labels.truncate(limit.max(1));
        self
    }

    /// How many pictures there are; at least 1.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Never: an empty set is an error of [`Dataset::open`].
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// The name of each label, if the model or the set has any.
    pub fn class_names(&self) -> Option<&[String]> {
        self.class_names.as_deref()
    }

    /// A number that tells this set of labels and class names from others.
    pub fn fingerprint(&self) -> u64 {
        // FNV-1a.
        let mut hash = 0xcbf2_9ce4_8422_2325u64;
        let mut add = |byte: u8| hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        self.labels.iter().flat_map(|label| label.to_le_bytes()).for_each(&mut add);
        for name in self.class_names.iter().flatten() {
            name.bytes().chain([0]).for_each(&mut add);
        }
        hash
    }

    /// All labels, `[N]`.
    pub fn labels(&self) -> &[i64] {
        &self.labels
    }

    /// How many classes the model has; every label is below it.
    pub fn num_classes(&self) -> usize {
        self.preparation.num_classes
    }

    /// Shape of a prepared picture, [C, H, W].
    pub fn shape(&self) -> [usize; 3] {
        self.preparation.shape()
    }

    /// A picture as it is in the set.
    ///
    /// # Errors
    /// [`Error::Input`] if there is no picture `index`; the errors of [`Picture::open`] if it cannot be decoded.
    pub fn picture(&self, index: usize) -> Result<Picture> {
        self.check(index)?;
        match &self.store {
            Store::Raw { width, height, channels, pixels } => {
                let size = width * height * channels;
                Picture::new(*width, *height, *channels, pixels[index * size..][..size].to_vec())
            }
            Store::Files(files) => Picture::open(&files[index]),
            Store::Packed { archive, bytes, members } => {
                let (name, range) = &members[index];
                Picture::decode(&bytes[range.clone()], format_args!("{}: {}", archive.display(), clip(name)))
            }
        }
    }

    /// A prepared picture, [C, H, W], and its label.
    ///
    /// # Errors
    /// As [`Dataset::picture`].
    pub fn get(&self, index: usize) -> Result<(Vec<f32>, i64)> {
        let picture = self.picture(index)?;
        Ok((self.preparation.prepare(&picture), self.labels[index]))
    }

    /// Prepared pictures, `[B, C, H, W]`, and their labels, `[B]`, in the order of `indices`; decoded in parallel.
    ///
    /// # Errors
    /// As [`Dataset::picture`], for the first of `indices` that fails.
    pub fn batch(&self, indices: &[usize]) -> Result<(Vec<f32>, Vec<i64>)> {
        indices.iter().try_for_each(|&i| self.check(i))?;
        let each: usize = self.shape().iter().product();
        let mut out = vec![0.0; each * indices.len()];
        let one = |(place, &index): (&mut [f32], &usize)| -> Result<()> {
            self.preparation.prepare_into(&self.picture(index)?, place);
            Ok(())
        };
        let done: Vec<Result<()>> = out.par_chunks_mut(each).zip(indices).map(one).collect();
        done.into_iter().collect::<Result<()>>()?;
        Ok((out, indices.iter().map(|&i| self.labels[i]).collect()))
    }

    fn check(&self, index: usize) -> Result<()> {
        if index < self.len() {
            return Ok(());
        }
        Err(Error::Input(format!("there is no picture {index}: the data set has {}, counted from 0", self.len())))
    }
}

/// Labels, class names in the order of labels, and locations of the pictures of class folders.
fn label_folders<L>(
    path: &Path,
    sorted: classes::Sorted<L>,
    preparation: &Preparation,
) -> Result<(Vec<i64>, Vec<String>, Vec<L>)> {
    let bad = |why: String| Error::format(path.display(), why);
    let (found, model) = (&sorted.classes, preparation.num_classes);
    let any = preparation.any_classes;
    let known = |names: &&Vec<String>| {
        !any || names.len() == found.len() && found.iter().all(|class| place_of(class, names).is_some())
    };
    let (label_of, names): (Vec<usize>, Vec<String>) = match preparation.class_names.as_ref().filter(known) {
        Some(names) => {
            let place = |class: &String| {
                place_of(class, names).filter(|&i| i < model).ok_or_else(|| {
                    let (class, names) = (clip(class), listed(names));
                    bad(format!("class folder `{class}` is none of the model's classes ({names}); rename it"))
                })
            };
            (found.iter().map(place).collect::<Result<_>>()?, names.clone())
        }
        None if any || found.len() == model => ((0..found.len()).collect(), found.clone()),
        None => {
            let (n, list) = (found.len(), listed(found));
            return Err(bad(format!(
                "has {n} class folders ({list}), but the model has {model} classes; use its own data"
            )));
        }
    };
    let (labels, places) = sorted.pictures.into_iter().map(|(class, at)| (label_of[class] as i64, at)).unzip();
    Ok((labels, names, places))
}

/// The place of a class in `names`, capitals aside unless they tell two apart.
fn place_of(class: &str, names: &[String]) -> Option<usize> {
    let exact = names.iter().position(|n| n == class);
    exact.or_else(|| names.iter().position(|n| n.eq_ignore_ascii_case(class)))
}

/// The first few of `names`, for an error.
fn listed(names: &[String]) -> String {
    let more = if names.len() > 12 { ", …" } else { "" };
    let first: Vec<String> = names.iter().take(12).map(|name| clip(name)).collect();
    first.join(", ") + more
}

/// Warns where a ready-made set's classes are not the model's, as far as their names tell.
fn warn_of_other_classes(labels_in: &Path, theirs: Option<&[String]>, ours: &[String]) {
    let set = |names: &[String]| names.iter().map(|n| n.to_lowercase()).collect::<BTreeSet<_>>();
    let at = Error::format(
        labels_in.display(),
        match theirs {
            Some(theirs) if set(theirs) != set(ours) => {
                format!("has the classes {}, and the model {}", listed(theirs), listed(ours))
            }
            None => format!("has no class names, and the model's are {}", listed(ours)),
            Some(_) => return,
        },
    );
    log::warn!(
        "{at}; labels are taken for the model's in their order, so accuracy means nothing if it has other classes"
    );
}

/// A file to be read from beginning to end; opening or reading a pipe or a terminal would wait for somebody.
pub(super) fn open_regular(path: &Path) -> Result<File> {
    let kind = std::fs::metadata(path).map_err(|e| Error::io(path, e))?;
    if !kind.is_file() {
        return Err(Error::format(path.display(), "is no regular file; save its content in one and name that"));
    }
    File::open(path).map_err(|e| Error::io(path, e))
}

/// The folders that may hold IDX or CIFAR files: `dir`, those in it, and `raw` in those.
fn candidates(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut inner: Vec<PathBuf> = std::fs::read_dir(dir)
        .map_err(|e| Error::io(dir, e))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.is_dir())
        .collect();
    inner.sort();
    let raw: Vec<PathBuf> = inner.iter().map(|path| path.join("raw")).filter(|path| path.is_dir()).collect();
    Ok([vec![dir.to_path_buf()], inner, raw].concat())
}

/// Opens a file, unpacking it if it is gzipped.
pub(super) fn open_maybe_gz(path: &Path) -> Result<Box<dyn Read>> {
    let mut file = BufReader::with_capacity(1 << 16, open_regular(path)?);
    let head = file.fill_buf().map_err(|e| Error::io(path, e))?;
    Ok(if head.starts_with(&[0x1f, 0x8b]) {
        Box::new(flate2::bufread::MultiGzDecoder::new(file))
    } else {
        Box::new(file)
    })
}

/// What a failure to read `what` means: the operating system's trouble, or a file cut short or damaged.
pub(super) fn read_error(what: impl Display, error: io::Error) -> Error {
    use io::ErrorKind::{InvalidData, InvalidInput, Other, OutOfMemory, UnexpectedEof, Unsupported};
    match error.kind() {
        UnexpectedEof => Error::format(what, "is cut short; get the file again"),
        InvalidData | InvalidInput | Other | OutOfMemory | Unsupported => {
            Error::format(what, format!("is damaged ({error}); get the file again"))
        }
        _ => Error::io(what.to_string(), error),
    }
}
