//! Bytes to an upright RGB [`Picture`], as Pillow's `ImageOps.exif_transpose(Image.open(f)).convert("RGB")` gives it.
//!
//! Grey and palette pictures become RGB, alpha is dropped and not blended, of 16-bit channels the high byte is kept (for
//! 16-bit grey Pillow clips at 255 instead, which turns most such pictures white; here they keep their look). Colour profiles are
//! ignored, as Pillow's conversion ignores them.
//!
//! The sizes are compared with the [`Limits`] when the header is read, before pixels are allocated. A decoder that panics
//! on hostile bytes is contained: the panic becomes [`Error::Broken`] (the panic hook still prints its line).

use std::io::{BufRead, Cursor, Seek};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use image::codecs::{bmp::BmpDecoder, png::PngDecoder, webp::WebPDecoder};
use image::{ColorType, ImageDecoder};

use crate::container::{self, Format};
use crate::error::{Error, Result};
use crate::jpeg;
use crate::picture::Picture;

/// Bounds on what is decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Height times width, at most.
    pub max_pixels: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_pixels: 120_000_000 }
    }
}

impl Limits {
    /// An error where `height * width` is above the limit.
    pub fn check(&self, height: u64, width: u64) -> Result<()> {
        let pixels = height.saturating_mul(width);
        if pixels > self.max_pixels {
            return Err(Error::TooLarge { pixels, limit: self.max_pixels });
        }
        Ok(())
    }
}

/// Reads and decodes one regular file. The format is told by its content, not by its name.
///
/// Errors: those of [`decode`]; [`Error::Io`] also for a pipe or a device, which may never end, and for a file that is larger
/// than any picture within the limits: eight bytes a pixel and 64 MiB of everything else.
pub fn decode_file(path: &Path, limits: &Limits) -> Result<Picture> {
    let io = |source| Error::Io { path: path.to_owned(), source };
    let refused = |why: String| io(std::io::Error::new(std::io::ErrorKind::InvalidInput, why));
    // Asked before opening: to open a pipe would wait for its writer.
    let metadata = std::fs::metadata(path).map_err(io)?;
    if !metadata.is_file() {
        return Err(refused("expected a regular file".into()));
    }
    let largest = limits.max_pixels.saturating_mul(8).saturating_add(64 << 20);
    if metadata.len() > largest {
        return Err(refused(format!("expected at most {largest} bytes, found {}", metadata.len())));
    }
    decode(&std::fs::read(path).map_err(io)?, limits)
}

/// Decodes the bytes of a JPEG, PNG, WebP or BMP file.
///
/// Errors: [`Error::Empty`], [`Error::UnknownFormat`], [`Error::TooLarge`], and [`Error::Broken`] for damaged or truncated
/// bytes and for kinds that are not read (arithmetic-coded, lossless and 12-bit JPEG).
pub fn decode(bytes: &[u8], limits: &Limits) -> Result<Picture> {
    if bytes.is_empty() {
        return Err(Error::Empty);
    }
    let Some(format) = Format::sniff(bytes) else {
        return Err(Error::UnknownFormat { start: bytes.iter().copied().take(8).collect() });
    };
    let run = || match format {
        Format::Jpeg => jpeg::decode(bytes, limits),
        Format::Png => decode_png(bytes, limits),
        Format::WebP => WebPDecoder::new(Cursor::new(bytes))
            .map_err(|error| broken(format, error))
            .and_then(|decoder| decode_with(format, decoder, limits)),
        Format::Bmp => BmpDecoder::new(Cursor::new(bytes))
            .map_err(|error| broken(format, error))
            .and_then(|decoder| decode_with(format, decoder, limits)),
    };
    // The closure shares no state with its surroundings but the bytes, which it cannot change.
    let picture = catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let said = panic.downcast_ref::<String>().map(String::as_str);
        let said = said.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
        Err(Error::Broken { format, reason: format!("the decoder panicked: {said}") })
    })?;
    Ok(picture.oriented(container::orientation(format, bytes)))
}

fn broken(format: Format, error: impl std::fmt::Display) -> Error {
    Error::Broken { format, reason: error.to_string() }
}

