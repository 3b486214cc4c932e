//! The machine's own limits, against which kernels are measured: multiply-adds in registers, and copying.
//!
//! Nothing is timed here; the caller has the clock.

use crate::{
    Bf16Unit,
    arithmetic::{Arithmetic, LANES},
    isa::{Isa, Kernel, Level},
    threads,
};

/// Floats in a piece of [`copy`]: 1 MiB, so that threads that are late leave pieces to the others.
const COPIED: usize = 1 << 18;

/// Does multiply-adds in registers alone, `steps` on each of several independent chains, on all threads of rayon's current
/// pool at once, and returns how many floating-point operations they were: two for each multiply-add, whether the
/// instruction set fuses it or not.
pub fn fma(isa: Isa, steps: usize) -> u64 {
    match rayon::current_num_threads() {
        1 => isa.run(Chains { steps }),
        _ => rayon::broadcast(|_| isa.run(Chains { steps })).into_iter().sum(),
    }
}

/// [`fma`] for products of bf16 numbers: two operations for each.
pub fn bf16(unit: Bf16Unit, steps: usize) -> u64 {
    match rayon::current_num_threads() {
        1 => unit.products(steps),
        _ => rayon::broadcast(|_| unit.products(steps)).into_iter().sum::<u64>(),
    }
}

/// Copies `from` to `to` on rayon's current pool: `8 * from.len()` bytes are read and written.
///
/// # Panics
/// If the lengths differ.
pub fn copy(from: &[f32], to: &mut [f32]) {
    assert_eq!(from.len(), to.len(), "copy: lengths");
    threads::each(to.chunks_mut(COPIED).zip(from.chunks(COPIED)), |_, (to, from)| to.copy_from_slice(from));
}

/// Chains of dependent multiply-adds, enough of them to hide the latency, as few as stay in registers.
struct Chains {
    steps: usize,
}

impl Kernel for Chains {
    type Output = u64;

    #[inline(always)]
    fn run<A: Arithmetic>(self) -> u64 {
        // In machine registers: 12 of AVX-512's 32; 12 of AVX2's 16; 12 of SSE's 16, or 24 of NEON's 32.
        match A::LEVEL {
            Level::Avx512 => chains::<A, 12>(self.steps),
            Level::Avx2 => chains::<A, 6>(self.steps),
            Level::Portable if cfg!(target_arch = "aarch64") => chains::<A, 6>(self.steps),
            Level::Portable => chains::<A, 3>(self.steps),
        }
    }
}

/// `x = x / 2 + 1 / 2`, `steps` times, on `REGISTERS` times [`LANES`] floats.
#[inline(always)]
fn chains<A: Arithmetic, const REGISTERS: usize>(steps: usize) -> u64 {
    let half = A::splat(std::hint::black_box(0.5));
    // From memory and back, so that chains are neither computed before the program runs nor shuffled into one another.
    let mut memory = std::hint::black_box([[0.0; LANES]; REGISTERS]);
    let mut chains = [half; REGISTERS];
    for (chain, memory) in chains.iter_mut().zip(&memory) {
        *chain = A::load(memory);
    }
    for _ in 0..steps {
        for chain in &mut chains {
            *chain = A::mul_add_each(*chain, half, half);
        }
    }
    for (chain, memory) in chains.into_iter().zip(&mut memory) {
        A::store(chain, memory);
    }
    std::hint::black_box(&memory);
    (2 * REGISTERS * LANES) as u64 * steps as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_counted_for_every_thread() {
        for isa in Isa::available() {
            let on = |threads: usize| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
                pool.install(|| fma(isa, 1000))
            };
            let one = on(1);
            assert!(one > 0 && one.is_multiple_of(2 * 1000 * LANES as u64), "{isa}: {one}");
            assert_eq!(on(3), 3 * one, "{isa}");
        }
    }

    #[test]
    fn operations_of_units_are_counted_too() {
        for unit in Bf16Unit::available(Isa::detect()) {
            let on = |threads: usize| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
                pool.install(|| bf16(unit, 100))
            };
            assert!(on(1) > 0 && on(1).is_multiple_of(2 * 100 * 2 * LANES as u64), "{unit}");
            assert_eq!(on(3), 3 * on(1), "{unit}");
        }
    }

    #[test]
    fn a_copy_is_whole() {
        for len in [0, 1, COPIED, 3 * COPIED + 5] {
            let from: Vec<f32> = (0..len).map(|i| i as f32).collect();
            let mut to = vec![f32::NAN; len];
            copy(&from, &mut to);
            assert!(to == from, "{len}");
        }
    }
}
