//! The attention of every token, in two passes: the keys and values of an image into its state, then the queries through it.

use std::ops::Range;

use rayon::prelude::*;

use super::{Attention, NORMALISER_EPSILON, Normalisation, Rotations};
use crate::{
    activation::Activation,
    arithmetic::{Arithmetic, LANES},
    isa::{Isa, Kernel},
    lane::{self, Lane},
    math::elu_plus_one,
    matrix::PackedMatrix,
    product::{Left, Product, Right, Start, Target},
    rows::Rows,
    scratch, strip,
};

/// Tokens whose keys are in the first-level cache at a time.
const TOKENS: usize = 98;

/// Pieces of an image, at most, whose states are added in the end.
const PIECES: usize = 32;

/// The attention of every token, `y = o` of the module's equations.
///
/// `qk` is `[batch, tokens, 2 keys]`, q before k, before φ; `v` and `y` are `[batch, tokens, channels]`. Without rotations
/// nothing turns.
///
/// # Panics
/// If a length does not fit, or a width is no multiple of the heads.
pub fn forward(isa: Isa, qk: &[f32], v: &[f32], shape: Attention, rotations: Option<&Rotations>, y: &mut [f32]) {
    shape.check_maps(qk, v);
    assert_eq!(y.len(), v.len(), "linear attention: length of y");
    if y.is_empty() {
        return;
    }
    let Attention { batch, tokens, channels, .. } = shape;
    if let Some(rotations) = rotations {
        rotations.check(tokens, shape.keys);
    }
    let pass = Pass { isa, qk, v, shape, rotations, state: shape.products() + shape.keys };
    scratch::floats(batch * pass.state, |states| {
        pass.keys(states);
        let states = &*states;
        let image = tokens * channels;
        // A few strips at a time.
        let piece = 4 * isa.level().strip();
        y.par_chunks_mut(image).enumerate().for_each(|(index, y)| {
            let state = &states[index * pass.state..][..pass.state];
            y.par_chunks_mut(piece * channels).enumerate().for_each(|(part, y)| {
                pass.queries(index, part * piece, state, y);
            });
        });
    });
}

struct Pass<'a> {
    isa: Isa,
    qk: &'a [f32],
    v: &'a [f32],
    shape: Attention,
    rotations: Option<&'a Rotations>,
    /// Floats of a state: S of every head, `[heads, key_dim, value_dim]`, then m, `[keys]`.
    state: usize,
}

