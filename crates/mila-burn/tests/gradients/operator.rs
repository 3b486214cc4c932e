//! The operators as values, each built and run by one body on any executor.

use mila_ops::{
    Activation, Builder, Convolution, Dims, DropPath, Executor, GatedConv, GatedInput, Init, LAYER_NORM_EPS,
    LinearAttention, Mlp, NoTap, Normalisation, NormedLinear, Onto, PatchOrder, Residual, Result, ScanOrder,
    TokenPlace, Windows, random,
};

/// An operator or composite of the algebra with its options.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Operator {
    Linear {
        bias: bool,
        then: Activation,
    },
    Conv(&'static str, fn(usize) -> Convolution),
    ConvNorm(Activation),
    ConvResidual {
        scaled: bool,
    },
    /// One convolution under one name, asked for and run twice.
    Shared,
    LayerNorm,
    RmsNorm,
    /// The last two thirds of a weight's rows, then the first.
    LinearRows,
    CausalConv(ScanOrder, Activation),
    /// A class token put among the tokens, these convolved and summed up, and the token taken out.
    ClassToken(TokenPlace),
    ScaleAll,
    BatchNorm,
    Activate(Activation),
    /// With queries and keys of so many times the values' channels.
    LinearAttention(LinearAttention, Ratio),
    AddPositions,
    Patches(PatchOrder),
    WindowAttention(Windows),
    Add,
    Mul,
    Square,
    /// The second half of the channels, then the first.
    Exchange,
    Scale,
    DropPath,
    MeanTokens,
    Pad(usize),
    GatedInput,
    GatedOutput,
    GatedConv,
    LinearResidual,
    Mlp,
}

/// Channels of queries, and of keys, for one of values.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ratio {
    Half,
    Equal,
}

impl Ratio {
    fn of(self, channels: usize) -> usize {
        match self {
            Self::Half => channels / 2,
            Self::Equal => channels,
        }
    }
}

/// Height and width of the grid of [`Operator::AddPositions`].
pub(crate) const GRID: (usize, usize) = (5, 7);

/// An operator with its parameters: maps to maps.
pub(crate) type Forward<E> = Box<dyn Fn(&E, &[<E as Executor>::Map]) -> Result<Vec<<E as Executor>::Map>>>;

fn drop_path(name: &str) -> DropPath {
    DropPath { rate: 0.4, site: random::site(name) }
}

impl std::fmt::Display for Operator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Conv(name, _) => write!(f, "Conv {name}"),
            other => write!(f, "{other:?}"),
        }
    }
}

impl Operator {
    /// Extents of the inputs, given that of the stream.
    pub(crate) fn inputs(self, dims: Dims) -> Vec<Dims> {
        match self {
            Self::LinearAttention(_, ratio) => vec![dims.with_channels(2 * ratio.of(dims.channels)), dims],
            Self::WindowAttention(_) => vec![dims.with_channels(3 * dims.channels)],
            Self::Add | Self::Mul | Self::LinearResidual | Self::ConvResidual { scaled: true } => vec![dims; 2],
            Self::GatedOutput => vec![dims; 3],
            _ => vec![dims],
        }
    }

    /// Whether the gradient of `variable` is zero in exact arithmetic, or so near that f32 holds only its rounding.
    pub(crate) fn vanishes(self, dims: Dims, variable: &str) -> bool {
        match self {
            // With one token the normaliser cancels q and k up to its eps.
            Self::LinearAttention(form, _) => {
                form.normalisation == Normalisation::Weights && dims.tokens() == 1 && variable == "input.0"
            }
            // One token has all the weight, whatever the scores are.
            Self::WindowAttention(_) => dims.tokens() == 1 && variable != "input.0",
            // The batch norm subtracts it again.
            Self::ConvNorm(_) => variable == "conv.bias",
            _ => false,
        }
    }

