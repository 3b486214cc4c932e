//! A picture of one number a layer, for one model or some beside each other: bars of shares, or dots on a logarithmic axis.

use image::Rgb;

use crate::drawing::{Anchor, Drawing, GREY, SCALE};
use crate::heading::{Heading, LINE};
use crate::labels::{ending, number, short};
use crate::pixel_font::{HEIGHT, text_width};

/// The numbers of one model.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// What the model is called.
    pub name: String,
    /// Names of layers and their numbers, in order.
    pub layers: Vec<(String, f64)>,
}

/// How numbers become lengths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// From 0 to 1, as bars.
    Share,
    /// By their logarithm, as dots: a distance is a factor.
    Logarithm,
}

/// Models that a chart can tell apart by colour.
pub const MOST_SERIES: usize = COLOURS.len();

/// Blue, vermilion, green and purple of Okabe and Ito, which differ for colour-blind readers and in grey.
const COLOURS: [Rgb<u8>; 4] = [Rgb([0, 114, 178]), Rgb([213, 94, 0]), Rgb([0, 158, 115]), Rgb([204, 121, 167])];

/// Pixels of the axis, of the numbers on its right, and around everything.
const AXIS: u32 = 560;
const NUMBERS: u32 = 100;
const MARGIN: u32 = 24;
/// Pixels of a bar, from one to the next of a layer, and between layers.
const BAR: u32 = 16;
const STEP: u32 = 20;
const GAP: u32 = 12;
const DOT: u32 = 13;
/// Characters of a model's name, at most.
const NAME: usize = 48;
/// Labels that fit below the axis.
const LABELS: usize = 8;

/// Draws layers below each other, of every model the number of a layer at the same height.
///
/// A row bears the name of its layer where all models have one of that name there, else its place. Numbers that the axis cannot
/// show, zero on a logarithmic one, stand beside it without a mark.
pub fn draw(heading: &Heading<'_>, scale: Scale, series: &[Series]) -> Drawing {
    let rows = row_names(series);
    let names = rows.iter().map(|name| text_width(name, SCALE)).max().unwrap_or(0) + 14;
    let left = MARGIN + names;
    let group = STEP * series.len().max(1) as u32;
    let legend = if series.len() > 1 { LINE * series.len() as u32 + 8 } else { 0 };
    let (top, length) = (MARGIN + heading.height() + legend + 8, rows.len() as u32 * (group + GAP));
    let width = heading.width().max(names + AXIS + NUMBERS) + 2 * MARGIN;
    let mut drawing = Drawing::new(width, top + length + LINE + MARGIN);
    heading.draw(&mut drawing, (MARGIN, MARGIN));
    if series.len() > 1 {
        let lines = (MARGIN + heading.height()..).step_by(LINE as usize);
        for ((series, colour), y) in series.iter().zip(COLOURS.iter().cycle()).zip(lines) {
            mark(&mut drawing, scale, (MARGIN, MARGIN + BAR), y, *colour);
            drawing.text((MARGIN + BAR + 14, y + 1), Anchor::Start, ending(&series.name, NAME));
        }
    }

    let axis = Axis::of(scale, series);
    for (value, label) in axis.ticks() {
        let x = left + axis.at(value);
        drawing.rectangle((x, top - 6), (1, length + 4), GREY);
        drawing.text((x, top + length + 4), Anchor::Middle, label);
    }
    for (row, name) in rows.iter().enumerate() {
        let y = top + row as u32 * (group + GAP);
        drawing.text((MARGIN, y + (group - SCALE * HEIGHT) / 2), Anchor::Start, name);
        for (place, (series, colour)) in (0..).zip(series.iter().zip(COLOURS.iter().cycle())) {
            let Some(&(_, value)) = series.layers.get(row) else { continue };
            let y = y + place * STEP + (STEP - BAR) / 2;
            if axis.shows(value) {
                mark(&mut drawing, scale, (left, left + axis.at(value)), y, *colour);
            }
            drawing.text((left + AXIS + NUMBERS, y + 1), Anchor::End, number(value));
        }
    }
    drawing
}

