//! The definition of every operator: slow, obvious, never sped up.
//!
//! Every other executor equals this one within the table of `docs/numerics.md`. It computes in f32 or f64 throughout,
//! and knows training ([`Mode::Train`]) so that gradients can be checked against its finite differences.

#![allow(clippy::needless_range_loop, reason = "definitions are written with the indices of their equations")]

mod array;
mod attention;
mod convolution;
mod grid;
mod norm;
mod real;
mod recurrence;
mod tokens;
mod windows;

use std::cell::RefCell;
use std::ops::Range;

pub use array::Array;
pub use real::Real;
pub use recurrence::{RecurrenceGradients, recurrence_gradients, softplus};

use crate::{
    Activation, BatchNormWanted, BatchStatistics, CausalConv, ConvWanted, Dims, DropPath, Executor, LinearAttention,
    LinearWanted, Mode, NormForm, NormWanted, Numeric, PatchOrder, RecurrenceOn, Result, ScanOrder, Source, TokenPlace,
    Wanted, Window, Windows, shape,
};

/// The reference executor over `f32` or `f64`.
#[derive(Debug)]
pub struct Reference<T> {
    mode: Mode,
    statistics: RefCell<Vec<BatchStatistics>>,
    number: std::marker::PhantomData<T>,
}

impl<T: Real> Reference<T> {
    /// An executor in `mode`.
    pub fn new(mode: Mode) -> Self {
        Self { mode, statistics: RefCell::default(), number: std::marker::PhantomData }
    }

    /// An executor that evaluates.
    pub fn eval() -> Self {
        Self::new(Mode::Eval)
    }

    /// Takes the batch statistics of the passes so far, in the order in which the norms ran.
    pub fn take_statistics(&self) -> Vec<BatchStatistics> {
        self.statistics.take()
    }
}

/// Weight `[outputs, inputs]` and bias.
#[derive(Debug)]
pub struct Linear<T> {
    weight: Vec<T>,
    bias: Option<Vec<T>>,
    inputs: usize,
    outputs: usize,
}

/// Weight `[outputs, inputs / groups, kernel, kernel]`, bias and norm.
#[derive(Debug)]
pub struct Conv<T> {
    weight: Vec<T>,
    bias: Option<Vec<T>>,
    norm: Option<BatchNorm<T>>,
    window: Window,
    groups: usize,
    inputs: usize,
    outputs: usize,
}

/// Weight, bias and eps of a norm over channels; RMSNorm has no bias.
#[derive(Debug)]
pub struct Norm<T> {
    weight: Vec<T>,
    bias: Option<Vec<T>>,
    eps: T,
}

/// Weight, bias, running statistics and eps of a batch norm.
#[derive(Debug)]
pub struct BatchNorm<T> {
    name: String,
    weight: Vec<T>,
    bias: Vec<T>,
    mean: Vec<T>,
    variance: Vec<T>,
    eps: T,
}

/// A raw parameter.
#[derive(Debug)]
pub struct Table<T> {
    values: Vec<T>,
    shape: Vec<usize>,
}

/// A table of one axis.
impl<T> From<Vec<T>> for Table<T> {
    fn from(values: Vec<T>) -> Self {
        Self { shape: vec![values.len()], values }
    }
}

fn fetch<T: Real>(source: &dyn Source, wanted: &Wanted) -> Result<Vec<T>> {
    Ok(source.fetch(wanted)?.into_f64().iter().map(|&x| T::of(x)).collect())
}

fn activated<T: Real>(x: T, activation: Activation) -> T {
    let one = T::one();
    match activation {
        Activation::None => x,
        // Not `max`, which would hide a NaN.
        Activation::Relu => {
            if x < T::zero() {
                T::zero()
            } else {
                x
            }
        }
        Activation::Silu => x / (one + (-x).exp()),
        Activation::Gelu => T::of(0.5) * x * (one + (x * T::of(std::f64::consts::FRAC_1_SQRT_2)).erf()),
        Activation::EluPlusOne => {
            if x > T::zero() {
                x + one
            } else {
                x.exp()
            }
        }
        // Above zero by its own reflection, so that nothing overflows. Not `max`, which would hide a NaN.
        Activation::Softplus => softplus(x),
    }
}

impl<T: Real> Executor for Reference<T> {
    type Map = Array<T>;
    type Linear = Linear<T>;
    type Conv = Conv<T>;
    type Norm = Norm<T>;
    type BatchNorm = BatchNorm<T>;
    type Parameter = Table<T>;

