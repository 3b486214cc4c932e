//! VMamba: "VMamba: Visual State Space Model" (arXiv 2401.10166), with the names of the released checkpoints, at
//! MzeroMiko/VMamba commit 2ed52ea.
//!
//! Four selective scans, by rows and by columns and both from the end, each with parameters of its own, are added up. Released
//! models of the second version (`v05_noz`) have one state a channel and an MLP in every block: `x += out_proj(norm(scans(
//! silu(dw(in_proj(norm(x)))))))`, `x += mlp(norm2(x))`. Those of the first version (`v0`) have sixteen states, no MLP, and a
//! gate: `x += out_proj(norm(scans(silu(dw(x')))) * silu(z))`, `[x' | z] = in_proj(norm(x))`.
//!
//! The released optimiser, which looks at ranks and names alone, lets `A_logs` and `dt_projs_bias` decay although the code
//! marks the former as exempt. Here neither decays.

use mila_ops::{
    Activation, Builder, CROSS_SCAN, Convolution, DropPath, Executor, GatedInput, Init, LAYER_NORM_EPS, Mechanism, Mlp,
    NormedLinear, PatchOrder, Residual, Result, Tap,
};

use crate::model::{Model, Output, Task, drop_path_rates};
use crate::pyramid::Pyramid;
use crate::registry::{Architecture, Preprocessing, Preset, Published};
use crate::selective_scan::{Rates, SelectiveScan, Sizes};

/// Hidden channels of the MLP per channel.
const MLP_RATIO: usize = 4;
/// What linear maps start from.
const LINEAR: Init = Init::TruncatedNormal { std: 0.02 };

/// Which design.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// Patches as stem and between stages, blocks with a gate and without an MLP.
    First,
    /// Convolutions as stem and between stages, blocks without a gate and with an MLP.
    Second,
}

/// Sizes of one variant.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Config {
    /// Which design.
    pub version: Version,
    /// Channels of the first stage; each stage doubles them.
    pub channels: usize,
    /// Blocks of each stage.
    pub depths: [usize; 4],
    /// Channels of the scans per channel of the block: `ssm_ratio`.
    pub ratio: usize,
    /// States of each of the scans' channels: `d_state`.
    pub states: usize,
    /// Drop-path rate of the last block.
    pub drop_path: f32,
}

impl Config {
    /// VMamba-T of the paper's tables: `vmambav2_tiny`, variant s2l5.
    pub const T: Self = Self::second(96, 5, 2, 0.2);
    /// VMamba-S: s2l15.
    pub const S: Self = Self::second(96, 15, 2, 0.3);
    /// VMamba-B: s2l15.
    pub const B: Self = Self::second(128, 15, 2, 0.6);
    /// The authors' newest VMamba-T, with narrower scans in more blocks: `vmambav2v_tiny`, s1l8.
    pub const T_S1L8: Self = Self::second(96, 8, 1, 0.2);
    /// The same of VMamba-S: s1l20.
    pub const S_S1L20: Self = Self::second(96, 20, 1, 0.3);
    /// The same of VMamba-B: s1l20.
    pub const B_S1L20: Self = Self::second(128, 20, 1, 0.5);

    /// VMamba-T of the first version: `vmambav0_tiny`.
    pub const V0_T: Self = Self::first(96, 9, 0.2);
    /// VMamba-S of the first version.
    pub const V0_S: Self = Self::first(96, 27, 0.3);
    /// VMamba-B of the first version.
    pub const V0_B: Self = Self::first(128, 27, 0.5);

    const fn second(channels: usize, depth: usize, ratio: usize, drop_path: f32) -> Self {
        Self { version: Version::Second, channels, depths: [2, 2, depth, 2], ratio, states: 1, drop_path }
    }

    const fn first(channels: usize, depth: usize, drop_path: f32) -> Self {
        Self { version: Version::First, channels, depths: [2, 2, depth, 2], ratio: 2, states: 16, drop_path }
    }