impl Pass<'_> {
    /// Writes the states of all images.
    fn keys(&self, states: &mut [f32]) {
        let Attention { batch, tokens, keys, .. } = self.shape;
        let dv = self.shape.value_dim();
        let tokens_of_piece = tokens.div_ceil(PIECES).max(2 * TOKENS);
        let group = self.shape.group();
        let (pieces, groups) = (tokens.div_ceil(tokens_of_piece), keys.div_ceil(group));
        let size = group * dv + group;
        scratch::floats(batch * pieces * groups * size, |partials| {
            partials.par_chunks_mut(size).enumerate().for_each(|(index, partial)| {
                let (image, piece, g) = (index / groups / pieces, index / groups % pieces, index % groups);
                let some = piece * tokens_of_piece..tokens.min((piece + 1) * tokens_of_piece);
                self.add_keys(image, some, g * group..keys.min((g + 1) * group), partial);
            });
            let images = states.chunks_exact_mut(self.state).zip(partials.chunks_exact(pieces * groups * size));
            for (state, partials) in images {
                let (products, means) = state.split_at_mut(self.shape.products());
                for (g, (products, means)) in products.chunks_mut(group * dv).zip(means.chunks_mut(group)).enumerate() {
                    let parts =
                        partials.chunks_exact(size).skip(g).step_by(groups).map(|part| part.split_at(group * dv));
                    let share = 1.0 / tokens as f32;
                    total(parts.clone().map(|(products, _)| products), share, products);
                    total(parts.map(|(_, sums)| sums), share, means);
                }
            }
        });
    }

    /// Writes S and m of some channels of the keys, summed over some tokens of an image, to `partial`.
    fn add_keys(&self, image: usize, tokens: Range<usize>, some: Range<usize>, partial: &mut [f32]) {
        let Attention { tokens: all, keys: width, channels, .. } = self.shape;
        let (dk, dv, group) = (self.shape.key_dim(), self.shape.value_dim(), some.len());
        let group_size = partial.len() / (dv + 1);
        let (products, sums) = partial.split_at_mut(group_size * dv);
        let sums = &mut sums[..group];
        sums.fill(0.0);
        scratch::floats(TOKENS * group, |keys| {
            for begin in tokens.clone().step_by(TOKENS) {
                let count = TOKENS.min(tokens.end - begin);
                let first = image * all + begin;
                let keys = &mut keys[..count * group];
                for (token, key) in keys.chunks_exact_mut(group).enumerate() {
                    let at = (first + token) * 2 * width + width + some.start;
                    key.copy_from_slice(&self.qk[at..][..group]);
                }
                let rotations = self.rotations;
                self.isa.run(Keys { rotations, token: begin, first: some.start, keys: &mut *keys, sums: &mut *sums });
                let start = if begin == tokens.start { Start::Zero } else { Start::Result };
                let heads = products.chunks_exact_mut(dk * dv).take(group / dk).enumerate();
                for (head, products) in heads {
                    let v = &self.v[first * channels + (some.start / dk + head) * dv..];
                    let packed;
                    let right = if Right::takes_rows(self.isa, dv) {
                        Right::Rows { x: v, stride: channels, depth: count, columns: dv }
                    } else {
                        packed = PackedMatrix::from_strided_rows(self.isa, v, count, dv, channels);
                        Right::Packed(&packed)
                    };
                    for (index, y) in products.chunks_mut(8 * dv).enumerate() {
                        self.isa.run(Product {
                            left: Left::Columns { x: &keys[head * dk + index * 8..], stride: group },
                            rows: y.len() / dv,
                            right,
                            panels: 0..dv.div_ceil(2 * LANES),
                            start,
                            activation: Activation::None,
                            residual: None,
                            target: Target::Rows { y, stride: dv },
                        });
                    }
                }
            }
        });
    }

    /// The attention of the tokens of `y`, of which `first` is the first of the image.
    fn queries(&self, image: usize, first: usize, state: &[f32], y: &mut [f32]) {
        let Attention { tokens, keys, channels, heads, normalisation, .. } = self.shape;
        let (dk, dv, height) = (self.shape.key_dim(), self.shape.value_dim(), self.isa.level().strip());
        let (products, mean) = state.split_at(self.shape.products());
        let mean = (normalisation == Normalisation::Weights).then_some(mean);
        let qk = &self.qk[image * tokens * 2 * keys..];
        scratch::lanes(keys + heads, |lanes| {
            let (queries, scale) = lanes.split_at_mut(keys);
            for (index, y) in y.chunks_mut(height * channels).enumerate() {
                let (token, count) = (first + index * height, y.len() / channels);
                let rows = Rows::Plain { x: qk, stride: 2 * keys };
                strip::fill(self.isa, rows, (token, count), keys, queries);
                let rotations = self.rotations;
                self.isa.run(Queries { rotations, token, count, mean, queries: &mut *queries, scale: &mut *scale });
                for (head, products) in products.chunks_exact(dk * dv).enumerate() {
                    let packed;
                    let right = if Right::takes_rows(self.isa, dv) {
                        Right::Rows { x: products, stride: dv, depth: dk, columns: dv }
                    } else {
                        packed = PackedMatrix::from_rows(self.isa, products, dk, dv);
                        Right::Packed(&packed)
                    };
                    self.isa.run(Product {
                        left: Left::Strips(&queries[head * dk..(head + 1) * dk]),
                        rows: count,
                        right,
                        panels: 0..dv.div_ceil(2 * LANES),
                        start: Start::Zero,
                        activation: Activation::None,
                        residual: None,
                        target: Target::Rows { y: &mut y[head * dv..], stride: channels },
                    });
                }
            }
        });
    }
}

