//! Reading and writing whole files: memory maps, and writes that cannot leave a damaged file behind.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use memmap2::Mmap;

use crate::error::{Error, Result};

/// Maps a regular file into memory, read-only.
///
/// Another program that shortens the file while it is mapped can end this process (SIGBUS on Unix): copy what is needed
/// out of the map and drop it.
///
/// # Errors
/// [`Error::Io`] if it cannot be opened or mapped, [`Error::Format`] if it is a folder, pipe or device.
pub fn open_mapped(path: &Path) -> Result<Mmap> {
    // Asked before opening: opening a pipe would wait for its writer.
    let kind = fs::metadata(path).map_err(|e| Error::io(path, e))?;
    if !kind.is_file() {
        return Err(Error::format(path.display(), "is no regular file; give the path of a file"));
    }
    let file = File::open(path).map_err(|e| Error::io(path, e))?;
    // SAFETY: the map is read-only and private to the caller, who sees plain bytes, for which every value is valid.
    // What remains is the file being changed by another process meanwhile, which no system call can rule out; the
    // writers of this crate never do it, as they replace files by renaming.
    unsafe { Mmap::map(&file) }.map_err(|e| Error::io(path, e))
}

/// Writes `bytes` to `path` so that afterwards there is either the whole new content or what was there before.
///
/// The bytes go to a temporary file in the same folder, which is flushed to the disk and renamed to `path`; on failure
/// it is removed. A symbolic link is followed, permissions of an existing file are kept, and a pipe or device, which
/// must not be replaced, is written to directly.
///
/// # Errors
/// [`Error::Io`] naming `path`, also where it is a folder or a read-only file.
pub fn write_aside(path: &Path, bytes: &[u8]) -> Result<()> {
    write_aside_io(path, bytes).map_err(|e| Error::io(path, e))
}

fn write_aside_io(path: &Path, bytes: &[u8]) -> io::Result<()> {
    // Renaming over a link would replace the link; its target is what the caller means.
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    let existing = fs::metadata(&target).ok();
    if let Some(existing) = &existing {
        if existing.is_dir() {
            return Err(io::Error::new(io::ErrorKind::IsADirectory, "is a folder; give the name of a file in it"));
        }
        if !existing.is_file() {
            return fs::write(&target, bytes);
        }
        if existing.permissions().readonly() {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "is read-only; choose another name"));
        }
    }
    let folder = match target.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    };
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // What any new file gets, less the umask, instead of the temporary file's 0600.
        builder.permissions(fs::Permissions::from_mode(0o666));
    }
    let mut aside = builder.prefix(".spikeshade-").tempfile_in(folder)?;
    aside.write_all(bytes)?;
    if let Some(existing) = existing {
        aside.as_file().set_permissions(existing.permissions())?;
    }
    // Before the rename, or a power cut could leave the new name with no content.
    aside.as_file().sync_all()?;
    aside.persist(&target).map_err(|e| e.error)?;
    #[cfg(unix)]
    if let Ok(folder) = File::open(folder) {
        // The content is safe by now, and some file systems cannot flush a folder: no reason to report a failure.
        let _ = folder.sync_all();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn replaces_and_leaves_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        write_aside(&path, b"one").unwrap();
        write_aside(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(&open_mapped(&path).unwrap()[..], b"two");
        assert_eq!(names(folder.path()), ["a"]);
    }

    #[test]
    fn failures_name_the_path_and_change_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        write_aside(&file, b"kept").unwrap();
        let mut locked = fs::metadata(&file).unwrap().permissions();
        locked.set_readonly(true);
        fs::set_permissions(&file, locked).unwrap();
        for path in [folder.path().to_path_buf(), file.join("below"), folder.path().join("none/x"), file.clone()] {
            let message = write_aside(&path, b"new").unwrap_err().to_string();
            assert!(message.contains(&path.display().to_string()), "{message}");
        }
        assert_eq!(fs::read(&file).unwrap(), b"kept");
        assert_eq!(names(folder.path()), ["file"]);
        assert!(open_mapped(folder.path()).unwrap_err().to_string().contains("no regular file"));
        assert!(matches!(open_mapped(&folder.path().join("none")), Err(Error::Io { .. })));
    }

    #[cfg(unix)]
    #[test]
    fn links_and_permissions_stay() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("file"), folder.path().join("link"));
        fs::write(&file, b"old").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        symlink("file", &link).unwrap();
        write_aside(&link, b"new").unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read(&file).unwrap(), b"new");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o640);
        write_aside(Path::new("/dev/null"), b"gone").unwrap();
        assert!(!fs::metadata("/dev/null").unwrap().is_file());
    }
}
