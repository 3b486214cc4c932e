//! Gradients that are sums over blocks: of what all columns of a head share, and of parameters.

use super::{
    Gradients,
    adjoint::{Adjoint, Shared},
};
use crate::{
    columns::Columns,
    isa::{Isa, Kernel},
    math,
    recurrence::{
        Decay, Delta, Input, Recurrence, Rows,
        block::{Block, Core, Written},
        stage,
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
    /// `[width]`
    pub(super) decay_bias: &'s mut [f32],
    /// `[width]`
    pub(super) input_bias: &'s mut [f32],
    /// `[width]`
    pub(super) d: &'s mut [f32],
    /// `[keys, width]`, of A.
    pub(super) rates: &'s mut [f32],
    /// `[keys]`
    pub(super) bonus: &'s mut [f32],
}

impl<'s> OfBlock<'s> {
    fn len(keys: usize, width: usize) -> usize {
        (3 + keys) * width + keys
    }

    fn new(memory: &'s mut [f32], keys: usize, width: usize) -> Self {
        let (decay_bias, rest) = memory.split_at_mut(width);
        let (input_bias, rest) = rest.split_at_mut(width);
        let (d, rest) = rest.split_at_mut(width);
        let (rates, bonus) = rest.split_at_mut(keys * width);
        Self { decay_bias, input_bias, d, rates, bonus: &mut bonus[..keys] }
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

    /// Adds the gradients of `core` for `outputs`, the cotangent of what it reads.
    pub(super) fn add(
        &mut self,
        isa: Isa,
        core: &Core<'_>,
        dy: &[f32],
        outputs: Rows<'_>,
        dstates: &[f32],
        gradients: &mut Gradients<'_>,
    ) {
        let r = self.r;
        let shared = Shared::of(core);
        let in_head = core.values().div_ceil(core.block());
        let widest = core.values().min(core.block());
        let len = OfBlock::len(r.keys, widest);
        let blocks: Vec<Block> = core.blocks().collect();
        let mut parameters = vec![0.0; blocks.len() * len];
        // `[batch, heads, blocks of a head, tokens, shared]`
        let mut partials = vec![0.0; blocks.len() * r.tokens * shared.width()];
        let map = Columns::new(gradients.map, r.q.stride);
        let start = (!gradients.start.is_empty()).then(|| Columns::new(gradients.start, r.values + r.sums()));
        let partial = (r.tokens * shared.width()).max(1);
        let pieces = blocks.iter().zip(parameters.chunks_exact_mut(len)).zip(partials.chunks_exact_mut(partial));
        threads::each(pieces, |_, ((&block, parameters), partials)| {
            let parameters = OfBlock::new(parameters, r.keys, block.width);
            Adjoint { isa, core, block, dy, outputs, dstates, map, start, shared, partials, parameters }.run();
        });
        for (block, parameters) in blocks.iter().zip(parameters.chunks_exact_mut(len)) {
            self.add_parameters(core, *block, &OfBlock::new(parameters, r.keys, block.width));
        }
        self.add_shared(isa, core, shared, in_head, &partials, gradients.map);
    }

    fn add_parameters(&mut self, core: &Core<'_>, block: Block, of: &OfBlock<'_>) {
        let r = self.r;
        let first = block.head * r.values + block.first;
        let add = |total: &mut [f64], part: &[f32]| {
            total.iter_mut().zip(part).for_each(|(total, &part)| *total += f64::from(part));
        };
        add(&mut self.bonus[block.head * r.keys..], of.bonus);
        if matches!(core.decay, Decay::Factored { .. }) {
            add(&mut self.decay_bias[first..], of.decay_bias);
            for (key, rates) in of.rates.chunks_exact(block.width).enumerate() {
                add(&mut self.rates[(block.head * r.keys + key) * r.values + block.first..], rates);
            }
        }
        if core.written == Written::Values {
            add(&mut self.input_bias[first..], of.input_bias);
            add(&mut self.d[first..], of.d);
        }
    }

    /// Adds up what the blocks of a head share, and writes it to the rows of its tokens.
    fn add_shared(
        &mut self,
        isa: Isa,
        core: &Core<'_>,
        shared: Shared,
        in_head: usize,
        partials: &[f32],
        map: &mut [f32],
    ) {
        let r = self.r;
        let (width, stride) = (shared.width(), r.q.stride);
        let rows = threads::piece_rows(stride);
        let of_input = match (core.written, r.input) {
            (Written::Values, Input::Head(delta)) => Some(delta),
            _ => None,
        };
        let pieces = map.chunks_mut(rows * stride).enumerate();
        let biases = threads::sum(r.heads, pieces, |_, (piece, map), biases| {
            let mut sum = vec![0.0; width];
            for (i, map) in map.chunks_exact_mut(stride).enumerate() {
                let row = piece * rows + i;
                let (image, token) = (row / r.tokens, row % r.tokens);
                for head in 0..r.heads {
                    sum.fill(0.0);
                    for block in 0..in_head {
                        let at = ((image * r.heads + head) * in_head + block) * r.tokens + token;
                        sum.iter_mut().zip(&partials[at * width..]).for_each(|(sum, part)| *sum += part);
                    }
                    add_to_row(r, core.decay, shared, head, &sum, map);
                    if let Some(delta) = of_input {
                        let gradient = isa.run(ThroughSoftplus { delta, row, head, of_step: sum[width - 1] });
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
        let mut x = [0.0];
        stage::before_softplus(self.delta, Some(self.row), self.head, &mut x);
        self.of_step * math::sigmoid::<A>(x[0])
    }
}
