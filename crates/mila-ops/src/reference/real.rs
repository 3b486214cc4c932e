//! The numbers that the reference computes with.

use std::iter::Sum;

/// `f32` or `f64`.
pub trait Real: num_traits::Float + Sum + std::fmt::Debug + Send + Sync + 'static {
    /// The nearest number to `x`.
    fn of(x: f64) -> Self;
    /// The number in f64.
    fn double(self) -> f64;
    /// The error function.
    fn erf(self) -> Self;
}

impl Real for f32 {
    fn of(x: f64) -> Self {
        x as f32
    }
    fn double(self) -> f64 {
        f64::from(self)
    }
    fn erf(self) -> Self {
        libm::erff(self)
    }
}

impl Real for f64 {
    fn of(x: f64) -> Self {
        x
    }
    fn double(self) -> f64 {
        self
    }
    fn erf(self) -> Self {
        libm::erf(self)
    }
}
