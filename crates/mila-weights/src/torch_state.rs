//! From a pickle's state dict to tensors in their storages, for both of PyTorch's containers.

use std::ops::Range;

use crate::pickle::Pickle;
use crate::select::{Selected, Skipped, Which, select};
use crate::tensor::{Tensor, place};
use crate::torch_tensor::{Found, Storage, describe};
use crate::{Error, Origin, Result, limits};

/// Where a container keeps its storages.
pub(crate) trait Storages {
    /// The part and the bytes of a storage, whose declared size was checked against them.
    fn find(&mut self, storage: &Storage<'_>, bytes: u64) -> Result<(usize, Range<usize>)>;
}

/// The tensors of a file.
pub(crate) struct Contents {
    pub(crate) tensors: Vec<Tensor>,
    pub(crate) skipped: Vec<Skipped>,
    pub(crate) origin: Origin,
}

/// Reads the state dict of `pickle`, the main pickle of a file of `file_bytes`.
pub(crate) fn read(pickle: &Pickle<'_>, which: Which, file_bytes: usize, from: &mut dyn Storages) -> Result<Contents> {
    let Selected { entries, mut skipped, origin } = select(pickle, which)?;
    let mut tensors = Vec::new();
    let mut total = 0_u64;
    for (name, id) in entries {
        let problem = |what| Error::torch(format!("tensor `{}`", name.escape_debug()), what);
        let described = match describe(pickle, id).map_err(problem)? {
            Found::Tensor(described) => described,
            Found::Other(found) => {
                skipped.push(Skipped { name, found });
                continue;
            }
        };
        let storage = described.storage;
        let Some(dtype) = storage.dtype() else {
            skipped.push(Skipped { name, found: format!("a tensor in a {}", crate::pickle::quoted(storage.class)) });
            continue;
        };
        let size = dtype.size();
        let bytes = storage.count.checked_mul(size as u64);
        let bytes = bytes.ok_or_else(|| problem(format!("expected a storage in memory, found {}", storage.count)))?;
        let (part, stored) = from.find(&storage, bytes)?;
        let (range, strides) =
            place(&described.shape, &described.strides, described.offset, stored.len() / size).map_err(problem)?;
        let volume: usize = if range.is_empty() { 0 } else { described.shape.iter().product() };
        total = total.saturating_add((volume as u64).saturating_mul(size as u64));
        limits::at_most("bytes of tensors, shared storages counted each time", limits::unpacked(file_bytes), total)?;
        let bytes = stored.start + range.start * size..stored.start + range.end * size;
        tensors.push(Tensor { name, shape: described.shape, dtype, part, bytes, strides });
    }
    Ok(Contents { tensors, skipped, origin })
}
