//! The operator algebra over Burn tensors.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use burn::tensor::{Device, Gradients, Tensor};
use mila_kernels::batch_norm::BatchStatistics as KernelStatistics;
use mila_kernels::isa::Isa;
use mila_ops::{
    Activation, BatchNormWanted, BatchStatistics, CausalConv, ConvWanted, Dims, DropPath, Error, Executor,
    LinearAttention, LinearWanted, Mode, NormForm, NormWanted, Numeric, PatchOrder, RecurrenceOn, Result, ScanOrder,
    Source, TokenPlace, Wanted, Window, Windows, shape,
};

use crate::operation::{Call, Operation};
use mila_ops::reference::Array;

use crate::{Handle, Store, extension, portable, recurrence, sequence, windows};

/// How the operators are carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// One custom operation over the kernels of `mila-kernels`: CPU only.
    Kernels(Isa),
    /// Compositions of Burn's own operators: every device.
    Portable,
}

impl Form {
    /// The instruction set for what is computed on the host in either form.
    pub(crate) fn isa(self) -> Isa {
        match self {
            Self::Kernels(isa) => isa,
            Self::Portable => Isa::detect(),
        }
    }
}

/// The Burn executor: declares parameters, or runs models over a store's values.
#[derive(Debug)]
pub struct Burn {
    mode: Mode,
    form: Form,
    store: Store,
    /// What operators read: the store's values, as autodiff leaves when gradients are wanted.
    leaves: Arc<Vec<Tensor<1>>>,
    statistics: RefCell<Vec<BatchStatistics>>,
}

impl Burn {
    /// An executor on the CPU that builds models and gathers their parameters.
    pub fn declare() -> Self {
        Self::over(Store::new(Device::flex()), Mode::Eval, Form::Kernels(Isa::detect()))
    }

    /// What the models built so far asked for.
    pub fn into_store(self) -> Store {
        self.store
    }

    /// An executor that evaluates with the values of `store`, without gradients.
    pub fn eval(store: Store) -> Self {
        let leaves = (0..store.len()).map(|i| store.value(Handle(i))).collect();
        Self { leaves: Arc::new(leaves), ..Self::over(store, Mode::Eval, Form::Kernels(Isa::detect())) }
    }

    /// An executor that trains: batch statistics, drop path by `(seed, step)`, a gradient for every parameter.
    pub fn train(store: Store, seed: u64, step: u64) -> Self {
        let leaf = |i: usize| match store.manifest()[i].kind {
            mila_ops::Kind::Parameter => store.value(Handle(i)).autodiff().require_grad(),
            mila_ops::Kind::Buffer => store.value(Handle(i)).autodiff(),
        };
        let leaves = Arc::new((0..store.len()).map(leaf).collect());
        let mode = Mode::Train { seed, step };
        Self { leaves, ..Self::over(store, mode, Form::Kernels(Isa::detect())) }
    }

    fn over(store: Store, mode: Mode, form: Form) -> Self {
        Self { mode, form, store, leaves: Arc::default(), statistics: RefCell::default() }
    }

    /// The same executor with its operators carried out in another form.
    #[must_use]
    pub fn with_form(self, form: Form) -> Self {
        Self { form, ..self }
    }

    /// Takes the batch statistics of the passes so far, in the order in which the norms ran.
    pub fn take_statistics(&self) -> Vec<BatchStatistics> {
        self.statistics.take()
    }

    /// Takes the gradient of the parameter behind `handle` out of `gradients`, row-major in its shape; none if the
    /// loss does not depend on it.
    ///
    /// # Errors
    /// [`Error::Backend`] if the device cannot be read.
    pub fn gradient(&self, handle: Handle, gradients: &mut Gradients) -> Result<Option<Vec<f32>>> {
        self.leaf(handle).grad_remove(gradients).map(values).transpose()
    }

    pub(crate) fn form(&self) -> Form {
        self.form
    }

    pub(crate) fn leaf(&self, handle: Handle) -> Tensor<1> {
        self.leaves[handle.0].clone()
    }

    /// Some of the values of a leaf.
    fn part(&self, handle: Handle, values: &Range<usize>) -> Tensor<1> {
        let leaf = self.leaf(handle);
        if *values == (0..leaf.dims()[0]) { leaf } else { leaf.narrow(0, values.start, values.len()) }
    }

