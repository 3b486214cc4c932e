//! How much of each thing a checkpoint may ask for.
//!
//! A declared size is never trusted: memory grows with the bytes that are really in the file. These bounds stop what is
//! small in the file and large once read. They are some ten times what the largest published checkpoints need.

use crate::{Error, Result};

/// Bytes of one pickle; tensors are stored outside it.
pub(crate) const PICKLE_BYTES: usize = 64 << 20;

/// Values that one pickle may make; a tensor takes about 25.
pub(crate) const PICKLE_VALUES: usize = 2 << 20;

/// Bytes of a name in a pickle, and of a line of text (names of classes and written-out numbers). A long text that many
/// values share would otherwise be compared and copied for each.
pub(crate) const PICKLE_LINE: usize = 4096;

/// Entries of a zip container.
pub(crate) const ZIP_ENTRIES: usize = 1 << 20;

/// Bytes of a safetensors header.
pub(crate) const HEADER_BYTES: u64 = 32 << 20;

/// Dimensions of a tensor; PyTorch itself stops at 64.
pub(crate) const RANK: usize = 64;

/// Bytes of `config.json` and of `labels.txt`.
pub(crate) const CONFIG_BYTES: u64 = 16 << 20;

/// What the tensors of a file, or its inflated entries, may add up to: 16 times the file, and 64 MiB for tiny files.
///
/// Tensors that share a storage or repeat it by zero strides, and compressed entries, are larger than their bytes.
pub(crate) fn unpacked(file_bytes: usize) -> u64 {
    (file_bytes as u64).saturating_mul(16).saturating_add(64 << 20)
}

/// Refuses `found` above `limit`.
pub(crate) fn at_most(what: &'static str, limit: u64, found: u64) -> Result<()> {
    if found > limit { Err(Error::Hostile { what, limit, found }) } else { Ok(()) }
}