    fn prepare_linear(&mut self, wanted: LinearWanted, source: &dyn Source) -> Result<Linear<T>> {
        Ok(Linear {
            weight: fetch(source, &wanted.weight)?[wanted.values()].to_vec(),
            bias: wanted.bias.as_ref().map(|b| fetch(source, b)).transpose()?,
            inputs: wanted.inputs(),
            outputs: wanted.outputs(),
        })
    }

    fn prepare_conv(&mut self, wanted: ConvWanted, source: &dyn Source) -> Result<Conv<T>> {
        Ok(Conv {
            weight: fetch(source, &wanted.weight)?,
            bias: wanted.bias.as_ref().map(|b| fetch(source, b)).transpose()?,
            window: wanted.window,
            groups: wanted.groups,
            inputs: wanted.inputs(),
            outputs: wanted.outputs(),
            norm: wanted.norm.map(|n| self.prepare_batch_norm(n, source)).transpose()?,
        })
    }

    fn prepare_layer_norm(&mut self, wanted: NormWanted, source: &dyn Source) -> Result<Norm<T>> {
        let bias = match &wanted.form {
            NormForm::Layer { bias } => Some(fetch(source, bias)?),
            NormForm::RootMeanSquare => None,
        };
        Ok(Norm { weight: fetch(source, &wanted.weight)?, bias, eps: T::of(wanted.eps) })
    }

    fn prepare_batch_norm(&mut self, wanted: BatchNormWanted, source: &dyn Source) -> Result<BatchNorm<T>> {
        Ok(BatchNorm {
            weight: fetch(source, &wanted.weight)?,
            bias: fetch(source, &wanted.bias)?,
            mean: fetch(source, &wanted.running_mean)?,
            variance: fetch(source, &wanted.running_var)?,
            eps: T::of(wanted.eps),
            name: wanted.name,
        })
    }

    fn prepare_parameter(&mut self, wanted: Wanted, source: &dyn Source) -> Result<Table<T>> {
        Ok(Table { values: fetch(source, &wanted)?, shape: wanted.shape })
    }

    fn linear(&self, x: &Array<T>, p: &Linear<T>, then: Activation) -> Result<Array<T>> {
        shape::channels("linear", p.inputs, x.dims.channels)?;
        let mut values = Vec::with_capacity(x.dims.rows() * p.outputs);
        for token in x.tokens() {
            for (output, weights) in p.weight.chunks_exact(p.inputs).enumerate() {
                let product: T = token.iter().zip(weights).map(|(&a, &b)| a * b).sum();
                let bias = p.bias.as_ref().map_or(T::zero(), |b| b[output]);
                values.push(activated(product + bias, then));
            }
        }
        Ok(Array { dims: x.dims.with_channels(p.outputs), values })
    }

    fn convolve(&self, x: &Array<T>, p: &Conv<T>) -> Result<Array<T>> {
        convolution::convolve(x, p)
    }

