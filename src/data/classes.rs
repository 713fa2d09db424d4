//! Pictures sorted into a folder for each class, in a directory or in a tar archive.

use std::collections::BTreeSet;
use std::io::{self, BufRead, BufReader, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::dataset::{Split, open_regular, read_error};
use super::decode::MAX_BYTES;
use crate::error::clip;
use crate::{Error, Result};

/// The most compressed pictures of an archive that are kept in memory, in bytes.
pub const MAX_ARCHIVE_BYTES: u64 = 2 << 30;
/// The most bytes an archive may unpack to.
const MAX_UNPACKED: u64 = 8 << 30;
/// The most memory the xz decoder may take, in KiB; `xz -9` asks for 65 MiB.
const XZ_MEMORY_KIB: u32 = 256 << 10;
/// The longest path or extended header in an archive, in bytes.
const MAX_HEADER: u64 = 1 << 20;
/// The most files and folders looked at in a directory.
const MAX_FILES: usize = 4_000_000;

/// The folder a picture's class folder is in.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Train,
    Test,
    Val,
    /// None of the above: the set is not split.
    Whole,
}

impl Part {
    fn named(folder: &str) -> Option<Part> {
        let is = |name: &str| folder.eq_ignore_ascii_case(name);
        match () {
            _ if is("train") => Some(Part::Train),
            _ if is("test") => Some(Part::Test),
            _ if is("val") || is("validation") => Some(Part::Val),
            _ => None,
        }
    }
}

/// Pictures of one split, located by an `L` each.
pub(super) struct Sorted<L> {
    /// Names of all classes of all splits, in order.
    pub classes: Vec<String>,
    /// Each picture's index in `classes`, and where it is; the first of each class, then the second of each, …
    pub pictures: Vec<(usize, L)>,
}

/// The part and class of a picture at this path below the set's root; `None` for what is no picture of a set.
fn place(path: &str) -> Option<(Part, &str)> {
    let parts: Vec<&str> = path.split(['/', '\\']).filter(|p| !p.is_empty() && *p != ".").collect();
    let &[.., class, file] = &parts[..] else { return None };
    let extension = file.rsplit_once('.')?.1.to_ascii_lowercase();
    // Files that begin with a dot are the litter of file managers.
    if file.starts_with('.') || !matches!(&extension[..], "png" | "jpg" | "jpeg" | "bmp") {
        return None;
    }
    // A folder around the whole set is allowed.
    let part = match parts.len() {
        2 => Part::Whole,
        3 => Part::named(parts[0]).unwrap_or(Part::Whole),
        4 => Part::named(parts[1])?,
        _ => return None,
    };
    Some((part, class))
}

/// Sorts paths into classes while a directory or an archive is gone through.
struct Sorter<L> {
    wanted: Split,
    /// Classes of the split and of the unsplit layout.
    classes: [BTreeSet<String>; 2],
    has_train: bool,
    kept: Vec<(Part, String, String, L)>,
}

impl<L> Sorter<L> {
    fn new(wanted: Split) -> Self {
        Sorter { wanted, classes: Default::default(), has_train: false, kept: Vec::new() }
    }

    /// Notes the path of a file below the set's root; if it is a picture that may be wanted, its part and class.
    fn note(&mut self, path: &str) -> Option<(Part, String)> {
        let (part, class) = place(path)?;
        self.classes[usize::from(part == Part::Whole)].insert(class.to_owned());
        self.has_train |= part == Part::Train;
        self.wants(part).then(|| (part, class.to_owned()))
    }

    fn wants(&self, part: Part) -> bool {
        match part {
            Part::Train => self.wanted == Split::Train,
            Part::Test | Part::Val => self.wanted == Split::Test,
            Part::Whole => true,
        }
    }

