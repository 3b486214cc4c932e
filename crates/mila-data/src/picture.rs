//! A decoded picture.

use crate::container::Format;
use crate::error::{Error, Result};
use crate::exif::Orientation;

/// 8-bit RGB pixels, `[height, width, 3]`, row-major, upright.
#[derive(Clone, PartialEq, Eq)]
pub struct Picture {
    height: usize,
    width: usize,
    pixels: Vec<u8>,
}

impl Picture {
    /// Wraps `pixels`, `[height, width, 3]`. Both sizes must be at least 1 and the length must fit them.
    pub fn new(height: usize, width: usize, pixels: Vec<u8>) -> Result<Self> {
        let expected = height.saturating_mul(width).saturating_mul(3);
        if expected == 0 || pixels.len() != expected {
            return Err(Error::Length { height, width, expected, found: pixels.len() });
        }
        Ok(Self { height, width, pixels })
    }

    /// Grey values, `[height, width]`, copied to the three channels.
    pub fn from_grey(height: usize, width: usize, grey: &[u8]) -> Result<Self> {
        Self::new(height, width, grey.iter().flat_map(|&value| [value; 3]).collect())
    }

    /// Height in pixels.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Width in pixels.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The bytes, `[height, width, 3]`.
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }

    /// The bytes, `[height, width, 3]`, without a copy.
    pub fn into_pixels(self) -> Vec<u8> {
        self.pixels
    }

    /// The three channels at a place. Panics outside the picture, as indexing does.
    pub fn at(&self, y: usize, x: usize) -> [u8; 3] {
        let start = (y * self.width + x) * 3;
        [self.pixels[start], self.pixels[start + 1], self.pixels[start + 2]]
    }

    /// Fresh pixels, each made from its place; `pixel(y, x)` must be total over the given sizes.
    pub(crate) fn build(height: usize, width: usize, mut pixel: impl FnMut(usize, usize) -> [u8; 3]) -> Self {
        let mut pixels = Vec::with_capacity(height * width * 3);
        for y in 0..height {
            for x in 0..width {
                pixels.extend_from_slice(&pixel(y, x));
            }
        }
        Self { height, width, pixels }
    }

    /// The picture as it should be seen when the camera wrote `orientation` (Pillow's `ImageOps.exif_transpose`).
    pub fn oriented(self, orientation: Orientation) -> Self {
        use Orientation as O;
        let (h, w) = (self.height, self.width);
        match orientation {
            O::Upright => self,
            O::FlipHorizontal => Self::build(h, w, |y, x| self.at(y, w - 1 - x)),
            O::Rotate180 => Self::build(h, w, |y, x| self.at(h - 1 - y, w - 1 - x)),
            O::FlipVertical => Self::build(h, w, |y, x| self.at(h - 1 - y, x)),
            O::Transpose => Self::build(w, h, |y, x| self.at(x, y)),
            O::Rotate90 => Self::build(w, h, |y, x| self.at(h - 1 - x, y)),
            O::Transverse => Self::build(w, h, |y, x| self.at(h - 1 - x, w - 1 - y)),
            O::Rotate270 => Self::build(w, h, |y, x| self.at(x, w - 1 - y)),
        }
    }

    /// A decoder's output, whose length the decoder promised.
    pub(crate) fn decoded(format: Format, height: usize, width: usize, pixels: Vec<u8>) -> Result<Self> {
        Self::new(height, width, pixels).map_err(|error| Error::Broken { format, reason: error.to_string() })
    }
}

impl std::fmt::Debug for Picture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Picture({}x{})", self.height, self.width)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_length_and_empty_sizes_are_errors() {
        assert!(Picture::new(2, 2, vec![0; 11]).is_err());
        assert!(Picture::new(0, 2, vec![]).is_err());
        assert!(Picture::new(usize::MAX, usize::MAX, vec![0; 12]).is_err());
    }

    #[test]
    fn orientations_move_the_first_row_where_exif_says() {
        // Numbers 1..6 as `1 2 3 / 4 5 6`.
        let upright = Picture::from_grey(2, 3, &[1, 2, 3, 4, 5, 6]).unwrap();
        let grey = |value: u16| -> (usize, Vec<u8>) {
            let seen = upright.clone().oriented(Orientation::from_exif(value));
            (seen.height(), seen.pixels().chunks(3).map(|p| p[0]).collect())
        };
        assert_eq!(grey(1), (2, vec![1, 2, 3, 4, 5, 6]));
        assert_eq!(grey(2), (2, vec![3, 2, 1, 6, 5, 4]));
        assert_eq!(grey(3), (2, vec![6, 5, 4, 3, 2, 1]));
        assert_eq!(grey(4), (2, vec![4, 5, 6, 1, 2, 3]));
        assert_eq!(grey(5), (3, vec![1, 4, 2, 5, 3, 6]));
        assert_eq!(grey(6), (3, vec![4, 1, 5, 2, 6, 3]));
        assert_eq!(grey(7), (3, vec![6, 3, 5, 2, 4, 1]));
        assert_eq!(grey(8), (3, vec![3, 6, 2, 5, 1, 4]));
    }
}
