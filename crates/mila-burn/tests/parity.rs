//! The Burn executor, in both of its forms, against PyTorch, against the f64 reference and against its own composed bodies.

use mila_burn::{Burn, Form};
use mila_kernels::isa::Isa;
use mila_parity::{Tolerance, blocks, composites, models, operators, reference_operators};

fn check(form: Form) {
    let make = || Burn::declare().with_form(form);
    operators(&make, Tolerance::F32);
    reference_operators(&make, Tolerance::F32);
    blocks(&make, Tolerance::F32);
    models(&make, Tolerance::F32);
    composites(&make, Tolerance::F32);
}

#[test]
fn portable_form() {
    check(Form::Portable);
}

#[test]
fn kernel_form() {
    Isa::available().into_iter().map(Form::Kernels).for_each(check);
}
