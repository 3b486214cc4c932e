//! A block of channels of one head of one image: what one thread walks through.

use std::ops::Range;

use super::{Decay, Normaliser, Recurrence};
use crate::{
    arithmetic::{Arithmetic, LANES},
    columns::Columns,
    isa::{Isa, Kernel},
    math,
};

/// Columns that a piece of the work takes at most.
const WIDEST: usize = 64;

/// What is written into the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written {
    /// The values behind the input gate.
    Values,
    /// Ones: the state is a sum of keys.
    Ones,
}

/// A recurrence without its normaliser, or that of the normaliser.
pub(super) struct Core<'a> {
    pub(super) r: &'a Recurrence<'a>,
    pub(super) written: Written,
    /// That of `r`, or none.
    pub(super) decay: Decay<'a>,
    /// Its columns among those of a head's state.
    pub(super) columns: Range<usize>,
    /// The rates A log₂ e of a factored decay, `[heads, keys, values]`.
    pub(super) rates: Vec<f32>,
}

/// A block of a [`Core`].
#[derive(Clone, Copy)]
pub(super) struct Block {
    pub(super) image: usize,
    pub(super) head: usize,
    /// The first column of the head, and how many.
    pub(super) first: usize,
    pub(super) width: usize,
}

impl<'a> Core<'a> {
    /// The recurrence of the values.
    pub(super) fn of_values(isa: Isa, r: &'a Recurrence<'a>) -> Self {
        Self::new(isa, r, Written::Values, r.decay, 0..r.values)
    }

    /// That of the normaliser.
    pub(super) fn of_sums(isa: Isa, r: &'a Recurrence<'a>) -> Self {
        let decay = if let Normaliser::Decaying(_) = r.normaliser { r.decay } else { Decay::None };
        Self::new(isa, r, Written::Ones, decay, r.values..r.values + r.sums())
    }

    fn new(isa: Isa, r: &'a Recurrence<'a>, written: Written, decay: Decay<'a>, columns: Range<usize>) -> Self {
        let mut rates = Vec::new();
        if let Decay::Factored { a_log, .. } = decay {
            rates.resize(a_log.len(), 0.0);
            for (head, rates) in rates.chunks_exact_mut(r.keys * r.values).enumerate() {
                for (i, rate) in rates.iter_mut().enumerate() {
                    *rate = a_log[(head * r.values + i % r.values) * r.keys + i / r.values];
                }
            }
            isa.run(Rates(&mut rates));
        }
        Self { r, written, decay, columns, rates }
    }

    /// Columns of a head's state.
    pub(super) fn values(&self) -> usize {
        self.columns.len()
    }

    /// Columns of all heads.
    pub(super) fn channels(&self) -> usize {
        self.r.heads * self.values()
    }

    /// Columns of a block: a head is cut into an even number of blocks, which two threads share evenly, or is one.
    pub(super) fn block(&self) -> usize {
        let blocks = self.values().div_ceil(WIDEST);
        let blocks = if blocks == 1 { 1 } else { blocks.next_multiple_of(2) };
        self.values().div_ceil(blocks).next_multiple_of(LANES)
    }

    /// The blocks of all images and heads.
    pub(super) fn blocks(&self) -> impl Iterator<Item = Block> + use<> {
        let (batch, heads, values, block) = (self.r.batch, self.r.heads, self.values(), self.block());
        let in_head = move |image, head| {
            (0..values).step_by(block).map(move |first| Block { image, head, first, width: block.min(values - first) })
        };
        (0..batch).flat_map(move |image| (0..heads).flat_map(move |head| in_head(image, head)))
    }

    /// Copies the start of a block to `state`, `[keys, width]`.
    pub(super) fn start(&self, block: Block, state: &mut [f32]) {
        let Some(start) = self.r.start else { return state.fill(0.0) };
        let stride = self.r.values + self.r.sums();
        for (key, state) in state.chunks_exact_mut(block.width).enumerate() {
            let row = self.state_row(block, key);
            state.copy_from_slice(&start[row * stride + self.columns.start + block.first..][..block.width]);
        }
    }

    /// The row of a key among those of all states.
    fn state_row(&self, block: Block, key: usize) -> usize {
        (block.image * self.r.heads + block.head) * self.r.keys + key
    }

    /// A block's part of a key's row of all states.
    pub(super) fn state_part<'s>(&self, block: Block, key: usize, states: Columns<'s>) -> &'s mut [f32] {
        let first = self.columns.start + block.first;
        // SAFETY: these columns belong to this block alone, which is one thread's, and the caller drops one part before it
        // asks for the next.
        unsafe { states.part(self.state_row(block, key), first..first + block.width) }
    }

    /// Copies `state`, `[keys, width]`, to the block's place among all states.
    pub(super) fn keep(&self, block: Block, state: &[f32], states: Columns<'_>) {
        for (key, state) in state.chunks_exact(block.width).enumerate() {
            self.state_part(block, key, states).copy_from_slice(state);
        }
    }

    /// A block's part of a token's row of the output; `row` counts over all images.
    pub(super) fn output_part<'y>(&self, block: Block, row: usize, y: Columns<'y>) -> &'y mut [f32] {
        let first = block.head * self.values() + block.first;
        // SAFETY: as for `state_part`.
        unsafe { y.part(row, first..first + block.width) }
    }
}

/// −exp(a_log) log₂ e, in place.
struct Rates<'a>(&'a mut [f32]);

impl Kernel for Rates<'_> {
    type Output = ();

    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        for rate in self.0 {
            *rate = -std::f32::consts::LOG2_E * math::exp::<A>(*rate);
        }
    }
}
