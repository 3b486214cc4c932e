//! What must hold for any numbers: identities of the recurrence and of the MILA paper.

use mila_ops::recurrence::{Course, Delta, Gate, InputGate, NonCausal, Normaliser, Part, Path, StateAt};
use mila_ops::reference::{Array, Reference, Table};
use mila_ops::{Dims, Executor, Recurrence, RecurrenceOn, ScanOrder};
use mila_parity::{GateKind, InputKind, Operands, ReadKind, RecurrenceCase, ShortcutKind, StartKind};

use crate::{assert_near, run};

const TOLERANCE: f64 = 1e-10;

/// The tokens `range` of a row of tokens.
fn part(operands: &Operands, channels: usize, range: std::ops::Range<usize>, start: Vec<f64>) -> Operands {
    let map = operands.map[range.start * channels..range.end * channels].to_vec();
    Operands { map, start, ..operands.clone() }
}

fn causal() -> impl Iterator<Item = RecurrenceCase> {
    let by_rows = |case| RecurrenceCase { course: Course::Causal(ScanOrder::ROWS), state: StateAt::Last, ..case };
    RecurrenceCase::all().into_iter().filter(|case| matches!(case.course, Course::Causal(_))).map(by_rows)
}

#[test]
fn split_and_carry_is_one_pass() {
    for case in causal() {
        let operands = case.operands(Dims::new(1, 1, 9, 0));
        let whole = run(&case, Dims::new(1, 1, 9, 0), &operands).unwrap();
        for at in [1, 4, 8] {
            let first = part(&operands, case.channels(), 0..at, operands.start.clone());
            let (y1, state) = run(&case, Dims::new(1, 1, at, 0), &first).unwrap();
            let second = part(&operands, case.channels(), at..9, state.values);
            let carried = RecurrenceCase { start: StartKind::Carried, ..case };
            let (y2, last) = run(&carried, Dims::new(1, 1, 9 - at, 0), &second).unwrap();
            assert_near(&format!("{case:?}"), &[y1.values, y2.values].concat(), &whole.0.values, TOLERANCE);
            assert_near(&format!("{case:?}, state"), &last.values, &whole.1.values, TOLERANCE);
        }
    }
}

#[test]
fn a_state_within_is_the_last_of_the_prefix() {
    for case in causal() {
        let operands = case.operands(Dims::new(1, 1, 6, 0));
        for at in 1..=6 {
            let within = RecurrenceCase { state: StateAt::After(at), ..case };
            let (_, within) = run(&within, Dims::new(1, 1, 6, 0), &operands).unwrap();
            let prefix = part(&operands, case.channels(), 0..at, operands.start.clone());
            let (_, last) = run(&case, Dims::new(1, 1, at, 0), &prefix).unwrap();
            assert_near(&format!("{case:?} after {at}"), &within.values, &last.values, TOLERANCE);
        }
    }
}

#[test]
fn resets_are_independent_sequences() {
    for case in causal() {
        let (dims, side) = (Dims::new(1, 2, 6, 0), 2);
        let operands = case.operands(dims);
        let order = ScanOrder::along(Path::SeparateWindows { side });
        let windowed = RecurrenceCase { course: Course::Causal(order), ..case };
        let (y, _) = run(&windowed, dims, &operands).unwrap();
        let channels = case.heads * case.values;
        for window in 0..3 {
            let tokens = [0, 1, 6, 7].map(|token| token + side * window);
            let rows =
                |values: &[f64], width: usize| tokens.map(|t| values[t * width..(t + 1) * width].to_vec()).concat();
            let alone = Operands { map: rows(&operands.map, case.channels()), ..operands.clone() };
            let (wanted, _) = run(&case, Dims::new(1, 1, 4, 0), &alone).unwrap();
            assert_near(&format!("{case:?}, window {window}"), &rows(&y.values, channels), &wanted.values, TOLERANCE);
        }
    }
}

fn reversed(map: &[f64], channels: usize) -> Vec<f64> {
    map.chunks_exact(channels).rev().flatten().copied().collect()
}

