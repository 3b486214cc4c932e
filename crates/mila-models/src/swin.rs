//! Swin Transformer: "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows" (arXiv 2103.14030), with timm's
//! parameter names, whose mergings stand at the start of a stage.
//!
//! Softmax attention within windows of 7x7 tokens, whose borders every other block shifts by 3, followed by an MLP; patches of
//! 4x4 pixels as stem, and 2x2 tokens side by side, normed and projected, between stages. [`mila_ops::Windows`] says what a
//! window is at any size.

use mila_ops::{
    Activation, Builder, Convolution, DropPath, Executor, Init, LAYER_NORM_EPS, Mechanism, Mlp, NormedLinear,
    PatchOrder, Residual, Result, Tap, Windows,
};

use crate::model::{Model, Output, Task, drop_path_rates};
use crate::pyramid::Pyramid;
use crate::registry::{Architecture, Preprocessing, Preset, Published};

/// Pixels on a side of a patch.
const PATCH: usize = 4;
/// Tokens on a side of a window.
const WINDOW: usize = 7;
/// Hidden channels of the MLP per channel.
const RATIO: usize = 4;
/// Deviation that tables of biases start with.
const TABLE_STD: f32 = 0.02;

/// Sizes of one variant.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Config {
    /// Channels of the first stage; each stage doubles them.
    pub channels: usize,
    /// Blocks of each stage.
    pub depths: [usize; 4],
    /// Heads of each stage.
    pub heads: [usize; 4],
    /// Drop-path rate of the last block.
    pub drop_path: f32,
}

impl Config {
    /// Swin-T, section 3.3 of the paper.
    pub const T: Self = Self { channels: 96, depths: [2, 2, 6, 2], heads: [3, 6, 12, 24], drop_path: 0.2 };
    /// Swin-S.
    pub const S: Self = Self { channels: 96, depths: [2, 2, 18, 2], heads: [3, 6, 12, 24], drop_path: 0.3 };
    /// Swin-B.
    pub const B: Self = Self { channels: 128, depths: [2, 2, 18, 2], heads: [4, 8, 16, 32], drop_path: 0.5 };
}

/// The registered models; published numbers as the authors' repository prints them.
pub(crate) const PRESETS: &[Preset] = &[
    preset(
        "swin-t",
        &["swin-tiny", "swin-tiny-patch4-window7-224"],
        "Swin tiny, timm's swin_tiny_patch4_window7_224",
        Config::T,
        Published { parameters: "29M", macs: "4.5G", images_per_s: None, top1: 81.3 },
    ),
    preset(
        "swin-s",
        &["swin-small", "swin-small-patch4-window7-224"],
        "Swin small, timm's swin_small_patch4_window7_224",
        Config::S,
        Published { parameters: "50M", macs: "8.8G", images_per_s: None, top1: 83.2 },
    ),
    preset(
        "swin-b",
        &["swin-base", "swin-base-patch4-window7-224"],
        "Swin base, timm's swin_base_patch4_window7_224",
        Config::B,
        Published { parameters: "88M", macs: "15.5G", images_per_s: None, top1: 83.5 },
    ),
];

const fn preset(
    name: &'static str,
    aliases: &'static [&'static str],
    about: &'static str,
    config: Config,
    published: Published,
) -> Preset {
    Preset {
        preprocessing: Preprocessing { crop_pct: 0.9, ..Preprocessing::IMAGENET },
        ..Preset::imagenet(name, aliases, about, "arXiv 2103.14030", Architecture::Swin(config), published)
    }
}

/// The tap names of a block: parameter paths.
struct Names {
    qkv: String,
    attention: String,
    proj: String,
    block: String,
}

/// Attention within windows, then an MLP.
struct Block<E: Executor> {
    names: Names,
    windows: Windows,
    heads: usize,
    qkv: NormedLinear<E>,
    table: E::Parameter,
    proj: E::Linear,
    mlp: Mlp<E>,
    drop_attention: Option<DropPath>,
    drop_mlp: Option<DropPath>,
}

impl<E: Executor> Block<E> {
    fn build(b: &mut Builder<E>, channels: usize, heads: usize, shift: usize, drop_path: f32) -> Result<Self> {
        let windows = Windows { side: WINDOW, shift };
        let names =
            Names { qkv: b.path("attn.qkv"), attention: b.path("attn"), proj: b.path("attn.proj"), block: b.path("") };
        // In the order of the checkpoints.
        let norm = b.layer_norm("norm1", channels, LAYER_NORM_EPS)?;
        let (name, init) = ("attn.relative_position_bias_table", Init::TruncatedNormal { std: TABLE_STD });
        let table = b.undecayed_parameter(name, &[windows.offsets(), heads], init)?;
        let qkv = b.linear("attn.qkv", channels, 3 * channels)?;
        Ok(Self {
            names,
            windows,
            heads,
            qkv: NormedLinear { norm_name: b.path("norm1"), norm, linear: qkv },
            table,
            proj: b.linear("attn.proj", channels, channels)?,
            mlp: Mlp::build(b, "norm2", LAYER_NORM_EPS, channels, RATIO * channels)?,
            drop_attention: b.drop_path("attn", drop_path),
            drop_mlp: b.drop_path("mlp", drop_path),
        })
    }

