//! The recurrence in which every token sees all: one state, then one read a token.

use super::{
    block::{Block, CHUNK, Core},
    forward::{Pass, memory},
    stage::{Floats, Stage},
};
use crate::{
    arithmetic::{Arithmetic, LANES},
    isa::{Isa, Kernel},
};

/// Adds the outputs `q_t S` of a block, with `S = share Σ k_tᵀ u_t`.
pub(super) fn pass(pass: Pass<'_>, share: f32) {
    let Pass { isa, core, block, states, .. } = pass;
    memory(core.r.keys, block, |mut stage, s, o, _| {
        state(isa, (core, block), share, &mut stage, s);
        if let Some(states) = states {
            core.keep(block, s, states);
        }
        for first in (0..core.r.tokens).step_by(CHUNK) {
            let (tokens, count) = chunk(first, core.r.tokens);
            stage.gather(isa, core, block, &tokens[..count]);
            read(isa, core.r.keys, (&stage.q[..count * stage.keys], stage.keys), s, o);
            pass.finish(&tokens[..count], o);
        }
    });
}

/// Up to [`CHUNK`] tokens from `first` on, and how many.
pub(super) fn chunk(first: usize, tokens: usize) -> ([u32; CHUNK], usize) {
    (std::array::from_fn(|i| (first + i) as u32), CHUNK.min(tokens - first))
}

/// Writes `share Σ k_tᵀ u_t` of a block to `s`, `[lanes, keys]`.
pub(super) fn state(isa: Isa, (core, block): (&Core<'_>, Block), share: f32, stage: &mut Stage<'_>, s: &mut [Floats]) {
    s.fill([0.0; LANES]);
    for first in (0..core.r.tokens).step_by(CHUNK) {
        let (tokens, count) = chunk(first, core.r.tokens);
        stage.gather(isa, core, block, &tokens[..count]);
        let keys = stage.keys;
        add_products(isa, core.r.keys, (&stage.k[..count * keys], keys), stage.u, s);
    }
    s.as_flattened_mut().iter_mut().for_each(|s| *s *= share);
}

/// Adds `Σ_t rows_tᵀ columns_t` to `s`, `[lanes, keys]`, for rows `[steps, lanes of keys]`, which are how many lanes each, and
/// columns `[lanes, CHUNK]`.
pub(super) fn add_products(
    isa: Isa,
    keys: usize,
    (rows, lanes): (&[Floats], usize),
    columns: &[Floats],
    s: &mut [Floats],
) {
    isa.run(AddProducts { keys, rows, lanes, columns, s });
}

/// Writes `weights_t S` to `o`, `[lanes, CHUNK]`, for weights `[steps, lanes of keys]`, which are how many lanes each, and `s`,
/// `[lanes, keys]`.
pub(super) fn read(isa: Isa, keys: usize, (weights, lanes): (&[Floats], usize), s: &[Floats], o: &mut [Floats]) {
    isa.run(Read { keys, weights, lanes, s, o });
}

/// See [`add_products`].
struct AddProducts<'a> {
    keys: usize,
    rows: &'a [Floats],
    lanes: usize,
    columns: &'a [Floats],
    s: &'a mut [Floats],
}

impl Kernel for AddProducts<'_> {
    type Output = ();

    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        let steps = self.rows.len() / self.lanes;
        for (columns, s) in self.columns.chunks_exact(CHUNK).zip(self.s.chunks_exact_mut(self.keys)) {
            for (key, sum) in s.iter_mut().enumerate() {
                let weights = &self.rows.as_flattened()[key..];
                add_weighted::<A>((weights, self.lanes * LANES), &columns[..steps], sum);
            }
        }
    }
}

/// See [`read`].
struct Read<'a> {
    keys: usize,
    weights: &'a [Floats],
    lanes: usize,
    s: &'a [Floats],
    o: &'a mut [Floats],
}

impl Kernel for Read<'_> {
    type Output = ();

    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        for (s, o) in self.s.chunks_exact(self.keys).zip(self.o.chunks_exact_mut(CHUNK)) {
            for (weights, o) in self.weights.chunks_exact(self.lanes).zip(o) {
                *o = [0.0; LANES];
                add_weighted::<A>((weights.as_flattened(), 1), s, o);
            }
        }
    }
}

/// `sum += Σ_i weights[i · stride] · rows[i]`.
#[inline(always)]
fn add_weighted<A: Arithmetic>((weights, stride): (&[f32], usize), rows: &[Floats], sum: &mut Floats) {
    let zero = A::splat(0.0);
    let mut sums = [A::load(sum), zero, zero, zero];
    for (i, row) in rows.iter().enumerate() {
        // The chains rotate, so that each is one of four names and stays in its register.
        let next = A::mul_add_each(A::splat(weights[i * stride]), A::load(row), sums[0]);
        sums = [sums[1], sums[2], sums[3], next];
    }
    A::store(A::add(A::add(sums[0], sums[2]), A::add(sums[1], sums[3])), sum);
}
