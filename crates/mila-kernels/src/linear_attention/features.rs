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

/// `y = R x`: every pair of floats turned by the angle whose cosine and sine stand in `table`.
#[inline(always)]
fn rotate<A: Arithmetic>(x: &[f32], table: &[f32], y: &mut [f32]) {
    let pairs = x.as_chunks::<2>().0.iter().zip(table.as_chunks::<2>().0);
    for (([re, im], [cos, sin]), y) in pairs.zip(y.as_chunks_mut::<2>().0) {
        *y = [A::mul_add(*re, *cos, -im * sin), A::mul_add(*im, *cos, re * sin)];
    }
}

/// `x = Rᵀ x`: the same angles turned back.
#[inline(always)]
fn rotate_back<A: Arithmetic>(x: &mut [f32], table: &[f32]) {
    for ([re, im], [cos, sin]) in x.as_chunks_mut::<2>().0.iter_mut().zip(table.as_chunks::<2>().0) {
        (*re, *im) = (A::mul_add(*re, *cos, *im * sin), A::mul_add(*im, *cos, -*re * sin));
    }
}

/// `sums += Σ k̂` and `rotated = R k̂` for the channels of a group.
pub(super) struct Keys<'a> {
    pub(super) chunk: Operands<'a>,
    pub(super) group: Range<usize>,
    pub(super) channels: usize,
    /// `[group]`
    pub(super) sums: &'a mut [f32],
    /// `[tokens, group]`
    pub(super) rotated: &'a mut [f32],
}

impl Kernel for Keys<'_> {
    type Output = ();

    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        let Keys { chunk, group, channels, sums, rotated } = self;
        let mut key = vec![0.0; group.len()];
        let rows = chunk.qk.chunks_exact(2 * channels).zip(chunk.rotation.chunks_exact(channels));
        for ((qk, rotation), rotated) in rows.zip(rotated.chunks_exact_mut(group.len())) {
            features::<A>(&qk[channels..][group.clone()], &mut key);
            sums.iter_mut().zip(&key).for_each(|(sum, key)| *sum += key);
            rotate::<A>(&key, &rotation[group.clone()], rotated);
        }
    }
}

/// `scaled = z R q̂`, and z itself.
pub(super) struct Queries<'a> {
    pub(super) chunk: Operands<'a>,
    /// m, `[channels]`.
    pub(super) mean: &'a [f32],
    pub(super) heads: usize,
    /// `[tokens, channels]`
    pub(super) scaled: &'a mut [f32],
    /// z, `[tokens, heads]`.
    pub(super) normalisers: &'a mut [f32],
}

impl Kernel for Queries<'_> {
    type Output = ();

    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        let Queries { chunk, mean, heads, scaled, normalisers } = self;
        let (channels, d) = (mean.len(), mean.len() / heads);
        let mut query = vec![0.0; channels];
        let rows = chunk.qk.chunks_exact(2 * channels).zip(chunk.rotation.chunks_exact(channels));
        let rows = rows.zip(scaled.chunks_exact_mut(channels)).zip(normalisers.chunks_exact_mut(heads));
        for (((qk, rotation), scaled), normalisers) in rows {
            features::<A>(&qk[..channels], &mut query);
            rotate::<A>(&query, rotation, scaled);
            let head = query.chunks_exact(d).zip(mean.chunks_exact(d)).zip(scaled.chunks_exact_mut(d));
            for (((query, mean), scaled), z) in head.zip(normalisers) {
                *z = 1.0 / (reduce::dot::<A>(query, mean) + NORMALISER_EPSILON);
                scaled.iter_mut().for_each(|x| *x *= *z);
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
    /// m, `[channels]`.
    pub(super) mean: &'a [f32],
    /// δ, `[tokens, heads]`.
    pub(super) deltas: &'a [f32],
    /// The gradient of R q̂, `[tokens, channels]`; overwritten.
    pub(super) rotated: &'a mut [f32],
    /// `[channels]`
    pub(super) sums: &'a mut [f32],
    /// `[tokens, 2 channels]`, of which the first half is written.
    pub(super) dqk: &'a mut [f32],
}

impl Kernel for QueryGradients<'_> {
    type Output = ();

    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        let QueryGradients { chunk, mean, deltas, rotated, sums, dqk } = self;
        let channels = mean.len();
        let heads = deltas.len() / (rotated.len() / channels);
        let d = channels / heads;
        let mut query = vec![0.0; channels];
        let rows = chunk.qk.chunks_exact(2 * channels).zip(chunk.rotation.chunks_exact(channels));
        let rows = rows.zip(rotated.chunks_exact_mut(channels)).zip(deltas.chunks_exact(heads));
        for ((((qk, rotation), gradient), deltas), dqk) in rows.zip(dqk.chunks_exact_mut(2 * channels)) {
            features::<A>(&qk[..channels], &mut query);
            rotate_back::<A>(gradient, rotation);
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
    /// dm / N, `[channels]`.
    pub(super) mean: &'a [f32],
    /// The gradient of R k̂, `[tokens, channels]`; overwritten.
    pub(super) rotated: &'a mut [f32],
    /// `[tokens, 2 channels]`, of which the second half is written.
    pub(super) dqk: &'a mut [f32],
}

impl Kernel for KeyGradients<'_> {
    type Output = ();

    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        let KeyGradients { chunk, mean, rotated, dqk } = self;
        let channels = mean.len();
        let mut key = vec![0.0; channels];
        let rows = chunk.qk.chunks_exact(2 * channels).zip(chunk.rotation.chunks_exact(channels));
        let rows = rows.zip(rotated.chunks_exact_mut(channels)).zip(dqk.chunks_exact_mut(2 * channels));
        for (((qk, rotation), gradient), dqk) in rows {
            features::<A>(&qk[channels..], &mut key);
            rotate_back::<A>(gradient, rotation);
            for (((dk, gradient), mean), &key) in dqk[channels..].iter_mut().zip(gradient).zip(mean).zip(&key) {
                *dk = (*gradient + mean) * elu_derivative_at(key);
            }
        }
    }
}
