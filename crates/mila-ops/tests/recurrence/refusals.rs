//! Recurrences that have no meaning end in an error that says why.

use mila_ops::recurrence::{Course, Gate, InputGate, NonCausal, Normaliser, Part, Start, StateAt};
use mila_ops::reference::{Array, Reference};
use mila_ops::{Dims, Executor, Recurrence, RecurrenceOn, ScanOrder};
use mila_parity::{GateKind, RecurrenceCase, StartKind};

type R<'a> = RecurrenceOn<'a, Reference<f64>>;

fn refused(r: &R<'_>) -> String {
    Reference::eval().recurrence(r).expect_err("a refusal").to_string()
}

fn map(dims: Dims) -> Array<f64> {
    Array::new(dims, vec![0.5; dims.volume()])
}

#[test]
fn sizes_that_do_not_fit() {
    let dims = Dims::new(1, 2, 2, 6);
    let (q, v, other) = (map(dims), map(dims), map(Dims::new(1, 4, 1, 6)));
    let plain = || -> R<'_> { Recurrence::causal((&q).into(), (&q).into(), (&v).into(), ScanOrder::ROWS) };
    let cases: [(R<'_>, &str); 9] = [
        (Recurrence { heads: 4, ..plain() }, "channels of queries that are a multiple of the 4 heads, found 6"),
        (Recurrence { heads: 0, ..plain() }, "channels of queries that are a multiple of the 0 heads, found 6"),
        (Recurrence { k: Part::Range(&q, 0..3), ..plain() }, "6 channels of keys, as of queries, found 3"),
        (Recurrence { v: Part::Range(&v, 4..8), ..plain() }, "a part of 6 channels or values, found 4..8"),
        (Recurrence { k: (&other).into(), ..plain() }, "[1, 2, 2, 6], found [1, 4, 1, 6]"),
        (Recurrence { gate: Gate::Scalar((&q).into()), ..plain() }, "1 channels of gates per head, found 6"),
        (Recurrence { gate: Gate::Constant(vec![0.5, 0.5]), ..plain() }, "1 constant gates, found 2"),
        (Recurrence { start: Start::Carried(&q), ..plain() }, "start: expected [1, 1, 6, 6], found [1, 2, 2, 6]"),
        (Recurrence { state: StateAt::After(5), ..plain() }, "a state after at most 4 steps, found 5"),
    ];
    for (r, wanted) in cases {
        let found = refused(&r);
        assert!(found.starts_with("recurrence") && found.ends_with(wanted), "{found}");
    }
}

#[test]
fn gates_that_would_let_the_state_grow() {
    let dims = Dims::new(1, 2, 2, 2);
    let q = map(dims);
    let plain = || -> R<'_> { Recurrence::causal((&q).into(), (&q).into(), (&q).into(), ScanOrder::ROWS) };
    for gate in [1.5, 0.0, -0.5, f32::NAN] {
        assert!(
            refused(&Recurrence { gate: Gate::Constant(vec![gate]), ..plain() }).contains("gates above 0 and up to 1")
        );
    }
    for gate in [Gate::Keys(Part::All(&q)), Gate::Values(Part::All(&q)), Gate::Scalar(Part::Range(&q, 1..2))] {
        let found = refused(&Recurrence { gate, ..plain() });
        assert_eq!(found, "recurrence: expected logarithms of gates of at most 0, found 0.5");
    }
}

#[test]
fn combinations_without_a_meaning() {
    let dims = Dims::new(1, 2, 2, 2);
    let q = map(dims);
    let plain = || -> R<'_> { Recurrence::causal((&q).into(), (&q).into(), (&q).into(), ScanOrder::ROWS) };
    let all = || Recurrence { course: Course::NonCausal(NonCausal::Mean), ..plain() };
    let state = map(Dims::new(1, 1, 2, 2));
    for (r, wanted) in [
        (
            Recurrence { input_gate: InputGate::OfGate, ..plain() },
            "whose step sizes gate the input, found another gate",
        ),
        (Recurrence { gate: Gate::Constant(vec![0.5]), ..all() }, "nothing that depends on an order, found a gate"),
        (
            Recurrence { start: Start::Carried(&state), ..all() },
            "nothing that depends on an order, found a carried state",
        ),
        (Recurrence { state: StateAt::After(1), ..all() }, "nothing that depends on an order, found a state within"),
    ] {
        let found = refused(&r);
        assert!(found.ends_with(wanted), "{found}");
    }
}

/// In f32 as well, in which executors compute.
#[test]
fn an_eps_that_is_zero_or_infinite() {
    let q = map(Dims::new(1, 2, 2, 2));
    let plain = || -> R<'_> { Recurrence::causal((&q).into(), (&q).into(), (&q).into(), ScanOrder::ROWS) };
    let eps = [0.0, -1e-6, f64::NAN, f64::INFINITY, 1e-50, 1e300];
    let wanted = ["0e0", "-1e-6", "NaN", "inf", "1e-50", "1e300"];
    for (eps, wanted) in eps.into_iter().zip(wanted) {
        for normaliser in [Normaliser::Gated { eps }, Normaliser::Ungated { eps }] {
            let found = refused(&Recurrence { normaliser, ..plain() });
            assert_eq!(found, format!("recurrence: expected an eps above 0 and finite in f32, found {wanted}"));
        }
    }
    for eps in [1e-40, 1e38] {
        let r = Recurrence { normaliser: Normaliser::Gated { eps }, ..plain() };
        assert!(Reference::eval().recurrence(&r).is_ok(), "{eps:e}");
    }
}

#[test]
fn no_tokens_and_no_images() {
    let empty = Array::<f64>::zeros(Dims::new(1, 0, 4, 2));
    let r: R<'_> = Recurrence::causal((&empty).into(), (&empty).into(), (&empty).into(), ScanOrder::ROWS);
    assert_eq!(refused(&r), "scan order: expected at least one row and one column, found 0x4");
    let case = RecurrenceCase { gate: GateKind::Keys, start: StartKind::Carried, ..RecurrenceCase::PLAIN };
    let dims = Dims::new(0, 2, 2, 0);
    let (y, state) = crate::run(&case, dims, &case.operands(dims)).unwrap();
    assert_eq!((y.dims, state.dims), (Dims::new(0, 2, 2, 8), Dims::new(0, 2, 3, 4)));
}
