//! Linear attention with the choices of a [`Design`].

use mila_ops::{
    Activation, Builder, Convolution, Error, Executor, Init, LinearAttention, Mechanism, Positions, Residual, Result,
    Tap, shape,
};

use super::forget_gate::ForgetfulAttention;
use super::{Config, Design, Encoding, ForgetGate, Heads, InputGate, Shortcut};

/// Deviation of the truncated normal that absolute positions start from, as Swin's.
const POSITION_STD: f32 = 0.02;
/// Channels for one of the input gate's rank, as Mamba's `dt_rank`.
pub(super) const RANK: usize = 16;

/// Widths of an attention.
#[derive(Clone, Copy)]
pub(super) struct Widths {
    /// Channels of the input.
    pub(super) inputs: usize,
    /// Channels of all heads' queries, and of their keys.
    pub(super) keys: usize,
    /// Channels of the values and of the result.
    pub(super) values: usize,
}

/// Where the values come from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Values {
    /// A linear map of the input.
    Projected,
    /// The input itself.
    Input,
}

/// `softplus(up(down(x)))`.
struct Gate<E: Executor> {
    name: String,
    down: E::Linear,
    up: E::Linear,
}

/// How tokens are mixed.
enum Mixing<E: Executor> {
    /// Each sees all.
    All(LinearAttention),
    /// Each sees those before it, the less the further.
    Before(ForgetfulAttention<E>),
}

/// Queries and keys, values, and what is done to them.
pub(super) struct Attention<E: Executor> {
    names: [String; 2],
    mixing: Mixing<E>,
    qk: E::Linear,
    value: Option<E::Linear>,
    ape: Option<E::Parameter>,
    gate: Option<Gate<E>>,
    lepe: Option<E::Conv>,
    shortcut: Option<E::Parameter>,
}

impl<E: Executor> Attention<E> {
    /// Asks for `attn.*`, on a grid of `grid` by `grid` tokens.
    pub(super) fn build(b: &mut Builder<E>, c: &Config, widths: Widths, values: Values, grid: usize) -> Result<Self> {
        let Design { input_gate, forget_gate, shortcut, normalisation, heads, positions, .. } = c.design;
        let (keys, heads) = match heads {
            Heads::Multi if !widths.values.is_multiple_of(c.head_dim) => {
                let expected = format_args!("a multiple of {} channels, those of a head", c.head_dim);
                return Err(Error::shape("ablation", expected, widths.values));
            }
            Heads::Multi => (widths.keys, widths.values / c.head_dim),
            Heads::Single => (c.head_dim, 1),
        };
        let positional = match positions {
            Encoding::Rope => Positions::Rotary,
            Encoding::Absent | Encoding::Ape | Encoding::Lepe | Encoding::Cpe => Positions::Absent,
        };
        let form = LinearAttention { heads, positions: positional, normalisation };
        shape::attention(2 * keys, widths.values, form)?;
        b.scope("attn", |b| {
            let qk = b.linear("qk", widths.inputs, 2 * keys)?;
            let value = match values {
                Values::Projected => Some(b.linear("v", widths.inputs, widths.values)?),
                Values::Input => None,
            };
            let ape = match positions {
                Encoding::Ape => Some(b.undecayed_parameter(
                    "ape",
                    &[grid, grid, keys],
                    Init::TruncatedNormal { std: POSITION_STD },
                )?),
                _ => None,
            };
            let gate = match input_gate {
                InputGate::Absent => None,
                InputGate::Softplus => {
                    let rank = (widths.inputs / RANK).max(1);
                    let down = b.linear_without_bias("x_proj", widths.inputs, rank)?;
                    Some(Gate { name: b.path("input_gate"), down, up: b.linear("dt_proj", rank, widths.values)? })
                }
            };
            let mixing = match forget_gate {
                ForgetGate::Absent => Mixing::All(form),
                ForgetGate::Recurrent => {
                    if form != LinearAttention::plain(heads) {
                        let what = "a forget gate beside other positions or without normalisation".into();
                        return Err(Error::Unsupported { what, why: "the paper changes one thing at a time".into() });
                    }
                    Mixing::Before(ForgetfulAttention::build(b, widths.inputs, widths.values, (keys, heads))?)
                }
            };
            let lepe = match positions {
                Encoding::Lepe => Some(b.conv("lepe", Convolution::depthwise(widths.values, 3))?),
                _ => None,
            };
            let shortcut = match shortcut {
                Shortcut::Absent => None,
                Shortcut::Learned => Some(b.parameter("D", &[widths.values], Init::Ones)?),
            };
            Ok(Self { names: [b.path("qk"), b.path("")], mixing, qk, value, ape, gate, lepe, shortcut })
        })
    }

    /// The attention of `x`, before the projection that follows it.
    pub(super) fn forward(&self, e: &E, x: E::Map, tap: &mut dyn Tap<E>) -> Result<E::Map> {
        let mut qk = e.linear(&x, &self.qk, Activation::None)?;
        if let Some(table) = &self.ape {
            qk = e.add_positions(qk, table)?;
        }
        let qk = tap.pass(&self.names[0], qk)?;
        let mut v = match &self.value {
            Some(value) => e.linear(&x, value, Activation::None)?,
            None => x.clone(),
        };
        if let Some(gate) = &self.gate {
            let low = e.linear(&x, &gate.down, Activation::None)?;
            let delta = tap.pass(&gate.name, e.linear(&low, &gate.up, Activation::Softplus)?)?;
            tap.mechanism(&self.names[1], Mechanism::InputGate(&delta))?;
            v = e.mul(v, &delta)?;
        }
        let mut mixed = match &self.mixing {
            Mixing::All(form) => {
                tap.mechanism(&self.names[1], Mechanism::LinearAttention { qk: &qk, form: *form })?;
                e.linear_attention(&qk, &v, *form)?
            }
            Mixing::Before(attention) => attention.forward(e, &x, &qk, &v, tap)?,
        };
        drop((x, qk));
        if let Some(factors) = &self.shortcut {
            mixed = e.add(mixed, &e.scale(v.clone(), factors)?)?;
        }
        if let Some(lepe) = &self.lepe {
            mixed = e.conv_residual(v, lepe, Residual::onto(mixed))?;
        }
        tap.pass(&self.names[1], mixed)
    }
}
