//! Matrix products with a packed right-hand side.
//!
//! A tile of the result stays in registers while the product runs down the depth. With AVX-512 it is 14 rows of a panel of
//! 32 columns: per step it loads two lanes of the panel and broadcasts 14 floats of a strip, for 28
//! multiply-adds, as many as two load ports can feed. 14 rows fill the 32 registers and divide the maps of a 224-pixel image
//! (3136, 784 and 196 tokens; 49 leaves a tile of 7). AVX2, with half the registers of half the width, takes 6 rows of 16
//! columns.

use std::ops::Range;

use crate::{
    activation::Activation,
    arithmetic::{Arithmetic, LANES},
    isa::{Isa, Kernel, Level},
    lane::{self, Lane},
    matrix::{PANEL, PackedMatrix},
    threads,
    tile::Steps,
};

/// Steps of the depth that one lane of the right-hand side, half of a first-level cache, is multiplied over for all rows; then
/// the next ones.
const STEPS: usize = 256;

/// The left-hand matrix of a product.
#[derive(Clone, Copy)]
pub(crate) enum Left<'a> {
    /// Strips of rows, one after another.
    Strips(&'a [Lane]),
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
    /// Strips of all columns, the left-hand side of the next product.
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
        let stretches = Stretches::of::<A>(self.right.depth());
        let panels = self.panels.clone();
        match self.target {
            Target::Rows { .. } => {
                for stretch in 0..stretches.count {
                    for panel in panels.clone() {
                        self.tiles::<A>(panel, stretches, stretch..stretch + 1);
                    }
                }
            }
            Target::Strips(_) => {
                for panel in panels {
                    self.tiles::<A>(panel, stretches, 0..stretches.count);
                }
            }
        }
    }
}

/// The depth in stretches of about the same length: one for AVX-512, of [`STEPS`] at most for others.
#[derive(Clone, Copy)]
struct Stretches {
    depth: usize,
    count: usize,
}

impl Stretches {
    #[inline(always)]
    fn of<A: Arithmetic>(depth: usize) -> Stretches {
        let count = match A::LEVEL {
            Level::Avx512 => 1,
            Level::Avx2 | Level::Portable => depth.div_ceil(STEPS).max(1),
        };
        Stretches { depth, count }
    }

    /// The steps of one.
    #[inline(always)]
    fn steps(self, stretch: usize) -> Range<usize> {
        let size = self.depth.div_ceil(self.count);
        stretch * size..self.depth.min((stretch + 1) * size)
    }
}

impl Product<'_> {
    /// One panel over some stretches of the depth, in the tiles of the instruction set.
    #[inline(always)]
    fn tiles<A: Arithmetic>(&mut self, panel: usize, of: Stretches, stretches: Range<usize>) {
        match A::LEVEL {
            Level::Avx512 => self.panel::<A, 14, 2>(panel, of, stretches),
            Level::Avx2 => self.panel::<A, 6, 1>(panel, of, stretches),
            Level::Portable => self.panel::<A, 3, 1>(panel, of, stretches),
        }
    }

    /// The same in tiles of `R` rows and `L` lanes.
    #[inline(always)]
    fn panel<A: Arithmetic, const R: usize, const L: usize>(
        &mut self,
        panel: usize,
        of: Stretches,
        stretches: Range<usize>,
    ) {
        for lane in (0..PANEL / LANES).step_by(L) {
            let first = panel * PANEL + lane * LANES;
            let columns = first..self.right.columns().min(first + L * LANES);
            if columns.is_empty() {
                return;
            }
            // Where a strip has fewer lanes left than rows, it cannot keep sums between stretches. The order of sums must not depend
            // on the target, which the number of threads decides about.
            let (of, stretches) = match columns.len() < LANES {
                true => (Stretches { count: 1, ..of }, 0..usize::from(stretches.start == 0)),
                false => (of, stretches.clone()),
            };
            for stretch in stretches {
                let depth = of.steps(stretch);
                let mut start = [Lane::ZERO; L];
                if let (Start::Bias(bias), 0) = (self.start, depth.start) {
                    let lanes = start.iter_mut().zip(bias[columns.clone()].chunks(LANES));
                    lanes.for_each(|(lane, bias)| lane.set(bias));
                }
                let right = self.right;
                let mut tiles = Tiles {
                    steps: right.steps::<L>(panel, lane).after(depth.start),
                    onto_result: depth.start > 0 || matches!(self.start, Start::Result),
                    is_last: depth.end == right.depth(),
                    depth,
                    columns: columns.clone(),
                    start,
                    tile: [[Lane::ZERO; L]; R],
                    product: self,
                };
                let mut row = 0;
                row = tiles.rows::<A, R>(row);
                row = tiles.rows::<A, 8>(row);
                row = tiles.rows::<A, 7>(row);
                row = tiles.rows::<A, 4>(row);
                row = tiles.rows::<A, 3>(row);
                tiles.rows::<A, 1>(row);
            }
        }
    }
}

