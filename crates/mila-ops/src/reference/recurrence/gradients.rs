//! The gradients of a recurrence for its operands.

use super::image::{Image, join, normaliser_of, split};
use super::{Array, Checked, Course, Gate, Part, Real, Shortcut, Start, Steps, Table, sigmoid};
use crate::Dims;
use crate::recurrence::{Decay, Delta, Gradients, InputGate, Read, Sequence, all_tokens, recurrent};

/// The gradients of the operands that a recurrence has, each in the shape of its part; what it does not have is empty.
///
/// Where two operands are parts of one map, their gradients are apart.
#[derive(Clone, Debug)]
pub struct RecurrenceGradients<T> {
    /// Of q.
    pub q: Array<T>,
    /// Of k.
    pub k: Array<T>,
    /// Of v.
    pub v: Array<T>,
    /// Of the gate's map: a logarithm, or step sizes before the softplus.
    pub gate: Array<T>,
    /// Of the bias of the gate's step sizes.
    pub gate_bias: Vec<T>,
    /// Of `a_log`.
    pub a_log: Vec<T>,
    /// Of the input gate's own step sizes before the softplus.
    pub input: Array<T>,
    /// Of the bias of the input gate's own step sizes.
    pub input_bias: Vec<T>,
    /// Of the bonus.
    pub bonus: Vec<T>,
    /// Of the shortcut's factors.
    pub d: Vec<T>,
    /// Of the shortcut's own map.
    pub x: Array<T>,
    /// Of the state carried in.
    pub start: Array<T>,
}

impl<T: Real> RecurrenceGradients<T> {
    pub(super) fn zeros(checked: &Checked<'_, T>) -> Self {
        let (r, dims) = (checked.r, checked.dims);
        let empty = || Array::zeros(dims.with_channels(0));
        let map =
            |part: &Part<'_, Array<T>>| Array::zeros(dims.with_channels(part.range(part.whole().dims.channels).len()));
        let values = |part: &Part<'_, Table<T>>| vec![T::zero(); part.range(part.whole().values.len()).len()];
        let steps = |delta: &Delta<Part<'_, Array<T>>, Part<'_, Table<T>>>| {
            (map(&delta.raw), delta.bias.as_ref().map(values).unwrap_or_default())
        };
        let (gate, gate_bias) = match &r.gate {
            Gate::None | Gate::Constant(_) => (empty(), Vec::new()),
            Gate::Scalar(log) | Gate::Keys(log) | Gate::Values(log) => (map(log), Vec::new()),
            Gate::Factored { delta, .. } => steps(delta),
        };
        let (input, input_bias) = match &r.input_gate {
            InputGate::None | InputGate::OfGate => (empty(), Vec::new()),
            InputGate::Channel(delta) | InputGate::Head(delta) => steps(delta),
        };
        Self {
            q: map(&r.q),
            k: map(&r.k),
            v: map(&r.v),
            gate,
            gate_bias,
            a_log: if let Gate::Factored { a_log, .. } = &r.gate { values(a_log) } else { Vec::new() },
            input,
            input_bias,
            bonus: if let Read::BeforeWrite { bonus } = &r.read { values(bonus) } else { Vec::new() },
            d: if let Shortcut::Value(d) | Shortcut::Map { d, .. } = &r.shortcut { values(d) } else { Vec::new() },
            x: if let Shortcut::Map { x, .. } = &r.shortcut { map(x) } else { empty() },
            start: match r.start {
                Start::Zeros => Array::zeros(Dims::new(dims.batch, 0, 0, 0)),
                Start::Carried(map) => Array::zeros(map.dims),
            },
        }
    }

    /// Adds what the cotangents of image `b` give.
    pub(super) fn add_image(&mut self, checked: &Checked<'_, T>, b: usize, output: &Array<T>, state: &Array<T>) {
        let (sizes, steps) = (checked.sizes, &checked.steps);
        let image = Image::new(checked, b);
        let core = image.core(checked);
        let y = super::gathered(&Part::All(output), b, steps);
        let (state, sums_state) = split(sizes, &state.values[b * sizes.state()..][..sizes.state()]);

        // ō = ȳ / n and n̄ = -ō · o / n, the sum over the channels that share n.
        let mut outputs = y.clone();
        let mut normalisers = vec![T::zero(); core.normaliser.len()];
        if !normalisers.is_empty() {
            for (i, o) in outputs.iter_mut().enumerate() {
                let j = normaliser_of(sizes, i);
                *o = *o / core.normaliser[j];
                normalisers[j] = normalisers[j] - *o * core.outputs[i] / core.normaliser[j];
            }
        }
        let back = |s: &Sequence<T>, outputs: &[T], state: &[T]| match checked.r.course {
            Course::Causal(_) => recurrent::backward(s, outputs, state, checked.until),
            Course::NonCausal(form) => all_tokens::backward(s, form, outputs, state),
        };
        let mut g = back(&image.sequence, &outputs, &state);
        let mut sums_start = Vec::new();
        if let Some(sums) = &image.sums {
            let of_sums = back(sums, &normalisers, &sums_state);
            add(&mut g.q, &of_sums.q);
            add(&mut g.k, &of_sums.k);
            add(&mut g.bonus, &of_sums.bonus);
            add_decay(&mut g.decay, &of_sums.decay);
            sums_start = of_sums.start;
        }
        if !self.start.values.is_empty() {
            join(sizes, &g.start, &sums_start, &mut self.start.values[b * sizes.state()..][..sizes.state()]);
        }
        self.add_operands(checked, b, &image, &y, g);
    }

