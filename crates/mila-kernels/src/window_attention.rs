//! Softmax attention within windows of a map, with a bias for relative positions (Swin, arXiv:2103.14030, eq. 4).
//!
//! For each head of d channels and each window, with i and j over its tokens and (y, x) their positions:
//!
//! ```text
//! s_ij = q_iᵀ k_j / √d + b[y_i - y_j, x_i - x_j]      p_ij = exp(s_ij) / Σ_j exp(s_ij)      o_i = Σ_j p_ij v_j
//! ```
//!
//! Borders of windows lie at `shift`, `shift + side` and so on along each axis, and the map ends what reaches beyond it; an
//! axis of at most `side` tokens is one window.
//!
//! Scores are kept with the queries side by side, one row per key: a softmax then goes down the rows, sixteen queries at a
//! time, and both products read what they need as it lies.
//!
//! Backward, with g = do and r_i = Σ_j p_ij (g_iᵀ v_j):
//!
//! ```text
//! dv_j = Σ_i p_ij g_i      ds_ij = p_ij (g_iᵀ v_j - r_i)      dq_i = Σ_j ds_ij k_j / √d      dk_j = Σ_i ds_ij q_i / √d
//! db[y, x] = Σ ds_ij over all images, windows, i and j with y_i - y_j = y, x_i - x_j = x
//! ```

use std::ops::Range;

use crate::{
    arithmetic::{Arithmetic, LANES},
    isa::Level,
    lane::Lane,
    shape::Map,
    tile::{Factors, Steps},
};

mod backward;
mod forward;
mod head;
#[cfg(test)]
mod tests;

pub use backward::{Gradients, backward};
pub use forward::forward;

/// The shape of the operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WindowAttention {
    /// Of the result.
    pub map: Map,
    /// Heads, a divisor of the channels; a head is a contiguous block of channels.
    pub heads: usize,
    /// Tokens on a side of a window, at least 1.
    pub side: usize,
    /// Tokens before the first border, below `side`.
    pub shift: usize,
}

impl WindowAttention {
    fn head_dim(&self) -> usize {
        self.map.channels / self.heads
    }

    /// Offsets along an axis.
    fn span(&self) -> usize {
        2 * self.side - 1
    }

    /// Values of the table of one head.
    fn offsets(&self) -> usize {
        self.span() * self.span()
    }

    /// Windows along an axis of `extent` tokens.
    fn count(&self, extent: usize) -> usize {
        if extent <= self.side {
            return extent.min(1);
        }
        usize::from(self.shift > 0) + (extent - self.shift).div_ceil(self.side)
    }

    /// The tokens of a window along an axis.
    fn tokens(&self, window: usize, extent: usize) -> Range<usize> {
        if extent <= self.side {
            return 0..extent;
        }
        let end = match self.shift {
            0 => (window + 1) * self.side,
            shift => window * self.side + shift,
        };
        end.saturating_sub(self.side)..end.min(extent)
    }

    /// The window along an axis of `extent` tokens that holds `token`.
    fn window_of(&self, token: usize, extent: usize) -> usize {
        match (extent <= self.side, self.shift) {
            (true, _) => 0,
            (_, 0) => token / self.side,
            (_, shift) => (token + self.side - shift) / self.side,
        }
    }

    fn check(&self, qkv: &[f32], table: &[f32]) {
        let WindowAttention { map, heads, side, shift } = *self;
        assert!(shift < side, "window attention: a shift of {shift}, a side of {side}");
        assert!(heads > 0 && map.channels.is_multiple_of(heads), "window attention: {map:?}, {heads} heads");
        assert_eq!(qkv.len(), 3 * map.len(), "window attention: qkv is {map:?} three times");
        assert_eq!(table.len(), self.offsets() * heads, "window attention: table is [{}, {heads}]", self.offsets());
    }

    /// Writes the table, `[offsets, heads]`, as `[heads, offsets]`, each head followed by zeros to `stride` floats.
    fn by_heads(&self, table: &[f32], stride: usize, y: &mut [f32]) {
        for (head, y) in y.chunks_exact_mut(stride).enumerate() {
            let (values, rest) = y.split_at_mut(self.offsets());
            values.iter_mut().zip(table.iter().skip(head).step_by(self.heads)).for_each(|(y, x)| *y = *x);
            rest.fill(0.0);
        }
    }
}

