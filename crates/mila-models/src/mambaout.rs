//! MambaOut: "MambaOut: Do We Really Need Mamba for Vision?" (arXiv 2405.07992), with timm's parameter names.
//!
//! Mamba's block without its recurrence, the gated CNN block: `x + fc2(gelu(g) * [i | conv(c)])`, `[g | i | c] =
//! fc1(norm(x))`, where a 7x7 depthwise convolution sees as many channels as the block has and the rest of the hidden ones
//! pass by it. Field names are those of the official code, at yuweihao/MambaOut commit 9f2f234, which timm shares.

use mila_ops::{
    Activation, Builder, Convolution, DropPath, Executor, GatedConv, Mechanism, NormedLinear, Residual, Result, Tap,
};

use crate::model::{Model, Output, Task, drop_path_rates};
use crate::pyramid::Pyramid;
use crate::registry::{Architecture, Preprocessing, Preset, Published};

/// Eps of every layer norm.
const EPS: f64 = 1e-6;
/// Hidden channels of the head per channel.
const HEAD_RATIO: usize = 4;

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
    /// MambaOut-Tiny.
    pub const T: Self = Self { channels: [96, 192, 384, 576], depths: [3, 3, 9, 3], drop_path: 0.2 };
    /// MambaOut-Small.
    pub const S: Self = Self { channels: [96, 192, 384, 576], depths: [3, 4, 27, 3], drop_path: 0.4 };
    /// MambaOut-Base.
    pub const B: Self = Self { channels: [128, 256, 512, 768], depths: [3, 4, 27, 3], drop_path: 0.6 };
}

/// The registered models; published numbers as the paper prints them.
pub(crate) const PRESETS: &[Preset] = &[
    preset("mambaout-t", &["mambaout-tiny"], "MambaOut tiny, timm's mambaout_tiny", Config::T, "27M", "4.5G", 82.7),
    preset("mambaout-s", &["mambaout-small"], "MambaOut small, timm's mambaout_small", Config::S, "48M", "9.0G", 84.1),
    preset("mambaout-b", &["mambaout-base"], "MambaOut base, timm's mambaout_base", Config::B, "85M", "15.8G", 84.2),
];

const fn preset(
    name: &'static str,
    aliases: &'static [&'static str],
    about: &'static str,
    config: Config,
    parameters: &'static str,
    macs: &'static str,
    top1: f32,
) -> Preset {
    let published = Published { parameters, macs, images_per_s: None, top1 };
    Preset {
        preprocessing: Preprocessing { crop_pct: 1.0, ..Preprocessing::IMAGENET },
        ..Preset::imagenet(name, aliases, about, "arXiv 2405.07992", Architecture::MambaOut(config), published)
    }
}

/// The gated CNN block.
struct Block<E: Executor> {
    name: String,
    mixer: GatedConv<E>,
    drop_path: Option<DropPath>,
}

impl<E: Executor> Block<E> {
    fn build(b: &mut Builder<E>, channels: usize, drop_path: f32) -> Result<Self> {
        // int(8 / 3 * channels) upstream.
        let hidden = 8 * channels / 3;
        let mixer = GatedConv {
            input_name: b.path("fc1"),
            conv_name: b.path("conv"),
            name: b.path("fc2"),
            input: NormedLinear::build(b, ("norm", EPS), "fc1", channels, 2 * hidden)?,
            hidden,
            convolved: channels,
            conv: b.conv("conv", Convolution::depthwise(channels, 7).truncated_normal())?,
            fc2: b.linear("fc2", hidden, channels)?,
            activation: Activation::Gelu,
        };
        Ok(Self { name: b.path(""), mixer, drop_path: b.drop_path("fc2", drop_path) })
    }

    fn forward(&self, e: &E, x: E::Map, tap: &mut dyn Tap<E>) -> Result<E::Map> {
        let add = Residual { drop_path: self.drop_path, ..Residual::onto_input() };
        tap.mechanism(&self.mixer.conv_name, Mechanism::Local)?;
        let x = e.gated_conv(x, &self.mixer, add, tap)?;
        tap.pass(&self.name, x)
    }
}

/// A 3x3 convolution that halves the extent, and the norm after it.
struct Halving<E: Executor> {
    names: [String; 2],
    conv: E::Conv,
    norm: E::Norm,
}

