//! Vim: "Vision Mamba: Efficient Visual Representation Learning with Bidirectional State Space Model" (arXiv 2401.09417), with
//! the names of the released checkpoints, at hustvl/Vim commit dd0358a.
//!
//! Patches of 16x16 pixels in a row, a class token behind the first half of them, absolute positions, and blocks that scan the
//! row from both ends, each end with a causal convolution and a selective scan of its own: `x += out_proj((forward + backward)
//! / 2 * silu(z))`, `[x' | z] = in_proj(norm(x))`. The positions are those of one grid; other sizes are refused.
//!
//! The released code writes a block as "add, norm, mix" and drops the mixer of the block before, with a rate of its own at the
//! end. The rates that each mixer meets are the usual ones, from zero in equal steps.
//!
//! The step sizes of the backward scan start from a bias of zero, as released, those of the forward scan as Mamba's.

use mila_ops::{
    Activation, Builder, Convolution, DropPath, Error, Executor, GatedInput, Init, Mechanism, Residual, Result,
    ScanOrder, Tap, TokenPlace,
};

use crate::model::{Model, Output, Task, drop_path_rates};
use crate::registry::{Architecture, Preprocessing, Preset, Published};
use crate::selective_scan::{CausalScan, Sizes};

/// Eps of every norm.
const EPS: f64 = 1e-5;
/// Pixels on a side of a patch.
const PATCH: usize = 16;
/// Channels of the scans per channel of the block.
const EXPAND: usize = 2;
/// States of each of the scans' channels.
const STATES: usize = 16;
/// Deviation that class token and positions start with.
const TOKEN_STD: f32 = 0.02;

/// Sizes of one variant.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Config {
    /// Channels.
    pub channels: usize,
    /// Blocks.
    pub depth: usize,
    /// Rows and columns of patches that there are positions for.
    pub grid: [usize; 2],
    /// Where the class token stands: [`TokenPlace::Middle`] in the released models, [`TokenPlace::First`] in the first version of
    /// the paper.
    pub class_token: TokenPlace,
    /// Drop-path rate of the last block.
    pub drop_path: f32,
}

impl Config {
    /// Vim-Ti.
    pub const TI: Self = Self::released(192, 0.0);
    /// Vim-S.
    pub const S: Self = Self::released(384, 0.05);
    /// Vim-B; the rate is that of Vim-S, as none is printed.
    pub const B: Self = Self::released(768, 0.05);

    const fn released(channels: usize, drop_path: f32) -> Self {
        Self { channels, depth: 24, grid: [14, 14], class_token: TokenPlace::Middle, drop_path }
    }
}

/// The registered models; accuracies are those of the authors' repository for models with the class token in the middle. The
/// tables of other papers have Vim-S at 80.3 and 5.1G, of the first version.
pub(crate) const PRESETS: &[Preset] = &[
    preset(
        "vim-ti",
        &["vim-tiny", "vim-t", "vim-tiny-midclstok"],
        "Vim tiny, class token in the middle",
        Config::TI,
        Published { parameters: "7M", macs: "-", images_per_s: None, top1: 76.1 },
    ),
    preset(
        "vim-s",
        &["vim-small", "vim-small-midclstok"],
        "Vim small, class token in the middle",
        Config::S,
        Published { parameters: "26M", macs: "5.1G (v1)", images_per_s: None, top1: 80.5 },
    ),
    preset(
        "vim-b",
        &["vim-base", "vim-base-midclstok"],
        "Vim base, class token in the middle",
        Config::B,
        Published { parameters: "98M", macs: "-", images_per_s: None, top1: 81.9 },
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
        name,
        aliases,
        about,
        paper: "arXiv 2401.09417",
        architecture: Architecture::Vim(config),
        classes: 1000,
        preprocessing: Preprocessing::IMAGENET,
        published: Some(published),
    }
}

/// The tap names of a block: parameter paths.
struct Names {
    scans: String,
    out_proj: String,
    block: String,
}

/// Scans from both ends of the row, with one gate.
struct Block<E: Executor> {
    names: Names,
    input: GatedInput<E>,
    ends: [CausalScan<E>; 2],
    out_proj: E::Linear,
    drop_path: Option<DropPath>,
}

