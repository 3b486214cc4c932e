//! Products of bf16 numbers, summed in f32.
//!
//! A bf16 number is the upper half of a float: all of its exponent and eight bits of precision, so that a value is rounded by
//! 2⁻⁸ of itself at most. Maps stay f32 in memory. A product's two operands are rounded, to the nearest, on their way into it:
//! the weights once, when they are packed, and the rows when they are laid out for the product. Everything else, sums
//! included, is f32.
//!
//! [Pairs](Bf16::pair) of numbers that are neighbours in depth fill the 32-bit cells of the lanes that f32 products use.

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod pairs;
pub(crate) mod product;
pub(crate) mod rows;
#[cfg(test)]
mod tests;
mod unit;

pub use unit::Bf16Unit;
pub(crate) use unit::Kind;

/// Numbers of a row that a lane holds. Depths are filled up with zeros to a multiple of it.
pub(crate) const BLOCK: usize = 2 * crate::arithmetic::LANES;

/// A bf16 number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bf16(u16);

impl Bf16 {
    /// The nearest number to `x`, of two that are equally near the even one. NaN stays NaN.
    ///
    /// The processor's units take numbers below 2⁻¹²⁶ for zero; they stay what they are here.
    #[inline(always)]
    pub(crate) fn new(x: f32) -> Bf16 {
        let bits = x.to_bits();
        let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1));
        // A NaN may have all its digits in the lower half, or overflow: it keeps its sign and becomes a quiet one.
        let bits = if x.is_nan() { bits | 1 << 22 } else { rounded };
        Bf16((bits >> 16) as u16)
    }

    /// The same number as a float.
    #[cfg(test)]
    pub(crate) fn wide(self) -> f32 {
        f32::from_bits(u32::from(self.0) << 16)
    }

    /// Two numbers in the bits of a float, `first` in the lower half.
    #[inline(always)]
    pub(crate) fn pair(first: Bf16, second: Bf16) -> f32 {
        f32::from_bits(u32::from(first.0) | u32::from(second.0) << 16)
    }
}
