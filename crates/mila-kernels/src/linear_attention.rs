//! Linear attention (MILA, arXiv:2405.16605), with and without rotary positions and normalisation.
//!
//! With φ = elu + 1, q̂ = φ(q), k̂ = φ(k), N tokens, and R the rotation of channel pairs by position or the identity, for each
//! head:
//!
//! ```text
//! S = 1/N Σ_j (R k̂_j) v_jᵀ      m = 1/N Σ_j k̂_j      o_i = Sᵀ (R q̂_i) z_i,   z_i = 1 / (q̂_iᵀ m + ε)
//! ```
//!
//! The normaliser uses the *unrotated* q̂ and k̂; without it z is one. Rotation is over the full width, before it is split into
//! heads. Heads of keys and of values may have different widths. The cost is O(tokens · channels · head_dim), and no array
//! grows with tokens · head_dim².
//!
//! Backward, with g = dy, δ_i = -z_i (g_iᵀ o_i), dS = Σ_i (z_i R q̂_i) g_iᵀ and dm = Σ_i δ_i q̂_i:
//!
//! ```text
//! dq̂_i = Rᵀ S (z_i g_i) + δ_i m      dk̂_j = (Rᵀ dS v_j + dm) / N      dv_j = dSᵀ (R k̂_j) / N
//! ```

use std::ops::Range;

use crate::{
    activation::Activation,
    format::Format,
    isa::Isa,
    matrix::PackedMatrix,
    product::{Left, Product, Right, Start, Target},
    rows::Rows,
    scratch, threads,
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

/// The shape of the operands, and what is divided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Attention {
    /// Images.
    pub batch: usize,
    /// Tokens of an image.
    pub tokens: usize,
    /// Floats of a token's query, and of its key; an even number where they turn.
    pub keys: usize,
    /// Floats of a token's value.
    pub channels: usize,
    /// Heads, a divisor of `keys` and of `channels`; a head is a contiguous block of each.
    pub heads: usize,
    /// What the sum over keys is divided by.
    pub normalisation: Normalisation,
}

/// What the sum over keys is divided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Normalisation {
    /// The number of tokens only: z = 1.
    Absent,
    /// The weights of the query over the keys: z of the module's equations.
    Weights,
}

impl Attention {
    /// Channels of the heads that a piece of the first pass takes; a group begins at a pair of channels.
    fn group(&self) -> usize {
        let dk = self.key_dim();
        if dk.is_multiple_of(2) { (GROUP / dk).max(1) * dk } else { self.keys }
    }

    /// Floats of a head's key.
    fn key_dim(&self) -> usize {
        self.keys / self.heads
    }

    /// Floats of a head's value.
    fn value_dim(&self) -> usize {
        self.channels / self.heads
    }

    /// Floats of S of all heads, `[heads, key_dim, value_dim]`.
    fn products(&self) -> usize {
        self.keys * self.value_dim()
    }

    fn check(&self, qk: &[f32], v: &[f32], rotation: Option<&[f32]>) {
        let Attention { tokens, keys, .. } = *self;
        self.check_maps(qk, v);
        if let Some(rotation) = rotation {
            assert!(keys.is_multiple_of(2), "linear attention: rotation needs pairs, found {keys} channels");
            assert_eq!(rotation.len(), tokens * keys, "linear attention: rotation is [{tokens}, {}, 2]", keys / 2);
        }
    }

    fn check_maps(&self, qk: &[f32], v: &[f32]) {
        let Attention { batch, tokens, keys, channels, heads, .. } = *self;
        let splits = |width: usize| heads > 0 && width.is_multiple_of(heads);
        assert!(
            splits(channels) && splits(keys),
            "linear attention: {channels} channels, {keys} of keys, {heads} heads"
        );
        assert_eq!(qk.len(), batch * tokens * 2 * keys, "linear attention: qk is {self:?} twice");
        assert_eq!(v.len(), batch * tokens * channels, "linear attention: v is {self:?}");
    }

    /// The operands of some tokens of one image.
    fn chunk<'a>(&self, operands: Operands<'a>, image: usize, tokens: Range<usize>) -> Operands<'a> {
        let (k, c) = (self.keys, self.channels);
        let rows = image * self.tokens + tokens.start..image * self.tokens + tokens.end;
        Operands {
            qk: &operands.qk[rows.start * 2 * k..rows.end * 2 * k],
            v: &operands.v[rows.start * c..rows.end * c],
            rotation: operands.rotation.map(|table| &table[tokens.start * k..tokens.end * k]),
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
    /// `[.., tokens, 2 keys]`
    qk: &'a [f32],
    /// `[.., tokens, channels]`
    v: &'a [f32],
    /// `[tokens, keys / 2, 2]`
    rotation: Option<&'a [f32]>,
}

impl<'a> Operands<'a> {
    /// The rotation of a token, of `keys` floats.
    #[inline(always)]
    fn rotation_of(&self, token: usize, keys: usize) -> Option<&'a [f32]> {
        self.rotation.map(|table| &table[token * keys..][..keys])
    }
}

/// What the queries of an image need to know of its keys and values.
#[derive(Default)]
struct State {
    /// m, `[keys]`.
    mean: Vec<f32>,
    /// S of every head, `[key_dim, value_dim]`, row-major.
    sums: Vec<f32>,
    /// S of every head, packed.
    key_values: Vec<PackedMatrix>,
}

