//! A matrix whose columns are written by several threads.

use std::{marker::PhantomData, ops::Range};

/// Rows of `stride` floats, shared out by columns: each thread writes columns that no other touches.
#[derive(Clone, Copy)]
pub(crate) struct Columns<'a> {
    start: *mut f32,
    len: usize,
    stride: usize,
    values: PhantomData<&'a mut [f32]>,
}

// SAFETY: it is a `&mut [f32]` whose parts are handed out by `part`, whose callers see to it that no two overlap.
unsafe impl Send for Columns<'_> {}
// SAFETY: as above.
unsafe impl Sync for Columns<'_> {}

impl<'a> Columns<'a> {
    /// The columns of `values`, rows of `stride` floats.
    pub(crate) fn new(values: &'a mut [f32], stride: usize) -> Self {
        Self { start: values.as_mut_ptr(), len: values.len(), stride, values: PhantomData }
    }

    /// Some columns of a row.
    ///
    /// # Panics
    /// If they lie beyond the matrix.
    ///
    /// # Safety
    /// While the result lives, nobody else holds a part of the same row with one of its columns.
    #[inline(always)]
    #[allow(
        clippy::mut_from_ref,
        reason = "parts of a matrix are handed out to several threads; see the safety section"
    )]
    pub(crate) unsafe fn part(&self, row: usize, columns: Range<usize>) -> &'a mut [f32] {
        assert!(columns.start <= columns.end && columns.end <= self.stride, "columns of a row");
        let first = row * self.stride + columns.start;
        assert!(first + columns.len() <= self.len, "a row of the matrix");
        // SAFETY: the floats lie within the slice that this was made of, which is borrowed for `'a`, and by this function's
        // contract nobody else refers to them while the result lives.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(first), columns.len()) }
    }
}
