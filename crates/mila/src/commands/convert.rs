//! `mila convert`: weights from one form into another.

use std::path::Path;

use mila::graph::Trace;
use mila::model::{self, Request};
use mila::models::{Preset, Task};
use mila::preprocessing;
use mila::weights::{Allow, Checkpoint, Config, ModelDirectory, Which, write_safetensors};

use crate::cli::Convert;
use crate::failure::Failure;
use crate::terminal::Terminal;

pub(crate) fn run(args: Convert, terminal: &Terminal) -> Result<(), Failure> {
    let place = args.input.display();
    let which = if args.ema { Which::Ema } else { Which::Raw };
    let bad = |e| Failure::from(e).at(&place);
    let directory = args.input.is_dir().then(|| ModelDirectory::open(&args.input)).transpose().map_err(bad)?;
    let checkpoint = Checkpoint::open(&args.input, which).map_err(bad)?;
    let request = Request { ema: args.ema, ..Request::default() };
    model::origin_notes(&checkpoint, &request).iter().for_each(|note| terminal.note(note));
    let preset = match (&args.arch, &directory) {
        (Some(name), _) => Some(Preset::find(name).map_err(Failure::usage)?),
        (None, Some(directory)) => Some(model::described(&args.input, directory)?),
        (None, None) => None,
    };
    let checked = match preset {
        Some(preset) => Some((preset, check(preset, &checkpoint, &place.to_string())?)),
        None => None,
    };
    let extension = args.output.extension().map(|e| e.to_string_lossy().to_lowercase());
    match extension.as_deref() {
        Some("safetensors") => {
            let left_out = write_safetensors(&checkpoint, &args.output)?;
            left_out.iter().for_each(|name| terminal.note(format_args!("left out `{name}`: not floating-point")));
        }
        Some("pth" | "pt" | "bin" | "ckpt" | "pkl" | "pickle") => {
            return Err(Failure::usage(format!("{}: .pth files are read and never written", args.output.display())));
        }
        _ => {
            let Some((preset, classes)) = checked else {
                let why = "a model directory says which architecture it is for: add --arch NAME";
                return Err(Failure::usage(format!("{}: {why}", args.output.display())));
            };
            let config = match directory {
                Some(directory) => directory.config().clone(),
                None => config(preset, classes),
            };
            ModelDirectory::write(&args.output, &config, checkpoint.floats())?;
        }
    }
    let count = checkpoint.floats().count();
    terminal.note(format_args!("wrote {count} tensors to {}", shown(&args.output)));
    Ok(())
}

/// Checks the tensors against the architecture with the stored class count, which it returns.
fn check(preset: &'static Preset, checkpoint: &Checkpoint, place: &str) -> Result<usize, Failure> {
    let classes = model::stored_classes(preset, checkpoint).unwrap_or(preset.classes);
    let manifest = Trace::of(preset, Task::Classify { classes })?;
    match checkpoint.check(manifest.manifest(), &Allow::NOTHING) {
        Ok(_) => Ok(classes),
        Err(mismatch) => {
            Err(Failure::data(format!("{place} does not hold the weights of {}\n{mismatch}", preset.name)))
        }
    }
}

fn config(preset: &Preset, classes: usize) -> Config {
    Config {
        architecture: preset.name.to_owned(),
        num_classes: classes,
        num_features: Some(preset.architecture.features()),
        label_names: None,
        model_args: serde_json::Map::new(),
        pretrained_cfg: preprocessing::to_config(&preprocessing::of(preset)),
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}
