//! The operands of a few steps, gathered from the map and ready for the recurrence.

use super::{
    Decay, Delta, Input, PAD, Rows,
    block::{Block, Core, Written},
};
use crate::{arithmetic::Arithmetic, math};

/// Steps that are gathered at a time.
pub(super) const CHUNK: usize = 32;

/// Operands of up to [`CHUNK`] steps of a block, row-major with a row for each step.
pub(super) struct Stage<'s> {
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
    pub(super) fn len(keys: usize, width: usize) -> usize {
        3 * CHUNK * (keys + width)
    }

    /// A stage in this memory, whose floats are arbitrary.
    pub(super) fn new(memory: &'s mut [f32], keys: usize, width: usize) -> Self {
        let (rows, columns) = memory.split_at_mut(3 * CHUNK * keys);
        let (q, rows) = rows.split_at_mut(CHUNK * keys);
        let (k, even) = rows.split_at_mut(CHUNK * keys);
        let (u, columns) = columns.split_at_mut(CHUNK * width);
        let (along, input) = columns.split_at_mut(CHUNK * width);
        Self { q, k, even, u, along, input }
    }

    /// Gathers the steps that visit the tokens `index`, of a block of `core`.
    #[inline(always)]
    pub(super) fn gather<A: Arithmetic>(&mut self, core: &Core<'_>, block: Block, index: &[u32]) {
        let r = core.r;
        let (keys, width) = (r.keys, block.width);
        let (first_key, first_value) = (block.head * keys, block.head * r.values + block.first);
        for (t, &token) in index.iter().enumerate() {
            let row = (token != PAD).then(|| block.image * r.tokens + token as usize);
            copy(r.q, row, first_key, &mut self.q[t * keys..][..keys]);
            copy(r.k, row, first_key, &mut self.k[t * keys..][..keys]);
            let even = &mut self.even[t * keys..][..keys];
            let along = &mut self.along[t * width..][..width];
            match core.decay {
                Decay::None => even.fill(1.0),
                Decay::Constant(gates) => even.fill(gates[block.head]),
                Decay::Scalar(log) => {
                    copy(log, row, block.head, &mut even[..1]);
                    even.fill(math::exp::<A>(even[0]));
                }
                Decay::Keys(log) => {
                    copy(log, row, first_key, even);
                    exp_each::<A>(even);
                }
                Decay::Values(log) => {
                    copy(log, row, first_value, along);
                    exp_each::<A>(along);
                }
                Decay::Factored { delta, .. } => step_sizes::<A>(delta, row, first_value, along),
            }
            let u = &mut self.u[t * width..][..width];
            if core.written == Written::Ones {
                u.fill(1.0);
                continue;
            }
            let input = &mut self.input[t * width..][..width];
            match r.input {
                Input::None => copy(r.v, row, first_value, u),
                Input::OfDecay => copy_times(r.v, row, first_value, along, u),
                Input::Channel(delta) => {
                    step_sizes::<A>(delta, row, first_value, input);
                    copy_times(r.v, row, first_value, input, u);
                }
                Input::Head(delta) => {
                    step_sizes::<A>(delta, row, block.head, &mut input[..1]);
                    input.fill(input[0]);
                    copy_times(r.v, row, first_value, input, u);
                }
            }
        }
    }
}

/// Some channels of a row of `map`; none where there is no row.
#[inline(always)]
fn channels(map: Rows<'_>, row: Option<usize>, first: usize, count: usize) -> Option<&[f32]> {
    row.map(|row| &map.values[row * map.stride + map.first + first..][..count])
}

/// Copies some channels of a row of `map`, zeros where there is no row.
#[inline(always)]
pub(super) fn copy(map: Rows<'_>, row: Option<usize>, first: usize, to: &mut [f32]) {
    match channels(map, row, first, to.len()) {
        // A loop, because a copy of a few floats is not worth a call.
        Some(from) => {
            for (to, from) in to.iter_mut().zip(from) {
                *to = *from;
            }
        }
        None => to.fill(0.0),
    }
}

/// The same, times `factors`.
#[inline(always)]
fn copy_times(map: Rows<'_>, row: Option<usize>, first: usize, factors: &[f32], to: &mut [f32]) {
    match channels(map, row, first, to.len()) {
        Some(from) => {
            for ((to, from), factor) in to.iter_mut().zip(from).zip(factors) {
                *to = from * factor;
            }
        }
        None => to.fill(0.0),
    }
}

/// softplus(raw + bias) of some channels of a row; raw is zero where there is no row.
#[inline(always)]
fn step_sizes<A: Arithmetic>(delta: Delta<'_>, row: Option<usize>, first: usize, to: &mut [f32]) {
    match (channels(delta.raw, row, first, to.len()), delta.bias) {
        (Some(raw), Some(bias)) => {
            for ((to, raw), bias) in to.iter_mut().zip(raw).zip(&bias[first..]) {
                *to = math::softplus::<A>(raw + bias);
            }
        }
        (Some(raw), None) => {
            for (to, raw) in to.iter_mut().zip(raw) {
                *to = math::softplus::<A>(*raw);
            }
        }
        (None, _) => {
            before_softplus(delta, row, first, to);
            for x in to {
                *x = math::softplus::<A>(*x);
            }
        }
    }
}

/// raw + bias of some channels of a row; raw is zero where there is no row.
#[inline(always)]
pub(super) fn before_softplus(delta: Delta<'_>, row: Option<usize>, first: usize, to: &mut [f32]) {
    copy(delta.raw, row, first, to);
    if let Some(bias) = delta.bias {
        for (x, bias) in to.iter_mut().zip(&bias[first..]) {
            *x += bias;
        }
    }
}

#[inline(always)]
fn exp_each<A: Arithmetic>(x: &mut [f32]) {
    for x in x {
        *x = math::exp::<A>(*x);
    }
}
