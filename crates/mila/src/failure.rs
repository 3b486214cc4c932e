//! How a command fails: a message and an exit code, which scripts rely on.

use std::fmt::Display;

/// A failed command.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    message: String,
}

impl Failure {
    /// 1: the run failed; a file could not be read or written, a loss was not finite.
    pub(crate) fn run(message: impl Display) -> Self {
        Self { code: 1, message: message.to_string() }
    }

    /// 2: the command line asks for what cannot be.
    pub(crate) fn usage(message: impl Display) -> Self {
        Self { code: 2, message: message.to_string() }
    }

    /// 3: the data are bad; broken or skipped inputs, weights of another architecture.
    pub(crate) fn data(message: impl Display) -> Self {
        Self { code: 3, message: message.to_string() }
    }

    /// 4: a threshold was not met.
    pub(crate) fn threshold(message: impl Display) -> Self {
        Self { code: 4, message: message.to_string() }
    }

    /// 130: interrupted.
    #[cfg(feature = "train")]
    pub(crate) fn interrupted(message: impl Display) -> Self {
        Self { code: 130, message: message.to_string() }
    }

    pub(crate) fn code(&self) -> u8 {
        self.code
    }

    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// The same failure with what was being done in front.
    pub(crate) fn at(self, place: impl Display) -> Self {
        Self { message: format!("{place}: {}", self.message), ..self }
    }
}

impl From<mila_ops::Error> for Failure {
    fn from(error: mila_ops::Error) -> Self {
        match error {
            mila_ops::Error::NotFinite { .. } | mila_ops::Error::Backend { .. } => Self::run(error),
            mila_ops::Error::Unsupported { .. } => Self::usage(error),
            _ => Self::data(error),
        }
    }
}

impl From<mila_data::Error> for Failure {
    fn from(error: mila_data::Error) -> Self {
        match error {
            mila_data::Error::Io { .. } => Self::run(error),
            mila_data::Error::Setting { .. } => Self::usage(error),
            _ => Self::data(error),
        }
    }
}

impl From<mila_weights::Error> for Failure {
    fn from(error: mila_weights::Error) -> Self {
        if error.is_bad_data() { Self::data(error) } else { Self::run(error) }
    }
}

impl From<mila::npy::Error> for Failure {
    fn from(error: mila::npy::Error) -> Self {
        match error {
            mila::npy::Error::Io { .. } => Self::run(error),
            _ => Self::data(error),
        }
    }
}

impl From<mila::model::Error> for Failure {
    fn from(error: mila::model::Error) -> Self {
        use mila::model::Error;
        match error {
            Error::Unknown(_) | Error::Missing(_) | Error::File(_) => Self::usage(error),
            Error::Weights { path, source } => Self::from(source).at(path.display()),
            Error::Model(source) => source.into(),
            _ => Self::data(error),
        }
    }
}

#[cfg(feature = "train")]
impl From<mila_train::Error> for Failure {
    fn from(error: mila_train::Error) -> Self {
        use mila_train::Error;
        match error {
            Error::Config(_) | Error::Unknown(_) | Error::Occupied { .. } => Self::usage(error),
            Error::State { .. } => Self::data(error),
            Error::Data(source) => source.into(),
            Error::Weights(source) => source.into(),
            Error::Model(source) => source.into(),
            _ => Self::run(error),
        }
    }
}
