//! What all columns of a head share at a token.
//!
//! Where a head is one block, its sums over the columns are whole, and the block takes them where they belong, but that of a step
//! size. That, and the sums of heads of several blocks, are parts that are added up when all blocks are done.

use std::ops::Range;

use crate::recurrence::{
    Decay, Input,
    block::{Core, Written},
};

/// Sums over the columns of a head, of which each block has a part.
#[derive(Clone, Copy)]
pub(super) struct Shared {
    keys: usize,
    gate: usize,
    input: usize,
    normaliser: usize,
    /// Blocks of a head.
    blocks: usize,
}

impl Shared {
    pub(super) fn of(core: &Core<'_>) -> Self {
        let gate = if matches!(core.decay, Decay::Scalar(_) | Decay::Keys(_)) { core.r.keys } else { 0 };
        let values = core.written == Written::Values;
        let input = values && matches!(core.r.input, Input::Head(_));
        let normaliser = values && core.r.has_one_sum();
        let blocks = core.values().div_ceil(core.block());
        Self { keys: core.r.keys, gate, input: usize::from(input), normaliser: usize::from(normaliser), blocks }
    }

    /// Floats of a token.
    pub(super) fn width(self) -> usize {
        self.normaliser().end
    }

    /// Whether a block is a head.
    pub(super) fn are_whole(self) -> bool {
        self.blocks == 1
    }

    /// Blocks of a head.
    pub(super) fn blocks(self) -> usize {
        self.blocks
    }

    /// Those of which a block leaves its part.
    pub(super) fn parts(self) -> Range<usize> {
        if self.are_whole() { self.input() } else { 0..self.width() }
    }

    /// Where some of them are among the parts of a token.
    pub(super) fn among_parts(self, range: Range<usize>) -> Range<usize> {
        let first = self.parts().start;
        range.start - first..range.end - first
    }

    pub(super) fn q(self) -> Range<usize> {
        0..self.keys
    }

    pub(super) fn k(self) -> Range<usize> {
        self.keys..2 * self.keys
    }

    /// Of the logarithms of gates along the keys.
    pub(super) fn gate(self) -> Range<usize> {
        2 * self.keys..2 * self.keys + self.gate
    }

    /// Of the step size of an input gate per head.
    pub(super) fn input(self) -> Range<usize> {
        self.gate().end..self.gate().end + self.input
    }

    /// Of a normaliser that is one for all columns.
    pub(super) fn normaliser(self) -> Range<usize> {
        self.input().end..self.input().end + self.normaliser
    }
}
