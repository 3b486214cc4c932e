//! A block's way back through its tokens.

use std::ops::Range;

use super::{chain::Chain, totals::OfBlock};
use crate::{
    arithmetic::Arithmetic,
    columns::Columns,
    isa::{Isa, Kernel},
    recurrence::{
        Decay, PAD, Rows, Walk,
        all_tokens::{add_weighted, chunk, state},
        block::{Block, Core},
        stage::{CHUNK, Stage, copy},
        update,
    },
    reduce, scratch,
};

/// What all columns of a head share at a token: sums over the columns, of which each block has a part.
#[derive(Clone, Copy)]
pub(super) struct Shared {
    keys: usize,
    gate: usize,
    input: usize,
}

impl Shared {
    pub(super) fn of(core: &Core<'_>) -> Self {
        use crate::recurrence::{Input, block::Written};
        let gate = if matches!(core.decay, Decay::Scalar(_) | Decay::Keys(_)) { core.r.keys } else { 0 };
        let input = matches!((core.written, core.r.input), (Written::Values, Input::Head(_)));
        Self { keys: core.r.keys, gate, input: usize::from(input) }
    }

    /// Floats of a token.
    pub(super) fn width(self) -> usize {
        2 * self.keys + self.gate + self.input
    }

    pub(super) fn q(self) -> Range<usize> {
        0..self.keys
    }

    pub(super) fn k(self) -> Range<usize> {
        self.keys..2 * self.keys
    }

    /// Of the logarithms of gates along the keys.
    pub(super) fn gate(self) -> Range<usize> {
        2 * self.keys..2 * self.keys + self.gate
    }

    /// Of the step size of an input gate per head.
    pub(super) fn input(self) -> Range<usize> {
        2 * self.keys + self.gate..self.width()
    }
}

/// The adjoint of a pass over a block.
pub(super) struct Adjoint<'a, 's> {
    pub(super) isa: Isa,
    pub(super) core: &'a Core<'a>,
    pub(super) block: Block,
    /// The cotangent of the output, for the shortcut.
    pub(super) dy: &'a [f32],
    /// The cotangent of what is read, `[heads * values]` a row.
    pub(super) outputs: Rows<'a>,
    /// That of all states.
    pub(super) dstates: &'a [f32],
    pub(super) map: Columns<'a>,
    pub(super) start: Option<Columns<'a>>,
    pub(super) shared: Shared,
    /// `[tokens, shared]`
    pub(super) partials: &'s mut [f32],
    pub(super) parameters: OfBlock<'s>,
}

/// Memory of an adjoint: arbitrary floats.
pub(super) struct Memory<'m> {
    pub(super) stage: Stage<'m>,
    /// The cotangent of what is read, `[steps, width]`.
    o: &'m mut [f32],
    /// Of what is written, `[steps, width]`.
    pub(super) du: &'m mut [f32],
    /// Of gates along the columns, or of the step sizes of a factored decay, `[steps, width]`.
    pub(super) dalong: &'m mut [f32],
    /// `[steps, shared]`
    pub(super) sums: &'m mut [f32],
    /// S̄ of the step after, with its gate, `[keys, width]`.
    later: &'m mut [f32],
    /// The state as it is walked through, `[keys, width]`.
    s: &'m mut [f32],
    /// Four rows, `[4, width]`.
    rows: &'m mut [f32],
    /// The state before every step of a chunk, `[steps, keys, width]`.
    before: &'m mut [f32],
    /// The state before every chunk, `[chunks, keys, width]`.
    kept: &'m mut [f32],
}

impl Adjoint<'_, '_> {
    pub(super) fn run(self) {
        let (keys, width) = (self.core.r.keys, self.block.width);
        let chunks = match self.core.r.walk {
            Walk::Steps { index, .. } => index.len().div_ceil(CHUNK),
            Walk::All { .. } => 0,
        };
        let inside = if chunks == 0 { 0 } else { CHUNK };
        let state = keys * width;
        let lengths = [
            Stage::len(keys, width),
            CHUNK * width,
            CHUNK * width,
            CHUNK * width,
            CHUNK * self.shared.width(),
            state,
            state,
            4 * width,
            inside * state,
            chunks * state,
        ];
        scratch::floats(lengths.iter().sum(), |memory| {
            let mut rest = memory;
            let [stage, o, du, dalong, sums, later, s, rows, before, kept] = lengths.map(|len| {
                let (part, after) = std::mem::take(&mut rest).split_at_mut(len);
                rest = after;
                part
            });
            let stage = Stage::new(stage, keys, width);
            let memory = Memory { stage, o, du, dalong, sums, later, s, rows, before, kept };
            match self.core.r.walk {
                Walk::Steps { .. } => self.isa.run(Back { adjoint: self, memory }),
                Walk::All { share } => self.isa.run(BackThroughAll { adjoint: self, memory, share }),
            }
        });
    }

