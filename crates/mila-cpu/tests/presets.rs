//! Registered models at their released sizes against timm's own, on the strongest instruction set of this processor.

use mila_cpu::Cpu;
use mila_parity::{Tolerance, presets};

#[test]
fn presets_equal_timm() {
    presets(&Cpu::default, Tolerance::F32);
}
