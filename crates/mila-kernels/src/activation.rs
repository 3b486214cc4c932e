//! Activations: element by element, alone or at the end of another kernel.

use crate::{
    arithmetic::Arithmetic,
    isa::{Isa, Kernel},
    lane::{self, Lane},
    math, threads,
};

/// A function applied to every element of a kernel's result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Activation {
    /// The identity.
    #[default]
    None,
    /// max(x, 0); NaN stays NaN.
    Relu,
    /// x · sigmoid(x).
    Silu,
    /// x · P(X < x) of a standard normal variable, the exact form.
    Gelu,
    /// ln(1 + eˣ).
    Softplus,
    /// elu(x) + 1: x + 1 above zero, eˣ below.
    EluPlusOne,
}

impl Activation {
    /// Replaces every float of the lanes by its activation.
    #[inline(always)]
    pub(crate) fn finish_lanes<A: Arithmetic>(self, lanes: &mut [Lane]) {
        if self != Activation::None {
            self.finish::<A>(lane::floats_mut(lanes));
        }
    }

    /// Replaces every element of `y` by its activation.
    #[inline(always)]
    pub(crate) fn finish<A: Arithmetic>(self, y: &mut [f32]) {
        // Loops, not closures, which may be compiled for themselves, without the instruction set.
        match self {
            Activation::None => {}
            Activation::Relu => {
                for y in y {
                    *y = relu(*y);
                }
            }
            Activation::Silu => finish_registers::<A, false>(y),
            Activation::Gelu => finish_registers::<A, true>(y),
            Activation::Softplus => {
                for y in y {
                    *y = math::softplus::<A>(*y);
                }
            }
            Activation::EluPlusOne => {
                for y in y {
                    *y = math::elu_plus_one::<A>(*y);
                }
            }
        }
    }
}

/// Replaces every element of `y` by its GELU, else by its SiLU.
#[inline(always)]
fn finish_registers<A: Arithmetic, const GELU: bool>(y: &mut [f32]) {
    let (lanes, rest) = y.as_chunks_mut();
    for lane in lanes {
        let x = A::load(lane);
        A::store(if GELU { math::gelu::<A>(x) } else { math::silu::<A>(x) }, lane);
    }
    // Most slices are whole lanes.
    if !rest.is_empty() {
        let x = A::load_part(rest);
        A::store_part(if GELU { math::gelu::<A>(x) } else { math::silu::<A>(x) }, rest);
    }
}

#[inline(always)]
fn relu(x: f32) -> f32 {
    if x < 0.0 { 0.0 } else { x }
}

/// `y = activation(x)`. All slices have one length.
///
/// # Panics
/// If the lengths differ.
pub fn forward(isa: Isa, activation: Activation, x: &[f32], y: &mut [f32]) {
    assert_eq!(x.len(), y.len(), "activation: lengths of x and y");
    threads::chunks(y, threads::PIECE, |index, y| {
        y.copy_from_slice(&x[index * threads::PIECE..][..y.len()]);
        isa.run(Forward { activation, y });
    });
}

/// `dx = dy · activation'(x)`, where `x` is what the activation was applied to. All slices have one length.
///
/// The derivative of ReLU at 0 is 0, as PyTorch has it.
///
/// # Panics
/// If the lengths differ.
pub fn backward(isa: Isa, activation: Activation, x: &[f32], dy: &[f32], dx: &mut [f32]) {
    assert_eq!(x.len(), dy.len(), "activation: lengths of x and dy");
    assert_eq!(x.len(), dx.len(), "activation: lengths of x and dx");
    let size = threads::PIECE;
    let pieces = x.chunks(size).zip(dy.chunks(size)).zip(dx.chunks_mut(size));
    threads::each(pieces, |_, ((x, dy), dx)| isa.run(Backward { activation, x, dy, dx }));
}

struct Forward<'a> {
    activation: Activation,
    y: &'a mut [f32],
}

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        self.activation.finish::<A>(self.y);
    }
}

struct Backward<'a> {
    activation: Activation,
    x: &'a [f32],
    dy: &'a [f32],
    dx: &'a mut [f32],
}

impl Kernel for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        let elements = self.x.iter().zip(self.dy).zip(self.dx);
        match self.activation {
            Activation::None => elements.for_each(|((_, dy), dx)| *dx = *dy),
            Activation::Relu => elements.for_each(|((&x, dy), dx)| *dx = if x > 0.0 { *dy } else { 0.0 }),
            Activation::Silu => elements.for_each(|((&x, dy), dx)| *dx = dy * math::silu_derivative::<A>(x)),
            Activation::Gelu => elements.for_each(|((&x, dy), dx)| *dx = dy * math::gelu_derivative::<A>(x)),
            Activation::Softplus => elements.for_each(|((&x, dy), dx)| *dx = dy * math::sigmoid::<A>(x)),
            Activation::EluPlusOne => elements.for_each(|((&x, dy), dx)| {
                *dx = dy * math::elu_derivative_at(math::elu_plus_one::<A>(x));
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, everywhere, gradient, numbers, unwritten, wide};

    fn exact(activation: Activation, x: f64) -> f64 {
        match activation {
            Activation::None => x,
            Activation::Relu => x.max(0.0),
            Activation::Silu => x / (1.0 + (-x).exp()),
            Activation::Gelu => 0.5 * x * libm::erfc(-x / std::f64::consts::SQRT_2),
            Activation::Softplus => x.max(0.0) + (-x.abs()).exp().ln_1p(),
            Activation::EluPlusOne => {
                if x > 0.0 {
                    x + 1.0
                } else {
                    x.exp()
                }
            }
        }
    }

    const ALL: [Activation; 6] = [
        Activation::None,
        Activation::Relu,
        Activation::Silu,
        Activation::Gelu,
        Activation::Softplus,
        Activation::EluPlusOne,
    ];

    #[test]
    fn both_ways_on_every_length() {
        for activation in ALL {
            for len in [0, 15, 33, 40_000] {
                let x: Vec<f32> = numbers(1, len).into_iter().map(|x| 6.0 * x).collect();
                let dy = numbers(2, len);
                let y = |x: &[f64]| x.iter().map(|&x| exact(activation, x)).collect::<Vec<_>>();
                // The function is element by element, so its difference quotient can be, too.
                let dx: Vec<f64> = x.iter().zip(&dy).flat_map(|(&x, &dy)| gradient(&[x], &[dy], y)).collect();
                everywhere(
                    |isa| {
                        let mut result = [unwritten(len), unwritten(len)];
                        forward(isa, activation, &x, &mut result[0]);
                        backward(isa, activation, &x, &dy, &mut result[1]);
                        result.to_vec()
                    },
                    |isa, result| {
                        assert_close(format!("{isa} {activation:?} y"), &result[0], &y(&wide(&x)), 1e-6);
                        assert_close(format!("{isa} {activation:?} dx"), &result[1], &dx, 1e-6);
                    },
                );
            }
        }
    }

    #[test]
    fn a_nan_stays() {
        for isa in crate::Isa::available() {
            for activation in ALL {
                let mut y = [0.0; 3];
                forward(isa, activation, &[1.0, f32::NAN, 2.0], &mut y);
                assert!(!y[0].is_nan() && y[1].is_nan() && !y[2].is_nan(), "{isa} {activation:?}: {y:?}");
            }
        }
    }
}
