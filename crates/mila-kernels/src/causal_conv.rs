//! Causal depthwise convolutions: each token sees itself and some tokens before it, wherever these lie in the map.
//!
//! A table says which token a tap reads, so every order of the tokens is the same work, and no map is copied into it.

use crate::{
    activation::Activation,
    arithmetic::Arithmetic,
    isa::{Isa, Kernel},
    threads,
};

/// In a table of tokens, a tap that reads nothing.
pub const NONE: u32 = u32::MAX;

/// `y = activation(bias + Σ_j weight_j ⊙ x[table_j])` for every token whose last tap reads something, and zero for others,
/// whatever the activation is at zero; `x` and `y` are `[batch, tokens, channels]`, `table` is `[tokens, taps]` and `weight`
/// `[taps, channels]`.
///
/// With the inverse of the table, without bias and activation, it makes the gradient for `x` of that for `y`.
///
/// # Panics
/// If a length does not fit, or a token of the table lies beyond the map.
pub fn forward(
    isa: Isa,
    x: &[f32],
    table: &[u32],
    (weight, taps): (&[f32], usize),
    bias: Option<&[f32]>,
    activation: Activation,
    y: &mut [f32],
) {
    let shape = Shape::new(x, table, weight.len(), taps);
    assert_eq!(x.len(), y.len(), "causal convolution: length of y");
    assert_eq!(bias.map_or(shape.channels, <[f32]>::len), shape.channels, "causal convolution: length of the bias");
    let rows = threads::piece_rows(shape.channels);
    threads::chunks(y, rows * shape.channels, |index, y| {
        isa.run(Forward { shape, x, table, weight, bias, activation, first: index * rows, y });
    });
}

/// The gradients of [`forward`] without its activation for `weight`, `[taps, channels]`, and `bias`, given `dy`.
///
/// # Panics
/// If a length does not fit, or a token of the table lies beyond the map.
pub fn backward_weight(
    isa: Isa,
    x: &[f32],
    table: &[u32],
    dy: &[f32],
    (dweight, taps): (&mut [f32], usize),
    dbias: &mut [f32],
) {
    let shape = Shape::new(x, table, dweight.len(), taps);
    assert_eq!(x.len(), dy.len(), "causal convolution: length of dy");
    assert_eq!(dbias.len(), shape.channels, "causal convolution: length of dbias");
    let rows = threads::piece_rows(shape.channels);
    let pieces = dy.chunks(rows * shape.channels);
    let sums = threads::sum(dweight.len() + dbias.len(), pieces, |index, dy, sums| {
        isa.run(BackwardWeight { shape, x, table, dy, first: index * rows, sums });
    });
    threads::narrow(&sums[..dweight.len()], dweight);
    threads::narrow(&sums[dweight.len()..], dbias);
}

#[derive(Clone, Copy)]
struct Shape {
    tokens: usize,
    channels: usize,
    taps: usize,
}

impl Shape {
    fn new(x: &[f32], table: &[u32], weight: usize, taps: usize) -> Self {
        assert!(
            taps > 0 && weight > 0 && weight.is_multiple_of(taps),
            "causal convolution: {weight} weights, {taps} taps"
        );
        assert!(!table.is_empty() && table.len().is_multiple_of(taps), "causal convolution: length of the table");
        let (tokens, channels) = (table.len() / taps, weight / taps);
        assert!(x.len().is_multiple_of(tokens * channels), "causal convolution: x is images of {tokens} tokens");
        let beyond = table.iter().find(|&&token| token != NONE && token as usize >= tokens);
        assert!(beyond.is_none(), "causal convolution: token {beyond:?} of {tokens}");
        Self { tokens, channels, taps }
    }

    /// Whether a row of the whole batch has an output: the last tap reads the row itself.
    #[inline(always)]
    fn is_visited(self, table: &[u32], row: usize) -> bool {
        table[(row % self.tokens + 1) * self.taps - 1] != NONE
    }

    /// What the taps of a row of the whole batch read: their number and the row of `x`.
    #[inline(always)]
    fn sources<'a>(self, x: &'a [f32], table: &'a [u32], row: usize) -> impl Iterator<Item = (usize, &'a [f32])> {
        let (image, token) = (row / self.tokens * self.tokens, row % self.tokens);
        let taps = table[token * self.taps..][..self.taps].iter().enumerate();
        taps.filter(|&(_, &source)| source != NONE)
            .map(move |(tap, &source)| (tap, &x[(image + source as usize) * self.channels..][..self.channels]))
    }
}

