//! Gradients of the reference against central differences, in f64, for every operand, the carried and the returned state.

use mila_ops::Dims;
use mila_ops::random::Stream;
use mila_ops::reference::{Array, Table, recurrence_gradients};
use mila_parity::{Operands, RecurrenceCase, StartKind};

use crate::run;

/// f64 reaches 1e-7 of the largest gradient.
const TOLERANCE: f64 = 1e-7;
const STEP: f64 = 1e-5;

fn weights(count: usize, seed: u64) -> Vec<f64> {
    let mut stream = Stream::new(&[seed]);
    (0..count).map(|_| 2.0 * stream.uniform() - 1.0).collect()
}

fn loss(case: &RecurrenceCase, dims: Dims, operands: &Operands, weights: &[Vec<f64>; 2]) -> f64 {
    let (y, state) = run(case, dims, operands).unwrap_or_else(|error| panic!("{case:?}: {error}"));
    [y, state].iter().zip(weights).flat_map(|(map, w)| map.values.iter().zip(w)).map(|(y, w)| y * w).sum()
}

fn check(case: &RecurrenceCase, dims: Dims) {
    let mut operands = case.operands(dims);
    let state_dims = case.state_dims(dims.batch);
    let output_dims = dims.with_channels(case.heads * case.values);
    let weights = [weights(output_dims.volume(), 1), weights(state_dims.volume(), 2)];
    let map = Array::new(dims.with_channels(case.channels()), operands.map.clone());
    let start = Array::new(state_dims, operands.start.clone());
    let [output, state] =
        [(output_dims, &weights[0]), (state_dims, &weights[1])].map(|(d, w)| Array::new(d, w.clone()));
    let parameters = Table::from(operands.parameters.clone());
    let found = recurrence_gradients(&case.recurrence(&map, &parameters, &start), &output, &state).unwrap();
    let found = case.packed(&found);
    if case.start == StartKind::Zeros {
        operands.start.clear();
    }
    let lengths = [operands.map.len(), operands.parameters.len(), operands.start.len()];
    let mut wanted = lengths.map(|len| vec![0.0; len]);
    for (tensor, wanted) in wanted.iter_mut().enumerate() {
        for (i, wanted) in wanted.iter_mut().enumerate() {
            let moved = |step: f64| {
                let mut operands = operands.clone();
                [&mut operands.map, &mut operands.parameters, &mut operands.start][tensor][i] += step;
                if case.start == StartKind::Zeros {
                    operands.start = start.values.clone();
                }
                loss(case, dims, &operands, &weights)
            };
            *wanted = (moved(STEP) - moved(-STEP)) / (2.0 * STEP);
        }
    }
    let size = wanted.iter().flatten().fold(0.0, |size: f64, w| size.max(w.abs()));
    for (name, (found, wanted)) in ["map", "parameter", "start"].into_iter().zip(found.iter().zip(&wanted)) {
        assert_eq!(found.len(), wanted.len(), "{case:?}: {name}");
        for (i, (f, w)) in found.iter().zip(wanted).enumerate() {
            assert!((f - w).abs() <= TOLERANCE * size, "{case:?} at {dims}: {name} {i} is {f}, expected {w}");
        }
    }
}

#[test]
fn every_case() {
    for case in RecurrenceCase::all() {
        check(&case, Dims::new(1, 3, 3, 0));
    }
}

#[test]
fn batches_and_single_tokens() {
    for case in [RecurrenceCase::S6, RecurrenceCase { start: StartKind::Carried, ..RecurrenceCase::S6 }] {
        check(&case, Dims::new(2, 1, 1, 0));
        check(&case, Dims::new(2, 2, 1, 0));
    }
}
