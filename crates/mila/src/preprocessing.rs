//! How pictures are prepared, as the registry says it, as `config.json` says it, and as [`mila_data`] does it.

use mila_data::{CropMode, EvalTransform};
use mila_models::{Interpolation, Preset};
use mila_weights::PretrainedConfig;

/// What a preset says.
pub fn of(preset: &Preset) -> EvalTransform {
    let p = preset.preprocessing;
    EvalTransform {
        input_size: (p.size, p.size),
        crop_pct: p.crop_pct,
        crop_mode: CropMode::Center,
        interpolation: match p.interpolation {
            Interpolation::Bilinear => mila_data::Interpolation::Bilinear,
            Interpolation::Bicubic => mila_data::Interpolation::Bicubic,
        },
        mean: p.mean,
        std: p.std,
    }
}

/// What the `config.json` of a model directory says.
///
/// # Errors
/// [`mila_data::Error::Setting`] for a crop mode or an interpolation that does not exist.
pub fn from_config(p: &PretrainedConfig) -> mila_data::Result<EvalTransform> {
    Ok(EvalTransform {
        input_size: (p.input_size[1], p.input_size[2]),
        crop_pct: p.crop_pct,
        crop_mode: p.crop_mode.parse()?,
        interpolation: p.interpolation.parse()?,
        mean: p.mean.map(|v| v as f32),
        std: p.std.map(|v| v as f32),
    })
}

/// The same for a `config.json`.
pub fn to_config(t: &EvalTransform) -> PretrainedConfig {
    PretrainedConfig {
        input_size: [3, t.input_size.0, t.input_size.1],
        mean: t.mean.map(f64::from),
        std: t.std.map(f64::from),
        interpolation: t.interpolation.to_string(),
        crop_pct: t.crop_pct,
        crop_mode: t.crop_mode.to_string(),
        license: None,
        origin_url: None,
    }
}