    /// Channels of each stage.
    pub fn stage_channels(&self) -> [usize; 4] {
        [0, 1, 2, 3].map(|stage| self.channels << stage)
    }
}

/// The registered models; published numbers as the authors' repository prints them.
pub(crate) const PRESETS: &[Preset] = &[
    preset(
        "vmamba-t",
        &["vmamba-tiny", "vmambav2-tiny", "vmamba-t-s2l5"],
        "VMamba tiny, vmambav2_tiny (s2l5)",
        Config::T,
        Some(Published { parameters: "31M", macs: "4.9G", images_per_s: None, top1: 82.5 }),
    ),
    preset(
        "vmamba-s",
        &["vmamba-small", "vmambav2-small", "vmamba-s-s2l15"],
        "VMamba small, vmambav2_small (s2l15)",
        Config::S,
        Some(Published { parameters: "50M", macs: "8.7G", images_per_s: None, top1: 83.6 }),
    ),
    preset(
        "vmamba-b",
        &["vmamba-base", "vmambav2-base", "vmamba-b-s2l15"],
        "VMamba base, vmambav2_base (s2l15)",
        Config::B,
        Some(Published { parameters: "89M", macs: "15.4G", images_per_s: None, top1: 83.9 }),
    ),
    preset(
        "vmamba-t-s1l8",
        &["vmambav2v-tiny"],
        "VMamba tiny with narrower scans in more blocks, vmambav2v_tiny",
        Config::T_S1L8,
        Some(Published { parameters: "30M", macs: "4.9G", images_per_s: None, top1: 82.6 }),
    ),
    preset(
        "vmamba-s-s1l20",
        &["vmambav2v-small"],
        "VMamba small with narrower scans in more blocks, vmambav2v_small",
        Config::S_S1L20,
        None,
    ),
    preset(
        "vmamba-b-s1l20",
        &["vmambav2v-base"],
        "VMamba base with narrower scans in more blocks, vmambav2v_base",
        Config::B_S1L20,
        None,
    ),
    preset(
        "vmamba-v0-t",
        &["vmambav0-tiny"],
        "VMamba tiny of the first version",
        Config::V0_T,
        Some(Published { parameters: "23M", macs: "5.6G", images_per_s: None, top1: 82.2 }),
    ),
    preset(
        "vmamba-v0-s",
        &["vmambav0-small"],
        "VMamba small of the first version",
        Config::V0_S,
        Some(Published { parameters: "44M", macs: "11.2G", images_per_s: None, top1: 83.5 }),
    ),
    preset("vmamba-v0-b", &["vmambav0-base"], "VMamba base of the first version", Config::V0_B, None),
];

const fn preset(
    name: &'static str,
    aliases: &'static [&'static str],
    about: &'static str,
    config: Config,
    published: Option<Published>,
) -> Preset {
    Preset {
        name,
        aliases,
        about,
        paper: "arXiv 2401.10166",
        architecture: Architecture::VMamba(config),
        classes: 1000,
        preprocessing: Preprocessing::IMAGENET,
        published,
    }
}

/// The tap names of a block: parameter paths.
struct Names {
    in_proj: String,
    conv: String,
    x_proj: String,
    scans: String,
    out_norm: String,
    out_proj: String,
    block: String,
}

/// The way into a block.
enum Input<E: Executor> {
    /// To the scans.
    Plain(NormedLinear<E>),
    /// To the scans, and to a gate on their result.
    Gated(GatedInput<E>),
}

/// Four scans, then an MLP.
struct Block<E: Executor> {
    names: Names,
    input: Input<E>,
    conv: E::Conv,
    x_proj: E::Linear,
    rates: Rates<E>,
    scans: Vec<SelectiveScan<E>>,
    out_norm: E::Norm,
    out_proj: E::Linear,
    mlp: Option<Mlp<E>>,
    drop_scans: Option<DropPath>,
    drop_mlp: Option<DropPath>,
}