/// One window of one image.
#[derive(Clone)]
struct Window {
    image: usize,
    rows: Range<usize>,
    columns: Range<usize>,
}

impl Window {
    fn len(&self) -> usize {
        self.rows.len() * self.columns.len()
    }

    /// The tokens of the whole map that are this window's, in order.
    fn tokens(&self, map: Map) -> impl Iterator<Item = usize> + use<> {
        let (first, columns) = (self.image * map.height, self.columns.clone());
        self.rows.clone().flat_map(move |row| columns.clone().map(move |column| (first + row) * map.width + column))
    }
}

/// Rows of a tile of a product.
const fn tile_rows(level: Level) -> usize {
    match level {
        Level::Avx512 => 14,
        Level::Avx2 => 6,
        Level::Portable => 3,
    }
}

/// Floats of a row for `tokens` tokens: whole lanes that whole tiles fit into.
fn padded(level: Level, tokens: usize) -> usize {
    tokens.next_multiple_of(tile_rows(level)).next_multiple_of(LANES)
}

/// `y[r][..] = Σᵢ left[i][r] · right[i][..]` over `depth` steps, for whole tiles of rows that hold at least `rows`.
///
/// `left` and `right` are rows of `left_width` and `width` floats, `y` rows of `width`; all widths are whole lanes.
#[inline(always)]
fn product<A: Arithmetic>(
    left: (&[f32], usize),
    right: &[f32],
    (depth, rows, width): (usize, usize, usize),
    y: &mut [f32],
) {
    match A::LEVEL {
        Level::Avx512 => tiles::<A, 14, 2>(left, right, (depth, rows, width), y),
        Level::Avx2 => tiles::<A, 6, 1>(left, right, (depth, rows, width), y),
        Level::Portable => tiles::<A, 3, 1>(left, right, (depth, rows, width), y),
    }
}

#[inline(always)]
fn tiles<A: Arithmetic, const R: usize, const L: usize>(
    left: (&[f32], usize),
    right: &[f32],
    sizes: (usize, usize, usize),
    y: &mut [f32],
) {
    let lanes = sizes.2 / LANES;
    let whole = lanes - lanes % L;
    for lane in (0..whole).step_by(L) {
        column::<A, R, L>(left, right, sizes, lane, y);
    }
    for lane in whole..lanes {
        column::<A, R, 1>(left, right, sizes, lane, y);
    }
}

/// `L` lanes of every row.
#[inline(always)]
fn column<A: Arithmetic, const R: usize, const L: usize>(
    (left, left_width): (&[f32], usize),
    right: &[f32],
    (depth, rows, width): (usize, usize, usize),
    lane: usize,
    y: &mut [f32],
) {
    let start = [Lane::ZERO; L];
    let mut tile = [[Lane::ZERO; L]; R];
    let right = Steps { floats: &right[lane * LANES..], stride: width };
    for row in (0..rows).step_by(R) {
        let left = Factors { floats: &left[row..], step: left_width, row: 1 };
        A::multiply(left, right, depth, &start, &mut tile);
        for (r, lanes) in tile.iter().enumerate() {
            let y = &mut y[(row + r) * width + lane * LANES..][..L * LANES];
            for (y, lane) in y.as_chunks_mut().0.iter_mut().zip(lanes) {
                A::store(A::load(&lane.0), y);
            }
        }
    }
}

/// Writes the transpose of `x`, rows of `width` floats as many as `y` is wide, to `y`, rows of `y_width`; whole lanes both.
#[inline(always)]
fn transpose<A: Arithmetic>(x: &[f32], width: usize, y: &mut [f32], y_width: usize) {
    for r in (0..y_width).step_by(LANES) {
        for c in (0..width).step_by(LANES) {
            let mut rows = [A::splat(0.0); LANES];
            for (i, row) in rows.iter_mut().enumerate() {
                *row = A::load_part(&x[(r + i) * width + c..][..LANES]);
            }
            for (i, column) in A::transpose(rows).into_iter().enumerate() {
                A::store_part(column, &mut y[(c + i) * y_width + r..][..LANES]);
            }
        }
    }
}
