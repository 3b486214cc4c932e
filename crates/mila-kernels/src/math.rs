//! Elementary functions on f32 without branches, so that a loop over them becomes vector code.
//!
//! No function gives NaN for a finite argument; infinities give the limit; a NaN stays NaN. The bounds below are checked
//! against f64 over dense sweeps, on every instruction set.

use std::f32::consts::{LN_2, LOG2_E};

use crate::arithmetic::Arithmetic;

/// Relative error of [`exp`] where the result is a normal number.
pub const EXP_MAX_RELATIVE_ERROR: f32 = 2e-7;
/// Absolute error of [`sigmoid`] and of its derivative.
pub const SIGMOID_MAX_ERROR: f32 = 2e-7;
/// Error of [`silu`], and of its derivative, relative to max(1, |x|).
pub const SILU_MAX_ERROR: f32 = 2.5e-7;
/// Relative error of [`softplus`], down to −70.
pub const SOFTPLUS_MAX_RELATIVE_ERROR: f32 = 4e-7;
/// Relative error of [`exp2_decay_each`] down to −100.
pub const EXP2_DECAY_MAX_RELATIVE_ERROR: f32 = 2e-7;
/// Absolute error of [`normal_tail`].
pub const NORMAL_TAIL_MAX_ERROR: f32 = 1e-7;
/// Absolute error of [`erf`].
pub const ERF_MAX_ERROR: f32 = 2e-7;
/// Error of [`gelu`], and of its derivative, relative to max(1, |x|).
pub const GELU_MAX_ERROR: f32 = 2e-7;
/// Error of [`elu_plus_one`], and of its derivative, relative to max(1, |x|).
pub const ELU_MAX_ERROR: f32 = 2e-7;

/// 1.5 · 2²³: adding it to |x| < 2²² rounds x to an integer, which stands in the low bits of the sum.
const ROUND: f32 = 12_582_912.0;
/// ln 2 in two parts; the first has so few bits that its product with an exponent is exact.
const LN_2_HIGH: f32 = 0.693_359_4;
const LN_2_LOW: f32 = -2.121_944_4e-4;

/// `x` within `[low, high]`; NaN stays NaN.
#[inline(always)]
fn clamp(x: f32, low: f32, high: f32) -> f32 {
    let x = if x < low { low } else { x };
    if x > high { high } else { x }
}

/// eʳ for |r| ≤ ½ ln 2, as 1 + r + r² P(r) with the coefficients of Cephes `expf`.
#[inline(always)]
fn exp_reduced<A: Arithmetic>(r: f32) -> f32 {
    // Pairs of terms, then pairs of pairs: a chain of four operations where Horner's has six.
    let r2 = r * r;
    let low = A::mul_add(1.666_666_5e-1, r, 0.5);
    let middle = A::mul_add(8.333_452e-3, r, 4.166_579_6e-2);
    let high = A::mul_add(1.987_569_1e-4, r, 1.398_2e-3);
    let p = A::mul_add(A::mul_add(high, r2, middle), r2, low);
    A::mul_add(p, r2, r) + 1.0
}

