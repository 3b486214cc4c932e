//! What this processor multiplies bf16 numbers with, as a value that proves it.

use std::fmt;

use crate::isa::{Isa, Kernel, Level};

/// The units, from the slowest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// `vdpbf16ps` on registers of sixteen pairs.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// `tdpbf16ps` on tiles of sixteen rows of sixteen pairs.
    #[cfg(target_arch = "x86_64")]
    Amx,
}

/// A unit for products of bf16 numbers that this processor has: AVX-512 BF16, or AMX. It is part of a weight that was packed
/// for it.
///
/// AMX needs the consent of the operating system, which is asked for once a process; only Linux is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Bf16Unit(Kind);

impl Bf16Unit {
    /// The units beside `isa` on this processor, from the slowest: what a test runs through. All need
    /// [`Level::Avx512`], for what happens around the products.
    pub fn available(isa: Isa) -> Vec<Bf16Unit> {
        #[cfg(target_arch = "x86_64")]
        if isa.level() == Level::Avx512 && is_x86_feature_detected!("avx512bf16") {
            let amx = super::amx::permitted().then_some(Bf16Unit(Kind::Amx));
            return [Some(Bf16Unit(Kind::Avx512)), amx].into_iter().flatten().collect();
        }
        // Elsewhere there is none.
        let _ = (isa, Level::Avx512);
        Vec::new()
    }

    pub(crate) fn kind(self) -> Kind {
        self.0
    }

    /// The unit's name: `avx512-bf16` or `amx-bf16`.
    pub fn name(self) -> &'static str {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => "avx512-bf16",
            #[cfg(target_arch = "x86_64")]
            Kind::Amx => "amx-bf16",
        }
    }

    /// Rows of a strip, the left-hand side of a tile.
    pub(crate) fn strip(self) -> usize {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => super::pairs::ROWS,
            #[cfg(target_arch = "x86_64")]
            Kind::Amx => super::amx::ROWS,
        }
    }

    /// Lanes of a strip for each [`BLOCK`](super::BLOCK) of depth: as many as rows, filled up to whole registers or tiles.
    pub(crate) fn lanes(self) -> usize {
        self.strip().next_multiple_of(crate::arithmetic::LANES)
    }

    /// Whether a strip holds the pairs of a row one below the other, lane by lane, rather than side by side.
    pub(crate) fn transposed(self) -> bool {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => true,
            #[cfg(target_arch = "x86_64")]
            Kind::Amx => false,
        }
    }

    /// Does `steps` rounds of products in registers alone, and returns how many floating-point operations they were.
    pub(crate) fn products(self, steps: usize) -> u64 {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the unit is a proof of the instructions.
            Kind::Avx512 => unsafe { super::pairs::Avx512Bf16::new() }.products(steps),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the unit is a proof of the instructions and of the permission.
            Kind::Amx => unsafe { super::amx::Amx::new() }.products(steps),
        }
    }

    /// Runs `kernel`, compiled for AVX-512 with its conversions to bf16, on the calling thread.
    #[inline]
    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: this token exists only if `available` found AVX-512 BF16, and all features of the level, on this
            // processor.
            Kind::Avx512 | Kind::Amx => unsafe { run_avx512_bf16(kernel) },
        }
    }
}

impl fmt::Display for Bf16Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx512bf16,avx2,fma")]
fn run_avx512_bf16<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<crate::arithmetic::Avx512<true>>()
}
