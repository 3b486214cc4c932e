//! Matrix products with a packed right-hand side.
//!
//! A tile of the result, up to 14 rows of a panel, stays in registers while the product runs down the depth: per step it
//! loads two lanes of the panel and broadcasts 14 floats of the left-hand matrix, for 28 multiply-adds, as many as two load
//! ports can feed. 14 rows fill the 32 registers of AVX-512 and divide the maps of a 224-pixel image (3136, 784 and 196
//! tokens; 49 leaves a tile of 7).

use std::ops::Range;

use crate::{
    activation::Activation,
    arithmetic::{Arithmetic, LANES},
    isa::{Isa, Kernel, Level},
    matrix::{PANEL, PackedMatrix, Panel},
    threads,
};

/// The left-hand matrix of a product.
#[derive(Clone, Copy)]
pub(crate) enum Left<'a> {
    /// `x[row * stride + depth]`.
    Rows { x: &'a [f32], stride: usize },
    /// `x[depth * stride + row]`: the transpose of a row-major matrix.
    Columns { x: &'a [f32], stride: usize },
    /// Rows in stretches of `line` floats, `pitch` apart, the first at `x[origins[row]]`: windows of a map.
    Windows { x: &'a [f32], origins: &'a [usize], line: usize, pitch: usize },
}

/// What a product is added to.
#[derive(Clone, Copy)]
pub(crate) enum Start<'a> {
    Zero,
    /// The same floats for every row, one per column of the result.
    Bias(&'a [f32]),
    /// What the result holds already.
    Result,
}

/// `y = activation(start + left · right) + residual` for a block of columns that begins at a panel's edge.
pub(crate) struct Product<'a, 'y> {
    pub(crate) left: Left<'a>,
    pub(crate) right: &'a PackedMatrix,
    /// The first column of the block, a multiple of [`PANEL`].
    pub(crate) column: usize,
    /// For [`Start::Bias`], the whole bias, of all columns.
    pub(crate) start: Start<'a>,
    pub(crate) activation: Activation,
    /// Rows of the residual as long as those of `right`, of all columns.
    pub(crate) residual: Option<&'a [f32]>,
    /// The columns of the block within the rows of `y`.
    pub(crate) target: Range<usize>,
    pub(crate) y: &'a mut [&'y mut [f32]],
}

impl Kernel for Product<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        let Product { left, right, column, start, activation, residual, target, y } = self;
        let width = target.len();
        for (index, y) in y.chunks_mut(ROWS).enumerate() {
            for c in (0..width).step_by(PANEL) {
                let columns = target.start + c..target.end.min(target.start + c + PANEL);
                let start = match start {
                    Start::Zero => Some([A::splat(0.0); 2]),
                    Start::Bias(bias) => Some(load::<A>(&bias[column + c..][..columns.len()])),
                    Start::Result => None,
                };
                let panel = right.panel(column + c);
                let block = Block { left, panel, first: index * ROWS, columns, activation };
                let mut row = 0;
                if A::LEVEL == Level::Avx512 {
                    row = block.rows::<A, 14>(row, start, y);
                    row = block.rows::<A, 7>(row, start, y);
                }
                row = block.rows::<A, 3>(row, start, y);
                block.rows::<A, 1>(row, start, y);
            }
        }
        if let Some(residual) = residual {
            for (y, residual) in y.iter_mut().zip(residual.chunks(right.columns())) {
                y[target.clone()].iter_mut().zip(&residual[column..]).for_each(|(y, residual)| *y += residual);
            }
        }
    }
}

/// Up to 32 floats, followed by zeros.
#[inline(always)]
fn load<A: Arithmetic>(x: &[f32]) -> [A::Register; 2] {
    let (low, high) = x.split_at(LANES.min(x.len()));
    [A::load_part(low), A::load_part(high)]
}

/// Up to [`ROWS`] rows of a panel's columns.
struct Block<'a> {
    left: Left<'a>,
    panel: &'a [Panel],
    /// The row of the left-hand matrix that the block begins at.
    first: usize,
    columns: Range<usize>,
    activation: Activation,
}

impl Block<'_> {
    /// Computes tiles of `R` rows from `row` on while they fit; returns the first row that is left.
    #[inline(always)]
    fn rows<A: Arithmetic, const R: usize>(
        &self,
        mut row: usize,
        start: Option<[A::Register; 2]>,
        y: &mut [&mut [f32]],
    ) -> usize {
        let depth = self.panel.len();
        while let Some(y) = y.get_mut(row..row + R) {
            let first = self.first + row;
            let mut tile = [start.unwrap_or([A::splat(0.0); 2]); R];
            if start.is_none() {
                for (tile, y) in tile.iter_mut().zip(&*y) {
                    *tile = load::<A>(&y[self.columns.clone()]);
                }
            }
            let tile = match self.left {
                Left::Rows { x, stride } => {
                    let mut rows: [&[f32]; R] = [&[]; R];
                    for (r, part) in rows.iter_mut().enumerate() {
                        *part = &x[(first + r) * stride..][..depth];
                    }
                    multiply::<A, R, _>(tile, self.panel, |i| i, |&i, r| rows[r][i])
                }
                Left::Columns { x, stride } => {
                    multiply::<A, R, _>(tile, self.panel, |i| &x[i * stride + first..][..R], |x, r| x[r])
                }
                Left::Windows { x, origins, line, pitch } => {
                    for (stretch, panel) in self.panel.chunks_exact(line).enumerate() {
                        let mut rows: [&[f32]; R] = [&[]; R];
                        for (part, origin) in rows.iter_mut().zip(&origins[first..]) {
                            *part = &x[origin + stretch * pitch..][..line];
                        }
                        tile = multiply::<A, R, _>(tile, panel, |i| i, |&i, r| rows[r][i]);
                    }
                    tile
                }
            };
            self.store::<A, R>(tile, y);
            row += R;
        }
        row
    }
}

