//! Writes weights of a model that leave no parameter at a value that hides it: no norm of one, no bias of zero, no layer
//! scale near zero. `cargo xtask onnx` exports them, so that a wrong or forgotten parameter shows.
//!
//! ```text
//! cargo run --release -p mila-graph --example formula_weights -- NAME classify|pyramid OUT.safetensors
//! ```

use std::error::Error;
use std::path::Path;

use mila_graph::Trace;
use mila_models::{Preset, Task};
use mila_ops::Source;
use mila_parity::Formula;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, task, out] = arguments.as_slice() else {
        return Err("expected NAME classify|pyramid OUT.safetensors".into());
    };
    let preset = Preset::find(name)?;
    let task = match task.as_str() {
        "classify" => Task::Classify { classes: preset.classes },
        "pyramid" => Task::Pyramid,
        other => return Err(format!("expected classify or pyramid, found {other}").into()),
    };
    let trace = Trace::of(preset, task)?;
    let values =
        trace.manifest().iter().map(|wanted| Ok((wanted.name.clone(), wanted.shape.clone(), Formula.fetch(wanted)?)));
    let tensors: Vec<_> = values.collect::<mila_ops::Result<_>>()?;
    mila_weights::write_tensors(Path::new(out), tensors)?;
    Ok(())
}
