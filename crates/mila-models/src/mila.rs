//! MILA, first called MLLA: "Demystify Mamba in Vision: A Linear Attention Perspective" (arXiv 2405.16605).
//!
//! Linear attention with rotary positions inside Mamba's block design, followed by an MLP; a convolutional stem and
//! convolutional mergings. Field names are those of the official code, at LeapLabTHU/MLLA commit 66b6d29.
//!
//! Official code and this file differ in one thing: height and width travel with the map, so any size works. The
//! official classifier takes square multiples of 32 only; there the numbers are its own. At other sizes [`Padding`]
//! says what happens at the lower and right border.

use mila_ops::{
    Activation, Bottleneck, Builder, Convolution, DropPath, Error, Executor, FusedBottleneck, GatedInput,
    LAYER_NORM_EPS, LinearAttention, Mechanism, Mlp, Residual, Result, Tap,
};

use crate::model::{MOST_STAGES, Model, Output, Task, drop_path_rates};
use crate::pyramid::Pyramid;
use crate::registry::{Architecture, Preprocessing, Preset, Published};

/// Hidden channels of the MLP per channel, and of stem and merging per output channel.
const RATIO: usize = 4;

/// Sizes of one variant.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Config {
    /// Channels of the first stage; each stage doubles them.
    pub channels: usize,
    /// Blocks of each stage.
    pub depths: &'static [usize],
    /// Heads of each stage.
    pub heads: &'static [usize],
    /// Pixels per token of the first stage: 4 as released, or 2 for small images.
    pub stem_stride: usize,
    /// Drop-path rate of the last block; the rates rise linearly from zero.
    pub drop_path: f32,
}

impl Config {
    /// Table 8 of the paper and `cfgs/mlla_t.yaml`.
    pub const T: Self = Self::released(64, &[2, 4, 8, 4], &[2, 4, 8, 16], 0.2);
    /// `cfgs/mlla_s.yaml`.
    pub const S: Self = Self::released(64, &[3, 6, 21, 6], &[2, 4, 8, 16], 0.3);
    /// `cfgs/mlla_b.yaml`.
    pub const B: Self = Self::released(96, &[3, 6, 21, 6], &[3, 6, 12, 24], 0.5);
    /// For images of 32x32 pixels; ours, not the paper's.
    pub const NANO: Self =
        Self { channels: 32, depths: &[1, 1, 1], heads: &[2, 4, 8], stem_stride: 2, drop_path: 0.05 };

    const fn released(channels: usize, depths: &'static [usize], heads: &'static [usize], drop_path: f32) -> Self {
        Self { channels, depths, heads, stem_stride: 4, drop_path }
    }

    /// Channels of each stage.
    pub fn stage_channels(&self) -> Vec<usize> {
        (0..self.depths.len()).map(|stage| self.channels << stage).collect()
    }

    /// What a trunk takes for granted.
    fn check(&self) -> Result<()> {
        let unsupported = |what: String, why: &str| Err(Error::Unsupported { what, why: why.into() });
        let (stages, heads) = (self.depths.len(), self.heads.len());
        if !(1..=MOST_STAGES).contains(&stages) || heads != stages {
            let what = format!("MILA of {stages} stages with heads for {heads}");
            return unsupported(what, &format!("there are 1 to {MOST_STAGES} stages, and every stage has its heads"));
        }
        if !matches!(self.stem_stride, 2 | 4) {
            let what = format!("a stem stride of {}", self.stem_stride);
            return unsupported(what, "the stem halves the image once or twice");
        }
        Ok(())
    }
}

const PAPER: &str = "arXiv 2405.16605";

/// The registered models.
pub(crate) const PRESETS: &[Preset] = &[
    Preset {
        name: "mila-nano",
        aliases: &[],
        about: "MILA for 32x32 images",
        paper: PAPER,
        architecture: Architecture::Mila(Config::NANO),
        classes: 10,
        preprocessing: Preprocessing::SMALL,
        published: None,
    },
    Preset::imagenet(
        "mila-t",
        &["mlla-tiny"],
        "MILA tiny (released as MLLA-T)",
        PAPER,
        Architecture::Mila(Config::T),
        Published { parameters: "25M", macs: "4.2G", images_per_s: None, top1: 83.5 },
    ),
    Preset::imagenet(
        "mila-s",
        &["mlla-small"],
        "MILA small (released as MLLA-S)",
        PAPER,
        Architecture::Mila(Config::S),
        Published { parameters: "43M", macs: "7.3G", images_per_s: None, top1: 84.4 },
    ),
    Preset::imagenet(
        "mila-b",
        &["mlla-base"],
        "MILA base (released as MLLA-B)",
        PAPER,
        Architecture::Mila(Config::B),
        Published { parameters: "96M", macs: "16.2G", images_per_s: None, top1: 85.3 },
    ),
];

