//! A picture of lines over two logarithmic axes, as SVG and as PNG: what grows as a power of something is straight.

use image::Rgb;

use crate::drawing::{Anchor, Drawing, GREY, INK, SCALE, Shape};
use crate::pixel_font::HEIGHT as CAPITAL;

/// Points that belong together, from left to right. Only positive numbers have a place on the axes.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// Beside its end, in its colour.
    pub name: String,
    /// Below the name.
    pub note: String,
    /// Across and up.
    pub points: Vec<[f64; 2]>,
}

/// Lines with common axes.
#[derive(Clone, Debug, PartialEq)]
pub struct Chart {
    /// Above everything.
    pub title: String,
    /// What is shown across and up, with its unit.
    pub axes: [String; 2],
    /// Each with a colour and a mark of its own, as long as there are at most twenty.
    pub lines: Vec<Line>,
}

impl Line {
    /// The power of x that y grows as: the slope of the straight line through the logarithms of the points, by least squares.
    /// None if there are not two places across.
    pub fn exponent(&self) -> Option<f64> {
        let logs: Vec<[f64; 2]> = self.drawn().map(|point| point.map(f64::ln)).collect();
        let mean = |axis: usize| logs.iter().map(|log| log[axis]).sum::<f64>() / logs.len() as f64;
        let [x, y] = [mean(0), mean(1)];
        let (up, across) = logs.iter().fold((0.0, 0.0), |(up, across), log| {
            (up + (log[0] - x) * (log[1] - y), across + (log[0] - x) * (log[0] - x))
        });
        (across > 0.0).then_some(up / across)
    }

    /// The points that have a place.
    fn drawn(&self) -> impl Iterator<Item = [f64; 2]> {
        self.points.iter().copied().filter(|point| point.iter().all(|x| *x > 0.0 && x.is_finite()))
    }
}

/// Of Okabe and Ito, which the colour-blind can tell apart: blue, vermilion, green, purple, light blue.
const COLOURS: [Rgb<u8>; 5] =
    [Rgb([0, 114, 178]), Rgb([213, 94, 0]), Rgb([0, 158, 115]), Rgb([204, 121, 167]), Rgb([86, 180, 233])];
const FAINT: Rgb<u8> = Rgb([236, 237, 239]);

/// Pixels of the whole picture.
const WIDTH: u32 = 1000;
const HEIGHT: u32 = 640;
/// Pixels around the axes; on the right stand the names of lines.
const LEFT: u32 = 110;
const RIGHT: u32 = 280;
const TOP: u32 = 100;
const BOTTOM: u32 = 80;
const MARGIN: u32 = 20;
/// Pixels of a line, across a mark, from the end of a line to its name, and from one name to the next.
const STROKE: f64 = 3.0;
const MARK: f64 = 11.0;
const GAP: f64 = 20.0;
const NAME: f64 = 52.0;
/// From one line of text to the next.
const TEXT: u32 = 22;
/// The share of an axis that is free at each of its ends.
const FREE: f64 = 0.04;

/// The chart as SVG.
pub fn to_svg(chart: &Chart) -> String {
    drawing(chart).to_svg()
}

/// The chart as a PNG file.
pub fn to_png(chart: &Chart) -> Vec<u8> {
    drawing(chart).to_png()
}

/// Logarithms, base ten, to pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Axis {
    low: f64,
    high: f64,
    /// Pixels of `low` and `high`.
    pixels: [f64; 2],
}

/// A line across the chart.
#[derive(Debug, PartialEq)]
struct Tick {
    value: f64,
    /// Of those that are named.
    label: Option<String>,
}

