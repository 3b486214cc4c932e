//! A small bitmap font, 5x7 pixels and two below the line, for captions on pictures that the program writes.

use image::{Rgb, RgbImage};

/// Pixels across a character.
const WIDTH: u32 = 5;
/// Pixels from the top of a capital to the line.
pub(crate) const HEIGHT: u32 = 7;
/// Pixels below the line, which a few characters use.
pub(crate) const DEPTH: u32 = 2;
/// Pixels from one character to the next, across.
const ADVANCE: u32 = WIDTH + 1;

/// Characters side by side, drawn as they look, with a column between them.
struct Band {
    characters: &'static str,
    rows: [&'static str; (HEIGHT + DEPTH) as usize],
}

#[rustfmt::skip]
const BANDS: [Band; 6] = [
    Band {
        characters: "ABCDEFGHIJKLM",
        rows: [
            ".###. ####. .###. ####. ##### ##### .###. #...# .###. ..### #...# #.... #...#",
            "#...# #...# #...# #...# #.... #.... #...# #...# ..#.. ...#. #..#. #.... ##.##",
            "#...# #...# #.... #...# #.... #.... #.... #...# ..#.. ...#. #.#.. #.... #.#.#",
            "##### ####. #.... #...# ####. ####. #.### ##### ..#.. ...#. ##... #.... #.#.#",
            "#...# #...# #.... #...# #.... #.... #...# #...# ..#.. ...#. #.#.. #.... #...#",
            "#...# #...# #...# #...# #.... #.... #...# #...# ..#.. #..#. #..#. #.... #...#",
            "#...# ####. .###. ####. ##### #.... .#### #...# .###. .##.. #...# ##### #...#",
            "..... ..... ..... ..... ..... ..... ..... ..... ..... ..... ..... ..... .....",
            "..... ..... ..... ..... ..... ..... ..... ..... ..... ..... ..... ..... .....",
        ],
    },
    Band {
        characters: "NOPQRSTUVWXYZ",
        rows: [
            "#...# .###. ####. .###. ####. .#### ##### #...# #...# #...# #...# #...# #####",
            "#...# #...# #...# #...# #...# #.... ..#.. #...# #...# #...# #...# #...# ....#",
            "##..# #...# #...# #...# #...# #.... ..#.. #...# #...# #...# .#.#. .#.#. ...#.",
            "#.#.# #...# ####. #...# ####. .###. ..#.. #...# #...# #.#.# ..#.. ..#.. ..#..",
            "#..## #...# #.... #.#.# #.#.. ....# ..#.. #...# #...# #.#.# .#.#. ..#.. .#...",
            "#...# #...# #.... #..#. #..#. ....# ..#.. #...# .#.#. ##.## #...# ..#.. #....",
            "#...# .###. #.... .##.# #...# ####. ..#.. .###. ..#.. #...# #...# ..#.. #####",
            "..... ..... ..... ..... ..... ..... ..... ..... ..... ..... ..... ..... .....",
            "..... ..... ..... ..... ..... ..... ..... ..... ..... ..... ..... ..... .....",
        ],
    },
    Band {
        characters: "abcdefghijklm",
        rows: [
            "..... #.... ..... ....# ..... ..##. ..... #.... ..#.. ...#. #.... .##.. .....",
            "..... #.... ..... ....# ..... .#... ..... #.... ..... ..... #.... ..#.. .....",
            ".###. ####. .###. .#### .###. ####. .#### ####. .##.. ..##. #..#. ..#.. ##.#.",
            "....# #...# #.... #...# #...# .#... #...# #...# ..#.. ...#. #.#.. ..#.. #.#.#",
            ".#### #...# #.... #...# ##### .#... #...# #...# ..#.. ...#. ##... ..#.. #.#.#",
            "#...# #...# #.... #...# #.... .#... #...# #...# ..#.. ...#. #.#.. ..#.. #.#.#",
            ".#### ####. .###. .#### .###. .#... .#### #...# .###. ...#. #..#. .###. #.#.#",
            "..... ..... ..... ..... ..... ..... ....# ..... ..... #..#. ..... ..... .....",
            "..... ..... ..... ..... ..... ..... .###. ..... ..... .##.. ..... ..... .....",
        ],
    },
    Band {
        characters: "nopqrstuvwxyz",
        rows: [
            "..... ..... ..... ..... ..... ..... .#... ..... ..... ..... ..... ..... .....",
            "..... ..... ..... ..... ..... ..... .#... ..... ..... ..... ..... ..... .....",
            "####. .###. ####. .#### #.##. .#### ####. #...# #...# #...# #...# #...# #####",
            "#...# #...# #...# #...# ##... #.... .#... #...# #...# #.#.# .#.#. #...# ...#.",
            "#...# #...# #...# #...# #.... .###. .#... #...# #...# #.#.# ..#.. #...# ..#..",
            "#...# #...# #...# #...# #.... ....# .#... #...# .#.#. #.#.# .#.#. #...# .#...",
            "#...# .###. ####. .#### #.... ####. ..##. .#### ..#.. .#.#. #...# .#### #####",
            "..... ..... #.... ....# ..... ..... ..... ..... ..... ..... ..... ....# .....",
            "..... ..... #.... ....# ..... ..... ..... ..... ..... ..... ..... .###. .....",
        ],
    },
    Band {
        characters: "0123456789%?",
        rows: [
            ".###. ..#.. .###. ##### ...#. ##### ..##. ##### .###. .###. ##... .###.",
            "#...# .##.. #...# ...#. ..##. #.... .#... ....# #...# #...# ##..# #...#",
            "#...# ..#.. ....# ..#.. .#.#. ####. #.... ...#. #...# #...# ...#. ....#",
            "#.#.# ..#.. ..##. ...#. #..#. ....# ####. ..#.. .###. .#### ..#.. ...#.",
            "#...# ..#.. .#... ....# ##### ....# #...# .#... #...# ....# .#... ..#..",
            "#...# ..#.. #.... #...# ...#. #...# #...# .#... #...# ...#. #..## .....",
            ".###. .###. ##### .###. ...#. .###. .###. .#... .###. .##.. ...## ..#..",
            "..... ..... ..... ..... ..... ..... ..... ..... ..... ..... ..... .....",
            "..... ..... ..... ..... ..... ..... ..... ..... ..... ..... ..... .....",
        ],
    },
    Band {
        characters: " .,:-+/()_",
        rows: [
            "..... ..... ..... ..... ..... ..... ..... ...#. .#... .....",
            "..... ..... ..... .##.. ..... ..#.. ....# ..#.. ..#.. .....",
            "..... ..... ..... .##.. ..... ..#.. ...#. .#... ...#. .....",
            "..... ..... ..... ..... ##### ##### ..#.. .#... ...#. .....",
            "..... ..... ..... .##.. ..... ..#.. .#... .#... ...#. .....",
            "..... .##.. .##.. .##.. ..... ..#.. #.... ..#.. ..#.. .....",
            "..... .##.. .##.. ..... ..... ..... ..... ...#. .#... #####",
            "..... ..... ..#.. ..... ..... ..... ..... ..... ..... .....",
            "..... ..... .#... ..... ..... ..... ..... ..... ..... .....",
        ],
    },
];

/// The pixels across of `text` at a scale, without the gap after its last character.
pub(crate) fn text_width(text: &str, scale: u32) -> u32 {
    let characters = u32::try_from(text.chars().count()).unwrap_or(u32::MAX);
    characters.saturating_mul(ADVANCE).saturating_sub(1).saturating_mul(scale)
}

/// Draws a line of text with its upper left corner at (`x`, `y`), each pixel of the font as a square of `scale` pixels. What
/// lies outside the canvas is left out. Characters that the font lacks are drawn as `?`.
pub(crate) fn draw_text(canvas: &mut RgbImage, x: u32, y: u32, scale: u32, colour: Rgb<u8>, text: &str) {
    let step = ADVANCE.saturating_mul(scale);
    let mut left = x;
    for character in text.chars() {
        if left >= canvas.width() {
            return;
        }
        for (row, line) in (0..).zip(glyph(character)) {
            for (column, _) in (0..).zip(line.bytes()).filter(|(_, pixel)| *pixel == b'#') {
                let corner =
                    (left.saturating_add(scale.saturating_mul(column)), y.saturating_add(scale.saturating_mul(row)));
                fill(canvas, corner, (scale, scale), colour);
            }
        }
        left = left.saturating_add(step);
    }
}

/// Fills a rectangle with its upper left `corner` at (x, y) and its `size` (width, height), cut at the canvas's borders.
pub(crate) fn fill(canvas: &mut RgbImage, corner: (u32, u32), size: (u32, u32), colour: Rgb<u8>) {
    let (right, bottom) = (corner.0.saturating_add(size.0), corner.1.saturating_add(size.1));
    for y in corner.1..bottom.min(canvas.height()) {
        for x in corner.0..right.min(canvas.width()) {
            canvas.put_pixel(x, y, colour);
        }
    }
}

/// The rows of a character, `#` for ink.
fn glyph(character: char) -> impl Iterator<Item = &'static str> {
    let place = |wanted: char| BANDS.iter().find_map(|band| Some((band, band.characters.find(wanted)?)));
    // The font is ASCII, so that bytes are characters, and `?` is in it.
    let (band, index) = place(character).or_else(|| place('?')).unwrap_or((&BANDS[0], 0));
    let start = index * ADVANCE as usize;
    band.rows.iter().map(move |row| &row[start..start + WIDTH as usize])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(character: char) -> Vec<&'static str> {
        glyph(character).collect()
    }

    #[test]
    fn bands_are_complete_and_characters_differ() {
        let wanted = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789 %.,:-+/()_?";
        let mut found: Vec<char> = BANDS.iter().flat_map(|band| band.characters.chars()).collect();
        assert_eq!(found.len(), wanted.len());
        assert!(wanted.chars().all(|character| found.contains(&character)));
        for band in &BANDS {
            assert!(band.characters.is_ascii());
            for row in band.rows {
                assert_eq!(row.len(), band.characters.len() * ADVANCE as usize - 1, "{row}");
                let gaps = row.bytes().enumerate().skip(5).step_by(ADVANCE as usize);
                assert!(gaps.into_iter().all(|(_, gap)| gap == b' '), "{row}");
                assert!(row.bytes().all(|pixel| b"#. ".contains(&pixel)), "{row}");
            }
        }
        found.sort_by_key(|&character| drawn(character));
        assert!(found.windows(2).all(|pair| drawn(pair[0]) != drawn(pair[1])), "{found:?}");
    }

    #[test]
    fn text_is_drawn_where_asked_and_cut_at_the_border() {
        let (paper, ink) = (Rgb([255; 3]), Rgb([9, 8, 7]));
        let mut canvas = RgbImage::from_pixel(40, 20, paper);
        draw_text(&mut canvas, 2, 3, 2, ink, "-1");
        // The dash is the fourth row of its character, five pixels wide; at scale 2 a bar of 10 x 2.
        let bar = (2..12).flat_map(|x| [(x, 9), (x, 10)]).all(|(x, y)| *canvas.get_pixel(x, y) == ink);
        assert!(bar && *canvas.get_pixel(12, 9) == paper && *canvas.get_pixel(2, 11) == paper);
        let inked = canvas.pixels().filter(|pixel| **pixel == ink).count();
        let in_font = drawn('-').concat().matches('#').count() + drawn('1').concat().matches('#').count();
        assert_eq!(inked, in_font * 4);

        for (x, y, scale) in [(38, 18, 3), (u32::MAX, 0, 1), (0, u32::MAX, 1), (0, 0, 0)] {
            draw_text(&mut canvas, x, y, scale, ink, "Wide text that leaves the canvas");
        }
        assert_eq!(*canvas.get_pixel(0, 19), paper);
        draw_text(&mut canvas, 0, 0, u32::MAX, ink, "E");
        assert!(canvas.pixels().all(|pixel| *pixel == ink));
    }

    #[test]
    fn unknown_characters_are_question_marks() {
        assert_eq!(drawn('é'), drawn('?'));
        assert_eq!(drawn('\u{fffd}'), drawn('?'));
        assert_ne!(drawn('e'), drawn('?'));
    }

    #[test]
    fn a_width_has_no_gap_at_its_end() {
        assert_eq!((text_width("", 2), text_width("7", 2), text_width("7 %", 1)), (0, 10, 17));
    }
}
