//! What pictures are made of: rectangles, strokes, text and pixels, written as SVG and as PNG.

use std::fmt::Write;
use std::io::Cursor;

use image::{ImageFormat, Rgb, RgbImage, imageops};

use crate::pixel_font::{HEIGHT, draw_text, fill, text_width};

pub(crate) const PAPER: Rgb<u8> = Rgb([255, 255, 255]);
pub(crate) const INK: Rgb<u8> = Rgb([40, 44, 52]);
pub(crate) const GREY: Rgb<u8> = Rgb([208, 210, 214]);

/// Enlargement of the bitmap font; the letters of the SVG are as high.
pub(crate) const SCALE: u32 = 2;
/// The same of titles.
pub(crate) const TITLE_SCALE: u32 = 3;

/// Shapes from the lowest to the uppermost, in pixels from the left upper corner.
#[derive(Clone, Debug)]
pub struct Drawing {
    pub(crate) width: u32,
    pub(crate) height: u32,
    pub(crate) shapes: Vec<Shape>,
}

#[derive(Clone, Debug)]
pub(crate) enum Shape {
    Rectangle {
        x: u32,
        y: u32,
        width: u32,
        height: u32,
        colour: Rgb<u8>,
    },
    /// A straight line with round ends; a dot if it ends where it begins.
    Stroke {
        from: [f64; 2],
        to: [f64; 2],
        width: f64,
        colour: Rgb<u8>,
    },
    /// Its upper edge, and across it what the anchor says.
    Text {
        x: u32,
        y: u32,
        anchor: Anchor,
        colour: Rgb<u8>,
        text: String,
    },
    /// Its left upper corner.
    Title {
        x: u32,
        y: u32,
        text: String,
    },
    /// Pixels as rectangles of equal size.
    Pixels {
        x: u32,
        y: u32,
        width: u32,
        height: u32,
        pixels: RgbImage,
    },
}

/// Which part of a text stands at its place.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Anchor {
    Start,
    Middle,
    End,
}

impl Drawing {
    /// Nothing on white.
    pub(crate) fn new(width: u32, height: u32) -> Self {
        Self { width, height, shapes: Vec::new() }
    }

    pub(crate) fn add(&mut self, shape: Shape) {
        self.shapes.push(shape);
    }

    pub(crate) fn rectangle(&mut self, (x, y): (u32, u32), (width, height): (u32, u32), colour: Rgb<u8>) {
        self.add(Shape::Rectangle { x, y, width, height, colour });
    }

    pub(crate) fn dot(&mut self, (x, y): (u32, u32), diameter: u32, colour: Rgb<u8>) {
        let place = [x, y].map(f64::from);
        self.add(Shape::Stroke { from: place, to: place, width: f64::from(diameter), colour });
    }

    pub(crate) fn text(&mut self, (x, y): (u32, u32), anchor: Anchor, text: impl Into<String>) {
        self.add(Shape::Text { x, y, anchor, colour: INK, text: text.into() });
    }

    /// Width and height in pixels.
    pub fn size(&self) -> (u32, u32) {
        (self.width, self.height)
    }

