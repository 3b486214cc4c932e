//! Matrices packed once and kept.
//!
//! A matrix is stored in panels of 32 columns, in the order in which a [product](crate::product) reads it.

use std::ops::Range;

use crate::{arithmetic::LANES, lane::Lane, threads};

/// Columns of a panel.
pub(crate) const PANEL: usize = 2 * LANES;

/// One row of a panel.
pub(crate) type Panel = [Lane; 2];

/// A matrix `[depth, columns]` in panels: `[⌈columns / 32⌉, depth, 32]`, the missing columns of the last one zero.
///
/// For a layer, `depth` is the number of inputs and `columns` that of outputs.
#[derive(Clone, Debug)]
pub struct PackedMatrix {
    depth: usize,
    columns: usize,
    panels: Vec<Panel>,
}

impl PackedMatrix {
    /// Packs `matrix`, `[columns, depth]` row-major: the storage of PyTorch's `Linear`, `[outputs, inputs]`.
    ///
    /// # Panics
    /// If `matrix` is not `columns * depth` long.
    pub fn from_columns(matrix: &[f32], columns: usize, depth: usize) -> PackedMatrix {
        assert_eq!(matrix.len(), columns * depth, "packed matrix: length of [{columns}, {depth}]");
        let mut panels = vec![[Lane::ZERO; 2]; columns.div_ceil(PANEL) * depth];
        if depth > 0 {
            let pieces = panels.chunks_exact_mut(depth).zip(matrix.chunks(PANEL * depth));
            threads::each(pieces, |_, (panel, columns)| transpose(columns, depth, panel));
        }
        PackedMatrix { depth, columns, panels }
    }

    /// Packs `matrix`, `[depth, columns]` row-major.
    ///
    /// # Panics
    /// If `matrix` is not `depth * columns` long.
    pub fn from_rows(matrix: &[f32], depth: usize, columns: usize) -> PackedMatrix {
        assert_eq!(matrix.len(), depth * columns, "packed matrix: length of [{depth}, {columns}]");
        let mut panels = vec![[Lane::ZERO; 2]; columns.div_ceil(PANEL) * depth];
        let pieces = panels.chunks_exact_mut(depth.max(1));
        threads::each(pieces, |index, panel| copy_columns(matrix, columns, index * PANEL..columns, panel));
        PackedMatrix { depth, columns, panels }
    }

    /// Packs `columns` floats at the start of each of `depth` rows that begin `stride` apart, on the caller's thread.
    pub(crate) fn from_strided_rows(matrix: &[f32], depth: usize, columns: usize, stride: usize) -> PackedMatrix {
        let mut panels = vec![[Lane::ZERO; 2]; columns.div_ceil(PANEL) * depth];
        for (index, panel) in panels.chunks_exact_mut(depth.max(1)).enumerate() {
            copy_columns(matrix, stride, index * PANEL..columns, panel);
        }
        PackedMatrix { depth, columns, panels }
    }

    /// The rows of a panel.
    #[inline(always)]
    pub(crate) fn panel(&self, index: usize) -> &[Panel] {
        &self.panels[index * self.depth..][..self.depth]
    }

    /// Panels of 32 columns; the last may have fewer.
    #[inline(always)]
    pub(crate) fn panels(&self) -> usize {
        self.columns.div_ceil(PANEL)
    }

    /// Rows of the matrix: the inputs of a layer.
    pub fn depth(&self) -> usize {
        self.depth
    }

    /// Columns of the matrix: the outputs of a layer.
    pub fn columns(&self) -> usize {
        self.columns
    }
}

/// Copies the first 32 of `columns`, or all, from rows that begin `stride` apart.
fn copy_columns(matrix: &[f32], stride: usize, columns: Range<usize>, panel: &mut [Panel]) {
    let columns = columns.start..columns.end.min(columns.start + PANEL);
    for (d, panel) in panel.iter_mut().enumerate() {
        let row = &matrix[d * stride..][columns.clone()];
        panel.iter_mut().zip(row.chunks(LANES)).for_each(|(lane, part)| lane.set(part));
    }
}

/// Writes up to 32 columns, `depth` floats each, side by side, in blocks that stay in the first-level cache.
fn transpose(columns: &[f32], depth: usize, panel: &mut [Panel]) {
    for (block, panel) in panel.chunks_mut(LANES).enumerate() {
        for (c, column) in columns.chunks_exact(depth).enumerate() {
            let (lane, l) = (c / LANES, c % LANES);
            for (panel, &value) in panel.iter_mut().zip(&column[block * LANES..]) {
                panel[lane].0[l] = value;
            }
        }
    }
}
