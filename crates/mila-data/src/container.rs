//! What the bytes say before any decoder runs: the format, where the EXIF block lies, whether a JPEG is complete.
//!
//! These are bounded walks over chunks that lie inside the slice; nothing is copied. The decoders have metadata readers of
//! their own, but those allocate by declared lengths, and none tells a JPEG that stops in the middle from a whole one.

use crate::exif::Orientation;

/// The image formats that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// JPEG, baseline or progressive, Huffman coded, 8 bits.
    Jpeg,
    /// PNG; of an animated one, the default image.
    Png,
    /// WebP, lossy or lossless; of an animated one, the first frame.
    WebP,
    /// Windows bitmap.
    Bmp,
}

impl Format {
    /// The format that the first bytes promise. The file's name plays no part.
    pub fn sniff(bytes: &[u8]) -> Option<Self> {
        match bytes {
            [0xff, 0xd8, 0xff, ..] => Some(Self::Jpeg),
            [0x89, b'P', b'N', b'G', 0x0d, 0x0a, 0x1a, 0x0a, ..] => Some(Self::Png),
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some(Self::WebP),
            [b'B', b'M', ..] => Some(Self::Bmp),
            _ => None,
        }
    }
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Jpeg => "JPEG",
            Self::Png => "PNG",
            Self::WebP => "WebP",
            Self::Bmp => "BMP",
        })
    }
}

/// The EXIF orientation of a JPEG (APP1), PNG (`eXIf`) or WebP (`EXIF`); upright where there is none.
pub(crate) fn orientation(format: Format, bytes: &[u8]) -> Orientation {
    let block = match format {
        Format::Jpeg => JpegSegments::new(bytes)
            .find(|segment| segment.marker == APP1 && segment.body.starts_with(b"Exif\0\0"))
            .map(|segment| segment.body),
        Format::Png => png_chunk(bytes, b"eXIf"),
        Format::WebP => riff_chunk(bytes, b"EXIF"),
        Format::Bmp => None,
    };
    block.map_or(Orientation::Upright, Orientation::from_tiff)
}

/// The body of the first PNG chunk of a kind: length, kind, body, checksum.
fn png_chunk<'a>(bytes: &'a [u8], kind: &[u8; 4]) -> Option<&'a [u8]> {
    let mut rest = bytes.get(8..)?;
    loop {
        let length = usize::try_from(u32::from_be_bytes(*rest.first_chunk::<4>()?)).ok()?;
        let body = rest.get(8..length.checked_add(8)?)?;
        if rest.get(4..8)? == kind {
            return Some(body);
        }
        rest = rest.get(length.checked_add(12)?..)?;
    }
}

/// The body of the first RIFF chunk of a kind: kind, length, body, a byte of padding where the length is odd.
fn riff_chunk<'a>(bytes: &'a [u8], kind: &[u8; 4]) -> Option<&'a [u8]> {
    let mut rest = bytes.get(12..)?;
    loop {
        let length = usize::try_from(u32::from_le_bytes(*rest.get(4..)?.first_chunk::<4>()?)).ok()?;
        let body = rest.get(8..length.checked_add(8)?)?;
        if rest.get(..4)? == kind {
            return Some(body);
        }
        rest = rest.get(length.checked_add(8)?.checked_add(length % 2)?..)?;
    }
}

const APP1: u8 = 0xe1;
const SOS: u8 = 0xda;
const EOI: u8 = 0xd9;

/// One JPEG marker with its body (empty for markers without one).
struct JpegSegment<'a> {
    marker: u8,
    body: &'a [u8],
}

/// The markers of a JPEG, entropy-coded data skipped, up to and including the end marker (ITU-T T.81, B.1).
struct JpegSegments<'a> {
    rest: &'a [u8],
    ended: bool,
}

impl<'a> JpegSegments<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes.get(2..).unwrap_or(&[]), ended: false }
    }
}

impl<'a> Iterator for JpegSegments<'a> {
    type Item = JpegSegment<'a>;

    fn next(&mut self) -> Option<JpegSegment<'a>> {
        if self.ended {
            return None;
        }
        // A marker is 0xff and a byte that is neither stuffing, nor fill, nor a restart within the entropy-coded data.
        let marks = |pair: &[u8]| pair[0] == 0xff && !matches!(pair[1], 0x00 | 0x01 | 0xff | 0xd0..=0xd8);
        let at = self.rest.windows(2).position(marks)?;
        let marker = self.rest[at + 1];
        self.rest = &self.rest[at + 2..];
        if marker == EOI {
            self.ended = true;
            return Some(JpegSegment { marker, body: &[] });
        }
        let length = usize::from(u16::from_be_bytes(*self.rest.first_chunk::<2>()?)).max(2);
        let body = self.rest.get(2..length)?;
        self.rest = &self.rest[length..];
        Some(JpegSegment { marker, body })
    }
}

/// Whether a JPEG has a scan and reaches its end marker; one that was cut off does not.
pub(crate) fn jpeg_is_complete(bytes: &[u8]) -> bool {
    let (mut scan, mut end) = (false, false);
    for segment in JpegSegments::new(bytes) {
        scan |= segment.marker == SOS;
        end |= segment.marker == EOI;
    }
    scan && end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_told_by_content() {
        assert_eq!(Format::sniff(b"\xff\xd8\xff\xe0"), Some(Format::Jpeg));
        assert_eq!(Format::sniff(b"\x89PNG\r\n\x1a\n"), Some(Format::Png));
        assert_eq!(Format::sniff(b"RIFF\0\0\0\0WEBP"), Some(Format::WebP));
        assert_eq!(Format::sniff(b"BM"), Some(Format::Bmp));
        assert_eq!(Format::sniff(b"GIF89a"), None);
        assert_eq!(Format::sniff(b""), None);
    }

    #[test]
    fn an_end_marker_inside_a_thumbnail_does_not_end_the_jpeg() {
        let thumbnail = b"\xff\xe1\x00\x0aExif\0\0\xff\xd9";
        let mut cut = b"\xff\xd8".to_vec();
        cut.extend(thumbnail);
        cut.extend(b"\xff\xda\x00\x02\x12\xff\x00\x34\xff\xd3\x56");
        assert!(!jpeg_is_complete(&cut));
        cut.extend(b"\xff\xd9");
        assert!(jpeg_is_complete(&cut));
    }

    #[test]
    fn chunk_walks_stay_inside_the_bytes() {
        let png = [b"\x89PNG\r\n\x1a\n".as_slice(), b"\xff\xff\xff\xffIHDR"].concat();
        assert_eq!(png_chunk(&png, b"eXIf"), None);
        let webp = [b"RIFF\0\0\0\0WEBP".as_slice(), b"VP8 \x01\0\0\0a\0", b"EXIF\x02\0\0\0bc"].concat();
        assert_eq!(riff_chunk(&webp, b"EXIF"), Some(b"bc".as_slice()));
        assert_eq!(riff_chunk(&webp[..webp.len() - 1], b"EXIF"), None);
    }
}
