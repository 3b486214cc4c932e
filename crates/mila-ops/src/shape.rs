//! The shape rules of the operators, checked by every executor before it computes.

use std::ops::Range;

use crate::{Dims, Error, Result, Windows};

/// `found` channels where an operator's parameters have `expected`.
///
/// # Errors
/// [`Error::Shape`] if they differ.
pub fn channels(operator: &'static str, expected: usize, found: usize) -> Result<()> {
    if expected == found {
        return Ok(());
    }
    Err(Error::shape(operator, format_args!("{expected} channels"), format_args!("{found} channels")))
}

/// Two extents that have to be equal.
///
/// # Errors
/// [`Error::Shape`] if they differ.
pub fn same<D: PartialEq + std::fmt::Display>(operator: &'static str, expected: &D, found: &D) -> Result<()> {
    if expected == found { Ok(()) } else { Err(Error::shape(operator, expected, found)) }
}

/// Some of the channels of a map.
///
/// # Errors
/// [`Error::Shape`] if the range is empty or ends beyond the `channels` that there are.
pub fn channel_range(range: &Range<usize>, channels: usize) -> Result<()> {
    if range.start < range.end && range.end <= channels {
        return Ok(());
    }
    let expected = format_args!("at least one of {channels} channels");
    Err(Error::shape("channels", expected, format_args!("{} to {}", range.start, range.end)))
}

/// The channels of linear attention with rotary positions: `qk` holds q then k, `channels` are those of the values.
///
/// # Errors
/// [`Error::Shape`] unless `qk_channels` is twice `channels`, and `channels` a multiple of 4 (a rotation pairs channels
/// and gives one half of them to each axis) and of `heads`.
pub fn attention(qk_channels: usize, channels: usize, heads: usize) -> Result<()> {
    const OPERATOR: &str = "linear attention";
    if heads == 0 || channels == 0 || !channels.is_multiple_of(heads) || !channels.is_multiple_of(4) {
        let expected = format!("channels that are a multiple of 4 and of the {heads} heads");
        return Err(Error::shape(OPERATOR, expected, format_args!("{channels} channels")));
    }
    self::channels(OPERATOR, 2 * channels, qk_channels)
}

/// The channels of attention within windows: `qkv` holds q, k and v, `table` are the values of its biases.
///
/// # Errors
/// [`Error::Shape`] unless `qkv_channels` is three times a multiple of `heads`, the shift is below the side and `table` has
/// one value for every offset and head.
pub fn window_attention(qkv_channels: usize, table: usize, heads: usize, windows: Windows) -> Result<usize> {
    const OPERATOR: &str = "window attention";
    let Windows { side, shift } = windows;
    if shift >= side {
        return Err(Error::shape(
            OPERATOR,
            "a shift below the side",
            format_args!("a shift of {shift}, a side of {side}"),
        ));
    }
    if heads == 0 || !qkv_channels.is_multiple_of(3 * heads) {
        let expected = format_args!("three times a multiple of the {heads} heads");
        return Err(Error::shape(OPERATOR, expected, format_args!("{qkv_channels} channels")));
    }
    if table != windows.offsets() * heads {
        let expected = format_args!("{} biases for {heads} heads", windows.offsets() * heads);
        return Err(Error::shape(OPERATOR, expected, table));
    }
    Ok(qkv_channels / 3)
}

/// Tokens of an input image that an executor accepts: far beyond any memory, and small enough that no product of extents
/// and channels inside a model leaves 64 bits.
const LARGEST_IMAGE: usize = 1 << 34;

/// An input map: at least one row, one column and one channel. A batch may be empty.
///
/// # Errors
/// [`Error::Shape`] if an extent is zero, if an image is beyond any memory even where the batch is empty, or if `values`
/// is not the volume of `dims`.
pub fn input(dims: Dims, values: usize) -> Result<()> {
    const OPERATOR: &str = "input";
    if dims.height == 0 || dims.width == 0 || dims.channels == 0 {
        return Err(Error::shape(OPERATOR, "height, width and channels of at least 1", dims));
    }
    let image = dims.height.checked_mul(dims.width).filter(|&tokens| tokens <= LARGEST_IMAGE);
    let Some(image) = image.and_then(|tokens| tokens.checked_mul(dims.channels)) else {
        return Err(Error::shape(OPERATOR, format_args!("at most {LARGEST_IMAGE} pixels"), dims));
    };
    if image.checked_mul(dims.batch) == Some(values) {
        return Ok(());
    }
    Err(Error::shape(OPERATOR, format_args!("the values of {dims}"), values))
}

/// A multiple for padding.
///
/// # Errors
/// [`Error::Shape`] if `multiple` is zero.
pub fn multiple(multiple: usize) -> Result<()> {
    if multiple == 0 { Err(Error::shape("pad to multiple", "a multiple of at least 1", 0)) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_beyond_any_memory_are_refused_even_when_empty() {
        assert!(input(Dims::new(0, 8, 8, 3), 0).is_ok());
        assert!(input(Dims::new(2, 1, 1, 3), 6).is_ok());
        for dims in [
            Dims::new(0, 1 << 32, 1 << 32, 3),
            Dims::new(0, 200_000, 200_000, 3),
            Dims::new(usize::MAX, 2, 2, 3),
            Dims::new(1, 0, 2, 3),
        ] {
            assert!(input(dims, 0).is_err(), "{dims}");
        }
    }

    #[test]
    fn channels_that_are_not_there_are_refused() {
        assert!(channel_range(&(0..8), 8).is_ok());
        assert!(channel_range(&(7..8), 8).is_ok());
        for range in [0..9, 8..9, 3..3] {
            assert!(channel_range(&range, 8).is_err(), "{range:?}");
        }
    }
}
