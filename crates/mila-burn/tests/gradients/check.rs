//! The comparison of one operator's gradients.

use burn::tensor::{Device, Tensor};
use mila_burn::{Burn, Form};
use mila_ops::reference::{Array, Reference};
use mila_ops::{Builder, Dims, Mode, Numeric, Result};
use mila_parity::{Formula, Tolerance, assert_close, formula_input};

use crate::forms;
use crate::operator::Operator;
use crate::point::{Point, Variable, entries, loss_weights, signs};

/// The largest allowed `max|difference| / max|gradient|` of a tensor: the gradient row of `docs/numerics.md`.
pub(crate) const GRADIENT: f64 = 1e-3;
/// Seed and step of drop path: of three images, each site in these tests keeps some and drops some.
pub(crate) const SEED: u64 = 3;
/// See [`SEED`].
pub(crate) const STEP: u64 = 7;

/// Whether some of the numbers of the inputs are zero, where functions made of two halves meet.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Zeros {
    None,
    Some,
}

/// Inputs and parameters of `operator` on a stream of extent `dims`.
fn point(operator: Operator, dims: Dims, zeros: Zeros) -> Result<Point> {
    let mut declared = Burn::declare();
    let _forward = operator.build(&mut Builder::new(&mut declared, &Formula), dims.channels)?;
    let store = declared.into_store();
    let mut variables = Vec::new();
    for wanted in store.manifest() {
        let handle = store.handle(&wanted.name).expect("a tensor of the manifest");
        variables.push(Variable::parameter(wanted, &store.read(handle)?));
    }
    let inputs = operator.inputs(dims);
    let mut values = formula_input(inputs.iter().map(|dims| dims.volume()).sum());
    if zeros == Zeros::Some {
        values.iter_mut().step_by(5).for_each(|value| *value = 0.0);
    }
    let mut rest = values.as_slice();
    for (index, dims) in inputs.into_iter().enumerate() {
        let (these, others) = rest.split_at(dims.volume());
        variables.push(Variable::input(index, dims, these));
        rest = others;
    }
    Ok(Point(variables))
}

/// The outputs of the f64 reference in training.
fn reference(operator: Operator, dims: Dims, point: &Point) -> Result<Vec<Array<f64>>> {
    let mut e = Reference::<f64>::new(Mode::Train { seed: SEED, step: STEP });
    let forward = operator.build(&mut Builder::new(&mut e, point), dims.channels)?;
    forward(&e, &point.inputs())
}

fn loss(outputs: &[Array<f64>]) -> f64 {
    let one = |(i, y): (usize, &Array<f64>)| -> f64 {
        y.values.iter().zip(loss_weights(i, y.values.len())).map(|(&y, w)| y * f64::from(w)).sum()
    };
    outputs.iter().enumerate().map(one).sum()
}

/// Outputs, and the gradient of every variable in the order of the point.
type Pass = (Vec<Array<f32>>, Vec<Option<Vec<f32>>>);

/// One training pass on Burn.
fn burn(operator: Operator, dims: Dims, point: &Point, form: Form) -> Result<Pass> {
    let mut declared = Burn::declare();
    let forward = operator.build(&mut Builder::new(&mut declared, point), dims.channels)?;
    let store = declared.into_store();
    let burn = Burn::train(store.clone(), SEED, STEP).with_form(form);
    let mut inputs = Vec::new();
    for array in point.inputs() {
        let values: Vec<f32> = array.values.iter().map(|&v| v as f32).collect();
        inputs.push(burn.map(array.dims, &values)?.autodiff().require_grad());
    }
    let maps = forward(&burn, &inputs)?;
    let outputs = maps.iter().map(|map| burn.read(map)).collect::<Result<Vec<_>>>()?;
    let mut sum = Tensor::<1>::zeros([1], &Device::flex()).autodiff();
    for (i, (map, y)) in maps.into_iter().zip(&outputs).enumerate() {
        let weights = burn.map(y.dims, &loss_weights(i, y.values.len()))?.autodiff();
        sum = sum + (map * weights).sum();
    }
    let mut gradients = sum.backward();
    let mut found = Vec::new();
    let mut maps = inputs.into_iter();
    for variable in &point.0 {
        found.push(match variable.dims {
            Some(dims) => {
                let gradient = maps.next().and_then(|map| map.grad(&gradients));
                gradient.map(|map| burn.read(&map)).transpose()?.map(|gradient| {
                    assert_eq!(gradient.dims, dims, "extent of the gradient of {}", variable.name);
                    gradient.values
                })
            }
            None => burn.gradient(store.handle(&variable.name).expect("a parameter"), &mut gradients)?,
        });
    }
    Ok((outputs, found))
}

/// Finite differences of one variable: at some entries, and along a vector of random signs.
struct Differences {
    entries: Vec<(usize, f64)>,
    signs: Vec<f64>,
    along: f64,
}

