//! What the tests of all kernels share: numbers, comparison, differences.

use crate::isa::Isa;

/// `len` numbers in [-1, 1), the same for the same seed.
pub(crate) fn numbers(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

/// A result that a kernel must overwrite.
pub(crate) fn unwritten(len: usize) -> Vec<f32> {
    vec![f32::NAN; len]
}

/// The numbers in f64.
pub(crate) fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

/// Checks that `got` is `wanted` but for `tolerance` of the largest magnitude wanted.
pub(crate) fn assert_close(what: impl std::fmt::Display, got: &[f32], wanted: &[f64], tolerance: f64) {
    assert_eq!(got.len(), wanted.len(), "{what}: length");
    let size = wanted.iter().fold(1e-30, |size: f64, x| size.max(x.abs()));
    for (i, (&got, &wanted)) in got.iter().zip(wanted).enumerate() {
        let error = (f64::from(got) - wanted).abs() / size;
        assert!(error <= tolerance, "{what}: [{i}] is {got}, wanted {wanted}: {error:e} of {size}");
    }
}

/// The gradient at `x` of Σ dy · f(x), by central differences in f64.
pub(crate) fn gradient(x: &[f32], dy: &[f32], f: impl Fn(&[f64]) -> Vec<f64>) -> Vec<f64> {
    const STEP: f64 = 1e-5;
    let mut x = wide(x);
    let loss = |x: &[f64]| -> f64 { f(x).iter().zip(dy).map(|(y, &dy)| y * f64::from(dy)).sum() };
    (0..x.len())
        .map(|i| {
            let at = x[i];
            x[i] = at + STEP;
            let above = loss(&x);
            x[i] = at - STEP;
            let below = loss(&x);
            x[i] = at;
            (above - below) / (2.0 * STEP)
        })
        .collect()
}

/// Runs `work` on every instruction set and on pools of one, two and three threads, whose results must have equal bits.
pub(crate) fn everywhere(work: impl Fn(Isa) -> Vec<Vec<f32>> + Sync, check: impl Fn(Isa, Vec<Vec<f32>>)) {
    for isa in Isa::available() {
        let mut results = (1..=3).map(|threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a small pool starts");
            pool.install(|| work(isa))
        });
        let first = results.next().expect("there is a pool of one thread");
        let bits = |x: &[Vec<f32>]| -> Vec<u32> { x.iter().flatten().map(|x| x.to_bits()).collect() };
        for result in results {
            assert!(bits(&result) == bits(&first), "{isa}: the number of threads changes the result");
        }
        check(isa, first);
    }
}
