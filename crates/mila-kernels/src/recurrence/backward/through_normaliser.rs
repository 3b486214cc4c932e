//! What is read, over its normaliser: ō = ȳ / n, and n̄ = −ō · o / n over the columns that share n.

use super::adjoint::{Adjoint, Memory};
use crate::{
    arithmetic::Arithmetic,
    recurrence::{
        PAD,
        block::{Block, Core},
        normaliser::Normalisers,
    },
    reduce,
};

/// Divides rows of the tokens `index`.
#[inline(always)]
pub(super) fn divide(normalisers: &Normalisers, core: &Core<'_>, block: Block, index: &[u32], rows: &mut [f32]) {
    let rows = rows.chunks_exact_mut(block.padded()).zip(index);
    for (o, &token) in rows.filter(|&(_, &token)| token != PAD) {
        match normalisers.inverse(block.image * core.r.tokens + token as usize, block) {
            [one] => {
                for o in o {
                    *o *= one;
                }
            }
            each => {
                for (o, inverse) in o.iter_mut().zip(each) {
                    *o *= inverse;
                }
            }
        }
    }
}

/// Writes n̄ of the tokens `index`, of which `memory.du` is what was read and `memory.o` its cotangent.
#[inline(always)]
pub(super) fn add<A: Arithmetic>(adjoint: &mut Adjoint<'_, '_>, memory: &mut Memory<'_>, index: &[u32]) {
    let Some((normalisers, to)) = adjoint.normalisers else { return };
    let (core, block, shared) = (adjoint.core, adjoint.block, adjoint.shared);
    let rows = memory.o.chunks_exact(block.padded()).zip(memory.du.chunks_exact(block.padded())).zip(index);
    for ((o, read), &token) in rows.filter(|&(_, &token)| token != PAD) {
        let row = block.image * core.r.tokens + token as usize;
        let inverse = normalisers.inverse(row, block);
        if let ([one], false) = (inverse, shared.normaliser().is_empty()) {
            let sum = -one * reduce::dot::<A>(o, read);
            if shared.are_whole() {
                core.head_part(block, row, to)[0] = sum;
            } else {
                let at = shared.among_parts(shared.normaliser()).start;
                adjoint.partials[token as usize * shared.parts().len() + at] = sum;
            }
            continue;
        }
        for (((to, o), read), inverse) in core.output_part(block, row, to).iter_mut().zip(o).zip(read).zip(inverse) {
            *to = -o * read * inverse;
        }
    }
}
