//! What outputs are divided by.

use super::{
    Normaliser, Recurrence, Walk,
    block::{Block, Core},
    forward::{Pass, clear},
};
use crate::{columns::Columns, isa::Isa, threads};

/// n of every token.
pub(super) struct Normalisers {
    /// `[rows, heads, sums]`; empty without a normaliser.
    pub(super) values: Vec<f32>,
    heads: usize,
    /// Columns of a head: none, one, or as many as the output has.
    sums: usize,
}

impl Normalisers {
    /// q_t · z_t + ε, where z is the recurrence of values that are all one; its states go to `states`.
    pub(super) fn new(isa: Isa, r: &Recurrence<'_>, states: Option<Columns<'_>>) -> Self {
        let (Normaliser::Decaying(eps) | Normaliser::Constant(eps)) = r.normaliser else {
            return Self { values: Vec::new(), heads: r.heads, sums: 0 };
        };
        let core = Core::of_sums(isa, r);
        let mut values = vec![0.0; r.rows() * core.channels()];
        let y = Columns::new(&mut values, core.channels());
        threads::each(core.blocks(), |_, block| {
            clear(&core, block, y);
            Pass { isa, core: &core, normalisers: None, block, y, states }.run();
        });
        let tokens = match r.walk {
            // Of the mean of the keys it is ε, of their sum as many times ε.
            Walk::All { share } => share * r.tokens as f32,
            Walk::Steps { .. } => 1.0,
        };
        values.iter_mut().for_each(|n| *n += eps * tokens);
        Self { values, heads: r.heads, sums: r.sums() }
    }

    /// Where the normalisers of a block's columns stand, for the token of a row: one, or as many as columns.
    #[inline(always)]
    pub(super) fn at(&self, row: usize, block: Block) -> std::ops::Range<usize> {
        let first = (row * self.heads + block.head) * self.sums;
        match self.sums {
            0 | 1 => first..first + self.sums,
            _ => first + block.first..first + block.first + block.width,
        }
    }

    /// Divides what a block reads for the token of a row.
    #[inline(always)]
    pub(super) fn divide(&self, row: usize, block: Block, o: &mut [f32]) {
        match &self.values[self.at(row, block)] {
            [] => {}
            [n] => {
                for o in o {
                    *o /= n;
                }
            }
            each => {
                for (o, n) in o.iter_mut().zip(each) {
                    *o /= n;
                }
            }
        }
    }
}
