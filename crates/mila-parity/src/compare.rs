//! The comparison of the numerics contract.

/// The largest allowed `max|difference| / std`, a row of `docs/numerics.md`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance(pub f64);

impl Tolerance {
    /// f32 across executors and against goldens.
    pub const F32: Self = Self(1e-4);
    /// f32 on Mamba-ND-S at its released size with the goldens' values, where PyTorch's own f32 is 2.8e-4 from its f64.
    pub const F32_MAMBA_ND: Self = Self(1e-3);
    /// The f64 reference against goldens that were computed in f64 and stored in f32.
    pub const F64: Self = Self(1e-6);
}

/// Panics unless `found` equals `wanted` within `tolerance` of the deviation of `wanted`.
///
/// Where the deviation says nothing, because there are fewer than eight values, the root mean square takes its place.
///
/// # Panics
/// With `what` and the position of the worst value.
pub fn assert_close(what: &str, found: &[f32], wanted: &[f32], tolerance: Tolerance) {
    assert_eq!(found.len(), wanted.len(), "{what}: number of values");
    let n = wanted.len() as f64;
    let mean = if wanted.len() < 8 { 0.0 } else { wanted.iter().map(|&w| f64::from(w)).sum::<f64>() / n };
    let spread = (wanted.iter().map(|&w| (f64::from(w) - mean).powi(2)).sum::<f64>() / n).sqrt();
    for (i, (&f, &w)) in found.iter().zip(wanted).enumerate() {
        let difference = (f64::from(f) - f64::from(w)).abs();
        // Written so that a NaN fails.
        let close = difference <= tolerance.0 * spread;
        assert!(close, "{what}: value {i} is {f}, expected {w}; {:.2e} of {spread:.3e}", difference / spread);
    }
}
