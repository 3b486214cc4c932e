//! The gradients of the attention.

use std::ops::Range;

use super::head::{Head, Part, Sizes};
use super::{Window, WindowAttention, padded, product, transpose};
use crate::{
    arithmetic::{Arithmetic, LANES},
    isa::{Isa, Kernel},
    lane, scratch, threads,
};

/// Where [`backward`] writes its results.
#[derive(Debug)]
pub struct Gradients<'a> {
    /// Shaped as `qkv`.
    pub qkv: &'a mut [f32],
    /// Shaped as the table.
    pub table: &'a mut [f32],
}

/// The gradients of [`forward`](super::forward) for `dy`, shaped as its result.
///
/// # Panics
/// If a length does not fit.
pub fn backward(isa: Isa, qkv: &[f32], table: &[f32], shape: WindowAttention, dy: &[f32], gradients: Gradients<'_>) {
    shape.check(qkv, table);
    let WindowAttention { map, heads, .. } = shape;
    assert_eq!(dy.len(), map.len(), "window attention: length of dy");
    assert_eq!(gradients.qkv.len(), qkv.len(), "window attention: length of dqkv");
    assert_eq!(gradients.table.len(), table.len(), "window attention: length of dtable");
    let (line, high) = (3 * map.channels * map.width, shape.count(map.height));
    let stride = shape.offsets() + LANES;
    let mut tables = vec![0.0; heads * stride];
    shape.by_heads(table, stride, &mut tables);
    let mut rest = gradients.qkv;
    let images = if map.is_empty() { 0 } else { map.batch };
    let bands = (0..images).flat_map(|image| (0..high).map(move |window| (image, window))).map(|(image, window)| {
        let rows = shape.tokens(window, map.height);
        let (dqkv, after) = std::mem::take(&mut rest).split_at_mut(rows.len() * line);
        rest = after;
        Band { isa, qkv, tables: &tables, shape, dy, image, rows, dqkv }
    });
    let sums = threads::sum(heads * shape.offsets(), bands, |_, band: Band<'_>, sums| band.run(sums));
    for (head, sums) in sums.chunks_exact(shape.offsets()).enumerate() {
        let entries = gradients.table.iter_mut().skip(head).step_by(heads);
        entries.zip(sums).for_each(|(entry, &sum)| *entry = sum as f32);
    }
}

/// The windows beside each other in some rows of an image.
struct Band<'a> {
    isa: Isa,
    qkv: &'a [f32],
    tables: &'a [f32],
    shape: WindowAttention,
    dy: &'a [f32],
    image: usize,
    rows: Range<usize>,
    /// Of these rows.
    dqkv: &'a mut [f32],
}

impl Band<'_> {
    /// Writes the gradients of q, k and v, and adds those of the biases to `sums`, `[heads, offsets]`.
    fn run(self, sums: &mut [f32]) {
        let (shape, map) = (self.shape, self.shape.map);
        let stride = shape.offsets() + LANES;
        for column in 0..shape.count(map.width) {
            let (image, rows) = (self.image, self.rows.clone());
            let window = Window { image, rows, columns: shape.tokens(column, map.width) };
            let level = self.isa.level();
            let sizes =
                Sizes { tokens: padded(level, window.len()), channels: shape.head_dim().next_multiple_of(LANES) };
            scratch::lanes((7 * sizes.map() + 3 * sizes.square() + 2 * sizes.tokens) / LANES, |lanes| {
                let heads = self.tables.chunks_exact(stride).zip(sums.chunks_exact_mut(shape.offsets()));
                for (head, (table, sums)) in heads.enumerate() {
                    let head = Head { shape, qkv: self.qkv, table, window: window.clone(), head, sizes };
                    let memory = lane::floats_mut(lanes);
                    self.isa.run(Differentiate { head, dy: self.dy, memory, sums, dqkv: &mut *self.dqkv });
                }
            });
        }
    }
}

struct Differentiate<'a> {
    head: Head<'a>,
    dy: &'a [f32],
    memory: &'a mut [f32],
    sums: &'a mut [f32],
    /// The rows of the window, over the whole width of the map.
    dqkv: &'a mut [f32],
}

