//! The kernels against a naive loop in f64, and their gradients against its difference quotients.

mod naive;

use super::*;
use crate::isa::Isa;
use crate::testing::{assert_close, everywhere, gradient, numbers, unwritten, wide};
use naive::Case;

/// Kinds of gates and inputs, by turns.
const DECAYS: [naive::Gate; 6] = [
    naive::Gate::None,
    naive::Gate::Constant,
    naive::Gate::Scalar,
    naive::Gate::Keys,
    naive::Gate::Values,
    naive::Gate::Factored,
];

/// Every gate with every normaliser, read after the write and before it, along steps with padding and segments.
fn cases(tokens: usize, keys: usize, values: usize) -> Vec<Case> {
    let mut cases = Vec::new();
    for (i, gate) in DECAYS.into_iter().enumerate() {
        for (j, normaliser) in
            [Normaliser::None, Normaliser::Decaying(1e-6), Normaliser::Constant(1e-6)].into_iter().enumerate()
        {
            for before in [false, true] {
                let turn = i + 2 * j + usize::from(before);
                let input = match (turn % 4, gate) {
                    (0, _) => naive::Gating::None,
                    (1, naive::Gate::Factored) => naive::Gating::OfDecay,
                    (1 | 2, _) => naive::Gating::Channel,
                    _ => naive::Gating::Head,
                };
                cases.push(Case {
                    batch: 1 + turn % 2,
                    tokens,
                    heads: 1 + turn / 2 % 2,
                    keys,
                    values,
                    steps: naive::walk(tokens, turn),
                    gate,
                    input,
                    normaliser,
                    before,
                    shortcut: turn % 3,
                    carried: turn % 2 == 1,
                    until: tokens - turn % tokens,
                });
            }
        }
    }
    cases
}

/// S6 of one head, and all tokens at once.
fn wide_cases(tokens: usize, keys: usize, values: usize) -> Vec<Case> {
    let s6 = Case {
        batch: 1,
        tokens,
        heads: 1,
        keys,
        values,
        steps: naive::walk(tokens, 0),
        gate: naive::Gate::Factored,
        input: naive::Gating::OfDecay,
        normaliser: Normaliser::None,
        before: false,
        shortcut: 1,
        carried: false,
        until: tokens,
    };
    let all = Case { steps: None, gate: naive::Gate::None, input: naive::Gating::Channel, ..s6.clone() };
    vec![s6, all.clone(), Case { normaliser: Normaliser::Constant(1e-6), heads: 2, input: naive::Gating::Head, ..all }]
}

fn check_forward(case: &Case, tolerance: f64) {
    let (map, parameters, start) = case.operands();
    let wanted = case.naive(&wide(&map), &wide(&parameters), &wide(&start));
    everywhere(
        |isa| {
            let r = case.kernel(&map, &parameters, &start);
            let (mut y, mut states) = (unwritten(case.outputs()), unwritten(r.state_len()));
            forward(isa, &[r], &mut y, Some(&mut states));
            vec![y, states]
        },
        |isa, got| {
            let (y, states) = wanted.split_at(case.outputs());
            assert_close(format!("{isa} {case:?}"), &got[0], y, tolerance);
            assert_close(format!("{isa} {case:?} states"), &got[1], states, tolerance);
        },
    );
}

#[test]
fn forward_is_the_naive_loop() {
    for (tokens, keys, values) in [(1, 1, 1), (7, 3, 5), (33, 4, 17), (34, 19, 3)] {
        cases(tokens, keys, values).iter().for_each(|case| check_forward(case, 3e-6));
    }
    for (tokens, keys, values) in [(49, 16, 24), (63, 1, 96), (64, 32, 60), (196, 16, 130)] {
        wide_cases(tokens, keys, values).iter().for_each(|case| check_forward(case, 3e-6));
    }
}

#[test]
fn no_images_and_no_steps() {
    let case = Case { batch: 0, ..wide_cases(4, 2, 3)[0].clone() };
    check_forward(&case, 0.0);
    let case = Case { steps: Some((Vec::new(), vec![0])), until: 0, carried: true, ..wide_cases(4, 2, 3)[0].clone() };
    check_forward(&case, 0.0);
}