    /// Adds the block's part of the states' cotangent to `later`.
    #[inline(always)]
    fn add_dstates(&self, later: &mut [f32]) {
        let r = self.core.r;
        let stride = r.values + r.sums();
        for (key, later) in later.chunks_exact_mut(self.block.width).enumerate() {
            let row = (self.block.image * r.heads + self.block.head) * r.keys + key;
            let first = row * stride + self.core.columns.start + self.block.first;
            for (later, d) in later.iter_mut().zip(&self.dstates[first..]) {
                *later += d;
            }
        }
    }

    /// Moves `later` to the start's gradient.
    #[inline(always)]
    fn flush_start(&self, later: &mut [f32]) {
        if let Some(start) = self.start {
            for (key, later) in later.chunks_exact(self.block.width).enumerate() {
                let start = self.core.state_part(self.block, key, start);
                for (start, later) in start.iter_mut().zip(later) {
                    *start += later;
                }
            }
        }
        later.fill(0.0);
    }

    /// Gathers the cotangents of what is read at some steps, `[steps, width]`.
    #[inline(always)]
    fn gather_outputs(&self, index: &[u32], o: &mut [f32]) {
        let first = self.block.head * self.core.values() + self.block.first;
        for (o, &token) in o.chunks_exact_mut(self.block.width).zip(index) {
            let row = (token != PAD).then(|| self.block.image * self.core.r.tokens + token as usize);
            copy(self.outputs, row, first, o);
        }
    }
}

/// [`Adjoint`] step by step.
struct Back<'a, 's, 'm> {
    adjoint: Adjoint<'a, 's>,
    memory: Memory<'m>,
}

impl Kernel for Back<'_, '_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        let Back { mut adjoint, mut memory } = self;
        let (core, block) = (adjoint.core, adjoint.block);
        let Walk::Steps { index, mut starts, until } = core.r.walk else { return };
        let (width, state) = (block.width, core.r.keys * block.width);
        // The state before every chunk.
        core.start(block, memory.s);
        for (chunk, index) in index.chunks(CHUNK).enumerate() {
            memory.kept[chunk * state..][..state].copy_from_slice(memory.s);
            memory.stage.gather::<A>(core, block, index);
            walk::<A>(core, block, &mut memory, chunk, index.len());
        }
        memory.later.fill(0.0);
        for (chunk, index) in index.chunks(CHUNK).enumerate().rev() {
            memory.stage.gather::<A>(core, block, index);
            adjoint.gather_outputs(index, memory.o);
            memory.s.copy_from_slice(&memory.kept[chunk * state..][..state]);
            walk::<A>(core, block, &mut memory, chunk, index.len());
            for t in (0..index.len()).rev() {
                let step = chunk * CHUNK + t;
                if step + 1 == until {
                    adjoint.add_dstates(memory.later);
                }
                back::<A>(&mut adjoint, &mut memory, t);
                if let [earlier @ .., last] = starts
                    && *last as usize == step
                {
                    adjoint.flush_start(memory.later);
                    starts = earlier;
                }
            }
            Chain { adjoint: &mut adjoint, memory: &mut memory }.run::<A>(index, width);
        }
        if until == 0 {
            adjoint.add_dstates(memory.later);
            adjoint.flush_start(memory.later);
        }
    }
}

/// Walks the state through a gathered chunk and keeps what it was before every step.
#[inline(always)]
fn walk<A: Arithmetic>(core: &Core<'_>, block: Block, memory: &mut Memory<'_>, chunk: usize, len: usize) {
    let Walk::Steps { starts, .. } = core.r.walk else { return };
    let state = core.r.keys * block.width;
    let mut starts = &starts[starts.partition_point(|&start| (start as usize) < chunk * CHUNK)..];
    for t in 0..len {
        if let [next, later @ ..] = starts
            && *next as usize == chunk * CHUNK + t
        {
            core.start(block, memory.s);
            starts = later;
        }
        memory.before[t * state..][..state].copy_from_slice(memory.s);
        update::advance::<A>(core, block, &memory.stage, t, memory.s, &mut memory.rows[..block.width]);
    }
}

