//! `mila models`: the registry, and exact counts of one model.

use mila::graph::{Cost, Layer, Sizes, Trace};
use mila::models::{Preset, Task};
use serde_json::json;

use crate::cli::Models;
use crate::failure::Failure;
use crate::sizes::check_trace;
use crate::terminal::Terminal;

pub(crate) fn run(args: &Models, terminal: &Terminal) -> Result<(), Failure> {
    match &args.name {
        Some(name) => one(Preset::find(name).map_err(Failure::usage)?, args, terminal),
        None => all(args, terminal),
    }
}

/// A traced model at its input size.
struct Counted {
    preset: &'static Preset,
    classes: usize,
    sizes: Sizes,
    trace: Trace,
    cost: Cost,
}

/// # Errors
/// For a size that the model does not take.
fn count(preset: &'static Preset, args: &Models) -> Result<Counted, Failure> {
    let classes = args.classes.map_or(preset.classes, |n| n as usize);
    let trace = Trace::of(preset, Task::Classify { classes })?;
    let (height, width) = args.size.unwrap_or((preset.preprocessing.size, preset.preprocessing.size));
    let sizes = Sizes { batch: 1, height, width };
    check_trace(preset.name, &trace, sizes)?;
    let cost = trace.cost(sizes);
    Ok(Counted { preset, classes, sizes, trace, cost })
}

fn summary(c: &Counted) -> serde_json::Value {
    json!({
        "name": c.preset.name,
        "about": c.preset.about,
        "paper": c.preset.paper,
        "classes": c.classes,
        "input_size": [3, c.sizes.height, c.sizes.width],
        "params": c.trace.parameters(),
        "macs": c.cost.macs,
        "macs_with_norms": c.cost.macs_with_norms,
        "macs_with_scan": c.cost.macs_with_scan,
        "activation_bytes": c.cost.activation_bytes,
        "published": c.preset.published.map(|p| {
            // In f64 a printed tenth stays one.
            let top1 = (10.0 * f64::from(p.top1)).round() / 10.0;
            json!({ "params": p.parameters, "macs": p.macs, "images_per_s": p.images_per_s, "top1": top1 })
        }),
    })
}

fn all(args: &Models, terminal: &Terminal) -> Result<(), Failure> {
    let mut counted = Vec::new();
    for preset in Preset::all() {
        match count(preset, args) {
            Ok(of) => counted.push(of),
            // No size suits all: some have absolute positions.
            Err(left_out) if args.size.is_some() => terminal.note(left_out.message()),
            Err(failure) => return Err(failure),
        }
    }
    if args.json {
        return terminal.result(serde_json::Value::Array(counted.iter().map(summary).collect()));
    }
    let width = counted.iter().map(|c| c.preset.name.len()).max().unwrap_or(0).max(12);
    terminal.result(format_args!(
        "{:<width$} {:>12} {:>9} {:>9}  {:<16} {}",
        "name", "parameters", "MACs", "input", "paper", "about"
    ))?;
    for c in &counted {
        let input = format!("{}x{}", c.sizes.height, c.sizes.width);
        terminal.result(format_args!(
            "{:<width$} {:>12} {:>9} {:>9}  {:<16} {}",
            c.preset.name,
            grouped(c.trace.parameters() as u64),
            short(c.cost.macs_with_scan),
            input,
            c.preset.paper,
            c.preset.about
        ))?;
    }
    if counted.iter().any(|c| c.cost.macs_with_scan > c.cost.macs) {
        terminal.note("MACs are with recurrences (macs_with_scan in JSON), without norms; `mila models NAME` has the other conventions");
    }
    Ok(())
}

fn one(preset: &'static Preset, args: &Models, terminal: &Terminal) -> Result<(), Failure> {
    let c = count(preset, args)?;
    let layers = c.trace.layers(c.sizes);
    if args.json {
        let mut value = summary(&c);
        let layer = |l: &Layer| json!({ "name": l.name, "output": l.output, "params": l.parameters, "macs": l.macs, "scan_macs": l.scan_macs });
        value["layers"] = layers.iter().map(layer).collect();
        return terminal.result(value);
    }
    terminal.result(format_args!("{}: {} ({})", preset.name, preset.about, preset.paper))?;
    let rows = [
        ("input", format!("{} x {}, {} classes", c.sizes.height, c.sizes.width, c.classes)),
        ("parameters", grouped(c.trace.parameters() as u64)),
        ("MACs", format!("{}  (convolutions, linear maps, matrix products)", grouped(c.cost.macs))),
        ("with scans", format!("{}  (and recurrences)", grouped(c.cost.macs_with_scan))),
        ("with norms", format!("{}  (5 a value for layer norm, 2 for batch norm)", grouped(c.cost.macs_with_norms))),
        (
            "maps in memory",
            format!("{:.1} MiB at most at once, f32, one operator after the other", mib(c.cost.activation_bytes)),
        ),
    ];
    for (name, value) in rows {
        terminal.result(format_args!("{name:<15} {value}"))?;
    }
    if let Some(p) = preset.published {
        terminal.result(format_args!(
            "{:<15} {} parameters, {} MACs, {} % top-1{}",
            "published",
            p.parameters,
            p.macs,
            p.top1,
            p.images_per_s.map_or_else(String::new, |n| format!(", {n} images/s on a machine that is not stated"))
        ))?;
    }
    let width = layers.iter().map(|l| l.name.len()).max().unwrap_or(5);
    let header = if layers.iter().any(|l| l.scan_macs > 0) { "MACs, scans" } else { "MACs" };
    terminal.result(format_args!("\n{:<width$}  {:>16}  {:>11}  {:>14}", "layer", "output", "parameters", header))?;
    for l in &layers {
        let [height, columns, channels] = l.output;
        let output = format!("{height}x{columns}x{channels}");
        terminal.result(format_args!(
            "{:<width$}  {output:>16}  {:>11}  {:>14}",
            l.name,
            grouped(l.parameters as u64),
            grouped(l.macs + l.scan_macs)
        ))?;
    }
    Ok(())
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / (1 << 20) as f64
}

/// `4131401728` as `4.13 G`.
fn short(n: u64) -> String {
    match n {
        1_000_000_000.. => format!("{:.2} G", n as f64 / 1e9),
        _ => format!("{:.1} M", n as f64 / 1e6),
    }
}

/// `24392200` as `24,392,200`.
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let lead = digits.len() % 3;
    let (head, tail) = digits.split_at(lead);
    let mut parts: Vec<&str> = if head.is_empty() { Vec::new() } else { vec![head] };
    parts.extend((0..tail.len()).step_by(3).map(|i| &tail[i..i + 3]));
    parts.join(",")
}

#[cfg(test)]
mod tests {
    #[test]
    fn numbers_are_grouped() {
        for (n, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (24_392_200, "24,392,200")] {
            assert_eq!(super::grouped(n), text);
        }
    }
}
