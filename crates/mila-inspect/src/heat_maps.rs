//! A picture of heat maps over an image: one for every layer, beside the image.

use image::imageops::{self, FilterType};
use image::{Rgb, RgbImage};
use mila_data::Picture;

use crate::TokenMap;
use crate::colour_map::colour;
use crate::drawing::{Anchor, Drawing, GREY, INK, PAPER, SCALE, Shape};
use crate::heading::{Heading, LINE};
use crate::labels::{ending, range, short};
use crate::pixel_font::text_width;

/// The maps of one model.
#[derive(Clone, Copy, Debug)]
pub struct Panel<'a> {
    /// What the model is called.
    pub name: &'a str,
    /// The image as the model saw it.
    pub picture: &'a Picture,
    /// A place to mark in the image: shares of its height and width.
    pub mark: Option<[f64; 2]>,
    /// Names of layers and their maps.
    pub maps: &'a [(&'a str, &'a TokenMap)],
}

const MARGIN: u32 = 24;
/// Pixels along the longer side of a tile.
const TILE: u32 = 216;
/// Pixels between rows of tiles.
const GAP: u32 = 24;
/// Pixels between the tiles of a row; a range of two negative numbers below a tile needs some of them.
const ACROSS: u32 = 40;
/// Pixels of the two lines below a tile, and of the space above them.
const CAPTION: u32 = 2 * LINE + 6;
/// The strip that shows the colours.
const STRIP: (u32, u32) = (256, 16);
/// What stands at its ends.
const LEAST: &str = "lowest of a layer";
const MOST: &str = "highest";
/// Characters of a model's name, and of a layer's, at most.
const NAME: usize = 48;
const LAYER: usize = 18;

/// Draws the panels below each other, each as the image and a tile a layer, a square of one colour a token.
///
/// Every tile has its own scale, whose ends stand below it: layers differ too much for one. They are the least value and the largest,
/// but as far from zero one as the other where values have both signs, so that zero is the colour in the middle.
pub fn draw(heading: &Heading<'_>, panels: &[Panel<'_>]) -> Drawing {
    let columns = panels.iter().map(|panel| columns(panel.maps.len() + 1)).max().unwrap_or(1);
    let key = text_width(LEAST, SCALE) + 12 + STRIP.0 + 12 + text_width(MOST, SCALE);
    let width = heading.width().max(key).max(columns * (TILE + ACROSS) - ACROSS) + 2 * MARGIN;
    let head = heading.height() + STRIP.1 + 14;
    let named = panels.len() > 1;
    let heights: Vec<u32> = panels.iter().map(|panel| panel_height(panel, columns, named)).collect();
    let mut drawing = Drawing::new(width, MARGIN + head + heights.iter().sum::<u32>() + MARGIN.saturating_sub(GAP));
    heading.draw(&mut drawing, (MARGIN, MARGIN));
    let y = MARGIN + heading.height();
    drawing.text((MARGIN, y + 1), Anchor::Start, LEAST);
    let x = MARGIN + text_width(LEAST, SCALE) + 12;
    let strip = RgbImage::from_fn(STRIP.0, 1, |x, _| colour(f64::from(x) / f64::from(STRIP.0 - 1)));
    drawing.add(Shape::Pixels { x, y, width: STRIP.0, height: STRIP.1, pixels: strip });
    drawing.text((x + STRIP.0 + 12, y + 1), Anchor::Start, MOST);

    let mut y = MARGIN + head;
    for (panel, height) in panels.iter().zip(heights) {
        let below = if named { LINE + 6 } else { 0 };
        if named {
            drawing.text((MARGIN, y), Anchor::Start, ending(panel.name, NAME));
        }
        draw_panel(&mut drawing, panel, columns, y + below);
        y += height;
    }
    drawing
}

/// Tiles in a row, of so many.
fn columns(tiles: usize) -> u32 {
    match tiles {
        0..=3 => tiles as u32,
        4..=6 => 3,
        7..=12 => 4,
        // That which leaves fewer places empty.
        _ if (tiles.next_multiple_of(5) - tiles) < (tiles.next_multiple_of(6) - tiles) => 5,
        _ => 6,
    }
}

