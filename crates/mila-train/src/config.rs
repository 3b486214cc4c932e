//! What a training run is told: a flat TOML file, overridden key by key.

use std::path::{Path, PathBuf};

use mila_data::{CropMode, EvalTransform, Interpolation};
use mila_models::{Architecture, Preset};
use serde::{Deserialize, Serialize};

use crate::{Error, Result, Schedule};

/// Settings of a run. This is the one place of their defaults.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Registered architecture.
    pub arch: String,
    /// Folder of class folders, or one that holds `train` and `val`.
    pub data: PathBuf,
    /// Run directory to make.
    pub out: PathBuf,
    /// Weights to start from: any form that `mila convert` reads. Absent: random by `seed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weights: Option<PathBuf>,
    /// Take a head of another class count from the initialiser instead of refusing it.
    pub reset_head: bool,
    /// Keys every random choice.
    pub seed: u64,
    /// Passes over the training set.
    pub epochs: u64,
    /// Training images of an epoch, drawn anew for each; absent: all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch_images: Option<usize>,
    /// Images per optimiser step.
    pub batch: usize,
    /// Learning rate after the warm-up.
    pub lr: f64,
    /// Learning rate of the first step, as a share of `lr`.
    pub warmup_share: f64,
    /// Learning rate that the cosine ends at, as a share of `lr`.
    pub min_share: f64,
    /// Epochs of linear warm-up.
    pub warmup_epochs: f64,
    /// Decoupled weight decay of everything but vectors.
    pub weight_decay: f64,
    /// Largest global gradient norm; 0 switches clipping off.
    pub clip: f64,
    /// Drop-path rate of the last block; absent: the architecture's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drop_path: Option<f32>,
    /// Share of each class that is held out when the data have no validation set.
    pub val_fraction: f64,
    /// Height and width of the input; absent: the architecture's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_size: Option<[usize; 2]>,
    /// Share of the resized picture that the centre crop keeps; absent: the architecture's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crop_pct: Option<f64>,
    /// Largest random shift in pixels of the input, along each axis.
    pub shift: usize,
    /// Probability of a horizontal flip; 0 for data that mirroring changes, such as digits.
    pub flip: f64,
    /// Keep resized pictures in memory, where they take no more than 2 GiB.
    pub cache: bool,
    /// Threads that load images.
    pub loader_threads: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            arch: "mila-nano".into(),
            data: PathBuf::new(),
            out: PathBuf::new(),
            weights: None,
            reset_head: false,
            seed: 0,
            epochs: 30,
            epoch_images: None,
            batch: 64,
            lr: 2e-3,
            warmup_share: 1e-3,
            min_share: 1e-2,
            warmup_epochs: 2.0,
            weight_decay: 0.05,
            clip: 5.0,
            drop_path: None,
            val_fraction: 0.1,
            image_size: None,
            crop_pct: None,
            shift: 2,
            flip: 0.5,
            cache: true,
            loader_threads: 1,
        }
    }
}

impl Config {
    /// Reads a TOML file and then each `key=value`, whose value is TOML too or else a plain word.
    ///
    /// # Errors
    /// [`Error::Config`] for syntax, unknown keys and values of the wrong type, with the place.
    pub fn read(path: Option<&Path>, overrides: &[String]) -> Result<Self> {
        let text = match path {
            Some(path) => std::fs::read_to_string(path).map_err(Error::io(path))?,
            None => String::new(),
        };
        let place = path.map_or_else(String::new, |path| format!("{}: ", path.display()));
        let table = text.parse().map_err(|e| Error::Config(format!("{place}{e}")))?;
        Self::changed(table, &place, overrides)
    }

    /// The same settings, changed by each `key=value`.
    ///
    /// # Errors
    /// Those of [`read`](Self::read).
    pub fn with(&self, overrides: &[String]) -> Result<Self> {
        let table = toml::Table::try_from(self).map_err(|e| Error::Config(e.to_string()))?;
        Self::changed(table, "", overrides)
    }

    fn changed(mut table: toml::Table, place: &str, overrides: &[String]) -> Result<Self> {
        for entry in overrides {
            let (key, value) =
                entry.split_once('=').ok_or_else(|| Error::Config(format!("`--set {entry}`: expected key=value")))?;
            let parsed: std::result::Result<toml::Table, _> = format!("value = {value}").parse();
            let value = match parsed {
                Ok(mut table) => table.remove("value"),
                Err(_) => None,
            };
            let value = value.unwrap_or_else(|| toml::Value::String(entry[key.len() + 1..].to_owned()));
            table.insert(key.trim().to_owned(), value);
        }
        table.try_into().map_err(|e| Error::Config(format!("{place}{e}")))
    }

