//! Raw f32 tensors in NumPy's `.npy` files (format versions 1 to 3).
//!
//! An own reader: the format is a dictionary of three entries before the values, and the crates for it bring a parser
//! of Python literals that builds C.

use std::io::Write;
use std::path::{Path, PathBuf};

const MAGIC: &[u8] = b"\x93NUMPY";
/// Longer headers are refused: one of four dimensions takes about a hundred bytes.
const LONGEST_HEADER: usize = 4096;

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

/// Reads an f32 tensor, little-endian and row-major: its shape and its values.
///
/// # Errors
/// [`Error::Io`] if it cannot be read, [`Error::Content`] if it is no such tensor.
pub fn read(path: &Path) -> Result<(Vec<usize>, Vec<f32>), Error> {
    let bytes = std::fs::read(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
    let parsed = parse(&bytes);
    parsed.map_err(|(expected, found)| Error::Content { path: path.to_owned(), expected, found })
}

/// Reads an f32 tensor of four dimensions.
///
/// # Errors
/// Those of [`read`], and [`Error::Content`] for another number of dimensions.
pub fn read4(path: &Path) -> Result<([usize; 4], Vec<f32>), Error> {
    let (shape, values) = read(path)?;
    let found = format!("shape {shape:?}");
    let extent = shape.try_into().map_err(|_| Error::Content {
        path: path.to_owned(),
        expected: "four dimensions".into(),
        found,
    })?;
    Ok((extent, values))
}

/// What was expected and what was found.
type Unfit = (String, String);

fn parse(bytes: &[u8]) -> Result<(Vec<usize>, Vec<f32>), Unfit> {
    let unfit = |expected: &str, found: &str| (expected.to_owned(), found.to_owned());
    let cut = || unfit("a .npy header", "the end of the file");
    let rest = bytes.strip_prefix(MAGIC).ok_or_else(|| unfit("a .npy file", "another kind of file"))?;
    let (version, rest) = rest.split_first_chunk::<2>().ok_or_else(cut)?;
    let (length, rest) = match version[0] {
        1 => rest.split_first_chunk().map(|(n, rest)| (usize::from(u16::from_le_bytes(*n)), rest)).ok_or_else(cut)?,
        2 | 3 => rest.split_first_chunk().map(|(n, rest)| (u32::from_le_bytes(*n) as usize, rest)).ok_or_else(cut)?,
        other => return Err(unfit("format version 1, 2 or 3", &other.to_string())),
    };
    if length > LONGEST_HEADER {
        return Err(unfit("a .npy header of at most 4096 bytes", &length.to_string()));
    }
    let (header, data) = rest.split_at_checked(length).ok_or_else(cut)?;
    let header = std::str::from_utf8(header).map_err(|_| unfit("a .npy header", "bytes that are no text"))?;
    let descr = entry(header, "descr").unwrap_or("nothing");
    if descr.trim_matches(['\'', '"']) != "<f4" {
        return Err(unfit("f32 values ('<f4')", descr));
    }
    match entry(header, "fortran_order") {
        Some("False") => {}
        other => return Err(unfit("row-major order", &format!("fortran_order {}", other.unwrap_or("absent")))),
    }
    let shape = shape(header).ok_or_else(|| unfit("a shape", header.trim()))?;
    let volume = shape.iter().try_fold(4usize, |volume, &n| volume.checked_mul(n));
    if volume != Some(data.len()) {
        return Err((format!("f32 values for {shape:?}"), format!("{} bytes", data.len())));
    }
    let values = data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    Ok((shape, values.collect()))
}

/// The text of a scalar entry of the header's dictionary.
fn entry<'a>(header: &'a str, key: &str) -> Option<&'a str> {
    let (_, after) = header.split_once(&format!("'{key}'"))?;
    let value = after.trim_start().strip_prefix(':')?;
    Some(value[..value.find([',', '}'])?].trim())
}

