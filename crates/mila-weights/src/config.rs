//! `config.json` of a model directory, with the keys of timm's hub files.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{Error, Result};

/// What a model directory says of its model. Unknown keys are ignored when read and not written again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// Name of the architecture.
    pub architecture: String,
    /// Classes of the head; 0 without one.
    pub num_classes: usize,
    /// Channels before the head.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub num_features: Option<usize>,
    /// A name for each class, in the head's order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label_names: Option<Vec<String>>,
    /// What the architecture's preset is changed by.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub model_args: Map<String, Value>,
    /// How images are prepared, and where the weights are from.
    pub pretrained_cfg: PretrainedConfig,
}

/// How images are prepared for a model; absent keys have timm's defaults (`timm/data/config.py`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PretrainedConfig {
    /// Channels, height, width.
    pub input_size: [usize; 3],
    /// Subtracted from red, green, blue in `[0, 1]`.
    pub mean: [f64; 3],
    /// Divides them then.
    pub std: [f64; 3],
    /// Filter of the resize.
    #[serde(default = "bicubic")]
    pub interpolation: String,
    /// Side of the crop over side of the resized image, in `(0, 1]`.
    #[serde(default = "crop_pct")]
    pub crop_pct: f64,
    /// How the crop is taken.
    #[serde(default = "center")]
    pub crop_mode: String,
    /// Licence of the weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub license: Option<String>,
    /// Where the weights were published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin_url: Option<String>,
}

fn bicubic() -> String {
    "bicubic".into()
}

fn crop_pct() -> f64 {
    0.875
}

fn center() -> String {
    "center".into()
}

const INTERPOLATIONS: [&str; 6] = ["bicubic", "bilinear", "nearest", "lanczos", "box", "hamming"];
const CROP_MODES: [&str; 3] = ["center", "squash", "border"];

impl Config {
    /// Reads and validates the JSON text of a `config.json`.
    ///
    /// # Errors
    /// [`Error::Config`] with the key, or with the line and column if it is no JSON.
    pub fn from_json(json: &[u8]) -> Result<Self> {
        let config: Self = serde_json::from_slice(json).map_err(|error| Error::Config {
            key: "config.json".into(),
            expected: "the keys of a timm hub config".into(),
            found: error.to_string(),
        })?;
        config.validate()?;
        Ok(config)
    }

    /// The JSON text, indented.
    ///
    /// # Errors
    /// [`Error::Config`] if it is not valid.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        self.validate()?;
        let mut json = serde_json::to_vec_pretty(self)
            .map_err(|error| wrong("config.json", "a value that JSON can hold", error.to_string()))?;
        json.push(b'\n');
        Ok(json)
    }

    /// Checks every value.
    ///
    /// # Errors
    /// [`Error::Config`] for the first that is wrong.
    pub fn validate(&self) -> Result<()> {
        let images = &self.pretrained_cfg;
        if self.architecture.trim().is_empty() {
            return Err(wrong("architecture", "a name", "an empty one"));
        }
        if let Some(labels) = self.label_names.as_ref().filter(|labels| labels.len() != self.num_classes) {
            let expected = format!("one for each of {} classes", self.num_classes);
            return Err(wrong("label_names", expected, labels.len()));
        }
        let [channels, height, width] = images.input_size;
        if channels != 3 || height == 0 || width == 0 {
            let found = format!("{:?}", images.input_size);
            return Err(wrong("pretrained_cfg.input_size", "[3, height, width], both at least 1", found));
        }
        if !images.mean.iter().all(|mean| mean.is_finite()) {
            return Err(wrong("pretrained_cfg.mean", "finite numbers", format!("{:?}", images.mean)));
        }
        if !images.std.iter().all(|std| std.is_finite() && *std > 0.0) {
            return Err(wrong("pretrained_cfg.std", "positive numbers", format!("{:?}", images.std)));
        }
        if !(images.crop_pct > 0.0 && images.crop_pct <= 1.0) {
            return Err(wrong("pretrained_cfg.crop_pct", "more than 0, at most 1", images.crop_pct));
        }
        one_of("pretrained_cfg.interpolation", &INTERPOLATIONS, &images.interpolation)?;
        one_of("pretrained_cfg.crop_mode", &CROP_MODES, &images.crop_mode)
    }
}

fn one_of(key: &str, accepted: &[&str], found: &str) -> Result<()> {
    if accepted.contains(&found) {
        return Ok(());
    }
    Err(wrong(key, format!("one of {}", accepted.join(", ")), format!("`{}`", found.escape_debug())))
}

fn wrong(key: &str, expected: impl ToString, found: impl ToString) -> Error {
    Error::Config { key: key.into(), expected: expected.to_string(), found: found.to_string() }
}
