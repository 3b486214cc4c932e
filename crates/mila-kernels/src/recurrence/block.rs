//! A block of channels of one head of one image: what one thread walks through.

use std::ops::Range;

use super::{Decay, Normaliser, Recurrence, Walk, stage::Floats};
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
    /// The rates A log₂ e of a factored decay, `[heads, lanes, keys]`; zeros fill the last lane.
    rates: Vec<Floats>,
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
    /// Its columns in memory.
    pub(super) fn lanes(self) -> usize {
        self.width.div_ceil(LANES)
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
            let lanes = r.values.div_ceil(LANES);
            rates.resize(r.heads * lanes * r.keys, [0.0; LANES]);
            for (i, rates) in rates.iter_mut().enumerate() {
                let (lane, key) = (i / r.keys, i % r.keys);
                let (head, first) = (lane / lanes, lane % lanes * LANES);
                let rates = &mut rates[..LANES.min(r.values - first)];
                for (column, rate) in rates.iter_mut().enumerate() {
                    *rate = a_log[(head * r.values + first + column) * r.keys + key];
                }
                isa.run(Rates(rates));
            }
        }
        Self { r, written, decay, columns, rates, runs: runs(r.walk) }
    }

    /// The rates of a lane of a block, `[keys]`; none without a factored decay.
    pub(super) fn rates(&self, block: Block, lane: usize) -> &[Floats] {
        match self.decay {
            Decay::Factored { .. } => {
                let lane = block.head * self.r.values.div_ceil(LANES) + block.first / LANES + lane;
                &self.rates[lane * self.r.keys..][..self.r.keys]
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

    /// Columns of a block: a head is cut into about an even number of blocks, which two threads share, or is one.
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

    /// Copies the start of a block to `state`, `[lanes, keys]`.
    pub(super) fn start(&self, block: Block, state: &mut [Floats]) {
        state.fill([0.0; LANES]);
        let Some(start) = self.r.start else { return };
        let stride = self.r.values + self.r.sums();
        for key in 0..self.r.keys {
            let first = self.state_row(block, key) * stride + self.columns.start + block.first;
            let lanes = state.iter_mut().skip(key).step_by(self.r.keys);
            for (state, start) in lanes.zip(start[first..][..block.width].chunks(LANES)) {
                state[..start.len()].copy_from_slice(start);
            }
        }
    }

    /// The row of a key among those of all states.
    pub(super) fn state_row(&self, block: Block, key: usize) -> usize {
        (block.image * self.r.heads + block.head) * self.r.keys + key
    }

    /// A block's part of a key's row of all states.
    ///
    /// # Safety
    /// No other part of the same row with one of the block's columns lives meanwhile.
    pub(super) unsafe fn state_part<'s>(&self, block: Block, key: usize, states: Columns<'s>) -> &'s mut [f32] {
        let first = self.columns.start + block.first;
        // SAFETY: the caller vouches for it.
        unsafe { states.part(self.state_row(block, key), first..first + block.width) }
    }

    /// Copies `state`, `[lanes, keys]`, to the block's place among all states.
    pub(super) fn keep(&self, block: Block, state: &[Floats], states: Columns<'_>) {
        for key in 0..self.r.keys {
            let lanes = state.iter().skip(key).step_by(self.r.keys);
            // SAFETY: the block's columns are one thread's, and this part is dropped before the next.
            let part = unsafe { self.state_part(block, key, states) };
            for (to, state) in part.chunks_mut(LANES).zip(lanes) {
                to.copy_from_slice(&state[..to.len()]);
            }
        }
    }

    /// A block's part of a token's row of the output; `row` counts over all images.
    ///
    /// # Safety
    /// As for [`state_part`](Self::state_part).
    pub(super) unsafe fn output_part<'y>(&self, block: Block, row: usize, y: Columns<'y>) -> &'y mut [f32] {
        let first = block.head * self.values() + block.first;
        // SAFETY: the caller vouches for it.
        unsafe { y.part(row, first..first + block.width) }
    }

    /// The number of a block's head in a row of `[rows, heads]`.
    ///
    /// # Safety
    /// As for [`state_part`](Self::state_part), where the block is all of its head.
    pub(super) unsafe fn head_part<'y>(&self, block: Block, row: usize, y: Columns<'y>) -> &'y mut [f32] {
        // SAFETY: the caller vouches for it.
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
