//! `mila export`: a model as ONNX.

use std::io::Error as IoError;

use mila::data::EvalTransform;
use mila::graph::onnx::{Error, Extents};
use mila::graph::{Sizes, Trace};
use mila::model;
use mila::weights::write_whole;

use crate::cli::{Export, TaskName};
use crate::failure::Failure;
use crate::sizes;
use crate::terminal::Terminal;

pub(crate) fn run(args: Export, terminal: &Terminal) -> Result<(), Failure> {
    let place = args.output.display();
    if !args.output.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("onnx")) {
        return Err(Failure::usage(format!("{place}: expected a name that ends in .onnx")));
    }
    let resolved = model::resolve(&args.model.request(args.task == TaskName::Pyramid))?;
    resolved.notes.iter().for_each(|note| terminal.note(note));
    sizes::check(&resolved, args.size)?;
    let (height, width) = args.size.unwrap_or(resolved.transform.input_size);
    let extents = match args.dynamic {
        true => Extents::Dynamic,
        false => Extents::Fixed(Sizes { batch: args.batch as usize, height, width }),
    };
    let refused = |error: mila::ops::Error| Failure::from(error).at(resolved.preset.name);
    let trace = Trace::of(resolved.preset, resolved.task).map_err(refused)?;
    let mut onnx = trace.onnx(extents).map_err(refused)?;
    onnx.describe("model", resolved.preset.name);
    for (key, value) in preprocessing(&resolved.transform) {
        onnx.describe(key, value);
    }
    if let (Some(labels), TaskName::Classify) = (&resolved.labels, args.task) {
        onnx.describe("labels", serde_json::Value::from(labels.as_slice()).to_string());
    }
    let mut refused = None;
    let written = write_whole(&args.output, |file| {
        onnx.write(&resolved.parameters, file).map_err(|error| match error {
            Error::Io(error) => error,
            other => IoError::other(refused.insert(other).to_string()),
        })
    });
    match refused {
        Some(Error::Model(error)) => return Err(error.into()),
        Some(error) => return Err(Failure::usage(error).at(&place)),
        None => written?,
    }
    let nodes: usize = onnx.operators().values().sum();
    let input = match extents {
        Extents::Fixed(Sizes { batch, height, width }) => format!("[{batch}, 3, {height}, {width}]"),
        Extents::Dynamic => "[batch, 3, height, width]".to_owned(),
    };
    terminal.note(format_args!("wrote {nodes} nodes for image {input} to {place}"));
    Ok(())
}

/// How a picture becomes an input, in the words of `config.json`.
fn preprocessing(transform: &EvalTransform) -> [(&'static str, String); 6] {
    let list = |values: [f32; 3]| values.map(|value| value.to_string()).join(",");
    let (height, width) = transform.input_size;
    [
        ("mean", list(transform.mean)),
        ("std", list(transform.std)),
        ("input_size", format!("3,{height},{width}")),
        ("crop_pct", transform.crop_pct.to_string()),
        ("crop_mode", transform.crop_mode.to_string()),
        ("interpolation", transform.interpolation.to_string()),
    ]
}
