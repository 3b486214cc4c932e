//! Extents of feature maps and of convolution windows.

/// Extent of a feature map, stored row-major as `[batch, height, width, channels]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Dims {
    /// Images.
    pub batch: usize,
    /// Rows of tokens.
    pub height: usize,
    /// Columns of tokens.
    pub width: usize,
    /// Values of one token.
    pub channels: usize,
}

impl Dims {
    /// The extent `[batch, height, width, channels]`.
    pub const fn new(batch: usize, height: usize, width: usize, channels: usize) -> Self {
        Self { batch, height, width, channels }
    }

    /// Tokens of one image: `height * width`.
    pub const fn tokens(self) -> usize {
        self.height * self.width
    }

    /// Tokens of the whole batch: `batch * height * width`.
    pub const fn rows(self) -> usize {
        self.batch * self.tokens()
    }

    /// Values of the whole map.
    pub const fn volume(self) -> usize {
        self.rows() * self.channels
    }

    /// The same tokens with another channel count.
    pub const fn with_channels(self, channels: usize) -> Self {
        Self { channels, ..self }
    }
}

impl std::fmt::Display for Dims {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "[{}, {}, {}, {}]", self.batch, self.height, self.width, self.channels)
    }
}

/// The square window of a convolution, in tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Window {
    /// Side of the kernel.
    pub kernel: usize,
    /// Step between two outputs.
    pub stride: usize,
    /// Zeros added on each side.
    pub padding: usize,
}

impl Window {
    /// Output extent along one axis for an input of `extent` tokens (at least one).
    ///
    /// An input that is smaller than the kernel even with its padding is filled with zeros at its end until one window
    /// fits, so that every model takes any input from one pixel up; PyTorch refuses such an input.
    pub const fn output(self, extent: usize) -> usize {
        let padded = extent + 2 * self.padding;
        if padded < self.kernel { 1 } else { (padded - self.kernel) / self.stride + 1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_count_outputs_as_pytorch_does() {
        let down = Window { kernel: 3, stride: 2, padding: 1 };
        let patch = Window { kernel: 4, stride: 4, padding: 0 };
        assert_eq!([1, 2, 7, 8, 224].map(|n| down.output(n)), [1, 1, 4, 4, 112]);
        assert_eq!([4, 7, 8, 30, 224].map(|n| patch.output(n)), [1, 1, 2, 7, 56]);
    }

    #[test]
    fn a_window_larger_than_its_input_gives_one_output() {
        assert_eq!(Window { kernel: 4, stride: 4, padding: 0 }.output(1), 1);
    }
}
