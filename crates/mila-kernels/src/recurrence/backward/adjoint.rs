//! A block's way back through its tokens.

use super::{back, chain::Chain, shared::Shared, through_normaliser, totals::OfBlock};
use crate::{
    arithmetic::{Arithmetic, LANES},
    columns::Columns,
    isa::{Isa, Kernel},
    lane,
    recurrence::{
        Rows, Walk,
        all_tokens::{add_weighted, chunk, state},
        block::{Before, Block, CHUNK, Core},
        normaliser::Normalisers,
        stage::{Stage, gather},
        update::{Gathered, advance},
    },
    reduce, scratch,
};

/// The adjoint of a pass over a block.
pub(super) struct Adjoint<'a, 's> {
    pub(super) isa: Isa,
    pub(super) core: &'a Core<'a>,
    pub(super) block: Block,
    /// The cotangent of the output, for the shortcut.
    pub(super) dy: &'a [f32],
    /// The cotangent of what is read, `[heads * values]` a row, times the normalisers.
    pub(super) outputs: Rows<'a>,
    /// What divides, and where the cotangents of normalisers of each column go.
    pub(super) normalisers: Option<(&'a Normalisers, Columns<'a>)>,
    /// That of all states.
    pub(super) dstates: &'a [f32],
    pub(super) map: Columns<'a>,
    pub(super) start: Option<Columns<'a>>,
    pub(super) shared: Shared,
    /// `[tokens, parts]` of what is shared.
    pub(super) partials: &'s mut [f32],
    pub(super) parameters: OfBlock<'s>,
}

/// Memory of an adjoint: arbitrary floats. Rows of columns are whole lanes.
pub(super) struct Memory<'m> {
    pub(super) stage: Stage<'m>,
    /// The cotangent of what is read, `[steps, width]`.
    pub(super) o: &'m mut [f32],
    /// Of what is written, `[steps, width]`; on the way forth, what is read.
    pub(super) du: &'m mut [f32],
    /// Of gates along the columns, or of the step sizes of a factored decay, `[steps, width]`.
    pub(super) dalong: &'m mut [f32],
    /// `[shared, steps]`
    pub(super) sums: &'m mut [f32],
    /// S̄ of the step after, with its gate, `[keys, width]`.
    pub(super) later: &'m mut [f32],
    /// The state as it is walked through, `[keys, width]`.
    pub(super) s: &'m mut [f32],
    /// What a few keys need of the steps of a run.
    pub(super) tape: back::Tape<'m>,
    /// The state before every run that carries it on, `[runs, keys, width]`.
    kept: &'m mut [f32],
}