/// The adjoint of step `t` of a chunk.
#[inline(always)]
fn back<A: Arithmetic>(adjoint: &mut Adjoint<'_, '_>, memory: &mut Memory<'_>, t: usize) {
    let (core, block, shared) = (adjoint.core, adjoint.block, adjoint.shared);
    let (keys, width) = (core.r.keys, block.width);
    let u = &memory.stage.u[t * width..][..width];
    let along = &memory.stage.along[t * width..][..width];
    let o = &memory.o[t * width..][..width];
    let du = &mut memory.du[t * width..][..width];
    let dalong = &mut memory.dalong[t * width..][..width];
    let sums = &mut memory.sums[t * shared.width()..][..shared.width()];
    let [g, sbar, after, of_log] = rows(memory.rows, width);
    du.fill(0.0);
    dalong.fill(0.0);
    sums.fill(0.0);
    let uo = if core.r.bonus.is_some() { reduce::dot::<A>(u, o) } else { 0.0 };
    for n in 0..keys {
        let (q, k) = (memory.stage.q[t * keys + n], memory.stage.k[t * keys + n]);
        let before = &memory.before[(t * keys + n) * width..][..width];
        let later = &mut memory.later[n * width..][..width];
        update::gates::<A>(core, block, &memory.stage, (t, n), g);
        match core.r.bonus {
            None => {
                for c in 0..width {
                    sbar[c] = A::mul_add(q, o[c], later[c]);
                    after[c] = A::mul_add(g[c], before[c], k * u[c]);
                    later[c] = g[c] * sbar[c];
                    of_log[c] = later[c] * before[c];
                    du[c] = A::mul_add(k, sbar[c], du[c]);
                }
                sums[shared.q()][n] = reduce::dot::<A>(after, o);
                sums[shared.k()][n] = reduce::dot::<A>(sbar, u);
            }
            Some(bonus) => {
                let b = bonus[block.head * keys + n];
                for c in 0..width {
                    sbar[c] = later[c];
                    let kept = g[c] * sbar[c];
                    later[c] = A::mul_add(q, o[c], kept);
                    of_log[c] = kept * before[c];
                    du[c] = A::mul_add(k, sbar[c], A::mul_add(b * q * k, o[c], du[c]));
                }
                sums[shared.q()][n] = reduce::dot::<A>(before, o) + b * k * uo;
                sums[shared.k()][n] = reduce::dot::<A>(sbar, u) + b * q * uo;
                adjoint.parameters.bonus[n] += q * k * uo;
            }
        }
        match core.decay {
            Decay::None | Decay::Constant(_) => {}
            Decay::Scalar(_) | Decay::Keys(_) => sums[shared.gate()][n] = reduce::sum::<A>(of_log),
            Decay::Values(_) => {
                for (dalong, of_log) in dalong.iter_mut().zip(&*of_log) {
                    *dalong += of_log;
                }
            }
            Decay::Factored { .. } => {
                let rates = &core.rates[(block.head * keys + n) * core.r.values + block.first..][..width];
                let of_rates = &mut adjoint.parameters.rates[n * width..][..width];
                for c in 0..width {
                    dalong[c] = A::mul_add(of_log[c], rates[c] * std::f32::consts::LN_2, dalong[c]);
                    of_rates[c] = A::mul_add(of_log[c], along[c], of_rates[c]);
                }
            }
        }
    }
}

/// Four rows of `width` floats.
#[inline(always)]
fn rows(memory: &mut [f32], width: usize) -> [&mut [f32]; 4] {
    let (a, rest) = memory.split_at_mut(width);
    let (b, rest) = rest.split_at_mut(width);
    let (c, d) = rest.split_at_mut(width);
    [a, b, c, &mut d[..width]]
}

/// [`Adjoint`] of the recurrence in which every token sees all:
/// S̄ += Σ q_tᵀ ō_t, q̄_t = S ō_t, k̄_t = share S̄ u_t, ū_t = share S̄ᵀ k_t.
struct BackThroughAll<'a, 's, 'm> {
    adjoint: Adjoint<'a, 's>,
    memory: Memory<'m>,
    share: f32,
}

impl Kernel for BackThroughAll<'_, '_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        let BackThroughAll { mut adjoint, mut memory, share } = self;
        let (core, block, shared) = (adjoint.core, adjoint.block, adjoint.shared);
        let (keys, width, tokens) = (core.r.keys, block.width, core.r.tokens);
        state::<A>(core, block, share, &mut memory.stage, memory.s);
        let sbar = &mut *memory.later;
        sbar.fill(0.0);
        adjoint.add_dstates(sbar);
        for first in (0..tokens).step_by(CHUNK) {
            let (index, count) = chunk(first, tokens);
            memory.stage.gather::<A>(core, block, &index[..count]);
            adjoint.gather_outputs(&index[..count], memory.o);
            for (n, sbar) in sbar.chunks_exact_mut(width).enumerate() {
                add_weighted::<A>((&memory.stage.q[n..], keys), &memory.o[..count * width], sbar);
            }
        }
        for sbar in &mut *sbar {
            *sbar *= share;
        }
        for first in (0..tokens).step_by(CHUNK) {
            let (index, count) = chunk(first, tokens);
            memory.stage.gather::<A>(core, block, &index[..count]);
            adjoint.gather_outputs(&index[..count], memory.o);
            for t in 0..count {
                let (o, u) = (&memory.o[t * width..][..width], &memory.stage.u[t * width..][..width]);
                let sums = &mut memory.sums[t * shared.width()..][..shared.width()];
                sums.fill(0.0);
                for (of_q, s) in sums[shared.q()].iter_mut().zip(memory.s.chunks_exact(width)) {
                    *of_q = reduce::dot::<A>(s, o);
                }
                for (of_k, sbar) in sums[shared.k()].iter_mut().zip(memory.later.chunks_exact(width)) {
                    *of_k = reduce::dot::<A>(sbar, u);
                }
                let du = &mut memory.du[t * width..][..width];
                du.fill(0.0);
                add_weighted::<A>((&memory.stage.k[t * keys..][..keys], 1), memory.later, du);
            }
            memory.dalong.fill(0.0);
            Chain { adjoint: &mut adjoint, memory: &mut memory }.run::<A>(&index[..count], width);
        }
    }
}