    /// The drawing as SVG.
    pub fn to_svg(&self) -> String {
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {}\" font-family=\"sans-serif\" \
             font-size=\"18\">\n<rect width=\"100%\" height=\"100%\" fill=\"{}\"/>\n",
            self.width,
            self.height,
            hex(PAPER)
        );
        for shape in &self.shapes {
            // Writing to a string does not fail.
            let _ = match shape {
                Shape::Rectangle { x, y, width, height, colour } => writeln!(
                    svg,
                    "<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" fill=\"{}\"/>",
                    hex(*colour)
                ),
                Shape::Stroke { from, to, width, colour } => writeln!(
                    svg,
                    "<path d=\"M{:.1} {:.1}L{:.1} {:.1}\" stroke=\"{}\" stroke-width=\"{width}\" stroke-linecap=\"round\"/>",
                    from[0],
                    from[1],
                    to[0],
                    to[1],
                    hex(*colour)
                ),
                Shape::Title { x, y, text } => writeln!(
                    svg,
                    "<text x=\"{x}\" y=\"{}\" font-size=\"{}\" fill=\"{}\">{}</text>",
                    y + TITLE_SCALE * HEIGHT,
                    9 * TITLE_SCALE,
                    hex(INK),
                    escaped(text)
                ),
                Shape::Pixels { x, y, width, height, pixels } => writeln!(
                    svg,
                    "<image x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" preserveAspectRatio=\"none\" \
                     style=\"image-rendering:pixelated\" href=\"data:image/png;base64,{}\"/>",
                    base64(&png(pixels))
                ),
                Shape::Text { x, y, anchor, colour, text } => {
                    let text = escaped(text);
                    let anchor = match anchor {
                        Anchor::Start => "",
                        Anchor::Middle => " text-anchor=\"middle\"",
                        Anchor::End => " text-anchor=\"end\"",
                    };
                    let line = y + SCALE * HEIGHT;
                    writeln!(svg, "<text x=\"{x}\" y=\"{line}\" fill=\"{}\"{anchor}>{text}</text>", hex(*colour))
                }
            };
        }
        svg + "</svg>\n"
    }

    /// The drawing as a PNG file.
    pub fn to_png(&self) -> Vec<u8> {
        let mut canvas = RgbImage::from_pixel(self.width, self.height, PAPER);
        for shape in &self.shapes {
            match shape {
                Shape::Rectangle { x, y, width, height, colour } => {
                    fill(&mut canvas, (*x, *y), (*width, *height), *colour);
                }
                Shape::Stroke { from, to, width, colour } => stroke(&mut canvas, [*from, *to], *width, *colour),
                Shape::Text { x, y, anchor, colour, text } => {
                    let before = match anchor {
                        Anchor::Start => 0,
                        Anchor::Middle => text_width(text, SCALE) / 2,
                        Anchor::End => text_width(text, SCALE),
                    };
                    draw_text(&mut canvas, x.saturating_sub(before), *y, SCALE, *colour, text);
                }
                Shape::Title { x, y, text } => draw_text(&mut canvas, *x, *y, TITLE_SCALE, INK, text),
                Shape::Pixels { x, y, width, height, pixels } => {
                    let scaled = imageops::resize(pixels, *width, *height, imageops::FilterType::Nearest);
                    imageops::replace(&mut canvas, &scaled, i64::from(*x), i64::from(*y));
                }
            }
        }
        png(&canvas)
    }
}

fn png(pixels: &RgbImage) -> Vec<u8> {
    let mut png = Cursor::new(Vec::new());
    pixels.write_to(&mut png, ImageFormat::Png).expect("a picture has pixels, and writing to memory does not fail");
    png.into_inner()
}

/// Text as XML has it, which knows no control characters.
fn escaped(text: &str) -> String {
    text.replace(char::is_control, "?").replace('&', "&amp;").replace('<', "&lt;")
}

fn hex(Rgb([red, green, blue]): Rgb<u8>) -> String {
    format!("#{red:02x}{green:02x}{blue:02x}")
}

/// Each pixel by the share of it, about, that lies within half of `width` from the line.
fn stroke(canvas: &mut RgbImage, [from, to]: [[f64; 2]; 2], width: f64, colour: Rgb<u8>) {
    let reach = width / 2.0 + 1.0;
    let pixels = |axis: usize, extent: u32| {
        let (low, high) = (from[axis].min(to[axis]) - reach, from[axis].max(to[axis]) + reach);
        // A number beyond an integer's range becomes its end.
        (low.floor() as u32).min(extent)..(high.ceil() as u32).min(extent)
    };
    for y in pixels(1, canvas.height()) {
        for x in pixels(0, canvas.width()) {
            let distance = distance([f64::from(x) + 0.5, f64::from(y) + 0.5], from, to);
            let share = (width / 2.0 + 0.5 - distance).clamp(0.0, 1.0);
            let pixel = canvas.get_pixel_mut(x, y);
            for (below, above) in pixel.0.iter_mut().zip(colour.0) {
                *below = (f64::from(*below) + share * (f64::from(above) - f64::from(*below))).round() as u8;
            }
        }
    }
}

