//! The adjoint of some steps, lane by lane: a few keys go forth through all of them, and back.

use std::marker::PhantomData;

use super::{
    adjoint::{Adjoint, Memory},
    shared::Shared,
};
use crate::{
    arithmetic::{Arithmetic, LANES},
    isa::{Isa, Kernel},
    recurrence::{
        Decay,
        block::CHUNK,
        stage::Floats,
        sums::sum_each,
        update::{After, Along, Before, Even, Gate, Lane, Learned, Power, Read},
    },
};

/// Keys that are taken together.
const KEYS: usize = 2;
/// Lanes of memory for what is kept of the steps of some keys.
pub(super) const TAPE: usize = 5 * KEYS * CHUNK;

/// The adjoint of the first `steps` steps of the stage. The state before them is `memory.s`; `memory.later`, the state's
/// cotangent after them, becomes that before them.
pub(super) fn run(adjoint: &mut Adjoint<'_, '_>, memory: &mut Memory<'_>, steps: usize) {
    let (isa, core, block, keys) = (adjoint.isa, adjoint.core, adjoint.block, adjoint.core.r.keys);
    for lane in 0..block.lanes() {
        let (columns, states) = (lane * CHUNK..lane * CHUNK + steps, lane * keys..(lane + 1) * keys);
        let back = Back {
            of: Lane::of((core, block), &memory.stage, lane, steps),
            shared: adjoint.shared,
            first: lane == 0,
            o: &memory.o[columns.clone()],
            du: &mut memory.du[columns.clone()],
            dalong: &mut memory.dalong[columns],
            s: &memory.s[states.clone()],
            later: &mut memory.later[states.clone()],
            of_rates: &mut adjoint.parameters.rates[states],
            of_bonus: adjoint.parameters.bonus,
            sums: memory.sums.as_flattened_mut(),
            tape: memory.tape,
        };
        match core.r.bonus {
            None => lane_of::<After>(isa, core.decay, back),
            Some(_) => lane_of::<Before>(isa, core.decay, back),
        }
    }
}

fn lane_of<R: Read>(isa: Isa, decay: Decay<'_>, back: Back<'_>) {
    back.du.fill([0.0; LANES]);
    back.dalong.fill([0.0; LANES]);
    match decay {
        Decay::Values(_) => isa.run(Of::<Along, R>(back, PhantomData)),
        Decay::Factored { .. } => isa.run(Of::<Power, R>(back, PhantomData)),
        _ => isa.run(Of::<Even, R>(back, PhantomData)),
    }
}

/// What the adjoint of a lane reads and writes.
struct Back<'a> {
    of: Lane<'a>,
    shared: Shared,
    /// Whether no lane of the block came before, to whose sums this one adds.
    first: bool,
    /// `[steps]`
    o: &'a [Floats],
    /// `[steps]`
    du: &'a mut [Floats],
    /// `[steps]`
    dalong: &'a mut [Floats],
    /// `[keys]`
    s: &'a [Floats],
    /// `[keys]`
    later: &'a mut [Floats],
    /// `[keys]`
    of_rates: &'a mut [Floats],
    /// `[keys]`
    of_bonus: &'a mut [f32],
    /// `[shared, CHUNK]`
    sums: &'a mut [f32],
    tape: &'a mut [Floats],
}

/// The adjoint of a lane with gates and reads of one kind.
struct Of<'a, G, R>(Back<'a>, PhantomData<(G, R)>);

impl<G: Gate, R: Read> Kernel for Of<'_, G, R> {
    type Output = ();

    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        let Self(mut back, _) = self;
        let keys = back.s.len();
        for key in (0..keys - keys % KEYS).step_by(KEYS) {
            back.keys::<A, G, R, KEYS>(key);
        }
        for key in keys - keys % KEYS..keys {
            back.keys::<A, G, R, 1>(key);
        }
    }
}

/// Lanes of what is kept of the steps of some keys.
const KEPT: usize = KEYS * CHUNK;

