//! The machine's own limits, measured on the threads of rayon's current pool: the best of several runs, since whatever else
//! the machine does can only slow them down.

use std::hint::black_box;
use std::time::Instant;

use mila::cpu::{Bf16Unit, Isa, Precision};
use mila_kernels::roof;

/// Steps of each chain of multiply-adds: about a millisecond, long beside the waking of a thread, short beside the turns of
/// others on a busy machine.
const STEPS: usize = 500_000;

/// Floats that are copied, 128 MiB: twice that is more than what the caches of most processors hold.
const COPIED: usize = 32 << 20;

/// GFLOP/s of multiply-adds that touch registers alone.
pub(crate) fn multiply_adds(isa: Isa) -> f64 {
    best(100, || roof::fma(isa, STEPS) as f64) / 1e9
}

/// GFLOP/s of multiply-adds of bf16 numbers that touch registers alone.
pub(crate) fn bf16_multiply_adds(unit: Bf16Unit) -> f64 {
    best(100, || roof::bf16(unit, STEPS / 8) as f64) / 1e9
}

/// GFLOP/s of the multiply-adds of products in a precision.
pub(crate) fn products(isa: Isa, precision: Precision) -> f64 {
    match precision {
        Precision::F32 => multiply_adds(isa),
        Precision::Bf16(unit) => bf16_multiply_adds(unit),
    }
}

/// Two buffers that are copied one to the other.
pub(crate) struct Copying {
    from: Vec<f32>,
    to: Vec<f32>,
}

impl Copying {
    pub(crate) fn new() -> Self {
        // Not zero, which an operating system may hand out without any memory behind it.
        Self { from: vec![1.0; COPIED], to: vec![2.0; COPIED] }
    }

    /// GB/s of copying, counting what is read and what is written.
    pub(crate) fn speed(&mut self) -> f64 {
        let run = || {
            roof::copy(black_box(&self.from), &mut self.to);
            black_box(&mut self.to);
            2.0 * size_of_val(self.from.as_slice()) as f64
        };
        best(8, run) / 1e9
    }
}

/// The most work a second of `runs` runs, each of which returns how much work it did.
pub(crate) fn best(runs: usize, mut run: impl FnMut() -> f64) -> f64 {
    let rate = |_| {
        let started = Instant::now();
        let work = run();
        work / started.elapsed().as_secs_f64().max(1e-9)
    };
    (0..runs).map(rate).fold(0.0, f64::max)
}
