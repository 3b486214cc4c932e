//! What a model asks for, and where the values come from.

use std::borrow::Cow;
use std::ops::Range;

use half::{bf16, f16};

use crate::{Error, Result, Window};

/// How a parameter starts when no checkpoint gives it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// All zero.
    Zeros,
    /// All one.
    Ones,
    /// All `value`.
    Constant {
        /// The value.
        value: f32,
    },
    /// Normal with mean 0, drawn again beyond two absolute, as PyTorch's `trunc_normal_` with its default bounds.
    TruncatedNormal {
        /// Standard deviation.
        std: f32,
    },
    /// Uniform on `[-bound, bound]`.
    Uniform {
        /// Largest magnitude.
        bound: f32,
    },
    /// Normal with mean 0, drawn again beyond two deviations, so scaled that the variance of what is left is `1 / fan_in`
    /// (timm's `lecun_normal_`).
    LecunNormal {
        /// Values that each output sums up.
        fan_in: usize,
    },
    /// `ln 1, ln 2, ln 3, ...` along the last extent: `A_log` of Mamba, whose states decay at rates 1 to N.
    LogCount,
    /// Such that `softplus` of it is log-uniform on `[0.001, 0.1]`: the bias of Mamba's step sizes.
    StepSizeBias,
}

impl Init {
    /// Uniform within one over the root of `fan_in`, the values that an output sums up: PyTorch's layers.
    pub fn fan_in(fan_in: usize) -> Self {
        Self::Uniform { bound: 1.0 / (fan_in as f32).sqrt() }
    }
}

/// What a tensor of a checkpoint is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Trained by gradients.
    Parameter,
    /// Kept beside the parameters: running statistics.
    Buffer,
}

/// A tensor as a model asks for it; names and shapes are those of the released checkpoints.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    /// Full name, such as `layers.0.blocks.0.attn.qk.weight`.
    pub name: String,
    /// Extents in the checkpoint's own order.
    pub shape: Vec<usize>,
    /// How it starts without a checkpoint.
    pub init: Init,
    /// Parameter or buffer.
    pub kind: Kind,
    /// Whether weight decay applies: everything of two and more dimensions (spec: 1-D tensors and biases are exempt).
    pub decay: bool,
}

impl Wanted {
    /// A trained tensor.
    pub fn parameter(name: String, shape: &[usize], init: Init) -> Self {
        Self { name, shape: shape.to_vec(), init, kind: Kind::Parameter, decay: shape.len() > 1 }
    }

    /// A running statistic.
    pub fn buffer(name: String, shape: &[usize], init: Init) -> Self {
        Self { name, shape: shape.to_vec(), init, kind: Kind::Buffer, decay: false }
    }

    /// How many values it has.
    pub fn volume(&self) -> usize {
        self.shape.iter().product()
    }
}

/// Values of one tensor in their stored type: borrowed from a mapped file, or owned by an initialiser.
#[derive(Clone, Debug)]
pub enum Values<'a> {
    /// 32-bit.
    F32(Cow<'a, [f32]>),
    /// 16-bit, IEEE half precision.
    F16(Cow<'a, [f16]>),
    /// 16-bit, bfloat.
    Bf16(Cow<'a, [bf16]>),
    /// 64-bit.
    F64(Cow<'a, [f64]>),
}

impl<'a> Values<'a> {
    /// How many values there are.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(v) => v.len(),
            Self::F16(v) => v.len(),
            Self::Bf16(v) => v.len(),
            Self::F64(v) => v.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The values in f32, without a copy when they are stored so.
    pub fn into_f32(self) -> Cow<'a, [f32]> {
        match self {
            Self::F32(v) => v,
            Self::F16(v) => v.iter().map(|x| x.to_f32()).collect(),
            Self::Bf16(v) => v.iter().map(|x| x.to_f32()).collect(),
            Self::F64(v) => v.iter().map(|&x| x as f32).collect(),
        }
    }

    /// The values in f64, without a copy when they are stored so.
    pub fn into_f64(self) -> Cow<'a, [f64]> {
        match self {
            Self::F64(v) => v,
            other => other.into_f32().iter().map(|&x| f64::from(x)).collect(),
        }
    }
}

/// Where values come from: a checkpoint, an initialiser.
pub trait Source {
    /// The values of `wanted`, row-major in its shape.
    ///
    /// # Errors
    /// [`Error::Parameter`] if the source has no such tensor or one of another shape.
    fn load(&self, wanted: &Wanted) -> Result<Values<'_>>;

    /// [`load`](Self::load), with the number of values checked.
    ///
    /// # Errors
    /// Those of [`load`](Self::load), and [`Error::Parameter`] for a wrong number of values.
    fn fetch(&self, wanted: &Wanted) -> Result<Values<'_>> {
        let values = self.load(wanted)?;
        if values.len() == wanted.volume() {
            return Ok(values);
        }
        let problem = format!("expected {} values for {:?}, found {}", wanted.volume(), wanted.shape, values.len());
        Err(Error::parameter(&wanted.name, problem))
    }
}