    fn optional(&self, handle: Option<Handle>) -> Option<Tensor<1>> {
        handle.map(|handle| self.leaf(handle))
    }

    fn call(&self, isa: Isa, operation: Operation, inputs: [Option<Tensor<1>>; 2], x: Tensor<4>) -> Tensor<4> {
        let bias = inputs[1].is_some();
        extension::apply(Call { isa, operation, bias }, x, inputs)
    }
}

/// The values of a tensor, row-major.
pub(crate) fn values<const D: usize>(tensor: Tensor<D>) -> Result<Vec<f32>> {
    let backend = |source| Error::Backend { executor: "burn", source };
    let data = tensor.try_into_data().map_err(|error| backend(format!("{error:?}").into()))?;
    data.try_into_vec::<f32>().map_err(|error| backend(format!("{error:?}").into()))
}

/// The extent of a map.
pub(crate) fn dims(x: &Tensor<4>) -> Dims {
    let [batch, height, width, channels] = x.dims();
    Dims { batch, height, width, channels }
}

/// Handles of a linear map.
#[derive(Clone, Debug)]
pub struct Linear {
    weight: Handle,
    /// Which of the weight's values.
    values: Range<usize>,
    bias: Option<Handle>,
    inputs: usize,
    outputs: usize,
}

/// Handles of a convolution and its norm.
#[derive(Clone, Debug)]
pub struct Conv {
    weight: Handle,
    bias: Option<Handle>,
    norm: Option<BatchNorm>,
    window: Window,
    groups: usize,
    inputs: usize,
    outputs: usize,
}

/// Handles of a norm over channels.
#[derive(Clone, Copy, Debug)]
pub struct Norm {
    weight: Handle,
    /// Of a layer norm.
    bias: Option<Handle>,
    channels: usize,
    eps: f64,
}

/// Handles of a batch norm.
#[derive(Clone, Debug)]
pub struct BatchNorm {
    name: String,
    weight: Handle,
    bias: Handle,
    mean: Handle,
    variance: Handle,
    channels: usize,
    eps: f64,
}

/// Handle of a raw parameter.
#[derive(Clone, Copy, Debug)]
pub struct Parameter {
    pub(crate) handle: Handle,
    pub(crate) volume: usize,
    /// Its extents where it is `[height, width, channels]`.
    grid: Option<[usize; 3]>,
}

impl Executor for Burn {
    type Map = Tensor<4>;
    type Linear = Linear;
    type Conv = Conv;
    type Norm = Norm;
    type BatchNorm = BatchNorm;
    type Parameter = Parameter;

    fn prepare_linear(&mut self, wanted: LinearWanted, source: &dyn Source) -> Result<Linear> {
        let (outputs, inputs, values) = (wanted.outputs(), wanted.inputs(), wanted.values());
        let weight = self.store.declare(wanted.weight, source)?;
        let bias = wanted.bias.map(|bias| self.store.declare(bias, source)).transpose()?;
        Ok(Linear { weight, values, bias, inputs, outputs })
    }

    fn prepare_conv(&mut self, wanted: ConvWanted, source: &dyn Source) -> Result<Conv> {
        let (inputs, outputs, window, groups) = (wanted.inputs(), wanted.outputs(), wanted.window, wanted.groups);
        if groups != 1 && (groups != inputs || groups != outputs) {
            let what = format!("a convolution of {groups} groups for {inputs} channels");
            return Err(Error::Unsupported { what, why: "groups are one, or as many as channels".into() });
        }
        let weight = self.store.declare(wanted.weight, source)?;
        let bias = wanted.bias.map(|bias| self.store.declare(bias, source)).transpose()?;
        let norm = wanted.norm.map(|norm| self.prepare_batch_norm(norm, source)).transpose()?;
        Ok(Conv { weight, bias, norm, window, groups, inputs, outputs })
    }

    fn prepare_layer_norm(&mut self, wanted: NormWanted, source: &dyn Source) -> Result<Norm> {
        let (channels, eps) = (wanted.weight.volume(), wanted.eps);
        let weight = self.store.declare(wanted.weight, source)?;
        let bias = match wanted.form {
            NormForm::Layer { bias } => Some(self.store.declare(bias, source)?),
            NormForm::RootMeanSquare => None,
        };
        Ok(Norm { weight, bias, channels, eps })
    }

