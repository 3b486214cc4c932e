//! Layer normalisation over the channels of each row: y = (x - mean) / sqrt(variance + eps) · weight + bias.
//!
//! The variance is the mean of squares about the mean (two passes over a row that is in the cache), biased as in PyTorch.

use crate::{
    arithmetic::Arithmetic,
    isa::{Isa, Kernel},
    reduce, threads,
};

/// Normalises every row of `x`, `[rows, channels]`, into `y`; `weight` and `bias` are `[channels]`.
///
/// # Panics
/// If a length does not fit.
pub fn forward(isa: Isa, x: &[f32], weight: &[f32], bias: Option<&[f32]>, eps: f32, y: &mut [f32]) {
    let channels = check(x, weight, y.len());
    assert_eq!(bias.map_or(channels, <[f32]>::len), channels, "layer norm: length of the bias");
    let size = (threads::piece_rows(channels) * channels).max(1);
    threads::chunks(y, size, |index, y| {
        let x = &x[index * size..][..y.len()];
        isa.run(Forward { x, weight, bias, eps, y });
    });
}

/// Where [`backward`] writes its results.
#[derive(Debug)]
pub struct Gradients<'a> {
    /// `[rows, channels]`.
    pub x: &'a mut [f32],
    /// `[channels]`.
    pub weight: &'a mut [f32],
    /// `[channels]`.
    pub bias: &'a mut [f32],
}

/// The gradients of [`forward`] at `x` for `dy`, both `[rows, channels]`. Mean and variance are computed again.
///
/// # Panics
/// If a length does not fit.
pub fn backward(isa: Isa, x: &[f32], weight: &[f32], eps: f32, dy: &[f32], gradients: Gradients<'_>) {
    let channels = check(x, weight, dy.len());
    assert_eq!(gradients.x.len(), x.len(), "layer norm: length of dx");
    assert_eq!(gradients.weight.len(), channels, "layer norm: length of dweight");
    assert_eq!(gradients.bias.len(), channels, "layer norm: length of dbias");
    let size = (threads::piece_rows(channels) * channels).max(1);
    let pieces = x.chunks(size).zip(dy.chunks(size)).zip(gradients.x.chunks_mut(size));
    let sums = threads::sum(2 * channels, pieces, |_, ((x, dy), dx), sums| {
        let (dweight, dbias) = sums.split_at_mut(channels);
        isa.run(Backward { x, weight, eps, dy, dx, dweight, dbias });
    });
    threads::narrow(&sums[..channels], gradients.weight);
    threads::narrow(&sums[channels..], gradients.bias);
}

fn check(x: &[f32], weight: &[f32], len: usize) -> usize {
    assert_eq!(x.len(), len, "layer norm: lengths of the input and the result");
    assert!(x.is_empty() || x.len().is_multiple_of(weight.len()), "layer norm: input is rows of {}", weight.len());
    weight.len()
}

/// Mean and 1 / sqrt(variance + eps) of a row.
#[inline(always)]
fn moments<A: Arithmetic>(x: &[f32], eps: f32) -> (f32, f32) {
    let count = x.len() as f32;
    let mean = reduce::sum::<A>(x) / count;
    let variance = reduce::squares_about::<A>(x, mean) / count;
    (mean, 1.0 / (variance + eps).sqrt())
}

