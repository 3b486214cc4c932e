//! Gradients that are sums over blocks: of what all columns of a head share, and of parameters.

use super::{Gradients, adjoint::Adjoint, shared::Shared, sums};
use crate::{
    arithmetic::LANES,
    columns::Columns,
    isa::{Isa, Kernel},
    math,
    recurrence::{
        Decay, Delta, Input, Recurrence, Rows,
        block::{Block, Core, Written},
        normaliser::Normalisers,
        stage::Floats,
    },
    threads,
};

/// Sums over all images of the gradients of parameters, in f64.
pub(super) struct Totals<'a> {
    r: &'a Recurrence<'a>,
    decay_bias: Vec<f64>,
    input_bias: Vec<f64>,
    d: Vec<f64>,
    /// `[heads, keys, values]`, of A.
    rates: Vec<f64>,
    bonus: Vec<f64>,
}

/// The gradients of parameters that one block gives.
pub(super) struct OfBlock<'s> {
    /// `[lanes]`
    pub(super) decay_bias: &'s mut [Floats],
    /// `[lanes]`
    pub(super) input_bias: &'s mut [Floats],
    /// `[lanes]`
    pub(super) d: &'s mut [Floats],
    /// `[lanes, keys]`, of A.
    pub(super) rates: &'s mut [Floats],
    /// `[keys]`, and zeros to whole lanes.
    pub(super) bonus: &'s mut [f32],
}

/// What goes into an adjoint.
pub(super) struct Cotangents<'a, 'n> {
    /// That of the output, for the shortcut.
    pub(super) dy: &'a [f32],
    /// That of what is read, times the normalisers.
    pub(super) outputs: Rows<'a>,
    /// That of all states.
    pub(super) dstates: &'a [f32],
    /// What divides, and where its cotangents go, `[rows, heads, sums]`.
    pub(super) normalisers: Option<(&'a Normalisers, &'n mut [f32])>,
}

impl<'s> OfBlock<'s> {
    /// Lanes of the gradients.
    fn len(keys: usize, lanes: usize) -> usize {
        (3 + keys) * lanes + keys.div_ceil(LANES)
    }

    fn new(memory: &'s mut [Floats], keys: usize, block: Block) -> Self {
        let lanes = block.lanes();
        let (decay_bias, rest) = memory.split_at_mut(lanes);
        let (input_bias, rest) = rest.split_at_mut(lanes);
        let (d, rest) = rest.split_at_mut(lanes);
        let (rates, bonus) = rest.split_at_mut(keys * lanes);
        Self { decay_bias, input_bias, d, rates, bonus: bonus[..keys.div_ceil(LANES)].as_flattened_mut() }
    }
}

impl<'a> Totals<'a> {
    pub(super) fn new(r: &'a Recurrence<'a>) -> Self {
        let (channels, keys) = (r.channels(), r.heads * r.keys);
        Self {
            r,
            decay_bias: vec![0.0; channels],
            input_bias: vec![0.0; channels],
            d: vec![0.0; channels],
            rates: vec![0.0; channels * r.keys],
            bonus: vec![0.0; keys],
        }
    }