/// How a map whose extent does not divide is completed; the two differ only there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Padding {
    /// By the strided convolutions' own padding, as the official classifier would.
    Convolution,
    /// By zeros below and to the right of the stem's and each merging's input, as the official dense code does.
    First,
}

/// The tap names of a block: the parameter paths of the layers whose result, with the activation or the residual that
/// the executor fuses to it, they name.
struct Names {
    cpe1: String,
    in_proj: String,
    act_proj: String,
    dwc: String,
    qk: String,
    attention: String,
    out_proj: String,
    cpe2: String,
    block: String,
}

impl Names {
    fn of<E: Executor>(b: &Builder<E>) -> Self {
        Self {
            cpe1: b.path("cpe1"),
            in_proj: b.path("in_proj"),
            act_proj: b.path("act_proj"),
            dwc: b.path("dwc"),
            qk: b.path("attn.qk"),
            attention: b.path("attn"),
            out_proj: b.path("out_proj"),
            cpe2: b.path("cpe2"),
            block: b.path(""),
        }
    }
}

/// Linear attention inside Mamba's block design, followed by an MLP (section 5.3, Figure 3).
pub struct Block<E: Executor> {
    names: Names,
    attention: LinearAttention,
    cpe1: E::Conv,
    input: GatedInput<E>,
    dwc: E::Conv,
    qk: E::Linear,
    lepe: E::Conv,
    out_proj: E::Linear,
    cpe2: E::Conv,
    mlp: Mlp<E>,
    drop_attention: Option<DropPath>,
    drop_mlp: Option<DropPath>,
}

impl<E: Executor> Block<E> {
    /// Asks for the parameters of a block of `dim` channels.
    ///
    /// # Errors
    /// [`Error::Shape`] unless `dim` is a multiple of 4 and of `heads`; those of the source and of the executor.
    pub fn build(b: &mut Builder<E>, dim: usize, heads: usize, drop_path: f32) -> Result<Self> {
        let attention = LinearAttention::mila(heads);
        mila_ops::shape::attention(2 * dim, dim, attention)?;
        let depthwise = Convolution::depthwise(dim, 3);
        let cpe1 = b.conv("cpe1", depthwise)?;
        let norm = b.layer_norm("norm1", dim, LAYER_NORM_EPS)?;
        let inner = b.linear("in_proj", dim, dim)?;
        let gate = b.linear("act_proj", dim, dim)?;
        Ok(Self {
            names: Names::of(b),
            attention,
            cpe1,
            input: GatedInput { norm_name: b.path("norm1"), norm, gate, inner },
            dwc: b.conv("dwc", depthwise)?,
            qk: b.scope("attn", |b| b.linear("qk", dim, 2 * dim))?,
            lepe: b.scope("attn", |b| b.conv("lepe", depthwise))?,
            out_proj: b.linear("out_proj", dim, dim)?,
            cpe2: b.conv("cpe2", depthwise)?,
            mlp: Mlp::build(b, "norm2", LAYER_NORM_EPS, dim, RATIO * dim)?,
            drop_attention: b.drop_path("attn", drop_path),
            drop_mlp: b.drop_path("mlp", drop_path),
        })
    }

    /// `[batch, height, width, dim]` to the same extent.
    ///
    /// # Errors
    /// Those of the operators and of the tap.
    pub fn forward(&self, e: &E, x: E::Map, tap: &mut dyn Tap<E>) -> Result<E::Map> {
        let x = tap.pass(&self.names.cpe1, e.conv_residual(x, &self.cpe1, Residual::onto_input())?)?;

        let (gate, inner) = e.gated_input(&x, &self.input, tap)?;
        let gate = tap.pass(&self.names.act_proj, gate)?;
        let inner = tap.pass(&self.names.in_proj, inner)?;
        let value = tap.pass(&self.names.dwc, e.conv(&inner, &self.dwc, Activation::Silu)?)?;
        // Maps of a large image are hundreds of megabytes: none lives longer than it is needed.
        drop(inner);
        let mixed = self.attention(e, value, tap)?;
        let add = Residual { drop_path: self.drop_attention, ..Residual::onto(x) };
        let x = tap.pass(&self.names.out_proj, e.gated_output(mixed, &gate, &self.out_proj, add)?)?;

        let x = tap.pass(&self.names.cpe2, e.conv_residual(x, &self.cpe2, Residual::onto_input())?)?;
        let add = Residual { drop_path: self.drop_mlp, ..Residual::onto_input() };
        let x = e.mlp(x, &self.mlp, add, tap)?;
        tap.pass(&self.names.block, x)
    }

