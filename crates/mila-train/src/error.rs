//! What can go wrong while training.

use std::path::PathBuf;

/// `Result` with [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// A training error.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The configuration is unusable.
    #[error("configuration: {0}")]
    Config(String),
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A saved state does not fit this run.
    #[error("{path}: {problem}")]
    State {
        /// The state.
        path: PathBuf,
        /// What does not fit.
        problem: String,
    },
    /// The output folder is not free.
    #[error("{path} holds {holds}")]
    Occupied {
        /// The folder.
        path: PathBuf,
        /// What it holds, and what to do.
        holds: &'static str,
    },
    /// The architecture is not registered.
    #[error(transparent)]
    Unknown(#[from] mila_models::Unknown),
    /// The model or its executor failed.
    #[error(transparent)]
    Model(#[from] mila_ops::Error),
    /// The dataset is unusable.
    #[error(transparent)]
    Data(#[from] mila_data::Error),
    /// Weights could not be read or written.
    #[error(transparent)]
    Weights(#[from] mila_weights::Error),
    /// The loss or a gradient is not finite.
    #[error("step {step} (epoch {epoch}): {source}")]
    Diverged {
        /// Optimiser step, from one: the one that failed, or the last one before the validation that failed.
        step: u64,
        /// Epoch, from one.
        epoch: u64,
        /// What was not finite.
        source: mila_ops::Error,
    },
}

impl Error {
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        |source| Self::Io { path, source }
    }
}
