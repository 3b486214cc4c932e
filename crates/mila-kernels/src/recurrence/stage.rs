//! The operands of a few steps, gathered from the map and ready for the recurrence.

use super::{
    Decay, Delta, Input, PAD, Rows,
    block::{Block, CHUNK, Core, Written},
};
use crate::{
    arithmetic::{Arithmetic, LANES},
    math,
};

/// Operands of up to [`CHUNK`] steps of a block, row-major with a row for each step. Rows are whole lanes: keys and columns
/// that are not there are zeros, but in gates.
pub(super) struct Stage<'s> {
    /// Floats of a row of keys.
    pub(super) keys: usize,
    /// Floats of a row of columns.
    pub(super) width: usize,
    /// `[steps, keys]`.
    pub(super) q: &'s mut [f32],
    /// `[steps, keys]`.
    pub(super) k: &'s mut [f32],
    /// `[steps, keys]`: gates that are one for all columns.
    pub(super) even: &'s mut [f32],
    /// What is written, `[steps, width]`.
    pub(super) u: &'s mut [f32],
    /// `[steps, width]`: gates along the columns, or the step sizes of a factored decay.
    pub(super) along: &'s mut [f32],
    /// `[steps, width]`: the input gate, where it is not that of the decay.
    pub(super) input: &'s mut [f32],
}

impl<'s> Stage<'s> {
    /// Floats of a stage.
    pub(super) fn len(keys: usize, block: Block) -> usize {
        3 * CHUNK * (keys.next_multiple_of(LANES) + block.padded())
    }

    /// A stage in this memory, whose floats are arbitrary.
    pub(super) fn new(memory: &'s mut [f32], keys: usize, block: Block) -> Self {
        let (keys, width) = (keys.next_multiple_of(LANES), block.padded());
        let (rows, columns) = memory.split_at_mut(3 * CHUNK * keys);
        let (q, rows) = rows.split_at_mut(CHUNK * keys);
        let (k, even) = rows.split_at_mut(CHUNK * keys);
        let (u, columns) = columns.split_at_mut(CHUNK * width);
        let (along, input) = columns.split_at_mut(CHUNK * width);
        Self { keys, width, q, k, even, u, along, input }
    }

    /// Gathers the steps that visit the tokens `index`, of a block of `core`.
    #[inline(always)]
    pub(super) fn gather<A: Arithmetic>(&mut self, core: &Core<'_>, block: Block, index: &[u32]) {
        self.gather_keys::<A>(core, block, index);
        self.gather_gates::<A>(core, block, index);
        let r = core.r;
        let values = (block.head * r.values + block.first, block.width);
        let u = &mut self.u[..index.len() * self.width];
        if core.written == Written::Ones {
            return u.fill(1.0);
        }
        gather::<A>(r.v, core, block, index, values, u);
        let factors = match r.input {
            Input::None => return,
            Input::OfDecay => &self.along[..u.len()],
            Input::Channel(delta) => {
                let input = &mut self.input[..u.len()];
                before_softplus::<A>(delta, core, block, index, values, input);
                softplus_each::<A>(input);
                &*input
            }
            Input::Head(delta) => {
                let input = &mut self.input[..u.len()];
                before_softplus::<A>(delta, core, block, index, (block.head, 1), input);
                for input in input.chunks_exact_mut(self.width) {
                    input.fill(math::softplus::<A>(input[0]));
                }
                &*input
            }
        };
        for (u, factor) in u.iter_mut().zip(factors) {
            *u *= factor;
        }
    }

    /// The part of [`gather`](Self::gather) that all columns of a head share.
    #[inline(always)]
    pub(super) fn gather_keys<A: Arithmetic>(&mut self, core: &Core<'_>, block: Block, index: &[u32]) {
        let (r, rows) = (core.r, index.len() * self.keys);
        let keys = (block.head * r.keys, r.keys);
        gather::<A>(r.q, core, block, index, keys, &mut self.q[..rows]);
        gather::<A>(r.k, core, block, index, keys, &mut self.k[..rows]);
        let even = &mut self.even[..rows];
        match core.decay {
            Decay::None => even.fill(1.0),
            Decay::Constant(gates) => even.fill(gates[block.head]),
            Decay::Scalar(log) => {
                gather::<A>(log, core, block, index, (block.head, 1), even);
                for even in even.chunks_exact_mut(self.keys) {
                    even.fill(math::exp::<A>(even[0]));
                }
            }
            Decay::Keys(log) => {
                gather::<A>(log, core, block, index, keys, even);
                exp_each::<A>(even);
            }
            Decay::Values(_) | Decay::Factored { .. } => {}
        }
    }

    #[inline(always)]
    fn gather_gates<A: Arithmetic>(&mut self, core: &Core<'_>, block: Block, index: &[u32]) {
        let values = (block.head * core.r.values + block.first, block.width);
        let along = &mut self.along[..index.len() * self.width];
        match core.decay {
            Decay::Values(log) => {
                gather::<A>(log, core, block, index, values, along);
                exp_each::<A>(along);
            }
            Decay::Factored { delta, .. } => {
                before_softplus::<A>(delta, core, block, index, values, along);
                softplus_each::<A>(along);
            }
            _ => {}
        }
    }
}

/// Copies channels of the tokens `index` to the rows of `to`, whose floats after the `count` channels become zero, as do those
/// of steps that visit no token.
#[inline(always)]
pub(super) fn gather<A: Arithmetic>(
    map: Rows<'_>,
    core: &Core<'_>,
    block: Block,
    index: &[u32],
    (first, count): (usize, usize),
    to: &mut [f32],
) {
    let lanes = count.div_ceil(LANES);
    let width = to.len() / index.len().max(1);
    for (&token, to) in index.iter().zip(to.chunks_exact_mut(width)) {
        let from = match token {
            PAD => &[],
            token => {
                let row = block.image * core.r.tokens + token as usize;
                &map.values[row * map.stride + map.first + first..][..count]
            }
        };
        for (lane, to) in to.as_chunks_mut().0.iter_mut().take(lanes).enumerate() {
            A::store(A::load_part(from.get(lane * LANES..).unwrap_or(&[])), to);
        }
    }
}

/// raw + bias of the channels of tokens, as [`gather`] has them; raw is zero where a step visits no token.
#[inline(always)]
pub(super) fn before_softplus<A: Arithmetic>(
    delta: Delta<'_>,
    core: &Core<'_>,
    block: Block,
    index: &[u32],
    (first, count): (usize, usize),
    to: &mut [f32],
) {
    gather::<A>(delta.raw, core, block, index, (first, count), to);
    let Some(bias) = delta.bias else { return };
    let (bias, width) = (&bias[first..][..count], to.len() / index.len().max(1));
    for (lane, bias) in bias.chunks(LANES).enumerate() {
        let bias = A::load_part(bias);
        for to in to.chunks_exact_mut(width) {
            let to = &mut to.as_chunks_mut().0[lane];
            A::store(A::add(A::load(to), bias), to);
        }
    }
}

#[inline(always)]
fn exp_each<A: Arithmetic>(x: &mut [f32]) {
    for x in x {
        *x = math::exp::<A>(*x);
    }
}

#[inline(always)]
fn softplus_each<A: Arithmetic>(x: &mut [f32]) {
    for x in x {
        *x = math::softplus::<A>(*x);
    }
}
