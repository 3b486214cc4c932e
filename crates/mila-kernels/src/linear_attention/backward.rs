//! The gradients of linear attention, in three passes over the tokens: state, queries, keys and values.

use super::{
    Attention, Columns, Normalisation, Operands, add_outer_products,
    features::{Deltas, KeyGradients, Keys, Normalisers, Queries, QueryGradients},
    multiply_heads, states, total_chunks,
};
use crate::{isa::Isa, matrix::PackedMatrix, threads};

/// Where [`backward`] writes its results.
#[derive(Debug)]
pub struct Gradients<'a> {
    /// `[batch, tokens, 2 keys]`, with respect to q and k before φ.
    pub qk: &'a mut [f32],
    /// `[batch, tokens, channels]`.
    pub v: &'a mut [f32],
}

/// The gradients of [`forward`](super::forward) for `dy`, shaped as `y`. What the forward pass computed is computed again.
///
/// # Panics
/// If a length does not fit, a width is not a multiple of the heads, or that of keys that turn is odd.
pub fn backward(
    isa: Isa,
    qk: &[f32],
    v: &[f32],
    shape: Attention,
    rotation: Option<&[f32]>,
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
    let Attention { keys, channels, heads, .. } = shape;
    let (dk, dv) = (shape.key_dim(), shape.value_dim());
    let states = states(isa, operands, shape);
    let transposed: Vec<Vec<PackedMatrix>> = states
        .iter()
        .map(|state| state.sums.chunks_exact(dk * dv).map(|s| PackedMatrix::from_columns(isa, s, dk, dv)).collect())
        .collect();
    let size = shape.products() + keys;
    let mut partials = vec![0.0; size * shape.chunks().count()];
    let pieces = shape.chunks().zip(shape.split(dqk, 2 * keys)).zip(partials.chunks_exact_mut(size));
    threads::each(pieces, |_, (((image, tokens), dqk), partial)| {
        let chunk = shape.chunk(operands, image, tokens.clone());
        let first = (image * shape.tokens + tokens.start) * channels;
        let (state, dy) = (&states[image], &dy[first..first + chunk.v.len()]);
        let (products, sums) = partial.split_at_mut(shape.products());
        let (mut rotated, mut output) = (vec![0.0; tokens.len() * keys], vec![0.0; dy.len()]);
        let mut normalisers = vec![0.0; tokens.len() * heads];

        match shape.normalisation {
            Normalisation::Absent => normalisers.fill(1.0),
            Normalisation::Weights => isa.run(Normalisers { chunk, mean: &state.mean, heads, z: &mut normalisers }),
        }
        isa.run(Queries { chunk, keys, scaled: &mut rotated, z: &normalisers });
        multiply_heads(isa, &rotated, &state.key_values, (keys, channels), &mut output);
        isa.run(Deltas { dy, output: &mut output, normalisers: &mut normalisers });
        if shape.normalisation == Normalisation::Absent {
            normalisers.fill(0.0);
        }
        let left = Columns { x: &rotated, stride: keys, width: dk };
        add_outer_products(isa, left, Columns { x: dy, stride: channels, width: dv }, tokens.len(), products);
        multiply_heads(isa, &output, &transposed[image], (channels, keys), &mut rotated);
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
    let Attention { keys, channels, .. } = shape;
    let (dk, value_dim) = (shape.key_dim(), shape.value_dim());
    sums.iter_mut().for_each(|x| *x /= shape.tokens as f32);
    let sums: Vec<(&[f32], &[f32])> =
        sums.chunks_exact(shape.products() + keys).map(|sums| sums.split_at(shape.products())).collect();
    let pieces = shape.chunks().zip(shape.split(dqk, 2 * keys)).zip(shape.split(dv, channels));
    threads::each(pieces, |_, (((image, tokens), dqk), dv)| {
        let chunk = shape.chunk(operands, image, tokens);
        let (products, mean) = sums[image];
        let heads = products.chunks_exact(dk * value_dim);
        let rows: Vec<_> = heads.clone().map(|s| PackedMatrix::from_rows(isa, s, dk, value_dim)).collect();
        let columns: Vec<_> = heads.map(|s| PackedMatrix::from_columns(isa, s, dk, value_dim)).collect();
        let (mut rotated, mut unused) = (vec![0.0; dv.len() / channels * keys], vec![0.0; keys]);

        isa.run(Keys { chunk, group: 0..keys, keys, sums: &mut unused, rotated: &mut rotated });
        multiply_heads(isa, &rotated, &rows, (keys, channels), dv);
        multiply_heads(isa, chunk.v, &columns, (channels, keys), &mut rotated);
        isa.run(KeyGradients { chunk, mean, rotated: &mut rotated, dqk });
    });
}
