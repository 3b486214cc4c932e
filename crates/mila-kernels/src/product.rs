//! Matrix products with a packed right-hand side.
//!
//! A tile of the result stays in registers while the product runs down the depth. With AVX-512 it is 14 rows of a panel of
//! 32 columns: per step it loads two lanes of the panel and broadcasts 14 floats of a strip, for 28
//! multiply-adds, as many as two load ports can feed. 14 rows fill the 32 registers and divide the maps of a 224-pixel image
//! (3136, 784 and 196 tokens; 49 leaves a tile of 7). AVX2, with half the registers of half the width, takes 6 rows of 16
//! columns, and reads the rows where they lie.

use std::ops::Range;

use crate::{
    activation::Activation,
    arithmetic::{Arithmetic, LANES},
    isa::{Isa, Kernel, Level},
    lane::{self, Lane},
    matrix::{PANEL, PackedMatrix},
    threads,
    tile::{Factors, Steps},
};

/// The left-hand matrix of a product.
#[derive(Clone, Copy)]
pub(crate) enum Left<'a> {
    /// Strips of rows, one after another.
    Strips(&'a [Lane]),
    /// Rows that begin `stride` floats apart; slow on AVX-512.
    Rows { x: &'a [f32], stride: usize },
    /// `x[depth * stride + row]`: the transpose of a row-major matrix.
    Columns { x: &'a [f32], stride: usize },
}

/// The right-hand matrix of a product.
#[derive(Clone, Copy)]
pub(crate) enum Right<'a> {
    Packed(&'a PackedMatrix),
    /// `x[depth * stride + column]` with a multiple of 32 columns, or of 16 but for AVX-512.
    Rows {
        x: &'a [f32],
        stride: usize,
        depth: usize,
        columns: usize,
    },
}

impl Right<'_> {
    /// Whether a matrix of `columns` columns can be [`Rows`](Right::Rows).
    pub(crate) fn takes_rows(isa: Isa, columns: usize) -> bool {
        columns.is_multiple_of(if isa.level() == Level::Avx512 { PANEL } else { LANES })
    }

    #[inline(always)]
    pub(crate) fn depth(&self) -> usize {
        match self {
            Right::Packed(matrix) => matrix.depth(),
            Right::Rows { depth, .. } => *depth,
        }
    }

    #[inline(always)]
    pub(crate) fn columns(&self) -> usize {
        match self {
            Right::Packed(matrix) => matrix.columns(),
            Right::Rows { columns, .. } => *columns,
        }
    }

    /// The steps of a tile of `L` lanes that begins at `lane` of a panel.
    #[inline(always)]
    fn steps<const L: usize>(&self, panel: usize, lane: usize) -> Steps<'_> {
        match self {
            Right::Packed(matrix) => matrix.tile::<L>(panel, lane),
            Right::Rows { x, stride, .. } => {
                Steps { floats: &x[x.len().min(panel * PANEL + lane * LANES)..], stride: *stride }
            }
        }
    }
}

/// What a product is added to.
#[derive(Clone, Copy)]
pub(crate) enum Start<'a> {
    Zero,
    /// The same floats for every row, one per column of `right`.
    Bias(&'a [f32]),
    /// What the result holds already.
    Result,
}

impl<'a> Start<'a> {
    /// The bias, if there is one.
    pub(crate) fn bias(bias: Option<&'a [f32]>) -> Start<'a> {
        bias.map_or(Start::Zero, Start::Bias)
    }
}

/// Where a product's result goes.
pub(crate) enum Target<'a> {
    /// Rows that begin `stride` floats apart, each with the columns of the panels.
    Rows { y: &'a mut [f32], stride: usize },
    /// Strips of all columns, the left-hand side of the next product, if that is to be in strips.
    Strips(&'a mut [Lane]),
}

/// `y = activation(start + left · right) + residual` for some panels of the right-hand side.
pub(crate) struct Product<'a> {
    pub(crate) left: Left<'a>,
    pub(crate) rows: usize,
    pub(crate) right: Right<'a>,
    pub(crate) panels: Range<usize>,
    pub(crate) start: Start<'a>,
    pub(crate) activation: Activation,
    /// Rows as long as those of `right`, of all columns.
    pub(crate) residual: Option<&'a [f32]>,
    /// Strips get no residual and do not start with the result.
    pub(crate) target: Target<'a>,
}

impl Kernel for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn run<A: Arithmetic>(mut self) {
        for panel in self.panels.clone() {
            self.tiles::<A>(panel);
        }
    }
}