/// From a point to the nearest of a line from `from` to `to`.
fn distance(point: [f64; 2], from: [f64; 2], to: [f64; 2]) -> f64 {
    let (along, there) = ([to[0] - from[0], to[1] - from[1]], [point[0] - from[0], point[1] - from[1]]);
    let square = along[0].powi(2) + along[1].powi(2);
    let share = match square > 0.0 {
        true => ((along[0] * there[0] + along[1] * there[1]) / square).clamp(0.0, 1.0),
        false => 0.0,
    };
    (there[0] - share * along[0]).hypot(there[1] - share * along[1])
}

/// Base64 with padding (RFC 4648, section 4).
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let bits = (0..3).fold(0_u32, |bits, i| (bits << 8) | u32::from(three.get(i).copied().unwrap_or(0)));
        for digit in 0..4 {
            let place = (bits >> (18 - 6 * digit)) as usize % 64;
            text.push(if digit <= three.len() { DIGITS[place].into() } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors of RFC 4648, section 10.
    #[test]
    fn base64_is_that_of_the_standard() {
        for (bytes, text) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }

    #[test]
    fn a_stroke_covers_what_is_near_its_line() {
        let mut canvas = RgbImage::from_pixel(20, 12, PAPER);
        stroke(&mut canvas, [[4.0, 6.0], [16.0, 6.0]], 4.0, INK);
        let inked: Vec<u32> = (0..12).filter(|&y| *canvas.get_pixel(10, y) == INK).collect();
        assert_eq!(inked, [4, 5, 6, 7]);
        assert!(*canvas.get_pixel(1, 6) == PAPER && *canvas.get_pixel(19, 6) == PAPER);
        // Beyond the canvas there is nothing to draw on.
        stroke(&mut canvas, [[-50.0, -50.0], [-40.0, -40.0]], 4.0, INK);
        stroke(&mut canvas, [[1e12, 3.0], [1e12, 9.0]], 4.0, INK);
        assert_eq!(*canvas.get_pixel(0, 0), PAPER);
    }

    #[test]
    fn a_dot_is_round() {
        let mut canvas = RgbImage::from_pixel(20, 20, PAPER);
        stroke(&mut canvas, [[10.0, 10.0]; 2], 12.0, INK);
        assert!(*canvas.get_pixel(10, 5) == INK && *canvas.get_pixel(4, 4) == PAPER);
    }

    #[test]
    fn both_forms_have_every_shape() {
        let text = |anchor, x| Shape::Text { x, y: 2, anchor, colour: INK, text: "a<b".into() };
        let drawing = Drawing {
            width: 120,
            height: 40,
            shapes: vec![
                Shape::Rectangle { x: 100, y: 20, width: 9, height: 9, colour: GREY },
                Shape::Stroke { from: [5.0, 30.0], to: [50.0, 30.0], width: 3.0, colour: INK },
                text(Anchor::Start, 0),
                text(Anchor::Middle, 60),
                text(Anchor::End, 120),
                Shape::Title { x: 0, y: 18, text: "a&b".into() },
                Shape::Pixels {
                    x: 60,
                    y: 20,
                    width: 20,
                    height: 10,
                    pixels: RgbImage::from_fn(2, 1, |x, _| Rgb([10 + x as u8; 3])),
                },
            ],
        };
        let svg = drawing.to_svg();
        for part in [
            "a&lt;b",
            "text-anchor=\"middle\"",
            "text-anchor=\"end\"",
            "#d0d2d6",
            "M5.0 30.0L50.0 30.0",
            "a&amp;b",
            "base64,iVBOR",
        ] {
            assert!(svg.contains(part), "{part}: {svg}");
        }
        let picture = image::load_from_memory(&drawing.to_png()).expect("a PNG").into_rgb8();
        assert_eq!(picture.dimensions(), (120, 40));
        assert!(*picture.get_pixel(104, 24) == GREY && *picture.get_pixel(30, 30) == INK);
        let grey = |x, y| picture.get_pixel(x, y).0[0];
        assert_eq!([grey(60, 20), grey(69, 29), grey(70, 20), grey(79, 29), grey(80, 25)], [10, 10, 11, 11, 255]);
        let inked = |x: std::ops::Range<u32>| x.into_iter().any(|x| (2..16).any(|y| *picture.get_pixel(x, y) == INK));
        // Each text is 34 pixels across.
        assert!(inked(0..34) && !inked(34..43) && inked(43..77) && !inked(77..86) && inked(86..120));
    }
}
