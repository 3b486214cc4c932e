//! A lane: sixteen floats in memory, on a cache line of their own.

use crate::arithmetic::LANES;

/// Sixteen floats, aligned so that a load never straddles two cache lines.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct Lane(pub(crate) [f32; LANES]);

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

/// The floats of some lanes, one after another.
#[inline(always)]
pub(crate) fn floats(lanes: &[Lane]) -> &[f32] {
    // SAFETY: `Lane` has the layout of its only field (`repr(C)`), whose 64 bytes are a multiple of the alignment, so the lanes
    // are `16 * lanes.len()` floats in a row; the lifetime and the sharing are those of `lanes`.
    unsafe { std::slice::from_raw_parts(lanes.as_ptr().cast(), LANES * lanes.len()) }
}

/// The floats of some lanes, one after another, for writing.
#[inline(always)]
pub(crate) fn floats_mut(lanes: &mut [Lane]) -> &mut [f32] {
    // SAFETY: as above; nothing else refers to the lanes while the result lives.
    unsafe { std::slice::from_raw_parts_mut(lanes.as_mut_ptr().cast(), LANES * lanes.len()) }
}
