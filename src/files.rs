//! Reading and writing whole files: memory maps, and writes that cannot leave a damaged file behind.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use memmap2::Mmap;
use tempfile::NamedTempFile;

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

/// Temporary files that are there now. Whoever holds the lock keeps others from appearing.
static UNFINISHED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

fn unfinished() -> MutexGuard<'static, Vec<PathBuf>> {
    UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes a path out of [`UNFINISHED`] when its file is gone.
struct Registered(PathBuf);

impl Drop for Registered {
    fn drop(&mut self) {
        unfinished().retain(|path| *path != self.0);
    }
}

/// A temporary file, of which [`exit_unfinished`] knows: the user's alone, or as any new file less the umask.
fn new_aside(folder: &Path, private: bool) -> io::Result<(Registered, NamedTempFile)> {
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(fs::Permissions::from_mode(if private { 0o600 } else { 0o666 }));
    }
    #[cfg(not(unix))]
    let _ = private;
    let mut unfinished = unfinished();
    let file = builder.prefix(".spikeshade-").tempfile_in(folder)?;
    unfinished.push(file.path().to_path_buf());
    Ok((Registered(file.path().to_path_buf()), file))
}

/// Removes the temporary files of unfinished writes and ends the process, for a signal that asks for its end.
pub fn exit_unfinished(code: i32) -> ! {
    // Held until the end, so that no other file appears.
    let unfinished = unfinished();
    for path in unfinished.iter() {
        let _ = fs::remove_file(path);
    }
    std::process::exit(code)
}

/// Writes `bytes` to `path` so that afterwards there is either the whole new content or what was there before.
///
/// The bytes go to a temporary file in the same folder, which is flushed to the disk and renamed to `path`; on failure
/// it is removed. A symbolic link is followed, also one to a file that is not there yet, permissions of an existing file
/// are kept, and a pipe or device, which must not be replaced, is written to directly.
///
/// A process that is killed meanwhile leaves the temporary file, `.spikeshade-…`, unless it handles the signal and calls
/// [`exit_unfinished`], as the `spikeshade` program does.
///
/// # Errors
/// [`Error::Io`] naming `path`, also where it is a folder or a read-only file.
pub fn write_aside(path: &Path, bytes: &[u8]) -> Result<()> {
    write_all_aside(&[(path, bytes)])
}

/// As [`write_aside`], of files that belong together: none takes its place before all are on the disk.
///
/// # Errors
/// As [`write_aside`], of the first that fails.
pub fn write_all_aside(files: &[(&Path, &[u8])]) -> Result<()> {
    let named = |path: &Path| {
        let path = path.to_path_buf();
        move |e| Error::io(&path, without_aside(e))
    };
    let mut asides = Vec::new();
    for (path, bytes) in files {
        asides.push(Aside::new(path, bytes).map_err(named(path))?);
    }
    for (aside, (path, _)) in asides.into_iter().zip(files) {
        aside.map_or(Ok(()), Aside::put).map_err(named(path))?;
    }
    Ok(())
}

/// Replaces the entry `path` of its folder by a file that only the user can read and write, whatever the umask and whatever
/// was there: of a link, the link, and not what it leads to. It does not wait for the disk: a power cut can leave the file
/// with anything in it, which its reader must find out.
///
/// # Errors
/// [`Error::Io`] naming `path`, also where it is a folder.
pub fn replace_private(path: &Path, bytes: &[u8]) -> Result<()> {
    let replace = || {
        let (_registered, mut aside) = new_aside(folder_of(path), true)?;
        aside.write_all(bytes)?;
        aside.persist(path).map_err(|e| e.error)?;
        Ok(())
    };
    replace().map_err(|e| Error::io(path, without_aside(e)))
}

/// Checks that [`write_aside`] could write to `path` now, and leaves nothing behind.
///
/// # Errors
/// [`Error::Io`] as of [`write_aside`].
pub fn check_writable(path: &Path) -> Result<()> {
    let check = || match destination(path)? {
        Destination::Direct(_) => Ok(()),
        Destination::File { target, .. } => match new_aside(folder_of(&target), false) {
            Ok(_) => Ok(()),
            Err(e) => {
                let folder = folder_of(&target).display();
                let why = format!("no file can be made in {folder}: {}; choose another folder", without_aside(e));
                // Not the kind of a missing or locked file: the remedy is said.
                Err(io::Error::other(why))
            }
        },
    };
    check().map_err(|e| Error::io(path, e))
}

/// The error less the name of a temporary file, of which nobody knows.
fn without_aside(e: io::Error) -> io::Error {
    let text = e.to_string();
    match text.split_once(" at path \"") {
        Some((why, at)) if at.contains(".spikeshade-") => io::Error::new(e.kind(), why.to_owned()),
        _ => e,
    }
}

/// Where a write goes.
enum Destination {
    /// To a pipe or device.
    Direct(PathBuf),
    /// To a file, which may have permissions already.
    File { target: PathBuf, permissions: Option<fs::Permissions> },
}

