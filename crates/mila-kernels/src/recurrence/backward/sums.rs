//! The adjoint of a normaliser of one column a head: keys stand side by side in registers.

use crate::{
    arithmetic::{Arithmetic, LANES},
    columns::Columns,
    isa::{Isa, Kernel},
    lane,
    recurrence::{
        Decay, PAD, Walk,
        block::{Before, Block, CHUNK, Core},
        stage::Stage,
        sums::{key_lane, start},
        update::{at, at_mut},
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

/// Memory: arbitrary floats. Rows of keys are whole lanes.
struct Memory<'m> {
    stage: Stage<'m>,
    z: &'m mut [f32],
    later: &'m mut [f32],
    bonus: &'m mut [f32],
    /// G ⊙ z of the step before, `[steps, keys]`; then the gradients of the gates' logarithms.
    kept: &'m mut [f32],
    /// q̄, `[steps, keys]`.
    of_q: &'m mut [f32],
    /// k̄, `[steps, keys]`.
    of_k: &'m mut [f32],
    /// z before every run, `[runs, keys]`.
    before: &'m mut [f32],
}

/// Adds the gradients of a head to the map and the start, and writes those of its bonus.
pub(super) fn run(isa: Isa, adjoint: Adjoint<'_, '_>) {
    let (core, block) = (adjoint.core, adjoint.block);
    let keys = core.r.keys.next_multiple_of(LANES);
    let steps = CHUNK * keys;
    let lengths = [Stage::len(core.r.keys, block), keys, keys, keys, steps, steps, steps, core.runs.len() * keys];
    scratch::lanes(lengths.iter().sum::<usize>() / LANES, |memory| {
        let mut rest = lane::floats_mut(memory);
        let [stage, z, later, bonus, kept, of_q, of_k, before] = lengths.map(|len| {
            let (part, after) = std::mem::take(&mut rest).split_at_mut(len);
            rest = after;
            part
        });
        let stage = Stage::new(stage, core.r.keys, block);
        isa.run(Back { adjoint, memory: Memory { stage, z, later, bonus, kept, of_q, of_k, before } });
    });
}

struct Back<'a, 's, 'm> {
    adjoint: Adjoint<'a, 's>,
    memory: Memory<'m>,
}

impl Kernel for Back<'_, '_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        let Back { adjoint, mut memory } = self;
        let (core, block) = (adjoint.core, adjoint.block);
        let Walk::Steps { index, until, .. } = core.r.walk else { return };
        for (i, run) in core.runs.iter().enumerate() {
            if run.state == Before::Start {
                start(core, block, memory.z);
            }
            let keys = memory.stage.keys;
            memory.before[i * keys..][..keys].copy_from_slice(memory.z);
            let index = &index[run.steps.clone()];
            memory.stage.gather_keys::<A>(core, block, index);
            forth::<A>(&adjoint, &mut memory, index);
        }
        memory.later.fill(0.0);
        memory.bonus.fill(0.0);
        for (i, run) in core.runs.iter().enumerate().rev() {
            let index = &index[run.steps.clone()];
            memory.stage.gather_keys::<A>(core, block, index);
            let keys = memory.stage.keys;
            memory.z.copy_from_slice(&memory.before[i * keys..][..keys]);
            forth::<A>(&adjoint, &mut memory, index);
            if run.steps.end == until {
                adjoint.add_dstates(memory.later);
            }
            back::<A>(&adjoint, &mut memory, index);
            if run.state == Before::Start {
                adjoint.flush_start(memory.later);
            }
            adjoint.add_to_map(&memory, index);
        }
        if until == 0 {
            adjoint.add_dstates(memory.later);
            adjoint.flush_start(memory.later);
        }
        adjoint.bonus.copy_from_slice(&memory.bonus[..core.r.keys]);
    }
}