    fn finish(self, what: impl std::fmt::Display) -> Result<Sorted<L>> {
        let [split, whole] = self.classes;
        let (classes, part) = if !split.is_empty() {
            // A validation split stands in for a test split only where there is none.
            let part = |p: Part| self.kept.iter().any(|k| k.0 == p).then_some(p);
            let found = match self.wanted {
                Split::Train => part(Part::Train),
                Split::Test => part(Part::Test).or_else(|| part(Part::Val)),
            };
            let Some(found) = found else {
                let (has, lacks) = if self.has_train { ("train", "test") } else { ("test", "train") };
                let why =
                    format!("has pictures for the {has} split, but none in {lacks}/CLASS/; add them or use {has}");
                return Err(Error::format(what, why));
            };
            (split, found)
        } else if !whole.is_empty() {
            (whole, Part::Whole)
        } else {
            return Err(Error::format(
                what,
                "holds no data set: neither MNIST's IDX files, nor CIFAR's .bin files, nor pictures (PNG, JPEG, BMP) \
                 as CLASS/x.png or train/CLASS/x.png and test/CLASS/x.png",
            ));
        };
        let mut classes: Vec<String> = classes.into_iter().collect();
        if let Ok(numbers) = classes.iter().map(|c| c.parse::<u64>()).collect::<Result<Vec<_>, _>>() {
            let mut order: Vec<usize> = (0..classes.len()).collect();
            order.sort_by_key(|&i| numbers[i]);
            classes = order.into_iter().map(|i| std::mem::take(&mut classes[i])).collect();
        }
        let mut kept: Vec<_> = self.kept.into_iter().filter(|k| k.0 == part).collect();
        kept.sort_by(|a, b| (&a.1, &a.2).cmp(&(&b.1, &b.2)));
        let mut rank_in = vec![0usize; classes.len()];
        let mut ranked: Vec<(usize, usize, L)> = Vec::with_capacity(kept.len());
        for (_, class, _, at) in kept {
            // Every kept class was noted.
            let Some(label) = classes.iter().position(|c| *c == class) else { continue };
            ranked.push((rank_in[label], label, at));
            rank_in[label] += 1;
        }
        ranked.sort_by_key(|&(rank, label, _)| (rank, label));
        Ok(Sorted { classes, pictures: ranked.into_iter().map(|(_, label, at)| (label, at)).collect() })
    }
}

/// Finds the pictures of a split below `dir`.
pub(super) fn in_directory(dir: &Path, split: Split) -> Result<Sorted<PathBuf>> {
    let mut sorter = Sorter::new(split);
    let mut seen = 0;
    // Folders still to be listed, each with its path below `dir`.
    let mut open = vec![(dir.to_path_buf(), String::new(), 0)];
    while let Some((folder, below, depth)) = open.pop() {
        let list = std::fs::read_dir(&folder).map_err(|e| Error::io(&folder, e))?;
        for entry in list {
            let entry = entry.map_err(|e| Error::io(&folder, e))?;
            seen += 1;
            if seen > MAX_FILES {
                return Err(Error::format(
                    dir.display(),
                    format!("holds more than {MAX_FILES} files; name the data set itself"),
                ));
            }
            let name = entry.file_name().to_string_lossy().into_owned();
            let inside = format!("{below}/{name}");
            // Links are followed; four levels of folders are the deepest layout, so a circle of them ends.
            let is_dir = match entry.file_type() {
                Ok(t) if t.is_symlink() => entry.path().is_dir(),
                Ok(t) => t.is_dir(),
                Err(e) => return Err(Error::io(entry.path(), e)),
            };
            if is_dir {
                if depth < 3 && !name.starts_with('.') {
                    open.push((entry.path(), inside, depth + 1));
                }
            } else if let Some((part, class)) = sorter.note(&inside) {
                sorter.kept.push((part, class, inside, entry.path()));
            }
        }
    }
    sorter.finish(dir.display())
}

/// The pictures of a split in an archive, still compressed.
pub(super) struct Packed {
    pub bytes: Vec<u8>,
    /// Each picture's name in the archive and place in `bytes`.
    pub pictures: Sorted<(String, Range<usize>)>,
}

