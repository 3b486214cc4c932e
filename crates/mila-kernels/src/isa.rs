//! Instruction sets as values: who holds an [`Isa`] has the proof that the processor can run it.
//!
//! Kernels are written once, as safe loops over slices. What makes them fast is that the compiler translates the same
//! loops several times, each for one instruction set: [`Isa::run`] calls [`Kernel::run`], which is inlined, inside a
//! function that enables the set. Loops over floats become vector code by themselves; kernels that keep sums in registers
//! say so with [`Arithmetic::Register`].
//!
//! | level | width of a register | fused multiply-add |
//! |---|---|---|
//! | [`Level::Avx512`] | 16 × f32 | yes |
//! | [`Level::Avx2`] | 8 × f32 | yes |
//! | [`Level::Portable`] | what the build target guarantees (4 × f32 on x86-64) | where the target guarantees it |

use std::fmt;

use crate::arithmetic::{Arithmetic, Portable};
#[cfg(target_arch = "x86_64")]
use crate::arithmetic::{Avx2, Avx512};
use crate::bf16::Bf16Unit;

/// A set of instructions that kernels are compiled for, ordered from the weakest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// The build target's own instructions; every processor has it.
    Portable,
    /// AVX2 with FMA (x86-64-v3).
    Avx2,
    /// AVX-512 F, VL, BW, DQ with AVX2 and FMA (x86-64-v4).
    Avx512,
}

impl Level {
    /// All levels, from the weakest.
    pub const ALL: [Level; 3] = [Level::Portable, Level::Avx2, Level::Avx512];

    /// The name that [`Display`](fmt::Display) prints, and that a command line takes: `portable`, `avx2`, `avx512`.
    pub fn name(self) -> &'static str {
        match self {
            Level::Portable => "portable",
            Level::Avx2 => "avx2",
            Level::Avx512 => "avx512",
        }
    }

    /// Rows of a strip, sixteen at most: a multiple of the rows of a product's tile. Where products read rows, work is cut by as many.
    pub(crate) const fn strip(self) -> usize {
        match self {
            Level::Portable | Level::Avx2 => 12,
            Level::Avx512 => 14,
        }
    }

    /// The level called `name`, if there is one.
    pub fn from_name(name: &str) -> Option<Level> {
        Level::ALL.into_iter().find(|level| level.name() == name)
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// An instruction set that this processor has. It is the first argument of every kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Isa(Level);

impl Isa {
    /// The token for `level`, or `None` if the processor lacks one of its instructions.
    pub fn new(level: Level) -> Option<Isa> {
        let supported = match level {
            Level::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
            }
            #[cfg(not(target_arch = "x86_64"))]
            Level::Avx2 | Level::Avx512 => false,
        };
        supported.then_some(Isa(level))
    }

    /// The strongest instruction set of this processor.
    pub fn detect() -> Isa {
        Level::ALL.into_iter().rev().find_map(Isa::new).unwrap_or(Isa(Level::Portable))
    }

    /// Every instruction set of this processor, from the weakest: what a test runs through.
    pub fn available() -> Vec<Isa> {
        Level::ALL.into_iter().filter_map(Isa::new).collect()
    }

    /// The level that this token proves.
    pub fn level(self) -> Level {
        self.0
    }

    /// The fastest unit for products of bf16 numbers that this processor has beside the instruction set, if it has one.
    pub fn bf16(self) -> Option<Bf16Unit> {
        Bf16Unit::available(self).pop()
    }

    /// Runs `kernel`, compiled for this instruction set, on the calling thread.
    #[inline]
    pub fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self.0 {
            Level::Portable => kernel.run::<Portable>(),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: this token exists only if `Isa::new` found all features of `run_avx2` on this processor.
            Level::Avx2 => unsafe { run_avx2(kernel) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: this token exists only if `Isa::new` found all features of `run_avx512` on this processor.
            Level::Avx512 => unsafe { run_avx512(kernel) },
            #[cfg(not(target_arch = "x86_64"))]
            Level::Avx2 | Level::Avx512 => kernel.run::<Portable>(),
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A computation with its arguments, which [`Isa::run`] compiles once per instruction set.
///
/// `run`, and every function that it calls in a loop, must be `#[inline(always)]`: only what is inlined into the
/// dispatching function is translated for its instruction set.
pub trait Kernel {
    /// What the computation returns.
    type Output;

    /// The computation, in the arithmetic of one instruction set.
    fn run<A: Arithmetic>(self) -> Self::Output;
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn run_avx2<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<Avx2>()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
fn run_avx512<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<Avx512>()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Sum<'a>(&'a [f32]);

    impl Kernel for Sum<'_> {
        type Output = (Level, f32);

        #[inline(always)]
        fn run<A: Arithmetic>(self) -> (Level, f32) {
            (A::LEVEL, self.0.iter().fold(0.0, |sum, &x| A::mul_add(x, 2.0, sum)))
        }
    }

    #[test]
    fn every_available_set_runs_its_own_arithmetic() {
        for isa in Isa::available() {
            assert_eq!(isa.run(Sum(&[1.0, 2.0, 3.5])), (isa.level(), 13.0));
        }
    }

    #[test]
    fn detection_takes_the_strongest_and_portable_is_always_there() {
        let available = Isa::available();
        assert_eq!(available.first().map(|isa| isa.level()), Some(Level::Portable));
        assert_eq!(available.last(), Some(&Isa::detect()));
    }

    #[test]
    fn names_round_trip() {
        for level in Level::ALL {
            assert_eq!(Level::from_name(&level.to_string()), Some(level));
        }
        assert_eq!(Level::from_name("sse9"), None);
    }
}