impl Block<'_> {
    /// Writes the activation of a tile to its rows, all of it at once: a row would be too short a loop.
    #[inline(always)]
    fn store<A: Arithmetic, const R: usize>(&self, tile: [[A::Register; 2]; R], y: &mut [&mut [f32]]) {
        let mut tile = tile;
        if self.activation != Activation::None {
            let mut floats = [[[0.0; LANES]; 2]; R];
            for (floats, tile) in floats.as_flattened_mut().iter_mut().zip(tile.as_flattened()) {
                A::store(*tile, floats);
            }
            self.activation.finish::<A>(floats.as_flattened_mut().as_flattened_mut());
            for (floats, tile) in floats.as_flattened().iter().zip(tile.as_flattened_mut()) {
                *tile = A::load(floats);
            }
        }
        for (y, [low, high]) in y.iter_mut().zip(tile) {
            let y = &mut y[self.columns.clone()];
            let (y_low, y_high) = y.split_at_mut(LANES.min(y.len()));
            A::store_part(low, y_low);
            A::store_part(high, y_high);
        }
    }
}

/// `tile + left · panel`, where `float(&step(i), r)` is the left-hand element of depth `i` and row `r`.
#[inline(always)]
fn multiply<A: Arithmetic, const R: usize, S>(
    mut tile: [[A::Register; 2]; R],
    panel: &[Panel],
    step: impl Fn(usize) -> S,
    float: impl Fn(&S, usize) -> f32,
) -> [[A::Register; 2]; R] {
    for (i, panel) in panel.iter().enumerate() {
        let step = step(i);
        let panel = [A::load(&panel[0].0), A::load(&panel[1].0)];
        for (r, tile) in tile.iter_mut().enumerate() {
            let left = A::splat(float(&step, r));
            *tile = [A::mul_add_each(left, panel[0], tile[0]), A::mul_add_each(left, panel[1], tile[1])];
        }
    }
    tile
}

/// Rows of a block: four tiles. A panel is read from the second-level cache once for them, and what they need of the
/// left-hand matrix stays in the cache from panel to panel.
pub(crate) const ROWS: usize = 56;

/// The blocks that a result `[rows, columns]` is cut into, as (rows, columns) of one.
///
/// Columns are split before rows: a thread then reads its own part of the packed matrix, which is the larger operand
/// where rows are few.
pub(crate) fn blocks(rows: usize, columns: usize, depth: usize) -> (usize, usize) {
    const WANTED: usize = 8;
    const SMALL: usize = 1 << 18;
    let (mut height, mut width) = (ROWS, columns.next_multiple_of(PANEL).max(PANEL));
    if rows * columns * depth <= SMALL {
        return (rows.max(1), width);
    }
    let count = |height: usize, width: usize| rows.div_ceil(height) * columns.div_ceil(width);
    while count(height, width) < WANTED && width > 2 * PANEL {
        width = width.div_ceil(2).next_multiple_of(PANEL);
    }
    while count(height, width) < WANTED && height > 14 {
        height /= 2;
    }
    (height, width)
}

/// Calls `body(row, column, block)` for every block of `y`, `[rows, columns]`, on rayon's pool.
pub(crate) fn each_block(
    y: &mut [f32],
    columns: usize,
    (height, width): (usize, usize),
    body: impl Fn(usize, usize, &mut [&mut [f32]]) + Sync,
) {
    if columns == 0 {
        return;
    }
    if width >= columns {
        threads::each(y.chunks_mut(height * columns), |index, block| {
            body(index * height, 0, &mut block.chunks_mut(columns).collect::<Vec<_>>());
        });
        return;
    }
    let mut blocks = Vec::new();
    for (index, band) in y.chunks_mut(height * columns).enumerate() {
        let first = blocks.len();
        blocks.extend((0..columns).step_by(width).map(|c| (index * height, c, Vec::with_capacity(height))));
        for row in band.chunks_mut(columns) {
            blocks[first..].iter_mut().zip(row.chunks_mut(width)).for_each(|((.., block), part)| block.push(part));
        }
    }
    threads::each(blocks, |_, (row, column, mut block)| body(row, column, &mut block));
}

/// `y += leftᵀ · right`, `[m, n]`, for `left` `[depth, m]` and `right` `[depth, n]`, all row-major.
pub(crate) fn add_transposed_product(isa: Isa, left: &[f32], right: &[f32], (m, n): (usize, usize), y: &mut [f32]) {
    /// Rows that are added in one chain of f32 sums.
    const DEPTH: usize = 1024;
    if m == 0 || n == 0 {
        return;
    }
    for (left, right) in left.chunks(DEPTH * m).zip(right.chunks(DEPTH * n)) {
        let depth = right.len() / n;
        let right = PackedMatrix::from_rows(right, depth, n);
        each_block(y, n, blocks(m, n, depth), |row, column, y| {
            isa.run(Product {
                left: Left::Columns { x: &left[row..], stride: m },
                right: &right,
                column,
                start: Start::Result,
                activation: Activation::None,
                residual: None,
                target: 0..y.first().map_or(0, |row| row.len()),
                y,
            });
        });
    }
}
