//! A picture of pictures with what a model said about them.

use std::io::Cursor;

use image::{ImageFormat, Rgb, RgbImage};
use mila_data::Picture;

use crate::pixel_font::{DEPTH, HEIGHT, draw_text, fill, text_width};

/// Pixels along the longer side of a picture on the sheet.
const FRAME: u32 = 96;
/// Pixels of the line around each picture.
const BORDER: u32 = 2;
const FRAMED: u32 = FRAME + 2 * BORDER;
/// Pixels between cells.
const GAP: u32 = 22;
/// Pixels around everything.
const MARGIN: u32 = 24;
const TITLE_SCALE: u32 = 3;
/// Pixels of the title and the space below it.
const TITLE: u32 = TITLE_SCALE * HEIGHT + 22;
const SCALE: u32 = 2;
/// Pixels between a picture and its caption.
const CAPTION_GAP: u32 = 8;
/// Pixels from one line of a caption to the next.
const LINE: u32 = SCALE * (HEIGHT + DEPTH) + 2;
/// Characters in a line of a caption, at most; a cell is as wide as its widest line.
const CAPTION: usize = 18;

const PAPER: Rgb<u8> = Rgb([250, 250, 248]);
const INK: Rgb<u8> = Rgb([40, 44, 52]);
/// Beside pictures that are not square.
const MAT: Rgb<u8> = Rgb([232, 232, 228]);
const LINE_GREY: Rgb<u8> = Rgb([200, 202, 206]);
const RIGHT: Rgb<u8> = Rgb([22, 128, 61]);
const WRONG: Rgb<u8> = Rgb([200, 30, 40]);

/// One picture and what was predicted for it.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    /// The picture, of any size.
    pub picture: &'a Picture,
    /// The true class, where it is known.
    pub label: Option<&'a str>,
    /// The predicted class.
    pub prediction: &'a str,
    /// The probability of the predicted class, 0 to 1.
    pub probability: f32,
}

impl Entry<'_> {
    /// The true class where the prediction is another one.
    fn missed(&self) -> Option<&str> {
        self.label.filter(|&label| label != self.prediction)
    }

    fn colour(&self) -> Rgb<u8> {
        match self.label {
            None => INK,
            Some(_) if self.missed().is_some() => WRONG,
            Some(_) => RIGHT,
        }
    }

    /// The prediction with its probability, and the label where it is another one; at most [`CAPTION`] characters each.
    fn caption(&self) -> [String; 2] {
        let percent = format!("  {:.1}%", self.probability * 100.0);
        let prediction = clipped(self.prediction, CAPTION.saturating_sub(percent.len()));
        let label = self.missed().map(|label| format!("(is {})", clipped(label, CAPTION - "(is )".len())));
        [prediction + &percent, label.unwrap_or_default()]
    }
}

/// A finished sheet.
#[derive(Debug, Clone)]
pub struct Sheet(RgbImage);

/// Draws the entries in rows of at most `columns` below a title.
///
/// Each picture is scaled by its nearest pixels to a longer side of 96 pixels. Below it stand the prediction and its
/// probability: green where the prediction is the label, red with `(is LABEL)` where it is not, dark where no label is known.
/// Text that is too long ends in `..`; characters beyond the font's are `?`.
pub fn render(title: &str, entries: &[Entry], columns: usize) -> Sheet {
    let columns = columns.clamp(1, entries.len().max(1));
    let rows = entries.len().div_ceil(columns);
    let captions: Vec<[String; 2]> = entries.iter().map(Entry::caption).collect();
    let widest = captions.iter().flatten().map(|line| text_width(line, SCALE)).max().unwrap_or(0);
    let lines = if entries.iter().any(|entry| entry.missed().is_some()) { 2 } else { 1 };
    let (cell_width, cell_height) = (widest.max(FRAMED), FRAMED + CAPTION_GAP + lines * LINE);
    let across = |cells: usize, size: u32| (cells as u32 * (size + GAP)).saturating_sub(GAP);
    let title = clipped(title, 80);
    let width = across(columns, cell_width).max(text_width(&title, TITLE_SCALE));
    let height = TITLE + across(rows, cell_height);
    let mut canvas = RgbImage::from_pixel(width + 2 * MARGIN, height + 2 * MARGIN, PAPER);
    draw_text(&mut canvas, MARGIN, MARGIN, TITLE_SCALE, INK, &title);
    for (index, (entry, caption)) in entries.iter().zip(&captions).enumerate() {
        let x = MARGIN + (index % columns) as u32 * (cell_width + GAP);
        let y = MARGIN + TITLE + (index / columns) as u32 * (cell_height + GAP);
        draw_picture(&mut canvas, x + (cell_width - FRAMED) / 2, y, entry);
        for (line, text) in (0..).zip(caption) {
            let indent = (cell_width - text_width(text, SCALE)) / 2;
            let top = y + FRAMED + CAPTION_GAP + line * LINE;
            draw_text(&mut canvas, x + indent, top, SCALE, entry.colour(), text);
        }
    }
    Sheet(canvas)
}

/// The sheet as a PNG file.
pub fn to_png(sheet: &Sheet) -> Vec<u8> {
    let mut png = Cursor::new(Vec::new());
    sheet.0.write_to(&mut png, ImageFormat::Png).expect("a sheet has pixels, and writing to memory does not fail");
    png.into_inner()
}

