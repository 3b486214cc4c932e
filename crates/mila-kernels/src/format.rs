//! What the operands of a product are made of, and how they lie in memory for it.

use crate::{
    bf16::{self, BLOCK, Bf16Unit},
    isa::Isa,
    lane::Lane,
    product::Product,
    strip::{self, Rows},
};

/// The format of a packed matrix, which decides about the left-hand side and the product too.
///
/// A left-hand side is a row of strips, each [`lanes`](Format::lanes) for [`strip`](Format::strip) rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// Floats, multiplied by the instruction set.
    F32,
    /// bf16 numbers, multiplied by a unit for them.
    Bf16(Bf16Unit),
}

impl Format {
    /// Rows of a strip.
    pub(crate) fn strip(self, isa: Isa) -> usize {
        match self {
            Format::F32 => isa.level().strip(),
            Format::Bf16(unit) => unit.strip(),
        }
    }

    /// Lanes of a strip.
    pub(crate) fn lanes(self, depth: usize) -> usize {
        match self {
            Format::F32 => depth,
            Format::Bf16(unit) => depth.div_ceil(BLOCK) * unit.lanes(),
        }
    }

    /// Fills the strips of some rows, the first and how many.
    pub(crate) fn fill(self, isa: Isa, rows: Rows<'_>, some: (usize, usize), depth: usize, strips: &mut [Lane]) {
        match self {
            Format::F32 => strip::fill(isa, rows, some, depth, strips),
            Format::Bf16(unit) => bf16::rows::fill(unit, rows, some, depth, strips),
        }
    }

    /// Computes a product whose right-hand side has this format, and so its left-hand side.
    pub(crate) fn multiply(self, isa: Isa, product: Product<'_>) {
        match self {
            Format::F32 => isa.run(product),
            Format::Bf16(unit) => unit.run(bf16::product::Bf16Product { unit, product }),
        }
    }
}
