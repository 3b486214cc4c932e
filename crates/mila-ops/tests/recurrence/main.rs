//! The gated linear recurrence: numbers, identities, gradients, and what it refuses.

mod forms;
mod gates;
mod goldens;
mod gradients;
mod identities;
mod orders;
mod refusals;

use mila_ops::recurrence::{Decay, Sequence};
use mila_ops::reference::{Array, Reference, Table};
use mila_ops::{Dims, Executor, Result};
use mila_parity::{Operands, RecurrenceCase};

/// The output and state of a case in f64.
fn run(case: &RecurrenceCase, dims: Dims, operands: &Operands) -> Result<(Array<f64>, Array<f64>)> {
    let map = Array::new(dims.with_channels(case.channels()), operands.map.clone());
    let start = Array::new(case.state_dims(dims.batch), operands.start.clone());
    let parameters = Table::from(operands.parameters.clone());
    Reference::<f64>::eval().recurrence(&case.recurrence(&map, &parameters, &start))
}

/// Panics unless `found` is `wanted` within `tolerance` of the largest of `wanted`.
fn assert_near(what: &str, found: &[f64], wanted: &[f64], tolerance: f64) {
    assert_eq!(found.len(), wanted.len(), "{what}: number of values");
    let size = wanted.iter().fold(0.0, |size: f64, w| size.max(w.abs()));
    for (i, (f, w)) in found.iter().zip(wanted).enumerate() {
        // Written so that a NaN fails.
        assert!((f - w).abs() <= tolerance * size, "{what}: value {i} is {f}, expected {w}, of {size}");
    }
}

/// `elu(x) + 1`.
fn elu_plus_one(x: f64) -> f64 {
    if x > 0.0 { x + 1.0 } else { x.exp() }
}

/// The numbers of the specification's goldens: four steps of one head of two keys and two values, without decay.
fn golden() -> Sequence<f64> {
    let wave = |t: usize, n: usize, shift: f64| (0.7 * ((t + 1) * (n + 1)) as f64 + shift).sin();
    let rows = |f: &dyn Fn(usize, usize) -> f64| (0..4).flat_map(|t| [f(t, 0), f(t, 1)]).collect::<Vec<_>>();
    Sequence {
        heads: 1,
        keys: 2,
        values: 2,
        segments: std::iter::once(0..4).collect(),
        q: rows(&|t, n| elu_plus_one(wave(t, n, 0.1))),
        k: rows(&|t, n| elu_plus_one(wave(t, n, 1.3))),
        u: rows(&|t, c| wave(t, c, 2.7)),
        decay: Decay::None,
        bonus: None,
        start: vec![0.0; 4],
    }
}
