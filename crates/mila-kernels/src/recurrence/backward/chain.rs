//! From the gradients of a run's steps to those of the operands that they were made of.

use std::ops::Range;

use super::adjoint::{Adjoint, Memory};
use crate::{
    arithmetic::{Arithmetic, LANES},
    math,
    recurrence::{
        Decay, Input, PAD, Rows,
        block::{CHUNK, Written},
        stage::{before_softplus, gather},
        update::at,
    },
    reduce,
};

/// The end of a run's adjoint.
pub(super) struct Chain<'c, 'a, 's, 'm> {
    pub(super) adjoint: &'c mut Adjoint<'a, 's>,
    pub(super) memory: &'c mut Memory<'m>,
}

impl Chain<'_, '_, '_, '_> {
    /// Adds the gradients of the steps that visit `index` to the map and the parameters.
    #[inline(always)]
    pub(super) fn run<A: Arithmetic>(self, index: &[u32]) {
        let Chain { adjoint, memory } = self;
        let (core, block, r) = (adjoint.core, adjoint.block, adjoint.core.r);
        let (first, len) = (block.head * r.values + block.first, index.len() * block.padded());
        let columns = (first, block.width);
        let (du, dalong) = (&mut memory.du[..len], &mut memory.dalong[..len]);
        if core.written == Written::Values {
            // Before it is a gradient of anything else, the row of what was written is the values.
            let (v, input) = (&mut memory.stage.u[..len], &mut memory.stage.input[..len]);
            gather::<A>(r.v, core, block, index, columns, v);
            match r.input {
                Input::None => {}
                Input::OfDecay => through_product::<A>(v, &memory.stage.along[..len], dalong, du),
                Input::Channel(_) | Input::Head(_) => {
                    for ((input, v), du) in input.iter_mut().zip(&*v).zip(&mut *du) {
                        let gate = std::mem::replace(input, v * *du);
                        *du *= gate;
                    }
                }
            }
            match r.input {
                Input::Head(_) => {
                    for (t, input) in input.chunks_exact(block.padded()).enumerate() {
                        memory.sums[adjoint.shared.input().start * CHUNK + t] = reduce::sum::<A>(input);
                    }
                }
                Input::Channel(delta) => {
                    before_softplus::<A>(delta, core, block, index, columns, v);
                    through_softplus::<A>(v, input);
                    add_rows::<A>(input, adjoint.parameters.input_bias);
                    add_to_map::<A>(adjoint, index, delta.raw.first + first, input);
                }
                Input::None | Input::OfDecay => {}
            }
            if let Some((d, x)) = r.shortcut {
                shortcut::<A>(adjoint, index, (d, x), v);
            }
            add_to_map::<A>(adjoint, index, r.v.first + first, du);
        }
        match core.decay {
            Decay::Values(log) => add_to_map::<A>(adjoint, index, log.first + first, dalong),
            Decay::Factored { delta, .. } => {
                let x = &mut memory.stage.along[..len];
                before_softplus::<A>(delta, core, block, index, columns, x);
                through_softplus::<A>(x, dalong);
                add_rows::<A>(dalong, adjoint.parameters.decay_bias);
                add_to_map::<A>(adjoint, index, delta.raw.first + first, dalong);
            }
            Decay::None | Decay::Constant(_) | Decay::Scalar(_) | Decay::Keys(_) => {}
        }
        if adjoint.shared.are_whole() {
            keys_to_map::<A>(adjoint, index, memory.sums);
        }
        let parts = adjoint.shared.parts();
        // A normaliser's part was written on the way forth.
        let sums = &memory.sums[parts.start * CHUNK..adjoint.shared.input().end * CHUNK];
        for (t, &token) in index.iter().enumerate().filter(|&(_, &token)| token != PAD) {
            let partials = &mut adjoint.partials[token as usize * parts.len()..];
            for (partial, sums) in partials.iter_mut().zip(sums.chunks_exact(CHUNK)) {
                *partial = sums[t];
            }
        }
    }
}

/// Adds the gradients of a head's keys to the map.
#[inline(always)]
fn keys_to_map<A: Arithmetic>(adjoint: &Adjoint<'_, '_>, index: &[u32], sums: &[f32]) {
    let (r, head, shared) = (adjoint.core.r, adjoint.block.head, adjoint.shared);
    let first_key = head * r.keys;
    sums_to_map::<A>(adjoint, index, &sums[shared.q().start * CHUNK..], (r.q.first + first_key, r.keys));
    sums_to_map::<A>(adjoint, index, &sums[shared.k().start * CHUNK..], (r.k.first + first_key, r.keys));
    let of_gates = &sums[shared.gate().start * CHUNK..];
    match adjoint.core.decay {
        Decay::Keys(log) => sums_to_map::<A>(adjoint, index, of_gates, (log.first + first_key, r.keys)),
        Decay::Scalar(log) => {
            for (t, &token) in index.iter().enumerate().filter(|&(_, &token)| token != PAD) {
                let sum = of_gates.chunks_exact(CHUNK).take(r.keys).map(|sums| sums[t]).sum::<f32>();
                part(adjoint, token, log.first + head..log.first + head + 1)[0] += sum;
            }
        }
        _ => {}
    }
}

