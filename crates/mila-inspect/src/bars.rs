//! A picture of signed bars, as SVG and as PNG: values with their errors, beside others of the same things.

use image::Rgb;

use crate::drawing::{Anchor, Drawing, GREY, INK, SCALE};
use crate::pixel_font::text_width;

/// `value` with two digits and its sign; what rounds to zero has none but the plus.
pub fn signed(value: f64) -> String {
    format!("{value:+.2}").replace("-0.00", "+0.00")
}

/// One thing that is compared.
#[derive(Clone, Debug, PartialEq)]
pub struct Bar {
    /// Its name.
    pub label: String,
    /// How long its bar is; none where it is not known yet.
    pub value: Option<f64>,
    /// Drawn as a line to both sides of the bar's end.
    pub error: Option<f64>,
    /// The same of another source, as a second bar.
    pub other: Option<f64>,
}

/// Bars below each other, with a common zero.
#[derive(Clone, Debug, PartialEq)]
pub struct Chart {
    /// Above everything.
    pub title: String,
    /// What the two bars of each thing are.
    pub names: [String; 2],
    /// From above to below.
    pub bars: Vec<Bar>,
}

const OWN: Rgb<u8> = Rgb([45, 108, 180]);
const OTHER: Rgb<u8> = Rgb([222, 165, 120]);

/// Pixels of the whole picture, of the names on its left, and of the numbers on its right.
const WIDTH: u32 = 900;
const NAMES: u32 = 270;
const NUMBERS: u32 = 90;
const MARGIN: u32 = 20;
/// Pixels of title and legend, and of a pair of bars.
const HEAD: u32 = 84;
const PAIR: u32 = 48;
const BAR: u32 = 16;

/// The chart as SVG.
pub fn to_svg(chart: &Chart) -> String {
    drawing(chart).to_svg()
}

/// The chart as a PNG file.
pub fn to_png(chart: &Chart) -> Vec<u8> {
    drawing(chart).to_png()
}

/// Values to pixels across.
struct Axis {
    low: f64,
    high: f64,
}

impl Axis {
    /// Of all bars with their errors, zero included.
    fn of(bars: &[Bar]) -> Self {
        let ends = bars.iter().flat_map(|bar| {
            let error = bar.error.unwrap_or(0.0);
            let own = bar.value.map(|value| [value - error, value + error]);
            own.into_iter().flatten().chain(bar.other)
        });
        let ends = ends.filter(|end| end.is_finite());
        let (low, high) = ends.fold((0.0_f64, 0.0_f64), |(low, high), end| (low.min(end), high.max(end)));
        // Nothing to show still needs a width.
        Self { low, high: if high > low { high } else { low + 1.0 } }
    }

    fn at(&self, value: f64) -> u32 {
        let room = f64::from(WIDTH - NAMES - NUMBERS - MARGIN);
        NAMES + (room * ((value - self.low) / (self.high - self.low)).clamp(0.0, 1.0)).round() as u32
    }
}

fn drawing(chart: &Chart) -> Drawing {
    let axis = Axis::of(&chart.bars);
    let zero = axis.at(0.0);
    let pairs = PAIR * chart.bars.len() as u32;
    let mut drawing = Drawing::new(WIDTH, HEAD + pairs + MARGIN);
    drawing.text((MARGIN, MARGIN), Anchor::Start, &chart.title);
    let mut x = MARGIN;
    for (name, colour) in chart.names.iter().zip([OWN, OTHER]) {
        drawing.rectangle((x, 52), (BAR, BAR), colour);
        drawing.text((x + BAR + 8, 52), Anchor::Start, name);
        x += BAR + 32 + text_width(name, SCALE);
    }
    drawing.rectangle((zero, HEAD - 4), (2, pairs), GREY);
    for (bar, y) in chart.bars.iter().zip((HEAD..).step_by(PAIR as usize)) {
        drawing.text((MARGIN, y + 9), Anchor::Start, &bar.label);
        for (value, offset, colour) in [(bar.value, 0, OWN), (bar.other, BAR + 2, OTHER)] {
            let Some(end) = value.filter(|value| value.is_finite()).map(|value| axis.at(value)) else { continue };
            drawing.rectangle((end.min(zero), y + offset), (end.abs_diff(zero).max(1), BAR), colour);
        }
        if let Some((value, error)) = bar.value.zip(bar.error).filter(|(value, error)| (value + error).is_finite()) {
            let [low, high] = [value - error, value + error].map(|end| axis.at(end));
            drawing.rectangle((low, y + BAR / 2 - 1), ((high - low).max(1), 2), INK);
        }
        let number = bar.value.map_or("-".to_owned(), signed);
        drawing.text((WIDTH - NUMBERS, y), Anchor::Start, number);
        if let Some(other) = bar.other {
            drawing.text((WIDTH - NUMBERS, y + BAR + 6), Anchor::Start, format!("{other:+.1}"));
        }
    }
    drawing
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drawing::Shape;

    #[test]
    fn nothing_is_not_negative() {
        for (value, text) in [(-0.004, "+0.00"), (0.0, "+0.00"), (-0.006, "-0.01"), (2.5, "+2.50")] {
            assert_eq!(signed(value), text);
        }
    }
    fn chart() -> Chart {
        let bar = |label: &str, value, error, other| Bar { label: label.into(), value, error, other };
        Chart {
            title: "a < b & c".into(),
            names: ["own".into(), "other".into()],
            bars: vec![
                bar("up", Some(2.0), Some(0.5), Some(1.0)),
                bar("down", Some(-1.0), None, Some(-5.2)),
                bar("unknown", None, None, None),
                bar("broken", Some(f64::NAN), Some(1.0), None),
            ],
        }
    }

    #[test]
    fn bars_begin_at_zero_and_end_at_their_values() {
        let axis = Axis::of(&chart().bars);
        assert_eq!((axis.low, axis.high), (-5.2, 2.5));
        let colours = |wanted: Rgb<u8>| {
            let of = |shape: &Shape| match *shape {
                Shape::Rectangle { x, width, height, colour, .. } if colour == wanted => Some((x, width, height)),
                _ => None,
            };
            drawing(&chart()).shapes.iter().filter_map(of).collect::<Vec<_>>()
        };
        let zero = axis.at(0.0);
        // The first is that of the legend.
        assert_eq!(colours(OWN)[1..], [(zero, axis.at(2.0) - zero, BAR), (axis.at(-1.0), zero - axis.at(-1.0), BAR)]);
        assert_eq!(colours(OTHER)[2], (NAMES, zero - NAMES, BAR));
        assert_eq!(colours(INK), [(axis.at(1.5), axis.at(2.5) - axis.at(1.5), 2)]);
    }

    #[test]
    fn both_forms_show_the_same_bars() {
        let svg = to_svg(&chart());
        assert!(svg.contains("a &lt; b &amp; c") && svg.contains("+2.00") && svg.contains("-5.2"), "{svg}");
        let picture = image::load_from_memory(&to_png(&chart())).expect("a PNG").into_rgb8();
        assert_eq!(picture.dimensions(), (WIDTH, HEAD + 4 * PAIR + MARGIN));
        assert!(picture.pixels().any(|pixel| *pixel == OWN) && picture.pixels().any(|pixel| *pixel == OTHER));
        let empty = Chart { bars: Vec::new(), ..chart() };
        assert!(to_svg(&empty).ends_with("</svg>\n") && !to_png(&empty).is_empty());
    }
}
