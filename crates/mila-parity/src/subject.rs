//! What the harness needs of an executor.

use mila_ops::reference::{Array, Real, Reference};
use mila_ops::{Dims, Executor};

/// An executor that values can be put into and read out of.
pub trait Subject: Executor + 'static {
    /// Ends building: what prepared the parameters becomes what runs them.
    #[must_use]
    fn ready(self) -> Self {
        self
    }

    /// A map of the given values, row-major `[batch, height, width, channels]`.
    fn place(&self, dims: Dims, values: &[f32]) -> Self::Map;

    /// The extent and values of a map.
    fn read(&self, map: &Self::Map) -> Array<f32>;
}

/// Makes executors that evaluate; each model is built on a fresh one.
pub type Factory<'a, S> = &'a dyn Fn() -> S;

impl<T: Real> Subject for Reference<T> {
    fn place(&self, dims: Dims, values: &[f32]) -> Array<T> {
        Array::new(dims, values.iter().map(|&v| T::of(f64::from(v))).collect())
    }

    fn read(&self, map: &Array<T>) -> Array<f32> {
        Array::new(map.dims, map.values.iter().map(|v| v.double() as f32).collect())
    }
}