/// The tiles of `L` lanes of a panel.
struct Tiles<'t, 'a, const MOST: usize, const L: usize> {
    /// The right-hand side, from the first of these steps on.
    steps: Steps<'t>,
    /// Steps of the depth.
    depth: Range<usize>,
    /// Columns of the right-hand side.
    columns: Range<usize>,
    start: [Lane; L],
    /// Whether the tile is added to what the result holds.
    onto_result: bool,
    /// Whether these are the last steps, after which activation and residual follow.
    is_last: bool,
    /// The tile that is being computed.
    tile: [[Lane; L]; MOST],
    product: &'t mut Product<'a>,
}

impl<const MOST: usize, const L: usize> Tiles<'_, '_, MOST, L> {
    /// Computes tiles of `R` rows from `row` on while they fit; returns the first row that is left.
    #[inline(always)]
    fn rows<A: Arithmetic, const R: usize>(&mut self, mut row: usize) -> usize {
        let (whole, depth) = (self.product.right.depth(), self.depth.len());
        while row + R <= self.product.rows && row % A::STRIP + R <= A::STRIP {
            let left = match self.product.left {
                Left::Strips(strips) => Steps {
                    floats: lane::floats(&strips[row / A::STRIP * whole..][..whole])
                        .get(row % A::STRIP..)
                        .unwrap_or_default(),
                    stride: LANES,
                },
                Left::Columns { x, stride } => Steps { floats: &x[row..], stride },
            }
            .after(self.depth.start);
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
        let Product { activation, rows, residual, right, ref panels, ref mut target, .. } = *self.product;
        let tile = &mut self.tile[..R];
        let columns = self.columns.clone();
        match target {
            Target::Rows { y, stride } => {
                let first = columns.start - panels.start * PANEL;
                if self.onto_result {
                    for (r, lanes) in tile.iter_mut().enumerate() {
                        let y = &y[(row + r) * *stride + first..][..columns.len()];
                        for (lane, y) in lanes.iter_mut().zip(y.chunks(LANES)) {
                            A::store(A::add(A::load_part(y), A::load(&lane.0)), &mut lane.0);
                        }
                    }
                }
                if self.is_last {
                    activation.finish_lanes::<A>(tile.as_flattened_mut());
                }
                let residual = residual.filter(|_| self.is_last);
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
                match strip.first_chunk_mut() {
                    Some(square) if L == 1 => {
                        let tile = tile.as_flattened();
                        keep_rows::<A>(tile, self.onto_result, &mut square[first..]);
                        let end = first + R;
                        if self.is_last && (end == A::STRIP || row + R == rows) {
                            activation.finish_lanes::<A>(&mut square[..end]);
                            transpose::<A>(square);
                        }
                    }
                    _ => {
                        activation.finish_lanes::<A>(tile.as_flattened_mut());
                        for (l, strip) in strip.chunks_mut(LANES).enumerate() {
                            store_columns::<A, L>(tile, l, first, strip);
                        }
                    }
                }
            }
        }
    }
}

/// Writes the rows of a tile to lanes, or adds them to what is there.
#[inline(always)]
fn keep_rows<A: Arithmetic>(tile: &[Lane], onto_result: bool, lanes: &mut [Lane]) {
    for (lane, row) in lanes.iter_mut().zip(tile) {
        let row = A::load(&row.0);
        let sum = if onto_result { A::add(A::load(&lane.0), row) } else { row };
        A::store(sum, &mut lane.0);
    }
}

/// Transposes sixteen lanes in place.
#[inline(always)]
fn transpose<A: Arithmetic>(square: &mut [Lane; LANES]) {
    let mut rows = [A::splat(0.0); LANES];
    for (row, lane) in rows.iter_mut().zip(square.iter()) {
        *row = A::load(&lane.0);
    }
    for (lane, column) in square.iter_mut().zip(A::transpose(rows)) {
        A::store(column, &mut lane.0);
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
