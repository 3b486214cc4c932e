//! The Burn executor, in both of its forms, against PyTorch and against its own composed bodies.

use mila_burn::{Burn, Form};
use mila_kernels::isa::Isa;
use mila_parity::{Tolerance, blocks, composites, models, operators};

#[test]
fn portable_form() {
    let make = || Burn::declare().with_form(Form::Portable);
    operators(&make, Tolerance::F32);
    blocks(&make, Tolerance::F32);
    models(&make, Tolerance::F32);
    composites(&make, Tolerance::F32);
}

#[test]
fn kernel_form() {
    for isa in Isa::available() {
        let make = || Burn::declare().with_form(Form::Kernels(isa));
        operators(&make, Tolerance::F32);
        blocks(&make, Tolerance::F32);
        models(&make, Tolerance::F32);
        composites(&make, Tolerance::F32);
    }
}
