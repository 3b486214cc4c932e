//! The gradients of linear attention, in three passes over the tokens: state, queries, keys and values.

use super::{
    Attention, Operands, add_outer_products,
    features::{Deltas, KeyGradients, Keys, Queries, QueryGradients},
    multiply_heads, states, total_chunks,
};
use crate::{isa::Isa, matrix::PackedMatrix, threads};

/// Where [`backward`] writes its results.
#[derive(Debug)]
pub struct Gradients<'a> {
    /// `[batch, tokens, 2 channels]`, with respect to q and k before φ.
    pub qk: &'a mut [f32],
    /// `[batch, tokens, channels]`.
    pub v: &'a mut [f32],
}

/// The gradients of [`forward`](super::forward) for `dy`, shaped as `y`. What the forward pass computed is computed again.
///
/// # Panics
/// If a length does not fit, or the width is odd or not a multiple of the heads.
pub fn backward(
    isa: Isa,
    qk: &[f32],
    v: &[f32],
    shape: Attention,
    rotation: &[f32],
    dy: &[f32],
    gradients: Gradients<'_>,
) {
    shape.check(qk, v, rotation);
    let Gradients { qk: dqk, v: dv } = gradients;
    assert_eq!(dy.len(), v.len(), "linear attention: length of dy");
    assert_eq!(dqk.len(), qk.len(), "linear attention: length of dqk");
    assert_eq!(dv.len(), v.len(), "linear attention: length of dv");
    if dy.is_empty() {
        return;
    }
    let operands = Operands { qk, v, rotation };
    let sums = query_gradients(isa, operands, shape, dy, dqk);
    key_gradients(isa, operands, shape, sums, dqk, dv);
}

/// Writes the gradient of q; returns dS of every head and then dm, for every image.
fn query_gradients(isa: Isa, operands: Operands<'_>, shape: Attention, dy: &[f32], dqk: &mut [f32]) -> Vec<f32> {
    let Attention { channels, heads, .. } = shape;
    let d = shape.head_dim();
    let states = states(isa, operands, shape);
    let transposed: Vec<Vec<PackedMatrix>> = states
        .iter()
        .map(|state| state.sums.chunks_exact(d * d).map(|s| PackedMatrix::from_columns(isa, s, d, d)).collect())
        .collect();
    let size = channels * d + channels;
    let mut partials = vec![0.0; size * shape.chunks().count()];
    let pieces = shape.chunks().zip(shape.split(dqk, 2 * channels)).zip(partials.chunks_exact_mut(size));
    threads::each(pieces, |_, (((image, tokens), dqk), partial)| {
        let chunk = shape.chunk(operands, image, tokens.clone());
        let first = (image * shape.tokens + tokens.start) * channels;
        let (state, dy) = (&states[image], &dy[first..first + chunk.v.len()]);
        let (products, sums) = partial.split_at_mut(channels * d);
        let (mut rotated, mut output) = (vec![0.0; dy.len()], vec![0.0; dy.len()]);
        let mut normalisers = vec![0.0; tokens.len() * heads];

        isa.run(Queries { chunk, mean: &state.mean, heads, scaled: &mut rotated, normalisers: &mut normalisers });
        multiply_heads(isa, &rotated, &state.key_values, channels, &mut output);
        isa.run(Deltas { dy, output: &mut output, normalisers: &mut normalisers });
        add_outer_products(isa, &rotated, dy, (channels, channels), (tokens.len(), d), products);
        multiply_heads(isa, &output, &transposed[image], channels, &mut rotated);
        isa.run(QueryGradients { chunk, mean: &state.mean, deltas: &normalisers, rotated: &mut rotated, sums, dqk });
    });
    total_chunks(&partials, shape)
}

/// Writes the gradients of k and v, from dS of every head and then dm of every image.
fn key_gradients(
    isa: Isa,
    operands: Operands<'_>,
    shape: Attention,
    mut sums: Vec<f32>,
    dqk: &mut [f32],
    dv: &mut [f32],
) {
    let Attention { channels, .. } = shape;
    let d = shape.head_dim();
    sums.iter_mut().for_each(|x| *x /= shape.tokens as f32);
    let sums: Vec<(&[f32], &[f32])> =
        sums.chunks_exact(channels * d + channels).map(|sums| sums.split_at(channels * d)).collect();
    let pieces = shape.chunks().zip(shape.split(dqk, 2 * channels)).zip(shape.split(dv, channels));
    threads::each(pieces, |_, (((image, tokens), dqk), dv)| {
        let chunk = shape.chunk(operands, image, tokens);
        let (products, mean) = sums[image];
        let heads = products.chunks_exact(d * d);
        let rows: Vec<_> = heads.clone().map(|s| PackedMatrix::from_rows(isa, s, d, d)).collect();
        let columns: Vec<_> = heads.map(|s| PackedMatrix::from_columns(isa, s, d, d)).collect();
        let (mut rotated, mut unused) = (vec![0.0; dv.len()], vec![0.0; channels]);

        isa.run(Keys { chunk, group: 0..channels, channels, sums: &mut unused, rotated: &mut rotated });
        multiply_heads(isa, &rotated, &rows, channels, dv);
        multiply_heads(isa, chunk.v, &columns, channels, &mut rotated);
        isa.run(KeyGradients { chunk, mean, rotated: &mut rotated, dqk });
    });
}