    fn add_operands(&mut self, checked: &Checked<'_, T>, b: usize, image: &Image<T>, y: &[T], g: Gradients<T>) {
        let (sizes, steps) = (checked.sizes, &checked.steps);
        let channels = sizes.channels();
        let mut v: Vec<T> = (0..g.u.len()).map(|i| g.u[i] * image.input_step(checked, i)).collect();
        let mut x = vec![T::zero(); self.x.dims.channels * steps.len()];
        if !image.d.is_empty() {
            let target = if x.is_empty() { &mut v } else { &mut x };
            for i in 0..y.len() {
                target[i] = target[i] + image.d[i % channels] * y[i];
                self.d[i % channels] = self.d[i % channels] + image.x[i] * y[i];
            }
        }
        // Of the step sizes: what the input gate gives, then what the gate gives, then through the softplus.
        let (mut gate, mut input) = (vec![T::zero(); image.gate.len()], vec![T::zero(); image.input.len()]);
        for i in 0..g.u.len() {
            let of_step = g.u[i] * image.v[i];
            match checked.r.input_gate {
                InputGate::None => {}
                InputGate::OfGate => gate[i] = gate[i] + of_step,
                InputGate::Channel(_) => input[i] = input[i] + of_step,
                InputGate::Head(_) => input[i / sizes.values] = input[i / sizes.values] + of_step,
            }
        }
        match (g.decay, &image.sequence.decay) {
            (Decay::Factored { delta, a: a_gradient }, Decay::Factored { a, .. }) => {
                add(&mut gate, &delta);
                // A = -exp(a_log), so its derivative is A.
                add(&mut self.a_log, &a.iter().zip(a_gradient).map(|(&a, g)| a * g).collect::<Vec<_>>());
            }
            (Decay::Scalar(log) | Decay::Keys(log) | Decay::Values(log), _) => gate = log,
            _ => {}
        }
        for (gradient, before, bias) in
            [(&mut gate, &image.gate, &mut self.gate_bias), (&mut input, &image.input, &mut self.input_bias)]
        {
            gradient.iter_mut().zip(before).for_each(|(g, &x)| *g = *g * sigmoid(x));
            if !bias.is_empty() {
                gradient.chunks_exact(bias.len()).for_each(|row| add(bias, row));
            }
        }
        if !self.bonus.is_empty() {
            add(&mut self.bonus, &g.bonus);
        }
        let maps = [
            (&mut self.q, &g.q),
            (&mut self.k, &g.k),
            (&mut self.v, &v),
            (&mut self.gate, &gate),
            (&mut self.input, &input),
            (&mut self.x, &x),
        ];
        maps.into_iter().for_each(|(map, rows)| scatter(map, rows, b, steps));
    }
}

fn add<T: Real>(to: &mut [T], from: &[T]) {
    to.iter_mut().zip(from).for_each(|(to, &from)| *to = *to + from);
}

fn add_decay<T: Real>(to: &mut Decay<T>, from: &Decay<T>) {
    match (to, from) {
        (Decay::Constant(to), Decay::Constant(from))
        | (Decay::Scalar(to), Decay::Scalar(from))
        | (Decay::Keys(to), Decay::Keys(from))
        | (Decay::Values(to), Decay::Values(from)) => add(to, from),
        (Decay::Factored { delta, a }, Decay::Factored { delta: d, a: r }) => {
            add(delta, d);
            add(a, r);
        }
        _ => {}
    }
}

/// Writes rows along the steps to the tokens of image `b`.
fn scatter<T: Real>(map: &mut Array<T>, rows: &[T], b: usize, steps: &Steps) {
    let (channels, tokens) = (map.dims.channels, map.dims.tokens());
    for (t, &token) in steps.index().iter().enumerate().filter(|&(_, &token)| token != Steps::PAD) {
        let row = (b * tokens + token as usize) * channels;
        map.values[row..row + channels].copy_from_slice(&rows[t * channels..][..channels]);
    }
}
