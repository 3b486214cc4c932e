//! From the gradients of a run's steps to those of the operands that they were made of.

use std::ops::Range;

use super::adjoint::{Adjoint, Memory};
use crate::{
    arithmetic::{Arithmetic, LANES},
    isa::Kernel,
    math,
    recurrence::{
        Decay, Delta, Input, PAD, Rows,
        block::{CHUNK, Written},
        stage::{Floats, Layout, Steps},
    },
};

/// The end of a run's adjoint: adds the gradients of the steps that visit `index` to the map and the parameters.
pub(super) struct Chain<'c, 'a, 's, 'm> {
    pub(super) adjoint: &'c mut Adjoint<'a, 's>,
    pub(super) memory: &'c mut Memory<'m>,
    pub(super) index: &'c [u32],
}

impl Kernel for Chain<'_, '_, '_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<A: Arithmetic>(mut self) {
        if self.adjoint.core.written == Written::Values {
            self.values::<A>();
        }
        let first = self.steps().columns().0;
        match self.adjoint.core.decay {
            Decay::Values(log) => self.add_to_map::<A>(log.first + first, self.memory.dalong),
            Decay::Factored { delta, .. } => {
                through_softplus::<A>(self.steps(), delta, self.memory.stage.along, self.memory.dalong);
                add_up::<A>(self.memory.dalong, self.index.len(), self.adjoint.parameters.decay_bias);
                self.add_to_map::<A>(delta.raw.first + first, self.memory.dalong);
            }
            Decay::None | Decay::Constant(_) | Decay::Scalar(_) | Decay::Keys(_) => {}
        }
        if self.adjoint.shared.are_whole() {
            self.keys_to_map::<A>();
        }
        let (parts, end) = (self.adjoint.shared.parts(), self.adjoint.shared.input().end);
        // A normaliser's part was written on the way forth.
        let sums = &self.memory.sums.as_flattened()[parts.start * CHUNK..end * CHUNK];
        for (t, &token) in self.index.iter().enumerate().filter(|&(_, &token)| token != PAD) {
            let partials = &mut self.adjoint.partials[token as usize * parts.len()..];
            for (partial, sums) in partials.iter_mut().zip(sums.chunks_exact(CHUNK)) {
                *partial = sums[t];
            }
        }
    }
}

