//! What is read, over its normaliser: ō = ȳ / n, and n̄ = −ō · o / n over the columns that share n.

use super::adjoint::Adjoint;
use crate::{
    arithmetic::{Arithmetic, LANES},
    isa::Kernel,
    recurrence::{
        PAD,
        block::CHUNK,
        stage::{Floats, Layout, Steps},
    },
};

/// Gathers ō of the tokens `index` to `o`, `[lanes, CHUNK]`.
pub(super) struct Gather<'g, 'a, 's> {
    pub(super) adjoint: &'g Adjoint<'a, 's>,
    pub(super) index: &'g [u32],
    pub(super) o: &'g mut [Floats],
}

impl Kernel for Gather<'_, '_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        let Self { adjoint, index, o } = self;
        let (core, block) = (adjoint.core, adjoint.block);
        let columns = (block.head * core.values() + block.first, block.width);
        Steps { core, block, index }.gather::<A>(adjoint.outputs, columns, Layout::Columns, o);
        let Some((normalisers, _)) = adjoint.normalisers else { return };
        for (t, &token) in index.iter().enumerate().filter(|&(_, &token)| token != PAD) {
            let inverse = normalisers.inverse(block.image * core.r.tokens + token as usize, block);
            for (lane, o) in o[t..].iter_mut().step_by(CHUNK).enumerate() {
                let inverse = match inverse {
                    [one] => A::splat(*one),
                    each => A::load_part(&each[lane * LANES..]),
                };
                A::store(A::mul(A::load(o), inverse), o);
            }
        }
    }
}

/// Writes n̄ of the tokens `index`, of which `read` was read and `o` is its cotangent, `[lanes, CHUNK]`.
pub(super) struct Normaliser<'g, 'a, 's> {
    pub(super) adjoint: &'g mut Adjoint<'a, 's>,
    pub(super) index: &'g [u32],
    pub(super) o: &'g [Floats],
    pub(super) read: &'g [Floats],
}

impl Kernel for Normaliser<'_, '_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        let Self { adjoint, index, o, read } = self;
        let Some((normalisers, to)) = adjoint.normalisers else { return };
        let (core, block, shared) = (adjoint.core, adjoint.block, adjoint.shared);
        for (t, &token) in index.iter().enumerate().filter(|&(_, &token)| token != PAD) {
            let row = block.image * core.r.tokens + token as usize;
            let inverse = normalisers.inverse(row, block);
            let lanes = o[t..].iter().step_by(CHUNK).zip(read[t..].iter().step_by(CHUNK));
            if let ([one], false) = (inverse, shared.normaliser().is_empty()) {
                let mut products = A::splat(0.0);
                for (o, read) in lanes {
                    products = A::mul_add_each(A::load(o), A::load(read), products);
                }
                let sum = -one * A::sum(products);
                if shared.are_whole() {
                    // SAFETY: the block is all of its head and one thread's, and the part is dropped at once.
                    let to = unsafe { core.head_part(block, row, to) };
                    to[0] = sum;
                } else {
                    let at = shared.among_parts(shared.normaliser()).start;
                    adjoint.partials[token as usize * shared.parts().len() + at] = sum;
                }
                continue;
            }
            // SAFETY: the block's columns are one thread's, and the part is dropped before the next.
            let to = unsafe { core.output_part(block, row, to) }.chunks_mut(LANES);
            for (((o, read), to), inverse) in lanes.zip(to).zip(inverse.chunks(LANES)) {
                let product = A::mul(A::mul(A::load(o), A::load(read)), A::load_part(inverse));
                A::store_part(A::sub(A::splat(0.0), product), to);
            }
        }
    }
}