    fn forward(&self, e: &E, x: E::Map, tap: &mut dyn Tap<E>) -> Result<E::Map> {
        let qkv = e.normed_linear(&x, &self.qkv, tap)?;
        let qkv = tap.pass(&self.names.qkv, qkv)?;
        tap.mechanism(&self.names.attention, Mechanism::Local)?;
        let mixed = e.window_attention(&qkv, &self.table, self.heads, self.windows)?;
        drop(qkv);
        let mixed = tap.pass(&self.names.attention, mixed)?;
        let add = Residual { drop_path: self.drop_attention, ..Residual::onto(x) };
        let x = tap.pass(&self.names.proj, e.linear_residual(mixed, &self.proj, add)?)?;
        let add = Residual { drop_path: self.drop_mlp, ..Residual::onto_input() };
        let x = e.mlp(x, &self.mlp, add, tap)?;
        tap.pass(&self.names.block, x)
    }
}

/// Patch merging: four tokens side by side, a norm, half as many channels.
struct Merging<E: Executor> {
    name: String,
    norm: E::Norm,
    reduction: E::Linear,
}

impl<E: Executor> Merging<E> {
    fn build(b: &mut Builder<E>, channels: usize) -> Result<Self> {
        let norm = b.layer_norm("norm", 4 * channels, LAYER_NORM_EPS)?;
        let reduction = b.linear_without_bias("reduction", 4 * channels, 2 * channels)?;
        Ok(Self { name: b.path(""), norm, reduction })
    }

    fn forward(&self, e: &E, x: E::Map, tap: &mut dyn Tap<E>) -> Result<E::Map> {
        let patches = e.patches(e.pad_to_multiple(x, 2)?, PatchOrder::Tokens)?;
        let merged = e.layer_norm(&patches, &self.norm)?;
        tap.pass(&self.name, e.linear(&merged, &self.reduction, Activation::None)?)
    }
}

struct Stage<E: Executor> {
    name: String,
    downsample: Option<Merging<E>>,
    blocks: Vec<Block<E>>,
}

/// Stem and stages.
struct Trunk<E: Executor> {
    proj: E::Conv,
    norm: E::Norm,
    stages: Vec<Stage<E>>,
}

impl<E: Executor> Trunk<E> {
    fn build(b: &mut Builder<E>, c: &Config) -> Result<Self> {
        let (proj, norm) = b.scope("patch_embed", |b| {
            let proj = b.conv("proj", Convolution::patches(3, c.channels, PATCH))?;
            Ok((proj, b.layer_norm("norm", c.channels, LAYER_NORM_EPS)?))
        })?;
        let mut rates = drop_path_rates(c.drop_path, c.depths.iter().sum());
        let mut stages = Vec::with_capacity(4);
        for stage in 0..4 {
            let channels = c.channels << stage;
            stages.push(b.scope(&format!("layers.{stage}"), |b| {
                let downsample = match stage {
                    0 => None,
                    _ => Some(b.scope("downsample", |b| Merging::build(b, channels / 2))?),
                };
                let blocks = (0..c.depths[stage])
                    .zip(&mut rates)
                    .map(|(i, rate)| {
                        let shift = if i % 2 == 0 { 0 } else { WINDOW / 2 };
                        b.scope(&format!("blocks.{i}"), |b| Block::build(b, channels, c.heads[stage], shift, rate))
                    })
                    .collect::<Result<_>>()?;
                Ok(Stage { name: b.path(""), downsample, blocks })
            })?);
        }
        Ok(Self { proj, norm, stages })
    }

    fn forward(
        &self,
        e: &E,
        image: &E::Map,
        tap: &mut dyn Tap<E>,
        mut each: impl FnMut(usize, &E::Map) -> Result<()>,
    ) -> Result<E::Map> {
        let patches = tap.pass("patch_embed.proj", e.conv(image, &self.proj, Activation::None)?)?;
        let mut x = tap.pass("patch_embed", e.layer_norm(&patches, &self.norm)?)?;
        for (i, stage) in self.stages.iter().enumerate() {
            if let Some(merging) = &stage.downsample {
                x = merging.forward(e, x, tap)?;
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

/// A trunk with the released classifier: norm, mean over tokens, linear.
struct Classifier<E: Executor> {
    trunk: Trunk<E>,
    norm: E::Norm,
    fc: E::Linear,
}

impl<E: Executor> Model<E> for Classifier<E> {
    fn forward(&self, e: &E, image: E::Map, tap: &mut dyn Tap<E>) -> Result<Output<E::Map>> {
        let x = self.trunk.forward(e, &image, tap, |_, _| Ok(()))?;
        let x = tap.pass("norm", e.layer_norm(&x, &self.norm)?)?;
        let features = tap.pass("features", e.mean_tokens(&x)?)?;
        Ok(Output::Logits(e.linear(&features, &self.fc, Activation::None)?))
    }
}

/// A trunk with a norm on each stage, whose stem takes partial patches too, as the authors' dense code does.
struct Dense<E: Executor> {
    trunk: Trunk<E>,
    pyramid: Pyramid<E>,
}

impl<E: Executor> Model<E> for Dense<E> {
    fn forward(&self, e: &E, image: E::Map, tap: &mut dyn Tap<E>) -> Result<Output<E::Map>> {
        let image = e.pad_to_multiple(image, PATCH)?;
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
    let channels: Vec<usize> = (0..4).map(|stage| config.channels << stage).collect();
    match task {
        Task::Classify { classes } => {
            let norm = b.layer_norm("norm", channels[3], LAYER_NORM_EPS)?;
            let fc = b.scope("head", |b| b.linear("fc", channels[3], classes))?;
            Ok(Box::new(Classifier { trunk, norm, fc }))
        }
        Task::Pyramid => Ok(Box::new(Dense { trunk, pyramid: Pyramid::build(b, &channels, LAYER_NORM_EPS)? })),
    }
}
