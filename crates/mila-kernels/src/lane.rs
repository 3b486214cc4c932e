//! A lane: sixteen floats in memory, on a cache line of their own.

use crate::arithmetic::LANES;

/// Sixteen floats, aligned so that a load never straddles two cache lines.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(crate) struct Lane(pub(crate) [f32; LANES]);

impl Lane {
    pub(crate) const ZERO: Lane = Lane([0.0; LANES]);

    /// Sets the lane to the first floats of `x`, sixteen at most, followed by zeros.
    #[inline(always)]
    pub(crate) fn set(&mut self, x: &[f32]) {
        match x.first_chunk() {
            Some(full) => self.0 = *full,
            None => {
                self.0[..x.len()].copy_from_slice(x);
                self.0[x.len()..].fill(0.0);
            }
        }
    }
}
