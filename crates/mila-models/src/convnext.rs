//! ConvNeXt: "A ConvNet for the 2020s" (arXiv 2201.03545), with timm's parameter names.
//!
//! A 7x7 depthwise convolution followed by an MLP, `x + gamma * fc2(gelu(fc1(norm(dw(x)))))`; patches as stem and
//! between stages. Kernels without padding drop what is left over at the lower and right border, as PyTorch does.

use mila_ops::{
    Activation, Builder, Convolution, DropPath, Executor, Init, Mechanism, Mlp, Onto, Residual, Result, Tap,
};

use crate::model::{Model, Output, Task, drop_path_rates};
use crate::pyramid::Pyramid;
use crate::registry::{Architecture, Preset, Published};

/// Eps of every layer norm.
const EPS: f64 = 1e-6;
/// Where layer scale starts.
const LAYER_SCALE: f32 = 1e-6;

/// Sizes of one variant.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Config {
    /// Channels of each stage.
    pub channels: [usize; 4],
    /// Blocks of each stage.
    pub depths: [usize; 4],
    /// Drop-path rate of the last block.
    pub drop_path: f32,
}

impl Config {
    /// ConvNeXt-T, Table 9 of the paper.
    pub const T: Self = Self { channels: [96, 192, 384, 768], depths: [3, 3, 9, 3], drop_path: 0.1 };
    /// ConvNeXt-S, Table 9 of the paper.
    pub const S: Self = Self { channels: [96, 192, 384, 768], depths: [3, 3, 27, 3], drop_path: 0.4 };
    /// ConvNeXt-B, Table 9 of the paper.
    pub const B: Self = Self { channels: [128, 256, 512, 1024], depths: [3, 3, 27, 3], drop_path: 0.5 };
}

const PAPER: &str = "arXiv 2201.03545";

/// The registered models; published numbers as the paper prints them.
pub(crate) const PRESETS: &[Preset] = &[
    Preset::imagenet(
        "convnext-t",
        &["convnext-tiny"],
        "ConvNeXt tiny, timm's convnext_tiny",
        PAPER,
        Architecture::ConvNext(Config::T),
        Published { parameters: "29M", macs: "4.5G", images_per_s: None, top1: 82.1 },
    ),
    Preset::imagenet(
        "convnext-s",
        &["convnext-small"],
        "ConvNeXt small, timm's convnext_small",
        PAPER,
        Architecture::ConvNext(Config::S),
        Published { parameters: "50M", macs: "8.7G", images_per_s: None, top1: 83.1 },
    ),
    Preset::imagenet(
        "convnext-b",
        &["convnext-base"],
        "ConvNeXt base, timm's convnext_base",
        PAPER,
        Architecture::ConvNext(Config::B),
        Published { parameters: "89M", macs: "15.4G", images_per_s: None, top1: 83.8 },
    ),
];

struct Block<E: Executor> {
    name: String,
    conv_name: String,
    conv_dw: E::Conv,
    mlp: Mlp<E>,
    gamma: E::Parameter,
    drop_path: Option<DropPath>,
}

impl<E: Executor> Block<E> {
    fn build(b: &mut Builder<E>, channels: usize, drop_path: f32) -> Result<Self> {
        Ok(Self {
            name: b.path(""),
            conv_name: b.path("conv_dw"),
            gamma: b.parameter("gamma", &[channels], Init::Constant { value: LAYER_SCALE })?,
            conv_dw: b.conv("conv_dw", Convolution::depthwise(channels, 7).truncated_normal())?,
            mlp: Mlp::build(b, "norm", EPS, channels, 4 * channels)?,
            drop_path: b.drop_path("mlp", drop_path),
        })
    }

    fn forward(&self, e: &E, x: E::Map, tap: &mut dyn Tap<E>) -> Result<E::Map> {
        tap.mechanism(&self.conv_name, Mechanism::Local)?;
        let local = tap.pass(&self.conv_name, e.conv(&x, &self.conv_dw, Activation::None)?)?;
        let add = Residual { onto: Onto::Map(x), layer_scale: Some(&self.gamma), drop_path: self.drop_path };
        let x = e.mlp(local, &self.mlp, add, tap)?;
        tap.pass(&self.name, x)
    }
}

/// Norm, then patches: what lies between two stages.
struct Downsample<E: Executor> {
    names: [String; 2],
    norm: E::Norm,
    conv: E::Conv,
}

struct Stage<E: Executor> {
    name: String,
    downsample: Option<Downsample<E>>,
    blocks: Vec<Block<E>>,
}

/// Stem and stages.
struct Trunk<E: Executor> {
    stem: (E::Conv, E::Norm),
    stages: Vec<Stage<E>>,
}