/// Adds sums, `[count, steps]`, to channels from `first` on of the tokens `index` in the map's gradient.
#[inline(always)]
fn sums_to_map<A: Arithmetic>(adjoint: &Adjoint<'_, '_>, index: &[u32], sums: &[f32], (first, count): (usize, usize)) {
    for lane in (0..count).step_by(LANES) {
        let channels = first + lane..first + count.min(lane + LANES);
        for (i, index) in index.chunks(LANES).enumerate() {
            let mut square = [A::splat(0.0); LANES];
            for (n, row) in square.iter_mut().enumerate() {
                *row = A::load(at(sums, (lane + n) * CHUNK + i * LANES));
            }
            let mut rows = [[0.0; LANES]; LANES];
            for (row, register) in rows.iter_mut().zip(A::transpose(square)) {
                A::store(register, row);
            }
            for (row, &token) in rows.iter().zip(index).filter(|&(_, &token)| token != PAD) {
                let to = part(adjoint, token, channels.clone());
                A::store_part(A::add(A::load_part(to), A::load(row)), to);
            }
        }
    }
}

/// Some channels of a token in the map's gradient.
#[inline(always)]
fn part<'a>(adjoint: &Adjoint<'a, '_>, token: u32, channels: Range<usize>) -> &'a mut [f32] {
    let row = adjoint.block.image * adjoint.core.r.tokens + token as usize;
    // SAFETY: these channels belong to this block's columns, or to the keys of its head if it is all of it, of an operand whose
    // channels overlap with no other's; a block is one thread's, and its one caller drops a part before it asks for the next.
    unsafe { adjoint.map.part(row, channels) }
}

/// Takes the gradient of a product of values and step sizes to both.
#[inline(always)]
fn through_product<A: Arithmetic>(v: &[f32], delta: &[f32], of_delta: &mut [f32], of_product: &mut [f32]) {
    for (((v, delta), of_delta), of_product) in v.iter().zip(delta).zip(of_delta).zip(of_product) {
        *of_delta = A::mul_add(*v, *of_product, *of_delta);
        *of_product *= delta;
    }
}

/// `gradient *= sigmoid(x)`.
#[inline(always)]
fn through_softplus<A: Arithmetic>(x: &[f32], gradient: &mut [f32]) {
    for (gradient, x) in gradient.iter_mut().zip(x) {
        *gradient *= math::sigmoid::<A>(*x);
    }
}

/// Adds `rows` up.
#[inline(always)]
fn add_rows<A: Arithmetic>(rows: &[f32], sum: &mut [f32]) {
    for row in rows.chunks_exact(sum.len()) {
        for (sum, row) in sum.as_chunks_mut().0.iter_mut().zip(row.as_chunks().0) {
            A::store(A::add(A::load(sum), A::load(row)), sum);
        }
    }
}

/// Adds rows, which are whole lanes, to those of the tokens `index` in the map's gradient, from channel `first` on.
#[inline(always)]
fn add_to_map<A: Arithmetic>(adjoint: &Adjoint<'_, '_>, index: &[u32], first: usize, rows: &[f32]) {
    let block = adjoint.block;
    let rows = rows.chunks_exact(block.padded()).zip(index);
    for (row, &token) in rows.filter(|&(_, &token)| token != PAD) {
        let to = part(adjoint, token, first..first + block.width);
        for (to, row) in to.chunks_mut(LANES).zip(row.as_chunks().0) {
            A::store_part(A::add(A::load_part(to), A::load(row)), to);
        }
    }
}

/// Adds the gradients of D and of what it is multiplied with; the `rows` are free memory.
#[inline(always)]
fn shortcut<A: Arithmetic>(adjoint: &mut Adjoint<'_, '_>, index: &[u32], (d, x): (&[f32], Rows<'_>), rows: &mut [f32]) {
    let (core, block) = (adjoint.core, adjoint.block);
    let columns = (block.head * core.r.values + block.first, block.width);
    let dy = Rows { values: adjoint.dy, stride: core.r.channels(), first: 0 };
    gather::<A>(dy, core, block, index, columns, rows);
    for (row, &token) in rows.chunks_exact_mut(block.padded()).zip(index).filter(|&(_, &token)| token != PAD) {
        let at = (block.image * core.r.tokens + token as usize) * x.stride + x.first + columns.0;
        let x = x.values[at..][..block.width].chunks(LANES);
        let d = d[columns.0..][..block.width].chunks(LANES);
        let of_d = adjoint.parameters.d.as_chunks_mut().0;
        for (((dy, x), d), of_d) in row.as_chunks_mut().0.iter_mut().zip(x).zip(d).zip(of_d) {
            let cotangent = A::load(dy);
            A::store(A::mul_add_each(cotangent, A::load_part(x), A::load(of_d)), of_d);
            A::store(A::mul(cotangent, A::load_part(d)), dy);
        }
    }
    add_to_map::<A>(adjoint, index, x.first + columns.0, rows);
}
