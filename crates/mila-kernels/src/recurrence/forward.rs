//! The forward pass.

use super::{
    PAD, Recurrence, Walk, all_tokens,
    block::{Block, Core},
    normaliser::Normalisers,
    stage::{CHUNK, Stage},
    update,
};
use crate::{
    arithmetic::Arithmetic,
    columns::Columns,
    isa::{Isa, Kernel},
    scratch, threads,
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
        clear(core, block, y);
        for (core, normalisers, states) in &passes {
            Pass { isa, core, normalisers: Some(normalisers), block, y, states: *states }.run();
        }
    });
}

/// Zeros for the tokens of a block.
pub(super) fn clear(core: &Core<'_>, block: Block, y: Columns<'_>) {
    for token in 0..core.r.tokens {
        core.output_part(block, block.image * core.r.tokens + token, y).fill(0.0);
    }
}

/// A block's way through its tokens; the outputs are added to `y`.
#[derive(Clone, Copy)]
pub(super) struct Pass<'a> {
    pub(super) isa: Isa,
    pub(super) core: &'a Core<'a>,
    /// What outputs are divided by, before the shortcut is added; neither happens without.
    pub(super) normalisers: Option<&'a Normalisers>,
    pub(super) block: Block,
    pub(super) y: Columns<'a>,
    pub(super) states: Option<Columns<'a>>,
}

impl Pass<'_> {
    pub(super) fn run(self) {
        if let Walk::All { share } = self.core.r.walk {
            return all_tokens::pass(self, share);
        }
        let (keys, width) = (self.core.r.keys, self.block.width);
        let stage = Stage::len(keys, width);
        scratch::floats(stage + keys * width + CHUNK * width, |memory| {
            let (stage, rest) = memory.split_at_mut(stage);
            let (s, o) = rest.split_at_mut(keys * width);
            self.isa.run(Steps { pass: self, stage: Stage::new(stage, keys, width), s, o });
        });
    }

    /// Adds what was read for some tokens, `[tokens, width]`, to the output: divided, and with the shortcut.
    #[inline(always)]
    pub(super) fn finish<A: Arithmetic>(&self, index: &[u32], o: &mut [f32]) {
        let Pass { core, block, .. } = *self;
        let first = block.head * core.values() + block.first;
        for (o, &token) in o.chunks_exact_mut(block.width).zip(index).filter(|&(_, &token)| token != PAD) {
            let row = block.image * core.r.tokens + token as usize;
            let y = core.output_part(block, row, self.y);
            let shortcut = match self.normalisers {
                Some(normalisers) => {
                    normalisers.divide(row, block, o);
                    core.r.shortcut
                }
                None => None,
            };
            match shortcut {
                Some((d, x)) => {
                    let x = &x.values[row * x.stride + x.first + first..][..o.len()];
                    for (((y, o), x), d) in y.iter_mut().zip(&*o).zip(x).zip(&d[first..]) {
                        *y += A::mul_add(*x, *d, *o);
                    }
                }
                None => {
                    for (y, o) in y.iter_mut().zip(&*o) {
                        *y += o;
                    }
                }
            }
        }
    }
}

/// A [`Pass`] step by step.
struct Steps<'a, 's> {
    pass: Pass<'a>,
    stage: Stage<'s>,
    /// `[keys, width]`
    s: &'s mut [f32],
    /// `[steps, width]`
    o: &'s mut [f32],
}

impl Kernel for Steps<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        let Steps { pass, mut stage, s, o } = self;
        let Pass { core, block, states, .. } = pass;
        let Walk::Steps { index, mut starts, until } = core.r.walk else { return };
        core.start(block, s);
        if let (0, Some(states)) = (until, states) {
            core.keep(block, s, states);
        }
        for (chunk, index) in index.chunks(CHUNK).enumerate() {
            stage.gather::<A>(core, block, index);
            for t in 0..index.len() {
                let step = chunk * CHUNK + t;
                if let [next, later @ ..] = starts
                    && *next as usize == step
                {
                    core.start(block, s);
                    starts = later;
                }
                update::advance::<A>(core, block, &stage, t, s, &mut o[t * block.width..][..block.width]);
                if let Some(states) = states
                    && step + 1 == until
                {
                    core.keep(block, s, states);
                }
            }
            pass.finish::<A>(index, o);
        }
    }
}
