//! Pictures of a run, as SVG.

use std::fmt::Write;

use crate::EpochRecord;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 300.0;
const MARGIN: f64 = 48.0;
const TRAIN: &str = "#b4552d";
const VALIDATION: &str = "#2d6cb4";

/// Loss and accuracy of training and validation over the epochs, one panel each.
pub(crate) fn training_curves(history: &[EpochRecord]) -> String {
    let mut svg = String::new();
    let height = 2.0 * HEIGHT;
    let _ = write!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"13\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    let curve = |f: fn(&EpochRecord) -> f64| history.iter().map(f).collect::<Vec<_>>();
    let losses = [curve(|r| r.train_loss), curve(|r| r.val_loss)];
    let largest = losses.iter().flatten().copied().filter(|v| v.is_finite()).fold(0.0, f64::max);
    panel(&mut svg, 0.0, "loss", largest.max(1e-6), &losses);
    panel(&mut svg, HEIGHT, "top-1", 1.0, &[curve(|r| r.train_top1), curve(|r| r.val_top1)]);
    svg + "</svg>\n"
}

/// A panel `top` below the picture's edge, with the training curve first and values from 0 to `largest`.
fn panel(svg: &mut String, top: f64, title: &str, largest: f64, curves: &[Vec<f64>; 2]) {
    let (left, right, floor, ceiling) = (MARGIN, WIDTH - MARGIN, top + HEIGHT - MARGIN, top + MARGIN);
    let epochs = curves[0].len();
    let x = |i: usize| left + (right - left) * if epochs > 1 { i as f64 / (epochs - 1) as f64 } else { 0.5 };
    let y = |v: f64| floor - (floor - ceiling) * (v / largest).clamp(0.0, 1.0);
    for share in [0.0, 0.25, 0.5, 0.75, 1.0] {
        let (value, level) = (share * largest, y(share * largest));
        let _ = writeln!(
            svg,
            "<path d=\"M{left} {level:.1}H{right}\" stroke=\"#ddd\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"#555\">{value:.2}</text>",
            left - 6.0,
            level + 4.0
        );
    }
    let _ = writeln!(svg, "<text x=\"{left}\" y=\"{:.1}\" font-weight=\"bold\">{title}</text>", ceiling - 16.0);
    for (name, colour, offset) in [("training", TRAIN, 160.0), ("validation", VALIDATION, 80.0)] {
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" fill=\"{colour}\">{name}</text>",
            right - offset,
            ceiling - 16.0
        );
    }
    for (i, anchor) in [(0, "start"), (epochs.saturating_sub(1), "end")] {
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\" fill=\"#555\">epoch {}</text>",
            x(i),
            floor + 20.0,
            i + 1
        );
    }
    for (curve, colour) in curves.iter().zip([TRAIN, VALIDATION]) {
        let points = curve.iter().enumerate().filter(|(_, v)| v.is_finite());
        let points: Vec<String> = points.map(|(i, &v)| format!("{:.1},{:.1}", x(i), y(v))).collect();
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            points.join(" ")
        );
    }
}
