//! The one error type of the algebra and of every executor.

/// `Result` with [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// What can go wrong while a model is built or run. Every message says what was expected and what was found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A map does not fit its operator.
    #[error("{operator}: expected {expected}, found {found}")]
    Shape {
        /// The operator that refused.
        operator: &'static str,
        /// The extent or property that it needs.
        expected: String,
        /// What it was given.
        found: String,
    },
    /// A parameter is missing, of the wrong size, or unusable.
    #[error("parameter `{name}`: {problem}")]
    Parameter {
        /// Full name, as in the released checkpoints.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The executor, or the model, cannot do what was asked.
    #[error("{what} is not supported: {why}")]
    Unsupported {
        /// What was asked for.
        what: String,
        /// Why it cannot be had.
        why: String,
    },
    /// Something below the executor failed.
    #[error("{executor}: {source}")]
    Backend {
        /// The executor.
        executor: &'static str,
        /// Its own error.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A value that is not finite appeared.
    #[error("`{name}` holds {count} values that are not finite, the first in image {image}")]
    NotFinite {
        /// The first layer that made one.
        name: String,
        /// How many values of its output are NaN or infinite.
        count: usize,
        /// Index in the batch of the first of them.
        image: usize,
    },
}

impl Error {
    /// A shape error of `operator`.
    pub fn shape(operator: &'static str, expected: impl ToString, found: impl ToString) -> Self {
        Self::Shape { operator, expected: expected.to_string(), found: found.to_string() }
    }

    /// An error of the parameter `name`.
    pub fn parameter(name: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Parameter { name: name.into(), problem: problem.into() }
    }
}
