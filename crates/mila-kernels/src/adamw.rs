//! One step of AdamW ("Decoupled Weight Decay Regularization", arXiv 1711.05101), as PyTorch computes it.

use crate::{
    arithmetic::Arithmetic,
    isa::{Isa, Kernel},
    threads,
};

/// The numbers of one step; those that depend on how many steps there were are worked out by the caller.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// What the gradient is multiplied by first: clipping.
    pub gradient_scale: f32,
    /// What the parameter is multiplied by first: 1 - learning rate x weight decay.
    pub decay: f32,
    /// Decay of the first and of the second moment.
    pub betas: [f32; 2],
    /// Learning rate / (1 - beta1^t).
    pub step_size: f32,
    /// The root of 1 - beta2^t.
    pub root: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
}

/// Moves `parameter` and its moments by one step; all are as long as `gradient`.
///
/// ```text
/// m = beta1 m + (1 - beta1) g    v = beta2 v + (1 - beta2) g^2    p = decay p - step_size m / (sqrt(v) / root + eps)
/// ```
///
/// # Panics
/// If a length does not fit.
pub fn step(isa: Isa, step: Step, gradient: &[f32], parameter: &mut [f32], first: &mut [f32], second: &mut [f32]) {
    for (name, len) in [("the parameter", parameter.len()), ("m", first.len()), ("v", second.len())] {
        assert_eq!(len, gradient.len(), "AdamW: length of {name}");
    }
    let size = threads::PIECE;
    let moments = first.chunks_mut(size).zip(second.chunks_mut(size));
    let pieces = gradient.chunks(size).zip(parameter.chunks_mut(size)).zip(moments);
    threads::each(pieces, |_, ((gradient, parameter), (first, second))| {
        isa.run(Update { step, gradient, parameter, first, second });
    });
}

struct Update<'a> {
    step: Step,
    gradient: &'a [f32],
    parameter: &'a mut [f32],
    first: &'a mut [f32],
    second: &'a mut [f32],
}

impl Kernel for Update<'_> {
    type Output = ();

    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        let Step { gradient_scale, decay, betas: [beta1, beta2], step_size, root, eps } = self.step;
        let moments = self.first.iter_mut().zip(self.second);
        for ((&g, p), (m, v)) in self.gradient.iter().zip(self.parameter).zip(moments) {
            let g = g * gradient_scale;
            *m = *m * beta1 + g * (1.0 - beta1);
            *v = *v * beta2 + g * g * (1.0 - beta2);
            *p = *p * decay - *m * step_size / (v.sqrt() / root + eps);
        }
    }
}

/// The sum of squares in f64: partial sums of fixed pieces, added in their order.
pub fn sum_of_squares(isa: Isa, x: &[f32]) -> f64 {
    let mut partials = vec![0.0; x.len().div_ceil(threads::PIECE)];
    threads::each(x.chunks(threads::PIECE).zip(&mut partials), |_, (x, sum)| *sum = isa.run(Squares { x }));
    partials.iter().sum()
}

struct Squares<'a> {
    x: &'a [f32],
}

impl Kernel for Squares<'_> {
    type Output = f64;

    /// Eight sums side by side, so that the loop is not bound by the latency of one addition.
    #[inline(always)]
    fn run<A: Arithmetic>(self) -> f64 {
        let (eights, rest) = self.x.as_chunks::<8>();
        let mut sums = [0.0; 8];
        for x in eights {
            sums.iter_mut().zip(x).for_each(|(sum, &x)| *sum += f64::from(x) * f64::from(x));
        }
        sums.iter().sum::<f64>() + rest.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, everywhere, numbers};

    #[test]
    fn a_step_is_its_equations() {
        let step_of =
            Step { gradient_scale: 0.5, decay: 0.99, betas: [0.9, 0.999], step_size: 1e-2, root: 0.03, eps: 1e-8 };
        for len in [0, 1, 7, 63, 40_000] {
            let [g, p, m] = [1, 2, 3].map(|seed| numbers(seed, len));
            let v: Vec<f32> = numbers(4, len).iter().map(|v| v * v).collect();
            let wanted = |i: usize| {
                let [g, p, m, v] = [g[i] * 0.5, p[i], m[i], v[i]].map(f64::from);
                let (m, v) = (0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g);
                [0.99 * p - 1e-2 * m / (v.sqrt() / 0.03 + 1e-8), m, v]
            };
            let exact: Vec<[f64; 3]> = (0..len).map(wanted).collect();
            everywhere(
                |isa| {
                    let (mut p, mut m, mut v) = (p.clone(), m.clone(), v.clone());
                    step(isa, step_of, &g, &mut p, &mut m, &mut v);
                    vec![p, m, v]
                },
                |isa, found| {
                    for (i, found) in found.iter().enumerate() {
                        let exact: Vec<f64> = exact.iter().map(|exact| exact[i]).collect();
                        assert_close(isa, found, &exact, 1e-5);
                    }
                },
            );
        }
    }

    #[test]
    fn squares_are_summed_in_f64() {
        for len in [0, 1, 9, 100_000] {
            let x = numbers(5, len);
            let exact: f64 = x.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
            for isa in Isa::available() {
                let found = sum_of_squares(isa, &x);
                assert!((found - exact).abs() <= 1e-12 * exact, "{isa}: {found}, expected {exact}");
            }
        }
    }
}