#[test]
fn backward_is_forward_of_the_reversed_map() {
    for case in causal() {
        let dims = Dims::new(1, 2, 3, 0);
        let operands = case.operands(dims);
        let backward = RecurrenceCase { course: Course::Causal(ScanOrder::ROWS.reversed()), ..case };
        let (found, _) = run(&backward, dims, &operands).unwrap();
        let turned = Operands { map: reversed(&operands.map, case.channels()), ..operands };
        let (wanted, _) = run(&case, dims, &turned).unwrap();
        let wanted = reversed(&wanted.values, case.heads * case.values);
        assert_near(&format!("{case:?}"), &found.values, &wanted, TOLERANCE);
    }
}

#[test]
fn images_do_not_see_one_another() {
    for case in RecurrenceCase::all() {
        let dims = Dims::new(3, 2, 3, 0);
        let operands = case.operands(dims);
        let all = run(&case, dims, &operands).unwrap();
        for b in 0..3 {
            let image = |values: &[f64]| values[b * values.len() / 3..(b + 1) * values.len() / 3].to_vec();
            let alone = Operands { map: image(&operands.map), start: image(&operands.start), ..operands.clone() };
            let (y, state) = run(&case, Dims { batch: 1, ..dims }, &alone).unwrap();
            assert_near(&format!("{case:?}"), &image(&all.0.values), &y.values, TOLERANCE);
            assert_near(&format!("{case:?}, state"), &image(&all.1.values), &state.values, TOLERANCE);
        }
    }
}

/// The part of an operand that belongs to one head.
fn of_head<'a, T>(part: &Part<'a, T>, head: usize, heads: usize) -> Part<'a, T> {
    let Part::Range(whole, range) = part else { panic!("the operands of a case are parts") };
    let width = range.len() / heads;
    Part::Range(whole, range.start + head * width..range.start + (head + 1) * width)
}

#[test]
fn heads_do_not_see_one_another() {
    for case in RecurrenceCase::all().into_iter().filter(|case| case.heads > 1) {
        let dims = Dims::new(2, 2, 3, 0);
        let operands = case.operands(dims);
        let (y, state) = run(&case, dims, &operands).unwrap();
        let map = Array::new(dims.with_channels(case.channels()), operands.map);
        let start = Array::new(case.state_dims(dims.batch), operands.start);
        let parameters = Table::from(operands.parameters);
        let r: RecurrenceOn<'_, Reference<f64>> = case.recurrence(&map, &parameters, &start);
        for head in 0..case.heads {
            // Of a state, in which heads stand one after another.
            let share = |values: &[f64]| -> Vec<f64> {
                let width = values.len() / (dims.batch * case.heads);
                let images = values.chunks_exact(width * case.heads);
                images.flat_map(|image| &image[head * width..][..width]).copied().collect()
            };
            let one = Array::new(Dims { height: 1, ..start.dims }, share(&start.values));
            let alone = r.with_operands(
                |map| Ok::<_, mila_ops::Error>(of_head(map, head, case.heads)),
                |parameter| Ok(of_head(parameter, head, case.heads)),
                |_| Ok(&one),
            );
            let alone = alone.unwrap();
            let gate = match alone.gate {
                Gate::Constant(gates) => Gate::Constant(vec![gates[head]]),
                other => other,
            };
            let alone = Recurrence { heads: 1, gate, ..alone };
            let (wanted, last) = Reference::eval().recurrence(&alone).unwrap();
            let width = case.values;
            let found = y.values.chunks_exact(case.heads * width).flat_map(|row| &row[head * width..][..width]);
            let found: Vec<f64> = found.copied().collect();
            assert_near(&format!("{case:?}, head {head}"), &found, &wanted.values, TOLERANCE);
            assert_near(&format!("{case:?}, state of head {head}"), &share(&state.values), &last.values, TOLERANCE);
        }
    }
}

const NORMALISED: RecurrenceCase =
    RecurrenceCase { normaliser: Normaliser::Gated { eps: 1e-9 }, ..RecurrenceCase::PLAIN };

#[test]
fn the_last_token_of_a_causal_pass_sees_what_all_tokens_see() {
    let dims = Dims::new(1, 1, 7, 0);
    let operands = NORMALISED.operands(dims);
    let (causal, state) = run(&NORMALISED, dims, &operands).unwrap();
    let all = RecurrenceCase { course: Course::NonCausal(NonCausal::Sum), ..NORMALISED };
    let (all, all_state) = run(&all, dims, &operands).unwrap();
    assert_near("last token", &causal.values[48..], &all.values[48..], 1e-7);
    assert_near("state", &state.values, &all_state.values, TOLERANCE);
}