impl<E: Executor> Block<E> {
    fn build(b: &mut Builder<E>, c: &Config, width: usize, drop_path: f32) -> Result<Self> {
        let count = CROSS_SCAN.len();
        let inner = c.ratio * width;
        let sizes = Sizes::of_block(width, inner, c.states);
        let names = Names {
            in_proj: b.path("op.in_proj"),
            conv: b.path("op.conv2d"),
            x_proj: b.path("op.x_proj_weight"),
            scans: b.path("op"),
            out_norm: b.path("op.out_norm"),
            out_proj: b.path("op.out_proj"),
            block: b.path(""),
        };
        let norm = b.layer_norm("norm", width, LAYER_NORM_EPS)?;
        let projected = count * sizes.projected();
        let x_proj =
            b.linear_rows("op.x_proj_weight", &[count, sizes.projected(), inner], 0..projected, Init::fan_in(inner))?;
        let scan = |b: &mut Builder<E>, (index, &order): (usize, &_)| {
            let (shape, rows) = ([count, inner, sizes.rank], index * inner..(index + 1) * inner);
            let dt = b.linear_rows("op.dt_projs_weight", &shape, rows, Init::fan_in(sizes.rank))?;
            Ok(SelectiveScan { order, sizes, dt, index })
        };
        let scans = CROSS_SCAN.iter().enumerate().map(|each| scan(b, each)).collect::<Result<_>>()?;
        let rates = Rates {
            bias: b.undecayed_parameter("op.dt_projs_bias", &[count, inner], Init::StepSizeBias)?,
            a_log: b.undecayed_parameter("op.A_logs", &[count * inner, c.states], Init::LogCount)?,
            d: b.undecayed_parameter("op.Ds", &[count * inner], Init::Ones)?,
        };
        let out_norm = b.layer_norm("op.out_norm", inner, LAYER_NORM_EPS)?;
        let norm_name = b.path("norm");
        let depthwise = Convolution::depthwise(inner, 3);
        let (input, conv) = match c.version {
            Version::First => {
                let half =
                    |b: &mut Builder<E>, rows| b.linear_rows("op.in_proj.weight", &[2 * inner, width], rows, LINEAR);
                let (inner, gate) = (half(b, 0..inner)?, half(b, inner..2 * inner)?);
                (Input::Gated(GatedInput { norm_name, norm, gate, inner }), depthwise)
            }
            Version::Second => {
                let linear = b.linear_without_bias("op.in_proj", width, inner)?;
                (Input::Plain(NormedLinear { norm_name, norm, linear }), depthwise.no_bias())
            }
        };
        let conv = b.conv("op.conv2d", conv)?;
        let out_proj = b.linear_without_bias("op.out_proj", inner, width)?;
        let mlp = match c.version {
            Version::First => None,
            Version::Second => Some(Mlp::build(b, "norm2", LAYER_NORM_EPS, width, MLP_RATIO * width)?),
        };
        Ok(Self {
            names,
            input,
            conv,
            x_proj,
            rates,
            scans,
            out_norm,
            out_proj,
            mlp,
            drop_scans: b.drop_path("op", drop_path),
            drop_mlp: b.drop_path("mlp", drop_path),
        })
    }

    fn forward(&self, e: &E, x: E::Map, tap: &mut dyn Tap<E>) -> Result<E::Map> {
        let (inner, gate) = match &self.input {
            Input::Plain(p) => (e.normed_linear(&x, p, tap)?, None),
            Input::Gated(p) => {
                let (gate, inner) = e.gated_input(&x, p, tap)?;
                (inner, Some(gate))
            }
        };
        let inner = tap.pass(&self.names.in_proj, inner)?;
        let value = tap.pass(&self.names.conv, e.conv(&inner, &self.conv, Activation::Silu)?)?;
        drop(inner);
        let mixed = self.mix(e, value, tap)?;
        let mixed = tap.pass(&self.names.scans, mixed)?;
        let normed = tap.pass(&self.names.out_norm, e.layer_norm(&mixed, &self.out_norm)?)?;
        drop(mixed);
        let add = Residual { drop_path: self.drop_scans, ..Residual::onto(x) };
        let x = match &gate {
            None => e.linear_residual(normed, &self.out_proj, add)?,
            Some(gate) => e.gated_output(normed, gate, &self.out_proj, add)?,
        };
        let x = tap.pass(&self.names.out_proj, x)?;
        let x = match &self.mlp {
            None => x,
            Some(mlp) => {
                let add = Residual { drop_path: self.drop_mlp, ..Residual::onto_input() };
                e.mlp(x, mlp, add, tap)?
            }
        };
        tap.pass(&self.names.block, x)
    }