/// A bar from one place to another, or a dot at the end of a thin line.
fn mark(drawing: &mut Drawing, scale: Scale, (from, to): (u32, u32), y: u32, colour: Rgb<u8>) {
    match scale {
        Scale::Share => drawing.rectangle((from, y), ((to - from).max(1), BAR), colour),
        Scale::Logarithm => {
            drawing.rectangle((from, y + BAR / 2), (to - from, 1), GREY);
            drawing.dot((to, y + BAR / 2), DOT, colour);
        }
    }
}

/// What stands before each row.
fn row_names(series: &[Series]) -> Vec<String> {
    let of = |series: &Series| -> Vec<String> {
        let names: Vec<&str> = series.layers.iter().map(|(name, _)| name.as_str()).collect();
        short(&names).into_iter().map(str::to_owned).collect()
    };
    let names: Vec<Vec<String>> = series.iter().map(of).collect();
    let rows = names.iter().map(Vec::len).max().unwrap_or(0);
    let name = |row: usize| {
        let mut here = names.iter().map(|names| names.get(row));
        let first = here.next().flatten();
        match first {
            Some(name) if here.all(|other| other == first) => name.clone(),
            _ => format!("layer {}", row + 1),
        }
    };
    (0..rows).map(name).collect()
}

/// Numbers to pixels across.
struct Axis {
    scale: Scale,
    low: f64,
    high: f64,
}

impl Axis {
    /// From 0 to 1, or between the round numbers that enclose all that a logarithm can show.
    fn of(scale: Scale, series: &[Series]) -> Self {
        if scale == Scale::Share {
            return Self { scale, low: 0.0, high: 1.0 };
        }
        let values = series.iter().flat_map(|series| &series.layers).map(|&(_, value)| value);
        let shown = values.filter(|&value| value.is_finite() && value > 0.0);
        let (low, high) = shown.fold((f64::INFINITY, 0.0_f64), |(low, high), value| (low.min(value), high.max(value)));
        if low > high {
            return Self { scale, low: 1.0, high: 10.0 };
        }
        // A value that is a round number itself may be off in its last bit.
        let below = |round: &f64| *round <= low * (1.0 + 1e-9);
        let above = |round: &f64| *round >= high * (1.0 - 1e-9);
        let (from, to) = (low.log10().floor() as i32, high.log10().ceil() as i32);
        let low = round_numbers(from, from).filter(below).last().unwrap_or(low);
        let high = round_numbers(to - 1, to).find(above).filter(|high| *high > low).unwrap_or(low * 10.0);
        Self { scale, low, high }
    }

    fn shows(&self, value: f64) -> bool {
        value.is_finite() && (self.scale == Scale::Share || value > 0.0)
    }

    /// Pixels from the left end.
    fn at(&self, value: f64) -> u32 {
        let share = match self.scale {
            Scale::Share => (value - self.low) / (self.high - self.low),
            Scale::Logarithm => (value / self.low).ln() / (self.high / self.low).ln(),
        };
        (f64::from(AXIS) * share.clamp(0.0, 1.0)).round() as u32
    }

    fn ticks(&self) -> Vec<(f64, String)> {
        if self.scale == Scale::Share {
            return (0..=5).map(|fifth| f64::from(fifth) / 5.0).map(|tick| (tick, format!("{tick:.1}"))).collect();
        }
        let (from, to) = (self.low.log10().floor() as i32, self.high.log10().ceil() as i32);
        let within = |tick: &f64| (self.low * (1.0 - 1e-9)..=self.high * (1.0 + 1e-9)).contains(tick);
        let mut ticks: Vec<f64> = round_numbers(from, to).filter(within).collect();
        if ticks.len() > LABELS {
            let powers: Vec<f64> = (from..=to).map(|power| 10_f64.powi(power)).filter(within).collect();
            ticks = powers.iter().copied().step_by(powers.len() / LABELS + 1).collect();
        }
        ticks.into_iter().map(|tick| (tick, tick_label(tick))).collect()
    }
}

/// One, two and five times the powers of ten between two exponents.
fn round_numbers(from: i32, to: i32) -> impl Iterator<Item = f64> {
    (from..=to).flat_map(|power| [1.0, 2.0, 5.0].map(|factor| factor * 10_f64.powi(power)))
}