struct Forward<'a> {
    shape: Shape,
    x: &'a [f32],
    table: &'a [u32],
    weight: &'a [f32],
    bias: Option<&'a [f32]>,
    activation: Activation,
    first: usize,
    y: &'a mut [f32],
}

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        let Forward { shape, x, table, weight, bias, activation, first, y } = self;
        for (row, y) in y.chunks_exact_mut(shape.channels).enumerate() {
            if !shape.is_visited(table, first + row) {
                y.fill(0.0);
                continue;
            }
            match bias {
                Some(bias) => y.copy_from_slice(bias),
                None => y.fill(0.0),
            }
            for (tap, x) in shape.sources(x, table, first + row) {
                let weight = &weight[tap * shape.channels..][..shape.channels];
                for ((y, x), weight) in y.iter_mut().zip(x).zip(weight) {
                    *y = A::mul_add(*x, *weight, *y);
                }
            }
            activation.finish::<A>(y);
        }
    }
}

struct BackwardWeight<'a> {
    shape: Shape,
    x: &'a [f32],
    table: &'a [u32],
    dy: &'a [f32],
    first: usize,
    /// `[taps + 1, channels]`: the weight's, then the bias's.
    sums: &'a mut [f32],
}

impl Kernel for BackwardWeight<'_> {
    type Output = ();

    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        let BackwardWeight { shape, x, table, dy, first, sums } = self;
        let (dweight, dbias) = sums.split_at_mut(shape.taps * shape.channels);
        for (row, dy) in dy.chunks_exact(shape.channels).enumerate() {
            if !shape.is_visited(table, first + row) {
                continue;
            }
            for (sum, dy) in dbias.iter_mut().zip(dy) {
                *sum += dy;
            }
            for (tap, x) in shape.sources(x, table, first + row) {
                let sums = &mut dweight[tap * shape.channels..][..shape.channels];
                for ((sum, x), dy) in sums.iter_mut().zip(x).zip(dy) {
                    *sum = A::mul_add(*x, *dy, *sum);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, everywhere, gradient, numbers, unwritten, wide};

    /// Tokens in turns from both ends, in two segments: an order that no map has.
    fn order(tokens: usize) -> Vec<usize> {
        (0..tokens).map(|i| if i % 2 == 0 { i / 2 } else { tokens - 1 - i / 2 }).collect()
    }

    /// The table of the order, whose second half begins anew, and its inverse.
    fn tables(tokens: usize, taps: usize) -> [Vec<u32>; 2] {
        let (order, half) = (order(tokens), tokens.div_ceil(2));
        let mut tables = [vec![NONE; tokens * taps], vec![NONE; tokens * taps]];
        for (step, &token) in order.iter().enumerate() {
            for tap in 0..taps {
                let source = (step + tap + 1).checked_sub(taps).filter(|source| source / half == step / half);
                if let Some(source) = source {
                    tables[0][token * taps + tap] = order[source] as u32;
                    tables[1][order[source] * taps + tap] = token as u32;
                }
            }
        }
        tables
    }

    fn naive(x: &[f64], table: &[u32], weight: &[f64], bias: &[f64]) -> Vec<f64> {
        let (channels, taps) = (bias.len(), weight.len() / bias.len());
        let tokens = table.len() / taps;
        let value = |row: usize, c: usize| -> f64 {
            let image = row / tokens * tokens;
            let tap = |tap: usize| match table[row % tokens * taps + tap] {
                NONE => 0.0,
                source => weight[tap * channels + c] * x[(image + source as usize) * channels + c],
            };
            bias[c] + (0..taps).map(tap).sum::<f64>()
        };
        (0..x.len() / channels).flat_map(|row| (0..channels).map(move |c| value(row, c))).collect()
    }

    const CASES: [(usize, usize, usize, usize); 6] =
        [(0, 4, 8, 4), (1, 1, 24, 4), (2, 7, 32, 4), (1, 49, 60, 3), (2, 63, 7, 1), (1, 196, 96, 4)];

    #[test]
    fn outputs_are_those_of_the_definition() {
        for (batch, tokens, channels, taps) in CASES {
            let [table, _] = tables(tokens, taps);
            let x = numbers(1, batch * tokens * channels);
            let (weight, bias) = (numbers(2, taps * channels), numbers(3, channels));
            let plain = naive(&wide(&x), &table, &wide(&weight), &wide(&bias));
            let silu: Vec<f64> = plain.iter().map(|y| y / (1.0 + (-y).exp())).collect();
            for (activation, wanted) in [(Activation::None, &plain), (Activation::Silu, &silu)] {
                everywhere(
                    |isa| {
                        let mut y = unwritten(x.len());
                        forward(isa, &x, &table, (&weight, taps), Some(&bias), activation, &mut y);
                        vec![y]
                    },
                    |isa, y| assert_close(format!("{isa} {tokens}x{channels}"), &y[0], wanted, 1e-6),
                );
            }
        }
    }

    #[test]
    fn gradients_are_those_of_finite_differences() {
        for (batch, tokens, channels, taps) in [(2, 7, 6, 4), (1, 1, 5, 3), (1, 12, 3, 2)] {
            let [table, inverse] = tables(tokens, taps);
            let (x, dy) = (numbers(1, batch * tokens * channels), numbers(4, batch * tokens * channels));
            let (weight, bias) = (numbers(2, taps * channels), numbers(3, channels));
            let [wide_x, wide_weight, wide_bias] = [&x, &weight, &bias].map(|values| wide(values));
            let wanted = [
                gradient(&x, &dy, |x| naive(x, &table, &wide_weight, &wide_bias)),
                gradient(&weight, &dy, |weight| naive(&wide_x, &table, weight, &wide_bias)),
                gradient(&bias, &dy, |bias| naive(&wide_x, &table, &wide_weight, bias)),
            ];
            everywhere(
                |isa| {
                    let (mut dx, mut dweight, mut dbias) =
                        (unwritten(x.len()), unwritten(weight.len()), unwritten(bias.len()));
                    forward(isa, &dy, &inverse, (&weight, taps), None, Activation::None, &mut dx);
                    backward_weight(isa, &x, &table, &dy, (&mut dweight, taps), &mut dbias);
                    vec![dx, dweight, dbias]
                },
                |isa, found| {
                    for (found, wanted) in found.iter().zip(&wanted) {
                        assert_close(isa, found, wanted, 1e-5);
                    }
                },
            );
        }
    }

    #[test]
    fn a_token_that_no_tap_reads_has_no_output() {
        let (x, table) = ([1.0, 2.0, 4.0], [NONE, 2, NONE, NONE, NONE, 0]);
        let mut y = unwritten(3);
        forward(Isa::detect(), &x, &table, (&[10.0, 1.0], 2), Some(&[0.5]), Activation::None, &mut y);
        assert_eq!(y, [4.5, 0.0, 1.5]);
        // Nor one of an activation that is not zero at zero.
        for (activation, wanted) in
            [(Activation::Softplus, [4.511_048, 1.701_413]), (Activation::EluPlusOne, [5.5, 2.5])]
        {
            everywhere(
                |isa| {
                    let mut y = unwritten(3);
                    forward(isa, &x, &table, (&[10.0, 1.0], 2), Some(&[0.5]), activation, &mut y);
                    vec![y]
                },
                |isa, y| {
                    assert_eq!(y[0][1], 0.0, "{isa}, {activation:?}");
                    assert_close(isa, &[y[0][0], y[0][2]], &wanted, 1e-6);
                },
            );
        }
        let (mut dweight, mut dbias) = (unwritten(2), unwritten(1));
        backward_weight(Isa::detect(), &x, &table, &[1.0, 100.0, 10.0], (&mut dweight, 2), &mut dbias);
        assert_eq!((dweight, dbias), (vec![0.0, 14.0], vec![11.0]));
    }

    #[test]
    #[should_panic(expected = "token Some(2) of 2")]
    fn a_token_beyond_the_map_is_refused() {
        forward(Isa::detect(), &[0.0; 2], &[0, 2], (&[1.0], 1), None, Activation::None, &mut [0.0; 2]);
    }
}
