//! What is kept in files from one process to the next: pipelines that a driver compiled, and which variants are faster
//! ([`super::measure`]).
//!
//! A file begins with a header: what it holds, its length and a hash. `<cache folder>/spikeshade/<key of the adapter>.pipelines`
//! holds what [`wgpu::PipelineCache::get_data`] gave, `<hash of the adapter>.variants` a measurement. Drivers trust what they are
//! given, so that only what this user wrote, and whole, reaches them: files are the user's alone, whatever the umask, and there are
//! none in a folder that others can write to. Nothing here is ever an error: without a file, or where it cannot be written,
//! pipelines are compiled and variants measured anew. So files are not flushed to the disk, for which first results would wait:
//! what a power cut leaves in pieces has another hash.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};

use etcetera::BaseStrategy;

/// The environment variable that names a folder in place of the user's own; empty, nothing is kept.
pub const FOLDER: &str = "SPIKESHADE_CACHE_DIR";
/// A file that would be larger is given up: data of pipelines that no longer exist cannot be told from others.
const MOST_BYTES: u64 = 64 << 20;
/// What a file begins with: what it holds, and in which version of its form.
pub(super) type Magic = [u8; 16];
/// Begins a file of pipelines.
const MAGIC: Magic = *b"spikeshade pso 1";
const HEADER: usize = size_of::<Magic>() + 16;

/// The pipeline cache of a device and its file.
pub(super) struct PipelineCache {
    raw: wgpu::PipelineCache,
    file: PathBuf,
    /// [`hash`] of what the file holds; 0 if that is nothing.
    saved: AtomicU64,
}

/// Where files are kept: [`FOLDER`], or the user's cache folder.
pub(super) fn folder() -> Option<PathBuf> {
    match std::env::var_os(FOLDER) {
        Some(folder) => (!folder.is_empty()).then(|| folder.into()),
        None => Some(etcetera::choose_base_strategy().ok()?.cache_dir().join("spikeshade")),
    }
}

impl PipelineCache {
    /// The cache of a device made from an adapter, with what is in `folder`; `None` where the device has none.
    pub fn open(device: &wgpu::Device, adapter: &wgpu::AdapterInfo, folder: &Path) -> Option<Self> {
        if !device.features().contains(wgpu::Features::PIPELINE_CACHE) {
            return None;
        }
        // Two drivers of one adapter would discard each other's.
        let driver = hash(format!("{} {}", adapter.driver, adapter.driver_info).as_bytes());
        let file = folder.join(format!("{}-{driver:016x}.pipelines", wgpu::util::pipeline_cache_key(adapter)?));
        let data = read(&file, &MAGIC);
        let (raw, kept) = match data.as_deref().and_then(|data| create(device, Some(data))) {
            Some(raw) => (raw, data),
            // Of another device, say, by a file that was copied.
            None => (create(device, None)?, None),
        };
        Some(PipelineCache { raw, file, saved: AtomicU64::new(kept.map_or(0, |data| hash(&data))) })
    }

    /// What pipelines are compiled with.
    pub fn raw(&self) -> &wgpu::PipelineCache {
        &self.raw
    }

    /// Writes the file if there is anything new.
    pub fn save(&self) {
        let Some(data) = self.raw.get_data() else { return };
        let hash = hash(&data);
        if self.saved.swap(hash, Ordering::Relaxed) != hash {
            match write(&self.file, &MAGIC, &data) {
                Ok(true) => log::debug!("{}: {} bytes of compiled pipelines", self.file.display(), data.len()),
                Ok(false) => (),
                Err(e) => log::info!("compiled pipelines are not kept: {e}"),
            }
        }
    }
}

/// `None` if wgpu refuses the data.
fn create(device: &wgpu::Device, data: Option<&[u8]>) -> Option<wgpu::PipelineCache> {
    let scope = device.push_error_scope(wgpu::ErrorFilter::Validation);
    let descriptor = wgpu::PipelineCacheDescriptor { label: Some("pipelines"), data, fallback: true };
    // SAFETY: the data came out of `get_data`: `write` writes nothing else, `read` checks that all of it is there and
    // unchanged, and that only this user can write file and folder. wgpu checks that it is of this adapter and driver.
    let cache = unsafe { device.create_pipeline_cache(&descriptor) };
    pollster::block_on(scope.pop()).is_none().then_some(cache)
}

