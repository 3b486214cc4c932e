//! Mamba-ND: "Mamba-ND: Selective State Space Modeling for Multi-Dimensional Data" (arXiv 2402.05892), with the names of the
//! released checkpoints, at jacklishufan/Mamba-ND commit 4f70284. Tables of other papers print it as "Mamba2D".
//!
//! Patches of 8x8 pixels with absolute positions, and Mamba's block along one order after the other: rows, rows from the end,
//! columns, columns from the end. Behind the tenth block 2x2 tokens become one. The positions are those of one grid; other
//! sizes are refused.
//!
//! The released code adds a block's result to its *normed* input ([`Skip::Normed`]), and takes the root of the number of tokens
//! for both sides when it turns to columns; here maps of any sides turn. Its recipe drops a tenth of the values behind the
//! positions, for which there is no operator here, and a tenth of the weight decay on `A_log`, which is exempt here.

use mila_ops::{
    Activation, Builder, Convolution, DropPath, Error, Executor, GatedInput, Init, LAYER_NORM_EPS, Mechanism,
    PatchOrder, Residual, Result, ScanOrder, Tap,
};

use crate::model::{Model, Output, Task, drop_path_rates};
use crate::registry::{Architecture, Preprocessing, Preset, Published};
use crate::selective_scan::{CausalScan, Sizes};

/// Eps of the two norms behind the blocks.
const HEAD_EPS: f64 = 1e-6;
/// Pixels on a side of a patch.
const PATCH: usize = 8;
/// Channels of the scans per channel of the block.
const EXPAND: usize = 2;
/// States of each of the scans' channels.
const STATES: usize = 16;
/// Deviations that positions and the classifier start with.
const POSITION_STD: f32 = 0.02;
const HEAD_STD: f32 = 2e-5;
/// The orders of the blocks, in turns.
const ORDERS: [ScanOrder; 4] =
    [ScanOrder::ROWS, ScanOrder::ROWS.reversed(), ScanOrder::COLUMNS, ScanOrder::COLUMNS.reversed()];

/// What a block's result is added to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skip {
    /// Its normed input, as the released models have it: `n + mixer(n)`, `n = norm(x)`.
    Normed,
    /// Its input, as usual: `x + mixer(norm(x))`.
    Input,
}

/// Sizes of one variant.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Config {
    /// Channels.
    pub channels: usize,
    /// Blocks.
    pub depth: usize,
    /// The block behind which 2x2 tokens become one, counted from zero.
    pub merge_after: usize,
    /// Rows and columns of patches that there are positions for.
    pub grid: [usize; 2],
    /// What blocks add to.
    pub skip: Skip,
    /// Drop-path rate of the last block.
    pub drop_path: f32,
}

impl Config {
    /// Mamba2D-S/8 of the authors' repository.
    pub const S: Self = Self::released(384);
    /// Mamba2D-B/8.
    pub const B: Self = Self::released(768);

    const fn released(channels: usize) -> Self {
        Self { channels, depth: 24, merge_after: 9, grid: [28, 28], skip: Skip::Normed, drop_path: 0.1 }
    }
}

/// The registered models; accuracies are those of the authors' repository. The MILA paper prints 83.0 for B in one table and 82.3
/// in another.
pub(crate) const PRESETS: &[Preset] = &[
    preset(
        "mamba-nd-s",
        &["mamba2d-s", "mamba-nd-small"],
        "Mamba-ND small (printed as Mamba2D-S)",
        Config::S,
        "24M",
        81.7,
    ),
    preset(
        "mamba-nd-b",
        &["mamba2d-b", "mamba-nd-base"],
        "Mamba-ND base (printed as Mamba2D-B)",
        Config::B,
        "94M",
        83.0,
    ),
];