/// `y = share · Σ parts`, added in their order.
fn total<'a>(parts: impl Iterator<Item = &'a [f32]>, share: f32, y: &mut [f32]) {
    y.fill(0.0);
    for part in parts {
        y.iter_mut().zip(part).for_each(|(y, part)| *y += part);
    }
    y.iter_mut().for_each(|y| *y *= share);
}

/// φ of the keys of some tokens, added to `sums`, then turned.
struct Keys<'a> {
    rotations: Option<&'a Rotations>,
    /// The first token within the image.
    token: usize,
    /// The first channel.
    first: usize,
    /// `[tokens, channels of the group]`
    keys: &'a mut [f32],
    /// `[channels of the group]`
    sums: &'a mut [f32],
}

impl Kernel for Keys<'_> {
    type Output = ();

    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        for key in &mut *self.keys {
            *key = elu_plus_one::<A>(*key);
        }
        for (token, key) in self.keys.chunks_exact_mut(self.sums.len()).enumerate() {
            match self.rotations {
                Some(rotations) => rotations.turn_key::<A>(self.token + token, self.first, key, self.sums),
                None => {
                    for (sum, key) in self.sums.iter_mut().zip(key) {
                        *sum += *key;
                    }
                }
            }
        }
    }
}

/// φ of the transposed queries of a strip, turned and divided by their normalisers.
struct Queries<'a> {
    rotations: Option<&'a Rotations>,
    /// The first token within the image.
    token: usize,
    count: usize,
    /// m, `[keys]`; none without normalisation.
    mean: Option<&'a [f32]>,
    /// `[keys]` lanes.
    queries: &'a mut [Lane],
    /// Lanes for 1 / (q̂ᵀ m + ε), `[heads]`.
    scale: &'a mut [Lane],
}

impl Kernel for Queries<'_> {
    type Output = ();

    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        let Queries { rotations, token, count, mean, queries, scale } = self;
        for query in lane::floats_mut(queries) {
            *query = elu_plus_one::<A>(*query);
        }
        if let Some(mean) = mean {
            normalise::<A>(queries, mean, scale);
        } else {
            lane::floats_mut(scale).fill(1.0);
        }
        if let Some(rotations) = rotations {
            return rotations.turn_queries::<A>(token, count, queries, scale);
        }
        let d = queries.len() / scale.len();
        for (queries, scale) in queries.chunks_exact_mut(d).zip(scale) {
            let scale = A::load(&scale.0);
            for query in queries {
                A::store(A::mul_add_each(A::load(&query.0), scale, A::splat(0.0)), &mut query.0);
            }
        }
    }
}

/// `scale = 1 / (q̂ᵀ m + ε)`, a lane for each head.
#[inline(always)]
fn normalise<A: Arithmetic>(queries: &[Lane], mean: &[f32], scale: &mut [Lane]) {
    let d = queries.len() / scale.len();
    for ((queries, mean), scale) in queries.chunks_exact(d).zip(mean.chunks_exact(d)).zip(scale) {
        let mut sums = [A::splat(0.0); 4];
        for (index, (query, &mean)) in queries.iter().zip(mean).enumerate() {
            sums[index % 4] = A::mul_add_each(A::load(&query.0), A::splat(mean), sums[index % 4]);
        }
        let sum = A::add(A::add(sums[0], sums[1]), A::add(sums[2], sums[3]));
        A::store(A::add(sum, A::splat(NORMALISER_EPSILON)), &mut scale.0);
        for scale in &mut scale.0 {
            *scale = 1.0 / *scale;
        }
    }
}
