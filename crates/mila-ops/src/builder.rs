//! How a model asks for its parameters: by name, layer by layer, in the order of the released checkpoints.

use std::ops::Range;

use crate::{
    BatchNormWanted, CausalConv, ConvWanted, DropPath, Error, Executor, Init, LinearWanted, NormForm, NormWanted,
    Result, Source, Wanted, Window, random,
};

/// What linear weights start from (`trunc_normal_(std=.02)` upstream).
const LINEAR: Init = Init::TruncatedNormal { std: 0.02 };
/// Eps of every batch norm (PyTorch's default).
const BATCH_NORM_EPS: f64 = 1e-5;

/// A convolution as a model describes it: bias, no norm, PyTorch's default initialisation unless said otherwise.
#[derive(Clone, Copy, Debug)]
pub struct Convolution {
    inputs: usize,
    outputs: usize,
    window: Window,
    groups: usize,
    bias: bool,
    batch_norm: Option<&'static str>,
    start: Start,
}

/// What a convolution starts from.
#[derive(Clone, Copy, Debug)]
enum Start {
    /// PyTorch's default.
    Uniform,
    TruncatedNormal,
    LecunNormal,
}

impl Convolution {
    /// A `kernel` x `kernel` convolution that keeps the extent: stride 1, padding half the kernel.
    pub const fn new(inputs: usize, outputs: usize, kernel: usize) -> Self {
        let window = Window { kernel, stride: 1, padding: kernel / 2 };
        Self { inputs, outputs, window, groups: 1, bias: true, batch_norm: None, start: Start::Uniform }
    }

    /// A `kernel` x `kernel` convolution of each channel by itself.
    pub const fn depthwise(channels: usize, kernel: usize) -> Self {
        Self { groups: channels, ..Self::new(channels, channels, kernel) }
    }

    /// Square patches side by side: stride of the kernel's size, no padding.
    pub const fn patches(inputs: usize, outputs: usize, size: usize) -> Self {
        let window = Window { kernel: size, stride: size, padding: 0 };
        Self { window, ..Self::new(inputs, outputs, size) }
    }

    /// With another stride.
    pub const fn stride(self, stride: usize) -> Self {
        Self { window: Window { stride, ..self.window }, ..self }
    }

    /// Without a bias.
    pub const fn no_bias(self) -> Self {
        Self { bias: false, ..self }
    }

    /// Followed by a batch norm whose parameters are found under `name`, beside the convolution's.
    pub const fn batch_norm(self, name: &'static str) -> Self {
        Self { batch_norm: Some(name), ..self }
    }

    /// Weight from a truncated normal and a bias of zero, as ConvNeXt starts.
    pub const fn truncated_normal(self) -> Self {
        Self { start: Start::TruncatedNormal, ..self }
    }

    /// Weight from a normal of variance `1 / fan_in`, cut at two deviations, and a bias of zero, as timm's ViT and Vim start.
    pub const fn lecun_normal(self) -> Self {
        Self { start: Start::LecunNormal, ..self }
    }
}

/// Asks for parameters by name and hands them to the executor to prepare.
pub struct Builder<'a, E: Executor> {
    executor: &'a mut E,
    source: &'a dyn Source,
    scope: String,
}

impl<'a, E: Executor> Builder<'a, E> {
    /// A builder at the root of the names.
    pub fn new(executor: &'a mut E, source: &'a dyn Source) -> Self {
        Self { executor, source, scope: String::new() }
    }

    /// Runs `build` with `name.` in front of every parameter name.
    ///
    /// # Errors
    /// Those of `build`.
    pub fn scope<T>(&mut self, name: &str, build: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let length = self.scope.len();
        self.scope.push_str(name);
        self.scope.push('.');
        let built = build(self);
        self.scope.truncate(length);
        built
    }

    /// The full name of `name` in this scope; the scope itself for an empty one.
    pub fn path(&self, name: &str) -> String {
        if name.is_empty() { self.scope.trim_end_matches('.').to_owned() } else { format!("{}{name}", self.scope) }
    }

    /// Stochastic depth of the branch `name`; nothing at rate 0.
    pub fn drop_path(&self, name: &str, rate: f32) -> Option<DropPath> {
        (rate > 0.0).then(|| DropPath { rate, site: random::site(&self.path(name)) })
    }