/// Height and width of a panel's tiles: those of the image, scaled.
fn tile(picture: &Picture) -> (u32, u32) {
    let (height, width) = (picture.height(), picture.width());
    // Widened, so that no size of a picture overflows; the result is at most a tile.
    let scaled = |side: usize| (side as u128 * u128::from(TILE) / height.max(width) as u128).max(1) as u32;
    (scaled(height), scaled(width))
}

fn panel_height(panel: &Panel<'_>, columns: u32, named: bool) -> u32 {
    let rows = (panel.maps.len() as u32 + 1).div_ceil(columns);
    let name = if named { LINE + 6 } else { 0 };
    name + rows * (tile(panel.picture).0 + CAPTION + GAP)
}

fn draw_panel(drawing: &mut Drawing, panel: &Panel<'_>, columns: u32, top: u32) {
    let (height, width) = tile(panel.picture);
    let corner =
        |index: u32| (MARGIN + index % columns * (TILE + ACROSS), top + index / columns * (height + CAPTION + GAP));
    let caption = |drawing: &mut Drawing, (x, y): (u32, u32), lines: [String; 2]| {
        for (line, text) in (0..).zip(lines) {
            drawing.text((x, y + height + 6 + line * LINE), Anchor::Start, text);
        }
    };
    let at = corner(0);
    let seen = format!("seen as {}x{}", panel.picture.height(), panel.picture.width());
    drawing.add(Shape::Pixels { x: at.0, y: at.1, width, height, pixels: pixels(panel.picture, (height, width)) });
    if let Some([y, x]) = panel.mark {
        let along = |from: u32, share: f64, side: u32| from + (share.clamp(0.0, 1.0) * f64::from(side)) as u32;
        let (x, y) = (along(at.0, x, width), along(at.1, y, height));
        for (diameter, colour) in [(16, PAPER), (12, INK), (6, PAPER)] {
            drawing.dot((x, y), diameter, colour);
        }
    }
    caption(drawing, at, ["the image".into(), seen]);
    let names: Vec<&str> = panel.maps.iter().map(|(name, _)| *name).collect();
    for (index, (name, (_, map))) in (1..).zip(short(&names).into_iter().zip(panel.maps)) {
        let at = corner(index);
        let (low, high) = scale(map);
        drawing.rectangle(at, (width, height), GREY);
        if let Some(heat) = heat(map) {
            drawing.add(Shape::Pixels { x: at.0, y: at.1, width, height, pixels: heat });
        }
        caption(drawing, at, [ending(name, LAYER), range(low, high)]);
    }
}

/// The picture's pixels, made smaller where it has more than its tile.
fn pixels(picture: &Picture, (height, width): (u32, u32)) -> RgbImage {
    let own = RgbImage::from_fn(picture.width() as u32, picture.height() as u32, |x, y| {
        Rgb(picture.at(y as usize, x as usize))
    });
    if own.width() <= width { own } else { imageops::resize(&own, width, height, FilterType::Triangle) }
}

/// What the first and the last colour are of.
fn scale(map: &TokenMap) -> (f64, f64) {
    let (low, high) = map.range();
    let most = high.max(-low);
    if low < 0.0 && high > 0.0 { (-most, most) } else { (low, high) }
}