fn destination(path: &Path) -> io::Result<Destination> {
    // Renaming over a link would replace the link; its target is what the caller means.
    let mut target = path.to_path_buf();
    while let Ok(next) = fs::read_link(&target) {
        // Links in a circle, which the system finds, would be followed for ever.
        if let Err(e) = fs::metadata(&target)
            && e.kind() != io::ErrorKind::NotFound
        {
            return Err(e);
        }
        target = folder_of(&target).join(next);
    }
    let Ok(existing) = fs::metadata(&target) else { return Ok(Destination::File { target, permissions: None }) };
    if existing.is_dir() {
        return Err(io::Error::new(io::ErrorKind::IsADirectory, "is a folder; give the name of a file in it"));
    }
    if !existing.is_file() {
        return Ok(Destination::Direct(target));
    }
    if existing.permissions().readonly() {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "is read-only; choose another name"));
    }
    Ok(Destination::File { target, permissions: Some(existing.permissions()) })
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Bytes beside the file whose place they are to take.
struct Aside {
    // Dropped in this order: the file, then its registration.
    file: NamedTempFile,
    registered: Registered,
    target: PathBuf,
}

impl Aside {
    /// Writes `bytes` aside; `None` where they went to a pipe or device.
    fn new(path: &Path, bytes: &[u8]) -> io::Result<Option<Self>> {
        let (target, permissions) = match destination(path)? {
            Destination::Direct(target) => return fs::write(target, bytes).map(|()| None),
            Destination::File { target, permissions } => (target, permissions),
        };
        let (registered, mut file) = new_aside(folder_of(&target), false)?;
        file.write_all(bytes)?;
        if let Some(permissions) = permissions {
            file.as_file().set_permissions(permissions)?;
        }
        // Before the rename, or a power cut could leave the new name with no content.
        file.as_file().sync_all()?;
        Ok(Some(Aside { file, registered, target }))
    }

    fn put(self) -> io::Result<()> {
        let Aside { file, registered, target } = self;
        file.persist(&target).map_err(|e| e.error)?;
        drop(registered);
        #[cfg(unix)]
        if let Ok(folder) = File::open(folder_of(&target)) {
            // The content is safe by now, and some file systems cannot flush a folder: no reason to report a failure.
            let _ = folder.sync_all();
        }
        Ok(())
    }
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
        replace_private(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(&open_mapped(&path).unwrap()[..], b"two");
        assert_eq!(names(folder.path()), ["a"]);
    }

    #[test]
    fn files_that_belong_together_are_written_together_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let (first, second) = (folder.path().join("a"), folder.path().join("b"));
        write_all_aside(&[(&first, b"1"), (&second, b"2")]).unwrap();
        assert_eq!((fs::read(&first).unwrap(), fs::read(&second).unwrap()), (b"1".to_vec(), b"2".to_vec()));
        fs::remove_file(&second).unwrap();
        fs::create_dir(&second).unwrap();
        let error = write_all_aside(&[(&first, b"new"), (&second, b"new")]).unwrap_err().to_string();
        assert!(error.contains(&second.display().to_string()), "{error}");
        assert_eq!(fs::read(&first).unwrap(), b"1");
        assert_eq!(names(folder.path()), ["a", "b"]);
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
            for e in [write_aside(&path, b"new").unwrap_err(), check_writable(&path).unwrap_err()] {
                let message = e.to_string();
                assert!(message.contains(&path.display().to_string()), "{message}");
                assert!(!message.contains(".spikeshade-"), "{message}");
            }
        }
        assert_eq!(fs::read(&file).unwrap(), b"kept");
        assert_eq!(names(folder.path()), ["file"]);
        assert!(open_mapped(folder.path()).unwrap_err().to_string().contains("no regular file"));
        assert!(matches!(open_mapped(&folder.path().join("none")), Err(Error::Io { .. })));
    }

    #[cfg(unix)]
    #[test]
    fn a_private_file_takes_the_place_of_what_was_there() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let folder = tempfile::tempdir().unwrap();
        let (file, target, link) = ["file", "target", "link"].map(|name| folder.path().join(name)).into();
        let mode = |path: &Path| fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777;
        for path in [&file, &target] {
            fs::write(path, b"old").unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(0o664)).unwrap();
        }
        symlink("target", &link).unwrap();
        for path in [&file, &link] {
            replace_private(path, b"new").unwrap();
            assert!(fs::symlink_metadata(path).unwrap().is_file());
            assert_eq!((fs::read(path).unwrap(), mode(path)), (b"new".to_vec(), 0o600));
        }
        assert_eq!((fs::read(&target).unwrap(), mode(&target)), (b"old".to_vec(), 0o664));
        assert!(replace_private(folder.path(), b"new").is_err());
        assert_eq!(names(folder.path()), ["file", "link", "target"]);
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
        // Links to what is not there yet, by way of another link and out of a folder's own link.
        let (far, ahead) = (folder.path().join("far"), folder.path().join("ahead"));
        fs::create_dir(&far).unwrap();
        symlink("far", folder.path().join("short")).unwrap();
        symlink("short/further", &ahead).unwrap();
        symlink("made", far.join("further")).unwrap();
        check_writable(&ahead).unwrap();
        assert_eq!(names(&far), ["further"]);
        write_aside(&ahead, b"new").unwrap();
        assert!(fs::symlink_metadata(&ahead).unwrap().is_symlink());
        assert_eq!(fs::read(far.join("made")).unwrap(), b"new");
        let circle = folder.path().join("circle");
        symlink("circle", &circle).unwrap();
        for message in [write_aside(&circle, b"new").unwrap_err(), check_writable(&circle).unwrap_err()] {
            assert!(message.to_string().contains("circle"), "{message}");
        }
        assert!(fs::symlink_metadata(&circle).unwrap().is_symlink());
        write_aside(Path::new("/dev/null"), b"gone").unwrap();
        assert!(!fs::metadata("/dev/null").unwrap().is_file());
    }
}
