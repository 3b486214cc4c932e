//! The tables of the rotation, in the orders in which the kernels read them.

use crate::{
    arithmetic::{Arithmetic, LANES},
    lane::Lane,
};

/// Cosines and sines for a map of `height` by `width` tokens.
///
/// The first half of a token's channels turns by its row, the second by its column, so there is a table for the rows and one
/// for the columns, and none for the tokens.
#[derive(Clone, Debug)]
pub struct Rotations {
    height: usize,
    width: usize,
    channels: usize,
    /// `[height, channels / 2]`: each cosine twice; and the sines, negative first.
    rows: [Vec<f32>; 2],
    /// `[width, channels / 2]`, the same.
    columns: [Vec<f32>; 2],
    /// `[channels / 4, width + 16]`: cosines and sines of the columns that follow one another, after the last the first again.
    across: [Vec<f32>; 2],
}

impl Rotations {
    /// From `rows`, `[height, channels / 4, 2]`, and `columns`, `[width, channels / 4, 2]`: the cosine and the sine of each pair
    /// of channels.
    ///
    /// # Panics
    /// If `channels` is no multiple of 4 or a length does not fit.
    pub fn new(rows: &[f32], columns: &[f32], channels: usize) -> Rotations {
        assert!(
            channels.is_multiple_of(4) && channels > 0,
            "rotations: pairs in two halves, found {channels} channels"
        );
        let half = channels / 2;
        assert!(
            rows.len().is_multiple_of(half) && columns.len().is_multiple_of(half),
            "rotations: lengths of the tables"
        );
        let (height, width) = (rows.len() / half, columns.len() / half);
        let pairs = |table: &[f32]| table.as_chunks::<2>().0.to_vec();
        let doubled = |table: &[f32]| {
            let pairs = pairs(table);
            [
                pairs.iter().flat_map(|[cos, _]| [*cos, *cos]).collect(),
                pairs.iter().flat_map(|[_, sin]| [-sin, *sin]).collect(),
            ]
        };
        let column_pairs = pairs(columns);
        let across = [0, 1].map(|part| {
            let positions = (0..width + LANES).map(|x| x % width.max(1));
            let turn = |pair: usize, x: usize| column_pairs.get(x * half / 2 + pair).map_or(0.0, |turn| turn[part]);
            (0..half / 2).flat_map(|pair| positions.clone().map(move |x| (pair, x))).map(|(m, x)| turn(m, x)).collect()
        });
        Rotations { height, width, channels, rows: doubled(rows), columns: doubled(columns), across }
    }

    /// Panics unless the tables are those of `tokens` tokens of `channels` channels.
    pub(super) fn check(&self, tokens: usize, channels: usize) {
        let found = (self.height * self.width, self.channels);
        assert_eq!(found, (tokens, channels), "linear attention: tokens and channels of the rotations");
    }

    /// Turns channels `first` and on of the key of a token in place, and adds what it was before to `sums`.
    #[inline(always)]
    pub(super) fn turn_key<A: Arithmetic>(&self, token: usize, first: usize, key: &mut [f32], sums: &mut [f32]) {
        let half = self.channels / 2;
        let (row, column) = (token / self.width * half, token % self.width * half);
        let split = half.saturating_sub(first).min(key.len());
        let (by_row, by_column) = key.split_at_mut(split);
        let (row_sums, column_sums) = sums.split_at_mut(split);
        turn::<A>(by_row, [&self.rows[0], &self.rows[1]], row + first.min(half), row_sums);
        let column = column + first.saturating_sub(half);
        turn::<A>(by_column, [&self.columns[0], &self.columns[1]], column, column_sums);
    }

