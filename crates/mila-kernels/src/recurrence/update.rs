//! Some steps of the state, lane by lane: sixteen columns of a few keys stay in registers from the first step to the last.

use std::marker::PhantomData;

use super::{
    Decay,
    block::{Block, CHUNK, Core},
    stage::{Floats, Stage},
};
use crate::{
    arithmetic::{Arithmetic, LANES},
    isa::{Isa, Kernel},
    math,
};

/// Keys whose states are in registers together.
const KEYS: usize = 2;
/// Lanes of memory for the gates of their steps.
pub(super) const GATES: usize = KEYS * CHUNK;

/// Takes the first `steps` steps of a stage: the state `s`, `[lanes, keys]`, becomes that after them, and what is read goes to
/// `o`, `[lanes, CHUNK]`. The floats of `gates`, [`GATES`] lanes, are arbitrary.
pub(super) fn advance(
    isa: Isa,
    (core, block): (&Core<'_>, Block),
    stage: &Stage<'_>,
    steps: usize,
    s: &mut [Floats],
    o: &mut [Floats],
    gates: &mut [Floats],
) {
    for lane in 0..block.lanes() {
        let of = Lane::of((core, block), stage, lane, steps);
        let (s, o) = (&mut s[lane * core.r.keys..][..core.r.keys], &mut o[lane * CHUNK..][..steps]);
        match of.bonus {
            None => lane_of::<After>(isa, core.decay, Of { of, s, o, gates }),
            Some(_) => lane_of::<Before>(isa, core.decay, Of { of, s, o, gates }),
        }
    }
}

fn lane_of<R: Read>(isa: Isa, decay: Decay<'_>, of: Of<'_>) {
    of.o.fill([0.0; LANES]);
    match decay {
        Decay::Values(_) => isa.run(Advance::<Along, R>(of, PhantomData)),
        Decay::Factored { .. } => isa.run(Advance::<Power, R>(of, PhantomData)),
        _ => isa.run(Advance::<Even, R>(of, PhantomData)),
    }
}

/// Operands of the steps of a lane.
#[derive(Clone, Copy)]
pub(super) struct Lane<'a> {
    /// `[steps, lanes of keys]`, as are `k` and `even`.
    pub(super) q: &'a [Floats],
    pub(super) k: &'a [Floats],
    pub(super) even: &'a [Floats],
    /// Lanes of keys.
    pub(super) keys: usize,
    /// `[steps]`
    pub(super) u: &'a [Floats],
    /// `[steps]`
    pub(super) along: &'a [Floats],
    /// `[keys]`, of a factored decay.
    pub(super) rates: &'a [Floats],
    /// `[keys]`
    pub(super) bonus: Option<&'a [f32]>,
}

impl<'a> Lane<'a> {
    pub(super) fn of((core, block): (&'a Core<'_>, Block), stage: &'a Stage<'_>, lane: usize, steps: usize) -> Self {
        let (rows, columns) = (steps * stage.keys, lane * CHUNK..lane * CHUNK + steps);
        Self {
            q: &stage.q[..rows],
            k: &stage.k[..rows],
            even: &stage.even[..rows],
            keys: stage.keys,
            u: &stage.u[columns.clone()],
            along: &stage.along[columns],
            rates: core.rates(block, lane),
            bonus: core.r.bonus.map(|bonus| &bonus[block.head * core.r.keys..][..core.r.keys]),
        }
    }
}

impl Lane<'_> {
    /// The same, with lengths that the compiler knows.
    #[inline(always)]
    pub(super) fn of_steps(self, steps: usize) -> Self {
        Self { u: &self.u[..steps], along: &self.along[..steps], ..self }
    }
}

impl<'a> Lane<'a> {
    /// The lanes of a key, step by step.
    #[inline(always)]
    pub(super) fn rows(self, key: usize) -> impl DoubleEndedIterator<Item = Row<'a>> + ExactSizeIterator {
        let [q, k, even] = [self.q, self.k, self.even].map(|of| of.chunks_exact(self.keys));
        let lane = key / LANES;
        q.zip(k).zip(even).map(move |((q, k), even)| Row { q: &q[lane], k: &k[lane], even: &even[lane] })
    }
}

/// What the steps of a lane read and write.
struct Of<'a> {
    of: Lane<'a>,
    /// `[keys]`
    s: &'a mut [Floats],
    /// `[steps]`, to which is added.
    o: &'a mut [Floats],
    gates: &'a mut [Floats],
}

/// The steps of a lane with gates and reads of one kind.
struct Advance<'a, G, R>(Of<'a>, PhantomData<(G, R)>);

impl<G: Gate, R: Read> Kernel for Advance<'_, G, R> {
    type Output = ();

    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        let Self(mut of, _) = self;
        let keys = of.s.len();
        for key in (0..keys - keys % KEYS).step_by(KEYS) {
            of.keys::<A, G, R, KEYS>(key);
        }
        for key in keys - keys % KEYS..keys {
            of.keys::<A, G, R, 1>(key);
        }
    }
}

