//! Antialiased resizing, equal to Pillow's `Image.resize` to the byte.
//!
//! An output pixel is a weighted mean of the input pixels around its centre, first along rows, then along columns, rounded
//! and clipped to a byte in between (Pillow's `Resample.c`):
//!
//! ```text
//! scale = input / output     stretch = max(scale, 1)     centre = (i + 1/2) scale
//! weight(x) ~ filter((x + 1/2 - centre) / stretch)       in fixed point with 22 fractional bits
//! ```
//!
//! Ready-made resizers were no choice: fixed-point weights of 16 bits differ from Pillow by up to 2/255, and filtering the
//! columns first differs by tens where overshoot is clipped. Here each weight is cut into two 11-bit halves instead, so
//! that sums of 16-bit products (which every x86-64 has) are exact.

use std::fmt;
use std::str::FromStr;

use crate::decode::Limits;
use crate::error::{Error, Result};
use crate::picture::Picture;

/// The resampling filter, by timm's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Interpolation {
    /// Triangle, radius 1.
    Bilinear,
    /// Cubic with a = -0.5, radius 2.
    Bicubic,
}

impl Interpolation {
    /// The filter at a distance in output pixels.
    fn weight(self, distance: f64) -> f64 {
        let x = distance.abs();
        match self {
            Self::Bilinear => (1.0 - x).max(0.0),
            Self::Bicubic if x < 1.0 => (1.5 * x - 2.5) * x * x + 1.0,
            Self::Bicubic if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5,
            Self::Bicubic => 0.0,
        }
    }

    fn radius(self) -> f64 {
        match self {
            Self::Bilinear => 1.0,
            Self::Bicubic => 2.0,
        }
    }
}

impl fmt::Display for Interpolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bilinear => "bilinear",
            Self::Bicubic => "bicubic",
        })
    }
}

impl FromStr for Interpolation {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "bilinear" => Ok(Self::Bilinear),
            "bicubic" => Ok(Self::Bicubic),
            _ => Err(Error::Setting {
                setting: "interpolation",
                expected: "bilinear or bicubic",
                found: name.to_owned(),
            }),
        }
    }
}

/// Resizes to `height` x `width`. The same size gives the same bytes.
///
/// Errors: a size of zero, and a result or an intermediate picture above the default [`Limits`].
pub fn resize(picture: &Picture, height: usize, width: usize, interpolation: Interpolation) -> Result<Picture> {
    resize_window(picture, Axis::whole(height), Axis::whole(width), interpolation)
}

/// The part `start .. start + length` of an axis that is resized to `full`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Axis {
    pub(crate) full: usize,
    pub(crate) start: usize,
    pub(crate) length: usize,
}

impl Axis {
    fn whole(full: usize) -> Self {
        Self { full, start: 0, length: full }
    }

    /// The weights of each output pixel of the part, for an axis of `source` pixels.
    fn taps(self, source: usize, interpolation: Interpolation) -> Result<Vec<Taps>> {
        let scale = source as f64 / self.full as f64;
        let stretch = scale.max(1.0);
        let reach = interpolation.radius() * stretch;
        // A side of a hundred million pixels would ask for gigabytes of weights.
        Limits::default().check(self.length as u64, (2.0 * reach).ceil() as u64)?;
        let taps = |output: usize| {
            let centre = (output as f64 + 0.5) * scale;
            let first = (centre - reach + 0.5).max(0.0) as usize;
            let end = ((centre + reach + 0.5) as usize).min(source);
            let weight = |x: usize| interpolation.weight((x as f64 - centre + 0.5) * (1.0 / stretch));
            let weights: Vec<f64> = (first..end).map(weight).collect();
            let sum: f64 = weights.iter().sum();
            let fixed = weights.iter().map(|weight| (weight / sum * f64::from(1 << FRACTION_BITS)).round() as i32);
            Taps::new(first, fixed)
        };
        Ok((self.start..self.start + self.length).map(taps).collect())
    }
}

const FRACTION_BITS: u32 = 22;
const HALF_BITS: u32 = 11;

/// The weights of one output pixel: `weight = high * 2^11 + low` for the input pixels from `first` on.
struct Taps {
    first: usize,
    high: Vec<i16>,
    low: Vec<i16>,
}

impl Taps {
    /// Weights are within -2 and 2, so both halves fit 16 bits.
    fn new(first: usize, fixed: impl Iterator<Item = i32>) -> Self {
        let (high, low) = fixed.map(|k| ((k >> HALF_BITS) as i16, (k & ((1 << HALF_BITS) - 1)) as i16)).unzip();
        Self { first, high, low }
    }

    fn end(&self) -> usize {
        self.first + self.high.len()
    }

    /// The weighted mean of `line[first..]` as a byte. The sum of the low halves may wrap; the whole fits 32 bits, so it
    /// is exact again when the high part is added.
    fn mean(&self, line: &[i16]) -> u8 {
        let (mut high, mut low) = (0_i32, 0_i32);
        for ((&value, &h), &l) in line[self.first..self.end()].iter().zip(&self.high).zip(&self.low) {
            high = high.wrapping_add(i32::from(value) * i32::from(h));
            low = low.wrapping_add(i32::from(value) * i32::from(l));
        }
        to_byte((high << HALF_BITS).wrapping_add(low).wrapping_add(ROUND))
    }
}

/// One half, to round where [`to_byte`] cuts.
const ROUND: i32 = 1 << (FRACTION_BITS - 1);

fn to_byte(sum: i32) -> u8 {
    (sum >> FRACTION_BITS).clamp(0, 255) as u8
}