impl<E: Executor> Block<E> {
    fn build(b: &mut Builder<E>, c: &Config, drop_path: f32) -> Result<Self> {
        let (width, inner) = (c.channels, EXPAND * c.channels);
        let sizes = Sizes::of_block(width, inner, STATES);
        let names = Names { scans: b.path("mixer"), out_proj: b.path("mixer.out_proj"), block: b.path("") };
        let (gate, inner_proj, ends, out_proj) = b.scope("mixer", |b| {
            let (forward, backward) =
                (CausalScan::rates(b, "A_log", "D", sizes)?, CausalScan::rates(b, "A_b_log", "D_b", sizes)?);
            let half = |b: &mut Builder<E>, rows| {
                b.linear_rows("in_proj.weight", &[2 * inner, width], rows, Init::fan_in(width))
            };
            let (inner_proj, gate) = (half(b, 0..inner)?, half(b, inner..2 * inner)?);
            let (rows, back) = (ScanOrder::ROWS, ScanOrder::ROWS.reversed());
            let forward = CausalScan::build(b, "", (rows, sizes), forward, Init::StepSizeBias)?;
            let backward = CausalScan::build(b, "_b", (back, sizes), backward, Init::Zeros)?;
            // As many residual branches as blocks.
            let init = Init::fan_in(inner * c.depth);
            let out_proj = b.linear_rows("out_proj.weight", &[width, inner], 0..width, init)?;
            Ok((gate, inner_proj, [forward, backward], out_proj))
        })?;
        let norm = b.rms_norm("norm", width, EPS)?;
        Ok(Self {
            names,
            input: GatedInput { norm_name: b.path("norm"), norm, gate, inner: inner_proj },
            ends,
            out_proj,
            drop_path: b.drop_path("mixer", drop_path),
        })
    }

    fn forward(&self, e: &E, x: E::Map, tap: &mut dyn Tap<E>) -> Result<E::Map> {
        let (gate, inner) = e.gated_input(&x, &self.input, tap)?;
        let [first, second] = &self.ends;
        let scanned = [first.prepare(e, &inner, tap)?, second.prepare(e, &inner, tap)?];
        drop(inner);
        let [to_end, to_start] = &scanned;
        let sum = {
            let both = [first.recurrence(to_end), second.recurrence(to_start)];
            tap.mechanism(&self.names.scans, Mechanism::Recurrences(&both))?;
            e.recurrences(&both)?
        };
        drop(scanned);
        let mixed = e.scale_all(sum, 0.5)?;
        let mixed = tap.pass(&self.names.scans, mixed)?;
        let add = Residual { drop_path: self.drop_path, ..Residual::onto(x) };
        let x = tap.pass(&self.names.out_proj, e.gated_output(mixed, &gate, &self.out_proj, add)?)?;
        tap.pass(&self.names.block, x)
    }
}

/// Patches, class token and positions, blocks, and the released classifier of the class token.
struct Classifier<E: Executor> {
    grid: [usize; 2],
    place: TokenPlace,
    class_token: E::Parameter,
    positions: E::Parameter,
    patches: E::Conv,
    blocks: Vec<Block<E>>,
    norm: E::Norm,
    head: E::Linear,
}

impl<E: Executor> Model<E> for Classifier<E> {
    fn forward(&self, e: &E, image: E::Map, tap: &mut dyn Tap<E>) -> Result<Output<E::Map>> {
        let patches = tap.pass("patch_embed.proj", e.conv(&image, &self.patches, Activation::None)?)?;
        e.require_grid(&patches, self.grid)?;
        let row = e.insert_token(&patches, &self.class_token, self.place)?;
        tap.mechanism("pos_embed", Mechanism::Row { grid: self.grid, class_token: self.place })?;
        drop(patches);
        let mut x = tap.pass("pos_embed", e.add_positions(row, &self.positions)?)?;
        for block in &self.blocks {
            x = block.forward(e, x, tap)?;
        }
        let token = e.take_token(&x, self.place)?;
        let features = tap.pass("norm_f", e.layer_norm(&token, &self.norm)?)?;
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
        let why = "its tokens keep one resolution".into();
        return Err(Error::Unsupported { what: "a pyramid of Vim".into(), why });
    };
    let [rows, columns] = c.grid;
    let init = Init::TruncatedNormal { std: TOKEN_STD };
    let class_token = b.undecayed_parameter("cls_token", &[1, 1, c.channels], init)?;
    let positions = b.undecayed_parameter("pos_embed", &[1, rows * columns + 1, c.channels], init)?;
    let patches = Convolution::patches(3, c.channels, PATCH).lecun_normal();
    let patches = b.scope("patch_embed", |b| b.conv("proj", patches))?;
    let head = b.linear("head", c.channels, classes)?;
    let blocks = drop_path_rates(c.drop_path, c.depth)
        .enumerate()
        .map(|(i, rate)| b.scope(&format!("layers.{i}"), |b| Block::build(b, c, rate)))
        .collect::<Result<_>>()?;
    let norm = b.rms_norm("norm_f", c.channels, EPS)?;
    let (grid, place) = (c.grid, c.class_token);
    Ok(Box::new(Classifier { grid, place, class_token, positions, patches, blocks, norm, head }))
}