    /// Linear attention plus the local positional encoding; the value is not projected.
    fn attention(&self, e: &E, v: E::Map, tap: &mut dyn Tap<E>) -> Result<E::Map> {
        let qk = tap.pass(&self.names.qk, e.linear(&v, &self.qk, Activation::None)?)?;
        tap.mechanism(&self.names.attention, Mechanism::LinearAttention { qk: &qk, form: self.attention })?;
        let global = e.linear_attention(&qk, &v, self.attention)?;
        drop(qk);
        let mixed = e.conv_residual(v, &self.lepe, Residual::onto(global))?;
        tap.pass(&self.names.attention, mixed)
    }
}

/// A convolution with a tap name of its own.
struct Named<E: Executor> {
    name: String,
    conv: E::Conv,
}

impl<E: Executor> Named<E> {
    /// A convolution under `{name}.conv`.
    fn build(b: &mut Builder<E>, name: &str, conv: Convolution) -> Result<Self> {
        b.scope(name, |b| Ok(Self { name: b.path(""), conv: b.conv("conv", conv)? }))
    }

    /// One without bias, with its batch norm under `{name}.norm`.
    fn normed(b: &mut Builder<E>, name: &str, conv: Convolution) -> Result<Self> {
        Self::build(b, name, conv.no_bias().batch_norm("norm"))
    }

    fn forward(&self, e: &E, x: &E::Map, then: Activation, tap: &mut dyn Tap<E>) -> Result<E::Map> {
        tap.pass(&self.name, e.conv(x, &self.conv, then)?)
    }
}

/// `patch_embed`: five convolutions with batch norm, the middle two with a residual.
struct Stem<E: Executor> {
    conv1: Named<E>,
    conv2: [Named<E>; 2],
    conv3: FusedBottleneck<E>,
}

impl<E: Executor> Stem<E> {
    fn build(b: &mut Builder<E>, c: &Config) -> Result<Self> {
        let half = c.channels / 2;
        let same = Convolution::new(half, half, 3);
        let widen = Convolution::new(half, RATIO * c.channels, 3).stride(c.stem_stride / 2);
        let conv1 = Named::normed(b, "conv1", Convolution::new(3, half, 3).stride(2))?;
        let conv2 = [Named::normed(b, "conv2.0", same)?, Named::normed(b, "conv2.1", same)?];
        let expand = Named::normed(b, "conv3.0", widen)?;
        let project = Named::normed(b, "conv3.1", Convolution::new(RATIO * c.channels, c.channels, 1))?;
        let names = [expand.name, project.name];
        let conv3 = FusedBottleneck { names, expand: expand.conv, project: project.conv, activation: Activation::Relu };
        Ok(Self { conv1, conv2, conv3 })
    }

    fn forward(&self, e: &E, image: &E::Map, tap: &mut dyn Tap<E>) -> Result<E::Map> {
        let x = self.conv1.forward(e, image, Activation::Relu, tap)?;
        let y = self.conv2[0].forward(e, &x, Activation::Relu, tap)?;
        let x = tap.pass(&self.conv2[1].name, e.conv_residual(y, &self.conv2[1].conv, Residual::onto(x))?)?;
        e.fused_bottleneck(&x, &self.conv3, tap)
    }
}

/// Halves the extent and doubles the channels, through a hidden map of eight times the channels.
fn merging<E: Executor>(b: &mut Builder<E>, channels: usize) -> Result<Bottleneck<E>> {
    let (outputs, hidden) = (2 * channels, 2 * RATIO * channels);
    let conv = |b: &mut Builder<E>, name, conv| b.scope(name, |b| Ok((b.path(""), b.conv("conv", conv)?)));
    b.scope("downsample", |b| {
        let (expand_name, expand) = conv(b, "conv.0", Convolution::new(channels, hidden, 1))?;
        let (spatial_name, spatial) = conv(b, "conv.1", Convolution::depthwise(hidden, 3).stride(2))?;
        let (project_name, project) = conv(b, "conv.2", Convolution::new(hidden, outputs, 1).batch_norm("norm"))?;
        let names = [expand_name, spatial_name, project_name];
        Ok(Bottleneck { names, expand, spatial, project, activation: Activation::Relu })
    })
}

/// Blocks of one resolution, and the way to the next.
struct Stage<E: Executor> {
    name: String,
    blocks: Vec<Block<E>>,
    downsample: Option<Bottleneck<E>>,
}

/// Stem and stages.
pub struct Trunk<E: Executor> {
    padding: Padding,
    stem_stride: usize,
    stem: Stem<E>,
    stages: Vec<Stage<E>>,
}