#[test]
fn several_recurrences_are_added_up() {
    let all: Vec<Case> =
        (0..4).map(|turn| Case { steps: naive::walk(30, turn), ..wide_cases(30, 4, 70)[0].clone() }).collect();
    let (map, parameters, start) = all[0].operands();
    let mut wanted = vec![0.0; all[0].outputs()];
    for case in &all {
        let y = case.naive(&wide(&map), &wide(&parameters), &wide(&start));
        wanted.iter_mut().zip(y).for_each(|(sum, y)| *sum += y);
    }
    everywhere(
        |isa| {
            let all: Vec<_> = all.iter().map(|case| case.kernel(&map, &parameters, &start)).collect();
            let mut y = unwritten(wanted.len());
            forward(isa, &all, &mut y, None);
            vec![y]
        },
        |isa, got| assert_close(isa, &got[0], &wanted, 3e-6),
    );
}

/// Gates next to 0 and 1, closed ones, and step sizes in both tails of the softplus.
#[test]
fn extreme_gates_stay_finite() {
    for case in cases(40, 3, 5) {
        for value in [-50.0, -1e-7, 0.0, f32::NEG_INFINITY, 50.0] {
            let (mut map, mut parameters, start) = case.operands();
            if value <= 0.0 || matches!(case.gate, naive::Gate::Factored) {
                case.set_gates(&mut map, value);
            }
            case.set_biases(&mut parameters, if value.is_finite() { value } else { -50.0 });
            let wanted = case.naive(&wide(&map), &wide(&parameters), &wide(&start));
            for isa in Isa::available() {
                let r = case.kernel(&map, &parameters, &start);
                let (mut y, mut states) = (unwritten(case.outputs()), unwritten(r.state_len()));
                forward(isa, std::slice::from_ref(&r), &mut y, Some(&mut states));
                assert_close(format!("{isa} {case:?} at {value}"), &y, &wanted[..y.len()], 1e-5);
                let (dmap, dparameters, dstart) = case.backward(isa, &r, &y, &states);
                let finite = dmap.iter().chain(&dparameters).chain(&dstart).all(|x| x.is_finite());
                assert!(finite, "{isa} {case:?} at {value}: a gradient that is not finite");
            }
        }
    }
}

fn check_backward(case: &Case) {
    let (map, parameters, start) = case.operands();
    let [map64, parameters64, start64] = [&map, &parameters, &start].map(|x| wide(x));
    let results = case.naive(&map64, &parameters64, &start64).len();
    let cotangent = numbers(9, results);
    let wanted = [
        gradient(&map, &cotangent, |map| case.naive(map, &parameters64, &start64)),
        gradient(&parameters, &cotangent, |parameters| case.naive(&map64, parameters, &start64)),
        gradient(&start, &cotangent, |start| case.naive(&map64, &parameters64, start)),
    ];
    let size = wanted.iter().flatten().fold(0.0, |size: f64, x| size.max(x.abs()));
    everywhere(
        |isa| {
            let r = case.kernel(&map, &parameters, &start);
            let (dy, dstates) = cotangent.split_at(case.outputs());
            let (dmap, dparameters, dstart) = case.backward(isa, &r, dy, dstates);
            vec![dmap, dparameters, dstart]
        },
        |isa, got| {
            for ((name, got), wanted) in ["map", "parameters", "start"].iter().zip(got).zip(&wanted) {
                // One size for all: what has next to no influence has next to no gradient.
                let with_size = |x: Vec<f64>| x.into_iter().chain([size]).collect::<Vec<_>>();
                let got: Vec<f32> = got.into_iter().chain([size as f32]).collect();
                assert_close(format!("{isa} {case:?} {name}"), &got, &with_size(wanted.clone()), 2e-5);
            }
        },
    );
}

#[test]
fn backward_is_the_difference_quotient() {
    for (tokens, keys, values) in [(1, 1, 1), (5, 2, 3)] {
        cases(tokens, keys, values).iter().for_each(check_backward);
    }
    for (tokens, keys, values) in [(35, 2, 3), (3, 2, 66)] {
        wide_cases(tokens, keys, values).iter().for_each(check_backward);
        check_backward(&cases(tokens, keys, values)[31]);
    }
    // Several runs, lanes of keys, and blocks of a head that share a normaliser.
    for (tokens, keys, values) in [(34, 2, 3), (3, 17, 2), (2, 2, 70)] {
        cases(tokens, keys, values).iter().skip(tokens % 4).step_by(5).for_each(check_backward);
    }
}

#[test]
#[should_panic(expected = "token 1 twice")]
fn a_token_is_visited_once() {
    let case = Case { steps: Some((vec![1, 0, 1], vec![0])), until: 3, ..wide_cases(2, 1, 1)[0].clone() };
    let (map, parameters, start) = case.operands();
    forward(Isa::detect(), &[case.kernel(&map, &parameters, &start)], &mut [0.0; 2], None);
}