/// Walks z through some steps and keeps what its gates leave, and q̄.
#[inline(always)]
fn forth<A: Arithmetic>(adjoint: &Adjoint<'_, '_>, memory: &mut Memory<'_>, index: &[u32]) {
    let stage = &memory.stage;
    for (lane, z) in memory.z.as_chunks_mut().0.iter_mut().enumerate() {
        let bonus = adjoint.bonus::<A>(lane);
        let mut state = A::load(z);
        for (t, &token) in index.iter().enumerate() {
            let first = t * stage.keys + lane * LANES;
            let (k, g) = (A::load(at(stage.k, first)), A::load(at(stage.even, first)));
            let kept = A::mul(g, state);
            let after = A::add(kept, k);
            let seen = match bonus {
                None => after,
                Some(bonus) => A::mul_add_each(bonus, k, state),
            };
            state = after;
            A::store(kept, at_mut(memory.kept, first));
            A::store(A::mul(seen, A::splat(adjoint.output(token))), at_mut(memory.of_q, first));
        }
        A::store(state, z);
    }
}

/// The way back.
#[inline(always)]
fn back<A: Arithmetic>(adjoint: &Adjoint<'_, '_>, memory: &mut Memory<'_>, index: &[u32]) {
    let stage = &memory.stage;
    for (lane, to) in memory.later.as_chunks_mut().0.iter_mut().enumerate() {
        let bonus = adjoint.bonus::<A>(lane);
        let mut later = A::load(to);
        for (t, &token) in index.iter().enumerate().rev() {
            let first = t * stage.keys + lane * LANES;
            let (q, k) = (A::load(at(stage.q, first)), A::load(at(stage.k, first)));
            let (g, n) = (A::load(at(stage.even, first)), A::splat(adjoint.output(token)));
            let of_read = A::mul(q, n);
            let (zbar, of_key) = match bonus {
                None => {
                    let zbar = A::add(of_read, later);
                    later = A::mul(g, zbar);
                    (zbar, zbar)
                }
                Some(bonus) => {
                    let of_bonus = at_mut(memory.bonus, lane * LANES);
                    A::store(A::mul_add_each(of_read, k, A::load(of_bonus)), of_bonus);
                    let zbar = later;
                    later = A::mul_add_each(g, zbar, of_read);
                    (zbar, A::mul_add_each(bonus, of_read, zbar))
                }
            };
            A::store(of_key, at_mut(memory.of_k, first));
            let kept = at_mut(memory.kept, first);
            A::store(A::mul(zbar, A::load(kept)), kept);
        }
        A::store(later, to);
    }
}

impl Adjoint<'_, '_> {
    #[inline(always)]
    fn bonus<A: Arithmetic>(&self, lane: usize) -> Option<A::Register> {
        match self.core.r.bonus {
            Some(bonus) => Some(A::load_part(key_lane(self.core, self.block, bonus, lane))),
            None => None,
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

    fn add_dstates(&self, later: &mut [f32]) {
        let r = self.core.r;
        let stride = r.values + r.sums();
        for (key, later) in later[..r.keys].iter_mut().enumerate() {
            *later += self.dstates[self.core.state_row(self.block, key) * stride + self.core.columns.start];
        }
    }

    /// Moves `later` to the start's gradient.
    fn flush_start(&self, later: &mut [f32]) {
        if let Some(start) = self.start {
            for (key, later) in later[..self.core.r.keys].iter().enumerate() {
                self.core.state_part(self.block, key, start)[0] += later;
            }
        }
        later.fill(0.0);
    }

    #[inline(always)]
    fn add_to_map(&self, memory: &Memory<'_>, index: &[u32]) {
        let (r, head) = (self.core.r, self.block.head);
        let width = memory.stage.keys;
        for (t, &token) in index.iter().enumerate().filter(|&(_, &token)| token != PAD) {
            let add = |first: usize, gradient: &[f32]| {
                let row = self.block.image * r.tokens + token as usize;
                // SAFETY: these channels are those of this block's head, which is one thread's, and the part is dropped at once.
                let to = unsafe { self.map.part(row, first..first + gradient.len()) };
                to.iter_mut().zip(gradient).for_each(|(to, gradient)| *to += gradient);
            };

            add(r.q.first + head * r.keys, &memory.of_q[t * width..][..r.keys]);
            add(r.k.first + head * r.keys, &memory.of_k[t * width..][..r.keys]);
            let of_gates = &memory.kept[t * width..][..r.keys];
            match self.core.decay {
                Decay::Keys(log) => add(log.first + head * r.keys, of_gates),
                Decay::Scalar(log) => add(log.first + head, &[of_gates.iter().sum()]),
                _ => {}
            }
        }
    }
}
