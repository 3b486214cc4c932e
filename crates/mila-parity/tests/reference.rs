//! The definition itself against PyTorch, in both of its precisions, and in f32 against itself in f64.

use mila_ops::reference::Reference;
use mila_parity::{
    Tolerance, blocks, composites, models, operators, recurrence_golden_gradients, recurrence_goldens, recurrences,
    reference_operators,
};

#[test]
fn operators_in_f64() {
    operators(&Reference::<f64>::eval, Tolerance::F64);
}

#[test]
fn operators_in_f32() {
    operators(&Reference::<f32>::eval, Tolerance::F32);
    reference_operators(&Reference::<f32>::eval, Tolerance::F32);
}

#[test]
fn blocks_in_f64() {
    blocks(&Reference::<f64>::eval, Tolerance::F64);
}

#[test]
fn blocks_in_f32() {
    blocks(&Reference::<f32>::eval, Tolerance::F32);
}

#[test]
fn models_in_f64() {
    models(&Reference::<f64>::eval, Tolerance::F64);
}

#[test]
fn models_in_f32() {
    models(&Reference::<f32>::eval, Tolerance::F32);
}

#[test]
fn composites_are_their_parts() {
    composites(&Reference::<f64>::eval, Tolerance::F64);
}

#[test]
fn recurrences_in_f64() {
    recurrence_goldens(&Reference::<f64>::eval, Tolerance::F64);
    recurrence_golden_gradients(Tolerance::F64);
}

#[test]
fn recurrences_in_f32() {
    recurrence_goldens(&Reference::<f32>::eval, Tolerance::F32);
    recurrences(&Reference::<f32>::eval, Tolerance::F32);
}