/// Never 0. Hashes of another version of Rust may differ, which costs one compilation.
pub(super) fn hash(data: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    data.hash(&mut hasher);
    hasher.finish().max(1)
}

/// What [`write`] wrote; `None` if it is not there, or not whole.
pub(super) fn read(file: &Path, magic: &Magic) -> Option<Vec<u8>> {
    let about = std::fs::symlink_metadata(file).ok()?;
    if !about.is_file() || about.len() > MOST_BYTES || !is_own(&about) || !is_own(&file.parent()?.metadata().ok()?) {
        return None;
    }
    let bytes = std::fs::read(file).ok()?;
    let (header, data) = bytes.split_at_checked(HEADER)?;
    (header == self::header(magic, data)).then(|| data.to_vec())
}

/// Whether nobody else can have written it: what is read goes to the driver.
#[cfg(unix)]
fn is_own(about: &std::fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    about.uid() == rustix::process::geteuid().as_raw() && about.mode() & 0o022 == 0
}

/// Whether nobody else can have written it: elsewhere the user's cache folder is the user's own.
#[cfg(not(unix))]
fn is_own(_: &std::fs::Metadata) -> bool {
    true
}

fn header(magic: &Magic, data: &[u8]) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..16].copy_from_slice(magic);
    header[16..24].copy_from_slice(&(data.len() as u64).to_le_bytes());
    header[24..].copy_from_slice(&hash(data).to_le_bytes());
    header
}

/// Whether the folder of `file`, made if there is none, is the user's alone, so that something is kept there.
fn is_kept(file: &Path) -> crate::Result<bool> {
    static UNTRUSTED: Once = Once::new();
    let io = |e| crate::Error::io(file, e);
    if let Some(folder) = file.parent() {
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true);
        // Who can write to it can make the driver run what they like.
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(folder).map_err(io)?;
        if !is_own(&folder.metadata().map_err(io)?) {
            UNTRUSTED.call_once(|| {
                let folder = folder.display();
                log::info!(
                    "{folder}: others can write to it, so that nothing is kept there; {FOLDER} names another folder"
                );
            });
            return Ok(false);
        }
    }
    Ok(true)
}

