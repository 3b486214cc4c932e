//! Recurrences against PyTorch and the f64 reference, on every instruction set, into poisoned memory.

use mila_cpu::{Cpu, Isa, Recycling};
use mila_parity::{Tolerance, recurrence_goldens, recurrences};

#[test]
fn every_case_is_the_reference() {
    for isa in Isa::available() {
        recurrences(&|| Cpu::with_recycling(isa, Recycling::Poisoned), Tolerance::F32);
    }
}

#[test]
fn recurrences_equal_pytorch() {
    for isa in Isa::available() {
        recurrence_goldens(&|| Cpu::with_recycling(isa, Recycling::Poisoned), Tolerance::F32);
    }
}
