//! `mila convert`: weights from one form into another.

use std::path::Path;

use mila::graph::Trace;
use mila::model::{Request, origin_notes, transform};
use mila::models::{Preset, Task};
use mila::weights::{Allow, Checkpoint, Config, ModelDirectory, PretrainedConfig, Which, write_safetensors};

use crate::cli::Convert;
use crate::failure::Failure;
use crate::terminal::Terminal;

pub(crate) fn run(args: Convert, terminal: &Terminal) -> Result<(), Failure> {
    let place = args.input.display();
    let which = if args.ema { Which::Ema } else { Which::Raw };
    let directory = args.input.is_dir().then(|| ModelDirectory::open(&args.input)).transpose()?;
    let checkpoint = Checkpoint::open(&args.input, which).map_err(|e| Failure::from(e).at(&place))?;
    let request = Request { ema: args.ema, ..Request::default() };
    origin_notes(&checkpoint, &request).iter().for_each(|note| terminal.note(note));
    let stored = directory.as_ref().map(|d| d.config().architecture.clone());
    let preset = match args.arch.as_ref().or(stored.as_ref()) {
        Some(name) => Some(Preset::find(name).map_err(Failure::usage)?),
        None => None,
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
    let trace = |classes| Trace::of(preset, Task::Classify { classes });
    let bias = trace(preset.classes)?.manifest().last().map(|w| w.name.clone()).unwrap_or_default();
    let classes = checkpoint.get(&bias).and_then(|t| t.shape().first().copied()).unwrap_or(preset.classes);
    let manifest = trace(classes)?;
    match checkpoint.check(manifest.manifest(), &Allow::NOTHING) {
        Ok(_) => Ok(classes),
        Err(mismatch) => {
            Err(Failure::data(format!("{place} does not hold the weights of {}\n{mismatch}", preset.name)))
        }
    }
}

fn config(preset: &Preset, classes: usize) -> Config {
    let t = transform(preset);
    Config {
        architecture: preset.name.to_owned(),
        num_classes: classes,
        num_features: Some(preset.architecture.features()),
        label_names: None,
        model_args: serde_json::Map::new(),
        pretrained_cfg: PretrainedConfig {
            input_size: [3, t.input_size.0, t.input_size.1],
            mean: t.mean.map(f64::from),
            std: t.std.map(f64::from),
            interpolation: t.interpolation.to_string(),
            crop_pct: t.crop_pct,
            crop_mode: t.crop_mode.to_string(),
            license: None,
            origin_url: None,
        },
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}
