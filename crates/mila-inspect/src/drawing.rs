//! What pictures are made of, and its two forms: SVG, and PNG with the bitmap font.

use std::fmt::Write;
use std::io::Cursor;

use image::{ImageFormat, Rgb, RgbImage, imageops};

use crate::pixel_font::{HEIGHT, draw_text, fill, text_width};

pub(crate) const PAPER: Rgb<u8> = Rgb([255, 255, 255]);
pub(crate) const INK: Rgb<u8> = Rgb([40, 44, 52]);
pub(crate) const GREY: Rgb<u8> = Rgb([208, 210, 214]);

/// Parts of a picture that know their places, later ones above earlier ones.
#[derive(Clone, Debug)]
pub struct Drawing {
    width: u32,
    height: u32,
    shapes: Vec<Shape>,
}

/// Which part of a text is where it was put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Anchor {
    Start,
    Middle,
    End,
}

/// One part.
#[derive(Clone, Debug)]
pub(crate) enum Shape {
    Rectangle {
        x: u32,
        y: u32,
        width: u32,
        height: u32,
        colour: Rgb<u8>,
    },
    /// Around a point.
    Disc {
        x: u32,
        y: u32,
        radius: u32,
        colour: Rgb<u8>,
    },
    /// A line of text below `y`.
    Text {
        x: u32,
        y: u32,
        anchor: Anchor,
        /// Enlargement of the bitmap font; the letters of the SVG are as high.
        scale: u32,
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

    /// Text of twice the bitmap font's size.
    pub(crate) fn text(&mut self, (x, y): (u32, u32), anchor: Anchor, text: impl Into<String>) {
        self.add(Shape::Text { x, y, anchor, scale: 2, text: text.into() });
    }

    #[cfg(test)]
    pub(crate) fn shapes(&self) -> &[Shape] {
        &self.shapes
    }

    /// Width and height in pixels.
    pub fn size(&self) -> (u32, u32) {
        (self.width, self.height)
    }

    /// The drawing as SVG.
    pub fn to_svg(&self) -> String {
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {}\" font-family=\"sans-serif\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"{}\"/>\n",
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
                Shape::Disc { x, y, radius, colour } => {
                    writeln!(svg, "<circle cx=\"{x}\" cy=\"{y}\" r=\"{radius}\" fill=\"{}\"/>", hex(*colour))
                }
                Shape::Text { x, y, anchor, scale, text } => {
                    let text = text.replace('&', "&amp;").replace('<', "&lt;");
                    let anchor = match anchor {
                        Anchor::Start => "start",
                        Anchor::Middle => "middle",
                        Anchor::End => "end",
                    };
                    writeln!(
                        svg,
                        "<text x=\"{x}\" y=\"{}\" font-size=\"{}\" text-anchor=\"{anchor}\" fill=\"{}\">{text}</text>",
                        y + scale * HEIGHT,
                        9 * scale,
                        hex(INK)
                    )
                }
                Shape::Pixels { x, y, width, height, pixels } => writeln!(
                    svg,
                    "<image x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" preserveAspectRatio=\"none\" \
                     style=\"image-rendering:pixelated\" href=\"data:image/png;base64,{}\"/>",
                    base64(&png(pixels))
                ),
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
                Shape::Disc { x, y, radius, colour } => disc(&mut canvas, (*x, *y), *radius, *colour),
                Shape::Text { x, y, anchor, scale, text } => {
                    let width = text_width(text, *scale);
                    let before = match anchor {
                        Anchor::Start => 0,
                        Anchor::Middle => width / 2,
                        Anchor::End => width,
                    };
                    draw_text(&mut canvas, x.saturating_sub(before), *y, *scale, INK, text);
                }
                Shape::Pixels { x, y, width, height, pixels } => {
                    let scaled = imageops::resize(pixels, *width, *height, imageops::FilterType::Nearest);
                    imageops::replace(&mut canvas, &scaled, i64::from(*x), i64::from(*y));
                }
            }
        }
        png(&canvas)
    }
}

/// A disc with a smooth edge: a pixel has the share of colour that lies within, of sixteen points.
fn disc(canvas: &mut RgbImage, (x, y): (u32, u32), radius: u32, colour: Rgb<u8>) {
    let square = f64::from(radius).powi(2);
    let within = |at: u32, centre: u32, part: u32| f64::from(at) - f64::from(centre) + (f64::from(part) - 1.5) / 4.0;
    for row in y.saturating_sub(radius)..(y + radius + 1).min(canvas.height()) {
        for column in x.saturating_sub(radius)..(x + radius + 1).min(canvas.width()) {
            let points =
                (0..16).filter(|part| within(row, y, part / 4).powi(2) + within(column, x, part % 4).powi(2) <= square);
            let share = points.count() as f64 / 16.0;
            let Rgb(below) = *canvas.get_pixel(column, row);
            let mixed = |c: usize| ((1.0 - share) * f64::from(below[c]) + share * f64::from(colour.0[c])).round() as u8;
            canvas.put_pixel(column, row, Rgb([0, 1, 2].map(mixed)));
        }
    }
}

fn png(pixels: &RgbImage) -> Vec<u8> {
    let mut png = Cursor::new(Vec::new());
    pixels.write_to(&mut png, ImageFormat::Png).expect("a picture has pixels, and writing to memory does not fail");
    png.into_inner()
}

fn hex(Rgb([red, green, blue]): Rgb<u8>) -> String {
    format!("#{red:02x}{green:02x}{blue:02x}")
}

/// Base64 with padding (RFC 4648, section 4).
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let bits = (0..3).fold(0_u32, |bits, i| bits << 8 | u32::from(three.get(i).copied().unwrap_or(0)));
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
    fn both_forms_hold_every_shape() {
        let mut drawing = Drawing::new(60, 40);
        drawing.rectangle((1, 1), (3, 2), Rgb([1, 2, 3]));
        drawing.add(Shape::Disc { x: 20, y: 20, radius: 5, colour: Rgb([200, 0, 0]) });
        let pixels = RgbImage::from_fn(2, 1, |x, _| Rgb([10 + x as u8; 3]));
        drawing.add(Shape::Pixels { x: 30, y: 0, width: 20, height: 10, pixels });
        drawing.text((59, 20), Anchor::End, "a<&");
        let svg = drawing.to_svg();
        for part in ["<circle cx=\"20\"", "text-anchor=\"end\"", "a&lt;&amp;", "base64,iVBOR", "fill=\"#010203\""] {
            assert!(svg.contains(part), "no {part} in\n{svg}");
        }
        let picture = image::load_from_memory(&drawing.to_png()).expect("a PNG").into_rgb8();
        assert_eq!(picture.dimensions(), (60, 40));
        let at = |x, y| *picture.get_pixel(x, y);
        assert_eq!((at(1, 1), at(3, 2), at(4, 1)), (Rgb([1, 2, 3]), Rgb([1, 2, 3]), PAPER));
        assert_eq!((at(20, 20), at(16, 16)), (Rgb([200, 0, 0]), PAPER));
        assert_eq!(
            (at(30, 0), at(39, 9), at(40, 0), at(49, 9)),
            (Rgb([10; 3]), Rgb([10; 3]), Rgb([11; 3]), Rgb([11; 3]))
        );
        assert!((25..60).any(|x| (20..34).any(|y| at(x, y) == INK)));
    }
}
