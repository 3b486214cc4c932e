//! Matrix products with one operand packed once and kept.
//!
//! The right-hand matrix is stored in panels of 32 columns, in the order in which the product reads it. A tile of the
//! result, up to 14 rows of a panel, stays in registers while the product runs down the depth: per step it loads two
//! lanes of the panel and broadcasts 14 floats of the left-hand matrix, for 28 multiply-adds, as many as two load ports
//! can feed. 14 rows fill the 32 registers of AVX-512 and divide the maps of a 224-pixel image (3136, 784, 196 tokens).

use std::ops::Range;

use crate::{
    activation::Activation,
    arithmetic::{Arithmetic, LANES},
    isa::{Isa, Kernel, Level},
    lane::Lane,
};

/// Columns of a panel.
pub(crate) const PANEL: usize = 2 * LANES;

/// One row of a panel.
type Panel = [Lane; 2];

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
            for (c, column) in matrix.chunks_exact(depth).enumerate() {
                let (lane, l) = (c % PANEL / LANES, c % LANES);
                for (panel, &value) in panels[c / PANEL * depth..].iter_mut().zip(column) {
                    panel[lane].0[l] = value;
                }
            }
        }
        PackedMatrix { depth, columns, panels }
    }

    /// Packs `matrix`, `[depth, columns]` row-major.
    ///
    /// # Panics
    /// If `matrix` is not `depth * columns` long.
    pub fn from_rows(matrix: &[f32], depth: usize, columns: usize) -> PackedMatrix {
        assert_eq!(matrix.len(), depth * columns, "packed matrix: length of [{depth}, {columns}]");
        PackedMatrix::from_strided_rows(matrix, depth, columns, columns)
    }

    /// Packs `columns` floats at the start of each of `depth` rows that begin `stride` apart.
    pub(crate) fn from_strided_rows(matrix: &[f32], depth: usize, columns: usize, stride: usize) -> PackedMatrix {
        let mut panels = Vec::with_capacity(columns.div_ceil(PANEL) * depth);
        for c in (0..columns).step_by(PANEL) {
            let width = PANEL.min(columns - c);
            panels.extend((0..depth).map(|d| {
                let row = &matrix[d * stride + c..][..width];
                let mut panel = [Lane::ZERO; 2];
                panel.iter_mut().zip(row.chunks(LANES)).for_each(|(lane, part)| lane.set(part));
                panel
            }));
        }
        PackedMatrix { depth, columns, panels }
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

/// The left-hand matrix of a product.
#[derive(Clone, Copy)]
pub(crate) enum Left<'a> {
    /// `x[row * stride + depth]`.
    Rows { x: &'a [f32], stride: usize },
    /// `x[depth * stride + row]`: the transpose of a row-major matrix.
    Columns { x: &'a [f32], stride: usize },
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
        for c in (0..width).step_by(PANEL) {
            let panel = &right.panels[(column + c) / PANEL * right.depth..][..right.depth];
            let block = Block { left, panel, columns: target.start + c..target.end.min(target.start + c + PANEL) };
            let start = match start {
                Start::Zero => Some([A::splat(0.0); 2]),
                Start::Bias(bias) => Some(load::<A>(&bias[column + c..][..block.columns.len()])),
                Start::Result => None,
            };
            let mut row = 0;
            if A::LEVEL == Level::Avx512 {
                row = block.rows::<A, 14>(row, start, y);
                row = block.rows::<A, 7>(row, start, y);
            }
            row = block.rows::<A, 3>(row, start, y);
            block.rows::<A, 1>(row, start, y);
        }
        for (r, y) in y.iter_mut().enumerate() {
            let residual = residual.map(|residual| &residual[r * right.columns + column..][..width]);
            activation.finish::<A>(residual, &mut y[target.clone()]);
        }
    }
}

/// Up to 32 floats, followed by zeros.
#[inline(always)]
fn load<A: Arithmetic>(x: &[f32]) -> [A::Register; 2] {
    let (low, high) = x.split_at(LANES.min(x.len()));
    [A::load_part(low), A::load_part(high)]
}

/// A panel's worth of columns of a product.
struct Block<'a> {
    left: Left<'a>,
    panel: &'a [Panel],
    columns: Range<usize>,
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
                        *part = &x[(row + r) * stride..][..depth];
                    }
                    multiply::<A, R>(tile, self.panel, |i, r| rows[r][i])
                }
                Left::Columns { x, stride } => multiply::<A, R>(tile, self.panel, |i, r| x[i * stride + row + r]),
            };
            for (y, tile) in y.iter_mut().zip(tile) {
                let y = &mut y[self.columns.clone()];
                let (low, high) = y.split_at_mut(LANES.min(y.len()));
                A::store_part(tile[0], low);
                A::store_part(tile[1], high);
            }
            row += R;
        }
        row
    }
}

/// `tile + left · panel`, where `left(i, r)` is the element of depth `i` and row `r`.
#[inline(always)]
fn multiply<A: Arithmetic, const R: usize>(
    mut tile: [[A::Register; 2]; R],
    panel: &[Panel],
    left: impl Fn(usize, usize) -> f32,
) -> [[A::Register; 2]; R] {
    for (i, panel) in panel.iter().enumerate() {
        let panel = [A::load(&panel[0].0), A::load(&panel[1].0)];
        for (r, tile) in tile.iter_mut().enumerate() {
            let left = A::splat(left(i, r));
            *tile = [A::mul_add_each(left, panel[0], tile[0]), A::mul_add_each(left, panel[1], tile[1])];
        }
    }
    tile
}

/// Rows of a block: four tiles, so that a panel is read from the second-level cache once for 56 rows.
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
        crate::threads::each(y.chunks_mut(height * columns), |index, block| {
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
    crate::threads::each(blocks, |_, (row, column, mut block)| body(row, column, &mut block));
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