const fn preset(
    name: &'static str,
    aliases: &'static [&'static str],
    about: &'static str,
    config: Config,
    parameters: &'static str,
    top1: f32,
) -> Preset {
    Preset {
        name,
        aliases,
        about,
        paper: "arXiv 2402.05892",
        architecture: Architecture::MambaNd(config),
        classes: 1000,
        preprocessing: Preprocessing::IMAGENET,
        published: Some(Published { parameters, macs: "-", images_per_s: None, top1 }),
    }
}

/// 2x2 tokens side by side, a norm, as many channels as before.
struct Merging<E: Executor> {
    name: String,
    norm: E::Norm,
    reduction: E::Linear,
}

impl<E: Executor> Merging<E> {
    fn build(b: &mut Builder<E>, width: usize) -> Result<Self> {
        let (name, inputs) = (b.path(""), 4 * width);
        let reduction = b.linear_rows("reduction.weight", &[width, inputs], 0..width, Init::fan_in(inputs))?;
        Ok(Self { name, reduction, norm: b.layer_norm("norm", inputs, LAYER_NORM_EPS)? })
    }

    fn forward(&self, e: &E, x: E::Map, tap: &mut dyn Tap<E>) -> Result<E::Map> {
        let patches = e.patches(e.pad_to_multiple(x, 2)?, PatchOrder::Channels)?;
        let normed = e.layer_norm(&patches, &self.norm)?;
        tap.pass(&self.name, e.linear(&normed, &self.reduction, Activation::None)?)
    }
}

/// The tap names of a block: parameter paths.
struct Names {
    scan: String,
    out_proj: String,
    block: String,
}

/// Mamba's block along one order.
struct Block<E: Executor> {
    names: Names,
    skip: Skip,
    input: GatedInput<E>,
    scan: CausalScan<E>,
    out_proj: E::Linear,
    merging: Option<Merging<E>>,
    drop_path: Option<DropPath>,
}

impl<E: Executor> Block<E> {
    fn build(b: &mut Builder<E>, c: &Config, index: usize, drop_path: f32) -> Result<Self> {
        let (width, inner) = (c.channels, EXPAND * c.channels);
        let sizes = Sizes::of_block(width, inner, STATES);
        let names = Names { scan: b.path("mixer"), out_proj: b.path("mixer.out_proj"), block: b.path("") };
        let (gate, inner_proj, scan, out_proj) = b.scope("mixer", |b| {
            let rates = CausalScan::rates(b, "A_log", "D", sizes)?;
            let half = |b: &mut Builder<E>, rows| {
                b.linear_rows("in_proj.weight", &[2 * inner, width], rows, Init::fan_in(width))
            };
            let (inner_proj, gate) = (half(b, 0..inner)?, half(b, inner..2 * inner)?);
            let order = ORDERS[index % ORDERS.len()];
            let scan = CausalScan::build(b, "", (order, sizes), rates, Init::StepSizeBias)?;
            let out_proj = b.linear_rows("out_proj.weight", &[width, inner], 0..width, Init::fan_in(inner))?;
            Ok((gate, inner_proj, scan, out_proj))
        })?;
        let norm = b.layer_norm("norm", width, LAYER_NORM_EPS)?;
        let merging = (index == c.merge_after).then(|| b.scope("down_sample_layer", |b| Merging::build(b, width)));
        Ok(Self {
            names,
            skip: c.skip,
            input: GatedInput { norm_name: b.path("norm"), norm, gate, inner: inner_proj },
            scan,
            out_proj,
            merging: merging.transpose()?,
            drop_path: b.drop_path("mixer", drop_path),
        })
    }

