//! Images as a trainer takes them.

use mila_ops::Dims;

/// Normalised images, row-major `[batch, height, width, 3]`.
#[derive(Clone, Copy, Debug)]
pub struct ImageBatch<'a> {
    /// Extent.
    pub dims: Dims,
    /// Values.
    pub values: &'a [f32],
}
