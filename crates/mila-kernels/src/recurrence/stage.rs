//! The operands of a few steps, gathered from the map and ready for the recurrence.

use super::{
    Decay, Delta, Input, PAD, Rows,
    block::{Block, CHUNK, Core, Written},
};
use crate::{
    arithmetic::{Arithmetic, LANES},
    isa::{Isa, Kernel},
    math,
};

/// Sixteen floats.
pub(super) type Floats = [f32; LANES];

/// Operands of up to [`CHUNK`] steps of a block. Keys and columns that are not there are zeros, but in gates.
///
/// Columns are `[lanes, CHUNK]`, so that the steps of a lane follow one another; keys are `[CHUNK, lanes]`.
pub(super) struct Stage<'s> {
    /// Lanes of keys.
    pub(super) keys: usize,
    pub(super) q: &'s mut [Floats],
    pub(super) k: &'s mut [Floats],
    /// Gates that are one for all columns.
    pub(super) even: &'s mut [Floats],
    /// What is written.
    pub(super) u: &'s mut [Floats],
    /// Gates along the columns, or the step sizes of a factored decay.
    pub(super) along: &'s mut [Floats],
    /// The input gate, where it is not that of the decay.
    pub(super) input: &'s mut [Floats],
}

impl<'s> Stage<'s> {
    /// Lanes of a stage.
    pub(super) fn len(keys: usize, block: Block) -> usize {
        3 * CHUNK * (keys.div_ceil(LANES) + block.lanes())
    }

    /// A stage in this memory, whose floats are arbitrary.
    pub(super) fn new(memory: &'s mut [Floats], keys: usize, block: Block) -> Self {
        let keys = keys.div_ceil(LANES);
        let (rows, columns) = memory.split_at_mut(3 * CHUNK * keys);
        let (q, rows) = rows.split_at_mut(CHUNK * keys);
        let (k, even) = rows.split_at_mut(CHUNK * keys);
        let (u, columns) = columns.split_at_mut(CHUNK * block.lanes());
        let (along, input) = columns.split_at_mut(CHUNK * block.lanes());
        Self { keys, q, k, even, u, along, input }
    }

    /// Gathers the steps that visit the tokens `index`, of a block of `core`.
    pub(super) fn gather(&mut self, isa: Isa, core: &Core<'_>, block: Block, index: &[u32]) {
        isa.run(Gather { stage: self, core, block, index, what: What::All });
    }

    /// The part of [`gather`](Self::gather) that all columns of a head share.
    pub(super) fn gather_keys(&mut self, isa: Isa, core: &Core<'_>, block: Block, index: &[u32]) {
        isa.run(Gather { stage: self, core, block, index, what: What::Keys });
    }
}

enum What {
    All,
    Keys,
}

struct Gather<'g, 's> {
    stage: &'g mut Stage<'s>,
    core: &'g Core<'g>,
    block: Block,
    index: &'g [u32],
    what: What,
}

impl Kernel for Gather<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<A: Arithmetic>(mut self) {
        self.keys::<A>();
        if let What::All = self.what {
            self.gates::<A>();
            self.written::<A>();
        }
    }
}

impl Gather<'_, '_> {
    #[inline(always)]
    fn keys<A: Arithmetic>(&mut self) {
        let Self { stage, core, block, .. } = self;
        let (r, steps) = (core.r, self.index.len());
        let of = Steps { core, block: *block, index: self.index };
        let rows = Layout::Steps { lanes: stage.keys };
        let keys = (block.head * r.keys, r.keys);
        of.gather::<A>(r.q, keys, rows, stage.q);
        of.gather::<A>(r.k, keys, rows, stage.k);
        let even = &mut stage.even[..steps * stage.keys];
        match core.decay {
            Decay::None => even.fill([1.0; LANES]),
            Decay::Constant(gates) => even.fill([gates[block.head]; LANES]),
            Decay::Scalar(log) => {
                of.gather::<A>(log, (block.head, 1), rows, even);
                for even in even.chunks_exact_mut(stage.keys) {
                    even.fill([math::exp::<A>(even[0][0]); LANES]);
                }
            }
            Decay::Keys(log) => {
                of.gather::<A>(log, keys, rows, even);
                exp_each::<A>(even.as_flattened_mut());
            }
            Decay::Values(_) | Decay::Factored { .. } => {}
        }
    }

    #[inline(always)]
    fn gates<A: Arithmetic>(&mut self) {
        let of = Steps { core: self.core, block: self.block, index: self.index };
        let along = &mut *self.stage.along;
        match self.core.decay {
            Decay::Values(log) => {
                of.gather::<A>(log, of.columns(), Layout::Columns, along);
                for along in along.chunks_exact_mut(CHUNK) {
                    exp_each::<A>(along[..self.index.len()].as_flattened_mut());
                }
            }
            Decay::Factored { delta, .. } => of.step_sizes::<A>(delta, along),
            _ => {}
        }
    }

