//! The shape rules of the operators, checked by every executor before it computes.

use std::ops::Range;

use crate::{Dims, Error, LinearAttention, Positions, Result, Windows};

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

/// A row of tokens that a class token is taken from.
///
/// # Errors
/// [`Error::Shape`] if there is more than one row.
pub fn token_row<D: std::fmt::Display>(rows: &D, row: bool) -> Result<()> {
    if row { Ok(()) } else { Err(Error::shape("class token", "one row of tokens", format_args!("{rows} rows"))) }
}

/// The grid that a model's positions were made for.
///
/// # Errors
/// [`Error::Shape`] for another one.
pub fn grid([height, width]: [usize; 2], [rows, columns]: [usize; 2]) -> Result<()> {
    if [height, width] == [rows, columns] {
        return Ok(());
    }
    let expected = format_args!("the {height}x{width} tokens that they were made for");
    Err(Error::shape("absolute positions", expected, format_args!("{rows}x{columns}")))
}

/// The channels of linear attention: `qk` holds q then k, `channels` are those of the values.
///
/// # Errors
/// [`Error::Shape`] unless `channels` and one half of `qk_channels` are multiples of the heads, and, with rotary positions,
/// that half of 4 (a rotation pairs channels and gives one half of them to each axis).
pub fn attention(qk_channels: usize, channels: usize, form: LinearAttention) -> Result<()> {
    const OPERATOR: &str = "linear attention";
    let heads = form.heads;
    let keys = qk_channels / 2;
    let splits = |width: usize| heads > 0 && width > 0 && width.is_multiple_of(heads);
    if !splits(channels) {
        let expected = format!("channels that are a multiple of the {heads} heads");
        return Err(Error::shape(OPERATOR, expected, format_args!("{channels} channels")));
    }
    let (unit, fits) = match form.positions {
        Positions::Absent => (1, true),
        Positions::Rotary => (4, keys.is_multiple_of(4)),
    };
    if splits(keys) && fits && qk_channels.is_multiple_of(2) {
        return Ok(());
    }
    let expected = format!("queries and keys of channels that are a multiple of {unit} and of the {heads} heads");
    Err(Error::shape(OPERATOR, expected, format_args!("{qk_channels} channels of both")))
}

/// The grid of a table that is added to a map, and its channels: `table` is `[height, width, channels]`, or has the tokens of
/// the map in one row.
///
/// # Errors
/// [`Error::Shape`] if the map has another grid, which the table cannot know, or fewer channels.
pub fn positions(table: [usize; 3], map: [usize; 3]) -> Result<()> {
    let ([height, width, channels], [rows, columns, of_map]) = (table, map);
    if (rows, columns) != (height, width) && (1, rows * columns) != (height, width) {
        let expected = format!("the grid of {height}x{width} tokens that its table was made for");
        return Err(Error::shape("absolute positions", expected, format_args!("{rows}x{columns} tokens")));
    }
    if channels <= of_map {
        return Ok(());
    }
    Err(Error::shape("absolute positions", format_args!("at least {channels} channels"), of_map))
}

/// A map that is cut into patches of 2x2 tokens.
///
/// # Errors
/// [`Error::Shape`] if height or width is odd.
pub fn patches(height: usize, width: usize) -> Result<()> {
    if height.is_multiple_of(2) && width.is_multiple_of(2) {
        return Ok(());
    }
    Err(Error::shape("patches", "an even height and width", format_args!("{height}x{width}")))
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
