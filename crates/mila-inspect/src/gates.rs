//! The gates of a recurrence, from its operands.

use mila_ops::recurrence::{Delta, Gate, InputGate, Part};
use mila_ops::reference::{Array, softplus};
use mila_ops::{Dims, Numeric, RecurrenceOn, Result};
use rayon::prelude::*;

/// A part of a map, read out.
pub(crate) type MapPart<'a, E> = Part<'a, <E as mila_ops::Executor>::Map>;
/// A part of a parameter.
pub(crate) type ParameterPart<'a, E> = Part<'a, <E as mila_ops::Executor>::Parameter>;

/// A number for every token of a map of `dims`.
pub(crate) struct PerToken {
    pub(crate) dims: Dims,
    pub(crate) values: Vec<f64>,
}

impl PerToken {
    /// The sum with another of the same map.
    pub(crate) fn plus(mut self, other: Self) -> Self {
        self.values.iter_mut().zip(other.values).for_each(|(sum, next)| *sum += next);
        self
    }
}

/// The mean over the channels of every token.
pub(crate) fn mean_channels(map: &Array<f32>) -> PerToken {
    let tokens = map.values.chunks_exact(map.dims.channels.max(1));
    let mean = |token: &[f32]| token.iter().map(|&v| f64::from(v)).sum::<f64>() / token.len() as f64;
    PerToken { dims: map.dims, values: tokens.map(mean).collect() }
}

/// The mean of the forget gate over tokens and the elements of the state; none of a recurrence that does not forget.
///
/// Of a gate in two factors: `exp(softplus(raw + bias) A)` with `A = -exp(a_log)`, over tokens, channels and keys.
pub(crate) fn mean_forget_gate<E: Numeric>(e: &E, r: &RecurrenceOn<'_, E>) -> Result<Option<f64>> {
    let of_logarithms = |log: &MapPart<'_, E>| {
        let log = read(e, log)?;
        Ok(Some(log.values.iter().map(|&v| f64::from(v).exp()).sum::<f64>() / log.values.len() as f64))
    };
    match &r.gate {
        Gate::None => Ok(None),
        Gate::Constant(gates) => Ok(Some(gates.iter().map(|&g| f64::from(g)).sum::<f64>() / gates.len() as f64)),
        Gate::Scalar(log) | Gate::Keys(log) | Gate::Values(log) => of_logarithms(log),
        Gate::Factored { delta, a_log } => {
            let (dims, steps) = steps::<E>(e, delta)?;
            let a: Vec<f64> = parameter::<E>(e, a_log)?.iter().map(|&a_log| -f64::from(a_log).exp()).collect();
            let channels = dims.channels.max(1);
            let keys = (a.len() / channels).max(1);
            // A token's sum by itself, so that the mean has the same bits on any number of threads.
            let of_token = |token: &[f64]| -> f64 {
                token
                    .iter()
                    .zip(a.chunks_exact(keys))
                    .map(|(step, a)| a.iter().map(|a| (step * a).exp()).sum::<f64>())
                    .sum()
            };
            let tokens: Vec<f64> = steps.par_chunks_exact(channels).map(of_token).collect();
            Ok(Some(tokens.iter().sum::<f64>() / (tokens.len() * a.len()) as f64))
        }
    }
}

/// The mean over channels of a recurrence's input gate, token by token; none if it has none.
pub(crate) fn input_gate<E: Numeric>(e: &E, r: &RecurrenceOn<'_, E>) -> Result<Option<PerToken>> {
    let delta = match (&r.input_gate, &r.gate) {
        (InputGate::OfGate, Gate::Factored { delta, .. }) => delta,
        (InputGate::Channel(delta) | InputGate::Head(delta), _) => delta,
        _ => return Ok(None),
    };
    let (dims, steps) = steps::<E>(e, delta)?;
    let mean = |token: &[f64]| token.iter().sum::<f64>() / token.len() as f64;
    Ok(Some(PerToken { dims, values: steps.chunks_exact(dims.channels.max(1)).map(mean).collect() }))
}

/// `softplus(raw + bias)`, `[batch, height, width, channels]`.
fn steps<E: Numeric>(e: &E, delta: &Delta<MapPart<'_, E>, ParameterPart<'_, E>>) -> Result<(Dims, Vec<f64>)> {
    let raw = read(e, &delta.raw)?;
    let bias = match &delta.bias {
        Some(bias) => parameter::<E>(e, bias)?,
        None => vec![0.0; raw.dims.channels],
    };
    let steps = raw.values.iter().zip(bias.iter().cycle()).map(|(&raw, &b)| softplus(f64::from(raw) + f64::from(b)));
    Ok((raw.dims, steps.collect()))
}

