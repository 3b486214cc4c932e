//! A title and the lines below it that say what a picture shows.

use crate::drawing::{Anchor, Drawing, SCALE, Shape, TITLE_SCALE};
use crate::pixel_font::{DEPTH, HEIGHT, text_width};

/// Pixels from one line of text to the next.
pub(crate) const LINE: u32 = SCALE * (HEIGHT + DEPTH) + 4;
/// Pixels of the title and the space below it.
const TITLE: u32 = TITLE_SCALE * (HEIGHT + DEPTH) + 12;

/// What stands above a picture.
#[derive(Clone, Copy, Debug)]
pub struct Heading<'a> {
    /// In larger letters.
    pub title: &'a str,
    /// Lines of what is seen.
    pub about: &'a [&'a str],
}

impl Heading<'_> {
    /// Pixels across.
    pub(crate) fn width(&self) -> u32 {
        let lines = self.about.iter().map(|line| text_width(line, SCALE));
        lines.fold(text_width(self.title, TITLE_SCALE), u32::max)
    }

    /// Pixels down, with the space to what follows.
    pub(crate) fn height(&self) -> u32 {
        TITLE + self.about.len() as u32 * LINE
    }

    /// Draws it with its upper left corner at (x, y).
    pub(crate) fn draw(&self, drawing: &mut Drawing, (x, y): (u32, u32)) {
        drawing.add(Shape::Title { x, y, text: self.title.to_owned() });
        for (line, text) in (0..).zip(self.about) {
            drawing.text((x, y + TITLE + line * LINE), Anchor::Start, *text);
        }
    }
}