    /// The sum of the scans over `value`.
    fn mix(&self, e: &E, value: E::Map, tap: &mut dyn Tap<E>) -> Result<E::Map> {
        let projected = tap.pass(&self.names.x_proj, e.linear(&value, &self.x_proj, Activation::None)?)?;
        let deltas = self.scans.iter().map(|scan| scan.delta(e, &projected)).collect::<Result<Vec<_>>>()?;
        let along = |(scan, delta): (&SelectiveScan<E>, _)| scan.recurrence(&value, delta, &projected, &self.rates);
        let recurrences: Vec<_> = self.scans.iter().zip(&deltas).map(along).collect();
        tap.mechanism(&self.names.scans, Mechanism::Recurrences(&recurrences))?;
        e.recurrences(&recurrences)
    }
}

/// A convolution that makes the map smaller, and the norm after it.
struct Embedding<E: Executor> {
    names: [String; 2],
    conv: E::Conv,
    norm: E::Norm,
}

impl<E: Executor> Embedding<E> {
    fn build(b: &mut Builder<E>, [conv, norm]: [&str; 2], convolution: Convolution, outputs: usize) -> Result<Self> {
        let names = [b.path(conv), b.path(norm)];
        Ok(Self { names, conv: b.conv(conv, convolution)?, norm: b.layer_norm(norm, outputs, LAYER_NORM_EPS)? })
    }

    /// A 3x3 convolution that halves the extent.
    fn halving(b: &mut Builder<E>, names: [&str; 2], inputs: usize, outputs: usize) -> Result<Self> {
        Self::build(b, names, Convolution::new(inputs, outputs, 3).stride(2), outputs)
    }

    fn forward(&self, e: &E, x: &E::Map, tap: &mut dyn Tap<E>) -> Result<E::Map> {
        let y = tap.pass(&self.names[0], e.conv(x, &self.conv, Activation::None)?)?;
        tap.pass(&self.names[1], e.layer_norm(&y, &self.norm)?)
    }
}

/// 2x2 tokens side by side, a norm, half as many channels.
struct Merging<E: Executor> {
    name: String,
    norm: E::Norm,
    reduction: E::Linear,
}

/// The way from one stage to the next.
enum Downsample<E: Executor> {
    Merging(Merging<E>),
    Halving(Embedding<E>),
}

impl<E: Executor> Downsample<E> {
    fn build(b: &mut Builder<E>, version: Version, width: usize) -> Result<Self> {
        Ok(match version {
            Version::First => {
                let (name, norm) = (b.path(""), b.layer_norm("norm", 4 * width, LAYER_NORM_EPS)?);
                let reduction = b.linear_without_bias("reduction", 4 * width, 2 * width)?;
                Self::Merging(Merging { name, norm, reduction })
            }
            Version::Second => Self::Halving(Embedding::halving(b, ["1", "3"], width, 2 * width)?),
        })
    }

    fn forward(&self, e: &E, x: E::Map, tap: &mut dyn Tap<E>) -> Result<E::Map> {
        match self {
            Self::Merging(p) => {
                let patches = e.patches(e.pad_to_multiple(x, 2)?, PatchOrder::Tokens)?;
                let normed = e.layer_norm(&patches, &p.norm)?;
                tap.pass(&p.name, e.linear(&normed, &p.reduction, Activation::None)?)
            }
            Self::Halving(p) => p.forward(e, &x, tap),
        }
    }
}

