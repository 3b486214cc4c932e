//! The attention of every token.

use super::head::{Head, Part, Sizes};
use super::{Window, WindowAttention, padded, product};
use crate::{
    arithmetic::{Arithmetic, LANES},
    isa::{Isa, Kernel},
    lane, scratch, threads,
};

/// Floats of results, about, that wait to be put in their places: 4 MiB.
const WAITING: usize = 1 << 20;

/// `y = o` of the module's equations.
///
/// `qkv` is `[batch, height, width, 3 channels]`, q before k before v; `table` is `[(2 side - 1)², heads]`, its rows by the
/// offset from key to query, rows first; `y` is `shape.map`.
///
/// # Panics
/// If a length does not fit.
pub fn forward(isa: Isa, qkv: &[f32], table: &[f32], shape: WindowAttention, y: &mut [f32]) {
    shape.check(qkv, table);
    assert_eq!(y.len(), shape.map.len(), "window attention: length of y");
    if y.is_empty() {
        return;
    }
    let stride = shape.offsets() + LANES;
    scratch::floats(shape.heads * stride, |tables| {
        shape.by_heads(table, stride, tables);
        Pass { isa, qkv, tables, shape }.run(y);
    });
}

struct Pass<'a> {
    isa: Isa,
    qkv: &'a [f32],
    /// `[heads, offsets and a lane of zeros]`
    tables: &'a [f32],
    shape: WindowAttention,
}

impl Pass<'_> {
    /// Some bands of windows at a time: each head of each window by itself, then all in their places.
    fn run(&self, y: &mut [f32]) {
        let WindowAttention { map, heads, side, .. } = self.shape;
        let (high, wide) = (self.shape.count(map.height), self.shape.count(map.width));
        let place = side.min(map.height) * side.min(map.width) * self.shape.head_dim();
        let band = wide * heads * place;
        let bands = map.batch * high;
        let group = (WAITING / band).clamp(1, bands);
        // First rows of bands, counted over all images.
        let row = |band: usize| match band % high {
            0 => band / high * map.height,
            window => band / high * map.height + self.shape.tokens(window, map.height).start,
        };
        scratch::floats(group * band, |results| {
            for first in (0..bands).step_by(group) {
                let last = bands.min(first + group);
                let results = &mut results[..(last - first) * band];
                threads::chunks(results, place, |index, result| {
                    let (window, head) = (first * wide + index / heads, index % heads);
                    self.head((window / wide, window % wide), head, result);
                });
                let rows = row(first)..row(last);
                let line = map.width * map.channels;
                let results = &*results;
                threads::chunks(&mut y[rows.start * line..rows.end * line], line, |index, y| {
                    let row = rows.start + index;
                    let (image, row) = (row / map.height, row % map.height);
                    let window = self.shape.window_of(row, map.height);
                    let above = row - self.shape.tokens(window, map.height).start;
                    self.put(&results[(image * high + window - first) * band..][..band], above, place, y);
                });
            }
        });
    }

    /// Computes one head of a window, `[tokens, head_dim]`.
    fn head(&self, (band, column): (usize, usize), head: usize, y: &mut [f32]) {
        let (shape, map) = (self.shape, self.shape.map);
        let high = shape.count(map.height);
        let window = Window {
            image: band / high,
            rows: shape.tokens(band % high, map.height),
            columns: shape.tokens(column, map.width),
        };
        let level = self.isa.level();
        let sizes = Sizes { tokens: padded(level, window.len()), channels: shape.head_dim().next_multiple_of(LANES) };
        let table = &self.tables[head * (shape.offsets() + LANES)..][..shape.offsets() + LANES];
        let head = Head { shape, qkv: self.qkv, table, window, head, sizes };
        scratch::lanes((4 * sizes.map() + sizes.square() + sizes.tokens) / LANES, |lanes| {
            self.isa.run(Attend { head, memory: lane::floats_mut(lanes), y });
        });
    }

    /// Puts the tokens that lie `above` rows below the first of their windows into a row of the map.
    fn put(&self, band: &[f32], above: usize, place: usize, y: &mut [f32]) {
        let WindowAttention { map, heads, .. } = self.shape;
        let d = self.shape.head_dim();
        for (window, results) in band.chunks_exact(place * heads).enumerate() {
            let columns = self.shape.tokens(window, map.width);
            let y = &mut y[columns.start * map.channels..columns.end * map.channels];
            for (head, result) in results.chunks_exact(place).enumerate() {
                let result = &result[above * columns.len() * d..][..columns.len() * d];
                for (token, x) in y.chunks_exact_mut(map.channels).zip(result.chunks_exact(d)) {
                    token[head * d..][..d].copy_from_slice(x);
                }
            }
        }
    }
}

struct Attend<'a> {
    head: Head<'a>,
    memory: &'a mut [f32],
    y: &'a mut [f32],
}

impl Kernel for Attend<'_> {
    type Output = ();

    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        let Attend { head, memory, y } = self;
        let (sizes, d, count) = (head.sizes, head.shape.head_dim(), head.window.len());
        let (rows, memory) = memory.split_at_mut(sizes.map());
        let (queries, memory) = memory.split_at_mut(sizes.map());
        let (keys, memory) = memory.split_at_mut(sizes.map());
        let (values, memory) = memory.split_at_mut(sizes.map());
        let (scores, sums) = memory.split_at_mut(sizes.square());
        head.gather_transposed::<A>(Part::Query, 1.0 / (d as f32).sqrt(), rows, queries);
        head.gather_transposed::<A>(Part::Key, 1.0, rows, keys);
        head.gather::<A>(Part::Value, 1.0, values);
        head.weigh::<A>(queries, keys, scores, sums);
        product::<A>((scores, sizes.tokens), values, (count, count, sizes.channels), rows);
        for ((y, x), &sum) in y.chunks_exact_mut(d).zip(rows.chunks_exact(sizes.channels)).zip(&sums[..count]) {
            let share = A::splat(1.0 / sum);
            for (y, x) in y.chunks_mut(LANES).zip(x.chunks_exact(LANES)) {
                A::store_part(A::mul_add_each(A::load_part(x), share, A::splat(0.0)), y);
            }
        }
    }
}
