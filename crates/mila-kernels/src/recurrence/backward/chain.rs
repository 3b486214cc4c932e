//! From the gradients of a chunk's steps to those of the operands that they were made of.

use super::adjoint::{Adjoint, Memory};
use crate::{
    arithmetic::Arithmetic,
    math,
    recurrence::{
        Decay, Input, PAD,
        block::Written,
        stage::{before_softplus, copy},
    },
};

/// The end of a chunk's adjoint.
pub(super) struct Chain<'c, 'a, 's, 'm> {
    pub(super) adjoint: &'c mut Adjoint<'a, 's>,
    pub(super) memory: &'c mut Memory<'m>,
}

impl Chain<'_, '_, '_, '_> {
    /// Adds the gradients of the steps that visit `index` to the map and the parameters.
    #[inline(always)]
    pub(super) fn run<A: Arithmetic>(self, index: &[u32], width: usize) {
        let Chain { adjoint, memory } = self;
        let (core, block, shared) = (adjoint.core, adjoint.block, adjoint.shared);
        let r = core.r;
        let first = block.head * r.values + block.first;
        for (t, &token) in index.iter().enumerate() {
            let row = (token != PAD).then(|| block.image * r.tokens + token as usize);
            let sums = &mut memory.sums[t * shared.width()..][..shared.width()];
            let du = &mut memory.du[t * width..][..width];
            let dalong = &mut memory.dalong[t * width..][..width];
            // Before it is a gradient of anything else, the input gate's own row is the values and what gates them.
            let input = &mut memory.stage.input[t * width..][..width];
            if core.written == Written::Values {
                let v = &mut memory.stage.u[t * width..][..width];
                copy(r.v, row, first, v);
                match r.input {
                    Input::None => {}
                    Input::OfDecay => {
                        let delta = &memory.stage.along[t * width..][..width];
                        for c in 0..width {
                            dalong[c] = A::mul_add(v[c], du[c], dalong[c]);
                            du[c] *= delta[c];
                        }
                    }
                    Input::Channel(_) | Input::Head(_) => {
                        for c in 0..width {
                            let of_step = v[c] * du[c];
                            du[c] *= input[c];
                            input[c] = of_step;
                        }
                    }
                }
                match r.input {
                    Input::Head(_) => sums[shared.input()].fill(input.iter().sum()),
                    Input::Channel(delta) => {
                        let x = &mut memory.stage.u[t * width..][..width];
                        before_softplus(delta, row, first, x);
                        through_softplus::<A>(x, input);
                        add(adjoint.parameters.input_bias, input);
                        add_to_row(adjoint, row, delta.raw.first + first, input);
                    }
                    Input::None | Input::OfDecay => {}
                }
                if let (Some((d, x)), Some(row)) = (r.shortcut, row) {
                    let dy = &adjoint.dy[row * r.channels() + first..][..width];
                    let x_values = &x.values[row * x.stride + x.first + first..][..width];
                    let scaled = &mut memory.stage.u[t * width..][..width];
                    for c in 0..width {
                        adjoint.parameters.d[c] = A::mul_add(dy[c], x_values[c], adjoint.parameters.d[c]);
                        scaled[c] = dy[c] * d[first + c];
                    }
                    add_to_row(adjoint, Some(row), x.first + first, scaled);
                }
                add_to_row(adjoint, row, r.v.first + first, du);
            }
            match core.decay {
                Decay::Values(log) => add_to_row(adjoint, row, log.first + first, dalong),
                Decay::Factored { delta, .. } => {
                    let x = &mut memory.stage.along[t * width..][..width];
                    before_softplus(delta, row, first, x);
                    through_softplus::<A>(x, dalong);
                    add(adjoint.parameters.decay_bias, dalong);
                    add_to_row(adjoint, row, delta.raw.first + first, dalong);
                }
                Decay::None | Decay::Constant(_) | Decay::Scalar(_) | Decay::Keys(_) => {}
            }
            if row.is_some() {
                adjoint.partials[token as usize * shared.width()..][..shared.width()].copy_from_slice(sums);
            }
        }
    }
}

/// `gradient *= sigmoid(x)`.
#[inline(always)]
fn through_softplus<A: Arithmetic>(x: &[f32], gradient: &mut [f32]) {
    for (gradient, x) in gradient.iter_mut().zip(x) {
        *gradient *= math::sigmoid::<A>(*x);
    }
}

#[inline(always)]
fn add(to: &mut [f32], from: &[f32]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to += from;
    }
}

/// Adds to a token's row of the map's gradient, from channel `first` on.
#[inline(always)]
fn add_to_row(adjoint: &Adjoint<'_, '_>, row: Option<usize>, first: usize, gradient: &[f32]) {
    let Some(row) = row else { return };
    // SAFETY: these channels belong to this block's columns of an operand whose channels overlap with no other's, a block is
    // one thread's, and the part is dropped at once.
    add(unsafe { adjoint.map.part(row, first..first + gradient.len()) }, gradient);
}