/// With a normaliser that decays as the state does, the output is a mean of the values.
#[test]
fn constant_values_stay() {
    for gate in
        [GateKind::None, GateKind::Constant, GateKind::Scalar, GateKind::Keys, GateKind::Values, GateKind::Factored]
    {
        let case = RecurrenceCase { gate, ..NORMALISED };
        let dims = Dims::new(1, 1, 7, 0);
        let mut operands = case.operands(dims);
        let channels = case.channels();
        let v = channels - case.heads * (case.keys + case.values);
        for row in operands.map.chunks_exact_mut(channels) {
            (0..8).for_each(|c| row[v + c] = c as f64 - 3.0);
        }
        let (y, _) = run(&case, dims, &operands).unwrap();
        let wanted: Vec<f64> = (0..7).flat_map(|_| (0..8).map(|c| f64::from(c) - 3.0)).collect();
        assert_near(&format!("{gate:?}"), &y.values, &wanted, 1e-6);
    }
}

#[test]
fn without_a_gate_the_order_of_earlier_tokens_does_not_matter_and_with_one_it_does() {
    let dims = Dims::new(1, 1, 5, 0);
    for (gate, stays) in [(GateKind::None, true), (GateKind::Scalar, false), (GateKind::Keys, false)] {
        let case = RecurrenceCase { gate, ..NORMALISED };
        let operands = case.operands(dims);
        let mut swapped = operands.clone();
        let c = case.channels();
        swapped.map[..2 * c].rotate_left(c);
        let [(a, _), (b, _)] = [operands, swapped].map(|operands| run(&case, dims, &operands).unwrap());
        let largest = a.values[16..].iter().zip(&b.values[16..]).fold(0.0, |l: f64, (a, b)| l.max((a - b).abs()));
        assert_eq!(largest < 1e-12, stays, "{gate:?}: {largest}");
    }
}

/// A closed forget gate leaves each token with itself, and a hard one without a NaN.
#[test]
fn a_closed_gate_forgets() {
    for log in [-80.0, f64::NEG_INFINITY] {
        let dims = Dims::new(1, 1, 5, 0);
        let case = RecurrenceCase { gate: GateKind::Scalar, start: StartKind::Carried, ..RecurrenceCase::PLAIN };
        let mut operands = case.operands(dims);
        let channels = case.channels();
        operands.map.chunks_exact_mut(channels).for_each(|row| row[..2].fill(log));
        let (y, _) = run(&case, dims, &operands).unwrap();
        let alone = ScanOrder::along(Path::SeparateTokens);
        let alone = RecurrenceCase { course: Course::Causal(alone), start: StartKind::Zeros, ..case };
        let (wanted, _) = run(&alone, dims, &operands).unwrap();
        assert_near("closed", &y.values, &wanted.values, 1e-12);
    }
}

#[test]
fn scaling_the_queries_scales_the_output_unless_it_is_normalised() {
    let dims = Dims::new(1, 1, 5, 0);
    for (normaliser, factor) in [(Normaliser::None, 3.0), (Normaliser::Gated { eps: 1e-12 }, 1.0)] {
        let case = RecurrenceCase { normaliser, gate: GateKind::Keys, ..RecurrenceCase::PLAIN };
        let operands = case.operands(dims);
        let mut scaled = operands.clone();
        scaled.map.chunks_exact_mut(case.channels()).for_each(|row| row[6..12].iter_mut().for_each(|q| *q *= 3.0));
        let (y, _) = run(&case, dims, &operands).unwrap();
        let (found, _) = run(&case, dims, &scaled).unwrap();
        let wanted: Vec<f64> = y.values.iter().map(|y| factor * y).collect();
        assert_near(&format!("{normaliser:?}"), &found.values, &wanted, 1e-9);
    }
}