impl Axis {
    fn of(values: impl Iterator<Item = f64>, pixels: [f64; 2]) -> Self {
        let (low, high) = values
            .map(f64::log10)
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), log| (low.min(log), high.max(log)));
        // Nothing, or one value, still needs an extent.
        let (low, high) = match (high - low).partial_cmp(&0.0) {
            Some(std::cmp::Ordering::Greater) => (low, high),
            Some(std::cmp::Ordering::Equal) => (low - 0.5, high + 0.5),
            _ => (0.0, 1.0),
        };
        let free = FREE * (high - low);
        Self { low: low - free, high: high + free, pixels }
    }

    fn at(&self, value: f64) -> f64 {
        let [from, to] = self.pixels;
        from + (to - from) * (value.log10() - self.low) / (self.high - self.low)
    }

    /// Tens, hundreds and so on, named; what lies between them, unnamed. Where there are not two of those, halves and fifths are
    /// named too.
    fn ticks(&self) -> Vec<Tick> {
        let decades = self.low.floor() as i32..=self.high.floor() as i32;
        let mut ticks: Vec<(u32, i32)> = decades.flat_map(|decade| (1..10).map(move |digit| (digit, decade))).collect();
        let value = |digit: u32, decade: i32| f64::from(digit) * 10_f64.powi(decade);
        ticks.retain(|&(digit, decade)| (self.low..=self.high).contains(&value(digit, decade).log10()));
        let few = ticks.iter().filter(|(digit, _)| *digit == 1).count() < 2;
        let is_named = |digit: u32| digit == 1 || (few && (digit == 2 || digit == 5));
        let tick = |(digit, decade): (u32, i32)| {
            let value = value(digit, decade);
            Tick { value, label: is_named(digit).then(|| label(value, decade)) }
        };
        ticks.into_iter().map(tick).collect()
    }
}