    /// A linear map with bias: `{name}.weight [outputs, inputs]`, `{name}.bias [outputs]`.
    ///
    /// # Errors
    /// Those of the source and of the executor.
    pub fn linear(&mut self, name: &str, inputs: usize, outputs: usize) -> Result<E::Linear> {
        self.linear_from(name, inputs, outputs, LINEAR)
    }

    /// A linear map without bias: `{name}.weight [outputs, inputs]`.
    ///
    /// # Errors
    /// Those of the source and of the executor.
    pub fn linear_without_bias(&mut self, name: &str, inputs: usize, outputs: usize) -> Result<E::Linear> {
        self.linear_with(name, [inputs, outputs], None, LINEAR)
    }

    /// A linear map with bias whose weight starts from `init`, and its bias from zero.
    ///
    /// # Errors
    /// Those of the source and of the executor.
    pub fn linear_from(&mut self, name: &str, inputs: usize, outputs: usize, init: Init) -> Result<E::Linear> {
        let bias = self.parameter_wanted(&format!("{name}.bias"), &[outputs], Init::Zeros);
        self.linear_with(name, [inputs, outputs], Some(bias), init)
    }

    fn linear_with(
        &mut self,
        name: &str,
        [inputs, outputs]: [usize; 2],
        bias: Option<Wanted>,
        init: Init,
    ) -> Result<E::Linear> {
        let weight = self.parameter_wanted(&format!("{name}.weight"), &[outputs, inputs], init);
        self.executor.prepare_linear(LinearWanted::new(weight, bias), self.source)
    }

    /// A linear map without bias whose weight are the rows `rows` of the tensor `name`, `[.., inputs]`: several layers, or
    /// several directions, that the checkpoints hold in one. All of them ask for the tensor alike.
    ///
    /// # Errors
    /// [`Error::Parameter`](crate::Error::Parameter) for rows that there are not; those of the source and of the executor.
    pub fn linear_rows(&mut self, name: &str, shape: &[usize], rows: Range<usize>, init: Init) -> Result<E::Linear> {
        let wanted = LinearWanted::new(self.parameter_wanted(name, shape, init), None);
        if rows.start >= rows.end || rows.end > wanted.rows.end {
            let problem = format!("expected some of its {} rows, found {rows:?}", wanted.rows.end);
            return Err(Error::parameter(self.path(name), problem));
        }
        self.executor.prepare_linear(LinearWanted { rows, ..wanted }, self.source)
    }

    /// A convolution: `{name}.weight [outputs, inputs / groups, kernel, kernel]`, `{name}.bias`, and its norm.
    ///
    /// # Errors
    /// Those of the source and of the executor.
    pub fn conv(&mut self, name: &str, c: Convolution) -> Result<E::Conv> {
        let (inputs, kernel) = (c.inputs / c.groups, c.window.kernel);
        let fan_in = inputs * kernel * kernel;
        let (weight, bias) = match c.start {
            Start::Uniform => (Init::fan_in(fan_in), Init::fan_in(fan_in)),
            Start::TruncatedNormal => (LINEAR, Init::Zeros),
            Start::LecunNormal => (Init::LecunNormal { fan_in }, Init::Zeros),
        };
        let shape = [c.outputs, inputs, kernel, kernel];
        let wanted = ConvWanted {
            weight: self.parameter_wanted(&format!("{name}.weight"), &shape, weight),
            bias: c.bias.then(|| self.parameter_wanted(&format!("{name}.bias"), &[c.outputs], bias)),
            norm: c.batch_norm.map(|norm| self.batch_norm_wanted(norm, c.outputs)),
            window: c.window,
            groups: c.groups,
        };
        self.executor.prepare_conv(wanted, self.source)
    }

    /// A causal depthwise convolution: `{name}.weight [channels, 1, taps]`, `{name}.bias [channels]`.
    ///
    /// # Errors
    /// Those of the source and of the executor.
    pub fn causal_conv(&mut self, name: &str, channels: usize, taps: usize) -> Result<CausalConv<E>> {
        let init = Init::fan_in(taps);
        let wanted = ConvWanted {
            weight: self.parameter_wanted(&format!("{name}.weight"), &[channels, 1, taps], init),
            bias: Some(self.parameter_wanted(&format!("{name}.bias"), &[channels], init)),
            norm: None,
            window: Window { kernel: taps, stride: 1, padding: taps.saturating_sub(1) },
            groups: channels,
        };
        Ok(CausalConv { conv: self.executor.prepare_conv(wanted, self.source)?, taps })
    }