impl Product<'_> {
    /// One panel in the tiles of the instruction set.
    #[inline(always)]
    fn tiles<A: Arithmetic>(&mut self, panel: usize) {
        match A::LEVEL {
            Level::Avx512 => self.panel::<A, 14, 2>(panel),
            Level::Avx2 => self.panel::<A, 6, 1>(panel),
            Level::Portable => self.panel::<A, 3, 1>(panel),
        }
    }

    /// The rows that tiles of `R` rows take before smaller ones do.
    ///
    /// AVX2: a tile of one row has two sums and waits for them, so seven rows are better four and three than six and one, eight are
    /// two fours, and eleven are two fours and a three. Tiles of strips are left as they are: none reaches into a second strip.
    #[inline(always)]
    fn rows_of_large_tiles<const R: usize>(&self) -> usize {
        let rest = self.rows % R;
        let by_strips = matches!(self.left, Left::Strips(_)) || matches!(self.target, Target::Strips(_));
        let spare = R == 6 && !by_strips && self.rows > R && matches!(rest, 1 | 2 | 5);
        self.rows - rest - if spare { R } else { 0 }
    }

    /// The same in tiles of `R` rows and `L` lanes.
    #[inline(always)]
    fn panel<A: Arithmetic, const R: usize, const L: usize>(&mut self, panel: usize) {
        for lane in (0..PANEL / LANES).step_by(L) {
            let first = panel * PANEL + lane * LANES;
            let columns = first..self.right.columns().min(first + L * LANES);
            if columns.is_empty() {
                return;
            }
            let mut start = [Lane::ZERO; L];
            if let Start::Bias(bias) = self.start {
                let lanes = start.iter_mut().zip(bias[columns.clone()].chunks(LANES));
                lanes.for_each(|(lane, bias)| lane.set(bias));
            }
            let (right, rows) = (self.right, self.rows);
            let large = self.rows_of_large_tiles::<R>();
            let steps = right.steps::<L>(panel, lane);
            let mut tiles = Tiles { steps, columns, start, tile: [[Lane::ZERO; L]; R], product: self };
            let mut row = 0;
            row = tiles.rows::<A, R>(row, large);
            row = tiles.rows::<A, 8>(row, rows);
            row = tiles.rows::<A, 7>(row, rows);
            row = tiles.rows::<A, 4>(row, rows);
            row = tiles.rows::<A, 3>(row, rows);
            tiles.rows::<A, 1>(row, rows);
        }
    }
}

/// The tiles of `L` lanes of a panel.
struct Tiles<'t, 'a, const MOST: usize, const L: usize> {
    /// The right-hand side.
    steps: Steps<'t>,
    /// Columns of the right-hand side.
    columns: Range<usize>,
    start: [Lane; L],
    /// The tile that is being computed.
    tile: [[Lane; L]; MOST],
    product: &'t mut Product<'a>,
}

impl<const MOST: usize, const L: usize> Tiles<'_, '_, MOST, L> {
    /// Computes tiles of `R` rows from `row` on while they fit before `end`; returns the first row that is left.
    #[inline(always)]
    fn rows<A: Arithmetic, const R: usize>(&mut self, mut row: usize, end: usize) -> usize {
        let depth = self.product.right.depth();
        while row + R <= end {
            let left = match self.product.left {
                Left::Strips(strips) => Factors {
                    floats: lane::floats(&strips[row / A::STRIP * depth..][..depth])
                        .get(row % A::STRIP..)
                        .unwrap_or_default(),
                    step: LANES,
                    row: 1,
                },
                Left::Rows { x, stride } => Factors { floats: &x[row * stride..], step: 1, row: stride },
                Left::Columns { x, stride } => Factors { floats: &x[row..], step: stride, row: 1 },
            };
            // Tiles of more rows than the largest are none.
            let Some(tile) = self.tile.first_chunk_mut::<R>() else { return row };
            A::multiply(left, self.steps, depth, &self.start, tile);
            self.store::<A, R>(row);
            row += R;
        }
        row
    }

    /// Writes the activation of the tile, plus what is added last, to its rows or its strip.
    #[inline(always)]
    fn store<A: Arithmetic, const R: usize>(&mut self, row: usize) {
        let Product { start, activation, residual, right, ref panels, ref mut target, .. } = *self.product;
        let tile = &mut self.tile[..R];
        let columns = self.columns.clone();
        match target {
            Target::Rows { y, stride } => {
                let first = columns.start - panels.start * PANEL;
                if matches!(start, Start::Result) {
                    for (r, lanes) in tile.iter_mut().enumerate() {
                        let y = &y[(row + r) * *stride + first..][..columns.len()];
                        for (lane, y) in lanes.iter_mut().zip(y.chunks(LANES)) {
                            A::store(A::add(A::load_part(y), A::load(&lane.0)), &mut lane.0);
                        }
                    }
                }
                activation.finish_lanes::<A>(tile.as_flattened_mut());
                for (r, lanes) in tile.iter().enumerate() {
                    let y = &mut y[(row + r) * *stride + first..][..columns.len()];
                    let residual = residual.map(|x| &x[(row + r) * right.columns()..][columns.clone()]);
                    for (l, y) in y.chunks_mut(LANES).enumerate() {
                        let mut x = A::load(&lanes[l].0);
                        if let Some(residual) = residual {
                            x = A::add(A::load_part(&residual[l * LANES..][..y.len()]), x);
                        }
                        A::store_part(x, y);
                    }
                }
            }
            Target::Strips(strips) => {
                let first = row % A::STRIP;
                let strip = &mut strips[row / A::STRIP * right.columns()..][columns];
                activation.finish_lanes::<A>(tile.as_flattened_mut());
                for (l, strip) in strip.chunks_mut(LANES).enumerate() {
                    store_columns::<A, L>(tile, l, first, strip);
                }
            }
        }
    }
}

