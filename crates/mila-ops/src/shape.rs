//! The shape rules of the operators, checked by every executor before it computes.

use crate::{Dims, Error, Result};

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

/// An input map: at least one row, one column and one channel. A batch may be empty.
///
/// # Errors
/// [`Error::Shape`] if an extent is zero, or if `values` is not the volume of `dims`.
pub fn input(dims: Dims, values: usize) -> Result<()> {
    if dims.height == 0 || dims.width == 0 || dims.channels == 0 {
        return Err(Error::shape("input", "height, width and channels of at least 1", dims));
    }
    let volume = [dims.height, dims.width, dims.channels].iter().try_fold(dims.batch, |v, &n| v.checked_mul(n));
    match volume {
        Some(volume) if volume == values => Ok(()),
        Some(volume) => Err(Error::shape("input", format_args!("{volume} values for {dims}"), values)),
        None => Err(Error::shape("input", "an extent that fits the address space", dims)),
    }
}

/// A multiple for padding.
///
/// # Errors
/// [`Error::Shape`] if `multiple` is zero.
pub fn multiple(multiple: usize) -> Result<()> {
    if multiple == 0 { Err(Error::shape("pad to multiple", "a multiple of at least 1", 0)) } else { Ok(()) }
}
