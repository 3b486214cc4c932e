//! The one EXIF field that changes pixels: the orientation (tag 0x0112 of the first TIFF directory).
//!
//! The parser reads that directory's entries and nothing else: no pointers are followed beyond the first one, so its work
//! is bounded by 65,535 entries of twelve bytes, all inside the slice. Anything odd means upright, as Pillow does.

/// How the stored rows lie in the picture (EXIF 2.32, table 6; names as Pillow's transpositions).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Orientation {
    /// 1, absent, or out of range.
    #[default]
    Upright,
    /// 2.
    FlipHorizontal,
    /// 3.
    Rotate180,
    /// 4.
    FlipVertical,
    /// 5: mirrored along the falling diagonal.
    Transpose,
    /// 6: turned by 90 degrees clockwise to be upright.
    Rotate90,
    /// 7: mirrored along the rising diagonal.
    Transverse,
    /// 8: turned by 90 degrees counter-clockwise to be upright.
    Rotate270,
}

impl Orientation {
    /// The orientation of a tag value; 0 and values above 8 are upright.
    pub fn from_exif(value: u16) -> Self {
        match value {
            2 => Self::FlipHorizontal,
            3 => Self::Rotate180,
            4 => Self::FlipVertical,
            5 => Self::Transpose,
            6 => Self::Rotate90,
            7 => Self::Transverse,
            8 => Self::Rotate270,
            _ => Self::Upright,
        }
    }

    /// Reads the tag from a TIFF block (`II*\0` or `MM\0*`), with or without the prefix `Exif\0\0`.
    pub fn from_tiff(block: &[u8]) -> Self {
        let tiff = block.strip_prefix(b"Exif\0\0").unwrap_or(block);
        tag_orientation(tiff).map_or(Self::Upright, Self::from_exif)
    }
}

const TAG_ORIENTATION: u16 = 0x0112;
const TYPE_SHORT: u16 = 3;
const TYPE_LONG: u16 = 4;
const ENTRY_BYTES: usize = 12;

fn tag_orientation(tiff: &[u8]) -> Option<u16> {
    let little = match tiff.get(..4)? {
        b"II*\0" => true,
        b"MM\0*" => false,
        _ => return None,
    };
    let u16_at = |at: usize| -> Option<u16> {
        let bytes = [*tiff.get(at)?, *tiff.get(at.checked_add(1)?)?];
        Some(if little { u16::from_le_bytes(bytes) } else { u16::from_be_bytes(bytes) })
    };
    let u32_at = |at: usize| -> Option<u32> {
        let (a, b) = (u16_at(at)?, u16_at(at.checked_add(2)?)?);
        let (high, low) = if little { (b, a) } else { (a, b) };
        Some(u32::from(high) << 16 | u32::from(low))
    };
    let directory = usize::try_from(u32_at(4)?).ok()?;
    let entries = u16_at(directory)?;
    for index in 0..usize::from(entries) {
        let entry = directory.checked_add(2 + index * ENTRY_BYTES)?;
        if u16_at(entry)? != TAG_ORIENTATION {
            continue;
        }
        if u32_at(entry.checked_add(4)?)? != 1 {
            return None;
        }
        let value = entry.checked_add(8)?;
        return match u16_at(entry.checked_add(2)?)? {
            TYPE_SHORT => u16_at(value),
            TYPE_LONG => u16::try_from(u32_at(value)?).ok(),
            _ => None,
        };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(little: bool, value: u16) -> Vec<u8> {
        let u16_bytes = |v: u16| if little { v.to_le_bytes() } else { v.to_be_bytes() };
        let u32_bytes = |v: u32| if little { v.to_le_bytes() } else { v.to_be_bytes() };
        let mut out = if little { b"II*\0".to_vec() } else { b"MM\0*".to_vec() };
        out.extend(u32_bytes(8));
        out.extend(u16_bytes(2));
        out.extend([u16_bytes(0x010f), u16_bytes(2)].concat());
        out.extend([u32_bytes(4), u32_bytes(0)].concat());
        out.extend([u16_bytes(TAG_ORIENTATION), u16_bytes(TYPE_SHORT)].concat());
        out.extend(u32_bytes(1));
        out.extend([u16_bytes(value), u16_bytes(0)].concat());
        out.extend(u32_bytes(0));
        out
    }

    #[test]
    fn both_byte_orders_are_read() {
        for value in 1..=8 {
            assert_eq!(Orientation::from_tiff(&block(true, value)), Orientation::from_exif(value));
            assert_eq!(Orientation::from_tiff(&block(false, value)), Orientation::from_exif(value));
        }
        let prefixed = [b"Exif\0\0".to_vec(), block(true, 6)].concat();
        assert_eq!(Orientation::from_tiff(&prefixed), Orientation::Rotate90);
    }

    #[test]
    fn nonsense_is_upright() {
        assert_eq!(Orientation::from_tiff(&block(true, 0)), Orientation::Upright);
        assert_eq!(Orientation::from_tiff(&block(true, 9)), Orientation::Upright);
        let whole = block(false, 6);
        // The value is complete after its two bytes; every shorter prefix must be upright without a panic.
        for length in 0..whole.len() - 6 {
            assert_eq!(Orientation::from_tiff(&whole[..length]), Orientation::Upright, "prefix of {length}");
        }
        let mut far = block(true, 6);
        far[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(Orientation::from_tiff(&far), Orientation::Upright);
    }
}
