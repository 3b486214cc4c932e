//! Matrices packed once and kept.
//!
//! A matrix is stored in panels of 32 columns, in the order in which a [product](crate::product) reads it.

use std::ops::Range;

use crate::{
    arithmetic::LANES,
    bf16::{BLOCK, Bf16, Bf16Unit},
    format::Format,
    lane::Lane,
    threads,
};

/// Columns of a panel.
pub(crate) const PANEL: usize = 2 * LANES;

/// One row of a panel.
pub(crate) type Panel = [Lane; 2];

/// A matrix `[depth, columns]` in panels: `[⌈columns / 32⌉, depth, 32]`, the missing columns of the last one zero.
///
/// In bf16 a panel's row holds pairs of numbers that are neighbours in depth: `[⌈columns / 32⌉, depth / 2, 32]` pairs, with
/// zeros up to a multiple of 32 in depth.
///
/// For a layer, `depth` is the number of inputs and `columns` that of outputs.
#[derive(Clone, Debug)]
pub struct PackedMatrix {
    depth: usize,
    columns: usize,
    format: Format,
    /// Rows of a panel.
    steps: usize,
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
        PackedMatrix { depth, columns, format: Format::F32, steps: depth, panels }
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
        PackedMatrix { depth, columns, format: Format::F32, steps: depth, panels }
    }

    /// Packs `columns` floats at the start of each of `depth` rows that begin `stride` apart, on the caller's thread.
    pub(crate) fn from_strided_rows(matrix: &[f32], depth: usize, columns: usize, stride: usize) -> PackedMatrix {
        let mut panels = vec![[Lane::ZERO; 2]; columns.div_ceil(PANEL) * depth];
        for (index, panel) in panels.chunks_exact_mut(depth.max(1)).enumerate() {
            copy_columns(matrix, stride, index * PANEL..columns, panel);
        }
        PackedMatrix { depth, columns, format: Format::F32, steps: depth, panels }
    }

    /// The matrix rounded to bf16, for products on `unit`.
    ///
    /// # Panics
    /// If it is in bf16 already.
    pub fn into_bf16(self, unit: Bf16Unit) -> PackedMatrix {
        assert!(matches!(self.format, Format::F32), "packed matrix: expected f32, found bf16");
        let steps = self.depth.div_ceil(BLOCK) * (BLOCK / 2);
        let mut panels = vec![[Lane::ZERO; 2]; self.panels() * steps];
        if steps > 0 {
            let pieces = panels.chunks_exact_mut(steps).zip(self.panels.chunks_exact(self.depth));
            threads::each(pieces, |_, (pairs, panel)| {
                for (pairs, rows) in pairs.iter_mut().zip(panel.chunks(2)) {
                    *pairs = pair_rows(&rows[0], rows.get(1).unwrap_or(&[Lane::ZERO; 2]));
                }
            });
        }
        PackedMatrix { format: Format::Bf16(unit), steps, panels, ..self }
    }

    /// The rows of a panel.
    #[inline(always)]
    pub(crate) fn panel(&self, index: usize) -> &[Panel] {
        &self.panels[index * self.steps..][..self.steps]
    }

    /// How the matrix is stored, and so how it is multiplied.
    #[inline(always)]
    pub(crate) fn format(&self) -> Format {
        self.format
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

/// Two rows of a panel as one of pairs.
fn pair_rows(first: &Panel, second: &Panel) -> Panel {
    std::array::from_fn(|lane| {
        let pair = |l: usize| Bf16::pair(Bf16::new(first[lane].0[l]), Bf16::new(second[lane].0[l]));
        Lane(std::array::from_fn(pair))
    })
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