/// The channels of a part, copied out.
pub(crate) fn read<E: Numeric>(e: &E, part: &MapPart<'_, E>) -> Result<Array<f32>> {
    let map = e.read(part.whole())?;
    let range = part.range(map.dims.channels);
    if range == (0..map.dims.channels) {
        return Ok(map);
    }
    let tokens = map.values.chunks_exact(map.dims.channels);
    let values = tokens.flat_map(|token| &token[range.clone()]).copied().collect();
    Ok(Array { dims: map.dims.with_channels(range.len()), values })
}

/// The values of a part.
pub(crate) fn parameter<E: Numeric>(e: &E, part: &ParameterPart<'_, E>) -> Result<Vec<f32>> {
    let values = e.read_parameter(part.whole())?;
    Ok(values[part.range(values.len())].to_vec())
}

#[cfg(test)]
mod tests {
    use mila_ops::reference::{Reference, Table};
    use mila_ops::{Recurrence, ScanOrder};

    use super::*;

    type On<'a> = RecurrenceOn<'a, Reference<f64>>;

    fn map(channels: usize, values: &[f64]) -> Array<f64> {
        Array::new(Dims::new(1, 1, values.len() / channels, channels), values.to_vec())
    }

    fn plain(x: &Array<f64>) -> On<'_> {
        Recurrence::causal(x.into(), x.into(), x.into(), ScanOrder::ROWS)
    }

    fn forget(r: &On<'_>) -> Option<f64> {
        mean_forget_gate(&Reference::<f64>::eval(), r).unwrap()
    }

    fn input(r: &On<'_>) -> Option<Vec<f64>> {
        input_gate(&Reference::<f64>::eval(), r).unwrap().map(|gate| gate.values)
    }

    fn near(found: f64, wanted: f64) {
        assert!((found - wanted).abs() < 1e-6, "{found} for {wanted}");
    }

    #[test]
    fn gates_of_every_form() {
        let x = map(2, &[0.1, 0.2, 0.3, 0.4, 0.5, 0.6]);
        assert_eq!((forget(&plain(&x)), input(&plain(&x))), (None, None));
        near(forget(&On { gate: Gate::Constant(vec![0.5, 0.75]), ..plain(&x) }).unwrap(), 0.625);
        // The second channel of a map that holds more.
        let log = map(3, &[9.0, 0.0, 9.0, 9.0, -1.0, 9.0, 9.0, f64::NEG_INFINITY, 9.0]);
        let part = Part::Range(&log, 1..2);
        for gate in [Gate::Scalar(part.clone()), Gate::Keys(part.clone()), Gate::Values(part)] {
            near(forget(&On { gate, ..plain(&x) }).unwrap(), (1.0 + (-1.0_f64).exp()) / 3.0);
        }
    }

    #[test]
    fn step_sizes_of_a_head_and_of_channels() {
        let x = map(2, &[0.1, 0.2, 0.3, 0.4, 0.5, 0.6]);
        let raw = map(2, &[0.0, 1.0, -40.0, 40.0, 0.5, 0.5]);
        let bias = Table::from(vec![7.0, 0.0, -0.5]);
        let delta = || Delta { raw: (&raw).into(), bias: Some(Part::Range(&bias, 1..3)) };
        let (half, two) = (0.5_f64.exp().ln_1p(), 2.0_f64.ln());
        let steps = [[two, half], [(-40.0_f64).exp().ln_1p(), 39.5], [half, two]];
        let wanted = steps.map(|[a, b]| (a + b) / 2.0);
        for gate in [InputGate::Channel(delta()), InputGate::Head(delta())] {
            let found = input(&On { input_gate: gate, ..plain(&x) }).unwrap();
            found.iter().zip(wanted).for_each(|(&found, wanted)| near(found, wanted));
        }
        // Of the gate, and what that forgets: A is -1 and -2 for the first channel, -3 and -4 for the second.
        let a_log = Table::from([1.0_f64, 2.0, 3.0, 4.0].map(f64::ln).to_vec());
        let gate = Gate::Factored { delta: delta(), a_log: (&a_log).into() };
        let r = On { gate, input_gate: InputGate::OfGate, ..plain(&x) };
        input(&r).unwrap().iter().zip(wanted).for_each(|(&found, wanted)| near(found, wanted));
        let sum = |[a, b]: [f64; 2]| (-a).exp() + (-2.0 * a).exp() + (-3.0 * b).exp() + (-4.0 * b).exp();
        near(forget(&r).unwrap(), steps.map(sum).iter().sum::<f64>() / 12.0);
    }
}