/// A round number as it is written by hand.
fn tick_label(value: f64) -> String {
    if (0.99e-3..1e6).contains(&value) {
        // A power of ten may be off in its last bit.
        let places = (-(value.log10() + 1e-9).floor()).max(0.0) as usize;
        return format!("{value:.places$}");
    }
    format!("{value:.0e}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drawing::Shape;

    const NOTHING: Heading = Heading { title: "", about: &[] };

    fn series(name: &str, values: &[f64]) -> Series {
        let layers = values.iter().enumerate().map(|(i, &value)| (format!("layers.{i}.attn"), value)).collect();
        Series { name: name.into(), layers }
    }

    #[test]
    fn bars_are_as_long_as_their_shares() {
        let drawing = draw(
            &Heading { title: "gates", about: &["a line"] },
            Scale::Share,
            &[series("one", &[0.25, 1.0, 0.0, f64::NAN])],
        );
        let bars: Vec<_> = drawing
            .shapes
            .iter()
            .filter_map(|shape| match *shape {
                Shape::Rectangle { width, height: BAR, colour, .. } if colour == COLOURS[0] => Some(width),
                _ => None,
            })
            .collect();
        assert_eq!(bars, [AXIS / 4, AXIS, 1]);
        let svg = drawing.to_svg();
        for text in ["gates", "a line", "layers.0<", "0.250", "NaN", ">0.2<", ">1.0<"] {
            assert!(svg.contains(text), "no `{text}` in\n{svg}");
        }
        assert!(!svg.contains(">one<"), "one model needs no legend");
    }

    #[test]
    fn dots_are_a_decade_apart() {
        let all = [series("with", &[1.0, 10.0]), series("without", &[0.1, 100.0, 0.0])];
        let drawing = draw(&NOTHING, Scale::Logarithm, &all);
        let dots = |wanted: Rgb<u8>| {
            let of = |shape: &Shape| match *shape {
                Shape::Stroke { from: [x, _], colour, .. } if colour == wanted => Some(x),
                _ => None,
            };
            drawing.shapes.iter().filter_map(of).skip(1).collect::<Vec<_>>()
        };
        let (with, without) = (dots(COLOURS[0]), dots(COLOURS[1]));
        let third = f64::from(AXIS) / 3.0;
        assert_eq!(without.len(), 2, "zero has no dot");
        for (found, wanted) in
            [(with[0] - without[0], third), (with[1] - without[0], 2.0 * third), (without[1] - without[0], 3.0 * third)]
        {
            assert!((found - wanted).abs() <= 1.0, "{found} for {wanted}");
        }
        let svg = drawing.to_svg();
        assert!(svg.contains("layers.1<") && svg.contains("layer 3<") && svg.contains(">without<"), "{svg}");
    }

    #[test]
    fn ticks_are_round_and_few() {
        let labels = |values: &[f64]| {
            let ticks = Axis::of(Scale::Logarithm, &[series("", values)]).ticks();
            ticks.into_iter().map(|(_, label)| label).collect::<Vec<_>>()
        };
        assert_eq!(labels(&[0.12, 0.9]), ["0.1", "0.2", "0.5", "1"]);
        assert_eq!(labels(&[0.079, 0.139]), ["0.05", "0.1", "0.2"]);
        assert_eq!(labels(&[0.02, 0.9]), ["0.02", "0.05", "0.1", "0.2", "0.5", "1"]);
        assert_eq!(labels(&[0.02, 150.0]), ["0.1", "1", "10", "100"]);
        assert_eq!(labels(&[10.0]), ["10", "20", "50", "100"]);
        assert_eq!(labels(&[3.0, 4.0]), ["2", "5"]);
        assert_eq!(labels(&[]), ["1", "2", "5", "10"]);
        let many = labels(&[1e-12, 1e12]);
        assert!(many.len() <= 8 && many[0] == "1e-12", "{many:?}");
    }

    #[test]
    fn nothing_is_a_picture_too() {
        for scale in [Scale::Share, Scale::Logarithm] {
            assert!(!draw(&NOTHING, scale, &[]).to_png().is_empty());
        }
    }
}
