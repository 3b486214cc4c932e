//! Checkpoints: safetensors, a `.pth` reader that executes nothing, model directories.
//!
//! [`Checkpoint::open`] takes any of them. Every byte of a file is taken as hostile: reading ends in tensors or in an
//! [`Error`], never in a panic, in memory that the file does not justify, or in code that the file chose.
//!
//! ```
//! use mila_weights::{Allow, Checkpoint, Which, write_tensors};
//! use mila_ops::{Init, Values, Wanted};
//!
//! let folder = tempfile::tempdir()?;
//! let path = folder.path().join("model.safetensors");
//! write_tensors(&path, [("head.bias".into(), vec![2], Values::F32(vec![1.0, 2.0].into()))])?;
//!
//! let checkpoint = Checkpoint::open(&path, Which::Raw)?;
//! let manifest = [Wanted::parameter("head.bias".into(), &[3], Init::Zeros)];
//! let mismatch = checkpoint.check(&manifest, &Allow::NOTHING).unwrap_err();
//! assert!(mismatch.to_string().contains("head.bias: expected [3], found [2]"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#[cfg(target_endian = "big")]
compile_error!("mila-weights borrows little-endian values from files; big-endian machines would have to convert them");

mod bytes;
mod checkpoint;
mod config;
mod convert;
mod directory;
mod dtype;
mod error;
mod fit;
mod limits;
mod pickle;
mod safetensors_file;
mod select;
mod tensor;
mod torch_file;
mod torch_legacy;
mod torch_state;
mod torch_tensor;
mod whole_file;
mod zip_directory;

pub use checkpoint::Checkpoint;
pub use config::{Config, PretrainedConfig};
pub use convert::write_safetensors;
pub use directory::ModelDirectory;
pub use dtype::Dtype;
pub use error::{Error, Result};
pub use fit::{Allow, Allowed, Mismatch};
pub use safetensors_file::write_tensors;
pub use select::{Origin, Skipped, Which, is_ignored};
pub use tensor::TensorView;
pub use whole_file::write_whole;