impl Of<'_> {
    /// Takes the steps for `K` keys from `key` on.
    #[inline(always)]
    fn keys<A: Arithmetic, G: Gate, R: Read, const K: usize>(&mut self, key: usize) {
        let steps = self.o.len().min(CHUNK);
        let (of, o) = (self.of.of_steps(steps), &mut self.o[..steps]);
        let gates = gates_mut(self.gates);
        let mut state = [A::splat(0.0); K];
        for j in 0..K {
            state[j] = A::load(&self.s[key + j]);
            G::ahead::<A>(of, key + j, &mut gates[j * CHUNK..][..steps]);
        }
        for ((t, o), row) in o.iter_mut().enumerate().zip(of.rows(key)) {
            let u = A::load(&of.u[t]);
            let mut read = A::load(o);
            for j in 0..K {
                let gate = G::at::<A>(of, t, row.float(row.even, key + j), &gates[j * CHUNK + t]);
                let written = A::mul(A::splat(row.float(row.k, key + j)), u);
                let q = A::splat(row.float(row.q, key + j));
                match R::bonus(of, key + j) {
                    None => {
                        state[j] = A::mul_add_each(gate, state[j], written);
                        read = A::mul_add_each(q, state[j], read);
                    }
                    Some(bonus) => {
                        read = A::mul_add_each(q, A::mul_add_each(A::splat(bonus), written, state[j]), read);
                        state[j] = A::mul_add_each(gate, state[j], written);
                    }
                }
            }
            A::store(read, o);
        }
        for (state, s) in state.into_iter().zip(&mut self.s[key..]) {
            A::store(state, s);
        }
    }
}

/// The gates, `[KEYS, CHUNK]`.
#[inline(always)]
fn gates_mut(gates: &mut [Floats]) -> &mut [Floats; GATES] {
    match gates.first_chunk_mut() {
        Some(gates) => gates,
        None => panic!("recurrence: memory for the gates"),
    }
}

/// A step's lanes of some keys.
#[derive(Clone, Copy)]
pub(super) struct Row<'a> {
    pub(super) q: &'a Floats,
    pub(super) k: &'a Floats,
    pub(super) even: &'a Floats,
}

impl Row<'_> {
    /// That of a key.
    #[inline(always)]
    pub(super) fn float(self, of: &Floats, key: usize) -> f32 {
        of[key % LANES]
    }
}

/// When the state is read.
pub(super) trait Read {
    /// The weight of what is written at the same step, if the read is before it.
    fn bonus(of: Lane<'_>, key: usize) -> Option<f32>;
}

/// After the write.
pub(super) struct After;
/// Before it.
pub(super) struct Before;

impl Read for After {
    #[inline(always)]
    fn bonus(_: Lane<'_>, _: usize) -> Option<f32> {
        None
    }
}

impl Read for Before {
    #[inline(always)]
    fn bonus(of: Lane<'_>, key: usize) -> Option<f32> {
        of.bonus.map(|bonus| bonus[key])
    }
}

/// What a gate is made of.
pub(super) enum Learned {
    /// A number for each key, or nothing.
    Keys,
    /// A number for each column.
    Columns,
    /// Step sizes and rates.
    StepSizes,
}

/// Gates of sixteen columns. A trait and no closure, which might be compiled for itself, without the instruction set.
pub(super) trait Gate {
    /// Where the gradient of the gate's logarithm goes.
    const LEARNED: Learned;

    /// Writes the gates of a key at all steps to `gates`, `[steps]`, if they are better computed before the state goes through
    /// them.
    #[inline(always)]
    fn ahead<A: Arithmetic>(_: Lane<'_>, _key: usize, _gates: &mut [Floats]) {}

    /// The gate of a step and of a key: `even` is its even gate, `ahead` what [`ahead`](Self::ahead) wrote.
    fn at<A: Arithmetic>(of: Lane<'_>, t: usize, even: f32, ahead: &Floats) -> A::Register;
}

/// One for all columns.
pub(super) struct Even;
/// One for each column.
pub(super) struct Along;
/// 2 to the power of step sizes times rates.
pub(super) struct Power;

impl Gate for Even {
    const LEARNED: Learned = Learned::Keys;

    #[inline(always)]
    fn at<A: Arithmetic>(_: Lane<'_>, _: usize, even: f32, _: &Floats) -> A::Register {
        A::splat(even)
    }
}

impl Gate for Along {
    const LEARNED: Learned = Learned::Columns;

    #[inline(always)]
    fn at<A: Arithmetic>(of: Lane<'_>, t: usize, _: f32, _: &Floats) -> A::Register {
        A::load(&of.along[t])
    }
}

impl Gate for Power {
    const LEARNED: Learned = Learned::StepSizes;

    /// A loop of its own: an exponential is a chain of some 37 cycles, and a processor sees too few of them at once where
    /// other instructions stand between.
    #[inline(always)]
    fn ahead<A: Arithmetic>(of: Lane<'_>, key: usize, gates: &mut [Floats]) {
        let rates = A::load(&of.rates[key]);
        let (pairs, last) = of.along[..gates.len()].as_chunks::<2>();
        let (pairs_to, last_to) = gates.as_chunks_mut::<2>();
        for ([a, b], [a_to, b_to]) in pairs.iter().zip(pairs_to) {
            let [x, y] = math::exp2_decay_each::<A, 2>([A::mul(A::load(a), rates), A::mul(A::load(b), rates)]);
            A::store(x, a_to);
            A::store(y, b_to);
        }
        for (along, gate) in last.iter().zip(last_to) {
            let [x] = math::exp2_decay_each::<A, 1>([A::mul(A::load(along), rates)]);
            A::store(x, gate);
        }
    }

    #[inline(always)]
    fn at<A: Arithmetic>(_: Lane<'_>, _: usize, _: f32, ahead: &Floats) -> A::Register {
        A::load(ahead)
    }
}
