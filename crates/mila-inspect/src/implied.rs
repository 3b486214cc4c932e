//! The attention that a recurrence implies: one row of its matrix, for one token that looks.

use mila_ops::recurrence::{
    self, At, Course, Decay, Delta, Gate, InputGate, NonCausal, Normaliser, Read, Resolved, Sequence, Start, Steps,
};
use mila_ops::reference::softplus;
use mila_ops::{Dims, Error, Numeric, RecurrenceOn, Result};
use rayon::prelude::*;

use crate::gates::{MapPart, ParameterPart, PerToken, parameter, read};

/// Channels that one thread sums up. Fixed, so that the sum has the same bits on any number of threads.
const TOGETHER: usize = 16;

/// How much the value of every token of an image counts for the token that `looking` finds on a map's extents, the mean over
/// channels. Where that token is visited at step t,
///
/// ```text
/// w_tj = Δ_j Σ_n q_tn k_jn Π_{j < r ≤ t} G_rn / n_t
/// ```
///
/// so that `y_t = Σ_j w_tj v_j`, and the shortcut. It is a row of [`mila_ops::recurrence::quadratic::attention`] with input gate and
/// normaliser, of which the rest is not computed. None if the recurrence starts from a carried state, which is no token's.
///
/// # Errors
/// Those of [`recurrence::resolve`] and of the executor.
pub(crate) fn weights<E: Numeric>(
    e: &E,
    r: &RecurrenceOn<'_, E>,
    looking: impl Fn(Dims) -> usize,
) -> Result<Option<PerToken>> {
    let resolved = resolved(e, r)?;
    if let Start::Carried(_) = r.start {
        return Ok(None);
    }
    let dims = resolved.output;
    let mut values = vec![0.0; dims.tokens()];
    let seen = seen(r.course, &resolved, looking(dims))?;
    if seen.is_empty() {
        return Ok(Some(PerToken { dims, values }));
    }
    let s = sequence(e, r, &resolved, &seen)?;
    let channels: Vec<[usize; 2]> =
        (0..s.heads).flat_map(|head| (0..s.values).map(move |value| [head, value])).collect();
    let undecayed: Vec<f64> = (0..s.heads).map(|head| undecayed(&s, head)).collect();
    let (normaliser, course) = (r.normaliser, r.course);
    let below = |head: usize, row: &[f64]| match (normaliser, course) {
        (Normaliser::None, Course::NonCausal(NonCausal::Mean)) => seen.len() as f64,
        (Normaliser::None, _) => 1.0,
        (Normaliser::Gated { eps } | Normaliser::Ungated { eps }, Course::NonCausal(_)) => {
            undecayed[head] + eps * seen.len() as f64
        }
        (Normaliser::Gated { eps }, _) => row.iter().sum::<f64>() + eps,
        (Normaliser::Ungated { eps }, _) => undecayed[head] + eps,
    };
    let of_channels = |channels: &[[usize; 2]]| {
        let mut sum = vec![0.0; s.len()];
        for &[head, value] in channels {
            let row = row(&s, head, value);
            let below = below(head, &row);
            let written = s.u[head * s.values + value..].iter().step_by(s.heads * s.values);
            sum.iter_mut().zip(row).zip(written).for_each(|((sum, weight), u)| *sum += weight * u / below);
        }
        sum
    };
    let sums: Vec<Vec<f64>> = channels.par_chunks(TOGETHER).map(of_channels).collect();
    for sum in sums {
        let at_tokens = seen.iter().zip(sum).filter_map(|(token, weight)| Some(((*token)?, weight)));
        at_tokens.for_each(|(token, weight)| values[token] += weight / channels.len() as f64);
    }
    Ok(Some(PerToken { dims, values }))
}

/// The sizes of a recurrence, found to fit before anything is computed.
fn resolved<E: Numeric>(e: &E, r: &RecurrenceOn<'_, E>) -> Result<Resolved> {
    let unread = std::cell::Cell::new(None::<Error>);
    let dims = |map: &E::Map| {
        e.read(map).map(|map| map.dims).unwrap_or_else(|error| {
            unread.set(Some(error));
            Dims::new(0, 0, 0, 0)
        })
    };
    let volume = |parameter: &E::Parameter| {
        e.read_parameter(parameter).map(|values| values.len()).unwrap_or_else(|error| {
            unread.set(Some(error));
            0
        })
    };
    let resolved = recurrence::resolve::<E>(r, dims, volume);
    unread.take().map_or(resolved, Err)
}

/// The tokens that the token `looking` sees, step by step up to its own; none where a step visits no token, and no steps if none
/// visits it. Without an order all tokens are seen, in any order but itself last.
fn seen(course: Course, resolved: &Resolved, looking: usize) -> Result<Vec<Option<usize>>> {
    if let Course::NonCausal(_) = course {
        let others = (0..resolved.output.tokens()).filter(|&token| token != looking);
        return Ok(others.chain([looking]).map(Some).collect());
    }
    let steps = resolved.walk()?;
    let token = |step: u32| (step != Steps::PAD).then_some(step as usize);
    let Some(last) = steps.index().iter().position(|&step| token(step) == Some(looking)) else {
        return Ok(Vec::new());
    };
    let first = steps.segments().map(|segment| segment.start).take_while(|&start| start <= last).last().unwrap_or(0);
    Ok(steps.index()[first..=last].iter().map(|&step| token(step)).collect())
}

