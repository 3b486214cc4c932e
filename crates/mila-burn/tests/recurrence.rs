//! Recurrences on Burn in both of its forms: outputs against the f64 reference, and gradients against those of the reference,
//! which its own tests hold against central differences.

use burn::tensor::Tensor;
use mila_burn::{Burn, Form};
use mila_kernels::isa::Isa;
use mila_ops::random::Stream;
use mila_ops::recurrence::{Gate, Part};
use mila_ops::reference::{Array, recurrence_gradients};
use mila_ops::{Builder, Dims, Executor, Init, Numeric, Recurrence, ScanOrder, Source, Values, Wanted};
use mila_parity::{
    InputKind, Operands, RecurrenceCase, StartKind, Tolerance, assert_close, recurrence_goldens, recurrences,
};

/// The largest allowed `max|difference| / max|gradient|` of a tensor: the gradient row of `docs/numerics.md`.
const GRADIENT: f64 = 1e-3;
/// With one token a normaliser takes its keys out again, and a gradient is what f32 leaves of larger ones that cancel; below
/// this it is held against this.
const CANCELLED: f64 = 1e-3;

fn forms() -> Vec<Form> {
    Isa::available().into_iter().map(Form::Kernels).chain([Form::Portable]).collect()
}

#[test]
fn every_case_is_the_reference_and_pytorch() {
    for form in forms() {
        recurrences(&|| Burn::declare().with_form(form), Tolerance::F32);
        recurrence_goldens(&|| Burn::declare().with_form(form), Tolerance::F32);
    }
}

struct Stored(Vec<f64>);

impl Source for Stored {
    fn load(&self, _: &Wanted) -> mila_ops::Result<Values<'_>> {
        Ok(Values::F64(self.0.as_slice().into()))
    }
}

fn weights(count: usize, seed: u64) -> Vec<f64> {
    let mut stream = Stream::new(&[seed]);
    (0..count).map(|_| f64::from((2.0 * stream.uniform() - 1.0) as f32)).collect()
}

fn narrow(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&x| x as f32).collect()
}

/// Gradients of map, parameter and start by the reference, for a loss that weighs output and state.
fn wanted(case: &RecurrenceCase, dims: Dims, operands: &Operands, weights: &[Array<f64>; 2]) -> [Vec<f64>; 3] {
    let map = Array::new(dims.with_channels(case.channels()), operands.map.clone());
    let start = Array::new(case.state_dims(dims.batch), operands.start.clone());
    let parameters = operands.parameters.clone().into();
    let r = case.recurrence(&map, &parameters, &start);
    case.packed(&recurrence_gradients(&r, &weights[0], &weights[1]).expect("gradients"))
}

/// The same by Burn.
fn found(
    case: &RecurrenceCase,
    dims: Dims,
    operands: &Operands,
    weights: &[Array<f64>; 2],
    form: Form,
) -> [Vec<f32>; 3] {
    let mut declared = Burn::declare();
    let source = Stored(operands.parameters.clone());
    let parameter = Builder::new(&mut declared, &source).parameter("all", &[case.parameters()], Init::Zeros);
    let parameter = parameter.expect("a parameter");
    let store = declared.into_store();
    let burn = Burn::train(store.clone(), 0, 0).with_form(form);
    let leaf = |dims, values: &[f64]| burn.map(dims, &narrow(values)).expect("a map").autodiff().require_grad();
    let map = leaf(dims.with_channels(case.channels()), &operands.map);
    let start = leaf(case.state_dims(dims.batch), &operands.start);
    let (y, state) = burn.recurrence(&case.recurrence(&map, &parameter, &start)).expect("a recurrence");
    let weighed = |map: Tensor<4>, weights: &Array<f64>| {
        (map * burn.map(weights.dims, &narrow(&weights.values)).expect("a map").autodiff()).sum()
    };
    let loss = weighed(y, &weights[0]) + weighed(state, &weights[1]);
    if !loss.is_tracked() {
        // An order that visits no token makes nothing of its operands.
        return [const { Vec::new() }; 3];
    }
    let mut gradients = loss.backward();
    let of_map = |map: &Tensor<4>| map.grad(&gradients).map(|g| burn.read(&g).expect("a gradient").values);
    let (of_map, of_start) = (of_map(&map), of_map(&start));
    let of_parameter = burn.gradient(store.handle("all").expect("a parameter"), &mut gradients).expect("a gradient");
    [of_map, of_parameter, of_start].map(Option::unwrap_or_default)
}