    /// Turns the transposed queries of `count` tokens from `token` on, `[channels]` lanes, in place, and multiplies them by
    /// `scale`, a lane for each head.
    #[inline(always)]
    pub(super) fn turn_queries<A: Arithmetic>(&self, token: usize, count: usize, queries: &mut [Lane], scale: &[Lane]) {
        let (y, x) = (token / self.width, token % self.width);
        let head_dim = self.channels / scale.len();
        let quarter = self.channels / 4;
        let mut spans = [Lane::ZERO; LANES];
        let spans = spans_of_rows(x, self.width, count, &mut spans);
        for (pair, lanes) in queries.as_chunks_mut::<2>().0.iter_mut().enumerate() {
            let [cos, sin] = match pair.checked_sub(quarter) {
                None => self.of_rows::<A>(y, pair, spans),
                Some(pair) => {
                    let at = pair * (self.width + LANES) + x;
                    [A::load_part(&self.across[0][at..][..LANES]), A::load_part(&self.across[1][at..][..LANES])]
                }
            };
            let zero = A::splat(0.0);
            // A head of an odd width begins within a pair.
            let scales = [A::load(&scale[2 * pair / head_dim].0), A::load(&scale[(2 * pair + 1) / head_dim].0)];
            let (re, im) = (A::load(&lanes[0].0), A::load(&lanes[1].0));
            let minus_sin = A::mul_add_each(sin, A::splat(-1.0), zero);
            let turned_re = A::mul_add_each(re, cos, A::mul_add_each(im, minus_sin, zero));
            let turned_im = A::mul_add_each(im, cos, A::mul_add_each(re, sin, zero));
            A::store(A::mul_add_each(turned_re, scales[0], zero), &mut lanes[0].0);
            A::store(A::mul_add_each(turned_im, scales[1], zero), &mut lanes[1].0);
        }
    }

    /// Cosine and sine of a pair for tokens that lie in row `y` and those below it, one of `spans` in each.
    #[inline(always)]
    fn of_rows<A: Arithmetic>(&self, y: usize, pair: usize, spans: &[Lane]) -> [A::Register; 2] {
        let half = self.channels / 2;
        let turn = |row: usize| {
            let at = row * half + 2 * pair + 1;
            [A::splat(self.rows[0][at]), A::splat(self.rows[1][at])]
        };
        if spans.len() == 1 {
            return turn(y);
        }
        let mut sums = [A::splat(0.0); 2];
        for (row, span) in spans.iter().enumerate() {
            let [cos, sin] = turn(y + row);
            let span = A::load(&span.0);
            sums = [A::mul_add_each(cos, span, sums[0]), A::mul_add_each(sin, span, sums[1])];
        }
        sums
    }
}

/// For every row that `count` tokens from column `x` on lie in, a one for each token in it.
#[inline(always)]
fn spans_of_rows(x: usize, width: usize, count: usize, spans: &mut [Lane; LANES]) -> &[Lane] {
    let (mut row, mut column) = (0, x);
    for token in 0..count.min(LANES) {
        if column == width {
            (row, column) = (row + 1, 0);
        }
        spans[row].0[token] = 1.0;
        column += 1;
    }
    &spans[..=row]
}

/// `sums += x`, then every pair of `x` turned: x ⊙ cos + swapped(x) ⊙ (∓ sin), with the tables from `first` on.
#[inline(always)]
fn turn<A: Arithmetic>(x: &mut [f32], tables: [&[f32]; 2], first: usize, sums: &mut [f32]) {
    let [cos, sin] = tables.map(|table| &table[first..][..x.len()]);
    for at in (0..x.len()).step_by(LANES) {
        let part = at..x.len().min(at + LANES);
        let key = A::load_part(&x[part.clone()]);
        let sum = A::add(A::load_part(&sums[part.clone()]), key);
        A::store_part(sum, &mut sums[part.clone()]);
        let (cos, sin) = (A::load_part(&cos[part.clone()]), A::load_part(&sin[part.clone()]));
        let turned = A::mul_add_each(A::swap_pairs(key), sin, A::mul_add_each(key, cos, A::splat(0.0)));
        A::store_part(turned, &mut x[part]);
    }
}
