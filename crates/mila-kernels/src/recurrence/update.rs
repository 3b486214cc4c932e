//! Some steps of the state, lane by lane: sixteen columns of a few keys stay in registers from the first step to the last.

use super::{
    Decay,
    block::{Block, Core},
    stage::Stage,
};
use crate::{
    arithmetic::{Arithmetic, LANES},
    isa::Level,
    math,
};

/// Keys whose states are in registers together, for [`Level`]s of sixteen registers and of more.
pub(super) const KEYS: [usize; 2] = [2, 4];

/// The first steps of a stage.
#[derive(Clone, Copy)]
pub(super) struct Gathered<'a, 's> {
    pub(super) core: &'a Core<'a>,
    pub(super) block: Block,
    pub(super) stage: &'a Stage<'s>,
    pub(super) steps: usize,
}

/// Takes the steps: the state `s`, `[keys, width]`, becomes that after them, and what is read goes to `o`, `[steps, width]`.
#[inline(always)]
pub(super) fn advance<A: Arithmetic>(gathered: Gathered<'_, '_>, s: &mut [f32], o: &mut [f32]) {
    match gathered.core.decay {
        Decay::Values(_) => lanes::<A, Along>(gathered, s, o),
        Decay::Factored { .. } => lanes::<A, Power>(gathered, s, o),
        _ => lanes::<A, Even>(gathered, s, o),
    }
}

#[inline(always)]
fn lanes<A: Arithmetic, G: Gate>(gathered: Gathered<'_, '_>, s: &mut [f32], o: &mut [f32]) {
    let keys = gathered.core.r.keys;
    for lane in (0..gathered.stage.width).step_by(LANES) {
        let mut key = 0;
        if A::LEVEL == Level::Avx512 {
            while key + KEYS[1] <= keys {
                group::<A, G, { KEYS[1] }>(gathered, (key, lane), s, o);
                key += KEYS[1];
            }
        }
        while key + KEYS[0] <= keys {
            group::<A, G, { KEYS[0] }>(gathered, (key, lane), s, o);
            key += KEYS[0];
        }
        while key < keys {
            group::<A, G, 1>(gathered, (key, lane), s, o);
            key += 1;
        }
    }
}

/// Takes the steps for `K` keys from `key` on and the sixteen columns from `lane` on.
#[inline(always)]
fn group<A: Arithmetic, G: Gate, const K: usize>(
    Gathered { core, block, stage, steps }: Gathered<'_, '_>,
    (key, lane): (usize, usize),
    s: &mut [f32],
    o: &mut [f32],
) {
    let width = stage.width;
    let (mut state, mut rates) = ([A::splat(0.0); K], [A::splat(0.0); K]);
    for j in 0..K {
        state[j] = A::load(at(s, (key + j) * width + lane));
        rates[j] = G::rates::<A>(core, block, key + j, lane);
    }
    for t in 0..steps {
        let u = A::load(at(stage.u, t * width + lane));
        let q: &[f32; K] = at(stage.q, t * stage.keys + key);
        let k: &[f32; K] = at(stage.k, t * stage.keys + key);
        let o = at_mut(o, t * width + lane);
        let mut read = if key == 0 { A::splat(0.0) } else { A::load(o) };
        for j in 0..K {
            let gate = G::at::<A>(stage, (t, key + j, lane), rates[j]);
            let written = A::mul(A::splat(k[j]), u);
            match core.r.bonus {
                None => {
                    state[j] = A::mul_add_each(gate, state[j], written);
                    read = A::mul_add_each(A::splat(q[j]), state[j], read);
                }
                Some(bonus) => {
                    let bonus = A::splat(bonus[block.head * core.r.keys + key + j]);
                    read = A::mul_add_each(A::splat(q[j]), A::mul_add_each(bonus, written, state[j]), read);
                    state[j] = A::mul_add_each(gate, state[j], written);
                }
            }
        }
        A::store(read, o);
    }
    for j in 0..K {
        A::store(state[j], at_mut(s, (key + j) * width + lane));
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

    /// What the gates of a key need of its rates.
    #[inline(always)]
    fn rates<A: Arithmetic>(_: &Core<'_>, _: Block, _key: usize, _lane: usize) -> A::Register {
        A::splat(0.0)
    }

    /// The gate of a step, a key and the columns from a lane on.
    fn at<A: Arithmetic>(stage: &Stage<'_>, at: (usize, usize, usize), rates: A::Register) -> A::Register;
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
    fn at<A: Arithmetic>(stage: &Stage<'_>, (t, key, _): (usize, usize, usize), _: A::Register) -> A::Register {
        A::splat(stage.even[t * stage.keys + key])
    }
}

impl Gate for Along {
    const LEARNED: Learned = Learned::Columns;

    #[inline(always)]
    fn at<A: Arithmetic>(stage: &Stage<'_>, (t, _, lane): (usize, usize, usize), _: A::Register) -> A::Register {
        A::load(at(stage.along, t * stage.width + lane))
    }
}

impl Gate for Power {
    const LEARNED: Learned = Learned::StepSizes;

    #[inline(always)]
    fn rates<A: Arithmetic>(core: &Core<'_>, block: Block, key: usize, lane: usize) -> A::Register {
        A::load(at(core.rates(block, key), lane))
    }

    #[inline(always)]
    fn at<A: Arithmetic>(stage: &Stage<'_>, (t, _, lane): (usize, usize, usize), rates: A::Register) -> A::Register {
        math::exp2_decay::<A>(A::mul(A::load(at(stage.along, t * stage.width + lane)), rates))
    }
}

/// The `N` floats from `first` on.
#[inline(always)]
pub(super) fn at<const N: usize>(x: &[f32], first: usize) -> &[f32; N] {
    match x[first..].first_chunk() {
        Some(x) => x,
        None => panic!("recurrence: {N} floats from {first} on"),
    }
}

/// The same, for writing.
#[inline(always)]
pub(super) fn at_mut<const N: usize>(x: &mut [f32], first: usize) -> &mut [f32; N] {
    match x[first..].first_chunk_mut() {
        Some(x) => x,
        None => panic!("recurrence: {N} floats from {first} on"),
    }
}