/// The states of all images.
fn states(isa: Isa, operands: Operands<'_>, shape: Attention) -> Vec<State> {
    let Attention { batch, tokens, channels, .. } = shape;
    let (dk, dv) = (shape.key_dim(), shape.value_dim());
    let sums = add_chunks(shape, |image, tokens, group, products, sums| {
        let chunk = shape.chunk(operands, image, tokens);
        let count = chunk.v.len() / channels;
        let mut rotated = vec![0.0; count * group.len()];
        isa.run(Keys { chunk, group: group.clone(), keys: shape.keys, sums, rotated: &mut rotated });
        let values = Columns { x: &chunk.v[group.start / dk * dv..], stride: channels, width: dv };
        add_outer_products(isa, Columns { x: &rotated, stride: group.len(), width: dk }, values, count, products);
    });
    let mut states: Vec<State> = std::iter::repeat_with(State::default).take(batch).collect();
    let images = sums.chunks_exact(shape.products() + shape.keys).zip(&mut states);
    threads::each(images, |_, (sums, state)| {
        let scaled: Vec<f32> = sums.iter().map(|x| x / tokens as f32).collect();
        let (products, mean) = scaled.split_at(shape.products());
        state.mean = mean.to_vec();
        state.sums = products.to_vec();
        state.key_values = products.chunks_exact(dk * dv).map(|s| PackedMatrix::from_rows(isa, s, dk, dv)).collect();
    });
    states
}

/// Adds up, for every image, `[heads, key_dim, value_dim]` outer products and then `[keys]` sums over its tokens.
///
/// `add(image, tokens, keys, products, sums)` adds those of a chunk, for the heads that make up these floats of the keys.
fn add_chunks(
    shape: Attention,
    add: impl Fn(usize, Range<usize>, Range<usize>, &mut [f32], &mut [f32]) + Sync,
) -> Vec<f32> {
    let (dv, keys) = (shape.value_dim(), shape.keys);
    let group = shape.group();
    let size = shape.products() + keys;
    let mut partials = vec![0.0; size * shape.chunks().count()];
    let pieces = shape.chunks().zip(partials.chunks_exact_mut(size)).flat_map(|((image, tokens), partial)| {
        let (products, sums) = partial.split_at_mut(shape.products());
        let groups = products.chunks_mut(group * dv).zip(sums.chunks_mut(group)).enumerate();
        groups.map(move |(g, (products, sums))| {
            (image, tokens.clone(), g * group..g * group + sums.len(), products, sums)
        })
    });
    threads::each(pieces, |_, (image, tokens, group, products, sums)| add(image, tokens, group, products, sums));

    total_chunks(&partials, shape)
}

/// Adds the partial sums of the chunks of every image, in their order.
fn total_chunks(partials: &[f32], shape: Attention) -> Vec<f32> {
    let size = shape.products() + shape.keys;
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

/// Heads side by side, `width` floats each, of tokens that begin `stride` floats apart.
#[derive(Clone, Copy)]
struct Columns<'a> {
    x: &'a [f32],
    stride: usize,
    width: usize,
}

/// `products[h][i][j] += Σ_n left[n][h][i] · right[n][h][j]` over `count` tokens, for every head.
fn add_outer_products(isa: Isa, left: Columns<'_>, right: Columns<'_>, count: usize, products: &mut [f32]) {
    let (dk, dv) = (left.width, right.width);
    for (head, products) in products.chunks_exact_mut(dk * dv).enumerate() {
        let right = PackedMatrix::from_strided_rows(isa, &right.x[head * dv..], count, dv, right.stride);
        let height = isa.level().strip();
        for (index, y) in products.chunks_mut(height * dv).enumerate() {
            isa.run(Product {
                left: Left::Columns { x: &left.x[head * dk + index * height..], stride: left.stride },
                rows: y.len() / dv,
                right: Right::Packed(&right),
                panels: 0..right.panels(),
                start: Start::Result,
                activation: Activation::None,
                residual: None,
                target: Target::Rows { y, stride: dv },
            });
        }
    }
}

/// `y[n][h] = left[n][h] · right[h]` for every token and head; `left` is `[tokens, widths.0]`, `y` `[tokens, widths.1]`.
fn multiply_heads(isa: Isa, left: &[f32], right: &[PackedMatrix], widths: (usize, usize), y: &mut [f32]) {
    let (rows, height) = (y.len() / widths.1, isa.level().strip());
    for (head, right) in right.iter().enumerate() {
        let (depth, first) = (right.depth(), head * right.columns());
        let rows_of_head = Rows::Plain { x: &left[head * depth..], stride: widths.0 };
        let memory = Format::F32.memory(isa, rows_of_head, rows.div_ceil(height), depth);
        scratch::lanes(memory, |memory| {
            isa.run(Product {
                left: Format::F32.prepare(isa, rows_of_head, (0, rows), depth, memory),
                rows,
                right: Right::Packed(right),
                panels: 0..right.panels(),
                start: Start::Zero,
                activation: Activation::None,
                residual: None,
                target: Target::Rows { y: &mut y[first..], stride: widths.1 },
            });
        });
    }
}
