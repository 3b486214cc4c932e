//! Recurrences on the kernels of `mila-kernels`.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use mila_kernels::recurrence::{self as kernels, Rows};
use mila_ops::recurrence::{
    self, Course, Delta, Gate, InputGate, NonCausal, Normaliser, Part, Read, RecurrenceSizes, Resolved, Shortcut,
    Start, Steps,
};
use mila_ops::{Recurrence, RecurrenceOn, Result, ScanOrder, composed};

use crate::buffer::Map;
use crate::executor::Cpu;

/// Orders that are kept, resolved: the four of a cross-scan at four sizes.
const ORDERS: usize = 16;

/// Scan orders, resolved for the grids that they were asked for.
#[derive(Debug, Default)]
pub(crate) struct Orders(RwLock<HashMap<(ScanOrder, usize, usize), Arc<Steps>>>);

impl Orders {
    fn steps(&self, resolved: &Resolved) -> Result<Arc<Steps>> {
        let key = (resolved.order, resolved.output.height, resolved.output.width);
        if let Some(steps) = self.0.read().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Ok(Arc::clone(steps));
        }
        let steps = Arc::new(resolved.walk()?);
        let mut orders = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if orders.len() >= ORDERS {
            orders.clear();
        }
        orders.insert(key, Arc::clone(&steps));
        Ok(steps)
    }
}

/// See [`mila_ops::Executor::recurrence`].
pub(crate) fn one(cpu: &Cpu, r: &RecurrenceOn<'_, Cpu>) -> Result<(Map, Map)> {
    let checked = Checked::new(&cpu.orders, r)?;
    let output = checked.resolved.output;
    let mut states = cpu.pool.map(checked.resolved.sizes.state_dims(output.batch));
    // Nothing else can share a map that the pool has just made.
    let forward = |y: &mut [f32]| kernels::forward(cpu.isa(), &[checked.kernel()], y, states.unique());
    let y = cpu.operator("recurrence", output, forward)?;
    Ok((y, states))
}

/// See [`mila_ops::Executor::recurrences`]. Where the heads are the same, a block of channels takes all its ways through the
/// map while it is in the cache.
pub(crate) fn sum(cpu: &Cpu, all: &[RecurrenceOn<'_, Cpu>]) -> Result<Map> {
    let checked = all.iter().map(|r| Checked::new(&cpu.orders, r)).collect::<Result<Vec<_>>>()?;
    let shapes: Vec<_> = checked.iter().map(|c| (c.resolved.output, c.resolved.sizes.heads)).collect();
    let Some((output, _)) = shapes.first().copied().filter(|first| shapes.iter().all(|shape| shape == first)) else {
        return composed::recurrences(cpu, all);
    };
    let kernels: Vec<_> = checked.iter().map(Checked::kernel).collect();
    cpu.operator("recurrences", output, |y| kernels::forward(cpu.isa(), &kernels, y, None))
}

/// A recurrence that fits, with its steps.
struct Checked<'a> {
    r: Recurrence<Rows<'a>, &'a [f32], &'a [f32]>,
    resolved: Resolved,
    steps: Arc<Steps>,
}

impl<'a> Checked<'a> {
    fn new(orders: &Orders, r: &RecurrenceOn<'a, Cpu>) -> Result<Self> {
        let resolved = recurrence::resolve::<Cpu>(r, Map::dims, Vec::len)?;
        if let Gate::Scalar(log) | Gate::Keys(log) | Gate::Values(log) = &r.gate {
            let channels = log.whole().dims().channels;
            let range = log.range(channels);
            let rows = log.whole().values().chunks_exact(channels);
            RecurrenceSizes::check_logs(rows.flat_map(|row| &row[range.clone()]).map(|&log| f64::from(log)))?;
        }
        let map = |part: &Part<'a, Map>| {
            let stride = part.whole().dims().channels;
            Ok(Rows { values: part.whole().values(), stride, first: part.range(stride).start })
        };
        let parameter = |part: &Part<'a, Vec<f32>>| Ok(&part.whole()[part.range(part.whole().len())]);
        let operands = r.with_operands(map, parameter, |start| Ok::<_, mila_ops::Error>(start.values()))?;
        Ok(Self { steps: orders.steps(&resolved)?, resolved, r: operands })
    }

    /// As the kernels take it.
    fn kernel(&self) -> kernels::Recurrence<'_> {
        let (r, sizes, output) = (&self.r, self.resolved.sizes, self.resolved.output);
        let delta = |delta: &Delta<Rows<'a>, &'a [f32]>| kernels::Delta { raw: delta.raw, bias: delta.bias };
        kernels::Recurrence {
            batch: output.batch,
            tokens: output.tokens(),
            heads: sizes.heads,
            keys: sizes.keys,
            values: sizes.values,
            walk: match r.course {
                Course::Causal(_) => kernels::Walk::Steps {
                    index: self.steps.index(),
                    starts: self.steps.starts(),
                    until: self.resolved.until,
                },
                Course::NonCausal(NonCausal::Sum) => kernels::Walk::All { share: 1.0 },
                Course::NonCausal(NonCausal::Mean) => kernels::Walk::All { share: 1.0 / output.tokens() as f32 },
            },
            q: r.q,
            k: r.k,
            v: r.v,
            decay: match &r.gate {
                Gate::None => kernels::Decay::None,
                Gate::Constant(gates) => kernels::Decay::Constant(gates),
                Gate::Scalar(log) => kernels::Decay::Scalar(*log),
                Gate::Keys(log) => kernels::Decay::Keys(*log),
                Gate::Values(log) => kernels::Decay::Values(*log),
                Gate::Factored { delta: step, a_log } => kernels::Decay::Factored { delta: delta(step), a_log },
            },
            input: match &r.input_gate {
                InputGate::None => kernels::Input::None,
                InputGate::OfGate => kernels::Input::OfDecay,
                InputGate::Channel(step) => kernels::Input::Channel(delta(step)),
                InputGate::Head(step) => kernels::Input::Head(delta(step)),
            },
            bonus: match r.read {
                Read::AfterWrite => None,
                Read::BeforeWrite { bonus } => Some(bonus),
            },
            normaliser: match r.normaliser {
                Normaliser::None => kernels::Normaliser::None,
                Normaliser::Gated { eps } => kernels::Normaliser::Decaying(eps as f32),
                Normaliser::Ungated { eps } => kernels::Normaliser::Constant(eps as f32),
            },
            shortcut: match r.shortcut {
                Shortcut::None => None,
                Shortcut::Value(d) => Some((d, r.v)),
                Shortcut::Map { d, x } => Some((d, x)),
            },
            start: match r.start {
                Start::Zeros => None,
                Start::Carried(start) => Some(start),
            },
        }
    }
}
