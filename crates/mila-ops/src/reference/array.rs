//! The feature map of the reference executor: a plain array.

use super::Real;
use crate::{Dims, Result, shape};

/// Values of a map, row-major `[batch, height, width, channels]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Array<T> {
    /// Extent.
    pub dims: Dims,
    /// Values.
    pub values: Vec<T>,
}

impl<T: Real> Array<T> {
    /// A map of the given values.
    ///
    /// # Panics
    /// If `values` is not the volume of `dims`; [`Array::checked`] returns an error instead.
    pub fn new(dims: Dims, values: Vec<T>) -> Self {
        assert_eq!(dims.volume(), values.len(), "values of a map of {dims}");
        Self { dims, values }
    }

    /// A map of values from outside.
    ///
    /// # Errors
    /// Those of [`shape::input`].
    pub fn checked(dims: Dims, values: Vec<T>) -> Result<Self> {
        shape::input(dims, values.len())?;
        Ok(Self { dims, values })
    }

    /// A map of zeros.
    pub fn zeros(dims: Dims) -> Self {
        Self { dims, values: vec![T::zero(); dims.volume()] }
    }

    pub(super) fn tokens(&self) -> std::slice::ChunksExact<'_, T> {
        self.values.chunks_exact(self.dims.channels)
    }

    pub(super) fn token(&self, b: usize, h: usize, w: usize) -> &[T] {
        let start = self.start(b, h, w);
        &self.values[start..start + self.dims.channels]
    }

    pub(super) fn token_mut(&mut self, b: usize, h: usize, w: usize) -> &mut [T] {
        let start = self.start(b, h, w);
        &mut self.values[start..start + self.dims.channels]
    }

    fn start(&self, b: usize, h: usize, w: usize) -> usize {
        ((b * self.dims.height + h) * self.dims.width + w) * self.dims.channels
    }

    pub(super) fn map(mut self, f: impl Fn(T) -> T) -> Self {
        self.values.iter_mut().for_each(|v| *v = f(*v));
        self
    }

    pub(super) fn zip(mut self, other: &Self, f: impl Fn(T, T) -> T) -> Self {
        self.values.iter_mut().zip(&other.values).for_each(|(a, &b)| *a = f(*a, b));
        self
    }
}
