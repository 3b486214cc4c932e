//! A block's way back through its tokens.

use super::{back, chain::Chain, shared::Shared, through_normaliser, totals::OfBlock};
use crate::{
    arithmetic::{Arithmetic, LANES},
    columns::Columns,
    isa::{Isa, Kernel},
    lane,
    recurrence::{
        Rows, Walk,
        all_tokens::{add_products, chunk, read, state},
        block::{Before, Block, CHUNK, Core},
        normaliser::Normalisers,
        stage::{Floats, Stage},
        update::advance,
    },
    scratch,
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

/// Memory of an adjoint: arbitrary floats. Columns are `[lanes, CHUNK]`, states `[lanes, keys]`.
pub(super) struct Memory<'m> {
    pub(super) stage: Stage<'m>,
    /// The cotangent of what is read.
    pub(super) o: &'m mut [Floats],
    /// Of what is written; on the way forth, what is read.
    pub(super) du: &'m mut [Floats],
    /// Of gates along the columns, or of the step sizes of a factored decay.
    pub(super) dalong: &'m mut [Floats],
    /// `[shared, CHUNK]`
    pub(super) sums: &'m mut [Floats],
    /// S̄ of the step after, with its gate.
    pub(super) later: &'m mut [Floats],
    /// The state as it is walked through.
    pub(super) s: &'m mut [Floats],
    /// What a few keys need of the steps of a run.
    pub(super) tape: &'m mut [Floats],
    /// The state before every run that carries it on.
    kept: &'m mut [Floats],
}

impl Adjoint<'_, '_> {
    pub(super) fn run(mut self) {
        let (keys, block) = (self.core.r.keys, self.block);
        let kept = self.core.runs.iter().filter(|run| run.state == Before::Carried).count();
        let (columns, state) = (CHUNK * block.lanes(), keys * block.lanes());
        // The last lane of shared sums may reach beyond them.
        let sums = (self.shared.width() + LANES) * (CHUNK / LANES);
        let lengths =
            [Stage::len(keys, block), columns, columns, columns, sums, state, state, back::TAPE, kept * state];
        scratch::lanes(lengths.iter().sum(), |memory| {
            let mut rest = lane::floats_mut(memory).as_chunks_mut().0;
            let [stage, o, du, dalong, sums, later, s, tape, kept] = lengths.map(|len| {
                let (part, after) = std::mem::take(&mut rest).split_at_mut(len);
                rest = after;
                part
            });
            let stage = Stage::new(stage, keys, block);
            let mut memory = Memory { stage, o, du, dalong, sums, later, s, tape, kept };
            match self.core.r.walk {
                Walk::Steps { .. } => self.step_by_step(&mut memory),
                Walk::All { share } => self.through_all(&mut memory, share),
            }
        });
    }

