//! A stored tensor: where its elements are, and reading them.

use std::borrow::Cow;
use std::ops::Range;

use bytemuck::Pod;
use mila_ops::Values;

use crate::Dtype;

/// A tensor of an open checkpoint. Its bounds were checked when it was described.
#[derive(Debug)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) dtype: Dtype,
    /// Which of the checkpoint's parts holds it.
    pub(crate) part: usize,
    /// From its first element to its last, in bytes of the part.
    pub(crate) bytes: Range<usize>,
    /// Distance of neighbours along each dimension, in elements, unless it is row-major.
    pub(crate) strides: Option<Vec<usize>>,
}

/// A tensor of a checkpoint.
#[derive(Clone, Copy, Debug)]
pub struct TensorView<'a> {
    tensor: &'a Tensor,
    bytes: &'a [u8],
}

impl<'a> TensorView<'a> {
    pub(crate) fn new(tensor: &'a Tensor, part: &'a [u8]) -> Self {
        Self { tensor, bytes: &part[tensor.bytes.clone()] }
    }

    /// Extents.
    pub fn shape(&self) -> &'a [usize] {
        &self.tensor.shape
    }

    /// Element type.
    pub fn dtype(&self) -> Dtype {
        self.tensor.dtype
    }

    /// The values, row-major in their stored type: borrowed from the file where they are contiguous and aligned there,
    /// else copied. `None` for integers.
    pub fn values(&self) -> Option<Values<'a>> {
        match self.tensor.dtype {
            Dtype::F32 => Some(Values::F32(self.read())),
            Dtype::F16 => Some(Values::F16(self.read())),
            Dtype::Bf16 => Some(Values::Bf16(self.read())),
            Dtype::F64 => Some(Values::F64(self.read())),
            _ => None,
        }
    }

    /// The values of an integer tensor, row-major; a bool is 0 or 1. `None` for floats.
    pub fn integers(&self) -> Option<Vec<i64>> {
        Some(match self.tensor.dtype {
            Dtype::I64 => self.read::<i64>().into_owned(),
            Dtype::I32 => self.read::<i32>().iter().map(|&x| x.into()).collect(),
            Dtype::I16 => self.read::<i16>().iter().map(|&x| x.into()).collect(),
            Dtype::I8 => self.read::<i8>().iter().map(|&x| x.into()).collect(),
            Dtype::U8 => self.read::<u8>().iter().map(|&x| x.into()).collect(),
            Dtype::Bool => self.read::<u8>().iter().map(|&x| i64::from(x != 0)).collect(),
            _ => return None,
        })
    }

    fn read<T: Pod>(&self) -> Cow<'a, [T]> {
        match &self.tensor.strides {
            Some(strides) => Cow::Owned(gather(self.bytes, &self.tensor.shape, strides)),
            None => match bytemuck::try_cast_slice(self.bytes) {
                Ok(values) => Cow::Borrowed(values),
                Err(_) => Cow::Owned(copy(self.bytes)),
            },
        }
    }
}

/// The elements of unaligned bytes.
fn copy<T: Pod>(bytes: &[u8]) -> Vec<T> {
    let mut values = vec![T::zeroed(); bytes.len() / size_of::<T>()];
    bytemuck::cast_slice_mut(&mut values).copy_from_slice(bytes);
    values
}

/// The elements at `strides` from each other, row-major in `shape`.
fn gather<T: Pod>(bytes: &[u8], shape: &[usize], strides: &[usize]) -> Vec<T> {
    let size = size_of::<T>();
    let volume = shape.iter().product();
    let mut values = Vec::with_capacity(volume);
    let mut index = vec![0; shape.len()];
    let mut at = 0;
    for _ in 0..volume {
        values.push(bytemuck::pod_read_unaligned(&bytes[at * size..(at + 1) * size]));
        for (axis, (&extent, &stride)) in shape.iter().zip(strides).enumerate().rev() {
            index[axis] += 1;
            at += stride;
            if index[axis] < extent {
                break;
            }
            index[axis] = 0;
            at -= stride * extent;
        }
    }
    values
}

/// Where a strided tensor lies in its storage of `stored` elements: the elements from its first to its last, and its
/// strides unless it is row-major.
///
/// # Errors
/// Extents or strides that overflow, or that reach beyond the storage.
pub(crate) fn place(
    shape: &[usize],
    strides: &[usize],
    offset: usize,
    stored: usize,
) -> Result<(Range<usize>, Option<Vec<usize>>), String> {
    if shape.contains(&0) {
        return Ok((0..0, None));
    }
    // The stride of an extent of one is never walked, and PyTorch leaves anything there.
    let strides: Vec<usize> = shape.iter().zip(strides).map(|(&n, &stride)| if n == 1 { 0 } else { stride }).collect();
    let end = shape.iter().zip(&strides).try_fold(offset, |last, (&n, &stride)| {
        last.checked_add((n - 1).checked_mul(stride)?) //
    });
    let end = end.and_then(|last| last.checked_add(1)).filter(|&end| end <= stored);
    let Some(end) = end else {
        return Err(format!(
            "expected a tensor within its storage of {stored} elements, \
             found shape {shape:?}, strides {strides:?}, offset {offset}"
        ));
    };
    let mut volume = 1_usize;
    let mut row_major = true;
    for (&n, &stride) in shape.iter().zip(&strides).rev() {
        row_major &= n == 1 || stride == volume;
        volume = volume.checked_mul(n).ok_or_else(|| format!("expected a shape in memory, found {shape:?}"))?;
    }
    Ok((offset..end, (!row_major).then_some(strides)))
}

#[cfg(test)]
mod tests {
    use super::{gather, place};

    #[test]
    fn strides_are_followed() {
        // Columns 1 and 2 of a 3 x 4 matrix, transposed.
        let bytes: Vec<u8> = (0..12).collect();
        let (range, strides) = place(&[2, 3], &[1, 4], 1, 12).unwrap();
        assert_eq!(range, 1..11);
        let values: Vec<u8> = gather(&bytes[range], &[2, 3], &strides.unwrap());
        assert_eq!(values, [1, 5, 9, 2, 6, 10]);
    }

    #[test]
    fn row_major_needs_no_strides() {
        assert_eq!(place(&[2, 3], &[3, 1], 4, 10), Ok((4..10, None)));
        assert_eq!(place(&[], &[], 9, 10), Ok((9..10, None)));
        assert_eq!(place(&[1, 3], &[usize::MAX, 1], 0, 3), Ok((0..3, None)));
        assert_eq!(place(&[0, usize::MAX], &[1, 1], usize::MAX, 0), Ok((0..0, None)));
    }

    #[test]
    fn lies_are_refused() {
        assert!(place(&[2, 3], &[3, 1], 5, 10).is_err());
        assert!(place(&[2], &[usize::MAX], 0, 10).is_err());
        assert!(place(&[usize::MAX, 2], &[usize::MAX, 1], 0, 10).is_err());
        assert!(place(&[usize::MAX, usize::MAX], &[0, 0], 0, 10).is_err());
        assert!(place(&[1], &[1], usize::MAX, 10).is_err());
    }
}