/// The operands along the steps that are seen, of values that are all one before the input gate.
fn sequence<E: Numeric>(
    e: &E,
    r: &RecurrenceOn<'_, E>,
    resolved: &Resolved,
    seen: &[Option<usize>],
) -> Result<Sequence<f64>> {
    let sizes = resolved.sizes;
    let along = |part: &MapPart<'_, E>| along(e, part, seen);
    let step_sizes = |delta| step_sizes::<E>(e, delta, seen);
    let decay = match &r.gate {
        Gate::None => Decay::None,
        Gate::Constant(gates) => Decay::Constant(gates.iter().map(|&gate| f64::from(gate).ln()).collect()),
        Gate::Scalar(log) => Decay::Scalar(along(log)?),
        Gate::Keys(log) => Decay::Keys(along(log)?),
        Gate::Values(log) => Decay::Values(along(log)?),
        Gate::Factored { delta, a_log } => {
            let a = parameter::<E>(e, a_log)?.iter().map(|&a_log| -f64::from(a_log).exp()).collect();
            Decay::Factored { delta: step_sizes(delta)?, a }
        }
    };
    let u = match (&r.input_gate, &decay) {
        (InputGate::OfGate, Decay::Factored { delta, .. }) => delta.clone(),
        (InputGate::Channel(delta), _) => step_sizes(delta)?,
        (InputGate::Head(delta), _) => {
            step_sizes(delta)?.into_iter().flat_map(|step| std::iter::repeat_n(step, sizes.values)).collect()
        }
        (InputGate::None | InputGate::OfGate, _) => vec![1.0; seen.len() * sizes.channels()],
    };
    let bonus = match &r.read {
        Read::AfterWrite => None,
        Read::BeforeWrite { bonus } => Some(parameter::<E>(e, bonus)?.into_iter().map(f64::from).collect()),
    };
    Ok(Sequence {
        heads: sizes.heads,
        keys: sizes.keys,
        values: sizes.values,
        segments: std::iter::once(0..seen.len()).collect(),
        q: along(&r.q)?,
        k: along(&r.k)?,
        u,
        decay,
        bonus,
        start: vec![0.0; sizes.heads * sizes.keys * sizes.values],
    })
}

/// The channels of a part along the steps, `[steps, channels]`; zero where a step visits no token.
fn along<E: Numeric>(e: &E, part: &MapPart<'_, E>, seen: &[Option<usize>]) -> Result<Vec<f64>> {
    let map = read(e, part)?;
    let width = map.dims.channels;
    let mut rows = vec![0.0; seen.len() * width];
    for (row, token) in rows.chunks_exact_mut(width).zip(seen) {
        if let Some(token) = token {
            row.iter_mut().zip(&map.values[token * width..]).for_each(|(x, &value)| *x = f64::from(value));
        }
    }
    Ok(rows)
}

/// `softplus(raw + bias)` along the steps.
fn step_sizes<E: Numeric>(
    e: &E,
    delta: &Delta<MapPart<'_, E>, ParameterPart<'_, E>>,
    seen: &[Option<usize>],
) -> Result<Vec<f64>> {
    let mut steps = along(e, &delta.raw, seen)?;
    if let Some(bias) = &delta.bias {
        let bias = parameter::<E>(e, bias)?;
        steps.iter_mut().zip(bias.iter().cycle()).for_each(|(x, &b)| *x += f64::from(b));
    }
    steps.iter_mut().for_each(|x| *x = softplus(*x));
    Ok(steps)
}

/// By how much what each step wrote is in what the last one reads, in a channel of a head.
fn row(s: &Sequence<f64>, head: usize, value: usize) -> Vec<f64> {
    let mut row = vec![0.0; s.len()];
    for key in 0..s.keys {
        let at = At { head, key, value };
        let (q, k) = ends(s, head, key);
        // Where the state is read before the write, the last step's gate has not met it yet.
        let mut kept = 1.0;
        for (j, (weight, k)) in row.iter_mut().zip(k).enumerate().rev() {
            let own = s.bonus.as_ref().filter(|_| j + 1 == s.len()).map(|bonus| bonus[s.key(at)]);
            *weight += q * k * own.unwrap_or(kept);
            if own.is_none() {
                kept *= s.log_gate(j, at).exp();
            }
        }
    }
    row
}

