//! The one error type of this crate.

use std::io;
use std::path::{Path, PathBuf};

use crate::Mismatch;

/// `Result` with [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// What can go wrong while weights are read, checked or written. Every message says what was expected and what was found;
/// except for I/O, the caller adds the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// Its reason.
        source: io::Error,
    },
    /// The content is no form of checkpoint that can be read.
    #[error("expected {expected}, found {found}")]
    NotACheckpoint {
        /// The forms that would have been read.
        expected: &'static str,
        /// What the content is instead.
        found: String,
    },
    /// The file ends too early.
    #[error("{what}: expected {expected} bytes, found {found} (the file is cut short)")]
    Truncated {
        /// The part that is cut.
        what: String,
        /// Its declared bytes.
        expected: u64,
        /// The bytes that are there.
        found: u64,
    },
    /// The file asks for more than a checkpoint needs.
    #[error("{what}: expected at most {limit}, found {found} (refused as hostile)")]
    Hostile {
        /// What there is too much of, with its unit.
        what: &'static str,
        /// How much is accepted.
        limit: u64,
        /// How much the file asks for.
        found: u64,
    },
    /// A pickle is broken, or does what no checkpoint does.
    #[error("pickle, byte {offset}: {what}")]
    Pickle {
        /// Offset of the opcode in the pickle.
        offset: usize,
        /// What was expected and found there.
        what: String,
    },
    /// A zip container is broken.
    #[error("zip: {what}")]
    Zip {
        /// What was expected and found.
        what: String,
    },
    /// A PyTorch file holds what its format does not allow.
    #[error("{place}: {what}")]
    Torch {
        /// The tensor or the record.
        place: String,
        /// What was expected and found.
        what: String,
    },
    /// A safetensors header is broken.
    #[error("safetensors: {what}")]
    Safetensors {
        /// What was expected and found.
        what: String,
    },
    /// The file is sound but does not hold the tensors that were asked for.
    #[error("expected {expected}, found {found}")]
    MissingTensors {
        /// What was asked for.
        expected: String,
        /// What is there.
        found: String,
    },
    /// The tensors are not those of the model.
    #[error("{0}")]
    Mismatch(Box<Mismatch>),
    /// The configuration of a model directory is unusable.
    #[error("config: `{key}`: expected {expected}, found {found}")]
    Config {
        /// The key, dotted.
        key: String,
        /// What would be accepted.
        expected: String,
        /// What is there.
        found: String,
    },
    /// What was asked to be written cannot be.
    #[error("cannot write {what}: expected {expected}, found {found}")]
    Unwritable {
        /// The file or the tensor.
        what: String,
        /// What can be written.
        expected: String,
        /// What was asked.
        found: String,
    },
}

impl Error {
    /// Whether the content of a file is at fault (exit code 3), not the machine or the caller (exit code 1).
    pub fn is_bad_data(&self) -> bool {
        !matches!(self, Self::Io { .. } | Self::Unwritable { .. })
    }

    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { action, path: path.to_path_buf(), source }
    }

    pub(crate) fn zip(what: impl Into<String>) -> Self {
        Self::Zip { what: what.into() }
    }

    pub(crate) fn torch(place: impl Into<String>, what: impl Into<String>) -> Self {
        Self::Torch { place: place.into(), what: what.into() }
    }
}

impl From<Mismatch> for Error {
    fn from(mismatch: Mismatch) -> Self {
        Self::Mismatch(Box::new(mismatch))
    }
}