/// The PNG reader allocates a row when it reads the header, so the sizes are checked on the bytes first.
fn decode_png(bytes: &[u8], limits: &Limits) -> Result<Picture> {
    let size_at = |at: usize| bytes.get(at..)?.first_chunk::<4>().map(|size| u64::from(u32::from_be_bytes(*size)));
    let (Some(width), Some(height)) = (size_at(16), size_at(20)) else {
        return Err(broken(Format::Png, "truncated header"));
    };
    limits.check(height, width)?;
    let decoder = png_decoder(Cursor::new(bytes)).map_err(|error| broken(Format::Png, error))?;
    decode_with(Format::Png, decoder, limits)
}

fn png_decoder<R: BufRead + Seek>(reader: R) -> image::ImageResult<PngDecoder<R>> {
    // The limit on pixels is checked here; this one bounds the texts and profiles that the reader unpacks.
    const MAX_CHUNK_BYTES: u64 = 64 << 20;
    let mut bounds = image::Limits::no_limits();
    bounds.max_alloc = Some(MAX_CHUNK_BYTES);
    PngDecoder::with_limits(reader, bounds)
}

fn decode_with(format: Format, decoder: impl ImageDecoder, limits: &Limits) -> Result<Picture> {
    let (width, height) = decoder.dimensions();
    limits.check(u64::from(height), u64::from(width))?;
    let (height, width) = (height as usize, width as usize);
    let color = decoder.color_type();
    let bytes = usize::try_from(decoder.total_bytes()).map_err(|error| broken(format, error))?;
    let mut raw = vec![0; bytes];
    decoder.read_image(&mut raw).map_err(|error| broken(format, error))?;
    let pixels = to_rgb(raw, color).ok_or_else(|| broken(format, format_args!("unexpected colour type {color:?}")))?;
    Picture::decoded(format, height, width, pixels)
}

/// RGB bytes of a decoder's output; 16-bit channels are in native byte order.
fn to_rgb(raw: Vec<u8>, color: ColorType) -> Option<Vec<u8>> {
    let raw = match color {
        ColorType::L16 | ColorType::La16 | ColorType::Rgb16 | ColorType::Rgba16 => {
            let (pairs, _) = raw.as_chunks::<2>();
            pairs.iter().map(|&pair| (u16::from_ne_bytes(pair) >> 8) as u8).collect()
        }
        _ => raw,
    };
    Some(match color {
        ColorType::Rgb8 | ColorType::Rgb16 => raw,
        ColorType::L8 | ColorType::L16 => raw.iter().flat_map(|&grey| [grey; 3]).collect(),
        ColorType::La8 | ColorType::La16 => raw.chunks_exact(2).flat_map(|pixel| [pixel[0]; 3]).collect(),
        ColorType::Rgba8 | ColorType::Rgba16 => {
            raw.chunks_exact(4).flat_map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect()
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_no_image_are_told_apart() {
        let limits = Limits::default();
        assert!(matches!(decode(b"", &limits), Err(Error::Empty)));
        assert!(matches!(decode(b"GIF89a", &limits), Err(Error::UnknownFormat { .. })));
        assert!(matches!(decode(b"\xff\xd8\xff", &limits), Err(Error::Broken { format: Format::Jpeg, .. })));
        assert!(matches!(decode(b"BM", &limits), Err(Error::Broken { format: Format::Bmp, .. })));
        assert!(matches!(decode_file(Path::new("absent.png"), &limits), Err(Error::Io { .. })));
    }

    #[test]
    fn sixteen_bits_keep_the_high_byte_and_alpha_is_dropped() {
        let grey: Vec<u8> = [0x12ff_u16, 0xfe00].iter().flat_map(|value| value.to_ne_bytes()).collect();
        assert_eq!(to_rgb(grey, ColorType::L16), Some(vec![0x12, 0x12, 0x12, 0xfe, 0xfe, 0xfe]));
        assert_eq!(to_rgb(vec![1, 2, 3, 0], ColorType::Rgba8), Some(vec![1, 2, 3]));
        assert_eq!(to_rgb(vec![7, 0], ColorType::La8), Some(vec![7, 7, 7]));
    }
}
