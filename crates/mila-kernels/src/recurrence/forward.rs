//! The forward pass.

use super::{
    PAD, Recurrence, Walk, all_tokens,
    block::{Before, Block, CHUNK, Core},
    normaliser::Normalisers,
    stage::Stage,
    update::{Gathered, advance, at},
};
use crate::{
    arithmetic::{Arithmetic, LANES},
    columns::Columns,
    isa::{Isa, Kernel},
    lane, scratch, threads,
};

/// Writes the sum of the outputs of `all`, which have the same batch, tokens, heads and values, to `y`,
/// `[batch, tokens, heads * values]`, and the states of the last to `states`, if they are wanted.
///
/// Tokens that no walk visits get zero.
///
/// # Panics
/// If a length does not fit, a token is visited twice, or an operand is missing.
pub fn forward(isa: Isa, all: &[Recurrence<'_>], y: &mut [f32], states: Option<&mut [f32]>) {
    let Some(last) = all.last() else { return y.fill(0.0) };
    for r in all {
        r.check();
        let shape = |r: &Recurrence<'_>| [r.batch, r.tokens, r.heads, r.values];
        assert_eq!(shape(r), shape(last), "recurrence: batch, tokens, heads and values of all");
    }
    assert_eq!(y.len(), last.rows() * last.channels(), "recurrence: length of y");
    let states = states.map(|states| {
        assert_eq!(states.len(), last.state_len(), "recurrence: length of the states");
        Columns::new(states, last.values + last.sums())
    });
    let passes = all.iter().enumerate().map(|(i, r)| {
        let states = states.filter(|_| i + 1 == all.len());
        (Core::of_values(isa, r), Normalisers::new(isa, r, states), states)
    });
    let passes: Vec<_> = passes.collect();
    let Some((core, ..)) = passes.last() else { return };
    let y = Columns::new(y, core.channels());
    threads::each(core.blocks(), |_, block| {
        for (turn, (core, normalisers, states)) in passes.iter().enumerate() {
            let outputs = if turn == 0 { Outputs::first(core, block, y) } else { Outputs::Added };
            Pass { isa, core, normalisers: Some(normalisers), block, y, outputs, states: *states }.run();
        }
    });
}

/// What becomes of the outputs of a pass.
#[derive(Clone, Copy)]
pub(super) enum Outputs {
    /// They are written.
    Written,
    /// They are added to what is there.
    Added,
}

impl Outputs {
    /// Those of the first pass over a block; they leave nothing of what `y` held.
    pub(super) fn first(core: &Core<'_>, block: Block, y: Columns<'_>) -> Self {
        match core.r.walk {
            Walk::Steps { index, .. } if index.iter().filter(|&&token| token != PAD).count() < core.r.tokens => {
                clear(core, block, y);
                Self::Added
            }
            _ => Self::Written,
        }
    }
}

/// Zeros for the tokens of a block.
fn clear(core: &Core<'_>, block: Block, y: Columns<'_>) {
    for token in 0..core.r.tokens {
        core.output_part(block, block.image * core.r.tokens + token, y).fill(0.0);
    }
}

/// A block's way through its tokens.
#[derive(Clone, Copy)]
pub(super) struct Pass<'a> {
    pub(super) isa: Isa,
    pub(super) core: &'a Core<'a>,
    /// What outputs are divided by, before the shortcut is added; neither happens without.
    pub(super) normalisers: Option<&'a Normalisers>,
    pub(super) block: Block,
    pub(super) y: Columns<'a>,
    pub(super) outputs: Outputs,
    pub(super) states: Option<Columns<'a>>,
}

impl Pass<'_> {
    pub(super) fn run(self) {
        if let Walk::All { share } = self.core.r.walk {
            return all_tokens::pass(self, share);
        }
        let (keys, width) = (self.core.r.keys, self.block.padded());
        let stage = Stage::len(keys, self.block);
        scratch::lanes((stage + keys * width + CHUNK * width) / LANES, |memory| {
            let (stage, rest) = lane::floats_mut(memory).split_at_mut(stage);
            let (s, o) = rest.split_at_mut(keys * width);
            self.isa.run(Steps { pass: self, stage: Stage::new(stage, keys, self.block), s, o });
        });
    }

    /// Takes what was read for some tokens, `[tokens, padded]`, to the output: divided, and with the shortcut.
    #[inline(always)]
    pub(super) fn finish<A: Arithmetic>(&self, index: &[u32], o: &[f32]) {
        let Pass { core, block, .. } = *self;
        let first = block.head * core.values() + block.first;
        let rows = o.chunks_exact(block.padded()).zip(index);
        for (o, &token) in rows.filter(|&(_, &token)| token != PAD) {
            let row = block.image * core.r.tokens + token as usize;
            let y = core.output_part(block, row, self.y);
            let (inverse, shortcut) = match self.normalisers {
                Some(normalisers) => (normalisers.inverse(row, block), core.r.shortcut),
                None => (&[][..], None),
            };
            for (lane, y) in y.chunks_mut(LANES).enumerate() {
                let column = lane * LANES;
                let mut value = A::load(at(o, column));
                match inverse {
                    [] => {}
                    [one] => value = A::mul(value, A::splat(*one)),
                    each => value = A::mul(value, A::load_part(&each[column..])),
                }
                if let Some((d, x)) = shortcut {
                    let x = &x.values[row * x.stride + x.first + first..][column..][..y.len()];
                    let d = A::load_part(&d[first + column..][..y.len()]);
                    value = A::mul_add_each(A::load_part(x), d, value);
                }
                if let Outputs::Added = self.outputs {
                    value = A::add(value, A::load_part(y));
                }
                A::store_part(value, y);
            }
        }
    }
}

/// A [`Pass`] step by step.
struct Steps<'a, 's> {
    pass: Pass<'a>,
    stage: Stage<'s>,
    /// `[keys, padded]`
    s: &'s mut [f32],
    /// `[steps, padded]`
    o: &'s mut [f32],
}

impl Kernel for Steps<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        let Steps { pass, mut stage, s, o } = self;
        let Pass { core, block, states, .. } = pass;
        let Walk::Steps { index, until, .. } = core.r.walk else { return };
        core.start(block, s);
        if let (0, Some(states)) = (until, states) {
            core.keep(block, s, states);
        }
        for run in &core.runs {
            if run.state == Before::Start {
                core.start(block, s);
            }
            let index = &index[run.steps.clone()];
            stage.gather::<A>(core, block, index);
            advance::<A>(Gathered { core, block, stage: &stage, steps: index.len() }, s, o);
            if let Some(states) = states
                && run.steps.end == until
            {
                core.keep(block, s, states);
            }
            pass.finish::<A>(index, o);
        }
    }
}
