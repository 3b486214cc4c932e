//! The adjoint of a normaliser of one column a head: keys stand side by side in registers.

use std::ops::Range;

use crate::{
    arithmetic::{Arithmetic, LANES},
    columns::Columns,
    isa::{Isa, Kernel},
    lane,
    recurrence::{
        Decay, PAD, Walk,
        block::{Before, Block, CHUNK, Core},
        stage::{Floats, Stage},
        sums::{bonus, start},
    },
    scratch,
};

/// The adjoint of a head's sum of keys.
pub(super) struct Adjoint<'a, 's> {
    pub(super) core: &'a Core<'a>,
    pub(super) block: Block,
    /// n̄, `[rows, heads]`.
    pub(super) outputs: &'a [f32],
    /// The cotangent of all states.
    pub(super) dstates: &'a [f32],
    pub(super) map: Columns<'a>,
    pub(super) start: Option<Columns<'a>>,
    /// `[keys]`
    pub(super) bonus: &'s mut [f32],
}

/// Memory: arbitrary floats. Rows of keys are lanes.
struct Memory<'m> {
    stage: Stage<'m>,
    z: &'m mut [Floats],
    later: &'m mut [Floats],
    bonus: &'m mut [Floats],
    /// G ⊙ z of the step before, `[steps, lanes]`; then the gradients of the gates' logarithms.
    kept: &'m mut [Floats],
    /// q̄, `[steps, lanes]`.
    of_q: &'m mut [Floats],
    /// k̄, `[steps, lanes]`.
    of_k: &'m mut [Floats],
}

/// Adds the gradients of a head to the map and the start, and writes those of its bonus.
pub(super) fn run(isa: Isa, adjoint: Adjoint<'_, '_>) {
    let (core, block) = (adjoint.core, adjoint.block);
    let Walk::Steps { index, until, .. } = core.r.walk else { return };
    let keys = core.r.keys.div_ceil(LANES);
    let rows = CHUNK * keys;
    let lengths = [Stage::len(core.r.keys, block), keys, keys, keys, rows, rows, rows, core.runs.len() * keys];
    scratch::lanes(lengths.iter().sum(), |memory| {
        let mut rest = lane::floats_mut(memory).as_chunks_mut().0;
        let [stage, z, later, bonus, kept, of_q, of_k, before] = lengths.map(|len| {
            let (part, after) = std::mem::take(&mut rest).split_at_mut(len);
            rest = after;
            part
        });
        let stage = Stage::new(stage, core.r.keys, block);
        let mut memory = Memory { stage, z, later, bonus, kept, of_q, of_k };
        for (run, before) in core.runs.iter().zip(before.chunks_exact_mut(keys)) {
            if run.state == Before::Start {
                start(core, block, memory.z);
            }
            before.copy_from_slice(memory.z);
            let index = &index[run.steps.clone()];
            memory.stage.gather_keys(isa, core, block, index);
            isa.run(Forth { adjoint: &adjoint, memory: &mut memory, index });
        }
        memory.later.fill([0.0; LANES]);
        memory.bonus.fill([0.0; LANES]);
        for (run, before) in core.runs.iter().zip(before.chunks_exact(keys)).rev() {
            let index = &index[run.steps.clone()];
            memory.stage.gather_keys(isa, core, block, index);
            memory.z.copy_from_slice(before);
            isa.run(Forth { adjoint: &adjoint, memory: &mut memory, index });
            if run.steps.end == until {
                adjoint.add_dstates(memory.later);
            }
            isa.run(Back { adjoint: &adjoint, memory: &mut memory, index });
            if run.state == Before::Start {
                adjoint.flush_start(memory.later);
            }
        }
        if until == 0 {
            adjoint.add_dstates(memory.later);
            adjoint.flush_start(memory.later);
        }
        adjoint.bonus.copy_from_slice(&memory.bonus.as_flattened()[..core.r.keys]);
    });
}

/// Walks z through some steps and keeps what its gates leave, and q̄.
struct Forth<'f, 'a, 's, 'm> {
    adjoint: &'f Adjoint<'a, 's>,
    memory: &'f mut Memory<'m>,
    index: &'f [u32],
}

impl Kernel for Forth<'_, '_, '_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        let Self { adjoint, memory, index } = self;
        let stage = &memory.stage;
        for (lane, z) in memory.z.iter_mut().enumerate() {
            let bonus = bonus::<A>(adjoint.core, adjoint.block, lane);
            let mut state = A::load(z);
            for (t, &token) in index.iter().enumerate() {
                let row = t * stage.keys + lane;
                let (k, g) = (A::load(&stage.k[row]), A::load(&stage.even[row]));
                let kept = A::mul(g, state);
                let after = A::add(kept, k);
                let seen = match bonus {
                    None => after,
                    Some(bonus) => A::mul_add_each(bonus, k, state),
                };
                state = after;
                A::store(kept, &mut memory.kept[row]);
                A::store(A::mul(seen, A::splat(adjoint.output(token))), &mut memory.of_q[row]);
            }
            A::store(state, z);
        }
    }
}