    fn forward(&self, e: &E, x: E::Map, tap: &mut dyn Tap<E>) -> Result<E::Map> {
        let p = &self.input;
        let (onto, gate, inner) = match self.skip {
            Skip::Normed => {
                let normed = tap.pass(&p.norm_name, e.layer_norm(&x, &p.norm)?)?;
                let gate = e.linear(&normed, &p.gate, Activation::Silu)?;
                let inner = e.linear(&normed, &p.inner, Activation::None)?;
                (normed, gate, inner)
            }
            Skip::Input => {
                let (gate, inner) = e.gated_input(&x, p, tap)?;
                (x, gate, inner)
            }
        };
        let prepared = self.scan.prepare(e, &inner, tap)?;
        drop(inner);
        let mixed = {
            let scan = self.scan.recurrence(&prepared);
            tap.mechanism(&self.names.scan, Mechanism::Recurrences(std::slice::from_ref(&scan)))?;
            e.recurrence(&scan)?.0
        };
        drop(prepared);
        let mixed = tap.pass(&self.names.scan, mixed)?;
        let add = Residual { drop_path: self.drop_path, ..Residual::onto(onto) };
        let x = tap.pass(&self.names.out_proj, e.gated_output(mixed, &gate, &self.out_proj, add)?)?;
        let x = match &self.merging {
            Some(merging) => merging.forward(e, x, tap)?,
            None => x,
        };
        tap.pass(&self.names.block, x)
    }
}

/// Patches and positions, blocks, and the released classifier: norm, mean over tokens, norm, linear.
struct Classifier<E: Executor> {
    grid: [usize; 2],
    positions: E::Parameter,
    patches: E::Conv,
    blocks: Vec<Block<E>>,
    norms: [E::Norm; 2],
    head: E::Linear,
}

impl<E: Executor> Model<E> for Classifier<E> {
    fn forward(&self, e: &E, image: E::Map, tap: &mut dyn Tap<E>) -> Result<Output<E::Map>> {
        let patches = e.conv(&image, &self.patches, Activation::None)?;
        let patches = tap.pass("backbone.patch_embed.projection", patches)?;
        e.require_grid(&patches, self.grid)?;
        let mut x = tap.pass("backbone.pos_embed", e.add_positions(patches, &self.positions)?)?;
        for block in &self.blocks {
            x = block.forward(e, x, tap)?;
        }
        let [tokens, mean] = &self.norms;
        let x = tap.pass("backbone.ln1", e.layer_norm(&x, tokens)?)?;
        let features = tap.pass("backbone.ln2", e.layer_norm(&e.mean_tokens(&x)?, mean)?)?;
        let features = tap.pass("features", features)?;
        Ok(Output::Logits(e.linear(&features, &self.head, Activation::None)?))
    }
}

/// Prepares the model of `config` for an executor.
///
/// # Errors
/// [`Error::Unsupported`] for a pyramid; those of the source and of the executor.
pub fn build<E: Executor + 'static>(b: &mut Builder<E>, c: &Config, task: Task) -> Result<Box<dyn Model<E>>> {
    let Task::Classify { classes } = task else {
        let why = "its tokens have two resolutions, and none of them is released with a norm of its own".into();
        return Err(Error::Unsupported { what: "a pyramid of Mamba-ND".into(), why });
    };
    let [rows, columns] = c.grid;
    let width = c.channels;
    let (positions, patches, blocks, norms) = b.scope("backbone", |b| {
        let init = Init::TruncatedNormal { std: POSITION_STD };
        let positions = b.undecayed_parameter("pos_embed", &[1, rows * columns, width], init)?;
        let projection = Convolution::patches(3, width, PATCH);
        let patches = b.scope("patch_embed", |b| b.conv("projection", projection))?;
        let blocks = drop_path_rates(c.drop_path, c.depth)
            .enumerate()
            .map(|(i, rate)| b.scope(&format!("layers.{i}"), |b| Block::build(b, c, i, rate)))
            .collect::<Result<_>>()?;
        let norms = [b.layer_norm("ln1", width, HEAD_EPS)?, b.layer_norm("ln2", width, HEAD_EPS)?];
        Ok((positions, patches, blocks, norms))
    })?;
    let head = b.scope("head", |b| b.linear_from("fc", width, classes, Init::TruncatedNormal { std: HEAD_STD }))?;
    Ok(Box::new(Classifier { grid: c.grid, positions, patches, blocks, norms, head }))
}
