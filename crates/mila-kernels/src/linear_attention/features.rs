//! The element-by-element parts: feature map, rotation, normaliser, and their gradients.

use std::ops::Range;

use super::{NORMALISER_EPSILON, Operands};
use crate::{
    arithmetic::Arithmetic,
    isa::Kernel,
    math::{elu_derivative_at, elu_plus_one},
    reduce,
};

/// `y = φ(x)`.
#[inline(always)]
fn features<A: Arithmetic>(x: &[f32], y: &mut [f32]) {
    y.iter_mut().zip(x).for_each(|(y, &x)| *y = elu_plus_one::<A>(x));
}

/// `y = R x`: every pair of floats turned by the angle whose cosine and sine stand in `table`; without one, a copy.
#[inline(always)]
fn rotate<A: Arithmetic>(x: &[f32], table: Option<&[f32]>, y: &mut [f32]) {
    let Some(table) = table else { return y.copy_from_slice(x) };
    let pairs = x.as_chunks::<2>().0.iter().zip(table.as_chunks::<2>().0);
    for (([re, im], [cos, sin]), y) in pairs.zip(y.as_chunks_mut::<2>().0) {
        *y = [A::mul_add(*re, *cos, -im * sin), A::mul_add(*im, *cos, re * sin)];
    }
}

/// `x = Rᵀ x`: the same angles turned back.
#[inline(always)]
fn rotate_back<A: Arithmetic>(x: &mut [f32], table: Option<&[f32]>) {
    let Some(table) = table else { return };
    for ([re, im], [cos, sin]) in x.as_chunks_mut::<2>().0.iter_mut().zip(table.as_chunks::<2>().0) {
        (*re, *im) = (A::mul_add(*re, *cos, *im * sin), A::mul_add(*im, *cos, -*re * sin));
    }
}

/// `sums += Σ k̂` and `rotated = R k̂` for the channels of a group.
pub(super) struct Keys<'a> {
    pub(super) chunk: Operands<'a>,
    pub(super) group: Range<usize>,
    pub(super) keys: usize,
    /// `[group]`
    pub(super) sums: &'a mut [f32],
    /// `[tokens, group]`
    pub(super) rotated: &'a mut [f32],
}

impl Kernel for Keys<'_> {
    type Output = ();

    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        let Keys { chunk, group, keys, sums, rotated } = self;
        let mut key = vec![0.0; group.len()];
        let rows = chunk.qk.chunks_exact(2 * keys).zip(rotated.chunks_exact_mut(group.len()));
        for (token, (qk, rotated)) in rows.enumerate() {
            features::<A>(&qk[keys..][group.clone()], &mut key);
            sums.iter_mut().zip(&key).for_each(|(sum, key)| *sum += key);
            let rotation = chunk.rotation_of(token, keys).map(|table| &table[group.clone()]);
            rotate::<A>(&key, rotation, rotated);
        }
    }
}

/// z of every query.
pub(super) struct Normalisers<'a> {
    pub(super) chunk: Operands<'a>,
    /// m, `[keys]`.
    pub(super) mean: &'a [f32],
    pub(super) heads: usize,
    /// `[tokens, heads]`
    pub(super) z: &'a mut [f32],
}

impl Kernel for Normalisers<'_> {
    type Output = ();

    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        let Normalisers { chunk, mean, heads, z } = self;
        let (keys, d) = (mean.len(), mean.len() / heads);
        let mut query = vec![0.0; keys];
        for (qk, z) in chunk.qk.chunks_exact(2 * keys).zip(z.chunks_exact_mut(heads)) {
            features::<A>(&qk[..keys], &mut query);
            for ((query, mean), z) in query.chunks_exact(d).zip(mean.chunks_exact(d)).zip(z) {
                *z = 1.0 / (reduce::dot::<A>(query, mean) + NORMALISER_EPSILON);
            }
        }
    }
}

/// `scaled = z R q̂`.
pub(super) struct Queries<'a> {
    pub(super) chunk: Operands<'a>,
    pub(super) keys: usize,
    /// `[tokens, keys]`
    pub(super) scaled: &'a mut [f32],
    /// z, `[tokens, heads]`.
    pub(super) z: &'a [f32],
}

impl Kernel for Queries<'_> {
    type Output = ();

    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        let Queries { chunk, keys, scaled, z } = self;
        let heads = z.len() / (scaled.len() / keys);
        let mut query = vec![0.0; keys];
        let rows = chunk.qk.chunks_exact(2 * keys).zip(scaled.chunks_exact_mut(keys)).zip(z.chunks_exact(heads));
        for (token, ((qk, scaled), z)) in rows.enumerate() {
            features::<A>(&qk[..keys], &mut query);
            rotate::<A>(&query, chunk.rotation_of(token, keys), scaled);
            for (scaled, &z) in scaled.chunks_exact_mut(keys / heads).zip(z) {
                scaled.iter_mut().for_each(|x| *x *= z);
            }
        }
    }
}