/// The picture in the middle of a square with a line around it.
fn draw_picture(canvas: &mut RgbImage, x: u32, y: u32, entry: &Entry) {
    let line = if entry.missed().is_some() { WRONG } else { LINE_GREY };
    fill(canvas, (x, y), (FRAMED, FRAMED), line);
    fill(canvas, (x + BORDER, y + BORDER), (FRAME, FRAME), MAT);
    let (height, width) = (entry.picture.height(), entry.picture.width());
    // Widened, so that no size of a picture overflows; the result is within the frame.
    let scaled = |side: usize| (side as u128 * u128::from(FRAME) / height.max(width) as u128).max(1) as u32;
    let (tall, wide) = (scaled(height), scaled(width));
    let (top, left) = (y + BORDER + (FRAME - tall) / 2, x + BORDER + (FRAME - wide) / 2);
    let nearest = |at: u32, size: u32, side: usize| (u128::from(at) * side as u128 / u128::from(size)) as usize;
    for row in 0..tall {
        for column in 0..wide {
            let pixel = entry.picture.at(nearest(row, tall, height), nearest(column, wide, width));
            canvas.put_pixel(left + column, top + row, Rgb(pixel));
        }
    }
}

/// At most `most` characters of a text, the last two of them `..` where some are left out.
fn clipped(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    let kept: String = text.chars().take(most.saturating_sub(2)).collect();
    format!("{}..", kept.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;
    use mila_data::{Limits, decode};

    fn count(sheet: &Sheet, colour: Rgb<u8>) -> usize {
        sheet.0.pixels().filter(|pixel| **pixel == colour).count()
    }

    #[test]
    fn colours_tell_right_from_wrong_and_from_unknown() {
        let picture = Picture::from_grey(2, 2, &[0, 60, 120, 180]).unwrap();
        let sheet = |label| render("", &[Entry { picture: &picture, label, prediction: "7", probability: 0.5 }], 8);
        let (right, wrong, unknown) = (sheet(Some("7")), sheet(Some("1")), sheet(None));
        assert!(count(&right, RIGHT) > 0 && count(&right, WRONG) == 0);
        assert!(count(&wrong, WRONG) > count(&right, RIGHT) && count(&wrong, RIGHT) == 0);
        assert_eq!((count(&unknown, RIGHT), count(&unknown, WRONG)), (0, 0));
        assert!(count(&unknown, INK) > 0);
        // Each of the four pixels became a square of 48 x 48.
        for grey in [0, 60, 120, 180] {
            assert_eq!(count(&right, Rgb([grey; 3])), 48 * 48);
        }
    }

    #[test]
    fn every_number_of_entries_and_columns_gives_a_png_of_its_size() {
        let picture = Picture::from_grey(1, 1, &[3]).unwrap();
        let entry = Entry { picture: &picture, label: None, prediction: "a", probability: 1.0 };
        // Nine characters, which are wider than the picture, and one line.
        let (cell_width, cell_height) = (text_width("a  100.0%", SCALE), FRAMED + CAPTION_GAP + LINE);
        for (entries, columns, across, down) in [(1, usize::MAX, 1, 1), (7, 3, 3, 3), (40, 8, 8, 5)] {
            let sheet = render("", &vec![entry; entries], columns);
            let read = decode(&to_png(&sheet), &Limits::default()).unwrap();
            let size = |cells: u32, cell: u32| cells * (cell + GAP) - GAP + 2 * MARGIN;
            assert_eq!(read.width() as u32, size(across, cell_width));
            assert_eq!(read.height() as u32, size(down, cell_height) + TITLE);
            assert_eq!(read.pixels(), &sheet.0.as_raw()[..]);
        }
        for columns in [0, 5] {
            assert!(decode(&to_png(&render("none", &[], columns)), &Limits::default()).is_ok());
        }
    }

    #[test]
    fn pictures_of_any_shape_stay_whole_within_their_frame() {
        for (height, width, area) in [(1, 2000, 96), (2000, 1, 96), (50, 100, 48 * 96), (300, 200, 96 * 64)] {
            let picture = Picture::from_grey(height, width, &vec![1; height * width]).unwrap();
            let entry = Entry { picture: &picture, label: None, prediction: "", probability: f32::NAN };
            assert_eq!(count(&render("", &[entry], 1), Rgb([1; 3])), area, "{height}x{width}");
        }
    }

    #[test]
    fn long_names_stay_within_their_cell() {
        let picture = Picture::from_grey(1, 1, &[3]).unwrap();
        let long = "a very long name of a class, é".repeat(9);
        let entry = Entry { picture: &picture, label: Some("short"), prediction: &long, probability: 1.0 };
        assert_eq!(entry.caption(), ["a very l..  100.0%", "(is short)"]);
        let other = Entry { label: Some(&long), prediction: "b", ..entry };
        assert_eq!(other.caption(), ["b  100.0%", "(is a very long..)"]);
        let sheet = render("", &[entry, other], 2);
        let cell = text_width(&entry.caption()[0], SCALE);
        let between = MARGIN + cell..MARGIN + cell + GAP;
        let clean = |x: u32| (0..sheet.0.height()).all(|y| *sheet.0.get_pixel(x, y) == PAPER);
        assert!(between.chain(0..MARGIN).chain(sheet.0.width() - MARGIN..sheet.0.width()).all(clean));
        assert_eq!(clipped("golden retriever", 9), "golden..");
        assert_eq!(clipped("golden retriever", 10), "golden r..");
        assert_eq!((clipped("short", 5).as_str(), clipped("short", 0).as_str()), ("short", ".."));
    }

    #[test]
    fn a_long_title_widens_the_sheet() {
        let sheet = render(&"title".repeat(50), &[], 4);
        assert_eq!(sheet.0.width(), text_width(&"x".repeat(80), TITLE_SCALE) + 2 * MARGIN);
    }
}
