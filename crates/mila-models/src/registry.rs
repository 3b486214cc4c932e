//! The models by name: sizes, where they come from, how their input is prepared.

use mila_ops::{Builder, Executor, Result, Source};

use crate::{Model, Task, ablation, convnext, mamba_nd, mambaout, mila, swin, vim, vmamba};

/// A family and its sizes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Architecture {
    /// [`crate::mila`].
    Mila(mila::Config),
    /// [`crate::convnext`].
    ConvNext(convnext::Config),
    /// [`crate::mambaout`].
    MambaOut(mambaout::Config),
    /// [`crate::swin`].
    Swin(swin::Config),
    /// [`crate::ablation`].
    Ablation(ablation::Config),
    /// [`crate::vim`].
    Vim(vim::Config),
    /// [`crate::mamba_nd`].
    MambaNd(mamba_nd::Config),
    /// [`crate::vmamba`].
    VMamba(vmamba::Config),
}

/// How a picture is resized.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interpolation {
    /// Antialiased triangle filter.
    Bilinear,
    /// Antialiased cubic filter.
    Bicubic,
}

/// How a picture becomes an input.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Preprocessing {
    /// Side of the square input that the model was published at.
    pub size: usize,
    /// Share of the resized picture that the centre crop keeps.
    pub crop_pct: f64,
    /// Resizing filter.
    pub interpolation: Interpolation,
    /// Subtracted from each channel of values in `[0, 1]`.
    pub mean: [f32; 3],
    /// What each channel is then divided by.
    pub std: [f32; 3],
}

impl Preprocessing {
    /// ImageNet's means and deviations, bicubic, 224 pixels after a resize to 256.
    pub const IMAGENET: Self = Self {
        size: 224,
        crop_pct: 224.0 / 256.0,
        interpolation: Interpolation::Bicubic,
        mean: [0.485, 0.456, 0.406],
        std: [0.229, 0.224, 0.225],
    };
    /// Small pictures taken whole, values in `[-1, 1]`.
    pub const SMALL: Self = Self { size: 32, crop_pct: 1.0, mean: [0.5; 3], std: [0.5; 3], ..Self::IMAGENET };
}

/// What the source says of a model, as printed; see the documentation for where prints and exact counts differ.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Published {
    /// Parameters, as printed.
    pub parameters: &'static str,
    /// Multiply-accumulates, as printed.
    pub macs: &'static str,
    /// Images a second, where the source has it; on a machine that it does not state.
    pub images_per_s: Option<u32>,
    /// ImageNet-1K top-1 accuracy in percent.
    pub top1: f32,
}

/// A registered model.
#[derive(Clone, Copy, Debug)]
pub struct Preset {
    /// Name on the command line and in `config.json`.
    pub name: &'static str,
    /// What others call it: the official configurations, timm. With hyphens, as [`Preset::find`] reads names.
    pub aliases: &'static [&'static str],
    /// One line about it.
    pub about: &'static str,
    /// Where it was described.
    pub paper: &'static str,
    /// Family and sizes.
    pub architecture: Architecture,
    /// Classes of the published weights, or of the task that it was made for.
    pub classes: usize,
    /// How its input is prepared.
    pub preprocessing: Preprocessing,
    /// Printed numbers, for models that were published.
    pub published: Option<Published>,
}

/// The models of every family, in the order of `mila models`.
const FAMILIES: &[&[Preset]] = &[
    mila::PRESETS,
    convnext::PRESETS,
    mambaout::PRESETS,
    swin::PRESETS,
    vim::PRESETS,
    vmamba::PRESETS,
    mamba_nd::PRESETS,
    ablation::PRESETS,
];

/// A name that is not registered.
#[derive(Debug, thiserror::Error)]
#[error("unknown architecture `{name}`; known are {known}")]
pub struct Unknown {
    name: String,
    known: String,
}