/// `deltas = δ = -z (g · o)` and `z g`, from z, o and g = dy.
pub(super) struct Deltas<'a> {
    /// g, `[tokens, channels]`.
    pub(super) dy: &'a [f32],
    /// o on entry, `z g` on return, `[tokens, channels]`.
    pub(super) output: &'a mut [f32],
    /// z on entry, δ on return, `[tokens, heads]`.
    pub(super) normalisers: &'a mut [f32],
}

impl Kernel for Deltas<'_> {
    type Output = ();

    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        let d = self.dy.len() / self.normalisers.len();
        let heads = self.dy.chunks_exact(d).zip(self.output.chunks_exact_mut(d)).zip(self.normalisers);
        for ((dy, output), z) in heads {
            let delta = -*z * reduce::dot::<A>(dy, output);
            output.iter_mut().zip(dy).for_each(|(output, dy)| *output = *z * dy);
            *z = delta;
        }
    }
}

/// `dq = (Rᵀ d(R q̂) + δ m) φ'(q)` and `sums += Σ δ q̂`.
pub(super) struct QueryGradients<'a> {
    pub(super) chunk: Operands<'a>,
    /// m, `[keys]`.
    pub(super) mean: &'a [f32],
    /// δ, `[tokens, heads]`.
    pub(super) deltas: &'a [f32],
    /// The gradient of R q̂, `[tokens, keys]`; overwritten.
    pub(super) rotated: &'a mut [f32],
    /// `[keys]`
    pub(super) sums: &'a mut [f32],
    /// `[tokens, 2 keys]`, of which the first half is written.
    pub(super) dqk: &'a mut [f32],
}

impl Kernel for QueryGradients<'_> {
    type Output = ();

    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        let QueryGradients { chunk, mean, deltas, rotated, sums, dqk } = self;
        let keys = mean.len();
        let heads = deltas.len() / (rotated.len() / keys);
        let d = keys / heads;
        let mut query = vec![0.0; keys];
        let rows = chunk.qk.chunks_exact(2 * keys).zip(rotated.chunks_exact_mut(keys)).zip(deltas.chunks_exact(heads));
        for (token, (((qk, gradient), deltas), dqk)) in rows.zip(dqk.chunks_exact_mut(2 * keys)).enumerate() {
            features::<A>(&qk[..keys], &mut query);
            rotate_back::<A>(gradient, chunk.rotation_of(token, keys));
            let heads = query.chunks_exact(d).zip(mean.chunks_exact(d)).zip(gradient.chunks_exact(d)).zip(deltas);
            let heads = heads.zip(sums.chunks_exact_mut(d)).zip(dqk.chunks_exact_mut(d));
            for (((((query, mean), gradient), &delta), sums), dq) in heads {
                sums.iter_mut().zip(query).for_each(|(sum, query)| *sum = A::mul_add(delta, *query, *sum));
                for (((dq, gradient), mean), &query) in dq.iter_mut().zip(gradient).zip(mean).zip(query) {
                    *dq = A::mul_add(delta, *mean, *gradient) * elu_derivative_at(query);
                }
            }
        }
    }
}

/// `dk = (Rᵀ d(R k̂) + dm / N) φ'(k)`.
pub(super) struct KeyGradients<'a> {
    pub(super) chunk: Operands<'a>,
    /// dm / N, `[keys]`.
    pub(super) mean: &'a [f32],
    /// The gradient of R k̂, `[tokens, keys]`; overwritten.
    pub(super) rotated: &'a mut [f32],
    /// `[tokens, 2 keys]`, of which the second half is written.
    pub(super) dqk: &'a mut [f32],
}

impl Kernel for KeyGradients<'_> {
    type Output = ();

    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        let KeyGradients { chunk, mean, rotated, dqk } = self;
        let keys = mean.len();
        let mut key = vec![0.0; keys];
        let rows = chunk.qk.chunks_exact(2 * keys).zip(rotated.chunks_exact_mut(keys));
        for (token, ((qk, gradient), dqk)) in rows.zip(dqk.chunks_exact_mut(2 * keys)).enumerate() {
            features::<A>(&qk[keys..], &mut key);
            rotate_back::<A>(gradient, chunk.rotation_of(token, keys));
            for (((dk, gradient), mean), &key) in dqk[keys..].iter_mut().zip(gradient).zip(mean).zip(&key) {
                *dk = (*gradient + mean) * elu_derivative_at(key);
            }
        }
    }
}
