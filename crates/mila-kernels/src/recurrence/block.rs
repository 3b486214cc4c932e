//! A block of channels of one head of one image: what one thread walks through.

use std::ops::Range;

use super::{Decay, Normaliser, Recurrence, Walk};
use crate::{
    arithmetic::{Arithmetic, LANES},
    columns::Columns,
    isa::{Isa, Kernel},
    math,
};

/// Columns that a piece of the work takes at most.
const WIDEST: usize = 64;
/// Steps that are taken at a time, a multiple of [`LANES`].
pub(super) const CHUNK: usize = 32;

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
    /// The rates A log₂ e of a factored decay, `[heads, keys, values]`, whose rows end with zeros to whole lanes.
    rates: Vec<f32>,
    /// The walk, cut where the state is set back or returned.
    pub(super) runs: Vec<Run>,
}

/// Up to [`CHUNK`] steps within which the state is neither set back nor returned.
pub(super) struct Run {
    pub(super) steps: Range<usize>,
    pub(super) state: Before,
}

/// The state before a run.
#[derive(PartialEq, Eq)]
pub(super) enum Before {
    /// That of the run before.
    Carried,
    /// The start.
    Start,
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

impl Block {
    /// Columns of memory: whole lanes.
    pub(super) fn padded(self) -> usize {
        self.width.next_multiple_of(LANES)
    }
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
            let padded = r.values.next_multiple_of(LANES);
            rates.resize(r.heads * r.keys * padded, 0.0);
            for (row, rates) in rates.chunks_exact_mut(padded).enumerate() {
                let (head, key) = (row / r.keys, row % r.keys);
                for (value, rate) in rates[..r.values].iter_mut().enumerate() {
                    *rate = a_log[(head * r.values + value) * r.keys + key];
                }
                isa.run(Rates(&mut rates[..r.values]));
            }
        }
        Self { r, written, decay, columns, rates, runs: runs(r.walk) }
    }

    /// The rates of a key of a block, and of those after it.
    #[inline(always)]
    pub(super) fn rates(&self, block: Block, key: usize) -> &[f32] {
        match self.decay {
            Decay::Factored { .. } => {
                let padded = self.r.values.next_multiple_of(LANES);
                &self.rates[(block.head * self.r.keys + key) * padded + block.first..]
            }
            _ => &[],
        }
    }

    /// Whether it is the sum of a head's keys with gates that are one for all columns.
    pub(super) fn is_one_sum(&self) -> bool {
        let along = matches!(self.decay, Decay::Values(_) | Decay::Factored { .. });
        self.written == Written::Ones && !along && matches!(self.r.walk, Walk::Steps { .. })
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

    /// Copies the start of a block to `state`, `[keys, padded]`.
    pub(super) fn start(&self, block: Block, state: &mut [f32]) {
        state.fill(0.0);
        let Some(start) = self.r.start else { return };
        let stride = self.r.values + self.r.sums();
        for (key, state) in state.chunks_exact_mut(block.padded()).enumerate() {
            let first = self.state_row(block, key) * stride + self.columns.start + block.first;
            state[..block.width].copy_from_slice(&start[first..][..block.width]);
        }
    }

    /// The row of a key among those of all states.
    pub(super) fn state_row(&self, block: Block, key: usize) -> usize {
        (block.image * self.r.heads + block.head) * self.r.keys + key
    }

    /// A block's part of a key's row of all states.
    pub(super) fn state_part<'s>(&self, block: Block, key: usize, states: Columns<'s>) -> &'s mut [f32] {
        let first = self.columns.start + block.first;
        // SAFETY: these columns belong to this block alone, which is one thread's, and the caller drops one part before it
        // asks for the next.
        unsafe { states.part(self.state_row(block, key), first..first + block.width) }
    }

    /// Copies `state`, `[keys, padded]`, to the block's place among all states.
    pub(super) fn keep(&self, block: Block, state: &[f32], states: Columns<'_>) {
        for (key, state) in state.chunks_exact(block.padded()).enumerate() {
            self.state_part(block, key, states).copy_from_slice(&state[..block.width]);
        }
    }

    /// A block's part of a token's row of the output; `row` counts over all images.
    pub(super) fn output_part<'y>(&self, block: Block, row: usize, y: Columns<'y>) -> &'y mut [f32] {
        let first = block.head * self.values() + block.first;
        // SAFETY: as for `state_part`.
        unsafe { y.part(row, first..first + block.width) }
    }

    /// The number of a block's head in a row of `[rows, heads]`.
    pub(super) fn head_part<'y>(&self, block: Block, row: usize, y: Columns<'y>) -> &'y mut [f32] {
        // SAFETY: as for `state_part`, where the block is all of its head.
        unsafe { y.part(row, block.head..block.head + 1) }
    }
}

fn runs(walk: Walk<'_>) -> Vec<Run> {
    let Walk::Steps { index, starts, until } = walk else { return Vec::new() };
    let (mut runs, mut first) = (Vec::new(), 0);
    while first < index.len() {
        let next = starts.partition_point(|&start| start as usize <= first);
        let mut end = index.len().min(first + CHUNK);
        if let Some(&start) = starts.get(next) {
            end = end.min(start as usize);
        }
        if first < until {
            end = end.min(until);
        }
        let set_back = next > 0 && starts[next - 1] as usize == first;
        runs.push(Run { steps: first..end, state: if set_back { Before::Start } else { Before::Carried } });
        first = end;
    }
    runs
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