/// Resizes to `rows.full` x `columns.full` and cuts out the part, without computing the rest: a very long and thin picture
/// would else become a very large one on the way to a small crop.
pub(crate) fn resize_window(
    picture: &Picture,
    rows: Axis,
    columns: Axis,
    interpolation: Interpolation,
) -> Result<Picture> {
    for (setting, axis) in [("height", rows), ("width", columns)] {
        if axis.length == 0 || axis.start + axis.length > axis.full {
            return Err(Error::Setting { setting, expected: "at least 1 pixel", found: axis.length.to_string() });
        }
    }
    let limits = Limits::default();
    limits.check(rows.length as u64, columns.length as u64)?;
    let row_taps = rows.taps(picture.height(), interpolation)?;
    // Only the source rows that the part draws on.
    let first = row_taps.iter().map(|taps| taps.first).min().unwrap_or(0);
    let end = row_taps.iter().map(Taps::end).max().unwrap_or(0);
    limits.check((end - first) as u64, columns.length as u64)?;

    let stride = picture.width() * 3;
    let narrow = narrowed(&picture.pixels()[first * stride..end * stride], picture.width(), columns, interpolation)?;
    let stride = columns.length * 3;
    if rows.full == picture.height() {
        let start = (rows.start - first) * stride;
        return Picture::new(rows.length, columns.length, narrow[start..start + rows.length * stride].to_vec());
    }
    let mut pixels = Vec::with_capacity(rows.length * stride);
    let mut sums = vec![0; stride];
    for taps in &row_taps {
        sums.fill(ROUND);
        let lines = narrow[(taps.first - first) * stride..].chunks_exact(stride);
        for ((line, &high), &low) in lines.zip(&taps.high).zip(&taps.low) {
            let weight = (i32::from(high) << HALF_BITS) + i32::from(low);
            for (sum, &value) in sums.iter_mut().zip(line) {
                *sum = sum.wrapping_add(i32::from(value) * weight);
            }
        }
        pixels.extend(sums.iter().map(|&sum| to_byte(sum)));
    }
    Picture::new(rows.length, columns.length, pixels)
}

/// Resizes each of the rows, `[.., width, 3]`, to `[.., columns.length, 3]`.
fn narrowed(rows: &[u8], width: usize, columns: Axis, interpolation: Interpolation) -> Result<Vec<u8>> {
    if columns.full == width {
        let part = columns.start * 3..(columns.start + columns.length) * 3;
        return Ok(rows.chunks_exact(width * 3).flat_map(|row| &row[part.clone()]).copied().collect());
    }
    let taps = columns.taps(width, interpolation)?;
    let mut out = Vec::with_capacity(rows.len() / width * columns.length);
    let mut planes: [Vec<i16>; 3] = std::array::from_fn(|_| vec![0; width]);
    for row in rows.chunks_exact(width * 3) {
        for (x, pixel) in row.as_chunks::<3>().0.iter().enumerate() {
            for (plane, &value) in planes.iter_mut().zip(pixel) {
                plane[x] = i16::from(value);
            }
        }
        for taps in &taps {
            out.extend(planes.iter().map(|plane| taps.mean(plane)));
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(height: usize, width: usize) -> Picture {
        Picture::build(height, width, |y, x| [y * 37 + x * 11, y * x, y ^ (x * 3)].map(|v| (v * 73 % 256) as u8))
    }

    #[test]
    fn names_are_timms() {
        for by in [Interpolation::Bilinear, Interpolation::Bicubic] {
            assert_eq!(by.to_string().parse::<Interpolation>().unwrap(), by);
        }
        assert!("random".parse::<Interpolation>().is_err());
    }

    #[test]
    fn the_same_size_is_a_copy_and_a_flat_picture_stays_flat() {
        let picture = noise(7, 9);
        assert_eq!(resize(&picture, 7, 9, Interpolation::Bicubic).unwrap(), picture);
        let flat = Picture::from_grey(5, 3, &[77; 15]).unwrap();
        for (height, width) in [(1, 1), (2, 9), (40, 1), (31, 17)] {
            let sized = resize(&flat, height, width, Interpolation::Bicubic).unwrap();
            assert!(sized.pixels().iter().all(|&value| value == 77), "{height}x{width}");
        }
    }

    #[test]
    fn half_of_a_step_by_the_triangle() {
        // Four pixels to two: weights 1/8, 3/8, 3/8, 1/8, cut at the border: (3, 3, 1)/7.
        let step = Picture::from_grey(1, 4, &[0, 0, 252, 252]).unwrap();
        let half = resize(&step, 1, 2, Interpolation::Bilinear).unwrap();
        assert_eq!((half.at(0, 0)[0], half.at(0, 1)[0]), (36, 216));
    }

    #[test]
    fn a_window_equals_the_crop_of_the_whole() {
        let picture = noise(61, 43);
        for by in [Interpolation::Bilinear, Interpolation::Bicubic] {
            for (height, width) in [(61, 43), (17, 29), (100, 90), (61, 20)] {
                let whole = resize(&picture, height, width, by).unwrap();
                let (top, left) = (height / 5, width / 3);
                let rows = Axis { full: height, start: top, length: height / 2 };
                let columns = Axis { full: width, start: left, length: width / 2 };
                let part = resize_window(&picture, rows, columns, by).unwrap();
                let cut = Picture::build(height / 2, width / 2, |y, x| whole.at(top + y, left + x));
                assert_eq!(part, cut, "{by} {height}x{width}");
            }
        }
    }

    #[test]
    fn hostile_sizes_are_errors() {
        let picture = noise(4, 4);
        assert!(resize(&picture, 0, 4, Interpolation::Bicubic).is_err());
        let found = resize(&picture, 1 << 20, 1 << 20, Interpolation::Bicubic);
        assert!(matches!(found, Err(Error::TooLarge { .. })));
    }
}
