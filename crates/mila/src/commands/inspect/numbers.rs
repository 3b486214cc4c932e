//! The numbers behind a picture.

use serde_json::{Value, json};

use super::{Inspected, token_map};
use crate::cli::{Format, Inspect, MapName};
use crate::csv;
use crate::failure::Failure;
use crate::terminal::Terminal;

/// Writes those of every model to stdout.
pub(super) fn write(args: &Inspect, all: &[Inspected], terminal: &Terminal) -> Result<(), Failure> {
    match args.format {
        Format::Table => table(args.map, all).into_iter().try_for_each(|line| terminal.result(line)),
        Format::Csv => csv(args.map, all).into_iter().try_for_each(|line| terminal.result(line)),
        Format::Json => {
            let models: Vec<Value> = all.iter().map(|one| model(args.map, one)).collect();
            let image = args.image.display().to_string();
            let mut value = json!({ "map": args.map.name(), "image": image, "models": models });
            if args.map == MapName::Attention {
                value["at"] = json!(args.at.0);
            }
            terminal.result(value)
        }
    }
}

fn model(map: MapName, one: &Inspected) -> Value {
    let layers = one.layers.iter().filter_map(|layer| {
        let name = &layer.name;
        Some(match map {
            MapName::ForgetGate => json!({ "layer": name, "mean": layer.forget_gate()?, "scans": layer.forget_gates }),
            MapName::TokenNorm => {
                let norms = layer.token_norms?;
                json!({ "layer": name, "mean": norms.mean, "std": norms.std })
            }
            MapName::InputGate | MapName::Attention => {
                let tokens = token_map(layer, map)?;
                let rows: Vec<&[f64]> = tokens.values.chunks(tokens.width.max(1)).collect();
                let (lowest, highest) = tokens.range();
                json!({ "layer": name, "mean": tokens.mean(), "lowest": lowest, "highest": highest, "values": rows })
            }
        })
    });
    json!({ "model": one.model, "architecture": one.architecture, "layers": layers.collect::<Vec<_>>() })
}

fn csv(map: MapName, all: &[Inspected]) -> Vec<String> {
    let header = match map {
        MapName::ForgetGate => "model,layer,scan,gate",
        MapName::TokenNorm => "model,layer,mean,std",
        MapName::InputGate | MapName::Attention => "model,layer,row,column,value",
    };
    let mut lines = vec![header.to_owned()];
    for one in all {
        let model = csv::field(&one.model);
        for layer in &one.layers {
            let name = csv::field(&layer.name);
            match map {
                MapName::ForgetGate => {
                    let scans = layer.forget_gates.iter().enumerate();
                    lines.extend(scans.map(|(scan, gate)| format!("{model},{name},{scan},{gate}")));
                }
                MapName::TokenNorm => {
                    lines.extend(layer.token_norms.map(|n| format!("{model},{name},{},{}", n.mean, n.std)));
                }
                MapName::InputGate | MapName::Attention => {
                    let Some(tokens) = token_map(layer, map) else { continue };
                    let at = |n: usize| (n / tokens.width, n % tokens.width);
                    let line = |(n, value)| format!("{model},{name},{},{},{value}", at(n).0, at(n).1);
                    lines.extend(tokens.values.iter().enumerate().map(line));
                }
            }
        }
    }
    lines
}

fn table(map: MapName, all: &[Inspected]) -> Vec<String> {
    let names = all.iter().flat_map(|one| &one.layers).map(|layer| layer.name.len());
    let width = names.max().unwrap_or(0);
    let mut lines = Vec::new();
    for one in all {
        lines.push(one.model.clone());
        for layer in &one.layers {
            let numbers = match map {
                MapName::ForgetGate => layer.forget_gate().map(|gate| format!("mean {gate:.4}")),
                MapName::TokenNorm => {
                    layer.token_norms.map(|norms| format!("std {:<11.4e} mean {:.4e}", norms.std, norms.mean))
                }
                MapName::InputGate | MapName::Attention => token_map(layer, map).map(|tokens| {
                    let (low, high) = tokens.range();
                    let (height, width) = (tokens.height, tokens.width);
                    format!("mean {:<11.4e} from {low:<11.4e} to {high:<11.4e} {height}x{width}", tokens.mean())
                }),
            };
            lines.extend(numbers.map(|numbers| format!("  {:<width$}  {numbers}", layer.name)));
        }
    }
    lines
}
