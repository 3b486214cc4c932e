//! Sums, products and scalings, element by element.

use crate::{
    arithmetic::Arithmetic,
    isa::{Isa, Kernel},
    threads,
};

/// `y = a + b`; all slices have one length.
///
/// # Panics
/// If the lengths differ.
pub fn add(isa: Isa, a: &[f32], b: &[f32], y: &mut [f32]) {
    combine(isa, a, b, y, |a, b| a + b);
}

/// `y = a ⊙ b`; all slices have one length.
///
/// # Panics
/// If the lengths differ.
pub fn multiply(isa: Isa, a: &[f32], b: &[f32], y: &mut [f32]) {
    combine(isa, a, b, y, |a, b| a * b);
}

/// `y *= factor`.
pub fn multiply_all(isa: Isa, factor: f32, y: &mut [f32]) {
    threads::chunks(y, threads::PIECE, |_, y| isa.run(MultiplyAll { factor, y }));
}

/// `y += x`; the slices have one length.
///
/// # Panics
/// If the lengths differ.
pub fn add_assign(isa: Isa, x: &[f32], y: &mut [f32]) {
    assert_eq!(x.len(), y.len(), "add: lengths of x and y");
    threads::chunks(y, threads::PIECE, |index, y| {
        let x = &x[index * threads::PIECE..][..y.len()];
        isa.run(Update { x, y, f: |y: f32, x: f32| y + x });
    });
}

/// `y[r][c] = x[r][c] · scale[c]` for `x` and `y` `[rows, channels]`: layer scale.
///
/// # Panics
/// If a length does not fit.
pub fn scale_channels(isa: Isa, x: &[f32], scale: &[f32], y: &mut [f32]) {
    let size = check_rows(x, scale, y.len());
    threads::chunks(y, size, |index, y| {
        let x = &x[index * size..][..y.len()];
        for (x, y) in x.chunks_exact(scale.len()).zip(y.chunks_exact_mut(scale.len())) {
            isa.run(Combine { a: x, b: scale, y, f: |x, scale| x * scale });
        }
    });
}

/// The gradient of [`scale_channels`] with respect to the scale, `[channels]`: Σ x dy over the rows. That with respect to
/// `x` is `scale_channels` of `dy`.
///
/// # Panics
/// If a length does not fit.
pub fn scale_channels_backward(isa: Isa, x: &[f32], dy: &[f32], dscale: &mut [f32]) {
    let size = check_rows(x, dscale, dy.len());
    let channels = dscale.len();
    let sums = threads::sum(channels, x.chunks(size).zip(dy.chunks(size)), |_, (x, dy), sums| {
        isa.run(AddProducts { x, dy, sums });
    });
    threads::narrow(&sums, dscale);
}

/// Floats in a piece of whole rows.
fn check_rows(x: &[f32], scale: &[f32], len: usize) -> usize {
    assert_eq!(x.len(), len, "scale: lengths of the input and the result");
    assert!(x.is_empty() || x.len().is_multiple_of(scale.len()), "scale: input is rows of {}", scale.len());
    (threads::piece_rows(scale.len()) * scale.len()).max(1)
}

fn combine(isa: Isa, a: &[f32], b: &[f32], y: &mut [f32], f: impl Fn(f32, f32) -> f32 + Copy + Sync) {
    assert_eq!(a.len(), b.len(), "lengths of the operands");
    assert_eq!(a.len(), y.len(), "lengths of operand and result");
    let size = threads::PIECE;
    threads::chunks(y, size, |index, y| {
        let [a, b] = [a, b].map(|x| &x[index * size..][..y.len()]);
        isa.run(Combine { a, b, y, f });
    });
}

struct Combine<'a, F> {
    a: &'a [f32],
    b: &'a [f32],
    y: &'a mut [f32],
    f: F,
}

impl<F: Fn(f32, f32) -> f32> Kernel for Combine<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        self.a.iter().zip(self.b).zip(self.y).for_each(|((&a, &b), y)| *y = (self.f)(a, b));
    }
}

struct Update<'a, F> {
    x: &'a [f32],
    y: &'a mut [f32],
    f: F,
}

impl<F: Fn(f32, f32) -> f32> Kernel for Update<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        self.x.iter().zip(self.y).for_each(|(&x, y)| *y = (self.f)(*y, x));
    }
}

/// `sums[c] += Σ x[r][c] dy[r][c]`.
struct AddProducts<'a> {
    x: &'a [f32],
    dy: &'a [f32],
    sums: &'a mut [f32],
}

impl Kernel for AddProducts<'_> {
    type Output = ();

    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        let channels = self.sums.len();
        for (x, dy) in self.x.chunks_exact(channels).zip(self.dy.chunks_exact(channels)) {
            for ((sum, x), dy) in self.sums.iter_mut().zip(x).zip(dy) {
                *sum = A::mul_add(*x, *dy, *sum);
            }
        }
    }
}

struct MultiplyAll<'a> {
    factor: f32,
    y: &'a mut [f32],
}

impl Kernel for MultiplyAll<'_> {
    type Output = ();

    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        for y in self.y {
            *y *= self.factor;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, everywhere, numbers, unwritten};

    #[test]
    fn every_operation_is_its_definition() {
        for (rows, channels) in [(0, 3), (1, 1), (7, 24), (5_000, 33)] {
            let len = rows * channels;
            let (a, b, scale) = (numbers(1, len), numbers(2, len), numbers(3, channels));
            let pairs = |f: fn(f64, f64) -> f64| -> Vec<f64> {
                a.iter().zip(&b).map(|(&a, &b)| f(f64::from(a), f64::from(b))).collect()
            };
            let (sums, products) = (pairs(|a, b| a + b), pairs(|a, b| a * b));
            let scaled: Vec<f64> =
                a.iter().enumerate().map(|(i, &a)| f64::from(a) * f64::from(scale[i % channels])).collect();
            let mut dscale = vec![0.0; channels];
            products.iter().enumerate().for_each(|(i, product)| dscale[i % channels] += product);
            everywhere(
                |isa| {
                    let mut y = [len, len, len, channels].map(unwritten);
                    add(isa, &a, &b, &mut y[0]);
                    multiply(isa, &a, &b, &mut y[1]);
                    scale_channels(isa, &a, &scale, &mut y[2]);
                    scale_channels_backward(isa, &a, &b, &mut y[3]);
                    let mut sum = a.clone();
                    add_assign(isa, &b, &mut sum);
                    [y.to_vec(), vec![sum]].concat()
                },
                |isa, y| {
                    for (y, wanted) in y.iter().zip([&sums, &products, &scaled, &dscale, &sums]) {
                        assert_close(format!("{isa} {rows}x{channels}"), y, wanted, 1e-6);
                    }
                },
            );
        }
    }

    #[test]
    fn one_factor_for_all() {
        let x = numbers(1, 40_001);
        let wanted: Vec<f64> = x.iter().map(|&x| f64::from(x) * 0.5).collect();
        everywhere(
            |isa| {
                let mut y = x.clone();
                multiply_all(isa, 0.5, &mut y);
                vec![y]
            },
            |isa, y| assert_close(isa, &y[0], &wanted, 1e-7),
        );
    }
}