/// A pixel for every token; none of a map without any.
fn heat(map: &TokenMap) -> Option<RgbImage> {
    let (low, high) = scale(map);
    // Where all are the same, none is high or low.
    let share = |value: f64| if high > low { (value - low) / (high - low) } else { 0.5 };
    let colours = map.values.iter().flat_map(|&value| colour(share(value)).0).collect();
    let image = RgbImage::from_raw(map.width as u32, map.height as u32, colours)?;
    (image.width() > 0 && image.height() > 0).then_some(image)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: Heading = Heading { title: "", about: &[] };

    #[test]
    fn tiles_have_the_colours_of_their_tokens() {
        let picture = Picture::from_grey(2, 4, &[7; 8]).unwrap();
        let map = TokenMap { height: 1, width: 2, values: vec![3.0, 5.0] };
        let flat = TokenMap { height: 1, width: 1, values: vec![2.0] };
        let maps = [("a.0.attn", &map), ("a.1.attn", &flat)];
        let panel = Panel { name: "model", picture: &picture, mark: Some([0.5, 0.5]), maps: &maps };
        let drawing = draw(&Heading { title: "title", about: &["what is seen"] }, &[panel]);
        let tiles: Vec<_> = drawing
            .shapes
            .iter()
            .filter_map(|shape| match shape {
                Shape::Pixels { x, y, width, height, pixels } => Some(((*x, *y, *width, *height), pixels)),
                _ => None,
            })
            .skip(1)
            .collect();
        let [(image, seen), (first, heat), (second, even)] = tiles[..] else { panic!("{} tiles", tiles.len()) };
        assert_eq!((image.2, image.3, first.1, second.1), (TILE, TILE / 2, image.1, image.1));
        assert_eq!((image.0, first.0, second.0), (MARGIN, MARGIN + TILE + ACROSS, MARGIN + 2 * (TILE + ACROSS)));
        assert_eq!((seen.dimensions(), seen.get_pixel(3, 1)), ((4, 2), &Rgb([7; 3])));
        assert_eq!((heat.get_pixel(0, 0), heat.get_pixel(1, 0)), (&colour(0.0), &colour(1.0)));
        assert_eq!(even.get_pixel(0, 0), &colour(0.5));
        let svg = drawing.to_svg();
        for text in ["title", "what is seen", "a.0<", "a.1<", "3.00 to 5.00", "2.00 everywhere", "seen as 2x4"] {
            assert!(svg.contains(text), "no `{text}`");
        }
        assert!(!svg.contains("model"), "one model needs no name");
        let middle = format!("M{}.0 {}.0L", MARGIN + TILE / 2, image.1 + TILE / 4);
        assert_eq!(svg.matches(&middle).count(), 3, "{middle}");
    }

    #[test]
    fn zero_is_in_the_middle_of_both_signs() {
        let map = |values: [f64; 2]| TokenMap { height: 1, width: 2, values: values.to_vec() };
        assert_eq!(scale(&map([-4.0, 1.0])), (-4.0, 4.0));
        assert_eq!(scale(&map([-1.0, 3.0])), (-3.0, 3.0));
        assert_eq!(scale(&map([0.0, 3.0])), (0.0, 3.0));
        assert_eq!(scale(&map([-3.0, -1.0])), (-3.0, -1.0));
        let image = heat(&map([-4.0, 0.0])).expect("two tokens");
        assert_eq!(image.get_pixel(1, 0), &colour(1.0), "nothing is above zero");
        let image = heat(&map([-4.0, 2.0])).expect("two tokens");
        assert_eq!(image.get_pixel(1, 0), &colour(0.75));
    }

    #[test]
    fn every_number_of_layers_and_models_is_drawn_whole() {
        let picture = Picture::from_grey(300, 200, &vec![1; 60_000]).unwrap();
        let map = TokenMap { height: 2, width: 2, values: vec![0.0, f64::NAN, 1.0, 2.0] };
        for (layers, models, columns) in [(0, 1, 1), (1, 1, 2), (5, 1, 3), (11, 2, 4), (23, 3, 6), (24, 3, 5)] {
            let maps = vec![("layer", &map); layers];
            let panel = Panel { name: "a model", picture: &picture, mark: None, maps: &maps };
            let drawing = draw(&NOTHING, &vec![panel; models]);
            let right = drawing.shapes.iter().filter_map(|shape| match shape {
                Shape::Pixels { x, y, width, height, .. } => Some((x + width, y + height + CAPTION)),
                _ => None,
            });
            let (width, height) = drawing.size();
            assert!(right.clone().all(|(x, y)| x + MARGIN <= width && y + MARGIN <= height + LINE), "{layers} layers");
            assert!(width >= columns * (TILE + ACROSS) - ACROSS + 2 * MARGIN);
            assert!(drawing.to_svg().matches("a model").count() == if models > 1 { models } else { 0 });
            assert!(image::load_from_memory(&drawing.to_png()).is_ok());
        }
        assert!(!draw(&NOTHING, &[]).to_png().is_empty());
    }
}