/// Writes lane `l` of the rows of a tile, transposed, to floats `first` and on of the lanes of a strip.
///
/// Up to eight rows write eight floats: those beyond the tile belong to rows that come later.
#[inline(always)]
fn store_columns<A: Arithmetic, const L: usize>(tile: &[[Lane; L]], l: usize, first: usize, strip: &mut [Lane]) {
    const HALF: usize = LANES / 2;
    let mut rows = [A::splat(0.0); LANES];
    for (row, lanes) in rows.iter_mut().zip(tile) {
        *row = A::load(&lanes[l].0);
    }
    if tile.len() == A::STRIP {
        for (lane, column) in strip.iter_mut().zip(A::transpose(rows)) {
            A::store(column, &mut lane.0);
        }
    } else if tile.len() <= HALF && first <= HALF {
        for (lane, column) in strip.iter_mut().zip(A::transpose(rows)) {
            if let Some(floats) = lane.0[first..].first_chunk_mut() {
                A::store_low(column, floats);
            }
        }
    } else {
        for (r, lanes) in tile.iter().enumerate() {
            for (lane, float) in strip.iter_mut().zip(lanes[l].0) {
                lane.0[first + r] = float;
            }
        }
    }
}

/// `y += leftᵀ · right`, `[m, n]`, for `left` `[depth, m]` and `right` `[depth, n]`, all row-major.
pub(crate) fn add_transposed_product(isa: Isa, left: &[f32], right: &[f32], (m, n): (usize, usize), y: &mut [f32]) {
    /// Rows that are added in one chain of f32 sums.
    const DEPTH: usize = 1024;
    if m == 0 || n == 0 {
        return;
    }
    let height = isa.level().strip();
    for (left, right) in left.chunks(DEPTH * m).zip(right.chunks(DEPTH * n)) {
        let right = PackedMatrix::from_rows(isa, right, right.len() / n, n);
        threads::each(y.chunks_mut(height * n), |index, y| {
            isa.run(Product {
                left: Left::Columns { x: &left[index * height..], stride: m },
                rows: y.len() / n,
                right: Right::Packed(&right),
                panels: 0..right.panels(),
                start: Start::Result,
                activation: Activation::None,
                residual: None,
                target: Target::Rows { y, stride: n },
            });
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, numbers, unwritten, wide};

    /// Every number of rows up to two strips and a tile, however the left-hand side lies and wherever the result goes.
    #[test]
    fn tiles_take_every_row_once() {
        let (depth, columns) = (5, 40);
        let matrix = numbers(2, depth * columns);
        for isa in Isa::available() {
            let height = isa.level().strip();
            let right = PackedMatrix::from_rows(isa, &matrix, depth, columns);
            for rows in 0..=35 {
                let x = numbers(1, rows * depth);
                let mut strips = vec![Lane::ZERO; rows.div_ceil(height) * depth];
                let mut by_columns = vec![0.0; depth * rows];
                let mut wanted = vec![0.0; rows * columns];
                for (row, d) in (0..rows).flat_map(|row| (0..depth).map(move |d| (row, d))) {
                    strips[row / height * depth + d].0[row % height] = x[row * depth + d];
                    by_columns[d * rows + row] = x[row * depth + d];
                    for column in 0..columns {
                        wanted[row * columns + column] += x[row * depth + d] * matrix[d * columns + column];
                    }
                }
                let lefts = [
                    Left::Rows { x: &x, stride: depth },
                    Left::Strips(&strips),
                    Left::Columns { x: &by_columns, stride: rows },
                ];
                for (form, left) in ["rows", "strips", "columns"].iter().zip(lefts) {
                    let product = |target| Product {
                        left,
                        rows,
                        right: Right::Packed(&right),
                        panels: 0..right.panels(),
                        start: Start::Zero,
                        activation: Activation::None,
                        residual: None,
                        target,
                    };
                    let mut y = unwritten(rows * columns);
                    let mut strips_of_y = vec![Lane([f32::NAN; LANES]); rows.div_ceil(height) * columns];
                    isa.run(product(Target::Rows { y: &mut y, stride: columns }));
                    isa.run(product(Target::Strips(&mut strips_of_y)));
                    let float =
                        |i: usize| strips_of_y[i / columns / height * columns + i % columns].0[i / columns % height];
                    let from_strips: Vec<f32> = (0..rows * columns).map(float).collect();
                    assert_close(format!("{isa} {form}, {rows} rows"), &y, &wide(&wanted), 1e-6);
                    assert_close(format!("{isa} {form}, {rows} rows to strips"), &from_strips, &wide(&wanted), 1e-6);
                }
            }
        }
    }
}