    /// The TOML of every setting.
    ///
    /// # Errors
    /// [`Error::Config`] for a path that is not text.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(self).map_err(|e| Error::Config(e.to_string()))
    }

    /// Whether the settings can be used.
    ///
    /// # Errors
    /// [`Error::Config`] with the setting, what was expected and what was found.
    pub fn check(&self) -> Result<()> {
        let at_least_zero = |value: f64| value >= 0.0 && value.is_finite();
        let rules = [
            (self.epochs > 0, "epochs", "at least 1", self.epochs.to_string()),
            (self.epoch_images != Some(0), "epoch_images", "at least 1", "0".to_owned()),
            (self.batch > 0, "batch", "at least 1", self.batch.to_string()),
            (self.lr > 0.0 && self.lr.is_finite(), "lr", "a positive number", self.lr.to_string()),
            (at_least_zero(self.weight_decay), "weight_decay", "0 or more", self.weight_decay.to_string()),
            (at_least_zero(self.clip), "clip", "0 or more", self.clip.to_string()),
            (at_least_zero(self.warmup_epochs), "warmup_epochs", "0 or more", self.warmup_epochs.to_string()),
            ((0.0..=1.0).contains(&self.warmup_share), "warmup_share", "in [0, 1]", self.warmup_share.to_string()),
            ((0.0..=1.0).contains(&self.min_share), "min_share", "in [0, 1]", self.min_share.to_string()),
            (
                self.crop_pct.is_none_or(|share| share > 0.0 && share <= 1.0),
                "crop_pct",
                "more than 0, at most 1",
                format!("{:?}", self.crop_pct),
            ),
            ((0.0..1.0).contains(&self.val_fraction), "val_fraction", "in [0, 1)", self.val_fraction.to_string()),
            ((0.0..=1.0).contains(&self.flip), "flip", "a probability", self.flip.to_string()),
            (
                self.drop_path.is_none_or(|rate| (0.0..1.0).contains(&rate)),
                "drop_path",
                "in [0, 1)",
                format!("{:?}", self.drop_path),
            ),
        ];
        match rules.into_iter().find(|rule| !rule.0) {
            Some((_, key, expected, found)) => Err(Error::Config(format!("{key}: expected {expected}, found {found}"))),
            None => self.preset().map(|_| ()),
        }
    }

    /// The registered model.
    ///
    /// # Errors
    /// [`Error::Unknown`].
    pub fn preset(&self) -> Result<&'static Preset> {
        Ok(Preset::find(&self.arch)?)
    }

    /// The architecture, with this run's drop-path rate.
    ///
    /// # Errors
    /// [`Error::Unknown`].
    pub fn architecture(&self) -> Result<Architecture> {
        let architecture = self.preset()?.architecture;
        Ok(match self.drop_path {
            Some(rate) => architecture.with_drop_path(rate),
            None => architecture,
        })
    }

    /// How pictures become inputs.
    ///
    /// # Errors
    /// [`Error::Unknown`].
    pub fn transform(&self) -> Result<EvalTransform> {
        let p = self.preset()?.preprocessing;
        Ok(EvalTransform {
            input_size: self.image_size.map_or((p.size, p.size), |[height, width]| (height, width)),
            crop_pct: self.crop_pct.unwrap_or(p.crop_pct),
            crop_mode: CropMode::Center,
            interpolation: match p.interpolation {
                mila_models::Interpolation::Bilinear => Interpolation::Bilinear,
                mila_models::Interpolation::Bicubic => Interpolation::Bicubic,
            },
            mean: p.mean,
            std: p.std,
        })
    }

    /// The learning rates for `steps_per_epoch` steps an epoch.
    ///
    /// # Errors
    /// [`Error::Config`] for more steps than can be counted.
    pub fn schedule(&self, steps_per_epoch: u64) -> Result<Schedule> {
        let steps = self.epochs.checked_mul(steps_per_epoch).ok_or_else(|| {
            Error::Config(format!("epochs: expected fewer, found {} of {steps_per_epoch} steps each", self.epochs))
        })?;
        Ok(Schedule {
            base: self.lr,
            warmup: self.lr * self.warmup_share,
            min: self.lr * self.min_share,
            warmup_steps: (self.warmup_epochs * steps_per_epoch as f64).round() as u64,
            steps,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overrides_are_typed_and_checked() {
        let set = |entries: &[&str]| Config::read(None, &entries.iter().map(|&e| e.into()).collect::<Vec<_>>());
        let config = set(&["lr=0.5", "arch=mila-t", "image_size=[64, 32]", "out=a=b"]).unwrap();
        assert_eq!((config.lr, config.arch.as_str(), config.image_size), (0.5, "mila-t", Some([64, 32])));
        assert_eq!(config.out, PathBuf::from("a=b"));
        let again = config.with(&["lr=0.25".into()]).unwrap();
        assert_eq!((again.lr, again.image_size, again.epochs), (0.25, Some([64, 32]), config.epochs));
        for (wrong, message) in [("lr=fast", "lr"), ("learning_rate=1", "learning_rate"), ("lr", "key=value")] {
            assert!(set(&[wrong]).unwrap_err().to_string().contains(message), "{wrong}");
        }
    }

    #[test]
    fn the_resolved_file_reads_back() {
        let config = Config { drop_path: Some(0.25), seed: 7, ..Config::default() };
        let text = config.to_toml().unwrap();
        assert_eq!(text.parse::<toml::Table>().unwrap().try_into::<Config>().unwrap(), config);
    }

    #[test]
    fn unusable_settings_are_named() {
        for (config, key) in [
            (Config { epochs: 0, ..Config::default() }, "epochs"),
            (Config { epoch_images: Some(0), ..Config::default() }, "epoch_images"),
            (Config { lr: f64::NAN, ..Config::default() }, "lr"),
            (Config { flip: 1.5, ..Config::default() }, "flip"),
            (Config { crop_pct: Some(1.5), ..Config::default() }, "crop_pct"),
            (Config { crop_pct: Some(0.0), ..Config::default() }, "crop_pct"),
            (Config { warmup_share: -0.1, ..Config::default() }, "warmup_share"),
            (Config { min_share: 1.1, ..Config::default() }, "min_share"),
            (Config { warmup_epochs: f64::INFINITY, ..Config::default() }, "warmup_epochs"),
            (Config { weight_decay: f64::INFINITY, ..Config::default() }, "weight_decay"),
            (Config { clip: f64::INFINITY, ..Config::default() }, "clip"),
            (Config { arch: "resnet".into(), ..Config::default() }, "resnet"),
        ] {
            assert!(config.check().unwrap_err().to_string().contains(key), "{key}");
        }
        let endless = Config { epochs: u64::MAX, ..Config::default() };
        assert!(endless.schedule(2).unwrap_err().to_string().contains("epochs"));
    }
}