    fn norm_of<'a>(&self, p: &'a Conv<T>) -> Option<&'a BatchNorm<T>> {
        p.norm.as_ref()
    }

    fn batch_norm(&self, x: &Array<T>, p: &BatchNorm<T>) -> Result<Array<T>> {
        match self.mode {
            Mode::Eval => norm::batch_norm(x, p, &p.mean, &p.variance),
            Mode::Train { .. } => {
                let batch = norm::batch_statistics(x, p)?;
                let unbiased = x.dims.rows() as f64 / (x.dims.rows() - 1) as f64;
                self.statistics.borrow_mut().push(BatchStatistics {
                    name: p.name.clone(),
                    mean: batch.0.iter().map(|m| m.double() as f32).collect(),
                    variance: batch.1.iter().map(|v| (v.double() * unbiased) as f32).collect(),
                });
                norm::batch_norm(x, p, &batch.0, &batch.1)
            }
        }
    }

    fn layer_norm(&self, x: &Array<T>, p: &Norm<T>) -> Result<Array<T>> {
        norm::layer_norm(x, p)
    }

    fn activate(&self, x: Array<T>, then: Activation) -> Result<Array<T>> {
        Ok(x.map(|v| activated(v, then)))
    }

    fn window_attention(&self, qkv: &Array<T>, table: &Table<T>, heads: usize, windows: Windows) -> Result<Array<T>> {
        windows::window_attention(qkv, &table.values, heads, windows)
    }

    fn linear_attention(&self, qk: &Array<T>, v: &Array<T>, form: LinearAttention) -> Result<Array<T>> {
        attention::linear_attention(qk, v, form)
    }

    fn recurrence(&self, r: &RecurrenceOn<'_, Self>) -> Result<(Array<T>, Array<T>)> {
        recurrence::recurrence(r)
    }

    fn add(&self, a: Array<T>, b: &Array<T>) -> Result<Array<T>> {
        shape::same("add", &a.dims, &b.dims)?;
        Ok(a.zip(b, |x, y| x + y))
    }

    fn mul(&self, a: Array<T>, b: &Array<T>) -> Result<Array<T>> {
        shape::same("mul", &a.dims, &b.dims)?;
        Ok(a.zip(b, |x, y| x * y))
    }

    fn channels(&self, x: &Array<T>, range: Range<usize>) -> Result<Array<T>> {
        shape::channel_range(&range, x.dims.channels)?;
        let values = x.tokens().flat_map(|token| &token[range.clone()]).copied().collect();
        Ok(Array { dims: x.dims.with_channels(range.len()), values })
    }

    fn concat(&self, a: &Array<T>, b: &Array<T>) -> Result<Array<T>> {
        shape::same("concat", &a.dims.with_channels(b.dims.channels), &b.dims)?;
        let values = a.tokens().zip(b.tokens()).flat_map(|(a, b)| a.iter().chain(b)).copied().collect();
        Ok(Array { dims: a.dims.with_channels(a.dims.channels + b.dims.channels), values })
    }

    fn causal_conv(&self, x: &Array<T>, p: &CausalConv<Self>, order: ScanOrder, then: Activation) -> Result<Array<T>> {
        tokens::causal_conv(x, p, order, then)
    }

    fn insert_token(&self, x: &Array<T>, token: &Table<T>, place: TokenPlace) -> Result<Array<T>> {
        tokens::insert_token(x, &token.values, place)
    }

    fn take_token(&self, x: &Array<T>, place: TokenPlace) -> Result<Array<T>> {
        tokens::take_token(x, place)
    }

    fn require_grid(&self, x: &Array<T>, grid: [usize; 2]) -> Result<()> {
        shape::grid(grid, [x.dims.height, x.dims.width])
    }

    fn scale_all(&self, x: Array<T>, factor: f32) -> Result<Array<T>> {
        let factor = T::of(f64::from(factor));
        Ok(x.map(|v| v * factor))
    }

    fn scale(&self, mut x: Array<T>, factors: &Table<T>) -> Result<Array<T>> {
        let factors = &factors.values;
        shape::channels("scale", factors.len(), x.dims.channels)?;
        for token in x.values.chunks_exact_mut(factors.len()) {
            token.iter_mut().zip(factors).for_each(|(v, &f)| *v = *v * f);
        }
        Ok(x)
    }

    fn add_positions(&self, x: Array<T>, table: &Table<T>) -> Result<Array<T>> {
        grid::add_positions(x, table)
    }

    fn patches(&self, x: Array<T>, order: PatchOrder) -> Result<Array<T>> {
        grid::patches(&x, order)
    }

    fn drop_path(&self, mut x: Array<T>, drop: DropPath) -> Result<Array<T>> {
        let image = x.dims.tokens() * x.dims.channels;
        for (sample, values) in x.values.chunks_exact_mut(image).enumerate() {
            let factor = T::of(f64::from(drop.factor(self.mode, sample)));
            values.iter_mut().for_each(|v| *v = *v * factor);
        }
        Ok(x)
    }

    fn mean_tokens(&self, x: &Array<T>) -> Result<Array<T>> {
        let mut out = Array::zeros(Dims { height: 1, width: 1, ..x.dims });
        for b in 0..x.dims.batch {
            for c in 0..x.dims.channels {
                let sum: T =
                    (0..x.dims.tokens()).map(|n| x.values[(b * x.dims.tokens() + n) * x.dims.channels + c]).sum();
                out.values[b * x.dims.channels + c] = sum / T::of(x.dims.tokens() as f64);
            }
        }
        Ok(out)
    }

    fn pad_to_multiple(&self, x: Array<T>, multiple: usize) -> Result<Array<T>> {
        grid::pad_to_multiple(&x, multiple)
    }
}

impl<T: Real> Numeric for Reference<T> {
    fn map(&self, dims: Dims, values: &[f32]) -> Result<Array<T>> {
        Array::checked(dims, values.iter().map(|&v| T::of(f64::from(v))).collect())
    }

    fn read(&self, map: &Array<T>) -> Result<Array<f32>> {
        Ok(Array { dims: map.dims, values: map.values.iter().map(|v| v.double() as f32).collect() })
    }

    fn read_parameter(&self, parameter: &Table<T>) -> Result<Vec<f32>> {
        Ok(parameter.values.iter().map(|v| v.double() as f32).collect())
    }
}
