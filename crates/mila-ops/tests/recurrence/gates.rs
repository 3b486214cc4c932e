//! A gate with fewer numbers is a gate with more of them that are equal.

use mila_ops::recurrence::{Delta, Gate, Normaliser, Part};
use mila_ops::reference::{Array, Reference, Table};
use mila_ops::{Dims, Executor, Recurrence, RecurrenceOn};
use mila_parity::{InputKind, ReadKind, RecurrenceCase, StartKind};

use crate::assert_near;

const TOLERANCE: f64 = 1e-10;
const DIMS: Dims = Dims::new(2, 3, 3, 0);

/// The argument whose softplus is `x`.
fn before_softplus(x: f64) -> f64 {
    x.exp_m1().ln()
}

/// Everything but the gate, in turns; a start only without normaliser, whose columns depend on the gate.
fn cases() -> Vec<RecurrenceCase> {
    let mut cases = Vec::new();
    for read in [ReadKind::AfterWrite, ReadKind::BeforeWrite] {
        for input in [InputKind::None, InputKind::Channel] {
            let case = RecurrenceCase { read, input, ..RecurrenceCase::PLAIN };
            cases.push(RecurrenceCase { start: StartKind::Carried, ..case });
            for normaliser in [Normaliser::Gated { eps: 1e-6 }, Normaliser::Ungated { eps: 1e-6 }] {
                cases.push(RecurrenceCase { normaliser, ..case });
            }
        }
    }
    cases
}

/// The output, and the columns of the state that belong to the values.
fn run(case: &RecurrenceCase, gate: Gate<Part<'_, Array<f64>>, Part<'_, Table<f64>>>) -> [Vec<f64>; 2] {
    let operands = case.operands(DIMS);
    let map = Array::new(DIMS.with_channels(case.channels()), operands.map);
    let start = Array::new(case.state_dims(DIMS.batch), operands.start);
    let parameters = Table::from(operands.parameters);
    let r: RecurrenceOn<'_, Reference<f64>> = Recurrence { gate, ..case.recurrence(&map, &parameters, &start) };
    let (y, state) = Reference::eval().recurrence(&r).unwrap_or_else(|error| panic!("{case:?}: {error}"));
    let columns = state.values.chunks_exact(state.dims.channels).flat_map(|row| &row[..case.values]);
    [y.values, columns.copied().collect()]
}

/// A map whose channel `c` of a token is `value(token, c)`.
fn map(channels: usize, value: impl Fn(usize, usize) -> f64) -> Array<f64> {
    let rows = 0..DIMS.rows();
    Array::new(
        DIMS.with_channels(channels),
        rows.flat_map(|t| (0..channels).map(move |c| (t, c))).map(|(t, c)| value(t, c)).collect(),
    )
}

fn same(what: &str, case: &RecurrenceCase, found: [Vec<f64>; 2], wanted: &[Vec<f64>; 2]) {
    for (part, (found, wanted)) in ["output", "state"].into_iter().zip(found.iter().zip(wanted)) {
        assert_near(&format!("{what}, {part} of {case:?}"), found, wanted, TOLERANCE);
    }
}

/// The logarithm of the gate of a token and of a head, key or value.
fn log(token: usize, index: usize) -> f64 {
    -0.1 * ((3 * token + 5 * index) % 11 + 1) as f64
}

#[test]
fn no_gate_is_a_constant_of_one() {
    for case in cases() {
        let wanted = run(&case, Gate::None);
        same("a constant", &case, run(&case, Gate::Constant(vec![1.0; case.heads])), &wanted);
    }
}

#[test]
fn a_constant_is_the_same_number_for_every_token() {
    let gates = [0.9, 0.5_f32];
    for case in cases() {
        let wanted = run(&case, Gate::Constant(gates.to_vec()));
        let logs = map(case.heads, |_, head| f64::from(gates[head]).ln());
        same("a number per token", &case, run(&case, Gate::Scalar((&logs).into())), &wanted);
    }
}

#[test]
fn a_number_per_token_is_a_vector_of_equal_ones() {
    for case in cases() {
        let RecurrenceCase { heads, keys, values, .. } = case;
        let scalar = map(heads, log);
        let wanted = run(&case, Gate::Scalar((&scalar).into()));
        let along_keys = map(heads * keys, |t, n| log(t, n / keys));
        same("along the keys", &case, run(&case, Gate::Keys((&along_keys).into())), &wanted);
        let along_values = map(heads * values, |t, c| log(t, c / values));
        same("along the values", &case, run(&case, Gate::Values((&along_values).into())), &wanted);
    }
}

/// With rates that are one for every key, the step sizes are what a vector along the values holds.
#[test]
fn a_vector_along_the_values_is_a_matrix_of_equal_rows() {
    for case in cases() {
        let RecurrenceCase { heads, keys, values, .. } = case;
        let along_values = map(heads * values, log);
        let wanted = run(&case, Gate::Values((&along_values).into()));
        let raw = map(heads * values, |t, c| before_softplus(-log(t, c)));
        let a_log = Table::from(vec![0.0; heads * values * keys]);
        let delta = Delta { raw: (&raw).into(), bias: None };
        same("a matrix", &case, run(&case, Gate::Factored { delta, a_log: (&a_log).into() }), &wanted);
    }
}

/// With step sizes of one, the rates are what a vector along the keys holds, the same for every token.
#[test]
fn a_constant_vector_along_the_keys_is_a_matrix_of_equal_columns() {
    for case in cases() {
        let RecurrenceCase { heads, keys, values, .. } = case;
        let along_keys = map(heads * keys, |_, n| log(0, n));
        let wanted = run(&case, Gate::Keys((&along_keys).into()));
        let raw = map(heads * values, |_, _| before_softplus(1.0));
        let rate = |i: usize| -log(0, i / (values * keys) * keys + i % keys);
        let a_log = Table::from((0..heads * values * keys).map(|i| rate(i).ln()).collect::<Vec<_>>());
        let delta = Delta { raw: (&raw).into(), bias: None };
        same("a matrix", &case, run(&case, Gate::Factored { delta, a_log: (&a_log).into() }), &wanted);
    }
}
