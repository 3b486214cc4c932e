//! Normalised linear attention with rotary positions (MILA, arXiv:2405.16605), without its positional convolution.
//!
//! With φ = elu + 1, q̂ = φ(q), k̂ = φ(k), N tokens, and R the rotation of channel pairs by position, for each head:
//!
//! ```text
//! S = 1/N Σ_j (R k̂_j) v_jᵀ      m = 1/N Σ_j k̂_j      o_i = Sᵀ (R q̂_i) z_i,   z_i = 1 / (q̂_iᵀ m + ε)
//! ```
//!
//! The normaliser uses the *unrotated* q̂ and k̂. Rotation is over the full width, before it is split into heads. The cost
//! is O(tokens · channels · head_dim), and no array grows with tokens · head_dim².
//!
//! Backward, with g = dy, δ_i = -z_i (g_iᵀ o_i), dS = Σ_i (z_i R q̂_i) g_iᵀ and dm = Σ_i δ_i q̂_i:
//!
//! ```text
//! dq̂_i = Rᵀ S (z_i g_i) + δ_i m      dk̂_j = (Rᵀ dS v_j + dm) / N      dv_j = dSᵀ (R k̂_j) / N
//! ```

use std::ops::Range;

use crate::{
    activation::Activation,
    isa::Isa,
    matrix::PackedMatrix,
    product::{Left, Product, Right, Start, Target},
    scratch,
    strip::{self, Rows},
    threads,
};

mod backward;
mod features;
mod forward;
mod rotations;
#[cfg(test)]
mod tests;

pub use backward::{Gradients, backward};
use features::Keys;
pub use forward::forward;
pub use rotations::Rotations;

/// ε of the normaliser.
pub const NORMALISER_EPSILON: f32 = 1e-6;

/// Tokens whose outer products one piece adds up: a 14 × 14 map, a sixteenth of a 56 × 56 map.
const CHUNK: usize = 196;

/// Channels, about, of the heads that one piece of the first pass takes.
const GROUP: usize = 128;

/// The shape of the operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Attention {
    /// Images.
    pub batch: usize,
    /// Tokens of an image.
    pub tokens: usize,
    /// Floats of a token: heads × head_dim, an even number.
    pub channels: usize,
    /// Heads, a divisor of `channels`; a head is a contiguous block of channels.
    pub heads: usize,
}

impl Attention {
    fn head_dim(&self) -> usize {
        self.channels / self.heads
    }

    fn check(&self, qk: &[f32], v: &[f32], rotation: &[f32]) {
        let Attention { tokens, channels, .. } = *self;
        self.check_maps(qk, v);
        assert_eq!(rotation.len(), tokens * channels, "linear attention: rotation is [{tokens}, {}, 2]", channels / 2);
    }

    fn check_maps(&self, qk: &[f32], v: &[f32]) {
        let Attention { batch, tokens, channels, heads } = *self;
        assert!(heads > 0 && channels.is_multiple_of(heads), "linear attention: {channels} channels, {heads} heads");
        assert!(channels.is_multiple_of(2), "linear attention: rotation needs pairs, found {channels} channels");
        assert_eq!(qk.len(), batch * tokens * 2 * channels, "linear attention: qk is {self:?} twice");
        assert_eq!(v.len(), batch * tokens * channels, "linear attention: v is {self:?}");
    }

    /// The operands of some tokens of one image.
    fn chunk<'a>(&self, operands: Operands<'a>, image: usize, tokens: Range<usize>) -> Operands<'a> {
        let c = self.channels;
        let rows = image * self.tokens + tokens.start..image * self.tokens + tokens.end;
        Operands {
            qk: &operands.qk[rows.start * 2 * c..rows.end * 2 * c],
            v: &operands.v[rows.start * c..rows.end * c],
            rotation: &operands.rotation[tokens.start * c..tokens.end * c],
        }
    }

    /// What `map`, `[batch, tokens, width]`, holds of each of the chunks.
    fn split<'a>(&self, map: &'a mut [f32], width: usize) -> impl Iterator<Item = &'a mut [f32]> + use<'a> {
        map.chunks_mut(self.tokens * width).flat_map(move |image| image.chunks_mut(CHUNK * width))
    }

    /// The chunks that the tokens of every image are cut into: (image, tokens).
    fn chunks(&self) -> impl Iterator<Item = (usize, Range<usize>)> + use<> {
        let Attention { batch, tokens, .. } = *self;
        (0..batch).flat_map(move |image| (0..tokens).step_by(CHUNK).map(move |t| (image, t..tokens.min(t + CHUNK))))
    }
}

/// The operands of all tokens, or of a chunk of one image.
#[derive(Clone, Copy)]
struct Operands<'a> {
    /// `[.., tokens, 2 channels]`
    qk: &'a [f32],
    /// `[.., tokens, channels]`
    v: &'a [f32],
    /// `[tokens, channels / 2, 2]`
    rotation: &'a [f32],
}

/// What the queries of an image need to know of its keys and values.
#[derive(Default)]
struct State {
    /// m, `[channels]`.
    mean: Vec<f32>,
    /// S of every head, `[head_dim, head_dim]`, row-major.
    sums: Vec<f32>,
    /// S of every head, packed.
    key_values: Vec<PackedMatrix>,
}