    /// A layer norm: `{name}.weight [channels]`, `{name}.bias [channels]`.
    ///
    /// # Errors
    /// Those of the source and of the executor.
    pub fn layer_norm(&mut self, name: &str, channels: usize, eps: f64) -> Result<E::Norm> {
        let weight = self.parameter_wanted(&format!("{name}.weight"), &[channels], Init::Ones);
        let bias = self.parameter_wanted(&format!("{name}.bias"), &[channels], Init::Zeros);
        self.executor.prepare_layer_norm(NormWanted { weight, form: NormForm::Layer { bias }, eps }, self.source)
    }

    /// A norm by the root mean square: `{name}.weight [channels]`.
    ///
    /// # Errors
    /// Those of the source and of the executor.
    pub fn rms_norm(&mut self, name: &str, channels: usize, eps: f64) -> Result<E::Norm> {
        let weight = self.parameter_wanted(&format!("{name}.weight"), &[channels], Init::Ones);
        self.executor.prepare_layer_norm(NormWanted { weight, form: NormForm::RootMeanSquare, eps }, self.source)
    }

    /// A batch norm that follows no convolution: `{name}.{weight,bias,running_mean,running_var} [channels]`.
    ///
    /// # Errors
    /// Those of the source and of the executor.
    pub fn batch_norm(&mut self, name: &str, channels: usize) -> Result<E::BatchNorm> {
        let wanted = self.batch_norm_wanted(name, channels);
        self.executor.prepare_batch_norm(wanted, self.source)
    }

    /// A tensor that belongs to no layer.
    ///
    /// # Errors
    /// Those of the source and of the executor.
    pub fn parameter(&mut self, name: &str, shape: &[usize], init: Init) -> Result<E::Parameter> {
        let wanted = self.parameter_wanted(name, shape, init);
        self.executor.prepare_parameter(wanted, self.source)
    }

    /// A tensor that belongs to no layer and is exempt from weight decay although it has several dimensions.
    ///
    /// # Errors
    /// Those of the source and of the executor.
    pub fn undecayed_parameter(&mut self, name: &str, shape: &[usize], init: Init) -> Result<E::Parameter> {
        let wanted = Wanted { decay: false, ..self.parameter_wanted(name, shape, init) };
        self.executor.prepare_parameter(wanted, self.source)
    }

    fn parameter_wanted(&self, name: &str, shape: &[usize], init: Init) -> Wanted {
        Wanted::parameter(self.path(name), shape, init)
    }

    fn batch_norm_wanted(&self, name: &str, channels: usize) -> BatchNormWanted {
        let path = self.path(name);
        let parameter = |part: &str, init| Wanted::parameter(format!("{path}.{part}"), &[channels], init);
        let buffer = |part: &str, init| Wanted::buffer(format!("{path}.{part}"), &[channels], init);
        BatchNormWanted {
            weight: parameter("weight", Init::Ones),
            bias: parameter("bias", Init::Zeros),
            running_mean: buffer("running_mean", Init::Zeros),
            running_var: buffer("running_var", Init::Ones),
            eps: BATCH_NORM_EPS,
            name: path,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::{Array, Reference};
    use crate::{Activation, Dims, Seeded};

    #[test]
    fn rows_of_one_tensor_are_maps_of_their_own() {
        let (mut reference, source) = (Reference::<f64>::eval(), Seeded::new(1));
        let mut b = Builder::new(&mut reference, &source);
        let mut rows = |rows| b.linear_rows("weight", &[2, 3, 4], rows, Init::Uniform { bound: 1.0 });
        let (all, part) = (rows(0..6).expect("all rows"), rows(2..4).expect("two rows"));
        let error = rows(4..7).expect_err("a refusal").to_string();
        assert_eq!(error, "parameter `weight`: expected some of its 6 rows, found 4..7");
        let x = Array::new(Dims::new(1, 1, 2, 4), (0..8).map(f64::from).collect());
        let [all, part] = [all, part].map(|p| reference.linear(&x, &p, Activation::None).expect("a map").values);
        assert_eq!(part, [&all[2..4], &all[8..10]].concat());
    }
}
