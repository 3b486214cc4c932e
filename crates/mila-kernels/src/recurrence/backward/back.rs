//! The adjoint of some steps, lane by lane: a few keys go forth through all of them, and back.

use super::adjoint::{Adjoint, Memory};
use crate::{
    arithmetic::{Arithmetic, LANES},
    recurrence::{
        Decay,
        block::CHUNK,
        sums::sum_each,
        update::{Along, Even, Gate, Learned, Power, at, at_mut},
    },
};

/// Keys that are taken together.
const KEYS: usize = 2;
/// Floats of a lane of every step.
const LANE: usize = CHUNK * LANES;

/// What is kept of every step for the way back: `[KEYS, CHUNK, LANES]` each.
pub(super) struct Tape<'m> {
    /// Gates.
    g: &'m mut [f32],
    /// G ⊙ S of the step before.
    kept: &'m mut [f32],
    /// What adds up to q̄.
    of_q: &'m mut [f32],
    /// What adds up to k̄.
    of_k: &'m mut [f32],
    /// What adds up to the gradient of the gates' logarithms.
    of_gate: &'m mut [f32],
}

impl<'m> Tape<'m> {
    pub(super) const LEN: usize = 5 * KEYS * LANE;

    pub(super) fn new(memory: &'m mut [f32]) -> Self {
        let (g, rest) = memory.split_at_mut(KEYS * LANE);
        let (kept, rest) = rest.split_at_mut(KEYS * LANE);
        let (of_q, rest) = rest.split_at_mut(KEYS * LANE);
        let (of_k, of_gate) = rest.split_at_mut(KEYS * LANE);
        Self { g, kept, of_q, of_k, of_gate }
    }
}

/// The adjoint of the first `steps` steps of the stage. The state before them is `memory.s`; `memory.later`, the state's
/// cotangent after them, becomes that before them.
#[inline(always)]
pub(super) fn run<A: Arithmetic>(adjoint: &mut Adjoint<'_, '_>, memory: &mut Memory<'_>, steps: usize) {
    match adjoint.core.decay {
        Decay::Values(_) => lanes::<A, Along>(adjoint, memory, steps),
        Decay::Factored { .. } => lanes::<A, Power>(adjoint, memory, steps),
        _ => lanes::<A, Even>(adjoint, memory, steps),
    }
}

#[inline(always)]
fn lanes<A: Arithmetic, G: Gate>(adjoint: &mut Adjoint<'_, '_>, memory: &mut Memory<'_>, steps: usize) {
    let keys = adjoint.core.r.keys;
    for lane in (0..memory.stage.width).step_by(LANES) {
        let mut key = 0;
        while key + KEYS <= keys {
            group::<A, G, KEYS>(adjoint, memory, (key, lane), steps);
            key += KEYS;
        }
        while key < keys {
            group::<A, G, 1>(adjoint, memory, (key, lane), steps);
            key += 1;
        }
    }
}

/// The same for `K` keys from `key` on and the sixteen columns from `lane` on.
#[inline(always)]
fn group<A: Arithmetic, G: Gate, const K: usize>(
    adjoint: &mut Adjoint<'_, '_>,
    memory: &mut Memory<'_>,
    (key, lane): (usize, usize),
    steps: usize,
) {
    forth::<A, G, K>(adjoint, memory, (key, lane), steps);
    back::<A, G, K>(adjoint, memory, (key, lane), steps);
    let (shared, tape) = (adjoint.shared, &memory.tape);
    for j in 0..K {
        add_sums::<A>(tape.of_q, j, lane, &mut memory.sums[(shared.q().start + key + j) * CHUNK..]);
        add_sums::<A>(tape.of_k, j, lane, &mut memory.sums[(shared.k().start + key + j) * CHUNK..]);
        if !shared.gate().is_empty() {
            add_sums::<A>(tape.of_gate, j, lane, &mut memory.sums[(shared.gate().start + key + j) * CHUNK..]);
        }
    }
}

/// Adds the sums of a key's lanes of every step to those of the columns before.
#[inline(always)]
fn add_sums<A: Arithmetic>(tape: &[f32], j: usize, lane: usize, sums: &mut [f32]) {
    for (i, lanes) in tape[j * LANE..][..LANE].chunks_exact(LANES * LANES).enumerate() {
        let (sum, to) = (sum_each::<A>(lanes), at_mut(sums, i * LANES));
        A::store(if lane == 0 { sum } else { A::add(sum, A::load(to)) }, to);
    }
}

