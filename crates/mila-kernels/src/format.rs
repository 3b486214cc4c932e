//! What the operands of a product are made of, and how they lie in memory for it.

use crate::{
    arithmetic::LANES,
    bf16::{self, BLOCK, Bf16Unit},
    isa::{Isa, Level},
    lane::{self, Lane},
    product::{Left, Product, Target},
    rows::{self, Rows},
    strip,
};

/// The format of a packed matrix, which decides about the left-hand side and the product too.
///
/// A layer's left-hand side is rows, or strips one after another. Either way work is cut by the rows of a
/// [`strip`](Format::strip), which take so many [`lanes`](Format::lanes) of memory.
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

    /// Lanes of memory for the rows of a strip.
    pub(crate) fn lanes(self, isa: Isa, depth: usize) -> usize {
        match self {
            Format::F32 if by_rows(isa) => isa.level().strip() * rows::lanes(depth),
            Format::F32 => depth,
            Format::Bf16(unit) => depth.div_ceil(BLOCK) * unit.lanes(),
        }
    }

    /// Strips that are worth a pass over the weights, even if the cache does not hold them: with fewer, weights are read from
    /// memory more slowly than they are used.
    pub(crate) fn fewest(self, isa: Isa) -> usize {
        match self {
            Format::F32 if by_rows(isa) => 16,
            _ => 8,
        }
    }

    /// The rows from `first` on as a left-hand side where they lie, if they can be multiplied there.
    pub(crate) fn in_place<'a>(self, isa: Isa, rows: Rows<'a>, first: usize) -> Option<Left<'a>> {
        match (self, rows) {
            (Format::F32, Rows::Plain { x, stride }) if by_rows(isa) => {
                Some(Left::Rows { x: &x[first * stride..], stride })
            }
            _ => None,
        }
    }

    /// Lanes of memory that [`prepare`](Format::prepare) wants for the rows of so many strips.
    pub(crate) fn memory(self, isa: Isa, rows: Rows<'_>, strips: usize, depth: usize) -> usize {
        match self.in_place(isa, rows, 0) {
            Some(_) => 0,
            None => strips * self.lanes(isa, depth),
        }
    }

    /// Writes some rows, the first and how many, to memory for [`left`](Format::left).
    pub(crate) fn fill(self, isa: Isa, rows: Rows<'_>, some: (usize, usize), depth: usize, memory: &mut [Lane]) {
        match self {
            Format::F32 if by_rows(isa) => rows::fill(isa, rows, some, depth, memory),
            Format::F32 => strip::fill(isa, rows, some, depth, memory),
            Format::Bf16(unit) => bf16::rows::fill(unit, rows, some, depth, memory),
        }
    }

    /// Rows in memory, `depth` numbers each, as a left-hand side.
    pub(crate) fn left(self, isa: Isa, memory: &[Lane], depth: usize) -> Left<'_> {
        match self {
            Format::F32 if by_rows(isa) => Left::Rows { x: lane::floats(memory), stride: LANES * rows::lanes(depth) },
            _ => Left::Strips(memory),
        }
    }

    /// Some rows, the first and how many, as a left-hand side, in memory if they must be written first: as much of
    /// [`memory`](Format::memory) as whole strips need.
    pub(crate) fn prepare<'a>(
        self,
        isa: Isa,
        rows: Rows<'a>,
        some: (usize, usize),
        depth: usize,
        memory: &'a mut [Lane],
    ) -> Left<'a> {
        if let Some(left) = self.in_place(isa, rows, some.0) {
            return left;
        }
        let memory = &mut memory[..some.1.div_ceil(self.strip(isa)) * self.lanes(isa, depth)];
        self.fill(isa, rows, some, depth, memory);
        self.left(isa, memory, depth)
    }

    /// Memory as where a product of `columns` columns goes, the left-hand side of the next one.
    pub(crate) fn target(self, isa: Isa, memory: &mut [Lane], columns: usize) -> Target<'_> {
        match self {
            Format::F32 if by_rows(isa) => {
                Target::Rows { y: lane::floats_mut(memory), stride: LANES * rows::lanes(columns) }
            }
            _ => Target::Strips(memory),
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

/// Whether layers of floats read rows; else strips.
///
/// A tile of six rows or three reads them side by side by itself; for fourteen there are neither registers for the addresses nor
/// ways in a cache.
fn by_rows(isa: Isa) -> bool {
    isa.level() != Level::Avx512
}