/// The same in all, if nothing decayed: what sums up the keys.
fn undecayed(s: &Sequence<f64>, head: usize) -> f64 {
    let of_key = |key: usize| {
        let (q, k) = ends(s, head, key);
        let own = s.bonus.as_ref().map_or(1.0, |bonus| bonus[head * s.keys + key]);
        let weight = |j: usize| if j + 1 == s.len() { own } else { 1.0 };
        q * k.enumerate().map(|(j, k)| weight(j) * k).sum::<f64>()
    };
    (0..s.keys).map(of_key).sum()
}

/// The query of the last step, and the keys of all.
fn ends(s: &Sequence<f64>, head: usize, key: usize) -> (f64, impl DoubleEndedIterator<Item = f64> + ExactSizeIterator) {
    let (width, channel) = (s.heads * s.keys, head * s.keys + key);
    (s.q[s.q.len() - width + channel], s.k[channel..].iter().step_by(width).copied())
}

#[cfg(test)]
mod tests {
    use mila_ops::Executor;
    use mila_ops::recurrence::{Part, Shortcut, quadratic};
    use mila_ops::reference::{Array, Reference, Table};
    use mila_parity::{RecurrenceCase, StartKind};

    use super::*;

    const TOKENS: [usize; 4] = [0, 4, 7, 19];

    /// Calls `check` with every kind of recurrence over the same tokens.
    fn each_case(check: impl Fn(&RecurrenceCase, &RecurrenceOn<'_, Reference<f64>>)) {
        for case in RecurrenceCase::all() {
            let dims = Dims::new(1, 4, 5, case.channels());
            let operands = case.operands(dims);
            let (map, start) = (Array::new(dims, operands.map), Array::new(case.state_dims(1), operands.start));
            check(&case, &case.recurrence(&map, &Table::from(operands.parameters), &start));
        }
    }

    fn at(token: usize) -> impl Fn(Dims) -> usize {
        move |dims| {
            assert_eq!((dims.height, dims.width), (4, 5));
            token
        }
    }

    /// With values that all channels share, the mean over channels of the outputs is that of the weights.
    #[test]
    fn weights_times_values_are_the_recurrence() {
        let e = Reference::<f64>::eval();
        let value = |token: usize| f64::from((1.1 * token as f64).cos() as f32);
        each_case(|case, r| {
            let channels = case.heads * case.values;
            let dims = Dims::new(1, 4, 5, channels);
            let v = Array::new(dims, (0..dims.volume()).map(|i| value(i / channels)).collect());
            let r = RecurrenceOn::<Reference<f64>> {
                v: Part::All(&v),
                shortcut: Shortcut::None,
                start: Start::Zeros,
                ..r.clone()
            };
            let y = e.recurrence(&r).expect("a recurrence").0;
            for token in TOKENS {
                let found = weights(&e, &r, at(token)).expect("weights").expect("no state before the image").values;
                assert_eq!(found.len(), 20);
                let found: f64 = found.iter().enumerate().map(|(n, weight)| weight * value(n)).sum();
                let wanted = y.values[token * channels..][..channels].iter().sum::<f64>() / channels as f64;
                assert!(
                    (found - wanted).abs() <= 1e-9 * wanted.abs().max(1.0),
                    "{case:?} from {token}: {found}, {wanted}"
                );
            }
        });
    }

    /// A row of the matrix, of every head and channel.
    #[test]
    fn rows_are_those_of_the_quadratic_form() {
        let e = Reference::<f64>::eval();
        each_case(|case, r| {
            let resolved = resolved(&e, r).expect("sizes");
            for token in TOKENS {
                let seen = seen(r.course, &resolved, token).expect("steps");
                if seen.is_empty() {
                    continue;
                }
                let s = sequence(&e, r, &resolved, &seen).expect("operands");
                for (head, value) in (0..case.heads).flat_map(|head| (0..case.values).map(move |value| (head, value))) {
                    let matrix = quadratic::attention(&s, head, value);
                    let found = row(&s, head, value);
                    let wanted = &matrix[(s.len() - 1) * s.len()..];
                    assert_eq!(found.len(), wanted.len());
                    for (found, wanted) in found.iter().zip(wanted) {
                        assert!((found - wanted).abs() < 1e-12, "{case:?} from {token}: {found}, {wanted}");
                    }
                }
            }
        });
    }

    #[test]
    fn a_carried_state_is_no_token() {
        let e = Reference::<f64>::eval();
        each_case(|case, r| {
            let found = weights(&e, r, at(7)).expect("weights");
            assert_eq!(found.is_some(), case.start == StartKind::Zeros, "{case:?}");
        });
    }

    #[test]
    fn operands_that_do_not_fit_are_refused() {
        let e = Reference::<f64>::eval();
        let [a, b] = [4, 6].map(|channels| Array::new(Dims::new(1, 2, 2, channels), vec![0.5; 4 * channels]));
        let r: RecurrenceOn<'_, Reference<f64>> =
            mila_ops::Recurrence::causal((&a).into(), (&b).into(), (&a).into(), mila_ops::ScanOrder::ROWS);
        assert!(matches!(weights(&e, &r, |_| 0), Err(Error::Shape { .. })));
    }
}