    /// Asks for the parameters, for a stream of `channels`.
    ///
    /// # Errors
    /// Those of the builder.
    pub(crate) fn build<E: Executor + 'static>(self, b: &mut Builder<E>, channels: usize) -> Result<Forward<E>> {
        Ok(match self {
            Self::Linear { bias, then } => {
                let p = if bias { b.linear("fc", channels, 12)? } else { b.linear_without_bias("fc", channels, 12)? };
                Box::new(move |e, x| Ok(vec![e.linear(&x[0], &p, then)?]))
            }
            Self::Conv(_, conv) => {
                let p = b.conv("conv", conv(channels))?;
                Box::new(move |e, x| Ok(vec![e.conv(&x[0], &p, Activation::None)?]))
            }
            Self::ConvNorm(then) => {
                let p = b.conv("conv", Convolution::new(channels, 12, 3).batch_norm("norm"))?;
                Box::new(move |e, x| Ok(vec![e.conv(&x[0], &p, then)?]))
            }
            Self::ConvResidual { scaled } => {
                let p = b.conv("conv", Convolution::depthwise(channels, 3))?;
                let gamma = b.parameter("gamma", &[channels], Init::Ones)?;
                Box::new(move |e, x| {
                    let add = match scaled {
                        false => Residual::onto_input(),
                        true => Residual {
                            onto: Onto::Map(x[1].clone()),
                            layer_scale: Some(&gamma),
                            drop_path: Some(drop_path("conv")),
                        },
                    };
                    Ok(vec![e.conv_residual(x[0].clone(), &p, add)?])
                })
            }
            Self::Shared => {
                let conv = Convolution::depthwise(channels, 3);
                let (first, second) = (b.conv("conv", conv)?, b.conv("conv", conv)?);
                Box::new(move |e, x| {
                    let x = e.conv(&x[0], &first, Activation::Silu)?;
                    Ok(vec![e.conv(&x, &second, Activation::None)?])
                })
            }
            Self::LayerNorm => {
                let p = b.layer_norm("norm", channels, LAYER_NORM_EPS)?;
                Box::new(move |e, x| Ok(vec![e.layer_norm(&x[0], &p)?]))
            }
            Self::RmsNorm => {
                let p = b.rms_norm("norm", channels, LAYER_NORM_EPS)?;
                Box::new(move |e, x| Ok(vec![e.layer_norm(&x[0], &p)?]))
            }
            Self::LinearRows => {
                let rows = |b: &mut Builder<E>, rows| b.linear_rows("weight", &[3, 4, channels], rows, Init::Zeros);
                let (first, second) = (rows(b, 4..12)?, rows(b, 0..4)?);
                Box::new(move |e, x| {
                    let y = e.linear(&x[0], &first, Activation::Silu)?;
                    Ok(vec![e.concat(&y, &e.linear(&x[0], &second, Activation::None)?)?])
                })
            }
            Self::CausalConv(order, then) => {
                let p = b.causal_conv("conv1d", channels, 4)?;
                Box::new(move |e, x| Ok(vec![e.causal_conv(&x[0], &p, order, then)?]))
            }
            Self::ClassToken(place) => {
                let token = b.undecayed_parameter("cls_token", &[1, 1, channels], Init::Zeros)?;
                let p = b.causal_conv("conv1d", channels, 3)?;
                Box::new(move |e, x| {
                    let row = e.insert_token(&x[0], &token, place)?;
                    let row = e.causal_conv(&row, &p, ScanOrder::ROWS, Activation::None)?;
                    Ok(vec![e.take_token(&row, place)?, row])
                })
            }
            Self::ScaleAll => Box::new(|e, x| Ok(vec![e.scale_all(x[0].clone(), 0.5)?])),
            Self::BatchNorm => {
                let p = b.batch_norm("norm", channels)?;
                Box::new(move |e, x| Ok(vec![e.batch_norm(&x[0], &p)?]))
            }
            Self::Activate(then) => Box::new(move |e, x| Ok(vec![e.activate(x[0].clone(), then)?])),
            Self::LinearAttention(form, _) => Box::new(move |e, x| Ok(vec![e.linear_attention(&x[0], &x[1], form)?])),
            Self::AddPositions => {
                // One grid for the inputs of this operator, and fewer channels than they have.
                let table = b.undecayed_parameter("ape", &[GRID.0, GRID.1, channels / 2], Init::Zeros)?;
                Box::new(move |e, x| Ok(vec![e.add_positions(x[0].clone(), &table)?]))
            }
            Self::Patches(order) => Box::new(move |e, x| Ok(vec![e.patches(x[0].clone(), order)?])),
            Self::WindowAttention(windows) => {
                let heads = 2;
                let table =
                    b.parameter("attn.relative_position_bias_table", &[windows.offsets(), heads], Init::Zeros)?;
                Box::new(move |e, x| Ok(vec![e.window_attention(&x[0], &table, heads, windows)?]))
            }
            Self::Add => Box::new(|e, x| Ok(vec![e.add(x[0].clone(), &x[1])?])),
            Self::Mul => Box::new(|e, x| Ok(vec![e.mul(x[0].clone(), &x[1])?])),
            Self::Square => Box::new(|e, x| Ok(vec![e.mul(x[0].clone(), &x[0])?])),
            Self::Exchange => Box::new(move |e, x| {
                let [first, second] = [0..channels / 2, channels / 2..channels].map(|range| e.channels(&x[0], range));
                Ok(vec![e.concat(&second?, &first?)?])
            }),
            Self::Scale => {
                let p = b.parameter("gamma", &[channels], Init::Ones)?;
                Box::new(move |e, x| Ok(vec![e.scale(x[0].clone(), &p)?]))
            }
            Self::DropPath => Box::new(|e, x| Ok(vec![e.drop_path(x[0].clone(), drop_path("branch"))?])),
            Self::MeanTokens => Box::new(|e, x| Ok(vec![e.mean_tokens(&x[0])?])),
            Self::Pad(multiple) => Box::new(move |e, x| Ok(vec![e.pad_to_multiple(x[0].clone(), multiple)?])),
            Self::GatedInput => {
                let p = GatedInput {
                    norm_name: "norm1".into(),
                    norm: b.layer_norm("norm1", channels, LAYER_NORM_EPS)?,
                    gate: b.linear("act_proj", channels, channels)?,
                    inner: b.linear("in_proj", channels, channels)?,
                };
                Box::new(move |e, x| {
                    let (gate, inner) = e.gated_input(&x[0], &p, &mut NoTap)?;
                    Ok(vec![gate, inner])
                })
            }
            Self::GatedOutput => {
                let p = b.linear("out_proj", channels, channels)?;
                Box::new(move |e, x| {
                    let add = Residual { drop_path: Some(drop_path("attn")), ..Residual::onto(x[2].clone()) };
                    Ok(vec![e.gated_output(x[0].clone(), &x[1], &p, add)?])
                })
            }
            Self::GatedConv => {
                let hidden = 8 * channels / 3;
                let p = GatedConv {
                    input_name: "fc1".into(),
                    conv_name: "conv".into(),
                    name: "fc2".into(),
                    input: NormedLinear::build(b, ("norm", LAYER_NORM_EPS), "fc1", channels, 2 * hidden)?,
                    hidden,
                    convolved: channels,
                    conv: b.conv("conv", Convolution::depthwise(channels, 7))?,
                    fc2: b.linear("fc2", hidden, channels)?,
                    activation: Activation::Gelu,
                };
                Box::new(move |e, x| {
                    let add = Residual { drop_path: Some(drop_path("branch")), ..Residual::onto_input() };
                    Ok(vec![e.gated_conv(x[0].clone(), &p, add, &mut NoTap)?])
                })
            }
            Self::LinearResidual => {
                let p = b.linear("proj", channels, channels)?;
                Box::new(move |e, x| {
                    let add = Residual { drop_path: Some(drop_path("attn")), ..Residual::onto(x[1].clone()) };
                    Ok(vec![e.linear_residual(x[0].clone(), &p, add)?])
                })
            }
            Self::Mlp => {
                let p = Mlp::build(b, "norm2", LAYER_NORM_EPS, channels, 4 * channels)?;
                let gamma = b.parameter("gamma", &[channels], Init::Ones)?;
                Box::new(move |e, x| {
                    let (onto, drop_path) = (Onto::Input, Some(drop_path("mlp")));
                    let add = Residual { onto, layer_scale: Some(&gamma), drop_path };
                    Ok(vec![e.mlp(x[0].clone(), &p, add, &mut NoTap)?])
                })
            }
        })
    }
}
