//! The crate's one error type: each variant names the thing that is wrong and what would put it right.

use std::path::{Path, PathBuf};

/// `Result` with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong, worded for the person who has to fix it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be opened, read or written.
    #[error("{}: {source}", escaped(&path.to_string_lossy()))]
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
    /// What is asked for takes more memory than the machine or the device has.
    #[error("{0}")]
    OutOfMemory(String),
    /// No adapter, a refused device, a limit too small, or a validation that failed.
    #[error("{0}")]
    Gpu(String),
    /// A training run that cannot go on: a loss that is not finite, or a network that does not fire.
    #[error("{0}")]
    Training(String),
    /// The device went away while it was in use; a new context has to be made.
    #[error("the GPU device was lost ({0}); run again, or use the reference executor with `--device cpu`")]
    DeviceLost(String),
}

impl Error {
    /// An [`Error::Io`] at `path`.
    pub fn io(path: impl AsRef<Path>, source: std::io::Error) -> Self {
        Error::Io { path: path.as_ref().to_path_buf(), source }
    }

    /// An [`Error::Format`]; control characters in `what`, mostly a file's name, are escaped.
    pub fn format(what: impl std::fmt::Display, why: impl std::fmt::Display) -> Self {
        Error::Format { what: escaped(&what.to_string()), why: why.to_string() }
    }

    /// An [`Error::Config`].
    pub fn config(key: impl Into<String>, why: impl std::fmt::Display) -> Self {
        Error::Config { key: key.into(), why: why.to_string() }
    }
}

/// Text with its control characters escaped, which could move a terminal's cursor or pass for another message.
pub(crate) fn escaped(text: &str) -> String {
    // `char::escape_debug` would escape quotes too, which only makes names harder to read.
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

/// Text from a file, made fit for one line of a message: control characters escaped, and cut after 120 characters.
pub(crate) fn clip(text: &str) -> String {
    const LONGEST: usize = 120;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => escaped(&text[..end]) + "…",
        None => escaped(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_files_stays_on_its_line() {
        assert_eq!(clip("a\n\u{1b}[2J\"é"), "a\\n\\u{1b}[2J\"é");
        assert_eq!(clip(&"é".repeat(120)), "é".repeat(120));
        assert_eq!(clip(&"é".repeat(121)), "é".repeat(120) + "…");
        let e = Error::io("a\nerror: b", std::io::ErrorKind::NotFound.into());
        assert!(e.to_string().starts_with("a\\nerror: b: "), "{e}");
        assert_eq!(Error::format("a\nb", "why").to_string(), "a\\nb: why");
    }
}