    /// Adds the gradients of `core`.
    pub(super) fn add(
        &mut self,
        isa: Isa,
        core: &Core<'_>,
        cotangents: Cotangents<'_, '_>,
        gradients: &mut Gradients<'_>,
    ) {
        let r = self.r;
        let Cotangents { dy, outputs, dstates, normalisers } = cotangents;
        let shared = Shared::of(core);
        let len = OfBlock::len(r.keys, core.block().div_ceil(LANES));
        let blocks: Vec<Block> = core.blocks().collect();
        let mut parameters = vec![[0.0; LANES]; blocks.len() * len];
        // `[batch, heads, blocks of a head, tokens, parts]`
        let partial = (r.tokens * shared.parts().len()).max(1);
        let mut partials = vec![0.0; blocks.len() * partial];
        let map = Columns::new(gradients.map, r.q.stride);
        let start = (!gradients.start.is_empty()).then(|| Columns::new(gradients.start, r.values + r.sums()));
        let (normalisers, mut of_normalisers) = match normalisers {
            Some((normalisers, of)) => (Some(normalisers), of),
            None => (None, &mut [][..]),
        };
        {
            let of_normalisers = Columns::new(of_normalisers, r.heads * r.sums());
            let normalisers = normalisers.map(|normalisers| (normalisers, of_normalisers));
            let pieces = blocks.iter().zip(parameters.chunks_exact_mut(len)).zip(partials.chunks_exact_mut(partial));
            threads::each(pieces, |_, ((&block, parameters), partials)| {
                let parameters = OfBlock::new(parameters, r.keys, block);
                Adjoint {
                    isa,
                    core,
                    block,
                    dy,
                    outputs,
                    normalisers,
                    dstates,
                    map,
                    start,
                    shared,
                    partials,
                    parameters,
                }
                .run();
            });
        }
        for (block, parameters) in blocks.iter().zip(parameters.chunks_exact_mut(len)) {
            self.add_parameters(core, *block, &OfBlock::new(parameters, r.keys, *block));
        }
        if shared.normaliser().is_empty() || shared.are_whole() {
            of_normalisers = &mut [];
        }
        self.add_shared(isa, (core, shared), &partials, gradients.map, of_normalisers);
    }

    /// Adds the gradients of a sum of keys, one a head.
    pub(super) fn add_sums(
        &mut self,
        isa: Isa,
        core: &Core<'_>,
        outputs: &[f32],
        dstates: &[f32],
        gradients: &mut Gradients<'_>,
    ) {
        let r = self.r;
        let map = Columns::new(gradients.map, r.q.stride);
        let start = (!gradients.start.is_empty()).then(|| Columns::new(gradients.start, r.values + r.sums()));
        let mut bonus = vec![0.0; r.batch * r.heads * r.keys];
        threads::each(core.blocks().zip(bonus.chunks_exact_mut(r.keys)), |_, (block, bonus)| {
            sums::run(isa, sums::Adjoint { core, block, outputs, dstates, map, start, bonus });
        });
        for bonus in bonus.chunks_exact(r.heads * r.keys) {
            self.bonus.iter_mut().zip(bonus).for_each(|(total, &part)| *total += f64::from(part));
        }
    }

    fn add_parameters(&mut self, core: &Core<'_>, block: Block, of: &OfBlock<'_>) {
        let r = self.r;
        let first = block.head * r.values + block.first;
        let add = |total: &mut [f64], part: &[f32]| {
            total.iter_mut().zip(part).for_each(|(total, &part)| *total += f64::from(part));
        };
        add(&mut self.bonus[block.head * r.keys..][..r.keys], of.bonus);
        if matches!(core.decay, Decay::Factored { .. }) {
            add(&mut self.decay_bias[first..][..block.width], of.decay_bias.as_flattened());
            for (i, rates) in of.rates.iter().enumerate() {
                let (lane, key) = (i / r.keys, i % r.keys);
                let row = &mut self.rates[(block.head * r.keys + key) * r.values + block.first..][..block.width];
                add(&mut row[lane * LANES..], rates);
            }
        }
        if core.written == Written::Values {
            add(&mut self.input_bias[first..][..block.width], of.input_bias.as_flattened());
            add(&mut self.d[first..][..block.width], of.d.as_flattened());
        }
    }

