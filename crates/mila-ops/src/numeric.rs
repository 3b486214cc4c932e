//! Executors that compute with numbers.

use crate::reference::Array;
use crate::{Dims, Executor, Result};

/// An executor whose maps hold values, which can be put in and read out.
pub trait Numeric: Executor {
    /// Ends building: turns what prepared the parameters into what evaluates models with them.
    #[must_use]
    fn evaluating(self) -> Self {
        self
    }

    /// A map of the given values, row-major `[batch, height, width, channels]`.
    ///
    /// # Errors
    /// Those of [`crate::shape::input`].
    fn map(&self, dims: Dims, values: &[f32]) -> Result<Self::Map>;

    /// The extent and values of a map.
    ///
    /// # Errors
    /// [`crate::Error::Backend`] if a device cannot be read.
    fn read(&self, map: &Self::Map) -> Result<Array<f32>>;

    /// The values of a raw parameter, row-major.
    ///
    /// # Errors
    /// [`crate::Error::Backend`] if a device cannot be read.
    fn read_parameter(&self, parameter: &Self::Parameter) -> Result<Vec<f32>>;
}
