//! The ablation of "Demystify Mamba in Vision: A Linear Attention Perspective" (arXiv 2405.16605, Tables 1 and 2): what each
//! of Mamba's six differences to linear attention, and each positional encoding, brings by itself.
//!
//! The paper released no code for these models. What it states is the skeleton, Swin, the single change of each row, and
//! printed sizes; the rest is inferred from those sizes. The [`Design`] says row by row what was stated and what was chosen.
//! Our counts round to every printed one, except that the block design "sub" prints 30.5M where the table says 31M.
//!
//! The skeleton is Swin-T (arXiv 2103.14030) with global linear attention in place of windows: patches and a norm, four
//! stages of pre-norm blocks, mergings of 2x2 tokens, norm, mean over tokens, linear. Parameter names are Swin's and MILA's.

mod attention;
mod block;
mod forget_gate;
mod presets;

use mila_ops::{
    Activation, Builder, Convolution, Error, Executor, LAYER_NORM_EPS, Normalisation, PatchOrder, Result, Tap,
};

use crate::model::{MOST_STAGES, Model, Output, Task, drop_path_rates};
use crate::pyramid::Pyramid;
use block::Block;
pub(crate) use presets::PRESETS;

/// Sizes of one variant, and its design.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Config {
    /// Channels of the first stage; each stage doubles them.
    pub channels: usize,
    /// Blocks of each stage.
    pub depths: &'static [usize],
    /// Channels of a head's values, and of its queries and keys where these are as many.
    pub head_dim: usize,
    /// Pixels along the side of a token of the first stage.
    pub patch: usize,
    /// Tokens along the side of the first stage's grid, for which absolute positions are made.
    pub grid: usize,
    /// Drop-path rate of the last block; the rates rise linearly from zero.
    pub drop_path: f32,
    /// What differs from the baseline.
    pub design: Design,
}

/// One choice for each of the paper's distinctions (section 4), and the positional encoding (Table 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Design {
    /// Distinction 1.
    pub input_gate: InputGate,
    /// Distinction 2.
    pub forget_gate: ForgetGate,
    /// Distinction 3.
    pub shortcut: Shortcut,
    /// Distinction 4. Without it the `1/N` stays; the paper does not say.
    pub normalisation: Normalisation,
    /// Distinction 5.
    pub heads: Heads,
    /// Distinction 6.
    pub block: BlockDesign,
    /// Table 2.
    pub positions: Encoding,
}

/// Distinction 1: what the values are multiplied by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputGate {
    /// Nothing.
    Absent,
    /// `softplus(W2 W1 x)` per channel and token, not causal. The rank of `W1` is a sixteenth of the channels, as Mamba's
    /// `dt_rank`, and `W2` has a bias that starts at zero: inferred, a full matrix would not fit the printed size.
    Softplus,
}

/// Distinction 2: how much of the state a token leaves to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForgetGate {
    /// All: every token sees all tokens.
    Absent,
    /// `exp(Δ_i A)` of it, from token to token, row by row: a causal recurrence in one direction. `Δ = softplus(W2 W1 x + b)` is
    /// that of the input gate, with Mamba's initial `A` and `b`. The normaliser sums up the keys so far and forgets none, as in
    /// equation (4); whether the paper's does is open, as are its eps and the single direction. The scan's printed FLOPs are
    /// nine for every element of the state.
    Recurrent,
}

/// Distinction 3: what of the values goes past the attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortcut {
    /// Nothing.
    Absent,
    /// `D * v` with a learned factor per channel that starts at one, as Mamba's. Whether the paper takes the values or the
    /// block's input is open.
    Learned,
}

/// Distinction 5: the groups of queries and keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heads {
    /// As many as heads of values.
    Multi,
    /// One of a head's width for all channels; fits printed parameters and FLOPs.
    Single,
}

/// Distinction 6: what a block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockDesign {
    /// Attention with projected values and output, then an MLP.
    Transformer,
    /// Mamba's block, with two channels inside for one outside, in the place of both. The sizes inside are open: queries
    /// and keys are as wide as outside, so that a head has half as many channels of them as of values, and depths are
    /// chosen so that the printed sizes fit.
    MambaAll,
    /// Mamba's block, as wide inside as outside and with unprojected values, in the place of the attention; then the MLP.
    MambaSub,
}

/// How tokens know where they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// Not at all.
    Absent,
    /// Absolute: a learned table of one grid in every block, added to the keys. Other grids are refused.
    Ape,
    /// Locally enhanced: a depthwise 3x3 convolution of the values, added to the attention.
    Lepe,
    /// Conditional: `x + dwconv(x)` with a depthwise 3x3 convolution, once before the attention of each block.
    Cpe,
    /// Rotary: queries and keys turn by row and column in the sum, not in what it is divided by.
    Rope,
}

impl Design {
    /// Linear attention in a Transformer block.
    pub const BASELINE: Self = Self {
        input_gate: InputGate::Absent,
        forget_gate: ForgetGate::Absent,
        shortcut: Shortcut::Absent,
        normalisation: Normalisation::Weights,
        heads: Heads::Multi,
        block: BlockDesign::Transformer,
        positions: Encoding::Absent,
    };
}

