//! Sums over a row of floats, in four interleaved chains of registers.

use crate::arithmetic::{Arithmetic, LANES};

/// Σ x.
#[inline(always)]
pub(crate) fn sum<A: Arithmetic>(x: &[f32]) -> f32 {
    let one = A::splat(1.0);
    reduce::<A, 1>([x], |[x], sum| A::mul_add_each(x, one, sum), |[x]| x)
}

/// Σ (x - mean)².
#[inline(always)]
pub(crate) fn squares_about<A: Arithmetic>(x: &[f32], mean: f32) -> f32 {
    let (one, minus) = (A::splat(1.0), A::splat(-mean));
    let square = |[x]: [A::Register; 1], sum| {
        let d = A::mul_add_each(x, one, minus);
        A::mul_add_each(d, d, sum)
    };
    reduce::<A, 1>([x], square, |[x]| (x - mean) * (x - mean))
}

/// Σ x y.
#[inline(always)]
pub(crate) fn dot<A: Arithmetic>(x: &[f32], y: &[f32]) -> f32 {
    reduce::<A, 2>([x, y], |[x, y], sum| A::mul_add_each(x, y, sum), |[x, y]| x * y)
}

/// Σ x y z.
#[inline(always)]
pub(crate) fn triple_dot<A: Arithmetic>(x: &[f32], y: &[f32], z: &[f32]) -> f32 {
    let zero = A::splat(0.0);
    let term = |[x, y, z]: [A::Register; 3], sum| A::mul_add_each(A::mul_add_each(x, y, zero), z, sum);
    reduce::<A, 3>([x, y, z], term, |[x, y, z]| x * y * z)
}

/// Adds `term` of every sixteen floats of the `rows`, which have one length, then `single` of those that are left.
#[inline(always)]
fn reduce<A: Arithmetic, const N: usize>(
    rows: [&[f32]; N],
    term: impl Fn([A::Register; N], A::Register) -> A::Register,
    single: impl Fn([f32; N]) -> f32,
) -> f32 {
    const CHAINS: usize = 4;
    let len = rows[0].len();
    let mut lanes: [&[[f32; LANES]]; N] = [&[]; N];
    for (lanes, row) in lanes.iter_mut().zip(rows) {
        *lanes = &row[..len].as_chunks().0[..len / LANES];
    }
    let mut sums = [A::splat(0.0); CHAINS];
    for i in 0..len / LANES {
        let mut at = [sums[0]; N];
        for (at, lanes) in at.iter_mut().zip(lanes) {
            *at = A::load(&lanes[i]);
        }
        // The chains rotate, so that each is one of four names and stays in its register.
        let next = term(at, sums[0]);
        sums = [sums[1], sums[2], sums[3], next];
    }
    let mut rest = 0.0;
    for i in len / LANES * LANES..len {
        let mut at = [0.0; N];
        for (at, row) in at.iter_mut().zip(rows) {
            *at = row[i];
        }
        rest += single(at);
    }
    let one = A::splat(1.0);
    let sums = [A::mul_add_each(sums[0], one, sums[2]), A::mul_add_each(sums[1], one, sums[3])];
    A::sum(A::mul_add_each(sums[0], one, sums[1])) + rest
}