    /// Adds up what the blocks of a head share, and writes it to the rows of its tokens, and n̄ to `of_normalisers`,
    /// `[rows, heads]` or nothing.
    fn add_shared(
        &mut self,
        isa: Isa,
        (core, shared): (&Core<'_>, Shared),
        partials: &[f32],
        map: &mut [f32],
        of_normalisers: &mut [f32],
    ) {
        let r = self.r;
        let (width, stride) = (shared.parts().len(), r.q.stride);
        if width == 0 {
            return;
        }
        let rows = threads::piece_rows(stride);
        let of_input = match (core.written, r.input) {
            (Written::Values, Input::Head(delta)) => Some(delta),
            _ => None,
        };
        let of_normalisers = Columns::new(of_normalisers, r.heads);
        let pieces = map.chunks_mut(rows * stride).enumerate();
        let biases = threads::sum(r.heads, pieces, |_, (piece, map), biases| {
            let mut sum = vec![0.0; width];
            for (i, map) in map.chunks_exact_mut(stride).enumerate() {
                let row = piece * rows + i;
                let (image, token) = (row / r.tokens, row % r.tokens);
                for head in 0..r.heads {
                    sum.fill(0.0);
                    for block in 0..shared.blocks() {
                        let at = ((image * r.heads + head) * shared.blocks() + block) * r.tokens + token;
                        sum.iter_mut().zip(&partials[at * width..]).for_each(|(sum, part)| *sum += part);
                    }
                    if !shared.are_whole() {
                        add_to_row(r, core.decay, shared, head, &sum, map);
                        if let [sum] = &sum[shared.normaliser()] {
                            // SAFETY: a row belongs to one piece, which is one thread's, and the part is dropped at once.
                            let to = unsafe { of_normalisers.part(row, head..head + 1) };
                            to[0] = *sum;
                        }
                    }
                    if let (Some(delta), [of_step]) = (of_input, &sum[shared.among_parts(shared.input())]) {
                        let gradient = isa.run(ThroughSoftplus { delta, row, head, of_step: *of_step });
                        map[delta.raw.first + head] += gradient;
                        biases[head] += gradient;
                    }
                }
            }
        });
        if of_input.is_some() {
            self.input_bias = biases;
        }
    }

    /// Writes the sums.
    pub(super) fn write(self, gradients: &mut Gradients<'_>) {
        let r = self.r;
        let narrow = |sums: &[f64], y: &mut [f32]| y.iter_mut().zip(sums).for_each(|(y, &sum)| *y = sum as f32);
        narrow(&self.decay_bias, gradients.decay_bias);
        narrow(&self.input_bias, gradients.input_bias);
        narrow(&self.d, gradients.d);
        narrow(&self.bonus, gradients.bonus);
        if let Decay::Factored { a_log, .. } = r.decay {
            // A = −exp(a_log), so that the gradient of a_log is A times that of A.
            for (i, (gradient, a_log)) in gradients.a_log.iter_mut().zip(a_log).enumerate() {
                let (channel, key) = (i / r.keys, i % r.keys);
                let (head, value) = (channel / r.values, channel % r.values);
                let of_rate = self.rates[(head * r.keys + key) * r.values + value];
                *gradient = (-f64::from(*a_log).exp() * of_rate) as f32;
            }
        }
    }
}

/// Adds the sums of a head to their channels of a row.
fn add_to_row(r: &Recurrence<'_>, decay: Decay<'_>, shared: Shared, head: usize, sum: &[f32], row: &mut [f32]) {
    let mut add = |first: usize, part: &[f32]| row[first..].iter_mut().zip(part).for_each(|(x, part)| *x += part);
    add(r.q.first + head * r.keys, &sum[shared.q()]);
    add(r.k.first + head * r.keys, &sum[shared.k()]);
    match decay {
        Decay::Scalar(log) => add(log.first + head, &[sum[shared.gate()].iter().sum()]),
        Decay::Keys(log) => add(log.first + head * r.keys, &sum[shared.gate()]),
        _ => {}
    }
}

/// The gradient of a head's step size, taken through the softplus.
struct ThroughSoftplus<'a> {
    delta: Delta<'a>,
    row: usize,
    head: usize,
    of_step: f32,
}

impl Kernel for ThroughSoftplus<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<A: crate::arithmetic::Arithmetic>(self) -> f32 {
        let raw = self.delta.raw;
        let x = raw.values[self.row * raw.stride + raw.first + self.head];
        let bias = self.delta.bias.map_or(0.0, |bias| bias[self.head]);
        self.of_step * math::sigmoid::<A>(x + bias)
    }
}
