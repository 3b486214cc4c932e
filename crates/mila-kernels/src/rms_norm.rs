//! Normalisation by the root mean square of each row: y = x / sqrt(mean(x²) + ε) · weight (arXiv 1910.07467).

use crate::{
    arithmetic::Arithmetic,
    isa::{Isa, Kernel},
    reduce, threads,
};

/// Normalises every row of `x`, `[rows, channels]`, into `y`; `weight` is `[channels]`.
///
/// # Panics
/// If a length does not fit.
pub fn forward(isa: Isa, x: &[f32], weight: &[f32], eps: f32, y: &mut [f32]) {
    let size = piece(x, weight, y.len());
    threads::chunks(y, size, |index, y| {
        let x = &x[index * size..][..y.len()];
        isa.run(Forward { x, weight, eps, y });
    });
}

/// The gradients of [`forward`] at `x` for `dy`, both `[rows, channels]`: for `x`, and for the weight, `[channels]`.
///
/// # Panics
/// If a length does not fit.
pub fn backward(isa: Isa, x: &[f32], weight: &[f32], eps: f32, dy: &[f32], dx: &mut [f32], dweight: &mut [f32]) {
    let size = piece(x, weight, dy.len());
    assert_eq!(dx.len(), x.len(), "rms norm: length of dx");
    assert_eq!(dweight.len(), weight.len(), "rms norm: length of dweight");
    let pieces = x.chunks(size).zip(dy.chunks(size)).zip(dx.chunks_mut(size));
    let sums = threads::sum(weight.len(), pieces, |_, ((x, dy), dx), dweight| {
        isa.run(Backward { x, weight, eps, dy, dx, dweight });
    });
    threads::narrow(&sums, dweight);
}

/// Floats in a piece of whole rows.
fn piece(x: &[f32], weight: &[f32], len: usize) -> usize {
    assert_eq!(x.len(), len, "rms norm: lengths of the input and the result");
    assert!(x.is_empty() || x.len().is_multiple_of(weight.len()), "rms norm: input is rows of {}", weight.len());
    (threads::piece_rows(weight.len()) * weight.len()).max(1)
}

/// 1 / sqrt(mean(x²) + ε) of a row.
#[inline(always)]
fn scale<A: Arithmetic>(x: &[f32], eps: f32) -> f32 {
    1.0 / (reduce::dot::<A>(x, x) / x.len() as f32 + eps).sqrt()
}

struct Forward<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    eps: f32,
    y: &'a mut [f32],
}

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        let channels = self.weight.len();
        for (x, y) in self.x.chunks_exact(channels).zip(self.y.chunks_exact_mut(channels)) {
            let scale = scale::<A>(x, self.eps);
            for ((x, weight), y) in x.iter().zip(self.weight).zip(y) {
                *y = x * scale * weight;
            }
        }
    }
}

struct Backward<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    eps: f32,
    dy: &'a [f32],
    dx: &'a mut [f32],
    dweight: &'a mut [f32],
}

impl Kernel for Backward<'_> {
    type Output = ();

    /// With x̂ = x · scale and g = dy · weight: dx = scale · (g - x̂ mean(g x̂)), dweight = Σ dy x̂.
    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        let channels = self.weight.len();
        let rows = self.x.chunks_exact(channels).zip(self.dy.chunks_exact(channels));
        for ((x, dy), dx) in rows.zip(self.dx.chunks_exact_mut(channels)) {
            let scale = scale::<A>(x, self.eps);
            let mean = reduce::triple_dot::<A>(dy, self.weight, x) * scale / channels as f32;
            for (((dx, dweight), (x, dy)), weight) in
                dx.iter_mut().zip(&mut *self.dweight).zip(x.iter().zip(dy)).zip(self.weight)
            {
                let normal = x * scale;
                *dx = scale * A::mul_add(*dy, *weight, -normal * mean);
                *dweight = A::mul_add(*dy, normal, *dweight);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, everywhere, gradient, numbers, unwritten, wide};

    const EPS: f32 = 1e-5;

    fn naive(x: &[f64], weight: &[f64]) -> Vec<f64> {
        let row = |x: &[f64]| -> Vec<f64> {
            let square = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
            x.iter().zip(weight).map(|(x, weight)| x / (square + f64::from(EPS)).sqrt() * weight).collect()
        };
        x.chunks_exact(weight.len()).flat_map(row).collect()
    }

    #[test]
    fn forward_is_the_definition() {
        for (rows, channels) in [(0, 8), (1, 1), (7, 3), (49, 24), (63, 60), (196, 96), (700, 64)] {
            let (x, weight) = (numbers(1, rows * channels), numbers(2, channels));
            let wanted = naive(&wide(&x), &wide(&weight));
            everywhere(
                |isa| {
                    let mut y = unwritten(x.len());
                    forward(isa, &x, &weight, EPS, &mut y);
                    vec![y]
                },
                |isa, y| assert_close(format!("{isa} {rows}x{channels}"), &y[0], &wanted, 1e-6),
            );
        }
    }

    #[test]
    fn backward_is_the_difference_quotient() {
        for (rows, channels) in [(1, 3), (7, 24), (5, 33)] {
            let (x, dy, weight) = (numbers(1, rows * channels), numbers(2, rows * channels), numbers(3, channels));
            let (x64, weight64) = (wide(&x), wide(&weight));
            let wanted =
                [gradient(&x, &dy, |x| naive(x, &weight64)), gradient(&weight, &dy, |weight| naive(&x64, weight))];
            everywhere(
                |isa| {
                    let [mut dx, mut dweight] = [x.len(), weight.len()].map(unwritten);
                    backward(isa, &x, &weight, EPS, &dy, &mut dx, &mut dweight);
                    vec![dx, dweight]
                },
                |isa, got| {
                    for (got, wanted) in got.iter().zip(&wanted) {
                        assert_close(format!("{isa} {rows}x{channels}"), got, wanted, 3e-6);
                    }
                },
            );
        }
    }
}