impl<E: Executor> Trunk<E> {
    fn build(b: &mut Builder<E>, c: &Config) -> Result<Self> {
        let patches = Convolution::patches(3, c.channels[0], 4).truncated_normal();
        let stem = b.scope("stem", |b| Ok((b.conv("0", patches)?, b.layer_norm("1", c.channels[0], EPS)?)))?;
        let mut rates = drop_path_rates(c.drop_path, c.depths.iter().sum());
        let mut stages = Vec::with_capacity(4);
        for stage in 0..4 {
            let channels = c.channels[stage];
            stages.push(b.scope(&format!("stages.{stage}"), |b| {
                let downsample = match stage.checked_sub(1).map(|before| c.channels[before]) {
                    None => None,
                    Some(before) => Some(b.scope("downsample", |b| {
                        let patches = Convolution::patches(before, channels, 2).truncated_normal();
                        let names = [b.path("0"), b.path("1")];
                        Ok(Downsample { names, norm: b.layer_norm("0", before, EPS)?, conv: b.conv("1", patches)? })
                    })?),
                };
                let blocks = (0..c.depths[stage])
                    .zip(&mut rates)
                    .map(|(i, rate)| b.scope(&format!("blocks.{i}"), |b| Block::build(b, channels, rate)))
                    .collect::<Result<_>>()?;
                Ok(Stage { name: b.path(""), downsample, blocks })
            })?);
        }
        Ok(Self { stem, stages })
    }

    fn forward(
        &self,
        e: &E,
        image: &E::Map,
        tap: &mut dyn Tap<E>,
        mut each: impl FnMut(usize, &E::Map) -> Result<()>,
    ) -> Result<E::Map> {
        let patches = tap.pass("stem.0", e.conv(image, &self.stem.0, Activation::None)?)?;
        let mut x = tap.pass("stem", e.layer_norm(&patches, &self.stem.1)?)?;
        for (i, stage) in self.stages.iter().enumerate() {
            if let Some(Downsample { names, norm, conv }) = &stage.downsample {
                x = tap.pass(&names[0], e.layer_norm(&x, norm)?)?;
                x = tap.pass(&names[1], e.conv(&x, conv, Activation::None)?)?;
            }
            for block in &stage.blocks {
                x = block.forward(e, x, tap)?;
            }
            x = tap.pass(&stage.name, x)?;
            each(i, &x)?;
        }
        Ok(x)
    }
}

/// A trunk with timm's classifier: mean over tokens, norm, linear.
struct Classifier<E: Executor> {
    trunk: Trunk<E>,
    norm: E::Norm,
    fc: E::Linear,
}

impl<E: Executor> Model<E> for Classifier<E> {
    fn forward(&self, e: &E, image: E::Map, tap: &mut dyn Tap<E>) -> Result<Output<E::Map>> {
        let x = self.trunk.forward(e, &image, tap, |_, _| Ok(()))?;
        let features = tap.pass("head.norm", e.layer_norm(&e.mean_tokens(&x)?, &self.norm)?)?;
        let features = tap.pass("features", features)?;
        Ok(Output::Logits(e.linear(&features, &self.fc, Activation::None)?))
    }
}

/// A trunk with a norm on each stage, as ConvNeXt's detection and segmentation code has it.
struct Dense<E: Executor> {
    trunk: Trunk<E>,
    pyramid: Pyramid<E>,
}

impl<E: Executor> Model<E> for Dense<E> {
    fn forward(&self, e: &E, image: E::Map, tap: &mut dyn Tap<E>) -> Result<Output<E::Map>> {
        let mut levels = Vec::with_capacity(4);
        self.trunk.forward(e, &image, tap, |stage, map| {
            levels.push(self.pyramid.level(e, stage, map)?);
            Ok(())
        })?;
        Ok(Output::Pyramid(levels))
    }
}

/// Prepares the model of `config` for an executor.
///
/// # Errors
/// Those of the source and of the executor.
pub fn build<E: Executor + 'static>(b: &mut Builder<E>, config: &Config, task: Task) -> Result<Box<dyn Model<E>>> {
    let trunk = Trunk::build(b, config)?;
    let width = config.channels[3];
    match task {
        Task::Classify { classes } => b.scope("head", |b| {
            let (norm, fc) = (b.layer_norm("norm", width, EPS)?, b.linear("fc", width, classes)?);
            Ok(Box::new(Classifier { trunk, norm, fc }) as Box<dyn Model<E>>)
        }),
        Task::Pyramid => Ok(Box::new(Dense { trunk, pyramid: Pyramid::build(b, &config.channels, EPS)? })),
    }
}
