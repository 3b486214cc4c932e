//! Windows of a map, as rows of a matrix: the patch below every output pixel, laid out as `[kernel, kernel, channels]`.

use crate::{
    arithmetic::LANES,
    shape::{Map, Window},
};

/// The windows of all output pixels of a map.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Windows<'a> {
    pub(crate) x: &'a [f32],
    pub(crate) shape: Map,
    pub(crate) window: Window,
}

impl Windows<'_> {
    /// Floats of one row of a window.
    #[inline(always)]
    pub(crate) fn line(&self) -> usize {
        self.window.kernel * self.shape.channels
    }

    /// The windows of up to sixteen output pixels from `first` on, counted over all images.
    #[inline(always)]
    pub(crate) fn positions(&self, first: usize) -> [Position; LANES] {
        let (height, width) = (self.window.output(self.shape.height), self.window.output(self.shape.width));
        let (line, mut column) = (first / width, first % width);
        let (mut image, mut row) = (line / height, line % height);
        std::array::from_fn(|_| {
            let position = Position { image, row, column };
            column += 1;
            if column == width {
                (row, column) = (row + 1, 0);
            }
            if row == height {
                (image, row) = (image + 1, 0);
            }
            position
        })
    }

    /// Floats of one row of the map.
    #[inline(always)]
    pub(crate) fn pitch(&self) -> usize {
        self.shape.width * self.shape.channels
    }

    /// Where the window at `position` begins in the map, if it does not leave it.
    #[inline(always)]
    pub(crate) fn inside(&self, position: Position) -> Option<usize> {
        let Map { height, width, channels, .. } = self.shape;
        let Window { kernel, stride, padding } = self.window;
        let y = (position.row * stride).checked_sub(padding).filter(|y| y + kernel <= height)?;
        let x = (position.column * stride).checked_sub(padding).filter(|x| x + kernel <= width)?;
        Some(((position.image * height + y) * width + x) * channels)
    }

    /// What row `ky` of a window has in common with the map.
    #[inline(always)]
    pub(crate) fn overlap(&self, position: Position, ky: usize) -> Overlap {
        let Map { height, width, channels, .. } = self.shape;
        let Window { kernel, stride, padding } = self.window;
        let Some(y) = (position.row * stride + ky).checked_sub(padding).filter(|&y| y < height) else {
            return Overlap::default();
        };
        // The first pixel of the window and the end of it, counted from the left edge of the padding.
        let left = position.column * stride;
        let start = left.max(padding);
        let end = (left + kernel).min(padding + width);
        if end <= start {
            return Overlap::default();
        }
        let at = ((position.image * height + y) * width + start - padding) * channels;
        Overlap { at, skip: (start - left) * channels, len: (end - start) * channels }
    }
}

/// Where a window is: its image and its output pixel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Position {
    image: usize,
    row: usize,
    column: usize,
}

/// What a row of a window has in common with the map, between zeros: `len` floats, at `at` in the map and at `skip` in the
/// row.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Overlap {
    pub(crate) at: usize,
    pub(crate) skip: usize,
    pub(crate) len: usize,
}
