//! Every form of the recurrence equals its definition, in f64.

use mila_ops::random::Stream;
use mila_ops::recurrence::{Decay, Sequence, Steps, associative, chunked, quadratic, recurrent};
use mila_ops::{ScanOrder, recurrence::Path};

use crate::assert_near;

const TOLERANCE: f64 = 1e-10;

/// A random sequence along `steps`, with a random kind of gate where there is none.
fn sequence(steps: &Steps, stream: &mut Stream) -> Sequence<f64> {
    let heads = 1 + stream.next() as usize % 2;
    let [keys, values] = [0, 1].map(|_| 1 + stream.next() as usize % 4);
    let mut numbers = |count: usize, low: f64, high: f64| -> Vec<f64> {
        (0..count).map(|_| low + (high - low) * stream.uniform()).collect()
    };
    let (len, rows, columns) = (steps.len(), heads * keys, heads * values);
    let kind = numbers(1, 0.0, 6.0)[0] as usize;
    // Gates from hardly any decay to next to none left, and now and then zero.
    let depth = [0.01, 1.0, 30.0][numbers(1, 0.0, 3.0)[0] as usize];
    let mut logs = |count: usize| -> Vec<f64> {
        let clears = numbers(count, 0.0, 1.0);
        let logs = numbers(count, -depth, 0.0);
        logs.into_iter().zip(clears).map(|(log, c)| if c < 0.02 { f64::NEG_INFINITY } else { log }).collect()
    };
    let decay = match kind {
        0 => Decay::None,
        1 => Decay::Constant(logs(heads)),
        2 => Decay::Scalar(logs(len * heads)),
        3 => Decay::Keys(logs(len * rows)),
        4 => Decay::Values(logs(len * columns)),
        _ => Decay::Factored { delta: numbers(len * columns, 0.0, 2.0), a: numbers(columns * keys, -depth, 0.0) },
    };
    let bonus = (numbers(1, 0.0, 2.0)[0] < 1.0).then(|| numbers(rows, -1.0, 1.0));
    Sequence {
        heads,
        keys,
        values,
        segments: steps.segments().collect(),
        q: numbers(len * rows, -1.0, 1.0),
        k: numbers(len * rows, -1.0, 1.0),
        u: numbers(len * columns, -1.0, 1.0),
        decay,
        bonus,
        start: numbers(heads * keys * values, -1.0, 1.0),
    }
}

fn check(s: &Sequence<f64>, chunk: usize, what: &str) {
    let (outputs, state) = recurrent::forward(s, s.len());
    let same = |form: &str, (o, last): (Vec<f64>, Vec<f64>)| {
        assert_near(&format!("{what}, {form}"), &o, &outputs, TOLERANCE);
        assert_near(&format!("{what}, {form}, state"), &last, &state, TOLERANCE);
    };
    same("quadratic", quadratic::forward(s));
    same("associative", associative::forward(s));
    match s.decay {
        Decay::Values(_) | Decay::Factored { .. } => assert!(chunked::forward(s, chunk).is_err(), "{what}"),
        _ => same(&format!("chunks of {chunk}"), chunked::forward(s, chunk).expect(what)),
    }
}

#[test]
fn every_length() {
    let mut stream = Stream::new(&[1]);
    for len in 1..=257 {
        for turn in 0..3 {
            let steps = Steps::new((0..len).map(Some).collect(), vec![0], len).unwrap();
            let s = sequence(&steps, &mut stream);
            let chunk = [1, 16, 20, 64, 300][stream.next() as usize % 5];
            check(&s, chunk, &format!("{len} steps, turn {turn}, {:?}", std::mem::discriminant(&s.decay)));
        }
    }
}

#[test]
fn ragged_windows() {
    let mut stream = Stream::new(&[2]);
    for (height, width) in [(1, 1), (3, 3), (5, 7), (7, 9)] {
        for side in [2, 3, 7] {
            for path in [Path::Windows { side }, Path::SeparateWindows { side }, Path::SeparateTokens] {
                for order in [ScanOrder::along(path), ScanOrder::along(path).reversed()] {
                    let s = sequence(&order.steps(height, width).unwrap(), &mut stream);
                    check(&s, 5, &format!("{order:?} of {height}x{width}"));
                }
            }
        }
    }
}

/// The matrix is the recurrence: its rows are what each token attends to, and nothing after it.
#[test]
fn the_implied_attention_is_causal_and_decays() {
    let s = Sequence { decay: Decay::Scalar(vec![0.5_f64.ln(); 4]), ..crate::golden() };
    let matrix = quadratic::attention(&s, 0, 0);
    let qk = |t: usize, j: usize| (0..2).map(|n| s.q[2 * t + n] * s.k[2 * j + n]).sum::<f64>();
    for t in 0..4 {
        for j in 0..4 {
            let wanted = if j <= t { qk(t, j) * 0.5_f64.powi((t - j) as i32) } else { 0.0 };
            assert!((matrix[4 * t + j] - wanted).abs() < 1e-12, "{t}, {j}");
        }
    }
}
