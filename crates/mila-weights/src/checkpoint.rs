//! Named tensors of a file of any form.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use mila_ops::{Source, Values, Wanted};

use crate::bytes::{self, Bytes};
use crate::fit::is_shape;
use crate::select::{Origin, Skipped, Which};
use crate::tensor::{Tensor, TensorView};
use crate::{Error, Result, directory, safetensors_file, torch_file, torch_legacy};

/// The tensors of a checkpoint, by name. Opening reads headers only; contiguous tensors are borrowed from the mapped file.
///
/// As a [`Source`] it expects each tensor to be taken once: it lets the pages of the one before go, so that a model that is
/// packed from it is in memory once and not twice.
#[derive(Debug)]
pub struct Checkpoint {
    /// The file, then what was inflated from it.
    parts: Vec<Bytes>,
    tensors: Vec<Tensor>,
    index: HashMap<String, usize>,
    skipped: Vec<Skipped>,
    origin: Origin,
    /// The tensor that was loaded last.
    loaded: Mutex<Option<usize>>,
}

impl Checkpoint {
    /// Opens a safetensors file, a PyTorch file of either container, or a model directory, told apart by content.
    ///
    /// A common `module.` is stripped from the names; rotary tables and batch counts are dropped
    /// ([`is_ignored`](crate::is_ignored)).
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read; the other errors say what is wrong with the content.
    pub fn open(path: &Path, which: Which) -> Result<Self> {
        let file = if path.is_dir() { Cow::Owned(path.join(directory::WEIGHTS)) } else { Cow::Borrowed(path) };
        Self::read(bytes::map(&file)?, which)
    }

    /// Reads a checkpoint that is in memory: the raw weights, or the average if it has no others.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self> {
        Self::read(Bytes::Held(bytes), Which::Raw)
    }

    fn read(file: Bytes, which: Which) -> Result<Self> {
        let mut inflated = Vec::new();
        let contents = if torch_file::MAGIC.iter().any(|magic| file.starts_with(magic)) {
            let (contents, parts) = torch_file::read(&file, which)?;
            inflated = parts;
            contents
        } else if torch_legacy::is_likely(&file) && !safetensors_file::is_likely(&file) {
            torch_legacy::read(&file, which)?
        } else if safetensors_file::is_likely(&file) {
            safetensors_file::read(&file, which)?
        } else {
            let expected = "a safetensors file, a PyTorch file or a model directory";
            return Err(Error::NotACheckpoint { expected, found: recognise(&file).into() });
        };
        let mut parts = vec![file];
        parts.extend(inflated.into_iter().map(Bytes::Held));
        let index = contents.tensors.iter().enumerate().map(|(at, tensor)| (tensor.name.clone(), at)).collect();
        let (tensors, skipped, origin) = (contents.tensors, contents.skipped, contents.origin);
        Ok(Self { parts, tensors, index, skipped, origin, loaded: Mutex::default() })
    }

    /// The names, in the file's order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.iter().map(|tensor| tensor.name.as_str())
    }

    /// The tensor of that name.
    pub fn get(&self, name: &str) -> Option<TensorView<'_>> {
        self.index.get(name).map(|&at| self.view(&self.tensors[at]))
    }

    /// All names and tensors, in the file's order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, TensorView<'_>)> {
        self.tensors.iter().map(|tensor| (tensor.name.as_str(), self.view(tensor)))
    }

    /// Name, shape and values of all float tensors, in the file's order: what [`write_tensors`](crate::write_tensors) and
    /// [`ModelDirectory::write`](crate::ModelDirectory::write) take.
    pub fn floats(&self) -> impl Iterator<Item = (String, Vec<usize>, Values<'_>)> {
        self.iter().filter_map(|(name, tensor)| Some((name.to_string(), tensor.shape().to_vec(), tensor.values()?)))
    }

    /// Values under a name that are no readable tensor.
    pub fn skipped(&self) -> &[Skipped] {
        &self.skipped
    }

    /// Which weights of the file these are, and what others it holds.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Notes that a tensor is being loaded, and lets the pages of the one before go.
    fn begin(&self, name: &str) {
        let next = self.index.get(name).copied();
        let before = std::mem::replace(&mut *self.loaded.lock().unwrap_or_else(PoisonError::into_inner), next);
        if let Some(tensor) = before.and_then(|before| self.tensors.get(before)) {
            self.parts[tensor.part].release(tensor.bytes.clone());
        }
    }

    fn view<'a>(&'a self, tensor: &'a Tensor) -> TensorView<'a> {
        TensorView::new(tensor, &self.parts[tensor.part])
    }
}

impl Source for Checkpoint {
    fn load(&self, wanted: &Wanted) -> mila_ops::Result<Values<'_>> {
        let problem = |found: String| {
            let problem = format!("expected a float tensor of {:?} in the checkpoint, found {found}", wanted.shape);
            mila_ops::Error::parameter(&wanted.name, problem)
        };
        self.begin(&wanted.name);
        let Some(tensor) = self.get(&wanted.name) else {
            return Err(problem("none".into()));
        };
        if !is_shape(tensor.shape(), &wanted.shape) {
            return Err(problem(format!("one of {:?}", tensor.shape())));
        }
        tensor.values().ok_or_else(|| problem(format!("{} values", tensor.dtype())))
    }
}

/// What a file is that is no checkpoint.
fn recognise(file: &[u8]) -> &'static str {
    let starts = |magic: &[u8]| file.starts_with(magic);
    match file {
        [] => "an empty file",
        _ if file.get(257..262) == Some(b"ustar") => {
            "a tar archive (PyTorch before 0.1.10 wrote those; load and save it again with a newer PyTorch)"
        }
        _ if starts(b"\x1f\x8b") => "a gzip file (decompress it first)",
        _ if starts(b"\x89HDF") => "an HDF5 file",
        _ if starts(b"\x93NUMPY") => "a NumPy array",
        _ if starts(b"GGUF") => "a GGUF file",
        _ if starts(b"<") => "a web page (a failed download?)",
        _ if starts(b"version https://git-lfs") => "a Git LFS pointer (the file itself was not downloaded)",
        _ if file.len() < 9 => "a few bytes",
        _ => "something else",
    }
}