impl Config {
    /// The paper's size: Swin-T's widths, depths and heads of 32 channels, for images of 224x224 pixels.
    pub const BASELINE: Self = Self {
        channels: 96,
        depths: &[2, 2, 6, 2],
        head_dim: 32,
        patch: 4,
        grid: 56,
        drop_path: 0.2,
        design: Design::BASELINE,
    };
    /// For images of 32x32 pixels, with a grid of 16x16 tokens; ours, not the paper's.
    pub const BASELINE_32: Self = Self {
        channels: 32,
        depths: &[2, 2, 1],
        head_dim: 16,
        patch: 2,
        grid: 16,
        drop_path: 0.0,
        design: Design::BASELINE,
    };

    /// Channels of each stage.
    pub fn stage_channels(&self) -> Vec<usize> {
        (0..self.depths.len()).map(|stage| self.channels << stage).collect()
    }
}

/// Patches side by side, and their norm.
struct Stem<E: Executor> {
    patch: usize,
    proj: E::Conv,
    norm: E::Norm,
}

/// Halves the extent and doubles the channels: norm and linear of 2x2 tokens.
struct Merging<E: Executor> {
    name: String,
    norm: E::Norm,
    reduction: E::Linear,
}

impl<E: Executor> Merging<E> {
    fn build(b: &mut Builder<E>, channels: usize) -> Result<Self> {
        b.scope("downsample", |b| {
            let reduction = b.linear_without_bias("reduction", 4 * channels, 2 * channels)?;
            Ok(Self { name: b.path(""), norm: b.layer_norm("norm", 4 * channels, LAYER_NORM_EPS)?, reduction })
        })
    }

    fn forward(&self, e: &E, x: E::Map, tap: &mut dyn Tap<E>) -> Result<E::Map> {
        let patches = e.patches(e.pad_to_multiple(x, 2)?, PatchOrder::Tokens)?;
        let normed = e.layer_norm(&patches, &self.norm)?;
        tap.pass(&self.name, e.linear(&normed, &self.reduction, Activation::None)?)
    }
}

struct Stage<E: Executor> {
    name: String,
    blocks: Vec<Block<E>>,
    downsample: Option<Merging<E>>,
}

/// Stem and stages.
struct Trunk<E: Executor> {
    stem: Stem<E>,
    stages: Vec<Stage<E>>,
}

impl<E: Executor> Trunk<E> {
    fn build(b: &mut Builder<E>, c: &Config) -> Result<Self> {
        let stem = b.scope("patch_embed", |b| {
            let proj = b.conv("proj", Convolution::patches(3, c.channels, c.patch))?;
            Ok(Stem { patch: c.patch, proj, norm: b.layer_norm("norm", c.channels, LAYER_NORM_EPS)? })
        })?;
        let mut rates = drop_path_rates(c.drop_path, c.depths.iter().sum());
        let mut stages = Vec::with_capacity(c.depths.len());
        for (stage, channels) in c.stage_channels().into_iter().enumerate() {
            let grid = c.grid.div_ceil(1 << stage);
            stages.push(b.scope(&format!("layers.{stage}"), |b| {
                let blocks = (0..c.depths[stage])
                    .zip(&mut rates)
                    .map(|(i, rate)| b.scope(&format!("blocks.{i}"), |b| Block::build(b, c, (channels, grid), rate)))
                    .collect::<Result<_>>()?;
                let last = stage + 1 == c.depths.len();
                let downsample = if last { None } else { Some(Merging::build(b, channels)?) };
                Ok(Stage { name: b.path(""), blocks, downsample })
            })?);
        }
        Ok(Self { stem, stages })
    }

    fn forward(
        &self,
        e: &E,
        image: E::Map,
        tap: &mut dyn Tap<E>,
        mut each: impl FnMut(usize, &E::Map) -> Result<()>,
    ) -> Result<E::Map> {
        let image = e.pad_to_multiple(image, self.stem.patch)?;
        let patches = e.conv(&image, &self.stem.proj, Activation::None)?;
        let mut x = tap.pass("patch_embed", e.layer_norm(&patches, &self.stem.norm)?)?;
        for (i, stage) in self.stages.iter().enumerate() {
            for block in &stage.blocks {
                x = block.forward(e, x, tap)?;
            }
            x = tap.pass(&stage.name, x)?;
            each(i, &x)?;
            if let Some(merging) = &stage.downsample {
                x = merging.forward(e, x, tap)?;
            }
        }
        Ok(x)
    }
}

/// A trunk with Swin's classifier: norm, mean over tokens, linear.
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
/// [`Error::Unsupported`] for no stage or more than sixteen, a head of no channels or a patch of no pixels; [`Error::Shape`] for
/// heads that do not divide the channels; those of the source and of the executor.
pub fn build<E: Executor + 'static>(b: &mut Builder<E>, config: &Config, task: Task) -> Result<Box<dyn Model<E>>> {
    let Config { depths, head_dim, patch, .. } = config;
    let stages = depths.len();
    if !(1..=MOST_STAGES).contains(&stages) || *head_dim == 0 || *patch == 0 {
        let what = format!("{stages} stages of heads of {head_dim} channels behind patches of {patch} pixels");
        return Err(Error::Unsupported { what, why: format!("each is at least one, stages at most {MOST_STAGES}") });
    }
    let trunk = Trunk::build(b, config)?;
    let channels = config.stage_channels();
    match task {
        Task::Classify { classes } => {
            let width = channels.last().copied().unwrap_or(config.channels);
            let norm = b.layer_norm("norm", width, LAYER_NORM_EPS)?;
            Ok(Box::new(Classifier { trunk, norm, head: b.linear("head", width, classes)? }))
        }
        Task::Pyramid => Ok(Box::new(Dense { trunk, pyramid: Pyramid::build(b, &channels, LAYER_NORM_EPS)? })),
    }
}
