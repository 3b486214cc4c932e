//! From any form to safetensors.

use std::path::Path;

use crate::safetensors_file::write_tensors;
use crate::{Checkpoint, Error, Result};

/// Writes a checkpoint's float tensors, in their stored types, as the safetensors file `out`. Returns the names that were
/// left out because they are integers.
///
/// # Errors
/// [`Error::Unwritable`] if `out` is named like a PyTorch file, which is never written; [`Error::Io`] with the path.
pub fn write_safetensors(checkpoint: &Checkpoint, out: &Path) -> Result<Vec<String>> {
    let extension = out.extension().unwrap_or_default().to_string_lossy().to_lowercase();
    if ["pth", "pt", "bin", "pkl", "ckpt"].contains(&extension.as_str()) {
        let (what, found) = (out.display().to_string(), format!("a name that ends in .{extension}"));
        return Err(Error::Unwritable { what, expected: "a name that ends in .safetensors".into(), found });
    }
    write_tensors(out, checkpoint.floats())?;
    Ok(checkpoint.iter().filter(|(_, tensor)| !tensor.dtype().is_float()).map(|(name, _)| name.to_string()).collect())
}