    fn prepare_batch_norm(&mut self, wanted: BatchNormWanted, source: &dyn Source) -> Result<BatchNorm> {
        Ok(BatchNorm {
            channels: wanted.weight.volume(),
            weight: self.store.declare(wanted.weight, source)?,
            bias: self.store.declare(wanted.bias, source)?,
            mean: self.store.declare(wanted.running_mean, source)?,
            variance: self.store.declare(wanted.running_var, source)?,
            name: wanted.name,
            eps: wanted.eps,
        })
    }

    fn prepare_parameter(&mut self, wanted: Wanted, source: &dyn Source) -> Result<Parameter> {
        let (volume, grid) = (wanted.volume(), wanted.shape.as_slice().try_into().ok());
        Ok(Parameter { handle: self.store.declare(wanted, source)?, volume, grid })
    }

    fn linear(&self, x: &Tensor<4>, p: &Linear, then: Activation) -> Result<Tensor<4>> {
        shape::channels("linear", p.inputs, x.dims()[3])?;
        let (x, weight, bias) = (x.clone(), self.part(p.weight, &p.values), self.optional(p.bias));
        let y = match self.form {
            Form::Kernels(isa) => {
                let operation = Operation::Linear { inputs: p.inputs, outputs: p.outputs };
                self.call(isa, operation, [Some(weight), bias], x)
            }
            Form::Portable => portable::linear(x, weight, bias, p.outputs),
        };
        self.activate(y, then)
    }

    fn convolve(&self, x: &Tensor<4>, p: &Conv) -> Result<Tensor<4>> {
        shape::channels("convolution", p.inputs, x.dims()[3])?;
        let (x, weight, bias) = (x.clone(), self.leaf(p.weight), self.optional(p.bias));
        Ok(match self.form {
            Form::Kernels(isa) if p.groups == 1 => {
                let operation = Operation::Conv { inputs: p.inputs, outputs: p.outputs, window: p.window };
                self.call(isa, operation, [Some(weight), bias], portable::fitted(x, p.window))
            }
            Form::Kernels(isa) => {
                let operation = Operation::Depthwise { channels: p.inputs, window: p.window };
                self.call(isa, operation, [Some(weight), bias], portable::fitted(x, p.window))
            }
            Form::Portable => portable::convolve(x, weight, bias, p.window, p.groups, p.outputs),
        })
    }

