//! Shapes of feature maps and of sliding windows.

/// The shape of a feature map `[batch, height, width, channels]`, row-major. Any extent may be zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Map {
    /// Images.
    pub batch: usize,
    /// Rows of pixels.
    pub height: usize,
    /// Pixels in a row.
    pub width: usize,
    /// Floats in a pixel.
    pub channels: usize,
}

impl Map {
    /// Floats in the map.
    pub fn len(&self) -> usize {
        self.batch * self.height * self.width * self.channels
    }

    /// Whether the map holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A square window that slides over a map: `kernel` pixels wide, moved by `stride`, over a map that has `padding` zeros
/// on every side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Window {
    /// Pixels on a side, at least 1.
    pub kernel: usize,
    /// Pixels from one position to the next, at least 1.
    pub stride: usize,
    /// Zero pixels on every side.
    pub padding: usize,
}

impl Window {
    /// Positions along an axis of `extent` pixels: ⌊(extent + 2 padding − kernel) / stride⌋ + 1, or 0 where the window
    /// does not fit.
    pub fn output(&self, extent: usize) -> usize {
        (extent + 2 * self.padding).checked_sub(self.kernel).map_or(0, |room| room / self.stride + 1)
    }

    /// The shape of the result over `input`, with `channels` channels.
    pub fn map(&self, input: Map, channels: usize) -> Map {
        Map { height: self.output(input.height), width: self.output(input.width), channels, ..input }
    }

    /// Positions within the window.
    pub fn taps(&self) -> usize {
        self.kernel * self.kernel
    }

    /// Panics if the window has no pixel or does not move.
    pub(crate) fn check(&self) {
        assert!(self.kernel > 0 && self.stride > 0, "a window needs a kernel and a stride, found {self:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_count_their_positions() {
        let count = |kernel, stride, padding, extent| Window { kernel, stride, padding }.output(extent);
        assert_eq!(count(3, 1, 1, 7), 7);
        assert_eq!(count(3, 2, 1, 7), 4);
        assert_eq!(count(3, 2, 1, 224), 112);
        assert_eq!(count(4, 4, 0, 224), 56);
        assert_eq!(count(2, 2, 0, 1), 0);
        assert_eq!(count(3, 1, 1, 0), 0);
    }
}
