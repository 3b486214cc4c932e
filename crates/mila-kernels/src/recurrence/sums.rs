//! A normaliser of one column a head: its keys stand side by side in registers where the columns of values do.

use super::{
    PAD, Walk,
    block::{Before, Block, CHUNK, Core},
    stage::{Floats, Stage},
};
use crate::{
    arithmetic::{Arithmetic, LANES},
    columns::Columns,
    isa::{Isa, Kernel},
    lane, scratch,
};

/// Writes q_t · z_t of a block, which is one column, to `n`, `[rows, heads]`, and its state to the last column of `states`.
pub(super) fn forward(isa: Isa, core: &Core<'_>, block: Block, n: Columns<'_>, states: Option<Columns<'_>>) {
    let Walk::Steps { index, until, .. } = core.r.walk else { return };
    let keys = core.r.keys.div_ceil(LANES);
    let stage = Stage::len(core.r.keys, block);
    scratch::lanes(stage + keys + CHUNK, |memory| {
        let (stage, rest) = lane::floats_mut(memory).as_chunks_mut().0.split_at_mut(stage);
        let (z, products) = rest.split_at_mut(keys);
        let mut stage = Stage::new(stage, core.r.keys, block);
        start(core, block, z);
        if let (0, Some(states)) = (until, states) {
            keep(core, block, z, states);
        }
        for run in &core.runs {
            if run.state == Before::Start {
                start(core, block, z);
            }
            let index = &index[run.steps.clone()];
            stage.gather_keys(isa, core, block, index);
            let sums = isa.run(Advance { core, block, stage: &stage, steps: index.len(), z, products });
            for (&token, sum) in index.iter().zip(sums).filter(|&(&token, _)| token != PAD) {
                // SAFETY: the block is all of its head and one thread's, and the part is dropped at once.
                let n = unsafe { core.head_part(block, block.image * core.r.tokens + token as usize, n) };
                n[0] = sum;
            }
            if let Some(states) = states
                && run.steps.end == until
            {
                keep(core, block, z, states);
            }
        }
    });
}

/// Takes some steps of z and returns q · z of each.
struct Advance<'a, 's> {
    core: &'a Core<'a>,
    block: Block,
    stage: &'a Stage<'s>,
    steps: usize,
    /// `[lanes of keys]`
    z: &'a mut [Floats],
    /// `[CHUNK]`
    products: &'a mut [Floats],
}

impl Kernel for Advance<'_, '_> {
    type Output = [f32; CHUNK];

    #[inline(always)]
    fn run<A: Arithmetic>(self) -> [f32; CHUNK] {
        let Self { core, block, stage, steps, z, products } = self;
        for (lane, z) in z.iter_mut().enumerate() {
            let bonus = bonus::<A>(core, block, lane);
            let mut state = A::load(z);
            for (t, products) in products[..steps].iter_mut().enumerate() {
                let row = t * stage.keys + lane;
                let (q, k, g) = (A::load(&stage.q[row]), A::load(&stage.k[row]), A::load(&stage.even[row]));
                let after = A::mul_add_each(g, state, k);
                let seen = match bonus {
                    None => after,
                    Some(bonus) => A::mul_add_each(bonus, k, state),
                };
                state = after;
                let before = if lane == 0 { A::splat(0.0) } else { A::load(products) };
                A::store(A::mul_add_each(q, seen, before), products);
            }
            A::store(state, z);
        }
        let mut sums = [0.0; CHUNK];
        for (sums, products) in sums.as_chunks_mut().0.iter_mut().zip(products.as_chunks().0) {
            A::store(sum_each::<A>(products), sums);
        }
        sums
    }
}

/// The bonus of a lane of keys.
#[inline(always)]
pub(super) fn bonus<A: Arithmetic>(core: &Core<'_>, block: Block, lane: usize) -> Option<A::Register> {
    match core.r.bonus {
        Some(bonus) => {
            let keys = &bonus[block.head * core.r.keys..][..core.r.keys];
            Some(A::load_part(&keys[lane * LANES..]))
        }
        None => None,
    }
}

/// The sums of sixteen lanes.
#[inline(always)]
pub(super) fn sum_each<A: Arithmetic>(lanes: &[Floats; LANES]) -> A::Register {
    let mut rows = [A::splat(0.0); LANES];
    for (row, lane) in rows.iter_mut().zip(lanes) {
        *row = A::load(lane);
    }
    A::sums(rows)
}

/// The start of the sums, `[lanes of keys]`.
pub(super) fn start(core: &Core<'_>, block: Block, z: &mut [Floats]) {
    z.fill([0.0; LANES]);
    let Some(start) = core.r.start else { return };
    let stride = core.r.values + core.r.sums();
    for (key, z) in z.as_flattened_mut()[..core.r.keys].iter_mut().enumerate() {
        *z = start[core.state_row(block, key) * stride + core.columns.start];
    }
}

fn keep(core: &Core<'_>, block: Block, z: &[Floats], states: Columns<'_>) {
    for (key, z) in z.as_flattened()[..core.r.keys].iter().enumerate() {
        // SAFETY: the block's columns are one thread's, and the part is dropped at once.
        let state = unsafe { core.state_part(block, key, states) };
        state[0] = *z;
    }
}
