//! The forward pass.

use super::{
    PAD, Recurrence, Walk, all_tokens,
    block::{Before, Block, CHUNK, Core},
    normaliser::Normalisers,
    stage::{Floats, Stage},
    update::{GATES, advance},
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
        // SAFETY: the block's columns are one thread's, and the part is dropped at once.
        unsafe { core.output_part(block, block.image * core.r.tokens + token, y) }.fill(0.0);
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
        let Pass { isa, core, block, states, .. } = self;
        let Walk::Steps { index, until, .. } = core.r.walk else { return };
        memory(core.r.keys, block, |mut stage, s, o, gates| {
            core.start(block, s);
            if let (0, Some(states)) = (until, states) {
                core.keep(block, s, states);
            }
            for run in &core.runs {
                if run.state == Before::Start {
                    core.start(block, s);
                }
                let index = &index[run.steps.clone()];
                stage.gather(isa, core, block, index);
                advance(isa, (core, block), &stage, index.len(), s, o, gates);
                if let Some(states) = states
                    && run.steps.end == until
                {
                    core.keep(block, s, states);
                }
                self.finish(index, o);
            }
        });
    }

    /// Takes what was read for some tokens, `[lanes, CHUNK]`, to the output: divided, and with the shortcut.
    pub(super) fn finish(&self, index: &[u32], o: &[Floats]) {
        self.isa.run(Finish { pass: self, index, o });
    }
}

/// Calls `body` with a stage, a state, `[lanes, keys]`, what is read, `[lanes, CHUNK]`, and [`GATES`] lanes for gates, whose
/// floats are arbitrary.
pub(super) fn memory(
    keys: usize,
    block: Block,
    body: impl FnOnce(Stage<'_>, &mut [Floats], &mut [Floats], &mut [Floats]),
) {
    let (stage, state) = (Stage::len(keys, block), keys * block.lanes());
    scratch::lanes(stage + state + CHUNK * block.lanes() + GATES, |memory| {
        let (stage, rest) = lane::floats_mut(memory).as_chunks_mut().0.split_at_mut(stage);
        let (s, rest) = rest.split_at_mut(state);
        let (o, gates) = rest.split_at_mut(CHUNK * block.lanes());
        body(Stage::new(stage, keys, block), s, o, gates);
    });
}

/// See [`Pass::finish`].
struct Finish<'a, 'p> {
    pass: &'p Pass<'a>,
    index: &'p [u32],
    o: &'p [Floats],
}

impl Kernel for Finish<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        let Pass { core, block, .. } = *self.pass;
        let first = block.head * core.values() + block.first;
        for (t, &token) in self.index.iter().enumerate() {
            if token == PAD {
                continue;
            }
            let row = block.image * core.r.tokens + token as usize;
            // SAFETY: the block's columns are one thread's, and the part is dropped before the next.
            let y = unsafe { core.output_part(block, row, self.pass.y) };
            let (inverse, shortcut) = match self.pass.normalisers {
                Some(normalisers) => (normalisers.inverse(row, block), core.r.shortcut),
                None => (&[][..], None),
            };
            let lanes = y.chunks_mut(LANES).zip(self.o[t..].iter().step_by(CHUNK));
            for (lane, (y, o)) in lanes.enumerate() {
                let column = lane * LANES;
                let mut value = A::load(o);
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
                if let Outputs::Added = self.pass.outputs {
                    value = A::add(value, A::load_part(y));
                }
                A::store_part(value, y);
            }
        }
    }
}