/// A number of one digit and zeros, with commas between thousands.
fn label(value: f64, decade: i32) -> String {
    if decade < 0 {
        return format!("{value:.*}", decade.unsigned_abs() as usize);
    }
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn drawing(chart: &Chart) -> Drawing {
    let points = || chart.lines.iter().flat_map(Line::drawn);
    let across = Axis::of(points().map(|point| point[0]), [LEFT, WIDTH - RIGHT].map(f64::from));
    let up = Axis::of(points().map(|point| point[1]), [HEIGHT - BOTTOM, TOP].map(f64::from));
    let mut shapes = frame(chart, across, up);
    let places = |line: &Line| line.drawn().map(|[x, y]| [across.at(x), up.at(y)]).collect::<Vec<_>>();
    let mut ends = Vec::new();
    for (i, places) in chart.lines.iter().map(places).enumerate() {
        let colour = COLOURS[i % COLOURS.len()];
        let stroke = |pair: &[[f64; 2]]| Shape::Stroke { from: pair[0], to: pair[1], width: STROKE, colour };
        shapes.extend(places.windows(2).map(stroke));
        shapes.extend(places.iter().flat_map(|&place| mark(i, place, colour)));
        ends.extend(places.last().map(|&end| (i, end)));
    }
    // A mark beside the name would look like one more point; its colour says which line it names.
    for (i, place) in names(ends) {
        let (line, colour) = (&chart.lines[i], COLOURS[i % COLOURS.len()]);
        let [x, y] = place.map(|pixels| pixels.round() as u32);
        for (text, y, colour) in [(&line.name, y, colour), (&line.note, y + TEXT, INK)] {
            shapes.push(Shape::Text { x, y, anchor: Anchor::Start, colour, text: text.clone() });
        }
    }
    let mut drawing = Drawing::new(WIDTH, HEIGHT);
    shapes.into_iter().for_each(|shape| drawing.add(shape));
    drawing
}

/// Title, grid, and what the axes are called.
fn frame(chart: &Chart, across: Axis, up: Axis) -> Vec<Shape> {
    let text =
        |x: u32, y: u32, anchor: Anchor, text: &str| Shape::Text { x, y, anchor, colour: INK, text: text.into() };
    let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
    let mut shapes = vec![
        text(MARGIN, MARGIN, Anchor::Start, &chart.title),
        text(MARGIN, TOP - TEXT - 12, Anchor::Start, &chart.axes[1]),
        text((LEFT + right) / 2, HEIGHT - MARGIN - SCALE * CAPITAL, Anchor::Middle, &chart.axes[0]),
    ];
    let colour = |tick: &Tick| if tick.label.is_some() { GREY } else { FAINT };
    // The named ones lie above the others.
    for is_named in [false, true] {
        for tick in across.ticks().iter().filter(|tick| tick.label.is_some() == is_named) {
            let x = across.at(tick.value).round() as u32;
            shapes.push(Shape::Rectangle { x, y: TOP, width: 1, height: bottom - TOP, colour: colour(tick) });
            shapes.extend(tick.label.as_ref().map(|label| text(x, bottom + 10, Anchor::Middle, label)));
        }
        for tick in up.ticks().iter().filter(|tick| tick.label.is_some() == is_named) {
            let y = up.at(tick.value).round() as u32;
            shapes.push(Shape::Rectangle { x: LEFT, y, width: right - LEFT, height: 1, colour: colour(tick) });
            let label_y = y.saturating_sub(SCALE * CAPITAL / 2);
            shapes.extend(tick.label.as_ref().map(|label| text(LEFT - 10, label_y, Anchor::End, label)));
        }
    }
    shapes.push(Shape::Rectangle { x: LEFT, y: TOP, width: 2, height: bottom - TOP, colour: INK });
    shapes.push(Shape::Rectangle { x: LEFT, y: bottom, width: right - LEFT, height: 2, colour: INK });
    shapes
}

/// A dot, a square, a cross or a plus.
fn mark(line: usize, [x, y]: [f64; 2], colour: Rgb<u8>) -> Vec<Shape> {
    let half = MARK / 2.0;
    let stroke =
        |[dx, dy]: [f64; 2]| Shape::Stroke { from: [x - dx, y - dy], to: [x + dx, y + dy], width: STROKE, colour };
    match line % 4 {
        0 => vec![Shape::Stroke { from: [x, y], to: [x, y], width: MARK, colour }],
        1 => {
            let [x, y, side] = [x - half, y - half, MARK].map(|pixels| pixels.round() as u32);
            vec![Shape::Rectangle { x, y, width: side, height: side, colour }]
        }
        2 => [[half, half], [half, -half]].map(stroke).into(),
        _ => [[half + 1.0, 0.0], [0.0, half + 1.0]].map(stroke).into(),
    }
}

/// The left upper corners of names, beside the ends of their lines and apart from each other.
fn names(mut ends: Vec<(usize, [f64; 2])>) -> Vec<(usize, [f64; 2])> {
    ends.sort_by(|(_, a), (_, b)| a[1].total_cmp(&b[1]));
    let capital = f64::from(SCALE * CAPITAL);
    for (_, place) in &mut ends {
        *place = [place[0] + GAP, place[1] - capital / 2.0];
    }
    let mut above = f64::NEG_INFINITY;
    for (_, [_, y]) in &mut ends {
        *y = y.max(above + NAME);
        above = *y;
    }
    let mut below = f64::from(HEIGHT - BOTTOM) + f64::from(TEXT);
    for (_, [_, y]) in ends.iter_mut().rev() {
        *y = y.min(below - NAME);
        below = *y;
    }
    ends
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(name: &str, points: &[[f64; 2]]) -> Line {
        Line { name: name.into(), note: "slope".into(), points: points.into() }
    }

    fn chart() -> Chart {
        Chart {
            title: "a < b & c".into(),
            axes: ["tokens".into(), "time, ms".into()],
            lines: vec![
                line("linear", &[[100.0, 0.5], [10_000.0, 50.0], [200_000.0, 1000.0]]),
                line("square", &[[100.0, 0.5], [1000.0, 50.0], [10_000.0, 5000.0]]),
                line("beside", &[[100.0, 0.4], [200_000.0, 990.0]]),
                line("broken", &[[0.0, 1.0], [1.0, f64::NAN]]),
            ],
        }
    }

    #[test]
    fn exponents_are_slopes_of_logarithms() {
        let exponent = |points: &[[f64; 2]]| line("", points).exponent();
        let near =
            |points: &[[f64; 2]], wanted: f64| exponent(points).is_some_and(|found| (found - wanted).abs() < 1e-12);
        assert!(near(&[[1.0, 3.0], [2.0, 6.0], [16.0, 48.0]], 1.0));
        assert!(near(&[[3.0, 7.0], [30.0, 700.0], [-1.0, 5.0]], 2.0));
        // Slopes of 0 and 2 with the break at the middle.
        assert!(near(&[[1.0, 1.0], [10.0, 1.0], [100.0, 100.0]], 1.0));
        assert_eq!(exponent(&[[2.0, 1.0], [2.0, 3.0], [0.0, 1.0]]), None);
        assert_eq!(exponent(&[]), None);
    }

    #[test]
    fn axes_cover_all_points_and_name_decades() {
        let axis = Axis::of([196.0, 262_144.0].into_iter(), [0.0, 1000.0]);
        assert!(axis.at(196.0) > 0.0 && axis.at(262_144.0) < 1000.0);
        let labels = |axis: &Axis| axis.ticks().into_iter().filter_map(|tick| tick.label).collect::<Vec<_>>();
        assert_eq!(labels(&axis), ["1,000", "10,000", "100,000"]);
        assert_eq!(axis.ticks().len(), 8 + 9 + 9 + 3, "{:?}", axis.ticks());
        let small = Axis::of([0.02, 3.0].into_iter(), [0.0, 1.0]);
        assert_eq!(labels(&small), ["0.1", "1"]);
        assert_eq!(labels(&Axis::of([0.3, 0.6].into_iter(), [0.0, 1.0])), ["0.5"]);
        let [one, none] = [Axis::of([10.0].into_iter(), [0.0, 1.0]), Axis::of([].into_iter(), [0.0, 1.0])];
        assert!((one.at(10.0) - 0.5).abs() < 1e-12 && one.ticks().len() > 1);
        assert_eq!(labels(&none), ["1", "10"]);
    }

    #[test]
    fn names_keep_apart_and_inside() {
        let bottom = f64::from(HEIGHT - BOTTOM);
        let places = names(vec![(0, [700.0, bottom]), (1, [700.0, bottom - 3.0]), (2, [300.0, 120.0])]);
        assert_eq!(places.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [2, 1, 0]);
        assert_eq!(places[0].1, [320.0, 113.0]);
        assert!(places.windows(2).all(|pair| pair[1].1[1] - pair[0].1[1] >= NAME), "{places:?}");
        assert!(places[2].1[1] + f64::from(TEXT) < f64::from(HEIGHT - BOTTOM + TEXT), "{places:?}");
    }

    #[test]
    fn both_forms_show_every_line() {
        let svg = to_svg(&chart());
        for part in ["a &lt; b &amp; c", "time, ms", ">10,000<", ">square<", "#0072b2", "#009e73"] {
            assert!(svg.contains(part), "{part}: {svg}");
        }
        assert!(!svg.contains("broken") && !svg.contains("NaN"), "{svg}");
        let shapes = drawing(&chart()).shapes;
        let [mut marks, mut names] = [0, 0];
        for shape in &shapes {
            match shape {
                Shape::Rectangle { colour, .. } if *colour == COLOURS[1] => marks += 1,
                Shape::Text { colour, text, .. } if *colour == COLOURS[1] => names += usize::from(text == "square"),
                _ => {}
            }
        }
        assert_eq!((marks, names), (3, 1), "a mark a point, and none beside the name");
        let picture = image::load_from_memory(&to_png(&chart())).expect("a PNG").into_rgb8();
        assert_eq!(picture.dimensions(), (WIDTH, HEIGHT));
        for colour in &COLOURS[..3] {
            assert!(picture.pixels().any(|pixel| pixel == colour), "{colour:?}");
        }
        let empty = Chart { lines: Vec::new(), ..chart() };
        assert!(to_svg(&empty).ends_with("</svg>\n") && !to_png(&empty).is_empty());
    }
}
