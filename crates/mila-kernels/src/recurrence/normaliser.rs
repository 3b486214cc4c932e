//! What outputs are divided by.

use super::{
    Normaliser, Recurrence, Walk,
    block::{Block, Core},
    forward::{Outputs, Pass},
    sums,
};
use crate::{columns::Columns, isa::Isa, threads};

/// 1 / n of every token.
pub(super) struct Normalisers {
    /// `[rows, heads, sums]`; empty without a normaliser.
    pub(super) inverses: Vec<f32>,
    heads: usize,
    /// Columns of a head: none, one, or as many as the output has.
    sums: usize,
}

impl Normalisers {
    /// Of n = q_t · z_t + ε, where z is the recurrence of values that are all one; its states go to `states`.
    pub(super) fn new(isa: Isa, r: &Recurrence<'_>, states: Option<Columns<'_>>) -> Self {
        let (Normaliser::Decaying(eps) | Normaliser::Constant(eps)) = r.normaliser else {
            return Self { inverses: Vec::new(), heads: r.heads, sums: 0 };
        };
        let core = Core::of_sums(isa, r);
        let mut values = vec![0.0; r.rows() * core.channels()];
        let y = Columns::new(&mut values, core.channels());
        threads::each(core.blocks(), |_, block| {
            if core.is_one_sum() {
                return sums::forward(isa, &core, block, y, states);
            }
            let outputs = Outputs::first(&core, block, y);
            Pass { isa, core: &core, normalisers: None, block, y, outputs, states }.run();
        });
        let tokens = match r.walk {
            // Of the mean of the keys it is ε, of their sum as many times ε.
            Walk::All { share } => share * r.tokens as f32,
            Walk::Steps { .. } => 1.0,
        };
        values.iter_mut().for_each(|n| *n = 1.0 / (*n + eps * tokens));
        Self { inverses: values, heads: r.heads, sums: r.sums() }
    }

    /// Those of a block's columns at the token of a row: none, one, or as many as columns.
    #[inline(always)]
    pub(super) fn inverse(&self, row: usize, block: Block) -> &[f32] {
        let first = (row * self.heads + block.head) * self.sums;
        match self.sums {
            0 | 1 => &self.inverses[first..][..self.sums],
            _ => &self.inverses[first + block.first..][..block.width],
        }
    }
}
