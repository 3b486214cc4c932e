//! What the cells of a study share: their budget and the settings of their training.

use std::io::Write;
use std::path::Path;

use mila::train::{Config, Data};
use mila::weights::write_whole;
use serde_json::{Map, Value, json};

use super::{Cell, Study};
use crate::cli::Study as Args;
use crate::failure::Failure;

/// What every cell may use.
pub(crate) struct Budget {
    /// Training images that a cell sees, each as often as it is seen.
    pub(crate) passes: usize,
    /// One cell of each variant for each.
    pub(crate) seeds: &'static [u64],
    /// Images per optimiser step.
    pub(crate) batch: usize,
    /// Learning rate after the warm-up.
    pub(crate) lr: f64,
    /// Share of the steps that the warm-up takes.
    pub(crate) warmup: f64,
    /// Largest random shift in pixels: crops from the picture with so much around it.
    pub(crate) shift: usize,
    /// Probability of a horizontal flip.
    pub(crate) flip: f64,
}

impl Budget {
    /// For models of less than a million parameters on images of 32x32 pixels.
    pub(crate) const SMALL: Self =
        Self { passes: 50_000, seeds: &[0, 1, 2], batch: 64, lr: 2e-3, warmup: 0.05, shift: 4, flip: 0.5 };
}

/// Settings that differ from cell to cell, or follow from the budget.
const OWN: [&str; 7] = ["arch", "data", "out", "seed", "epochs", "epoch_images", "weights"];

/// The settings of all cells.
pub(crate) struct Shared {
    /// Of a training; what [`OWN`] names, but for the data and the number of epochs, is each cell's.
    config: Config,
    /// As stored beside the cells.
    described: Map<String, Value>,
}

impl Shared {
    /// The settings that the study and the command line give for these data.
    ///
    /// # Errors
    /// For settings that the study makes itself, and those of the training's configuration.
    pub(crate) fn of(study: &Study, args: &Args, data: &Data) -> Result<Self, Failure> {
        let key = |entry: &String| entry.split('=').next().unwrap_or_default().trim().to_owned();
        if let Some(own) = args.set.iter().map(key).find(|key| OWN.contains(&key.as_str())) {
            return Err(Failure::usage(format_args!("--set {own}: a study sets it itself")));
        }
        let budget = &study.budget;
        let passes = args.passes.map_or(budget.passes, |passes| passes as usize);
        let images = data.train.len();
        // Whole passes over the data where they come out even, else equal parts of them.
        let epochs = passes.div_ceil(images.max(1)).max(1);
        let share = passes / epochs;
        let config = Config {
            arch: study.variants[0].arch.into(),
            epochs: epochs as u64,
            epoch_images: (share < images).then_some(share),
            batch: budget.batch,
            lr: budget.lr,
            warmup_epochs: budget.warmup * epochs as f64,
            shift: budget.shift,
            flip: budget.flip,
            // Read once anyway: what is kept would only be copied.
            cache: epochs > 1,
            ..Config::default()
        };
        let mut config = config.with(&args.set)?;
        config.check()?;
        if let Some(folder) = &args.data {
            config.data = crate::commands::train::absolute(folder)?;
        }
        let described = described(study, &config, data)?;
        Ok(Self { config, described })
    }

    /// The configuration of one cell's training.
    pub(crate) fn cell(&self, cell: Cell, out: &Path) -> Config {
        Config { arch: cell.variant.arch.into(), seed: cell.seed, out: cell.directory(out), ..self.config.clone() }
    }

    /// The name of the study.
    pub(crate) fn study(&self) -> &str {
        self.described.get("study").and_then(Value::as_str).unwrap_or_default()
    }

    /// As stored beside the cells.
    pub(crate) fn described(&self) -> &Map<String, Value> {
        &self.described
    }

    /// A short name of the settings: cells of different settings are not to be compared.
    pub(crate) fn hash(&self) -> String {
        let text = Value::Object(self.described.clone()).to_string();
        let mix = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        // FNV-1a: the standard library's hashes may change from one release to the next.
        format!("{:016x}", text.bytes().fold(0xcbf2_9ce4_8422_2325, mix))
    }

    /// Writes `study.json`, or compares with the one that is there.
    ///
    /// # Errors
    /// For a folder that was begun with other settings, with every difference.
    pub(crate) fn settle(&self, out: &Path) -> Result<(), Failure> {
        let path = out.join("study.json");
        if !path.exists() {
            let text = serde_json::to_vec_pretty(&self.described).map_err(Failure::run)?;
            return Ok(write_whole(&path, |file| file.write_all(&text))?);
        }
        let at = |error: &dyn std::fmt::Display| Failure::data(format_args!("{}: {error}", path.display()));
        let text = std::fs::read(&path).map_err(|error| at(&error))?;
        let begun: Map<String, Value> = serde_json::from_slice(&text).map_err(|error| {
            at(&format_args!(
                "{error}; if the file is lost, choose another --out, or remove it: cells of other settings are refused"
            ))
        })?;
        let keys = begun.keys().chain(self.described.keys().filter(|key| !begun.contains_key(*key)));
        let shown = |value: Option<&Value>| value.map_or("absent".to_owned(), Value::to_string);
        let differences: Vec<String> = keys
            .filter(|key| begun.get(*key) != self.described.get(*key))
            .map(|key| format!("{key}: {} there, {} now", shown(begun.get(key)), shown(self.described.get(key))))
            .collect();
        if differences.is_empty() {
            return Ok(());
        }
        Err(Failure::usage(format_args!(
            "{} was begun with other settings; go on with those, or choose another --out (--passes makes the epochs)\n  {}",
            out.display(),
            differences.join("\n  ")
        )))
    }
}

/// Everything that a cell's numbers depend on, beside its variant and its seed.
fn described(study: &Study, config: &Config, data: &Data) -> Result<Map<String, Value>, Failure> {
    let mut described = Map::new();
    described.insert("study".into(), study.name.into());
    if let Value::Object(settings) = serde_json::to_value(config).map_err(Failure::run)? {
        let of_cell = ["arch", "data", "out", "seed", "loader_threads", "cache"];
        described.extend(settings.into_iter().filter(|(key, _)| !of_cell.contains(&key.as_str())));
    }
    described.insert("classes".into(), json!(data.classes));
    described.insert("train_images".into(), data.train.len().into());
    described.insert("validation_images".into(), data.validation.len().into());
    Ok(described)
}