/// `x` · 2ⁿ for `rounded` = n + [`ROUND`] and -252 ≤ n ≤ 254. Two factors, because 2ⁿ alone need not be an f32.
#[inline(always)]
fn scale(x: f32, rounded: f32) -> f32 {
    let n = (rounded.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
    let half = n >> 1;
    let power = |n: i32| f32::from_bits((n.wrapping_add(127) << 23) as u32);
    x * power(half) * power(n.wrapping_sub(half))
}

/// eˣ: 0 from -104 down, ∞ from 88.73 up.
#[inline(always)]
pub fn exp<A: Arithmetic>(x: f32) -> f32 {
    let x = clamp(x, -104.0, 89.0);
    let rounded = A::mul_add(x, LOG2_E, ROUND);
    let n = rounded - ROUND;
    let r = A::mul_add(n, -LN_2_LOW, A::mul_add(n, -LN_2_HIGH, x));
    scale(exp_reduced::<A>(r), rounded)
}

/// 2ⁿ for `rounded` = n + [`ROUND`] and -126 ≤ n ≤ 127.
#[inline(always)]
fn power_of_two(rounded: f32) -> f32 {
    f32::from_bits((rounded.to_bits() << 23).wrapping_add(1.0_f32.to_bits()))
}

/// eˣ with x brought to [-87, 88], where it is a normal number and costs less than [`exp`].
#[inline(always)]
fn exp_normal<A: Arithmetic>(x: f32) -> f32 {
    let x = clamp(x, -87.0, 88.0);
    let rounded = A::mul_add(x, LOG2_E, ROUND);
    let n = rounded - ROUND;
    let r = A::mul_add(n, -LN_2_LOW, A::mul_add(n, -LN_2_HIGH, x));
    exp_reduced::<A>(r) * power_of_two(rounded)
}

/// 2ˣ for -126 ≤ x ≤ 127.
#[inline(always)]
fn exp2_normal<A: Arithmetic>(x: f32) -> f32 {
    let rounded = x + ROUND;
    exp_reduced::<A>((x - (rounded - ROUND)) * LN_2) * power_of_two(rounded)
}

/// 2ˣ of sixteen x ≤ 0: decays whose logarithms are x ln 2. From −126 down it is 2⁻¹²⁶. `N` times sixteen, step by step for all of
/// them, so that none waits for the step before.
#[inline(always)]
pub fn exp2_decay_each<A: Arithmetic, const N: usize>(mut x: [A::Register; N]) -> [A::Register; N] {
    for x in &mut x {
        // In this order a NaN stays; the low bits of one that arithmetic makes are zero.
        *x = A::max(A::splat(-126.0), *x);
    }
    exp2_each::<A, N>(x)
}

/// 2ˣ of `N` times sixteen x, -126 ≤ x ≤ 127.
///
/// A fit of degree 5 on [-½, ½] with the value 1 at 0, and the nearest integer added to its exponent: ten instructions.
#[inline(always)]
fn exp2_each<A: Arithmetic, const N: usize>(mut x: [A::Register; N]) -> [A::Register; N] {
    /// A coefficient of the fit, not the constant.
    #[expect(clippy::approx_constant, reason = "a fit")]
    const NEARLY_LN_2: f32 = 6.931_47e-1;
    const FIT: [f32; 5] = [9.671_513e-3, 5.550_733_7e-2, 2.402_224_2e-1, NEARLY_LN_2, 1.0];
    let round = A::splat(ROUND);
    let (mut rounded, mut p) = ([round; N], [A::splat(1.326_472_7e-3); N]);
    for (rounded, x) in rounded.iter_mut().zip(&x) {
        *rounded = A::add(*x, round);
    }
    for (x, rounded) in x.iter_mut().zip(&rounded) {
        *x = A::sub(*x, A::sub(*rounded, round));
    }
    for coefficient in FIT {
        for (p, x) in p.iter_mut().zip(&x) {
            *p = A::mul_add_each(*p, *x, A::splat(coefficient));
        }
    }
    for (p, rounded) in p.iter_mut().zip(&rounded) {
        *p = A::add_to_exponents(*p, *rounded);
    }
    p
}

/// From these bits those of a number are taken for a guess of its reciprocal: to negate the exponent and, linearly, the mantissa is
/// right within 5.1 %. Every step of Newton squares the error.
pub(crate) const RECIPROCAL_GUESS: i32 = 0x7ef3_11c7;

/// 1/x for 1 ≤ x < 2¹²⁵, by three steps of Newton; [`Arithmetic::reciprocal`] for one float.
#[inline(always)]
fn reciprocal<A: Arithmetic>(x: f32) -> f32 {
    let guess = f32::from_bits(RECIPROCAL_GUESS.wrapping_sub(x.to_bits() as i32) as u32);
    let guess = A::mul_add(guess, A::mul_add(-x, guess, 1.0), guess);
    let guess = A::mul_add(guess, A::mul_add(-x, guess, 1.0), guess);
    A::mul_add(guess, A::mul_add(-x, guess, 1.0), guess)
}

/// 1 / (1 + e⁻ˣ).
#[inline(always)]
pub fn sigmoid<A: Arithmetic>(x: f32) -> f32 {
    let x = if x < -86.0 { -86.0 } else { x };
    reciprocal::<A>(1.0 + exp_normal::<A>(-x))
}

/// d sigmoid / dx.
#[inline(always)]
pub fn sigmoid_derivative<A: Arithmetic>(x: f32) -> f32 {
    let s = sigmoid::<A>(x);
    s * (1.0 - s)
}

/// x · sigmoid(x), sixteen times.
#[inline(always)]
pub fn silu<A: Arithmetic>(x: A::Register) -> A::Register {
    // The first bound keeps -∞ times a sigmoid that is not quite zero away, and the sum below 2¹²⁵. In these orders a NaN stays.
    let x = A::max(A::splat(-86.0), x);
    let [power] = exp2_each::<A, 1>([A::max(A::splat(-126.0), A::mul(x, A::splat(-LOG2_E)))]);
    A::mul(x, A::reciprocal(A::add(power, A::splat(1.0))))
}

/// d silu / dx.
#[inline(always)]
pub fn silu_derivative<A: Arithmetic>(x: f32) -> f32 {
    let x = clamp(x, -87.0, 87.0);
    let s = sigmoid::<A>(x);
    A::mul_add(x * s, 1.0 - s, s)
}

/// ln(1 + eˣ), exact in both tails: x above, eˣ below. Its derivative is [`sigmoid`].
#[inline(always)]
pub fn softplus<A: Arithmetic>(x: f32) -> f32 {
    // max(x, 0) + ln(1 + y) with y = e^-|x|; ln(1 + y) / y is a fit of degree 8 on [0, 1].
    let y = exp_normal::<A>(-x.abs());
    let (y2, y4) = (y * y, (y * y) * (y * y));
    let a = A::mul_add(-4.999_949_3e-1, y, 1.0);
    let b = A::mul_add(-2.484_297_9e-1, y, 3.331_909_6e-1);
    let c = A::mul_add(-1.366_321_4e-1, y, 1.910_599_3e-1);
    let d = A::mul_add(-2.950_498_7e-2, y, 7.822_556e-2);
    let low = A::mul_add(b, y2, a);
    let high = A::mul_add(5.232_629_3e-3, y4, A::mul_add(d, y2, c));
    A::mul_add(A::mul_add(high, y4, low), y, if x > 0.0 { x } else { 0.0 })
}

/// The bound from which on the normal distribution's tail, times its argument, is no longer seen.
const TAIL_END: f32 = 10.0;

/// P(X > t) of a standard normal variable, for 0 ≤ t ≤ 10: ½ · 2^(t Q(t)).
///
/// Q is a fit of degree 8 to log2(2 P)/t on [0, 8], weighted so that the error counts as it does in `gelu`.
#[inline(always)]
pub fn normal_tail<A: Arithmetic>(t: f32) -> f32 {
    let q = 9.984_847e-8;
    let q = A::mul_add(q, t, -2.812_402e-6);
    let q = A::mul_add(q, t, 3.022_074e-5);
    let q = A::mul_add(q, t, -1.295_022_1e-4);
    let q = A::mul_add(q, t, -2.852_239_5e-4);
    let q = A::mul_add(q, t, 7.257_502_4e-3);
    let q = A::mul_add(q, t, -5.262_288_4e-2);
    let q = A::mul_add(q, t, -4.591_714_4e-1);
    let q = A::mul_add(q, t, -1.151_108_6);
    0.5 * exp2_normal::<A>(q * t)
}

/// The error function.
#[inline(always)]
pub fn erf<A: Arithmetic>(x: f32) -> f32 {
    let t = (x * std::f32::consts::SQRT_2).abs();
    let t = if t > TAIL_END { TAIL_END } else { t };
    A::mul_add(-2.0, normal_tail::<A>(t), 1.0).copysign(x)
}

/// x · P(X < x) of a standard normal variable, sixteen times: the exact ("erf") form of GELU.
///
/// In pairs of terms, and pairs of pairs, instead of Horner's rule, and with the exponential of [`exp2_decay_each`]: a chain half as
/// long as that of [`normal_tail`].
#[inline(always)]
pub fn gelu<A: Arithmetic>(x: A::Register) -> A::Register {
    let (zero, end) = (A::splat(0.0), A::splat(-TAIL_END));
    // In these orders a NaN stays.
    let x = A::max(end, x);
    // n = -t for t = |x|, at most the end.
    let n = A::max(end, A::sub(zero, A::max(x, A::sub(zero, x))));
    // t Q(t) of `normal_tail`, by n.
    let (n2, pair) = (A::mul(n, n), |low, high| A::mul_add_each(n, A::splat(high), A::splat(low)));
    let n4 = A::mul(n2, n2);
    let [a, b, c, d] = [
        pair(1.151_108_6, -4.591_714_4e-1),
        pair(5.262_288_4e-2, 7.257_502_4e-3),
        pair(2.852_239_5e-4, -1.295_022_1e-4),
        pair(-3.022_074e-5, -2.812_402e-6),
    ];
    let low = A::mul_add_each(b, n2, a);
    let high = A::mul_add_each(n4, A::splat(-9.984_847e-8), A::mul_add_each(d, n2, c));
    let exponent = A::mul(n, A::mul_add_each(high, n4, low));
    // P(X > t), half of 2 to that power.
    let round = A::splat(ROUND);
    let rounded = A::add(exponent, round);
    let f = A::sub(exponent, A::sub(rounded, round));
    let pair = |low, high| A::mul_add_each(f, A::splat(high), A::splat(low));
    let (f2, a, b, c) = (
        A::mul(f, f),
        pair(0.5, 3.465_735e-1),
        pair(1.201_112_1e-1, 2.775_366_8e-2),
        pair(4.835_756_5e-3, 6.632_363_5e-4),
    );
    let tail = A::add_to_exponents(A::mul_add_each(A::mul_add_each(c, f2, b), f2, a), rounded);
    // x P(X < x) is -t P(X > t) below zero and x - t P(X > t) above; beyond the end the tail is nothing.
    A::mul_add_each(n, tail, A::max(zero, x))
}

/// d gelu / dx.
#[inline(always)]
pub fn gelu_derivative<A: Arithmetic>(x: f32) -> f32 {
    const DENSITY_AT_ZERO: f32 = 0.398_942_3;
    let x = clamp(x, -TAIL_END, TAIL_END);
    let tail = normal_tail::<A>(x.abs());
    let below = if x > 0.0 { 1.0 - tail } else { tail };
    A::mul_add(x * DENSITY_AT_ZERO, exp_normal::<A>(-0.5 * x * x), below)
}

/// elu(x) + 1 with α = 1, the feature map of linear attention: x + 1 above zero, eˣ below. Never negative.
#[inline(always)]
pub fn elu_plus_one<A: Arithmetic>(x: f32) -> f32 {
    let below = exp_normal::<A>(if x > 0.0 { 0.0 } else { x });
    if x > 0.0 { x + 1.0 } else { below }
}

/// d elu / dx at the point where elu + 1 is `value`; that is 1 above zero and the value itself below.
#[inline(always)]
pub fn elu_derivative_at(value: f32) -> f32 {
    if value > 1.0 { 1.0 } else { value }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        arithmetic::LANES,
        isa::{Isa, Kernel},
    };

    struct Apply<'a, F>(&'a [f32], &'a mut [f32], F);

    /// A function of one number for every arithmetic.
    trait Function {
        fn value<A: Arithmetic>(&self, x: f32) -> f32;
    }

    impl<F: Function> Kernel for Apply<'_, F> {
        type Output = ();

        #[inline(always)]
        fn run<A: Arithmetic>(self) {
            self.0.iter().zip(self.1).for_each(|(&x, y)| *y = self.2.value::<A>(x));
        }
    }

    #[inline(always)]
    fn first<A: Arithmetic>(x: A::Register) -> f32 {
        let mut floats = [0.0; LANES];
        A::store(x, &mut floats);
        floats[0]
    }

    /// Arguments over the whole line: dense near zero, and every magnitude.
    fn sweep() -> Vec<f32> {
        let near = (-1_200_000..=1_200_000).map(|i| i as f32 * 1e-4);
        let magnitudes = (0..0x7f80_0000_u32).step_by(4_099).flat_map(|bits| {
            let x = f32::from_bits(bits);
            [x, -x]
        });
        near.chain(magnitudes).chain([f32::MAX, f32::MIN, f32::MIN_POSITIVE]).collect()
    }

    /// Checks |f(x) - exact(x)| ≤ bound · unit(x, exact) over the sweep, the limits at infinity, and NaN.
    fn check<F: Function + Copy>(
        f: F,
        exact: impl Fn(f64) -> f64,
        bound: f32,
        unit: impl Fn(f64, f64) -> f64,
        limits: [f32; 2],
    ) {
        let x = sweep();
        let exact: Vec<f64> = x.iter().map(|&x| exact(f64::from(x))).collect();
        for isa in Isa::available() {
            let mut y = vec![f32::NAN; x.len()];
            isa.run(Apply(&x, &mut y, f));
            let mut worst = (0.0, 0.0);
            for ((&x, &y), &exact) in x.iter().zip(&y).zip(&exact) {
                assert!(!y.is_nan(), "{isa}: NaN at {x}");
                if exact.abs() > f64::from(f32::MAX) {
                    continue;
                }
                let error = (f64::from(y) - exact).abs() / unit(f64::from(x), exact);
                if error > worst.0 {
                    worst = (error, x);
                }
            }
            assert!(worst.0 <= f64::from(bound), "{isa}: error {:e} at {}, allowed {bound:e}", worst.0, worst.1);
            let mut ends = [f32::NAN; 3];
            isa.run(Apply(&[f32::NEG_INFINITY, f32::INFINITY, f32::NAN], &mut ends, f));
            let near = |y: f32, limit: f32| y == limit || (y - limit).abs() <= 1e-20;
            assert!(near(ends[0], limits[0]) && near(ends[1], limits[1]), "{isa}: limits {ends:?}");
            assert!(ends[2].is_nan(), "{isa}: NaN became {}", ends[2]);
        }
    }

    macro_rules! function {
        ($test:ident, $f:expr, $exact:expr, $bound:expr, $unit:expr, $limits:expr) => {
            #[test]
            fn $test() {
                #[derive(Clone, Copy)]
                struct F;
                impl Function for F {
                    #[inline(always)]
                    fn value<A: Arithmetic>(&self, x: f32) -> f32 {
                        let f: fn(f32) -> f32 = $f;
                        f(x)
                    }
                }
                check(F, $exact, $bound, $unit, $limits);
            }
        };
    }

    fn density(x: f64) -> f64 {
        (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt()
    }

    fn below(x: f64) -> f64 {
        0.5 * libm::erfc(-x / std::f64::consts::SQRT_2)
    }

    fn logistic(x: f64) -> f64 {
        1.0 / (1.0 + (-x).exp())
    }

    fn absolute(_: f64, _: f64) -> f64 {
        1.0
    }

    fn size(x: f64, _: f64) -> f64 {
        x.abs().max(1.0)
    }

    function!(
        exp_is_exact,
        exp::<A>,
        f64::exp,
        EXP_MAX_RELATIVE_ERROR,
        |_, y| y.max(f64::from(f32::MIN_POSITIVE)),
        [0.0, f32::INFINITY]
    );
    function!(sigmoid_is_exact, sigmoid::<A>, logistic, SIGMOID_MAX_ERROR, absolute, [0.0, 1.0]);
    function!(
        sigmoid_derivative_is_exact,
        sigmoid_derivative::<A>,
        |x| logistic(x) * logistic(-x),
        SIGMOID_MAX_ERROR,
        absolute,
        [0.0, 0.0]
    );
    function!(
        silu_is_exact,
        |x| first::<A>(silu::<A>(A::splat(x))),
        |x| x * logistic(x),
        SILU_MAX_ERROR,
        size,
        [0.0, f32::INFINITY]
    );
    function!(
        silu_derivative_is_exact,
        silu_derivative::<A>,
        |x| logistic(x) * (1.0 + x * logistic(-x)),
        SILU_MAX_ERROR,
        size,
        [0.0, 1.0]
    );
    function!(
        softplus_is_exact,
        softplus::<A>,
        |x| if x > 0.0 { x + (-x).exp().ln_1p() } else { x.exp().ln_1p() },
        SOFTPLUS_MAX_RELATIVE_ERROR,
        |_, y| y.max((-70.0_f64).exp()),
        [0.0, f32::INFINITY]
    );
    function!(
        exp2_decay_is_exact,
        |x| {
            let [power] = exp2_decay_each::<A, 1>([A::splat(if x > 0.0 { 0.0 } else { x })]);
            first::<A>(power)
        },
        |x| x.min(0.0).exp2(),
        EXP2_DECAY_MAX_RELATIVE_ERROR,
        |_, y| y.max((-100.0_f64).exp2()),
        [0.0, 1.0]
    );
    function!(erf_is_exact, erf::<A>, libm::erf, ERF_MAX_ERROR, absolute, [-1.0, 1.0]);
    function!(
        gelu_is_exact,
        |x| first::<A>(gelu::<A>(A::splat(x))),
        |x| x * below(x),
        GELU_MAX_ERROR,
        size,
        [0.0, f32::INFINITY]
    );
    function!(
        gelu_derivative_is_exact,
        gelu_derivative::<A>,
        |x| below(x) + x * density(x),
        GELU_MAX_ERROR,
        size,
        [0.0, 1.0]
    );
    function!(
        elu_plus_one_is_exact,
        elu_plus_one::<A>,
        |x| if x > 0.0 { x + 1.0 } else { x.exp() },
        ELU_MAX_ERROR,
        size,
        [0.0, f32::INFINITY]
    );
    function!(
        elu_derivative_is_exact,
        |x| elu_derivative_at(elu_plus_one::<A>(x)),
        |x| if x > 0.0 { 1.0 } else { x.exp() },
        ELU_MAX_ERROR,
        size,
        [0.0, 1.0]
    );
    function!(
        normal_tail_is_exact,
        |x| normal_tail::<A>(clamp(x, 0.0, TAIL_END)),
        |x| below(-x.clamp(0.0, f64::from(TAIL_END))),
        NORMAL_TAIL_MAX_ERROR,
        absolute,
        [0.5, 0.0]
    );
}