impl Preset {
    /// A model of ImageNet-1K's classes whose input is prepared as [`Preprocessing::IMAGENET`] says.
    pub(crate) const fn imagenet(
        name: &'static str,
        aliases: &'static [&'static str],
        about: &'static str,
        paper: &'static str,
        architecture: Architecture,
        published: Published,
    ) -> Self {
        let (preprocessing, published) = (Preprocessing::IMAGENET, Some(published));
        Self { name, aliases, about, paper, architecture, classes: 1000, preprocessing, published }
    }

    /// Every registered model.
    pub fn all() -> impl Iterator<Item = &'static Self> {
        FAMILIES.iter().copied().flatten()
    }

    /// The model of a name or alias; underscores count as hyphens.
    ///
    /// # Errors
    /// [`Unknown`], which lists the registered names.
    pub fn find(name: &str) -> std::result::Result<&'static Self, Unknown> {
        let wanted = name.to_lowercase().replace('_', "-");
        let named = |preset: &&'static Self| preset.name == wanted || preset.aliases.contains(&wanted.as_str());
        Self::all().find(named).ok_or_else(|| Unknown {
            name: name.to_owned(),
            known: Self::all().map(|preset| preset.name).collect::<Vec<_>>().join(", "),
        })
    }

    /// Prepares the model for `executor`, with parameters from `source`.
    ///
    /// # Errors
    /// Those of the source and of the executor.
    pub fn build<E: Executor + 'static>(
        &self,
        executor: &mut E,
        source: &dyn Source,
        task: Task,
    ) -> Result<Box<dyn Model<E>>> {
        self.architecture.build(&mut Builder::new(executor, source), task)
    }
}

impl Architecture {
    /// The same architecture with another drop-path rate of its last block.
    #[must_use]
    pub fn with_drop_path(self, drop_path: f32) -> Self {
        match self {
            Self::Mila(config) => Self::Mila(mila::Config { drop_path, ..config }),
            Self::ConvNext(config) => Self::ConvNext(convnext::Config { drop_path, ..config }),
            Self::MambaOut(config) => Self::MambaOut(mambaout::Config { drop_path, ..config }),
            Self::Swin(config) => Self::Swin(swin::Config { drop_path, ..config }),
            Self::Ablation(config) => Self::Ablation(ablation::Config { drop_path, ..config }),
            Self::Vim(config) => Self::Vim(vim::Config { drop_path, ..config }),
            Self::MambaNd(config) => Self::MambaNd(mamba_nd::Config { drop_path, ..config }),
            Self::VMamba(config) => Self::VMamba(vmamba::Config { drop_path, ..config }),
        }
    }

    /// Channels before the head; those of the first stage where there is no stage, which no family builds.
    pub fn features(&self) -> usize {
        match self {
            Self::Mila(config) => config.channels << config.depths.len().saturating_sub(1),
            Self::ConvNext(config) => config.channels[3],
            Self::MambaOut(config) => config.channels[3],
            Self::Swin(config) => config.channels << 3,
            Self::Ablation(config) => config.channels << config.depths.len().saturating_sub(1),
            Self::Vim(config) => config.channels,
            Self::MambaNd(config) => config.channels,
            Self::VMamba(config) => config.channels << 3,
        }
    }

    /// Prepares a model of this family for the builder's executor.
    ///
    /// # Errors
    /// Those of the family's `build`: for sizes that do not fit each other, and of the source and of the executor.
    pub fn build<E: Executor + 'static>(&self, b: &mut Builder<E>, task: Task) -> Result<Box<dyn Model<E>>> {
        match self {
            Self::Mila(config) => mila::build(b, config, task),
            Self::ConvNext(config) => convnext::build(b, config, task),
            Self::MambaOut(config) => mambaout::build(b, config, task),
            Self::Swin(config) => swin::build(b, config, task),
            Self::Ablation(config) => ablation::build(b, config, task),
            Self::Vim(config) => vim::build(b, config, task),
            Self::MambaNd(config) => mamba_nd::build(b, config, task),
            Self::VMamba(config) => vmamba::build(b, config, task),
        }
    }
}