    fn step_by_step(&mut self, memory: &mut Memory<'_>) {
        let (isa, core, block) = (self.isa, self.core, self.block);
        let Walk::Steps { index, until, .. } = core.r.walk else { return };
        let state = core.r.keys * block.lanes();
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
            if self.normalisers.is_none() && !carries {
                continue;
            }
            let index = &index[run.steps.clone()];
            memory.stage.gather(isa, core, block, index);
            advance(isa, (core, block), &memory.stage, index.len(), memory.s, memory.du, memory.tape);
            self.through_normaliser(memory, index);
        }
        memory.later.fill([0.0; LANES]);
        for run in core.runs.iter().rev() {
            let index = &index[run.steps.clone()];
            memory.stage.gather(isa, core, block, index);
            self.gather_outputs(index, memory.o);
            match run.state {
                Before::Start => core.start(block, memory.s),
                Before::Carried => {
                    kept -= 1;
                    memory.s.copy_from_slice(&memory.kept[kept * state..][..state]);
                }
            }
            if run.steps.end == until {
                self.add_dstates(memory.later);
            }
            back::run(self, memory, index.len());
            if run.state == Before::Start {
                self.flush_start(memory.later);
            }
            isa.run(Chain { adjoint: self, memory, index });
        }
        if until == 0 {
            self.add_dstates(memory.later);
            self.flush_start(memory.later);
        }
    }

    /// Of the recurrence in which every token sees all:
    /// S̄ += Σ q_tᵀ ō_t, q̄_t = S ō_t, k̄_t = share S̄ u_t, ū_t = share S̄ᵀ k_t.
    fn through_all(&mut self, memory: &mut Memory<'_>, share: f32) {
        let (isa, core, block) = (self.isa, self.core, self.block);
        let (keys, lanes) = (core.r.keys, memory.stage.keys);
        state(isa, (core, block), share, &mut memory.stage, memory.s);
        memory.later.fill([0.0; LANES]);
        self.add_dstates(memory.later);
        for first in (0..core.r.tokens).step_by(CHUNK) {
            let (index, count) = chunk(first, core.r.tokens);
            memory.stage.gather(isa, core, block, &index[..count]);
            self.gather_outputs(&index[..count], memory.o);
            let q = (&memory.stage.q[..count * lanes], lanes);
            add_products(isa, keys, q, memory.o, memory.later);
            if self.normalisers.is_some() {
                read(isa, keys, q, memory.s, memory.du);
                self.through_normaliser(memory, &index[..count]);
            }
        }
        memory.later.as_flattened_mut().iter_mut().for_each(|sbar| *sbar *= share);
        for first in (0..core.r.tokens).step_by(CHUNK) {
            let (index, count) = chunk(first, core.r.tokens);
            memory.stage.gather(isa, core, block, &index[..count]);
            self.gather_outputs(&index[..count], memory.o);
            let sums = memory.sums.as_flattened_mut();
            isa.run(Dots { steps: count, states: memory.s, columns: memory.o, sums });
            let sums = &mut sums[self.shared.k().start * CHUNK..];
            isa.run(Dots { steps: count, states: memory.later, columns: memory.stage.u, sums });
            read(isa, keys, (&memory.stage.k[..count * lanes], lanes), memory.later, memory.du);
            isa.run(Chain { adjoint: self, memory, index: &index[..count] });
        }
    }

    /// Adds the block's part of the states' cotangent to `later`.
    fn add_dstates(&self, later: &mut [Floats]) {
        let r = self.core.r;
        let stride = r.values + r.sums();
        for key in 0..r.keys {
            let first = self.core.state_row(self.block, key) * stride + self.core.columns.start + self.block.first;
            let from = self.dstates[first..][..self.block.width].chunks(LANES);
            for (later, d) in later.iter_mut().skip(key).step_by(r.keys).zip(from) {
                later.iter_mut().zip(d).for_each(|(later, d)| *later += d);
            }
        }
    }

    /// Moves `later` to the start's gradient.
    fn flush_start(&self, later: &mut [Floats]) {
        if let Some(start) = self.start {
            for key in 0..self.core.r.keys {
                // SAFETY: the block's columns are one thread's, and the part is dropped before the next.
                let to = unsafe { self.core.state_part(self.block, key, start) }.chunks_mut(LANES);
                for (later, start) in later.iter().skip(key).step_by(self.core.r.keys).zip(to) {
                    start.iter_mut().zip(later).for_each(|(start, later)| *start += later);
                }
            }
        }
        later.fill([0.0; LANES]);
    }

    /// Gathers the cotangents of what is read at some steps: those of the outputs over the normalisers.
    fn gather_outputs(&self, index: &[u32], o: &mut [Floats]) {
        self.isa.run(through_normaliser::Gather { adjoint: self, index, o });
    }

    /// Writes n̄ of some steps, of which `memory.du` was read.
    fn through_normaliser(&mut self, memory: &mut Memory<'_>, index: &[u32]) {
        if self.normalisers.is_some() {
            self.gather_outputs(index, memory.o);
            self.isa.run(through_normaliser::Normaliser { adjoint: self, index, o: memory.o, read: memory.du });
        }
    }
}

/// Writes the products of every key's state, `[lanes, keys]`, and the columns of every step, `[lanes, CHUNK]`, to `sums`,
/// `[keys, CHUNK]`.
struct Dots<'a> {
    steps: usize,
    states: &'a [Floats],
    columns: &'a [Floats],
    sums: &'a mut [f32],
}

impl Kernel for Dots<'_> {
    type Output = ();

    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        let lanes = self.columns.len() / CHUNK;
        let keys = self.states.len() / lanes;
        for (key, sums) in self.sums.chunks_exact_mut(CHUNK).take(keys).enumerate() {
            for (t, sum) in sums[..self.steps].iter_mut().enumerate() {
                let mut products = A::splat(0.0);
                for lane in 0..lanes {
                    let (s, x) = (&self.states[lane * keys + key], &self.columns[lane * CHUNK + t]);
                    products = A::mul_add_each(A::load(s), A::load(x), products);
                }
                *sum = A::sum(products);
            }
        }
    }
}
