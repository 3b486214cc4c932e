//! Matrices packed once and kept.
//!
//! A matrix is stored in panels of 32 columns, in the order in which a [product](crate::product) reads it.

use std::ops::Range;

use crate::{
    arithmetic::LANES,
    bf16::{BLOCK, Bf16, Bf16Unit},
    format::Format,
    isa::{Isa, Level},
    lane::{self, Lane},
    threads,
    tile::Steps,
};

/// Columns of a panel.
pub(crate) const PANEL: usize = 2 * LANES;

/// One row of a panel whose lanes stand side by side.
pub(crate) type Panel = [Lane; 2];

/// How the two lanes of a panel's rows lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    /// `[depth, 2]` lanes, for tiles that are two lanes wide.
    SideBySide,
    /// `[2, depth]` lanes, for tiles of one lane: a tile reads each cache line after the other and leaves none out.
    OneAfterAnother,
}

impl Order {
    /// The order in which a product on `isa` reads.
    fn of(isa: Isa) -> Order {
        match isa.level() {
            Level::Avx512 => Order::SideBySide,
            Level::Avx2 | Level::Portable => Order::OneAfterAnother,
        }
    }

    /// Where lane `lane` of row `row` lies in a panel of `depth` rows.
    fn at(self, depth: usize, row: usize, lane: usize) -> usize {
        match self {
            Order::SideBySide => 2 * row + lane,
            Order::OneAfterAnother => lane * depth + row,
        }
    }
}

/// A matrix `[depth, columns]` in panels of 32 columns, the missing columns of the last one zero.
///
/// A matrix that was packed for an instruction set multiplies on it and on every weaker one.
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
    order: Order,
    /// Rows of a panel.
    steps: usize,
    lanes: Vec<Lane>,
}

impl PackedMatrix {
    /// Packs `matrix`, `[columns, depth]` row-major: the storage of PyTorch's `Linear`, `[outputs, inputs]`.
    ///
    /// # Panics
    /// If `matrix` is not `columns * depth` long.
    pub fn from_columns(isa: Isa, matrix: &[f32], columns: usize, depth: usize) -> PackedMatrix {
        assert_eq!(matrix.len(), columns * depth, "packed matrix: length of [{columns}, {depth}]");
        let mut packed = PackedMatrix::zeros(isa, depth, columns);
        if depth > 0 {
            let order = packed.order;
            let pieces = packed.lanes.chunks_exact_mut(2 * depth).zip(matrix.chunks(PANEL * depth));
            threads::each(pieces, |_, (panel, columns)| transpose(order, columns, depth, panel));
        }
        packed
    }

    /// Packs `matrix`, `[depth, columns]` row-major.
    ///
    /// # Panics
    /// If `matrix` is not `depth * columns` long.
    pub fn from_rows(isa: Isa, matrix: &[f32], depth: usize, columns: usize) -> PackedMatrix {
        assert_eq!(matrix.len(), depth * columns, "packed matrix: length of [{depth}, {columns}]");
        let mut packed = PackedMatrix::zeros(isa, depth, columns);
        let order = packed.order;
        let pieces = packed.lanes.chunks_exact_mut((2 * depth).max(1));
        threads::each(pieces, |index, panel| copy_columns(order, matrix, columns, index * PANEL..columns, panel));
        packed
    }

    /// Packs `columns` floats at the start of each of `depth` rows that begin `stride` apart, on the caller's thread.
    pub(crate) fn from_strided_rows(
        isa: Isa,
        matrix: &[f32],
        depth: usize,
        columns: usize,
        stride: usize,
    ) -> PackedMatrix {
        let mut packed = PackedMatrix::zeros(isa, depth, columns);
        for (index, panel) in packed.lanes.chunks_exact_mut((2 * depth).max(1)).enumerate() {
            copy_columns(packed.order, matrix, stride, index * PANEL..columns, panel);
        }
        packed
    }

    fn zeros(isa: Isa, depth: usize, columns: usize) -> PackedMatrix {
        let lanes = vec![Lane::ZERO; 2 * columns.div_ceil(PANEL) * depth];
        PackedMatrix { depth, columns, format: Format::F32, order: Order::of(isa), steps: depth, lanes }
    }

    /// The matrix rounded to bf16, for products on `unit`.
    ///
    /// # Panics
    /// If it is in bf16 already.
    pub fn into_bf16(self, unit: Bf16Unit) -> PackedMatrix {
        assert!(matches!(self.format, Format::F32), "packed matrix: expected f32, found bf16");
        let steps = self.depth.div_ceil(BLOCK) * (BLOCK / 2);
        let mut lanes = vec![Lane::ZERO; 2 * self.panels() * steps];
        if steps > 0 {
            let pieces = lanes.chunks_exact_mut(2 * steps).zip(self.lanes.chunks_exact(2 * self.depth));
            threads::each(pieces, |_, (pairs, panel)| {
                let lane = |row, lane| match row < self.depth {
                    true => panel[self.order.at(self.depth, row, lane)],
                    false => Lane::ZERO,
                };
                for (step, pairs) in pairs.as_chunks_mut::<2>().0.iter_mut().enumerate() {
                    *pairs = [0, 1].map(|l| pair_lanes(lane(2 * step, l), lane(2 * step + 1, l)));
                }
            });
        }
        PackedMatrix { format: Format::Bf16(unit), order: Order::SideBySide, steps, lanes, ..self }
    }

    /// The rows of a panel of pairs.
    #[inline(always)]
    pub(crate) fn panel(&self, index: usize) -> &[Panel] {
        self.lanes[2 * index * self.steps..][..2 * self.steps].as_chunks().0
    }

    /// What a tile of `L` lanes multiplies, which begins at `lane` of a panel of floats.
    #[inline(always)]
    pub(crate) fn tile<const L: usize>(&self, panel: usize, lane: usize) -> Steps<'_> {
        let panel = lane::floats(&self.lanes[2 * panel * self.depth..][..2 * self.depth]);
        let (first, stride) = match self.order {
            Order::SideBySide => (lane * LANES, PANEL),
            Order::OneAfterAnother => {
                assert_eq!(L, 1, "packed matrix: lanes one after another are multiplied one by one");
                (lane * self.depth * LANES, LANES)
            }
        };
        Steps { floats: &panel[panel.len().min(first)..], stride }
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
fn copy_columns(order: Order, matrix: &[f32], stride: usize, columns: Range<usize>, panel: &mut [Lane]) {
    let columns = columns.start..columns.end.min(columns.start + PANEL);
    let depth = panel.len() / 2;
    for d in 0..depth {
        let row = &matrix[d * stride..][columns.clone()];
        row.chunks(LANES).enumerate().for_each(|(lane, part)| panel[order.at(depth, d, lane)].set(part));
    }
}

/// Two lanes of floats as one of pairs.
fn pair_lanes(first: Lane, second: Lane) -> Lane {
    Lane(std::array::from_fn(|l| Bf16::pair(Bf16::new(first.0[l]), Bf16::new(second.0[l]))))
}

/// Writes up to 32 columns, `depth` floats each, side by side, in blocks that stay in the first-level cache.
fn transpose(order: Order, columns: &[f32], depth: usize, panel: &mut [Lane]) {
    for block in (0..depth).step_by(LANES) {
        for (c, column) in columns.chunks_exact(depth).enumerate() {
            for (d, &value) in column.iter().enumerate().skip(block).take(LANES) {
                panel[order.at(depth, d, c / LANES)].0[c % LANES] = value;
            }
        }
    }
}