/// A linear map, whose weight may be some of the rows of a tensor.
#[derive(Clone, Debug)]
pub struct LinearWanted {
    /// `[.., inputs]`: all extents but the last together are its rows.
    pub weight: Wanted,
    /// Which rows of the weight the outputs are.
    pub rows: Range<usize>,
    /// `[outputs]`.
    pub bias: Option<Wanted>,
}

impl LinearWanted {
    /// The map with all rows of `weight`.
    pub fn new(weight: Wanted, bias: Option<Wanted>) -> Self {
        let (inputs, volume) = (weight.shape.last().copied().unwrap_or(1), weight.volume());
        Self { rows: 0..volume / inputs.max(1), weight, bias }
    }

    /// Channels of the input map.
    pub fn inputs(&self) -> usize {
        self.weight.shape.last().copied().unwrap_or(1)
    }

    /// Channels of the output map.
    pub fn outputs(&self) -> usize {
        self.rows.len()
    }

    /// Which of the weight's values, row-major, are those of the rows.
    pub fn values(&self) -> Range<usize> {
        self.rows.start * self.inputs()..self.rows.end * self.inputs()
    }
}

/// A convolution, prepared whole so that an executor can fold the norm into it.
#[derive(Clone, Debug)]
pub struct ConvWanted {
    /// `[outputs, inputs / groups, kernel, kernel]`, or `[channels, 1, kernel]` of a causal convolution.
    pub weight: Wanted,
    /// `[outputs]`.
    pub bias: Option<Wanted>,
    /// Batch norm of the outputs.
    pub norm: Option<BatchNormWanted>,
    /// Kernel, stride and padding.
    pub window: Window,
    /// Groups; a depthwise convolution has as many as channels.
    pub groups: usize,
}

impl ConvWanted {
    /// Channels of the input map.
    pub fn inputs(&self) -> usize {
        self.weight.shape[1] * self.groups
    }

    /// Channels of the output map.
    pub fn outputs(&self) -> usize {
        self.weight.shape[0]
    }
}

/// A norm over channels.
#[derive(Clone, Debug)]
pub struct NormWanted {
    /// `[channels]`.
    pub weight: Wanted,
    /// What kind of norm.
    pub form: NormForm,
    /// Added to the variance, or to the mean square.
    pub eps: f64,
}

/// What a norm over channels does to a token before the weight.
#[derive(Clone, Debug)]
pub enum NormForm {
    /// Layer norm: takes the mean out, divides by the deviation, and adds a bias behind the weight.
    Layer {
        /// `[channels]`.
        bias: Wanted,
    },
    /// RMSNorm (arXiv 1910.07467): divides by the root mean square, without a bias.
    RootMeanSquare,
}

/// A batch norm over images and tokens.
#[derive(Clone, Debug)]
pub struct BatchNormWanted {
    /// Its parameter path.
    pub name: String,
    /// `[channels]`.
    pub weight: Wanted,
    /// `[channels]`.
    pub bias: Wanted,
    /// `[channels]`, a buffer.
    pub running_mean: Wanted,
    /// `[channels]`, a buffer.
    pub running_var: Wanted,
    /// Added to the variance.
    pub eps: f64,
}
