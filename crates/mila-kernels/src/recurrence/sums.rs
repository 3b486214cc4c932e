//! A normaliser of one column a head: its keys stand side by side in registers where the columns of values do.

use super::{
    PAD, Walk,
    block::{Before, Block, CHUNK, Core},
    stage::Stage,
    update::at,
};
use crate::{
    arithmetic::{Arithmetic, LANES},
    columns::Columns,
    isa::{Isa, Kernel},
    lane, scratch,
};

/// Writes q_t · z_t of a block, which is one column, to `n`, `[rows, heads]`, and its state to the last column of `states`.
pub(super) fn forward(isa: Isa, core: &Core<'_>, block: Block, n: Columns<'_>, states: Option<Columns<'_>>) {
    let keys = core.r.keys.next_multiple_of(LANES);
    let stage = Stage::len(core.r.keys, block);
    scratch::lanes((stage + keys) / LANES + CHUNK, |memory| {
        let (stage, rest) = lane::floats_mut(memory).split_at_mut(stage);
        let (z, products) = rest.split_at_mut(keys);
        isa.run(Sums { core, block, n, states, stage: Stage::new(stage, core.r.keys, block), z, products });
    });
}

struct Sums<'a, 's> {
    core: &'a Core<'a>,
    block: Block,
    n: Columns<'a>,
    states: Option<Columns<'a>>,
    stage: Stage<'s>,
    /// `[keys]`
    z: &'s mut [f32],
    /// `[steps, LANES]`
    products: &'s mut [f32],
}

impl Kernel for Sums<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        let Sums { core, block, n, states, mut stage, z, products } = self;
        let Walk::Steps { index, until, .. } = core.r.walk else { return };
        start(core, block, z);
        if let (0, Some(states)) = (until, states) {
            keep(core, block, z, states);
        }
        for run in &core.runs {
            if run.state == Before::Start {
                start(core, block, z);
            }
            let index = &index[run.steps.clone()];
            stage.gather_keys::<A>(core, block, index);
            advance::<A>(core, block, &stage, index.len(), z, products);
            for (tokens, products) in index.chunks(LANES).zip(products.chunks_exact(LANES * LANES)) {
                let mut sums = [0.0; LANES];
                A::store(sum_each::<A>(products), &mut sums);
                for (&token, sum) in tokens.iter().zip(sums).filter(|&(&token, _)| token != PAD) {
                    core.output_part(block, block.image * core.r.tokens + token as usize, n)[0] = sum;
                }
            }
            if let Some(states) = states
                && run.steps.end == until
            {
                keep(core, block, z, states);
            }
        }
    }
}

/// Takes some steps of z and writes q ⊙ z of each, added up to a lane.
#[inline(always)]
fn advance<A: Arithmetic>(
    core: &Core<'_>,
    block: Block,
    stage: &Stage<'_>,
    steps: usize,
    z: &mut [f32],
    products: &mut [f32],
) {
    for (lane, sum) in z.as_chunks_mut().0.iter_mut().enumerate() {
        let bonus = match core.r.bonus {
            Some(bonus) => Some(A::load_part(key_lane(core, block, bonus, lane))),
            None => None,
        };
        let mut state = A::load(sum);
        for (t, products) in products.as_chunks_mut().0.iter_mut().enumerate().take(steps) {
            let first = t * stage.keys + lane * LANES;
            let (q, k, g) = (A::load(at(stage.q, first)), A::load(at(stage.k, first)), A::load(at(stage.even, first)));
            let seen = match bonus {
                None => {
                    state = A::mul_add_each(g, state, k);
                    state
                }
                Some(bonus) => {
                    let seen = A::mul_add_each(bonus, k, state);
                    state = A::mul_add_each(g, state, k);
                    seen
                }
            };
            let before = if lane == 0 { A::splat(0.0) } else { A::load(products) };
            A::store(A::mul_add_each(q, seen, before), products);
        }
        A::store(state, sum);
    }
}

/// Sixteen of a head's keys, or fewer, of `[heads, keys]`.
#[inline(always)]
pub(super) fn key_lane<'x>(core: &Core<'_>, block: Block, of: &'x [f32], lane: usize) -> &'x [f32] {
    &of[block.head * core.r.keys..][..core.r.keys][lane * LANES..]
}

/// The sums of sixteen lanes.
#[inline(always)]
pub(super) fn sum_each<A: Arithmetic>(lanes: &[f32]) -> A::Register {
    let mut rows = [A::splat(0.0); LANES];
    for (row, lane) in rows.iter_mut().zip(lanes.as_chunks().0) {
        *row = A::load(lane);
    }
    A::sums(rows)
}

/// The start of the sums, `[keys]`.
pub(super) fn start(core: &Core<'_>, block: Block, z: &mut [f32]) {
    z.fill(0.0);
    let Some(start) = core.r.start else { return };
    let stride = core.r.values + core.r.sums();
    for (key, z) in z[..core.r.keys].iter_mut().enumerate() {
        *z = start[core.state_row(block, key) * stride + core.columns.start];
    }
}

fn keep(core: &Core<'_>, block: Block, z: &[f32], states: Columns<'_>) {
    for (key, z) in z[..core.r.keys].iter().enumerate() {
        core.state_part(block, key, states)[0] = *z;
    }
}