    fn norm_of<'a>(&self, p: &'a Conv) -> Option<&'a BatchNorm> {
        p.norm.as_ref()
    }

    fn batch_norm(&self, x: &Tensor<4>, p: &BatchNorm) -> Result<Tensor<4>> {
        shape::channels("batch norm", p.channels, x.dims()[3])?;
        let (weight, bias) = (self.leaf(p.weight), self.leaf(p.bias));
        if self.mode == Mode::Eval {
            let [mean, variance] = [p.mean, p.variance].map(|handle| self.leaf(handle).reshape([1, 1, 1, p.channels]));
            return Ok(portable::batch_norm(x.clone(), (mean, variance), weight, bias, p.eps));
        }
        let rows = dims(x).rows();
        if rows < 2 {
            let found = format!("{rows} at {}", p.name);
            return Err(Error::shape("batch norm in training", "more than one value a channel", found));
        }
        let (y, mean, variance) = match self.form {
            Form::Kernels(isa) => {
                let statistics = Arc::new(OnceLock::new());
                let operation = Operation::BatchNorm { eps: p.eps, statistics: Arc::clone(&statistics) };
                let y = self.call(isa, operation, [Some(weight), Some(bias)], x.clone());
                let found: &KernelStatistics = statistics.get().ok_or_else(|| Error::Backend {
                    executor: "burn",
                    source: "the batch norm left no statistics".into(),
                })?;
                (y, found.mean.clone(), found.unbiased_variance.clone())
            }
            Form::Portable => {
                let (mean, variance) = portable::batch_statistics(x.clone());
                let read = |t: &Tensor<4>| values(t.clone().inner());
                let unbiased = rows as f32 / (rows - 1) as f32;
                let stored = (read(&mean)?, read(&variance)?.iter().map(|v| v * unbiased).collect());
                (portable::batch_norm(x.clone(), (mean, variance), weight, bias, p.eps), stored.0, stored.1)
            }
        };
        self.statistics.borrow_mut().push(BatchStatistics { name: p.name.clone(), mean, variance });
        Ok(y)
    }

    fn layer_norm(&self, x: &Tensor<4>, p: &Norm) -> Result<Tensor<4>> {
        shape::channels("layer norm", p.channels, x.dims()[3])?;
        let (weight, bias, eps) = (self.leaf(p.weight), self.optional(p.bias), p.eps);
        Ok(match (self.form, bias) {
            (Form::Kernels(isa), None) => self.call(isa, Operation::RmsNorm { eps }, [Some(weight), None], x.clone()),
            (Form::Kernels(isa), bias) => self.call(isa, Operation::LayerNorm { eps }, [Some(weight), bias], x.clone()),
            (Form::Portable, Some(bias)) => portable::layer_norm(x.clone(), weight, bias, eps),
            (Form::Portable, None) => sequence::rms_norm(x.clone(), weight, eps),
        })
    }

    fn activate(&self, x: Tensor<4>, then: Activation) -> Result<Tensor<4>> {
        Ok(match (then, self.form) {
            (Activation::None, _) => x,
            (_, Form::Kernels(isa)) => self.call(isa, Operation::Activate(then), [None, None], x),
            (_, Form::Portable) => portable::activate(x, then),
        })
    }

    fn window_attention(&self, qkv: &Tensor<4>, p: &Parameter, heads: usize, windows: Windows) -> Result<Tensor<4>> {
        shape::window_attention(qkv.dims()[3], p.volume, heads, windows)?;
        let (qkv, table) = (qkv.clone(), self.leaf(p.handle));
        Ok(match self.form {
            Form::Kernels(isa) => {
                self.call(isa, Operation::WindowAttention { heads, windows }, [Some(table), None], qkv)
            }
            Form::Portable => windows::window_attention(qkv, table, heads, windows),
        })
    }

    fn linear_attention(&self, qk: &Tensor<4>, v: &Tensor<4>, form: LinearAttention) -> Result<Tensor<4>> {
        let extent = dims(v);
        shape::attention(qk.dims()[3], extent.channels, form)?;
        shape::same("linear attention", &extent.with_channels(qk.dims()[3]), &dims(qk))?;
        Ok(match self.form {
            Form::Kernels(isa) => {
                let call = Call { isa, operation: Operation::LinearAttention { dims: extent, form }, bias: false };
                extension::apply_pair(call, qk.clone(), v.clone())
            }
            Form::Portable => portable::linear_attention(qk.clone(), v.clone(), form),
        })
    }

    fn recurrence(&self, r: &RecurrenceOn<'_, Self>) -> Result<(Tensor<4>, Tensor<4>)> {
        recurrence::recurrence(self, r)
    }

    fn add(&self, a: Tensor<4>, b: &Tensor<4>) -> Result<Tensor<4>> {
        shape::same("add", &dims(&a), &dims(b))?;
        Ok(a + b.clone())
    }

    fn mul(&self, a: Tensor<4>, b: &Tensor<4>) -> Result<Tensor<4>> {
        shape::same("mul", &dims(&a), &dims(b))?;
        Ok(a * b.clone())
    }

    fn channels(&self, x: &Tensor<4>, range: Range<usize>) -> Result<Tensor<4>> {
        shape::channel_range(&range, x.dims()[3])?;
        Ok(x.clone().narrow(3, range.start, range.len()))
    }

    fn concat(&self, a: &Tensor<4>, b: &Tensor<4>) -> Result<Tensor<4>> {
        shape::same("concat", &dims(a).with_channels(b.dims()[3]), &dims(b))?;
        Ok(Tensor::cat(vec![a.clone(), b.clone()], 3))
    }

    fn causal_conv(
        &self,
        x: &Tensor<4>,
        p: &CausalConv<Self>,
        order: ScanOrder,
        then: Activation,
    ) -> Result<Tensor<4>> {
        let [_, height, width, channels] = x.dims();
        shape::channels("causal convolution", p.conv.inputs, channels)?;
        let steps = order.steps(height, width)?;
        let (table, taps) = (steps.sources(p.taps), p.taps);
        let (weight, bias) = (self.leaf(p.conv.weight), self.optional(p.conv.bias));
        let y = match self.form {
            Form::Kernels(isa) => {
                let operation = Operation::CausalConv { taps, tables: Arc::new([table, steps.readers(taps)]) };
                self.call(isa, operation, [Some(weight), bias], x.clone())
            }
            Form::Portable => sequence::causal_conv(x.clone(), weight, bias, &table, taps),
        };
        Ok(sequence::at_visited(self.activate(y, then)?, &steps))
    }

    fn insert_token(&self, x: &Tensor<4>, token: &Parameter, place: TokenPlace) -> Result<Tensor<4>> {
        shape::channels("class token", token.volume, x.dims()[3])?;
        Ok(sequence::insert_token(x.clone(), self.leaf(token.handle), place))
    }

    fn take_token(&self, x: &Tensor<4>, place: TokenPlace) -> Result<Tensor<4>> {
        let [_, height, width, _] = x.dims();
        shape::token_row(&height, height == 1)?;
        Ok(x.clone().narrow(2, place.index(width - 1), 1))
    }

    fn require_grid(&self, x: &Tensor<4>, grid: [usize; 2]) -> Result<()> {
        let [_, height, width, _] = x.dims();
        shape::grid(grid, [height, width])
    }

    fn scale_all(&self, x: Tensor<4>, factor: f32) -> Result<Tensor<4>> {
        Ok(x * factor)
    }

    fn scale(&self, x: Tensor<4>, p: &Parameter) -> Result<Tensor<4>> {
        shape::channels("scale", p.volume, x.dims()[3])?;
        let factors = self.leaf(p.handle);
        Ok(match self.form {
            Form::Kernels(isa) => self.call(isa, Operation::Scale, [Some(factors), None], x),
            Form::Portable => x * factors.reshape([1, 1, 1, p.volume]),
        })
    }

    fn add_positions(&self, x: Tensor<4>, p: &Parameter) -> Result<Tensor<4>> {
        let Some([height, width, channels]) = p.grid else {
            let found = format!("{} values in another form", p.volume);
            return Err(Error::shape("absolute positions", "a table [height, width, channels]", found));
        };
        let extent = dims(&x);
        shape::positions([height, width, channels], [extent.height, extent.width, extent.channels])?;
        let table = self.leaf(p.handle).reshape([1, extent.height, extent.width, channels]);
        Ok(portable::add_positions(x, table))
    }

    fn patches(&self, x: Tensor<4>, order: PatchOrder) -> Result<Tensor<4>> {
        let [_, height, width, _] = x.dims();
        shape::patches(height, width)?;
        Ok(portable::patches(x, order))
    }

    fn drop_path(&self, x: Tensor<4>, drop: DropPath) -> Result<Tensor<4>> {
        if self.mode == Mode::Eval {
            return Ok(x);
        }
        let batch = x.dims()[0];
        let factors: Vec<f32> = (0..batch).map(|sample| drop.factor(self.mode, sample)).collect();
        let factors = Tensor::<1>::from_floats(factors.as_slice(), self.store.device()).autodiff();
        Ok(x * factors.reshape([batch, 1, 1, 1]))
    }

    fn mean_tokens(&self, x: &Tensor<4>) -> Result<Tensor<4>> {
        if let Form::Kernels(isa) = self.form {
            return Ok(self.call(isa, Operation::MeanTokens, [None, None], x.clone()));
        }
        let [batch, height, width, channels] = x.dims();
        let tokens = x.clone().reshape([batch, height * width, channels]);
        Ok(tokens.mean_dim(1).reshape([batch, 1, 1, channels]))
    }

    fn pad_to_multiple(&self, x: Tensor<4>, multiple: usize) -> Result<Tensor<4>> {
        shape::multiple(multiple)?;
        let [_, height, width, _] = x.dims();
        let up = |n: usize| n.div_ceil(multiple) * multiple;
        Ok(portable::padded(x, up(height), up(width)))
    }
}

impl Numeric for Burn {
    fn evaluating(self) -> Self {
        let form = self.form;
        Self::eval(self.into_store()).with_form(form)
    }

    fn map(&self, dims: Dims, values: &[f32]) -> Result<Tensor<4>> {
        shape::input(dims, values.len())?;
        let tensor = Tensor::<1>::from_floats(values, self.store.device());
        Ok(tensor.reshape([dims.batch, dims.height, dims.width, dims.channels]))
    }

    fn read(&self, map: &Tensor<4>) -> Result<Array<f32>> {
        Ok(Array { dims: dims(map), values: values(map.clone().inner())? })
    }

    fn read_parameter(&self, parameter: &Parameter) -> Result<Vec<f32>> {
        self.store.read(parameter.handle)
    }
}
