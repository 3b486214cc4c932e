//! The rows of the input that an output row sees, in lanes.

use std::ops::Range;

use crate::{arithmetic::LANES, lane::Lane, shape::Map};

/// A map to slide over: pixels `spacing` apart with zeros between them and all round.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    pub(super) x: &'a [f32],
    pub(super) shape: Map,
    pub(super) spacing: usize,
    pub(super) padding: isize,
}

/// The last `kernel` input rows that a band has met, for some lanes: `[row modulo kernel, lane, pixel]`.
pub(super) struct Ring<'a> {
    source: Source<'a>,
    image: &'a [f32],
    kernel: usize,
    lanes: Range<usize>,
    width: usize,
    rows: Vec<Lane>,
}

/// The lanes of `channels` channels in groups whose ring, for an output of `width` pixels, leaves room in a first-level
/// cache.
#[inline(always)]
pub(super) fn groups(
    channels: usize,
    kernel: usize,
    stride: usize,
    width: usize,
) -> impl Iterator<Item = Range<usize>> {
    const BYTES: usize = 24 << 10;
    let lane = kernel * ring_width(kernel, stride, width) * size_of::<Lane>();
    let (lanes, group) = (channels.div_ceil(LANES), (BYTES / lane).max(1));
    (0..lanes).step_by(group).map(move |first| first..lanes.min(first + group))
}

/// Input pixels that an output of `width` pixels sees.
fn ring_width(kernel: usize, stride: usize, width: usize) -> usize {
    (width - 1) * stride + kernel
}

impl<'a> Ring<'a> {
    /// A ring of some lanes of an image for an output of `width` pixels.
    #[inline(always)]
    pub(super) fn new(
        source: Source<'a>,
        image: usize,
        (kernel, stride): (usize, usize),
        width: usize,
        lanes: Range<usize>,
    ) -> Ring<'a> {
        let width = ring_width(kernel, stride, width);
        let size = source.shape.len() / source.shape.batch;
        let rows = vec![Lane::ZERO; kernel * lanes.len() * width];
        Ring { source, image: &source.x[image * size..][..size], kernel, lanes, width, rows }
    }

    /// Copies row `row` of the padded map into the ring, over the row `kernel` rows before it.
    #[inline(always)]
    pub(super) fn enter(&mut self, row: usize) {
        let Source { shape, spacing, padding, .. } = self.source;
        let size = self.lanes.len() * self.width;
        let slot = &mut self.rows[row % self.kernel * size..][..size];
        let row = row.checked_add_signed(-padding).filter(|row| row.is_multiple_of(spacing)).map(|row| row / spacing);
        let Some(row) = row.filter(|&row| row < shape.height) else {
            return slot.fill(Lane::ZERO);
        };
        let line = shape.width * shape.channels;
        let x = &self.image[row * line..][..line];
        let part = self.lanes.start * LANES..shape.channels.min(self.lanes.end * LANES);
        for pixel in 0..shape.width {
            if let Some(at) = (pixel * spacing).checked_add_signed(padding).filter(|&at| at < self.width) {
                let x = &x[pixel * shape.channels..][part.clone()];
                for (lane, x) in x.chunks(LANES).enumerate() {
                    slot[lane * self.width + at].set(x);
                }
            }
        }
    }

    /// The pixels of the ring's `lane`-th lane of the row in `slot`, which is the row modulo the kernel.
    #[inline(always)]
    pub(super) fn pixels(&self, slot: usize, lane: usize) -> &[Lane] {
        &self.rows[(slot * self.lanes.len() + lane) * self.width..][..self.width]
    }
}
