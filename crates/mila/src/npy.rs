//! Raw tensors in NumPy's `.npy` files.

use std::io::{BufReader, Write};
use std::path::{Path, PathBuf};

use npyz::{NpyFile, WriterBuilder};

/// Why a tensor could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is not what was expected.
    #[error("{path}: expected {expected}, found {found}")]
    Content {
        /// The file.
        path: PathBuf,
        /// What was expected.
        expected: String,
        /// What was found.
        found: String,
    },
}

/// Reads an f32 tensor of four dimensions, row-major.
///
/// # Errors
/// [`Error::Io`] if it cannot be read, [`Error::Content`] if it is no such tensor.
pub fn read4(path: &Path) -> Result<([usize; 4], Vec<f32>), Error> {
    let io = |source| Error::Io { path: path.to_owned(), source };
    let content =
        |expected: &str, found: String| Error::Content { path: path.to_owned(), expected: expected.to_owned(), found };
    let file = std::fs::File::open(path).map_err(io)?;
    let bytes = file.metadata().map_err(io)?.len();
    let npy = NpyFile::new(BufReader::new(file)).map_err(|e| content("a .npy file", e.to_string()))?;
    if npy.order() != npyz::Order::C {
        return Err(content("row-major order", "column-major order".into()));
    }
    let shape = npy.shape().to_vec();
    let Ok(extent) = <[u64; 4]>::try_from(shape.clone()) else {
        return Err(content("four dimensions", format!("{shape:?}")));
    };
    // The declared size against the real one, before anything is reserved for it.
    let volume = extent.iter().try_fold(4u64, |volume, &n| volume.checked_mul(n));
    if volume.is_none_or(|volume| volume > bytes) {
        return Err(content(&format!("{shape:?} f32 values"), format!("a file of {bytes} bytes")));
    }
    let dtype = npy.dtype().descr();
    let reader = npy.data::<f32>().map_err(|_| content("f32 values", format!("dtype {dtype}")))?;
    let values = reader.collect::<std::io::Result<Vec<f32>>>().map_err(|e| content("f32 values", e.to_string()))?;
    Ok((extent.map(|n| n as usize), values))
}

/// Writes an f32 tensor, row-major, whole or not at all.
///
/// # Errors
/// [`Error::Io`].
pub fn write(path: &Path, shape: &[usize], values: &[f32]) -> Result<(), Error> {
    let io = |source| Error::Io { path: path.to_owned(), source };
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(io)?;
    let shape: Vec<u64> = shape.iter().map(|&n| n as u64).collect();
    let mut buffered = std::io::BufWriter::new(file.as_file_mut());
    let mut writer =
        npyz::WriteOptions::new().default_dtype().shape(&shape).writer(&mut buffered).begin_nd().map_err(io)?;
    writer.extend(values.iter().copied()).and_then(|()| writer.finish()).map_err(io)?;
    buffered.flush().map_err(io)?;
    drop(buffered);
    file.persist(path).map_err(|e| io(e.error))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_round_trip_and_lies_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.npy");
        let values: Vec<f32> = (0..24).map(|i| i as f32 * 0.5).collect();
        write(&path, &[2, 3, 2, 2], &values).unwrap();
        assert_eq!(read4(&path).unwrap(), ([2, 3, 2, 2], values.clone()));
        write(&path, &[24], &values).unwrap();
        assert!(read4(&path).unwrap_err().to_string().contains("four dimensions"));
        std::fs::write(&path, b"not npy").unwrap();
        assert!(matches!(read4(&path), Err(Error::Content { .. })));
        let mut lying = Vec::new();
        let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (99999, 99999, 9999, 3), }";
        lying.extend(b"\x93NUMPY\x01\x00");
        lying.extend((header.len() as u16).to_le_bytes());
        lying.extend(header.as_bytes());
        std::fs::write(&path, lying).unwrap();
        assert!(read4(&path).unwrap_err().to_string().contains("a file of"));
    }
}
