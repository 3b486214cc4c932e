//! Who wants to know what the executor spends its time on.

use std::fmt::Debug;

use mila_ops::Dims;

/// Told of every operator that the executor runs, on the thread that asked for it. Operators do not nest; a fused composite is
/// one operator. The executor itself has no clock.
pub trait Observer: Debug + Send + Sync {
    /// `operator` begins.
    fn begin(&self, operator: &'static str);
    /// It has ended and given a map of `output`.
    fn end(&self, output: Dims);
}
