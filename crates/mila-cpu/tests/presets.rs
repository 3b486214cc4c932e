//! Registered models at their released sizes against timm's own and ours in PyTorch, on the strongest instruction set of this processor.

use mila_cpu::Cpu;
use mila_parity::{Tolerance, mamba_presets, presets};

#[test]
fn presets_equal_timm() {
    presets(&Cpu::default, Tolerance::F32);
}

#[test]
fn mamba_presets_equal_pytorch() {
    mamba_presets(&Cpu::default, |name| match name {
        "mamba-nd-s" => Tolerance::F32_MAMBA_ND,
        _ => Tolerance::F32,
    });
}