impl Back<'_> {
    /// Takes `K` keys from `key` on forth and back.
    #[inline(always)]
    fn keys<A: Arithmetic, G: Gate, R: Read, const K: usize>(&mut self, key: usize) {
        self.forth::<A, G, R, K>(key);
        self.back::<A, G, R, K>(key);
        let (shared, [_, _, of_q, of_k, of_gate]) = (self.shared, parts(self.tape));
        for j in 0..K {
            let sums = [(shared.q(), of_q), (shared.k(), of_k), (shared.gate(), of_gate)];
            for (range, of) in sums.into_iter().filter(|(range, _)| !range.is_empty()) {
                let to = &mut self.sums[(range.start + key + j) * CHUNK..][..CHUNK];
                let of = of[j * CHUNK..(j + 1) * CHUNK].as_chunks().0;
                for (to, of) in to.as_chunks_mut().0.iter_mut().zip(of) {
                    let sum = sum_each::<A>(of);
                    A::store(if self.first { sum } else { A::add(sum, A::load(to)) }, to);
                }
            }
        }
    }

    /// Walks the state through the steps and keeps gates, what they leave, and what is read times its cotangent.
    #[inline(always)]
    fn forth<A: Arithmetic, G: Gate, R: Read, const K: usize>(&mut self, key: usize) {
        let steps = self.o.len().min(CHUNK);
        let (of, o) = (self.of.of_steps(steps), &self.o[..steps]);
        let [g, kept, of_q, ..] = parts_mut(self.tape);
        let mut state = [A::splat(0.0); K];
        for j in 0..K {
            state[j] = A::load(&self.s[key + j]);
            G::ahead::<A>(of, key + j, &mut g[j * CHUNK..][..steps]);
        }
        for (t, row) in (0..steps).zip(of.rows(key)) {
            let (u, o) = (A::load(&of.u[t]), A::load(&o[t]));
            for (j, state) in state.iter_mut().enumerate() {
                let at = j * CHUNK + t;
                let gate = G::at::<A>(of, t, row.float(row.even, key + j), &g[at]);
                let k = row.float(row.k, key + j);
                let before = *state;
                let left = A::mul(gate, before);
                *state = A::mul_add_each(A::splat(k), u, left);
                let seen = match R::bonus(of, key + j) {
                    None => *state,
                    Some(bonus) => A::mul_add_each(A::splat(bonus * k), u, before),
                };
                A::store(gate, &mut g[at]);
                A::store(left, &mut kept[at]);
                A::store(A::mul(seen, o), &mut of_q[at]);
            }
        }
    }

    /// The way back over what [`forth`](Self::forth) kept.
    #[inline(always)]
    fn back<A: Arithmetic, G: Gate, R: Read, const K: usize>(&mut self, key: usize) {
        let steps = self.o.len().min(CHUNK);
        let (of, o) = (self.of.of_steps(steps), &self.o[..steps]);
        let (du_of, dalong_of) = (&mut self.du[..steps], &mut self.dalong[..steps]);
        let [g, kept, _, of_k, of_gate] = parts_mut(self.tape);
        let learns_keys = !self.shared.gate().is_empty();
        let zero = A::splat(0.0);
        let (mut later, mut rates, mut of_rates, mut of_bonus) = ([zero; K], [zero; K], [zero; K], [zero; K]);
        for j in 0..K {
            later[j] = A::load(&self.later[key + j]);
            if let Learned::StepSizes = G::LEARNED {
                // Of logarithms to base e.
                rates[j] = A::mul(A::load(&of.rates[key + j]), A::splat(std::f32::consts::LN_2));
            }
        }
        for (t, row) in (0..steps).zip(of.rows(key)).rev() {
            let (u, o) = (A::load(&of.u[t]), A::load(&o[t]));
            let (mut du, mut dalong) = (A::load(&du_of[t]), A::load(&dalong_of[t]));
            for j in 0..K {
                let at = j * CHUNK + t;
                let (q, k) = (row.float(row.q, key + j), row.float(row.k, key + j));
                let gate = A::load(&g[at]);
                // The cotangent of the state, and that of what is written.
                let (sbar, written) = match R::bonus(of, key + j) {
                    None => {
                        let sbar = A::mul_add_each(A::splat(q), o, later[j]);
                        later[j] = A::mul(gate, sbar);
                        (sbar, sbar)
                    }
                    Some(bonus) => {
                        of_bonus[j] = A::mul_add_each(A::splat(q * k), A::mul(u, o), of_bonus[j]);
                        let sbar = later[j];
                        later[j] = A::mul_add_each(A::splat(q), o, A::mul(gate, sbar));
                        (sbar, A::mul_add_each(A::splat(bonus * q), o, sbar))
                    }
                };
                du = A::mul_add_each(A::splat(k), written, du);
                A::store(A::mul(written, u), &mut of_k[at]);
                let left = A::load(&kept[at]);
                match G::LEARNED {
                    Learned::Keys if learns_keys => A::store(A::mul(sbar, left), &mut of_gate[at]),
                    Learned::Keys => {}
                    Learned::Columns => dalong = A::mul_add_each(sbar, left, dalong),
                    Learned::StepSizes => {
                        let of_log = A::mul(sbar, left);
                        dalong = A::mul_add_each(of_log, rates[j], dalong);
                        of_rates[j] = A::mul_add_each(of_log, A::load(&of.along[t]), of_rates[j]);
                    }
                }
            }
            A::store(du, &mut du_of[t]);
            A::store(dalong, &mut dalong_of[t]);
        }
        for j in 0..K {
            A::store(later[j], &mut self.later[key + j]);
            if let Learned::StepSizes = G::LEARNED {
                let to = &mut self.of_rates[key + j];
                A::store(A::add(A::load(to), of_rates[j]), to);
            }
            if of.bonus.is_some() {
                self.of_bonus[key + j] += A::sum(of_bonus[j]);
            }
        }
    }
}

/// The five parts of a tape, `[KEYS, CHUNK]` each: gates; G ⊙ S of the step before; what adds up to q̄, to k̄, and to the gradient
/// of the gates' logarithms.
#[inline(always)]
fn parts_mut(tape: &mut [Floats]) -> [&mut [Floats; KEPT]; 5] {
    match tape.as_chunks_mut().0 {
        [a, b, c, d, e] => [a, b, c, d, e],
        _ => panic!("recurrence: a tape of five parts"),
    }
}

/// The same, for reading.
#[inline(always)]
fn parts(tape: &[Floats]) -> [&[Floats; KEPT]; 5] {
    match tape.as_chunks().0 {
        [a, b, c, d, e] => [a, b, c, d, e],
        _ => panic!("recurrence: a tape of five parts"),
    }
}