struct Forward<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    bias: Option<&'a [f32]>,
    eps: f32,
    y: &'a mut [f32],
}

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        let channels = self.weight.len();
        for (x, y) in self.x.chunks_exact(channels).zip(self.y.chunks_exact_mut(channels)) {
            let (mean, scale) = moments::<A>(x, self.eps);
            let row = x.iter().zip(self.weight).zip(y);
            match self.bias {
                Some(bias) => row
                    .zip(bias)
                    .for_each(|(((x, weight), y), bias)| *y = A::mul_add((x - mean) * scale, *weight, *bias)),
                None => row.for_each(|((x, weight), y)| *y = (x - mean) * scale * weight),
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
    dbias: &'a mut [f32],
}

impl Kernel for Backward<'_> {
    type Output = ();

    /// With x̂ = (x - mean) · scale and g = dy · weight:
    /// dx = scale · (g - mean(g) - x̂ mean(g x̂)), dweight = Σ dy x̂, dbias = Σ dy.
    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        let channels = self.weight.len();
        let rows = self.x.chunks_exact(channels).zip(self.dy.chunks_exact(channels));
        for ((x, dy), dx) in rows.zip(self.dx.chunks_exact_mut(channels)) {
            let (mean, scale) = moments::<A>(x, self.eps);
            // x̂ waits in dx until the two means are known.
            dx.iter_mut().zip(x).for_each(|(normal, x)| *normal = (x - mean) * scale);
            for ((sum, dy), normal) in self.dweight.iter_mut().zip(dy).zip(&*dx) {
                *sum = A::mul_add(*dy, *normal, *sum);
            }
            self.dbias.iter_mut().zip(dy).for_each(|(sum, dy)| *sum += dy);
            let count = channels as f32;
            let mean_g = reduce::dot::<A>(dy, self.weight) / count;
            let mean_g_normal = reduce::triple_dot::<A>(dy, self.weight, dx) / count;
            for ((dx, dy), weight) in dx.iter_mut().zip(dy).zip(self.weight) {
                *dx = scale * (A::mul_add(*dy, *weight, -mean_g) - *dx * mean_g_normal);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, everywhere, gradient, numbers, unwritten, wide};

    const EPS: f32 = 1e-5;

    fn naive(x: &[f64], weight: &[f64], bias: &[f64]) -> Vec<f64> {
        let count = weight.len() as f64;
        let row = |x: &[f64]| -> Vec<f64> {
            let mean = x.iter().sum::<f64>() / count;
            let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / count;
            let scale = 1.0 / (variance + f64::from(EPS)).sqrt();
            x.iter().zip(weight).zip(bias).map(|((x, weight), bias)| (x - mean) * scale * weight + bias).collect()
        };
        x.chunks_exact(weight.len()).flat_map(row).collect()
    }

    #[test]
    fn forward_is_the_definition_even_far_from_zero() {
        for (rows, channels) in [(0, 8), (1, 1), (7, 3), (49, 24), (63, 60), (196, 96), (700, 64)] {
            for offset in [0.0, 100.0] {
                let x: Vec<f32> = numbers(1, rows * channels).iter().map(|x| x + offset).collect();
                let (weight, bias) = (numbers(2, channels), numbers(3, channels));
                let wanted = naive(&wide(&x), &wide(&weight), &wide(&bias));
                let plain = naive(&wide(&x), &wide(&weight), &vec![0.0; channels]);
                everywhere(
                    |isa| {
                        let mut y = [unwritten(x.len()), unwritten(x.len())];
                        forward(isa, &x, &weight, Some(&bias), EPS, &mut y[0]);
                        forward(isa, &x, &weight, None, EPS, &mut y[1]);
                        y.to_vec()
                    },
                    |isa, y| {
                        // A mean of 100 costs the normalised row the last bits of the mean, 100 · 2⁻²⁴.
                        let tolerance = if offset == 0.0 { 1e-6 } else { 1e-4 };
                        if channels > 1 {
                            assert_close(format!("{isa} {rows}x{channels}"), &y[0], &wanted, tolerance);
                            assert_close(format!("{isa} {rows}x{channels} no bias"), &y[1], &plain, tolerance);
                        } else {
                            assert_eq!(y[0], bias, "{isa}: one channel has no deviation");
                        }
                    },
                );
            }
        }
    }

    #[test]
    fn backward_is_the_difference_quotient() {
        for (rows, channels) in [(1, 3), (7, 24), (5, 33)] {
            let (x, dy) = (numbers(1, rows * channels), numbers(2, rows * channels));
            let (weight, bias) = (numbers(3, channels), numbers(4, channels));
            let (x64, weight64, bias64) = (wide(&x), wide(&weight), wide(&bias));
            let wanted = [
                gradient(&x, &dy, |x| naive(x, &weight64, &bias64)),
                gradient(&weight, &dy, |weight| naive(&x64, weight, &bias64)),
                gradient(&bias, &dy, |bias| naive(&x64, &weight64, bias)),
            ];
            everywhere(
                |isa| gradients(isa, &x, &weight, &dy),
                |isa, got| {
                    for ((name, got), wanted) in ["dx", "dweight", "dbias"].iter().zip(&got).zip(&wanted) {
                        assert_close(format!("{isa} {rows}x{channels} {name}"), got, wanted, 2e-6);
                    }
                },
            );
        }
    }

    #[test]
    fn many_rows_give_equal_bits_on_any_number_of_threads() {
        let (x, dy) = (numbers(1, 3_000 * 24), numbers(2, 3_000 * 24));
        everywhere(
            |isa| gradients(isa, &x, &[1.0; 24], &dy),
            |isa, got| {
                let mut dbias = vec![0.0; 24];
                dy.iter().enumerate().for_each(|(i, &dy)| dbias[i % 24] += f64::from(dy));
                assert_close(isa, &got[2], &dbias, 1e-5);
            },
        );
    }

    fn gradients(isa: Isa, x: &[f32], weight: &[f32], dy: &[f32]) -> Vec<Vec<f32>> {
        let [mut dx, mut dweight, mut dbias] = [x.len(), weight.len(), weight.len()].map(unwritten);
        backward(isa, x, weight, EPS, dy, Gradients { x: &mut dx, weight: &mut dweight, bias: &mut dbias });
        vec![dx, dweight, dbias]
    }
}