/// The normaliser sums up the keys as they are, so that it does not take the step size out again.
#[test]
fn a_constant_step_size_scales_the_output() {
    const STEP: f64 = 2.5;
    let dims = Dims::new(2, 2, 3, 0);
    for case in RecurrenceCase::all() {
        let plain = RecurrenceCase {
            input: InputKind::None,
            shortcut: ShortcutKind::None,
            start: StartKind::Zeros,
            state: StateAt::Last,
            ..case
        };
        let operands = plain.operands(dims);
        let (y, state) = run(&plain, dims, &operands).unwrap();
        let map = Array::new(dims.with_channels(plain.channels()), operands.map);
        let start = Array::new(plain.state_dims(dims.batch), operands.start);
        let parameters = Table::from(operands.parameters);
        let raw = |channels: usize| {
            let dims = dims.with_channels(channels);
            Array::new(dims, vec![STEP.exp_m1().ln(); dims.volume()])
        };
        let (channel, head) = (raw(case.heads * case.values), raw(case.heads));
        let delta = |raw| Delta { raw: Part::All(raw), bias: None };
        for input_gate in [InputGate::Channel(delta(&channel)), InputGate::Head(delta(&head))] {
            let r: RecurrenceOn<'_, Reference<f64>> =
                Recurrence { input_gate, ..plain.recurrence(&map, &parameters, &start) };
            let (found, last) = Reference::eval().recurrence(&r).unwrap();
            let wanted: Vec<f64> = y.values.iter().map(|y| STEP * y).collect();
            assert_near(&format!("{plain:?}"), &found.values, &wanted, TOLERANCE);
            let width = case.values + case.sums();
            let scaled = |(i, x): (usize, &f64)| if i % width < case.values { STEP * x } else { *x };
            let wanted: Vec<f64> = state.values.iter().enumerate().map(scaled).collect();
            assert_near(&format!("{plain:?}, state"), &last.values, &wanted, TOLERANCE);
        }
    }
}

/// LocalMamba: a step over padding decays the state by exp(softplus(bias) A), and writes nothing.
#[test]
fn padding_decays_by_the_bias_alone() {
    let order = ScanOrder::along(Path::Windows { side: 2 });
    let case = RecurrenceCase { keys: 1, values: 1, course: Course::Causal(order), ..RecurrenceCase::S6 };
    let dims = Dims::new(1, 1, 1, 0);
    let mut operands = case.operands(dims);
    // The gate's bias, a_log, D.
    operands.parameters = vec![-4.600_166_0, 0.0, 0.0];
    let after = |steps| {
        let case = RecurrenceCase { state: StateAt::After(steps), ..case };
        run(&case, dims, &operands).unwrap().1.values[0]
    };
    for steps in 2..=4 {
        let ratio = after(steps) / after(steps - 1);
        assert!((ratio - 0.990_049_8).abs() < 1e-7, "{ratio}");
    }
}

#[test]
fn step_sizes_stay_finite_in_both_tails() {
    for bias in [-50.0, 50.0] {
        let case = RecurrenceCase { start: StartKind::Carried, ..RecurrenceCase::S6 };
        let dims = Dims::new(1, 2, 3, 0);
        let mut operands = case.operands(dims);
        operands.parameters[..6].fill(bias);
        let map = Array::new(dims.with_channels(case.channels()), operands.map.clone());
        let start = Array::new(case.state_dims(1), operands.start.clone());
        let parameters = Table::from(operands.parameters.clone());
        let r = case.recurrence(&map, &parameters, &start);
        let (y, state) = run(&case, dims, &operands).unwrap();
        let g = mila_ops::reference::recurrence_gradients(&r, &y, &state).unwrap();
        let all = case.packed(&g).into_iter().chain([y.values, state.values]).flatten();
        assert!(all.into_iter().all(f64::is_finite), "bias {bias}");
    }
}

/// The bonus is what a token sees of itself: with a bonus of one and no decay, reading before the write is reading after.
#[test]
fn a_bonus_of_one_reads_after_the_write() {
    let dims = Dims::new(1, 1, 6, 0);
    let after = RecurrenceCase { input: InputKind::Channel, shortcut: ShortcutKind::Value, ..RecurrenceCase::PLAIN };
    let before = RecurrenceCase { read: ReadKind::BeforeWrite, ..after };
    let after_operands = after.operands(dims);
    let mut operands = after_operands.clone();
    // The input gate's bias, bonus, D.
    operands.parameters = [&after_operands.parameters[..8], &[1.0; 6], &after_operands.parameters[8..]].concat();
    let (found, _) = run(&before, dims, &operands).unwrap();
    let (wanted, _) = run(&after, dims, &after_operands).unwrap();
    assert_near("bonus", &found.values, &wanted.values, 1e-12);
}