/// Walks the state through the steps and keeps gates, what they leave, and what is read times its cotangent.
#[inline(always)]
fn forth<A: Arithmetic, G: Gate, const K: usize>(
    adjoint: &Adjoint<'_, '_>,
    memory: &mut Memory<'_>,
    (key, lane): (usize, usize),
    steps: usize,
) {
    let (core, block) = (adjoint.core, adjoint.block);
    let (stage, tape) = (&memory.stage, &mut memory.tape);
    let (mut state, mut rates) = ([A::splat(0.0); K], [A::splat(0.0); K]);
    for j in 0..K {
        state[j] = A::load(at(memory.s, (key + j) * stage.width + lane));
        rates[j] = G::rates::<A>(core, block, key + j, lane);
    }
    for t in 0..steps {
        let u = A::load(at(stage.u, t * stage.width + lane));
        let o = A::load(at(memory.o, t * stage.width + lane));
        let k: &[f32; K] = at(stage.k, t * stage.keys + key);
        for j in 0..K {
            let to = j * LANE + t * LANES;
            let gate = G::at::<A>(stage, (t, key + j, lane), rates[j]);
            let kept = A::mul(gate, state[j]);
            let seen = match core.r.bonus {
                None => A::mul_add_each(A::splat(k[j]), u, kept),
                Some(bonus) => {
                    let bonus = bonus[block.head * core.r.keys + key + j];
                    A::mul_add_each(A::splat(bonus * k[j]), u, state[j])
                }
            };
            state[j] = A::mul_add_each(A::splat(k[j]), u, kept);
            A::store(gate, at_mut(tape.g, to));
            A::store(kept, at_mut(tape.kept, to));
            A::store(A::mul(seen, o), at_mut(tape.of_q, to));
        }
    }
}

/// The way back over what [`forth`] kept.
#[inline(always)]
fn back<A: Arithmetic, G: Gate, const K: usize>(
    adjoint: &mut Adjoint<'_, '_>,
    memory: &mut Memory<'_>,
    (key, lane): (usize, usize),
    steps: usize,
) {
    let (core, block) = (adjoint.core, adjoint.block);
    let (stage, tape, width) = (&memory.stage, &mut memory.tape, memory.stage.width);
    let learns_keys = !adjoint.shared.gate().is_empty();
    let zero = A::splat(0.0);
    let (mut later, mut rates, mut of_rates, mut of_bonus) = ([zero; K], [zero; K], [zero; K], [zero; K]);
    for j in 0..K {
        later[j] = A::load(at(memory.later, (key + j) * width + lane));
        // Of logarithms to base e.
        rates[j] = A::mul(G::rates::<A>(core, block, key + j, lane), A::splat(std::f32::consts::LN_2));
    }
    for t in (0..steps).rev() {
        let u = A::load(at(stage.u, t * width + lane));
        let o = A::load(at(memory.o, t * width + lane));
        let q: &[f32; K] = at(stage.q, t * stage.keys + key);
        let k: &[f32; K] = at(stage.k, t * stage.keys + key);
        let (mut du, mut dalong) = (zero, zero);
        if key > 0 {
            du = A::load(at(memory.du, t * width + lane));
            dalong = A::load(at(memory.dalong, t * width + lane));
        }
        for j in 0..K {
            let from = j * LANE + t * LANES;
            let gate = A::load(at(tape.g, from));
            // The cotangent of the state, and that of what is written.
            let (sbar, written) = match core.r.bonus {
                None => {
                    let sbar = A::mul_add_each(A::splat(q[j]), o, later[j]);
                    later[j] = A::mul(gate, sbar);
                    (sbar, sbar)
                }
                Some(bonus) => {
                    let bonus = bonus[block.head * core.r.keys + key + j];
                    of_bonus[j] = A::mul_add_each(A::splat(q[j] * k[j]), A::mul(u, o), of_bonus[j]);
                    let sbar = later[j];
                    later[j] = A::mul_add_each(A::splat(q[j]), o, A::mul(gate, sbar));
                    (sbar, A::mul_add_each(A::splat(bonus * q[j]), o, sbar))
                }
            };
            du = A::mul_add_each(A::splat(k[j]), written, du);
            A::store(A::mul(written, u), at_mut(tape.of_k, from));
            let kept = A::load(at(tape.kept, from));
            match G::LEARNED {
                Learned::Keys if learns_keys => A::store(A::mul(sbar, kept), at_mut(tape.of_gate, from)),
                Learned::Keys => {}
                Learned::Columns => dalong = A::mul_add_each(sbar, kept, dalong),
                Learned::StepSizes => {
                    let of_log = A::mul(sbar, kept);
                    dalong = A::mul_add_each(of_log, rates[j], dalong);
                    of_rates[j] = A::mul_add_each(of_log, A::load(at(stage.along, t * width + lane)), of_rates[j]);
                }
            }
        }
        A::store(du, at_mut(memory.du, t * width + lane));
        A::store(dalong, at_mut(memory.dalong, t * width + lane));
    }
    for j in 0..K {
        A::store(later[j], at_mut(memory.later, (key + j) * width + lane));
        if let Learned::StepSizes = G::LEARNED {
            let to = at_mut(adjoint.parameters.rates, (key + j) * width + lane);
            A::store(A::add(A::load(to), of_rates[j]), to);
        }
        if core.r.bonus.is_some() {
            adjoint.parameters.bonus[key + j] += A::sum(of_bonus[j]);
        }
    }
}
