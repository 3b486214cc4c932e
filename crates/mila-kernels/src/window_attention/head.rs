//! One head of one window: what both passes begin with.

use super::{Window, WindowAttention, product, transpose};
use crate::{
    arithmetic::{Arithmetic, LANES},
    math,
};

/// A head of a window and where its operands are.
#[derive(Clone)]
pub(super) struct Head<'a> {
    pub(super) shape: WindowAttention,
    pub(super) qkv: &'a [f32],
    /// Biases of this head, followed by a lane of zeros.
    pub(super) table: &'a [f32],
    pub(super) window: Window,
    pub(super) head: usize,
    /// Floats of a row of tokens and of a row of channels: whole lanes.
    pub(super) sizes: Sizes,
}

/// Widths of rows in scratch memory.
#[derive(Clone, Copy)]
pub(super) struct Sizes {
    /// Of the tokens of a window.
    pub(super) tokens: usize,
    /// Of the channels of a head.
    pub(super) channels: usize,
}

impl Sizes {
    /// Floats of a matrix of tokens by channels.
    pub(super) fn map(self) -> usize {
        self.tokens * self.channels
    }

    /// Floats of a matrix of tokens by tokens.
    pub(super) fn square(self) -> usize {
        self.tokens * self.tokens
    }
}

/// q, k or v.
#[derive(Clone, Copy)]
pub(super) enum Part {
    Query,
    Key,
    Value,
}

impl Head<'_> {
    /// Writes a part of every token, times `scale`, to the rows of `y`, between zeros.
    #[inline(always)]
    pub(super) fn gather<A: Arithmetic>(&self, part: Part, scale: f32, y: &mut [f32]) {
        let channels = self.shape.map.channels;
        self.gather_from::<A>(self.qkv, (3 * channels, part as usize * channels), scale, y);
    }

    /// [`gather`](Self::gather) from a map whose tokens are `stride` floats, of which those of all heads begin at `first`.
    #[inline(always)]
    pub(super) fn gather_from<A: Arithmetic>(
        &self,
        map: &[f32],
        (stride, first): (usize, usize),
        scale: f32,
        y: &mut [f32],
    ) {
        let (d, width) = (self.shape.head_dim(), self.sizes.channels);
        let (first, scale) = (first + self.head * d, A::splat(scale));
        let (y, missing) = y[..self.sizes.map()].split_at_mut(self.window.len() * width);
        for (token, y) in self.window.tokens(self.shape.map).zip(y.chunks_exact_mut(width)) {
            let x = &map[token * stride + first..][..d];
            for (x, y) in x.chunks(LANES).zip(y.chunks_exact_mut(LANES)) {
                A::store_part(A::mul_add_each(A::load_part(x), scale, A::splat(0.0)), y);
            }
        }
        missing.fill(0.0);
    }

    /// Writes `exp(s_ij - max_j s_ij)` to `scores`, a row per key, and the sum of every query to `sums`.
    ///
    /// `queries`, scaled, and `keys` are rows of channels. What stands beyond the last query is finite.
    #[inline(always)]
    pub(super) fn weigh<A: Arithmetic>(&self, queries: &[f32], keys: &[f32], scores: &mut [f32], sums: &mut [f32]) {
        let (count, width) = (self.window.len(), self.sizes.tokens);
        product::<A>((keys, width), queries, (self.shape.head_dim(), count, width), scores);
        let scores = &mut scores[..count * width];
        // The largest score of every query stands where the sums will.
        sums.fill(f32::NEG_INFINITY);
        for (key, scores) in scores.chunks_exact_mut(width).enumerate() {
            self.add_bias::<A>(key, scores);
            for (largest, &score) in sums.iter_mut().zip(&*scores) {
                *largest = if score > *largest { score } else { *largest };
            }
        }
        for scores in scores.chunks_exact_mut(width) {
            for (score, &largest) in scores.iter_mut().zip(&*sums) {
                *score = math::exp::<A>(*score - largest);
            }
        }
        sums.fill(0.0);
        for scores in scores.chunks_exact(width) {
            sums.iter_mut().zip(scores).for_each(|(sum, &score)| *sum += score);
        }
    }

    /// Adds the biases of all queries for one key.
    #[inline(always)]
    fn add_bias<A: Arithmetic>(&self, key: usize, scores: &mut [f32]) {
        let (span, side) = (self.shape.span(), self.shape.side);
        let columns = self.window.columns.len();
        let (row, column) = (key / columns, key % columns);
        for (query_row, scores) in scores[..self.window.len()].chunks_exact_mut(columns).enumerate() {
            let first = (query_row + side - 1 - row) * span + side - 1 - column;
            for (at, scores) in scores.chunks_mut(LANES).enumerate() {
                let bias = A::load_part(&self.table[first + at * LANES..][..LANES]);
                A::store_part(A::add(A::load_part(scores), bias), scores);
            }
        }
    }

    /// The transpose of a part of every token, by way of `rows`.
    #[inline(always)]
    pub(super) fn gather_transposed<A: Arithmetic>(&self, part: Part, scale: f32, rows: &mut [f32], y: &mut [f32]) {
        self.gather::<A>(part, scale, rows);
        transpose::<A>(rows, self.sizes.channels, y, self.sizes.tokens);
    }
}