/// The way back, and the gradients' way to the map.
struct Back<'f, 'a, 's, 'm> {
    adjoint: &'f Adjoint<'a, 's>,
    memory: &'f mut Memory<'m>,
    index: &'f [u32],
}

impl Kernel for Back<'_, '_, '_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        let Self { adjoint, memory, index } = self;
        let stage = &memory.stage;
        for (lane, to) in memory.later.iter_mut().enumerate() {
            let bonus = bonus::<A>(adjoint.core, adjoint.block, lane);
            let mut later = A::load(to);
            for (t, &token) in index.iter().enumerate().rev() {
                let row = t * stage.keys + lane;
                let (q, k, g) = (A::load(&stage.q[row]), A::load(&stage.k[row]), A::load(&stage.even[row]));
                let of_read = A::mul(q, A::splat(adjoint.output(token)));
                let (zbar, of_key) = match bonus {
                    None => {
                        let zbar = A::add(of_read, later);
                        later = A::mul(g, zbar);
                        (zbar, zbar)
                    }
                    Some(bonus) => {
                        let of_bonus = &mut memory.bonus[lane];
                        A::store(A::mul_add_each(of_read, k, A::load(of_bonus)), of_bonus);
                        let zbar = later;
                        later = A::mul_add_each(g, zbar, of_read);
                        (zbar, A::mul_add_each(bonus, of_read, zbar))
                    }
                };
                A::store(of_key, &mut memory.of_k[row]);
                let kept = &mut memory.kept[row];
                A::store(A::mul(zbar, A::load(kept)), kept);
            }
            A::store(later, to);
        }
        let (r, head) = (adjoint.core.r, adjoint.block.head);
        for (t, &token) in index.iter().enumerate().filter(|&(_, &token)| token != PAD) {
            let rows = t * stage.keys..(t + 1) * stage.keys;
            adjoint.add_to_map::<A>(token, r.q.first + head * r.keys, &memory.of_q[rows.clone()]);
            adjoint.add_to_map::<A>(token, r.k.first + head * r.keys, &memory.of_k[rows.clone()]);
            let of_gates = &memory.kept[rows];
            match adjoint.core.decay {
                Decay::Keys(log) => adjoint.add_to_map::<A>(token, log.first + head * r.keys, of_gates),
                Decay::Scalar(log) => {
                    let sum = of_gates.as_flattened()[..r.keys].iter().sum::<f32>();
                    // SAFETY: the channel is the head's, and the part is dropped at once.
                    let to = unsafe { adjoint.part(token, log.first + head..log.first + head + 1) };
                    to[0] += sum;
                }
                _ => {}
            }
        }
    }
}

impl Adjoint<'_, '_> {
    /// Some channels of a token in the map's gradient, which threads share.
    ///
    /// # Safety
    /// They are those of this block's head, and no other part with one of them lives meanwhile.
    #[inline(always)]
    #[expect(clippy::mut_from_ref, reason = "threads write disjoint channels")]
    unsafe fn part(&self, token: u32, channels: Range<usize>) -> &mut [f32] {
        let row = self.block.image * self.core.r.tokens + token as usize;
        // SAFETY: a block is one thread's, and the caller vouches for the rest.
        unsafe { self.map.part(row, channels) }
    }

    /// Adds a row of keys to the map's gradient, from channel `first` on.
    #[inline(always)]
    fn add_to_map<A: Arithmetic>(&self, token: u32, first: usize, row: &[Floats]) {
        // SAFETY: the channels are the keys of the head, and the part is dropped before the next.
        let to = unsafe { self.part(token, first..first + self.core.r.keys) };
        for (to, row) in to.chunks_mut(LANES).zip(row) {
            A::store_part(A::add(A::load_part(to), A::load(row)), to);
        }
    }
    /// n̄ of a token.
    #[inline(always)]
    fn output(&self, token: u32) -> f32 {
        let r = self.core.r;
        match token {
            PAD => 0.0,
            token => self.outputs[(self.block.image * r.tokens + token as usize) * r.heads + self.block.head],
        }
    }

    fn add_dstates(&self, later: &mut [Floats]) {
        let r = self.core.r;
        let stride = r.values + r.sums();
        for (key, later) in later.as_flattened_mut()[..r.keys].iter_mut().enumerate() {
            *later += self.dstates[self.core.state_row(self.block, key) * stride + self.core.columns.start];
        }
    }

    /// Moves `later` to the start's gradient.
    fn flush_start(&self, later: &mut [Floats]) {
        if let Some(start) = self.start {
            for (key, later) in later.as_flattened()[..self.core.r.keys].iter().enumerate() {
                // SAFETY: the block's columns are one thread's, and the part is dropped at once.
                let start = unsafe { self.core.state_part(self.block, key, start) };
                start[0] += later;
            }
        }
        later.fill([0.0; LANES]);
    }
}