impl<E: Executor> Halving<E> {
    fn build(b: &mut Builder<E>, [conv, norm]: [&str; 2], inputs: usize, outputs: usize) -> Result<Self> {
        let names = [b.path(conv), b.path(norm)];
        let halving = Convolution::new(inputs, outputs, 3).stride(2).truncated_normal();
        Ok(Self { names, conv: b.conv(conv, halving)?, norm: b.layer_norm(norm, outputs, EPS)? })
    }

    fn forward(&self, e: &E, x: &E::Map, tap: &mut dyn Tap<E>) -> Result<E::Map> {
        let y = tap.pass(&self.names[0], e.conv(x, &self.conv, Activation::None)?)?;
        tap.pass(&self.names[1], e.layer_norm(&y, &self.norm)?)
    }
}

struct Stage<E: Executor> {
    name: String,
    downsample: Option<Halving<E>>,
    blocks: Vec<Block<E>>,
}

/// Stem and stages.
struct Trunk<E: Executor> {
    stem: [Halving<E>; 2],
    stages: Vec<Stage<E>>,
}

impl<E: Executor> Trunk<E> {
    fn build(b: &mut Builder<E>, c: &Config) -> Result<Self> {
        let half = c.channels[0] / 2;
        let stem = b.scope("stem", |b| {
            let first = Halving::build(b, ["conv1", "norm1"], 3, half)?;
            Ok([first, Halving::build(b, ["conv2", "norm2"], half, c.channels[0])?])
        })?;
        let mut rates = drop_path_rates(c.drop_path, c.depths.iter().sum());
        let mut stages = Vec::with_capacity(4);
        for stage in 0..4 {
            let channels = c.channels[stage];
            stages.push(b.scope(&format!("stages.{stage}"), |b| {
                let halving = |before| {
                    b.scope("downsample", |b| Halving::build(b, ["conv", "norm"], c.channels[before], channels))
                };
                let downsample = stage.checked_sub(1).map(halving).transpose()?;
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
        let [first, second] = &self.stem;
        let x = e.activate(first.forward(e, image, tap)?, Activation::Gelu)?;
        let x = second.forward(e, &x, tap)?;
        let mut x = tap.pass("stem", x)?;
        for (i, stage) in self.stages.iter().enumerate() {
            if let Some(halving) = &stage.downsample {
                x = halving.forward(e, &x, tap)?;
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

/// A trunk with the released classifier: mean over tokens, norm, and an MLP whose hidden layer is normed too.
struct Classifier<E: Executor> {
    trunk: Trunk<E>,
    norm: E::Norm,
    pre_logits: (E::Linear, E::Norm),
    fc: E::Linear,
}

impl<E: Executor> Model<E> for Classifier<E> {
    fn forward(&self, e: &E, image: E::Map, tap: &mut dyn Tap<E>) -> Result<Output<E::Map>> {
        let x = self.trunk.forward(e, &image, tap, |_, _| Ok(()))?;
        let features = tap.pass("head.norm", e.layer_norm(&e.mean_tokens(&x)?, &self.norm)?)?;
        let features = tap.pass("features", features)?;
        let (fc, norm) = &self.pre_logits;
        let hidden = e.linear(&features, fc, Activation::Gelu)?;
        let hidden = tap.pass("head.pre_logits", e.layer_norm(&hidden, norm)?)?;
        Ok(Output::Logits(e.linear(&hidden, &self.fc, Activation::None)?))
    }
}

/// A trunk with a norm on each stage. No dense code of the authors is public: this is ConvNeXt's way, not theirs.
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
            let norm = b.layer_norm("norm", width, EPS)?;
            let hidden = HEAD_RATIO * width;
            let pre_logits =
                b.scope("pre_logits", |b| Ok((b.linear("fc", width, hidden)?, b.layer_norm("norm", hidden, EPS)?)))?;
            let fc = b.linear("fc", hidden, classes)?;
            Ok(Box::new(Classifier { trunk, norm, pre_logits, fc }) as Box<dyn Model<E>>)
        }),
        Task::Pyramid => Ok(Box::new(Dense { trunk, pyramid: Pyramid::build(b, &config.channels, EPS)? })),
    }
}