/// Panics unless Burn's gradients of `operator`, in every form, are those of the reference's finite differences.
pub(crate) fn check(operator: Operator, dims: Dims) {
    check_at(operator, dims, Zeros::None);
}

/// The same where a fifth of the inputs' numbers is zero. The operator has to be smooth there.
pub(crate) fn check_with_zeros(operator: Operator, dims: Dims) {
    check_at(operator, dims, Zeros::Some);
}

fn check_at(operator: Operator, dims: Dims, zeros: Zeros) {
    let what = format!("{operator} at {dims}");
    let mut point = point(operator, dims, zeros).expect(&what);
    let outputs = reference(operator, dims, &point).expect(&what);
    let value = |point: &Point| loss(&reference(operator, dims, point).expect("the same extents as before"));
    let mut differences = Vec::new();
    for index in 0..point.0.len() {
        let Variable { name, values, trained, .. } = point.0[index].clone();
        differences.push(trained.then(|| {
            let signs = signs(&name, values.len());
            let entries = entries(&name, values.len());
            let entries = entries.into_iter().map(|i| (i, point.entry(index, i, &value))).collect();
            Differences { entries, along: point.along(index, &signs, &value), signs }
        }));
    }
    let every = differences.iter().flatten().flat_map(|d| &d.entries);
    let largest = every.fold(0.0, |largest: f64, (_, g)| largest.max(g.abs()));
    for form in forms() {
        let (found, gradients) = burn(operator, dims, &point, form).expect(&what);
        for (found, wanted) in found.iter().zip(&outputs) {
            let wanted: Vec<f32> = wanted.values.iter().map(|&v| v as f32).collect();
            assert_close(&format!("{what}, {form:?}"), &found.values, &wanted, Tolerance::F32);
        }
        let mut worst = (0.0, "");
        for ((variable, differences), gradient) in point.0.iter().zip(&differences).zip(gradients) {
            let what = format!("{what}, {form:?}: gradient of {}", variable.name);
            let Some(differences) = differences else {
                assert!(gradient.is_none(), "{what}, a buffer");
                continue;
            };
            let gradient = gradient.unwrap_or_else(|| vec![0.0; variable.values.len()]);
            assert_eq!(gradient.len(), variable.values.len(), "{what}: number of values");
            let own = gradient.iter().fold(0.0, |largest: f64, &g| largest.max(f64::from(g).abs()));
            let scale = if operator.vanishes(dims, &variable.name) { largest } else { own };
            let ratio = compare(&what, differences, &gradient, scale);
            if ratio > worst.0 {
                worst = (ratio, &variable.name);
            }
        }
        eprintln!("{:.1e} {what}, {form:?}, {}", worst.0, worst.1);
    }
}

/// The largest difference between a gradient and finite differences, over `scale`.
fn compare(what: &str, differences: &Differences, gradient: &[f32], scale: f64) -> f64 {
    let mut largest: f64 = 0.0;
    for &(index, wanted) in &differences.entries {
        let found = f64::from(gradient[index]);
        let difference = (found - wanted).abs();
        // Written so that a NaN fails; a gradient of zero has to be met exactly up to rounding of the differences.
        assert!(difference <= GRADIENT * scale + 1e-8, "{what}[{index}]: {found}, expected {wanted}, scale {scale:e}");
        largest = largest.max(difference / scale.max(1e-5));
    }
    // Signs make the errors of entries add up like a random walk, while one wrong entry shows whole.
    let found: f64 = gradient.iter().zip(&differences.signs).map(|(&g, s)| f64::from(g) * s).sum();
    let bound = GRADIENT * scale * (gradient.len() as f64).sqrt();
    let difference = (found - differences.along).abs();
    assert!(difference <= bound + 1e-8, "{what} along signs: {found}, expected {}, bound {bound:e}", differences.along);
    largest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn differences(gradient: &[f64]) -> Differences {
        let signs = signs("gradient", gradient.len());
        let along = gradient.iter().zip(&signs).map(|(g, s)| g * s).sum();
        Differences { entries: vec![(0, gradient[0])], signs, along }
    }

    /// Entry 0 is compared by itself, every other one along the signs.
    #[test]
    fn one_wrong_entry_is_found() {
        let gradient: Vec<f64> = (0..400).map(|i| (f64::from(i) * 0.37).cos()).collect();
        let found: Vec<f32> = gradient.iter().map(|&g| g as f32).collect();
        assert!(compare("right", &differences(&gradient), &found, 1.0) < 1e-6);
        for (index, error) in [(0, 2e-3), (1, 0.03), (399, -0.03), (200, f32::NAN)] {
            let mut wrong = found.clone();
            wrong[index] += error;
            let compared = std::panic::catch_unwind(|| compare("wrong", &differences(&gradient), &wrong, 1.0));
            assert!(compared.is_err(), "entry {index} is wrong by {error}");
        }
    }
}
