//! The three block designs.

use mila_ops::{
    Activation, Builder, Convolution, DropPath, Executor, GatedInput, LAYER_NORM_EPS, Mlp, Residual, Result, Tap,
    composed,
};

use super::attention::{Attention, Values, Widths};
use super::{BlockDesign, Config, Encoding};

/// Hidden channels of the MLP per channel.
const MLP_RATIO: usize = 4;
/// Channels inside Mamba's block for one outside, where it takes the place of a whole Transformer block: E = 2.
const EXPANSION: usize = 2;

/// What mixes tokens.
enum Mixer<E: Executor> {
    /// `proj(attention(norm(x)))`.
    Transformer { norm_name: String, norm: E::Norm, proj: E::Linear },
    /// `out_proj(attention(silu(dwc(inner))) * gate)` with the gate and the inner stream of the normed input.
    Mamba { inner_names: [String; 2], input: GatedInput<E>, dwc: E::Conv, out_proj: E::Linear },
}

/// A block: positions, a mixer of tokens and, in two of the designs, an MLP.
pub(super) struct Block<E: Executor> {
    name: String,
    cpe: Option<(String, E::Conv)>,
    mixer: Mixer<E>,
    attention: Attention<E>,
    mlp: Option<Mlp<E>>,
    drop_attention: Option<DropPath>,
    drop_mlp: Option<DropPath>,
}

impl<E: Executor> Block<E> {
    /// Asks for the parameters of a block of `dim` channels on a grid of `grid` by `grid` tokens.
    pub(super) fn build(b: &mut Builder<E>, c: &Config, (dim, grid): (usize, usize), drop_path: f32) -> Result<Self> {
        let cpe = match c.design.positions {
            Encoding::Cpe => Some((b.path("cpe1"), b.conv("cpe1", Convolution::depthwise(dim, 3))?)),
            _ => None,
        };
        let norm = b.layer_norm("norm1", dim, LAYER_NORM_EPS)?;
        let (mixer, attention) = match c.design.block {
            BlockDesign::Transformer => {
                let widths = Widths { inputs: dim, keys: dim, values: dim };
                let attention = Attention::build(b, c, widths, Values::Projected, grid)?;
                let proj = b.scope("attn", |b| b.linear("proj", dim, dim))?;
                (Mixer::Transformer { norm_name: b.path("norm1"), norm, proj }, attention)
            }
            BlockDesign::MambaAll => Self::mamba(b, c, (dim, EXPANSION * dim, grid), norm)?,
            BlockDesign::MambaSub => Self::mamba(b, c, (dim, dim, grid), norm)?,
        };
        let mlp = match c.design.block {
            BlockDesign::MambaAll => None,
            BlockDesign::Transformer | BlockDesign::MambaSub => {
                Some(Mlp::build(b, "norm2", LAYER_NORM_EPS, dim, MLP_RATIO * dim)?)
            }
        };
        Ok(Self {
            name: b.path(""),
            cpe,
            mixer,
            attention,
            mlp,
            drop_attention: b.drop_path("attn", drop_path),
            drop_mlp: b.drop_path("mlp", drop_path),
        })
    }

    /// Mamba's block of `dim` channels outside and `inside` channels inside.
    fn mamba(
        b: &mut Builder<E>,
        c: &Config,
        (dim, inside, grid): (usize, usize, usize),
        norm: E::Norm,
    ) -> Result<(Mixer<E>, Attention<E>)> {
        let inner = b.linear("in_proj", dim, inside)?;
        let gate = b.linear("act_proj", dim, inside)?;
        let dwc = b.conv("dwc", Convolution::depthwise(inside, 3))?;
        let widths = Widths { inputs: inside, keys: dim, values: inside };
        let attention = Attention::build(b, c, widths, Values::Input, grid)?;
        let out_proj = b.linear("out_proj", inside, dim)?;
        let input = GatedInput { norm_name: b.path("norm1"), norm, gate, inner };
        let inner_names = [b.path("act_proj"), b.path("dwc")];
        Ok((Mixer::Mamba { inner_names, input, dwc, out_proj }, attention))
    }

    /// `[batch, height, width, dim]` to the same extent.
    pub(super) fn forward(&self, e: &E, x: E::Map, tap: &mut dyn Tap<E>) -> Result<E::Map> {
        let x = match &self.cpe {
            Some((name, cpe)) => tap.pass(name, e.conv_residual(x, cpe, Residual::onto_input())?)?,
            None => x,
        };
        let x = match &self.mixer {
            Mixer::Transformer { norm_name, norm, proj } => {
                let normed = tap.pass(norm_name, e.layer_norm(&x, norm)?)?;
                let mixed = self.attention.forward(e, normed, tap)?;
                let branch = e.linear(&mixed, proj, Activation::None)?;
                let add = Residual { drop_path: self.drop_attention, ..Residual::onto_input() };
                composed::join(e, x, branch, add)?
            }
            Mixer::Mamba { inner_names: [gate_name, dwc_name], input, dwc, out_proj } => {
                let (gate, inner) = e.gated_input(&x, input, tap)?;
                let gate = tap.pass(gate_name, gate)?;
                let inner = tap.pass(dwc_name, e.conv(&inner, dwc, Activation::Silu)?)?;
                let mixed = self.attention.forward(e, inner, tap)?;
                let add = Residual { drop_path: self.drop_attention, ..Residual::onto(x) };
                e.gated_output(mixed, &gate, out_proj, add)?
            }
        };
        let x = match &self.mlp {
            Some(mlp) => {
                let add = Residual { drop_path: self.drop_mlp, ..Residual::onto_input() };
                e.mlp(x, mlp, add, tap)?
            }
            None => x,
        };
        tap.pass(&self.name, x)
    }
}