/// Reads a .tar, .tar.gz or .tar.xz, told by its content, from beginning to end.
pub(super) fn in_archive(path: &Path, split: Split) -> Result<Packed> {
    let bad = |why: String| Error::format(path.display(), why);
    let unreadable = |e: io::Error| match read_error(path.display(), e) {
        Error::Format { what, why } => Error::Format { what, why: format!("{why} (read as a tar archive)") },
        other => other,
    };
    let mut file = BufReader::with_capacity(1 << 16, open_regular(path)?);
    let head = file.fill_buf().map_err(|e| Error::io(path, e))?;
    let reader: Box<dyn Read> = match head {
        [] => return Err(bad("is empty (0 bytes); get the file again".into())),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => {
            Box::new(lzma_rust2::XzReader::new_mem_limit(file, true, XZ_MEMORY_KIB))
        }
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(file)),
        head if head.get(257..262) == Some(b"ustar") => Box::new(file),
        _ => {
            return Err(bad(
                "is no data set: give a folder, or a .tar, .tar.gz or .tar.xz of pictures in a folder for each class"
                    .into(),
            ));
        }
    };

    let mut sorter = Sorter::new(split);
    let mut bytes = Vec::new();
    let mut archive =
        tar::Archive::new(Counted { inner: BufReader::with_capacity(1 << 16, reader), read: 0, zeros: 0 });
    // A path too long for a header comes in an entry before it.
    let mut long_name: Option<String> = None;
    // Pictures that are links to others.
    let mut links = 0usize;
    // Raw, because the tar crate would read a lying extended header into memory whole.
    for entry in archive.entries().map_err(unreadable)?.raw(true) {
        let mut entry = entry.map_err(unreadable)?;
        let kind = entry.header().entry_type();
        if kind.is_gnu_longname() || kind.is_pax_local_extensions() {
            let mut text = Vec::new();
            entry.by_ref().take(MAX_HEADER).read_to_end(&mut text).map_err(unreadable)?;
            if kind.is_gnu_longname() {
                let end = text.iter().position(|&b| b == 0).unwrap_or(text.len());
                long_name = Some(String::from_utf8_lossy(&text[..end]).into_owned());
            } else if let Some(name) =
                tar::PaxExtensions::new(&text).filter_map(|e| e.ok()).find(|e| e.key_bytes() == b"path")
            {
                long_name = Some(String::from_utf8_lossy(name.value_bytes()).into_owned());
            }
            continue;
        }
        // The long target of a link, which has its own name in an entry of its own before or after this one.
        if kind.is_gnu_longlink() {
            continue;
        }
        let name = long_name.take().unwrap_or_else(|| String::from_utf8_lossy(&entry.path_bytes()).into_owned());
        if kind.is_hard_link() || kind.is_symlink() {
            links += usize::from(place(&name).is_some_and(|(part, _)| sorter.wants(part)));
        }
        if !kind.is_file() {
            continue;
        }
        let Some((part, class)) = sorter.note(&name) else { continue };
        let size = entry.size();
        if size > MAX_BYTES {
            let (name, most) = (clip(&name), MAX_BYTES >> 20);
            return Err(bad(format!(
                "claims {size} bytes for {name}, more than the {most} MiB of a picture; get the archive again, or make it \
                 without this file"
            )));
        }
        if bytes.len() as u64 + size > MAX_ARCHIVE_BYTES {
            let limit = MAX_ARCHIVE_BYTES >> 20;
            return Err(bad(format!("holds more than {limit} MiB of pictures; unpack it and give the folder")));
        }
        let start = bytes.len();
        let got = entry.read_to_end(&mut bytes).map_err(unreadable)?;
        if got as u64 != size {
            return Err(bad("is cut short; get the file again".into()));
        }
        sorter.kept.push((part, class, name.clone(), (name, start..bytes.len())));
    }
    // Reading on to the end lets the decompressor verify its checksums.
    let mut rest = archive.into_inner();
    let ended = rest.zeros >= 512;
    io::copy(&mut rest, &mut io::sink()).map_err(unreadable)?;
    if !ended {
        return Err(bad("is cut short: it lacks a tar archive's end; get the file again".into()));
    }
    if links > 0 {
        let what = Error::format(path.display(), format!("{links} of its pictures are links, which are left out"));
        log::warn!("{what}; pack them as files (`tar --dereference --hard-dereference`) to have them");
    }
    bytes.shrink_to_fit();
    Ok(Packed { bytes, pictures: sorter.finish(path.display())? })
}

/// A reader that knows how many zero bytes it gave last, and stops at [`MAX_UNPACKED`].
struct Counted<R> {
    inner: R,
    read: u64,
    zeros: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.read += n as u64;
        if self.read > MAX_UNPACKED {
            let why = format!("it unpacks to more than {} GiB", MAX_UNPACKED >> 30);
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        let zeros = buf[..n].iter().rev().take_while(|&&b| b == 0).count();
        self.zeros = if zeros == n { self.zeros + n as u64 } else { zeros as u64 };
        Ok(n)
    }
}