/// What came of an attempt to be alone with a file.
pub(super) enum Alone {
    /// Others wait until this is dropped, or its process ends.
    Yes(#[allow(dead_code, reason = "it is held")] std::fs::File),
    /// Another one is.
    No,
    /// Nothing is kept there, or the file system knows no locks.
    Unknown,
}

/// Tries to be alone with `file`.
pub(super) fn alone(file: &Path) -> Alone {
    if !is_kept(file).unwrap_or(false) {
        return Alone::Unknown;
    }
    // Not the file itself, which is replaced. To be read, too: Windows locks no file that is only appended to.
    let mut options = std::fs::OpenOptions::new();
    options.create(true).read(true).append(true);
    // Who can read it can lock it.
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let Ok(lock) = options.open(file.with_extension("lock")) else { return Alone::Unknown };
    match lock.try_lock() {
        Ok(()) => Alone::Yes(lock),
        Err(std::fs::TryLockError::WouldBlock) => Alone::No,
        Err(std::fs::TryLockError::Error(_)) => Alone::Unknown,
    }
}

/// Replaces the file as a whole; data too large for it removes it, to begin anew. False where nothing is kept, as others can
/// write to the folder.
pub(super) fn write(file: &Path, magic: &Magic, data: &[u8]) -> crate::Result<bool> {
    let io = |e| crate::Error::io(file, e);
    if !is_kept(file)? {
        return Ok(false);
    }
    match std::fs::symlink_metadata(file) {
        Ok(about) if !about.is_file() && !about.is_symlink() => {
            return Err(io(std::io::Error::other("it is no regular file")));
        }
        Ok(_) if (HEADER + data.len()) as u64 > MOST_BYTES => std::fs::remove_file(file).map_err(io)?,
        _ if (HEADER + data.len()) as u64 > MOST_BYTES => (),
        _ => crate::files::replace_private(file, &[&header(magic, data), data].concat())?,
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::Adapters;

    #[test]
    fn a_file_is_read_back_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("made/for/it.pipelines");
        let data: Vec<u8> = (0..1000u32).map(|i| (i * 7) as u8).collect();
        assert_eq!(read(&file, &MAGIC), None);
        write(&file, &MAGIC, &data).unwrap();
        assert_eq!(read(&file, &MAGIC).as_ref(), Some(&data));
        let whole = std::fs::read(&file).unwrap();
        let mut broken = vec![Vec::new(), [&whole[..], b"x"].concat()];
        broken.extend([1, HEADER - 1, HEADER, whole.len() - 1].map(|n| whole[..n].to_vec()));
        broken.extend([0, 16, 24, HEADER, whole.len() - 1].map(|i| {
            let mut bytes = whole.clone();
            bytes[i] ^= 0x10;
            bytes
        }));
        for bytes in broken {
            std::fs::write(&file, &bytes).unwrap();
            assert_eq!(read(&file, &MAGIC), None, "{} bytes", bytes.len());
        }
        assert_eq!(read(folder.path(), &MAGIC), None, "a folder");
        std::fs::write(&file, &whole).unwrap();
        assert_eq!((read(&file, &MAGIC), read(&file, b"of something els")), (Some(data), None));
        // Too large: gone, and no error if it is gone already.
        std::fs::write(&file, &whole).unwrap();
        for _ in 0..2 {
            write(&file, &MAGIC, &vec![0; MOST_BYTES as usize]).unwrap();
            assert!(!file.exists());
        }
    }

    #[cfg(unix)]
    #[test]
    fn only_what_nobody_else_can_write_is_kept() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let folder = tempfile::tempdir().unwrap();
        let chmod = |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        let file = folder.path().join("a.pipelines");
        write(&file, &MAGIC, b"one").unwrap();
        chmod(&file, 0o664);
        assert_eq!(read(&file, &MAGIC), None);
        // What is refused is replaced.
        assert!(write(&file, &MAGIC, b"two").unwrap());
        assert_eq!(read(&file, &MAGIC).unwrap(), b"two");
        // A link is neither read nor followed.
        let (target, link) = (folder.path().join("target"), folder.path().join("b.pipelines"));
        std::fs::copy(&file, &target).unwrap();
        symlink(&target, &link).unwrap();
        assert_eq!(read(&link, &MAGIC), None);
        assert!(write(&link, &MAGIC, b"three").unwrap());
        assert_eq!((read(&link, &MAGIC).unwrap(), read(&target, &MAGIC).unwrap()), (b"three".into(), b"two".into()));
        // A folder of others' files.
        chmod(folder.path(), 0o775);
        assert!(!write(&file, &MAGIC, b"four").unwrap());
        assert_eq!(read(&file, &MAGIC), None);
        chmod(folder.path(), 0o700);
        assert_eq!(read(&file, &MAGIC).unwrap(), b"two");
    }

    #[test]
    fn nothing_in_the_file_or_the_folder_is_an_error() {
        let adapters = pollster::block_on(Adapters::enumerate());
        for adapter in &adapters.all {
            let info = adapter.get_info();
            let required_features = adapter.features() & wgpu::Features::PIPELINE_CACHE;
            let descriptor = wgpu::DeviceDescriptor {
                required_features,
                required_limits: wgpu::Limits::default().or_worse_values_from(&adapter.limits()),
                ..Default::default()
            };
            let (device, _queue) = pollster::block_on(adapter.request_device(&descriptor)).unwrap();
            let folder = tempfile::tempdir().unwrap();
            let Some(cache) = PipelineCache::open(&device, &info, folder.path()) else {
                assert!(required_features.is_empty(), "{}", info.name);
                continue;
            };
            cache.save();
            let data = read(&cache.file, &MAGIC).unwrap();
            assert!(PipelineCache::open(&device, &info, folder.path()).unwrap().saved.into_inner() == hash(&data));
            // Whole as a file, but nothing that this device wrote: cut short, of another device, and noise.
            let mut of_another = data.clone();
            // In the adapter's key, of wgpu's header.
            of_another[20] ^= 0xff;
            for bad in [&[][..], &data[..data.len() / 2], &of_another, &[7; 4096]] {
                write(&cache.file, &MAGIC, bad).unwrap();
                let opened = PipelineCache::open(&device, &info, folder.path()).unwrap();
                opened.save();
                assert_eq!(read(&cache.file, &MAGIC).as_ref(), Some(&data), "{}", info.name);
            }
            // A folder that cannot be made, as a file is in its place.
            let file = folder.path().join("file");
            std::fs::write(&file, "").unwrap();
            PipelineCache::open(&device, &info, &file).unwrap().save();
            PipelineCache::open(&device, &info, &file.join("in it")).unwrap().save();
            assert_eq!(std::fs::read(&file).unwrap(), b"");
        }
    }
}
