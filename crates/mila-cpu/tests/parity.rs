//! The fast executor against PyTorch, the f64 reference and its own composed bodies, on every instruction set, into poisoned memory.

use mila_cpu::{Cpu, Isa, Recycling};
use mila_parity::{Factory, Tolerance, blocks, composites, models, operators, reference_operators};

fn on_every_isa(check: fn(Factory<Cpu>, Tolerance)) {
    for isa in Isa::available() {
        check(&|| Cpu::with_recycling(isa, Recycling::Poisoned), Tolerance::F32);
    }
}

#[test]
fn operators_equal_pytorch() {
    on_every_isa(operators);
}

#[test]
fn operators_equal_the_reference() {
    on_every_isa(reference_operators);
}

#[test]
fn blocks_equal_pytorch() {
    on_every_isa(blocks);
}

#[test]
fn models_equal_pytorch() {
    on_every_isa(models);
}

#[test]
fn composites_equal_their_parts() {
    on_every_isa(composites);
}