impl<'c, 'a> Chain<'c, 'a, '_, '_> {
    #[inline(always)]
    fn steps(&self) -> Steps<'c> {
        Steps { core: self.adjoint.core, block: self.adjoint.block, index: self.index }
    }

    /// What comes from values: those, their input gate, and the shortcut.
    #[inline(always)]
    fn values<A: Arithmetic>(&mut self) {
        let (r, of, count) = (self.adjoint.core.r, self.steps(), self.index.len());
        let (columns, shared) = (of.columns(), self.adjoint.shared);
        let Memory { stage, du, dalong, sums, .. } = &mut *self.memory;
        // Before it is a gradient of anything else, the memory of what was written holds the values.
        of.gather::<A>(r.v, columns, Layout::Columns, stage.u);
        for lane in 0..self.adjoint.block.lanes() {
            for at in lane * CHUNK..lane * CHUNK + count {
                let (v, of_product) = (A::load(&stage.u[at]), A::load(&du[at]));
                match r.input {
                    Input::None => {}
                    Input::OfDecay => {
                        A::store(A::mul_add_each(v, of_product, A::load(&dalong[at])), &mut dalong[at]);
                        A::store(A::mul(of_product, A::load(&stage.along[at])), &mut du[at]);
                    }
                    Input::Channel(_) | Input::Head(_) => {
                        A::store(A::mul(of_product, A::load(&stage.input[at])), &mut du[at]);
                        A::store(A::mul(v, of_product), &mut stage.input[at]);
                    }
                }
            }
        }
        match r.input {
            Input::Head(_) => {
                let sums = &mut sums.as_flattened_mut()[shared.input().start * CHUNK..];
                for (t, sum) in sums[..count].iter_mut().enumerate() {
                    let mut lanes = A::splat(0.0);
                    for input in stage.input[t..].iter().step_by(CHUNK) {
                        lanes = A::add(lanes, A::load(input));
                    }
                    *sum = A::sum(lanes);
                }
            }
            Input::Channel(delta) => {
                through_softplus::<A>(of, delta, stage.u, stage.input);
                add_up::<A>(stage.input, count, self.adjoint.parameters.input_bias);
                self.add_to_map::<A>(delta.raw.first + columns.0, self.memory.stage.input);
            }
            Input::None | Input::OfDecay => {}
        }
        if let Some((d, x)) = r.shortcut {
            self.shortcut::<A>(d, x);
        }
        self.add_to_map::<A>(r.v.first + columns.0, self.memory.du);
    }

    /// Adds the gradients of D and of what it is multiplied with.
    #[inline(always)]
    fn shortcut<A: Arithmetic>(&mut self, d: &[f32], x: Rows<'_>) {
        let (core, columns) = (self.adjoint.core, self.steps().columns());
        let dy = Rows { values: self.adjoint.dy, stride: core.r.channels(), first: 0 };
        for &token in self.index.iter().filter(|&&token| token != PAD) {
            let row = self.adjoint.block.image * core.r.tokens + token as usize;
            // SAFETY: the block's columns of the shortcut; the part is dropped before the next.
            let to = unsafe { self.part(token, x.first + columns.0..x.first + columns.0 + columns.1) };
            let to = to.chunks_mut(LANES);
            let of_d = self.adjoint.parameters.d.iter_mut();
            let rows = row_of(dy, row, columns).chunks(LANES).zip(row_of(x, row, columns).chunks(LANES));
            for ((((dy, x), d), to), of_d) in rows.zip(d[columns.0..].chunks(LANES)).zip(to).zip(of_d) {
                let cotangent = A::load_part(dy);
                A::store(A::mul_add_each(cotangent, A::load_part(x), A::load(of_d)), of_d);
                A::store_part(A::mul_add_each(cotangent, A::load_part(d), A::load_part(to)), to);
            }
        }
    }

    /// Adds the gradients of a head's keys to the map.
    #[inline(always)]
    fn keys_to_map<A: Arithmetic>(&self) {
        let (r, head, shared) = (self.adjoint.core.r, self.adjoint.block.head, self.adjoint.shared);
        let keys = |map: Rows<'_>| map.first + head * r.keys..map.first + (head + 1) * r.keys;
        let sums = self.memory.sums.as_flattened();
        self.sums_to_map::<A>(&sums[shared.q().start * CHUNK..], keys(r.q));
        self.sums_to_map::<A>(&sums[shared.k().start * CHUNK..], keys(r.k));
        let of_gates = &sums[shared.gate().start * CHUNK..];
        match self.adjoint.core.decay {
            Decay::Keys(log) => self.sums_to_map::<A>(of_gates, keys(log)),
            Decay::Scalar(log) => {
                for (t, &token) in self.index.iter().enumerate().filter(|&(_, &token)| token != PAD) {
                    let sum = of_gates.chunks_exact(CHUNK).take(r.keys).map(|sums| sums[t]).sum::<f32>();
                    // SAFETY: the block is all of its head; the part is dropped at once.
                    let to = unsafe { self.part(token, log.first + head..log.first + head + 1) };
                    to[0] += sum;
                }
            }
            _ => {}
        }
    }

    /// Adds sums, `[channels, CHUNK]`, to channels of the map's gradient.
    #[inline(always)]
    fn sums_to_map<A: Arithmetic>(&self, sums: &[f32], channels: Range<usize>) {
        let sums = sums.as_chunks().0;
        for (lane, first) in channels.clone().step_by(LANES).enumerate() {
            let channels = first..channels.end.min(first + LANES);
            for (i, index) in self.index.chunks(LANES).enumerate() {
                let mut square = [A::splat(0.0); LANES];
                for (n, row) in square.iter_mut().enumerate() {
                    *row = A::load(&sums[(lane * LANES + n) * (CHUNK / LANES) + i]);
                }
                let mut rows = [[0.0; LANES]; LANES];
                for (row, register) in rows.iter_mut().zip(A::transpose(square)) {
                    A::store(register, row);
                }
                for (row, &token) in rows.iter().zip(index).filter(|&(_, &token)| token != PAD) {
                    // SAFETY: the block is all of the head whose keys these are; the part is dropped before the next.
                    let to = unsafe { self.part(token, channels.clone()) };
                    A::store_part(A::add(A::load_part(to), A::load(row)), to);
                }
            }
        }
    }

    /// Adds columns, `[lanes, CHUNK]`, to channels from `first` on of the map's gradient.
    #[inline(always)]
    fn add_to_map<A: Arithmetic>(&self, first: usize, columns: &[Floats]) {
        for (t, &token) in self.index.iter().enumerate().filter(|&(_, &token)| token != PAD) {
            // SAFETY: the block's columns of an operand; the part is dropped before the next.
            let to = unsafe { self.part(token, first..first + self.adjoint.block.width) };
            for (to, column) in to.chunks_mut(LANES).zip(columns[t..].iter().step_by(CHUNK)) {
                A::store_part(A::add(A::load_part(to), A::load(column)), to);
            }
        }
    }

    /// Some channels of a token in the map's gradient.
    ///
    /// # Safety
    /// They are those of this block's columns, or of the keys of its head if it is all of it, and no other part with one of them
    /// lives meanwhile.
    #[inline(always)]
    unsafe fn part(&self, token: u32, channels: Range<usize>) -> &'a mut [f32] {
        let row = self.adjoint.block.image * self.adjoint.core.r.tokens + token as usize;
        // SAFETY: operands have no channel in common, a block is one thread's, and the caller vouches for the rest.
        unsafe { self.adjoint.map.part(row, channels) }
    }
}

/// Some channels of a row.
#[inline(always)]
fn row_of(map: Rows<'_>, row: usize, (first, count): (usize, usize)) -> &[f32] {
    &map.values[row * map.stride + map.first + first..][..count]
}

/// `gradient *= sigmoid(raw + bias)`; `memory` is free.
#[inline(always)]
fn through_softplus<A: Arithmetic>(of: Steps<'_>, delta: Delta<'_>, memory: &mut [Floats], gradient: &mut [Floats]) {
    of.before_softplus::<A>(delta, of.columns(), memory);
    for (gradient, x) in gradient.chunks_exact_mut(CHUNK).zip(memory.chunks_exact(CHUNK)) {
        let x = x[..of.index.len()].as_flattened();
        for (gradient, x) in gradient.as_flattened_mut().iter_mut().zip(x) {
            *gradient *= math::sigmoid::<A>(*x);
        }
    }
}

/// Adds the columns of `steps` steps, `[lanes, CHUNK]`, up.
#[inline(always)]
fn add_up<A: Arithmetic>(columns: &[Floats], steps: usize, sums: &mut [Floats]) {
    for (columns, sum) in columns.chunks_exact(CHUNK).zip(sums) {
        let mut total = A::load(sum);
        for column in &columns[..steps] {
            total = A::add(total, A::load(column));
        }
        A::store(total, sum);
    }
}
