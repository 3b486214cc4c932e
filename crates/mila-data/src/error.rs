//! The crate's one error type.

use std::path::PathBuf;

use crate::container::Format;

/// What can go wrong between a path and a batch.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or folder could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// There are no bytes to decode.
    #[error("expected an image, found an empty file")]
    Empty,
    /// The bytes are not of a format that is read here.
    #[error("expected a JPEG, PNG, WebP or BMP image, found bytes that start with {start:02x?}")]
    UnknownFormat {
        /// The first bytes, at most eight.
        start: Vec<u8>,
    },
    /// The bytes are of a known format, but damaged, truncated or of an unsupported kind.
    #[error("broken {format} image: {reason}")]
    Broken {
        /// The format that the first bytes promise.
        format: Format,
        /// What the decoder met.
        reason: String,
    },
    /// A picture, or the result of resizing it, has more pixels than allowed.
    #[error("expected at most {limit} pixels, found {pixels}")]
    TooLarge {
        /// Height times width.
        pixels: u64,
        /// The limit in force.
        limit: u64,
    },
    /// A pixel buffer does not have the length that its sizes ask for.
    #[error("expected {expected} bytes for {height}x{width} RGB, found {found}")]
    Length {
        /// Height in pixels.
        height: usize,
        /// Width in pixels.
        width: usize,
        /// Bytes needed.
        expected: usize,
        /// Bytes given.
        found: usize,
    },
    /// A setting is outside its range.
    #[error("{setting}: expected {expected}, found {found}")]
    Setting {
        /// The name of the setting.
        setting: &'static str,
        /// The range or the choices.
        expected: &'static str,
        /// What was given.
        found: String,
    },
    /// A folder has no class folders.
    #[error("expected class folders with images in {}, found no folder", dir.display())]
    NoClasses {
        /// The folder searched.
        dir: PathBuf,
    },
    /// Some class folders hold no image.
    #[error("expected images in every class folder of {}, found none in: {}", dir.display(), classes.join(", "))]
    EmptyClasses {
        /// The folder of class folders.
        dir: PathBuf,
        /// All class folders without an image, sorted.
        classes: Vec<String>,
    },
    /// The class folders of training and validation differ.
    #[error("expected the class folders of training in {}, found missing: [{}], unexpected: [{}]", dir.display(),
        missing.join(", "), unexpected.join(", "))]
    ClassMismatch {
        /// The validation folder.
        dir: PathBuf,
        /// Classes of training without a folder in validation.
        missing: Vec<String>,
        /// Folders of validation without a class in training.
        unexpected: Vec<String>,
    },
    /// The data folder lacks the split that was asked for.
    #[error("expected a folder {expected} in {}, found none", dir.display())]
    NoSplit {
        /// The data folder.
        dir: PathBuf,
        /// The folder names that would do.
        expected: &'static str,
    },
}

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;
