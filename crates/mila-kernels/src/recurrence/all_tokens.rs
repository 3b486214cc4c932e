//! The recurrence in which every token sees all: one state, then one read a token.

use super::{
    block::{Block, CHUNK, Core},
    forward::Pass,
    stage::Stage,
};
use crate::{
    arithmetic::{Arithmetic, LANES},
    isa::Kernel,
    lane, scratch,
};

/// Adds the outputs `q_t S` of a block, with `S = share Σ k_tᵀ u_t`.
pub(super) fn pass(pass: Pass<'_>, share: f32) {
    let (keys, width) = (pass.core.r.keys, pass.block.padded());
    let stage = Stage::len(keys, pass.block);
    scratch::lanes((stage + keys * width + CHUNK * width) / LANES, |memory| {
        let (stage, rest) = lane::floats_mut(memory).split_at_mut(stage);
        let (s, o) = rest.split_at_mut(keys * width);
        pass.isa.run(AllTokens { pass, share, stage: Stage::new(stage, keys, pass.block), s, o });
    });
}

struct AllTokens<'a, 's> {
    pass: Pass<'a>,
    share: f32,
    stage: Stage<'s>,
    /// `[keys, padded]`
    s: &'s mut [f32],
    /// `[steps, padded]`
    o: &'s mut [f32],
}

impl Kernel for AllTokens<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        let AllTokens { pass, share, mut stage, s, o } = self;
        let Pass { core, block, states, .. } = pass;
        state::<A>(core, block, share, &mut stage, s);
        if let Some(states) = states {
            core.keep(block, s, states);
        }
        let (keys, width) = (core.r.keys, block.padded());
        for first in (0..core.r.tokens).step_by(CHUNK) {
            let (tokens, count) = chunk(first, core.r.tokens);
            stage.gather::<A>(core, block, &tokens[..count]);
            let o = &mut o[..count * width];
            o.fill(0.0);
            for (o, q) in o.chunks_exact_mut(width).zip(stage.q.chunks_exact(stage.keys)) {
                add_weighted::<A>((&q[..keys], 1), s, o);
            }
            pass.finish::<A>(&tokens[..count], o);
        }
    }
}

/// Up to [`CHUNK`] tokens from `first` on, and how many.
#[inline(always)]
pub(super) fn chunk(first: usize, tokens: usize) -> ([u32; CHUNK], usize) {
    (std::array::from_fn(|i| (first + i) as u32), CHUNK.min(tokens - first))
}

/// Writes `share Σ k_tᵀ u_t` of a block to `s`, `[keys, padded]`.
#[inline(always)]
pub(super) fn state<A: Arithmetic>(core: &Core<'_>, block: Block, share: f32, stage: &mut Stage<'_>, s: &mut [f32]) {
    let width = block.padded();
    s.fill(0.0);
    for first in (0..core.r.tokens).step_by(CHUNK) {
        let (tokens, count) = chunk(first, core.r.tokens);
        stage.gather::<A>(core, block, &tokens[..count]);
        for (n, s) in s.chunks_exact_mut(width).enumerate() {
            add_weighted::<A>((&stage.k[n..], stage.keys), &stage.u[..count * width], s);
        }
    }
    for s in s {
        *s *= share;
    }
}

/// `sum += Σ_i weights[i · stride] · rows[i]`, with rows of the length of `sum`.
#[inline(always)]
pub(super) fn add_weighted<A: Arithmetic>((weights, stride): (&[f32], usize), rows: &[f32], sum: &mut [f32]) {
    let width = sum.len();
    let mut fours = rows.chunks_exact(4 * width);
    let mut i = 0;
    for rows in &mut fours {
        let [a, b, c, d] = [0, 1, 2, 3].map(|j| weights[(i + j) * stride]);
        let (x, rows) = rows.split_at(width);
        let (y, rows) = rows.split_at(width);
        let (z, w) = rows.split_at(width);
        let w = &w[..width];
        for column in 0..width {
            let above = A::mul_add(a, x[column], A::mul_add(b, y[column], sum[column]));
            sum[column] = A::mul_add(c, z[column], A::mul_add(d, w[column], above));
        }
        i += 4;
    }
    for row in fours.remainder().chunks_exact(width) {
        let weight = weights[i * stride];
        for (sum, x) in sum.iter_mut().zip(row) {
            *sum = A::mul_add(weight, *x, *sum);
        }
        i += 1;
    }
}
