//! The operands of one image along the steps, and what is computed of them.

use super::{Array, Checked, Course, Gate, Normaliser, Part, Shortcut, Start, Table, gathered, parameter, softplus};
use crate::recurrence::{Decay, Delta, InputGate, NonCausal, Read, RecurrenceSizes, Sequence, all_tokens, recurrent};
use crate::reference::Real;

/// Rows are steps.
pub(super) struct Image<T> {
    /// What is written and read.
    pub(super) sequence: Sequence<T>,
    /// That of the normaliser, if there is one.
    pub(super) sums: Option<Sequence<T>>,
    /// The values before the input gate.
    pub(super) v: Vec<T>,
    /// The arguments of the gate's softplus, per channel; empty without one.
    pub(super) gate: Vec<T>,
    /// Those of the input gate's, per channel or head; empty without one, or if it is the gate's.
    pub(super) input: Vec<T>,
    /// What the shortcut adds, and its factors; empty without one.
    pub(super) x: Vec<T>,
    pub(super) d: Vec<T>,
}

/// What the recurrences of an image give.
pub(super) struct Core<T> {
    pub(super) outputs: Vec<T>,
    pub(super) state: Vec<T>,
    /// `q_t · z_t + eps`, per head or channel, and the state z; empty without a normaliser.
    pub(super) normaliser: Vec<T>,
    pub(super) sums_state: Vec<T>,
}

impl<T: Real> Image<T> {
    pub(super) fn new(checked: &Checked<'_, T>, b: usize) -> Self {
        let (r, sizes, steps) = (checked.r, checked.sizes, &checked.steps);
        let map = |part: &Part<'_, Array<T>>| gathered(part, b, steps);
        let before_softplus = |delta: &Delta<Part<'_, Array<T>>, Part<'_, Table<T>>>| {
            let mut raw = map(&delta.raw);
            if let Some(bias) = delta.bias.as_ref().map(parameter) {
                raw.chunks_exact_mut(bias.len())
                    .for_each(|row| row.iter_mut().zip(&bias).for_each(|(x, &b)| *x = *x + b));
            }
            raw
        };
        let gate = match &r.gate {
            Gate::Factored { delta, .. } => before_softplus(delta),
            _ => Vec::new(),
        };
        let input = match &r.input_gate {
            InputGate::None | InputGate::OfGate => Vec::new(),
            InputGate::Channel(delta) | InputGate::Head(delta) => before_softplus(delta),
        };
        let decay = match &r.gate {
            Gate::None => Decay::None,
            Gate::Constant(gates) => Decay::Constant(gates.iter().map(|&gate| T::of(f64::from(gate)).ln()).collect()),
            Gate::Scalar(log) => Decay::Scalar(map(log)),
            Gate::Keys(log) => Decay::Keys(map(log)),
            Gate::Values(log) => Decay::Values(map(log)),
            Gate::Factored { a_log, .. } => Decay::Factored {
                delta: gate.iter().map(|&x| softplus(x)).collect(),
                a: parameter(a_log).iter().map(|a_log| -a_log.exp()).collect(),
            },
        };
        let v = map(&r.v);
        let (start, sums_start) = match r.start {
            Start::Zeros => split(sizes, &vec![T::zero(); sizes.state()]),
            Start::Carried(map) => split(sizes, &map.values[b * sizes.state()..][..sizes.state()]),
        };
        let (d, x) = match &r.shortcut {
            Shortcut::None => (Vec::new(), Vec::new()),
            Shortcut::Value(d) => (parameter(d), v.clone()),
            Shortcut::Map { d, x } => (parameter(d), map(x)),
        };
        let sequence = Sequence {
            heads: sizes.heads,
            keys: sizes.keys,
            values: sizes.values,
            segments: steps.segments().collect(),
            q: map(&r.q),
            k: map(&r.k),
            u: v.clone(),
            decay,
            bonus: match &r.read {
                Read::AfterWrite => None,
                Read::BeforeWrite { bonus } => Some(parameter(bonus)),
            },
            start,
        };
        let decays = matches!(r.normaliser, Normaliser::Gated { .. });
        let sums = (r.normaliser != Normaliser::None).then(|| sequence.sums(decays, sums_start));
        let mut image = Self { sequence, sums, v, gate, input, x, d };
        for i in 0..image.v.len() {
            image.sequence.u[i] = image.v[i] * image.input_step(checked, i);
        }
        image
    }

    /// The input gate of value `i`.
    pub(super) fn input_step(&self, checked: &Checked<'_, T>, i: usize) -> T {
        match checked.r.input_gate {
            InputGate::None => T::one(),
            InputGate::OfGate => softplus(self.gate[i]),
            InputGate::Channel(_) => softplus(self.input[i]),
            InputGate::Head(_) => softplus(self.input[i / checked.sizes.values]),
        }
    }

    pub(super) fn core(&self, checked: &Checked<'_, T>) -> Core<T> {
        let pass = |s: &Sequence<T>| match checked.r.course {
            Course::Causal(_) => recurrent::forward(s, checked.until),
            Course::NonCausal(form) => all_tokens::forward(s, form),
        };
        let (outputs, state) = pass(&self.sequence);
        let (mut normaliser, sums_state) = self.sums.as_ref().map(pass).unwrap_or_default();
        if let Normaliser::Gated { eps } | Normaliser::Ungated { eps } = checked.r.normaliser {
            // The sum form is the mean form times the tokens, eps included.
            let share = if checked.r.course == Course::NonCausal(NonCausal::Sum) { self.sequence.len() } else { 1 };
            normaliser.iter_mut().for_each(|n| *n = *n + T::of(eps * share as f64));
        }
        Core { outputs, state, normaliser, sums_state }
    }

    pub(super) fn normalised(&self, checked: &Checked<'_, T>, core: &Core<T>) -> Vec<T> {
        let normaliser = |i: usize| core.normaliser[normaliser_of(checked.sizes, i)];
        let divided = |(i, &o): (usize, &T)| if core.normaliser.is_empty() { o } else { o / normaliser(i) };
        core.outputs.iter().enumerate().map(divided).collect()
    }
}

/// The index of the normaliser of output `i`.
pub(super) fn normaliser_of(sizes: RecurrenceSizes, i: usize) -> usize {
    if sizes.sums == 1 { i / sizes.values } else { i }
}

/// The columns of S and those of z of a state.
pub(super) fn split<T: Real>(sizes: RecurrenceSizes, state: &[T]) -> (Vec<T>, Vec<T>) {
    let rows = || state.chunks_exact(sizes.values + sizes.sums).map(|row| row.split_at(sizes.values));
    (rows().flat_map(|(s, _)| s).copied().collect(), rows().flat_map(|(_, z)| z).copied().collect())
}

/// The inverse of [`split`].
pub(super) fn join<T: Real>(sizes: RecurrenceSizes, s: &[T], z: &[T], state: &mut [T]) {
    for (i, row) in state.chunks_exact_mut(sizes.values + sizes.sums).enumerate() {
        row[..sizes.values].copy_from_slice(&s[i * sizes.values..][..sizes.values]);
        row[sizes.values..].copy_from_slice(&z[i * sizes.sums..][..sizes.sums]);
    }
}