impl<E: Executor> Trunk<E> {
    /// Asks for `patch_embed.*` and `layers.*`.
    ///
    /// # Errors
    /// [`Error::Unsupported`] without a stage, for other heads than one number a stage, and for a stem stride other than 2 and 4;
    /// those of [`Block::build`].
    pub fn build(b: &mut Builder<E>, c: &Config, padding: Padding) -> Result<Self> {
        c.check()?;
        let stem = b.scope("patch_embed", |b| Stem::build(b, c))?;
        let mut rates = drop_path_rates(c.drop_path, c.depths.iter().sum());
        let mut stages = Vec::with_capacity(c.depths.len());
        for (stage, channels) in c.stage_channels().into_iter().enumerate() {
            let last = stage + 1 == c.depths.len();
            stages.push(b.scope(&format!("layers.{stage}"), |b| {
                let blocks = (0..c.depths[stage])
                    .zip(&mut rates)
                    .map(|(i, rate)| {
                        b.scope(&format!("blocks.{i}"), |b| Block::build(b, channels, c.heads[stage], rate))
                    })
                    .collect::<Result<_>>()?;
                let downsample = if last { None } else { Some(merging(b, channels)?) };
                Ok(Stage { name: b.path(""), blocks, downsample })
            })?);
        }
        Ok(Self { padding, stem_stride: c.stem_stride, stem, stages })
    }

    /// Runs stem and stages. `each` sees every stage's output before its merging; the last one is returned too.
    ///
    /// # Errors
    /// Those of the operators, of the tap and of `each`.
    pub fn forward(
        &self,
        e: &E,
        image: E::Map,
        tap: &mut dyn Tap<E>,
        mut each: impl FnMut(usize, &E::Map) -> Result<()>,
    ) -> Result<E::Map> {
        let image = self.padded(e, image, self.stem_stride)?;
        let mut x = self.stem.forward(e, &image, tap)?;
        x = tap.pass("patch_embed", x)?;
        for (i, stage) in self.stages.iter().enumerate() {
            for block in &stage.blocks {
                x = block.forward(e, x, tap)?;
            }
            x = tap.pass(&stage.name, x)?;
            each(i, &x)?;
            if let Some(merging) = &stage.downsample {
                x = e.bottleneck(&self.padded(e, x, 2)?, merging, tap)?;
            }
        }
        Ok(x)
    }

    fn padded(&self, e: &E, x: E::Map, multiple: usize) -> Result<E::Map> {
        match self.padding {
            Padding::Convolution => Ok(x),
            Padding::First => e.pad_to_multiple(x, multiple),
        }
    }
}

/// A trunk with the released classifier: norm, mean over tokens, linear.
struct Classifier<E: Executor> {
    trunk: Trunk<E>,
    norm: E::Norm,
    head: E::Linear,
}

impl<E: Executor> Model<E> for Classifier<E> {
    fn forward(&self, e: &E, image: E::Map, tap: &mut dyn Tap<E>) -> Result<Output<E::Map>> {
        let x = self.trunk.forward(e, image, tap, |_, _| Ok(()))?;
        let x = tap.pass("norm", e.layer_norm(&x, &self.norm)?)?;
        let features = tap.pass("features", e.mean_tokens(&x)?)?;
        Ok(Output::Logits(e.linear(&features, &self.head, Activation::None)?))
    }
}

/// A trunk with a norm on each stage.
struct Dense<E: Executor> {
    trunk: Trunk<E>,
    pyramid: Pyramid<E>,
}

impl<E: Executor> Model<E> for Dense<E> {
    fn forward(&self, e: &E, image: E::Map, tap: &mut dyn Tap<E>) -> Result<Output<E::Map>> {
        let mut levels = Vec::with_capacity(self.trunk.stages.len());
        self.trunk.forward(e, image, tap, |stage, map| {
            levels.push(self.pyramid.level(e, stage, map)?);
            Ok(())
        })?;
        Ok(Output::Pyramid(levels))
    }
}

/// Prepares the model of `config` for an executor.
///
/// # Errors
/// Those of [`Trunk::build`].
pub fn build<E: Executor + 'static>(b: &mut Builder<E>, config: &Config, task: Task) -> Result<Box<dyn Model<E>>> {
    config.check()?;
    let channels = config.stage_channels();
    match task {
        Task::Classify { classes } => {
            let trunk = Trunk::build(b, config, Padding::Convolution)?;
            let width = channels.last().copied().unwrap_or(config.channels);
            let norm = b.layer_norm("norm", width, LAYER_NORM_EPS)?;
            Ok(Box::new(Classifier { trunk, norm, head: b.linear("head", width, classes)? }))
        }
        Task::Pyramid => {
            let pyramid = Pyramid::build(b, &channels, LAYER_NORM_EPS)?;
            Ok(Box::new(Dense { trunk: Trunk::build(b, config, Padding::First)?, pyramid }))
        }
    }
}