impl Adjoint<'_, '_> {
    pub(super) fn run(self) {
        let (keys, width) = (self.core.r.keys, self.block.padded());
        let kept = self.core.runs.iter().filter(|run| run.state == Before::Carried).count();
        let state = keys * width;
        let lengths = [
            Stage::len(keys, self.block),
            CHUNK * width,
            CHUNK * width,
            CHUNK * width,
            // The last keys are read by the lane.
            CHUNK * (self.shared.width() + LANES),
            state,
            state,
            back::Tape::LEN,
            kept * state,
        ];
        scratch::lanes(lengths.iter().sum::<usize>() / LANES, |memory| {
            let mut rest = lane::floats_mut(memory);
            let [stage, o, du, dalong, sums, later, s, tape, kept] = lengths.map(|len| {
                let (part, after) = std::mem::take(&mut rest).split_at_mut(len);
                rest = after;
                part
            });
            let (stage, tape) = (Stage::new(stage, keys, self.block), back::Tape::new(tape));
            let memory = Memory { stage, o, du, dalong, sums, later, s, tape, kept };
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
        for (key, later) in later.chunks_exact_mut(self.block.padded()).enumerate() {
            let first = self.core.state_row(self.block, key) * stride + self.core.columns.start + self.block.first;
            for (later, d) in later[..self.block.width].iter_mut().zip(&self.dstates[first..]) {
                *later += d;
            }
        }
    }

    /// Moves `later` to the start's gradient.
    #[inline(always)]
    fn flush_start(&self, later: &mut [f32]) {
        if let Some(start) = self.start {
            for (key, later) in later.chunks_exact(self.block.padded()).enumerate() {
                let start = self.core.state_part(self.block, key, start);
                for (start, later) in start.iter_mut().zip(later) {
                    *start += later;
                }
            }
        }
        later.fill(0.0);
    }

    /// Gathers the cotangents of what is read at some steps, `[steps, width]`: those of the outputs over the normalisers.
    #[inline(always)]
    pub(super) fn gather_outputs<A: Arithmetic>(&self, index: &[u32], o: &mut [f32]) {
        let (core, block) = (self.core, self.block);
        let first = block.head * core.values() + block.first;
        let o = &mut o[..index.len() * block.padded()];
        gather::<A>(self.outputs, core, block, index, (first, block.width), o);
        if let Some((normalisers, _)) = self.normalisers {
            through_normaliser::divide(normalisers, core, block, index, o);
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
        let Walk::Steps { index, until, .. } = core.r.walk else { return };
        let state = core.r.keys * block.padded();
        let mut kept = 0;
        for (i, run) in core.runs.iter().enumerate() {
            match run.state {
                Before::Start => core.start(block, memory.s),
                Before::Carried => {
                    memory.kept[kept * state..][..state].copy_from_slice(memory.s);
                    kept += 1;
                }
            }
            let carries = core.runs.get(i + 1).is_some_and(|next| next.state == Before::Carried);
            if adjoint.normalisers.is_none() && !carries {
                continue;
            }
            let index = &index[run.steps.clone()];
            memory.stage.gather::<A>(core, block, index);
            let gathered = Gathered { core, block, stage: &memory.stage, steps: index.len() };
            advance::<A>(gathered, memory.s, memory.du);
            adjoint.gather_outputs::<A>(index, memory.o);
            through_normaliser::add::<A>(&mut adjoint, &mut memory, index);
        }
        memory.later.fill(0.0);
        for run in core.runs.iter().rev() {
            let index = &index[run.steps.clone()];
            memory.stage.gather::<A>(core, block, index);
            adjoint.gather_outputs::<A>(index, memory.o);
            match run.state {
                Before::Start => core.start(block, memory.s),
                Before::Carried => {
                    kept -= 1;
                    memory.s.copy_from_slice(&memory.kept[kept * state..][..state]);
                }
            }
            if run.steps.end == until {
                adjoint.add_dstates(memory.later);
            }
            back::run::<A>(&mut adjoint, &mut memory, index.len());
            if run.state == Before::Start {
                adjoint.flush_start(memory.later);
            }
            Chain { adjoint: &mut adjoint, memory: &mut memory }.run::<A>(index);
        }
        if until == 0 {
            adjoint.add_dstates(memory.later);
            adjoint.flush_start(memory.later);
        }
    }
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
        let (keys, width, tokens) = (core.r.keys, block.padded(), core.r.tokens);
        let stride = memory.stage.keys;
        state::<A>(core, block, share, &mut memory.stage, memory.s);
        memory.later.fill(0.0);
        adjoint.add_dstates(memory.later);
        for first in (0..tokens).step_by(CHUNK) {
            let (index, count) = chunk(first, tokens);
            memory.stage.gather::<A>(core, block, &index[..count]);
            adjoint.gather_outputs::<A>(&index[..count], memory.o);
            for (n, sbar) in memory.later.chunks_exact_mut(width).enumerate() {
                add_weighted::<A>((&memory.stage.q[n..], stride), &memory.o[..count * width], sbar);
            }
            if adjoint.normalisers.is_some() {
                for (read, q) in memory.du.chunks_exact_mut(width).zip(memory.stage.q.chunks_exact(stride)).take(count)
                {
                    read.fill(0.0);
                    add_weighted::<A>((&q[..keys], 1), memory.s, read);
                }
                through_normaliser::add::<A>(&mut adjoint, &mut memory, &index[..count]);
            }
        }
        for sbar in &mut *memory.later {
            *sbar *= share;
        }
        for first in (0..tokens).step_by(CHUNK) {
            let (index, count) = chunk(first, tokens);
            memory.stage.gather::<A>(core, block, &index[..count]);
            adjoint.gather_outputs::<A>(&index[..count], memory.o);
            for t in 0..count {
                let (o, u) = (&memory.o[t * width..][..width], &memory.stage.u[t * width..][..width]);
                for (n, s) in memory.s.chunks_exact(width).enumerate() {
                    memory.sums[(shared.q().start + n) * CHUNK + t] = reduce::dot::<A>(s, o);
                }
                for (n, sbar) in memory.later.chunks_exact(width).enumerate() {
                    memory.sums[(shared.k().start + n) * CHUNK + t] = reduce::dot::<A>(sbar, u);
                }
                let du = &mut memory.du[t * width..][..width];
                du.fill(0.0);
                add_weighted::<A>((&memory.stage.k[t * stride..][..keys], 1), memory.later, du);
            }
            Chain { adjoint: &mut adjoint, memory: &mut memory }.run::<A>(&index[..count]);
        }
    }
}