/// The numbers of the entry `shape`.
fn shape(header: &str) -> Option<Vec<usize>> {
    let (_, after) = header.split_once("'shape'")?;
    let tuple = after.trim_start().strip_prefix(':')?.trim_start().strip_prefix('(')?;
    let numbers = tuple[..tuple.find(')')?].split(',').map(str::trim).filter(|number| !number.is_empty());
    numbers.map(|number| number.parse().ok()).collect()
}

/// Pictures with their channels last: `[batch, 3, tokens]` as `[batch, tokens, 3]`.
///
/// # Panics
/// If `planes` is shorter.
pub fn interleaved(planes: &[f32], batch: usize, tokens: usize) -> Vec<f32> {
    let at = |b: usize, n: usize, c: usize| planes[(b * 3 + c) * tokens + n];
    (0..batch).flat_map(|b| (0..tokens).flat_map(move |n| (0..3).map(move |c| at(b, n, c)))).collect()
}

/// Writes an f32 tensor, row-major, whole or not at all.
///
/// # Errors
/// [`Error::Io`].
pub fn write(path: &Path, shape: &[usize], values: &[f32]) -> Result<(), Error> {
    let io = |source| Error::Io { path: path.to_owned(), source };
    let numbers: String = shape.iter().map(|n| format!("{n}, ")).collect();
    let tuple = if shape.len() == 1 { numbers.trim_end() } else { numbers.trim_end_matches(", ") };
    let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({tuple}), }}");
    // The values begin at a multiple of 64 bytes, and the header ends with a line break.
    let fixed = MAGIC.len() + 4;
    header += &" ".repeat((fixed + header.len() + 1).next_multiple_of(64) - (fixed + header.len() + 1));
    header.push('\n');
    let length = u16::try_from(header.len()).map_err(|_| io(std::io::Error::other("too many dimensions")))?;
    let header = [MAGIC, &[1, 0], &length.to_le_bytes(), header.as_bytes()].concat();
    let written = mila_weights::write_whole(path, |file| {
        file.write_all(&header)?;
        values.iter().try_for_each(|v| file.write_all(&v.to_le_bytes()))
    });
    written.map_err(|error| match error {
        mila_weights::Error::Io { source, .. } => io(source),
        other => io(std::io::Error::other(other)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_round_trip() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.npy");
        for shape in [vec![2, 3, 2, 2], vec![24], vec![0, 3, 1, 1], vec![]] {
            let values: Vec<f32> = (0..shape.iter().product()).map(|i: usize| i as f32 * 0.5).collect();
            write(&path, &shape, &values).unwrap();
            assert_eq!(read(&path).unwrap(), (shape.clone(), values));
            assert_eq!(read4(&path).is_ok(), shape.len() == 4, "{shape:?}");
        }
    }

    #[test]
    fn lies_are_named() {
        let file = |header: &str, data: &[u8]| {
            [MAGIC, &[1, 0], &(header.len() as u16).to_le_bytes(), header.as_bytes(), data].concat()
        };
        let good = "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }";
        assert_eq!(parse(&file(good, &[0; 8])), Ok((vec![2], vec![0.0, 0.0])));
        for (bytes, expected) in [
            (b"not npy".to_vec(), ".npy file"),
            (MAGIC.to_vec(), "header"),
            (file(good, &[0; 7]), "f32 values for [2]"),
            (file(&good.replace("<f4", "<f8"), &[0; 16]), "<f4"),
            (file(&good.replace("False", "True"), &[0; 8]), "row-major"),
            (file(&good.replace("(2,)", "(9999999999, 9999999999)"), &[0; 8]), "f32 values for"),
            (file(&good.replace("(2,)", "(-2,)"), &[0; 8]), "a shape"),
            (file("{}", &[]), "<f4"),
        ] {
            let (message, _) = parse(&bytes).unwrap_err();
            assert!(message.contains(expected), "{message} for {expected}");
        }
    }
}