struct Stage<E: Executor> {
    name: String,
    blocks: Vec<Block<E>>,
    downsample: Option<Downsample<E>>,
}

/// Stem and stages.
struct Trunk<E: Executor> {
    /// One of patches, or two that halve with GELU between them.
    stem: Vec<Embedding<E>>,
    stages: Vec<Stage<E>>,
}

impl<E: Executor> Trunk<E> {
    fn build(b: &mut Builder<E>, c: &Config) -> Result<Self> {
        // Places in the released sequences, between activations and changes of layout.
        let stem = b.scope("patch_embed", |b| {
            let (width, half) = (c.channels, c.channels / 2);
            Ok(match c.version {
                Version::First => vec![Embedding::build(b, ["0", "2"], Convolution::patches(3, width, 4), width)?],
                Version::Second => {
                    let first = Embedding::halving(b, ["0", "2"], 3, half)?;
                    vec![first, Embedding::halving(b, ["5", "7"], half, width)?]
                }
            })
        })?;
        let mut rates = drop_path_rates(c.drop_path, c.depths.iter().sum());
        let mut stages = Vec::with_capacity(4);
        for (stage, width) in c.stage_channels().into_iter().enumerate() {
            stages.push(b.scope(&format!("layers.{stage}"), |b| {
                let blocks = (0..c.depths[stage])
                    .zip(&mut rates)
                    .map(|(i, rate)| b.scope(&format!("blocks.{i}"), |b| Block::build(b, c, width, rate)))
                    .collect::<Result<_>>()?;
                let downsample = match stage {
                    3 => None,
                    _ => Some(b.scope("downsample", |b| Downsample::build(b, c.version, width))?),
                };
                Ok(Stage { name: b.path(""), blocks, downsample })
            })?);
        }
        Ok(Self { stem, stages })
    }

    /// Runs stem and stages. `each` sees every stage's output before it is halved; the last one is returned too.
    fn forward(
        &self,
        e: &E,
        image: &E::Map,
        tap: &mut dyn Tap<E>,
        mut each: impl FnMut(usize, &E::Map) -> Result<()>,
    ) -> Result<E::Map> {
        let mut x = image.clone();
        for (i, embedding) in self.stem.iter().enumerate() {
            x = if i == 0 { x } else { e.activate(x, Activation::Gelu)? };
            x = embedding.forward(e, &x, tap)?;
        }
        x = tap.pass("patch_embed", x)?;
        for (i, stage) in self.stages.iter().enumerate() {
            for block in &stage.blocks {
                x = block.forward(e, x, tap)?;
            }
            x = tap.pass(&stage.name, x)?;
            each(i, &x)?;
            if let Some(downsample) = &stage.downsample {
                x = downsample.forward(e, x, tap)?;
            }
        }
        Ok(x)
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
        let x = self.trunk.forward(e, &image, tap, |_, _| Ok(()))?;
        let x = tap.pass("classifier.norm", e.layer_norm(&x, &self.norm)?)?;
        let features = tap.pass("features", e.mean_tokens(&x)?)?;
        Ok(Output::Logits(e.linear(&features, &self.head, Activation::None)?))
    }
}

/// A trunk with a norm on each stage, as the authors' detection and segmentation code has it.
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
    let channels = config.stage_channels();
    match task {
        Task::Classify { classes } => b.scope("classifier", |b| {
            let norm = b.layer_norm("norm", channels[3], LAYER_NORM_EPS)?;
            let head = b.linear("head", channels[3], classes)?;
            Ok(Box::new(Classifier { trunk, norm, head }) as Box<dyn Model<E>>)
        }),
        Task::Pyramid => {
            let pyramid = Pyramid::named(b, "outnorm", &channels, LAYER_NORM_EPS)?;
            Ok(Box::new(Dense { trunk, pyramid }))
        }
    }
}