    #[inline(always)]
    fn written<A: Arithmetic>(&mut self) {
        let of = Steps { core: self.core, block: self.block, index: self.index };
        let stage = &mut *self.stage;
        if self.core.written == Written::Ones {
            return stage.u.fill([1.0; LANES]);
        }
        of.gather::<A>(self.core.r.v, of.columns(), Layout::Columns, stage.u);
        let factors = match self.core.r.input {
            Input::None => return,
            Input::OfDecay => &*stage.along,
            Input::Channel(delta) => {
                of.step_sizes::<A>(delta, stage.input);
                &*stage.input
            }
            Input::Head(delta) => {
                of.before_softplus::<A>(delta, (self.block.head, 1), stage.input);
                for t in 0..self.index.len() {
                    let size = math::softplus::<A>(stage.input[t][0]);
                    for input in stage.input[t..].iter_mut().step_by(CHUNK) {
                        *input = [size; LANES];
                    }
                }
                &*stage.input
            }
        };
        for (u, factors) in stage.u.chunks_exact_mut(CHUNK).zip(factors.chunks_exact(CHUNK)) {
            for (u, factor) in u[..self.index.len()].iter_mut().zip(factors) {
                A::store(A::mul(A::load(u), A::load(factor)), u);
            }
        }
    }
}

/// Where lanes of the channels of some steps stand.
#[derive(Clone, Copy)]
pub(super) enum Layout {
    /// `[steps, lanes]`
    Steps { lanes: usize },
    /// `[lanes, CHUNK]`
    Columns,
}

/// Steps of a block that visit the tokens `index`.
#[derive(Clone, Copy)]
pub(super) struct Steps<'a> {
    pub(super) core: &'a Core<'a>,
    pub(super) block: Block,
    pub(super) index: &'a [u32],
}

impl Steps<'_> {
    /// The first of the block's columns among all channels, and how many.
    #[inline(always)]
    pub(super) fn columns(self) -> (usize, usize) {
        (self.block.head * self.core.r.values + self.block.first, self.block.width)
    }

    /// Copies channels of the tokens to lanes of `to`, whose floats after the `count` channels become zero, as do those of steps
    /// that visit no token.
    #[inline(always)]
    pub(super) fn gather<A: Arithmetic>(
        self,
        map: Rows<'_>,
        (first, count): (usize, usize),
        layout: Layout,
        to: &mut [Floats],
    ) {
        let (step, lane) = match layout {
            Layout::Steps { lanes } => (lanes, 1),
            Layout::Columns => (1, CHUNK),
        };
        for (t, &token) in self.index.iter().enumerate() {
            let from = match token {
                PAD => &[],
                token => {
                    let row = self.block.image * self.core.r.tokens + token as usize;
                    &map.values[row * map.stride + map.first + first..][..count]
                }
            };
            let (whole, rest) = from.as_chunks();
            let mut at = t * step;
            for from in whole {
                A::store(A::load(from), &mut to[at]);
                at += lane;
            }
            if !rest.is_empty() {
                A::store(A::load_part(rest), &mut to[at]);
            }
            if from.is_empty() {
                for to in to[at..].iter_mut().step_by(lane).take(count.div_ceil(LANES)) {
                    *to = [0.0; LANES];
                }
            }
        }
    }

    /// raw + bias of channels, as [`gather`](Self::gather) has columns; raw is zero where a step visits no token.
    #[inline(always)]
    pub(super) fn before_softplus<A: Arithmetic>(
        self,
        delta: Delta<'_>,
        (first, count): (usize, usize),
        to: &mut [Floats],
    ) {
        self.gather::<A>(delta.raw, (first, count), Layout::Columns, to);
        let Some(bias) = delta.bias else { return };
        for (bias, to) in bias[first..][..count].chunks(LANES).zip(to.chunks_exact_mut(CHUNK)) {
            let bias = A::load_part(bias);
            for to in &mut to[..self.index.len()] {
                A::store(A::add(A::load(to), bias), to);
            }
        }
    }

    #[inline(always)]
    fn step_sizes<A: Arithmetic>(self, delta: Delta<'_>, to: &mut [Floats]) {
        self.before_softplus::<A>(delta, self.columns(), to);
        for to in to.chunks_exact_mut(CHUNK) {
            for x in to[..self.index.len()].as_flattened_mut() {
                *x = math::softplus::<A>(*x);
            }
        }
    }
}

#[inline(always)]
fn exp_each<A: Arithmetic>(x: &mut [f32]) {
    for x in x {
        *x = math::exp::<A>(*x);
    }
}