/// Panics unless Burn's gradients at these operands, in every form, are those of the reference.
fn check(case: &RecurrenceCase, dims: Dims, operands: &Operands) {
    let output = dims.with_channels(case.heads * case.values);
    let weights = [output, case.state_dims(dims.batch)]
        .map(|dims| Array::new(dims, weights(dims.volume(), dims.channels as u64)));
    let wanted = wanted(case, dims, operands, &weights);
    for form in forms() {
        let found = found(case, dims, operands, &weights, form);
        for ((name, found), wanted) in ["map", "parameter", "start"].iter().zip(found).zip(&wanted) {
            let what = format!("{case:?} at {dims}, {form:?}: {name}");
            if (*name == "start" && case.start == StartKind::Zeros) || found.is_empty() {
                assert!(wanted.iter().all(|&w| w == 0.0) && found.is_empty(), "{what}: a gradient from nothing");
                continue;
            }
            let least = if dims.tokens() == 1 { CANCELLED } else { 0.0 };
            let largest = wanted.iter().fold(least, |largest: f64, w| largest.max(w.abs()));
            assert_eq!(found.len(), wanted.len(), "{what}");
            for (i, (&f, w)) in found.iter().zip(wanted).enumerate() {
                let difference = (f64::from(f) - w).abs();
                assert!(difference <= GRADIENT * largest, "{what}[{i}]: {f}, expected {w}, largest {largest}");
            }
        }
    }
}

#[test]
fn gradients_are_those_of_the_reference() {
    for (i, case) in RecurrenceCase::all().into_iter().enumerate() {
        let dims = [Dims::new(1, 1, 1, 0), Dims::new(2, 3, 5, 0), Dims::new(1, 5, 7, 0)][i % 3];
        check(&case, dims, &case.operands(dims));
    }
}

/// Where the softplus of the step sizes is made of two halves.
#[test]
fn gradients_of_step_sizes_at_zero() {
    let dims = Dims::new(2, 3, 5, 0);
    for input in [InputKind::OfGate, InputKind::Channel, InputKind::Head] {
        let case = RecurrenceCase { heads: 2, values: 3, input, ..RecurrenceCase::S6 };
        let mut operands = case.operands(dims);
        operands.parameters.fill(0.0);
        // Of every operand: with a bias of zero, also of what the softplus is applied to.
        operands.map.iter_mut().step_by(5).for_each(|value| *value = 0.0);
        check(&case, dims, &operands);
    }
}

/// The composed body is the kernels', gradients and all, at a length beyond a chunk of theirs.
#[test]
fn both_forms_are_one() {
    let case = RecurrenceCase { start: StartKind::Carried, values: 70, ..RecurrenceCase::S6 };
    let dims = Dims::new(2, 6, 7, 0);
    let weights = [dims.with_channels(70), case.state_dims(2)].map(|dims| Array::new(dims, weights(dims.volume(), 1)));
    let operands = case.operands(dims);
    let [kernels, portable] =
        [Form::Kernels(Isa::detect()), Form::Portable].map(|form| found(&case, dims, &operands, &weights, form));
    for (kernels, portable) in kernels.iter().zip(&portable) {
        assert_close("a gradient", kernels, portable, Tolerance::F32);
    }
}

#[test]
fn gates_that_would_let_the_state_grow_are_refused() {
    let burn = Burn::eval(Burn::declare().into_store());
    let map = burn.map(Dims::new(1, 2, 2, 2), &[0.5; 8]).expect("a map");
    let all = || Part::All(&map);
    let r = Recurrence { gate: Gate::Keys(all()), ..Recurrence::causal(all(), all(), all(), ScanOrder::ROWS) };
    let error = burn.recurrence(&r).expect_err("a refusal").to_string();
    assert_eq!(error, "recurrence: expected logarithms of gates of at most 0, found 0.5");
}
