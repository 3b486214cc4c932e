//! Gradients: Burn's, in both of its forms and in f32, against central finite differences of the f64 reference.

mod check;
mod golden;
mod models;
mod operator;
mod operators;
mod point;

use mila_burn::Form;
use mila_kernels::isa::Isa;

/// Every form that this processor has.
fn forms() -> Vec<Form> {
    Isa::available().into_iter().map(Form::Kernels).chain([Form::Portable]).collect()
}
