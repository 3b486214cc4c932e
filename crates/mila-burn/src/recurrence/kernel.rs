//! The custom operation of a recurrence, on the kernels of `mila-kernels`.

use std::ops::Range;

use mila_kernels::Isa;
use mila_kernels::recurrence::{self as kernels, Gradients, Rows};
use mila_ops::recurrence::{Course, Delta, Gate, InputGate, NonCausal, Normaliser, Read, Shortcut, Start};

use super::Packed;

impl Packed {
    /// Values of the output and then of the state.
    pub(crate) fn forward(&self, isa: Isa, x: &[f32], parameters: &[f32], start: Option<&[f32]>) -> Vec<f32> {
        let outputs = self.resolved.output.volume();
        let mut both = vec![0.0; outputs + self.resolved.sizes.state_dims(self.resolved.output.batch).volume()];
        let (y, states) = both.split_at_mut(outputs);
        kernels::forward(isa, &[self.kernel(x, parameters, start)], y, Some(states));
        both
    }

    /// Gradients of the map, the parameter and the start, given that of output and state.
    pub(crate) fn backward(
        &self,
        isa: Isa,
        (x, parameters, start): (&[f32], &[f32], Option<&[f32]>),
        dy: &[f32],
        [dx, dparameters, dstart]: [&mut [f32]; 3],
    ) {
        let (dy, dstates) = dy.split_at(self.resolved.output.volume());
        let r = self.kernel(x, parameters, start);
        // Parameters stand in the order in which the recurrence asks for them.
        let mut rest = dparameters;
        let [decay_bias, a_log, input_bias, bonus, d] = self.parameter_lengths().map(|len| {
            let (part, after) = std::mem::take(&mut rest).split_at_mut(len);
            rest = after;
            part
        });
        let dstart = if start.is_some() { dstart } else { &mut [] };
        let gradients = &mut Gradients { map: dx, decay_bias, a_log, input_bias, bonus, d, start: dstart };
        kernels::backward(isa, &r, dy, dstates, gradients);
    }

    /// Values of the gate's bias, `a_log`, the input gate's bias, the bonus and D.
    fn parameter_lengths(&self) -> [usize; 5] {
        let bias = |delta: &Delta<Range<usize>, Range<usize>>| delta.bias.as_ref().map_or(0, Range::len);
        let (decay_bias, a_log) = match &self.r.gate {
            Gate::Factored { delta, a_log } => (bias(delta), a_log.len()),
            _ => (0, 0),
        };
        let input_bias = match &self.r.input_gate {
            InputGate::None | InputGate::OfGate => 0,
            InputGate::Channel(delta) | InputGate::Head(delta) => bias(delta),
        };
        let bonus = if let Read::BeforeWrite { bonus } = &self.r.read { bonus.len() } else { 0 };
        let d = if let Shortcut::Value(d) | Shortcut::Map { d, .. } = &self.r.shortcut { d.len() } else { 0 };
        [decay_bias, a_log, input_bias, bonus, d]
    }

    /// As the kernels take it.
    fn kernel<'a>(&'a self, x: &'a [f32], parameters: &'a [f32], start: Option<&'a [f32]>) -> kernels::Recurrence<'a> {
        let (r, sizes, output) = (&self.r, self.resolved.sizes, self.resolved.output);
        let stride = x.len() / output.rows().max(1);
        let rows = |range: &Range<usize>| Rows { values: x, stride: stride.max(range.end), first: range.start };
        let values = |range: &Range<usize>| &parameters[range.clone()];
        let delta = |delta: &Delta<Range<usize>, Range<usize>>| kernels::Delta {
            raw: rows(&delta.raw),
            bias: delta.bias.as_ref().map(values),
        };
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
            q: rows(&r.q),
            k: rows(&r.k),
            v: rows(&r.v),
            decay: match &r.gate {
                Gate::None => kernels::Decay::None,
                Gate::Constant(gates) => kernels::Decay::Constant(gates),
                Gate::Scalar(log) => kernels::Decay::Scalar(rows(log)),
                Gate::Keys(log) => kernels::Decay::Keys(rows(log)),
                Gate::Values(log) => kernels::Decay::Values(rows(log)),
                Gate::Factored { delta: step, a_log } => {
                    kernels::Decay::Factored { delta: delta(step), a_log: values(a_log) }
                }
            },
            input: match &r.input_gate {
                InputGate::None => kernels::Input::None,
                InputGate::OfGate => kernels::Input::OfDecay,
                InputGate::Channel(step) => kernels::Input::Channel(delta(step)),
                InputGate::Head(step) => kernels::Input::Head(delta(step)),
            },
            bonus: match &r.read {
                Read::AfterWrite => None,
                Read::BeforeWrite { bonus } => Some(values(bonus)),
            },
            normaliser: match r.normaliser {
                Normaliser::None => kernels::Normaliser::None,
                Normaliser::Gated { eps } => kernels::Normaliser::Decaying(eps as f32),
                Normaliser::Ungated { eps } => kernels::Normaliser::Constant(eps as f32),
            },
            shortcut: match &r.shortcut {
                Shortcut::None => None,
                Shortcut::Value(d) => Some((values(d), rows(&r.v))),
                Shortcut::Map { d, x } => Some((values(d), rows(x))),
            },
            start: match r.start {
                Start::Zeros => None,
                Start::Carried(()) => start,
            },
        }
    }
}