impl Kernel for Differentiate<'_> {
    type Output = ();

    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        let Differentiate { head, dy, memory, sums: biases, dqkv } = self;
        let (sizes, count) = (head.sizes, head.window.len());
        let scale = 1.0 / (head.shape.head_dim() as f32).sqrt();
        let mut memory = memory;
        let mut take = |len: usize| {
            let (piece, rest) = std::mem::take(&mut memory).split_at_mut(len);
            memory = rest;
            piece
        };
        let [queries, keys, values, outputs] = [(); 4].map(|()| take(sizes.map()));
        let [by_channel, other_by_channel, result] = [(); 3].map(|()| take(sizes.map()));
        let [scores, slopes, turned] = [(); 3].map(|()| take(sizes.square()));
        let [sums, means] = [(); 2].map(|()| take(sizes.tokens));

        // Rows of queries carry the scale, as dk wants them.
        head.gather::<A>(Part::Query, scale, queries);
        head.gather::<A>(Part::Key, 1.0, keys);
        head.gather::<A>(Part::Value, 1.0, values);
        let channels = head.shape.map.channels;
        head.gather_from::<A>(dy, (channels, 0), 1.0, outputs);

        // p, a row per key.
        transpose::<A>(queries, sizes.channels, by_channel, sizes.tokens);
        transpose::<A>(keys, sizes.channels, other_by_channel, sizes.tokens);
        head.weigh::<A>(by_channel, other_by_channel, scores, sums);
        for sum in sums.iter_mut() {
            *sum = 1.0 / *sum;
        }
        for row in scores.chunks_exact_mut(sizes.tokens).take(count) {
            for (p, &share) in row.iter_mut().zip(&*sums) {
                *p *= share;
            }
        }
        // dv = p g: a row per query.
        transpose_square::<A>(scores, turned, (count, sizes.tokens));
        product::<A>((turned, sizes.tokens), outputs, (count, count, sizes.channels), result);
        head.put(result, 2, dqkv);

        // ds = p (v g - r), a row per key.
        transpose::<A>(values, sizes.channels, other_by_channel, sizes.tokens);
        transpose::<A>(outputs, sizes.channels, by_channel, sizes.tokens);
        let d = head.shape.head_dim();
        product::<A>((other_by_channel, sizes.tokens), by_channel, (d, count, sizes.tokens), slopes);
        means.fill(0.0);
        for (p, slopes) in scores.chunks_exact(sizes.tokens).zip(slopes.chunks_exact(sizes.tokens)).take(count) {
            for ((mean, &p), &slope) in means.iter_mut().zip(p).zip(slopes) {
                *mean = A::mul_add(p, slope, *mean);
            }
        }
        for (p, slopes) in scores.chunks_exact(sizes.tokens).zip(slopes.chunks_exact_mut(sizes.tokens)).take(count) {
            for ((&mean, &p), slope) in means.iter().zip(p).zip(slopes) {
                *slope = p * (*slope - mean);
            }
        }
        for (key, slopes) in slopes.chunks_exact(sizes.tokens).enumerate().take(count) {
            head.add_to_biases(key, slopes, biases);
        }
        transpose_square::<A>(slopes, turned, (count, sizes.tokens));
        product::<A>((turned, sizes.tokens), queries, (count, count, sizes.channels), result);
        head.put(result, 1, dqkv);
        product::<A>((slopes, sizes.tokens), keys, (count, count, sizes.channels), result);
        for x in result.iter_mut() {
            *x *= scale;
        }
        head.put(result, 0, dqkv);
    }
}

/// Transposes the first `count` rows of a square of `width`; what they do not reach becomes zero.
#[inline(always)]
fn transpose_square<A: Arithmetic>(x: &mut [f32], y: &mut [f32], (count, width): (usize, usize)) {
    x[count * width..].fill(0.0);
    transpose::<A>(x, width, y, width);
}

impl Head<'_> {
    /// Writes rows of channels to a part of the gradient's tokens.
    #[inline(always)]
    fn put(&self, x: &[f32], part: usize, dqkv: &mut [f32]) {
        let (map, d) = (self.shape.map, self.shape.head_dim());
        let first = part * map.channels + self.head * d;
        let columns = self.window.columns.clone();
        let mut rows = x.chunks_exact(self.sizes.channels);
        for line in dqkv.chunks_exact_mut(3 * map.channels * map.width) {
            let tokens = line.chunks_exact_mut(3 * map.channels).skip(columns.start).take(columns.len());
            for (token, x) in tokens.zip(&mut rows) {
                token[first..][..d].copy_from_slice(&x[..d]);
            }
        }
    }

    /// Adds the slopes of all queries for one key to those of their biases.
    #[inline(always)]
    fn add_to_biases(&self, key: usize, slopes: &[f32], biases: &mut [f32]) {
        let (span, side) = (self.shape.span(), self.shape.side);
        let columns = self.window.columns.len();
        let (row, column) = (key / columns, key % columns);
        for (query_row, slopes) in slopes[..self.window.len()].chunks_exact(columns).enumerate() {
            let first = (query_row + side - 1 - row) * span + side - 1 - column;
            for (bias, slope) in biases[first..][..columns].iter_mut().zip(slopes) {
                *bias += slope;
            }
        }
    }
}
