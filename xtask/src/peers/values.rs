//! Tensors in NumPy's file format, and how far two of them are apart.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

/// The values of a file of f32, row by row.
pub(crate) fn read(path: &Path) -> Result<Vec<f32>> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    parse(&bytes).with_context(|| format!("{} is no file of f32 values", path.display()))
}

/// Version 1 of the format: magic, version, the length of the header in two bytes, the header, the values.
fn parse(bytes: &[u8]) -> Result<Vec<f32>> {
    ensure!(bytes.len() >= 10 && bytes.starts_with(b"\x93NUMPY\x01"), "expected NumPy's format 1");
    let start = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let header = String::from_utf8_lossy(bytes.get(10..start).context("the header is cut off")?);
    ensure!(header.contains("'<f4'") && header.contains("False"), "expected '<f4' row by row, found {header}");
    Ok(bytes[start..].chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
}

/// max|difference| / std of what is wanted; infinite for another number of values or a value that is no number.
pub(crate) fn distance(found: &[f32], wanted: &[f32]) -> f64 {
    if found.len() != wanted.len() || wanted.is_empty() || !found.iter().chain(wanted).all(|v| v.is_finite()) {
        return f64::INFINITY;
    }
    let count = wanted.len() as f64;
    let mean = wanted.iter().map(|&v| f64::from(v)).sum::<f64>() / count;
    let variance = wanted.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / count;
    let largest = found.iter().zip(wanted).map(|(&a, &b)| (f64::from(a) - f64::from(b)).abs()).fold(0.0, f64::max);
    largest / variance.sqrt().max(1e-6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_two_values() {
        let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }\n";
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((header.len() as u16).to_le_bytes());
        bytes.extend(header.as_bytes());
        bytes.extend([1.5f32, -2.0].iter().flat_map(|v| v.to_le_bytes()));
        assert_eq!(parse(&bytes).unwrap(), [1.5, -2.0]);
        assert!(parse(&bytes[..20]).is_err());
        assert!(parse(&String::from_utf8_lossy(&bytes).replace("<f4", "<f8").into_bytes()).is_err());
        assert!(parse(b"").is_err());
    }

    #[test]
    fn distances() {
        assert_eq!(distance(&[1.0, 3.0], &[1.0, 3.0]), 0.0);
        assert_eq!(distance(&[1.0, 3.5], &[1.0, 3.0]), 0.5);
        for wrong in [&[1.0][..], &[1.0, f32::NAN], &[]] {
            assert_eq!(distance(wrong, &[1.0, 3.0]), f64::INFINITY);
        }
    }
}