/// The states of all images.
fn states(isa: Isa, operands: Operands<'_>, shape: Attention) -> Vec<State> {
    let Attention { batch, tokens, channels, heads } = shape;
    let d = shape.head_dim();
    let sums = add_chunks(shape, |image, tokens, group, products, sums| {
        let chunk = shape.chunk(operands, image, tokens);
        let count = chunk.v.len() / channels;
        let mut rotated = vec![0.0; count * group.len()];
        isa.run(Keys { chunk, group: group.clone(), channels, sums, rotated: &mut rotated });
        add_outer_products(isa, &rotated, &chunk.v[group.start..], (group.len(), channels), (count, d), products);
    });
    let mut states: Vec<State> = std::iter::repeat_with(State::default).take(batch).collect();
    let images = sums.chunks_exact(channels * d + channels).zip(&mut states);
    threads::each(images, |_, (sums, state)| {
        let scaled: Vec<f32> = sums.iter().map(|x| x / tokens as f32).collect();
        let (products, mean) = scaled.split_at(heads * d * d);
        state.mean = mean.to_vec();
        state.sums = products.to_vec();
        state.key_values = products.chunks_exact(d * d).map(|s| PackedMatrix::from_rows(isa, s, d, d)).collect();
    });
    states
}

/// Adds up, for every image, `[heads, head_dim, head_dim]` outer products and then `[channels]` sums over its tokens.
///
/// `add(image, tokens, channels, products, sums)` adds those of a chunk, for the heads that make up the channels.
fn add_chunks(
    shape: Attention,
    add: impl Fn(usize, Range<usize>, Range<usize>, &mut [f32], &mut [f32]) + Sync,
) -> Vec<f32> {
    let (d, channels) = (shape.head_dim(), shape.channels);
    // A group begins at a pair of channels.
    let group = if d.is_multiple_of(2) { (GROUP / d).max(1) * d } else { channels };
    let size = channels * d + channels;
    let mut partials = vec![0.0; size * shape.chunks().count()];
    let pieces = shape.chunks().zip(partials.chunks_exact_mut(size)).flat_map(|((image, tokens), partial)| {
        let (products, sums) = partial.split_at_mut(channels * d);
        let groups = products.chunks_mut(group * d).zip(sums.chunks_mut(group)).enumerate();
        groups.map(move |(g, (products, sums))| {
            (image, tokens.clone(), g * group..g * group + sums.len(), products, sums)
        })
    });
    threads::each(pieces, |_, (image, tokens, group, products, sums)| add(image, tokens, group, products, sums));

    total_chunks(&partials, shape)
}

/// Adds the partial sums of the chunks of every image, in their order.
fn total_chunks(partials: &[f32], shape: Attention) -> Vec<f32> {
    let size = shape.channels * shape.head_dim() + shape.channels;
    let mut totals = Vec::with_capacity(size * shape.batch);
    for partials in partials.chunks_exact(size * shape.tokens.div_ceil(CHUNK)) {
        let (total, rest) = partials.split_at(size);
        let start = totals.len();
        totals.extend_from_slice(total);
        for partial in rest.chunks_exact(size) {
            totals[start..].iter_mut().zip(partial).for_each(|(total, partial)| *total += partial);
        }
    }
    totals
}

/// `products[h][i][j] += Σ_n left[n][h d + i] · right[n][h d + j]` over `count` tokens, for every head of `d` channels.
///
/// The strides are those between the tokens of `left` and of `right`.
fn add_outer_products(
    isa: Isa,
    left: &[f32],
    right: &[f32],
    strides: (usize, usize),
    (count, d): (usize, usize),
    products: &mut [f32],
) {
    for (head, products) in products.chunks_exact_mut(d * d).enumerate() {
        let right = PackedMatrix::from_strided_rows(isa, &right[head * d..], count, d, strides.1);
        let height = isa.level().strip();
        for (index, y) in products.chunks_mut(height * d).enumerate() {
            isa.run(Product {
                left: Left::Columns { x: &left[head * d + index * height..], stride: strides.0 },
                rows: y.len() / d,
                right: Right::Packed(&right),
                panels: 0..right.panels(),
                start: Start::Result,
                activation: Activation::None,
                residual: None,
                target: Target::Rows { y, stride: d },
            });
        }
    }
}

/// `y[n][h] = left[n][h] · right[h]` for every token and head; `left` and `y` are `[tokens, channels]`.
fn multiply_heads(isa: Isa, left: &[f32], right: &[PackedMatrix], channels: usize, y: &mut [f32]) {
    let (rows, height) = (y.len() / channels, isa.level().strip());
    for (head, right) in right.iter().enumerate() {
        let (depth, first) = (right.depth(), head * right.columns());
        scratch::lanes(rows.div_ceil(height) * depth, |strips| {
            strip::fill(isa, Rows::Plain { x: &left[first..], stride: channels }, (0, rows), depth, strips);
            isa.run(Product {
                left: Left::Strips(strips),
                rows,
                right: Right::Packed(right),
                panels: 0..right.panels(),
                start: Start::Zero,
                activation: Activation::None,
                residual: None,
                target: Target::Rows { y: &mut y[first..], stride: channels },
            });
        });
    }
}
