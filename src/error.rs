//! The crate's one error type: each variant names the thing that is wrong and what would put it right.

use std::path::{Path, PathBuf};

/// `Result` with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong, worded for the person who has to fix it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be opened, read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder concerned.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A file's content is not what its name or header claims.
    #[error("{what}: {why}")]
    Format {
        /// The file, or the part of it.
        what: String,
        /// What is wrong with it, and the remedy.
        why: String,
    },
    /// A configuration value is missing, unknown or out of range.
    #[error("config key `{key}`: {why}")]
    Config {
        /// The key as a checkpoint spells it.
        key: String,
        /// What is wrong with it, and what is allowed.
        why: String,
    },
    /// A checkpoint's tensors do not fit its configuration.
    #[error("{0}")]
    Checkpoint(String),
    /// A caller's argument (an input's shape, a batch size, a name) is unusable.
    #[error("{0}")]
    Input(String),
    /// No adapter, a refused device, a limit too small, an allocation or a validation that failed.
    #[error("{0}")]
    Gpu(String),
    /// The device went away while it was in use; a new context has to be made.
    #[error("the GPU device was lost ({0}); run again, or use the reference executor with `--device cpu`")]
    DeviceLost(String),
}

impl Error {
    /// An [`Error::Io`] at `path`.
    pub fn io(path: impl AsRef<Path>, source: std::io::Error) -> Self {
        Error::Io { path: path.as_ref().to_path_buf(), source }
    }

    /// An [`Error::Format`].
    pub fn format(what: impl std::fmt::Display, why: impl std::fmt::Display) -> Self {
        Error::Format { what: what.to_string(), why: why.to_string() }
    }

    /// An [`Error::Config`].
    pub fn config(key: impl Into<String>, why: impl std::fmt::Display) -> Self {
        Error::Config { key: key.into(), why: why.to_string() }
    }
}

/// Text from a file, made fit for one line of a message: control characters escaped, and cut after 120 characters.
pub(crate) fn clip(text: &str) -> String {
    const LONGEST: usize = 120;
    // `char::escape_debug` would escape quotes too, which only makes names harder to read.
    let mut out = String::new();
    for (i, c) in text.chars().enumerate() {
        if i == LONGEST {
            out.push('…');
            break;
        }
        if c.is_control() { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}
