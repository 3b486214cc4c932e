//! The operator algebra.

use std::ops::Range;

use crate::{
    Activation, BatchNormWanted, Bottleneck, CausalConv, ConvWanted, DropPath, FusedBottleneck, GatedConv, GatedInput,
    LinearAttention, LinearWanted, Mlp, NormWanted, NormedLinear, PatchOrder, RecurrenceOn, Residual, Result,
    ScanOrder, Source, Tap, TokenPlace, Wanted, Windows, composed,
};

/// The eps of a layer norm that says nothing else (PyTorch's default).
pub const LAYER_NORM_EPS: f64 = 1e-5;

/// An interpretation of the operator algebra.
///
/// Maps are `[batch, height, width, channels]` with extents of their own, so a body never carries a height or a width.
/// What a model holds of its parameters is the executor's choice: packed weights, indices into a store, a shape.
///
/// The first group of methods prepares parameters, the second are the operators, and the third are composites with a
/// default body made of smaller operators; an executor overrides one only to make it faster, and a test pins the two
/// together.
pub trait Executor: Sized {
    /// A feature map. Cloning is cheap, or the executor is [`crate::reference`].
    type Map: Clone;
    /// A prepared linear map.
    type Linear: Send + Sync;
    /// A prepared convolution with its norm.
    type Conv: Send + Sync;
    /// A prepared norm over channels.
    type Norm: Send + Sync;
    /// A prepared batch norm.
    type BatchNorm: Send + Sync;
    /// A prepared tensor that belongs to no layer: layer scale, class token, bias table.
    type Parameter: Send + Sync;

    /// Prepares a linear map.
    ///
    /// # Errors
    /// Those of the source.
    fn prepare_linear(&mut self, wanted: LinearWanted, source: &dyn Source) -> Result<Self::Linear>;
    /// Prepares a convolution, with its norm if it has one.
    ///
    /// # Errors
    /// Those of the source; `Unsupported` for groups that are neither one nor as many as channels.
    fn prepare_conv(&mut self, wanted: ConvWanted, source: &dyn Source) -> Result<Self::Conv>;
    /// Prepares a norm over channels.
    ///
    /// # Errors
    /// Those of the source.
    fn prepare_layer_norm(&mut self, wanted: NormWanted, source: &dyn Source) -> Result<Self::Norm>;
    /// Prepares a batch norm that follows no convolution.
    ///
    /// # Errors
    /// Those of the source.
    fn prepare_batch_norm(&mut self, wanted: BatchNormWanted, source: &dyn Source) -> Result<Self::BatchNorm>;
    /// Prepares a raw parameter.
    ///
    /// # Errors
    /// Those of the source.
    fn prepare_parameter(&mut self, wanted: Wanted, source: &dyn Source) -> Result<Self::Parameter>;

    /// `activation(x W^T + b)` on every token.
    ///
    /// # Errors
    /// `Shape` if `x` has other channels than the weight has inputs.
    fn linear(&self, x: &Self::Map, p: &Self::Linear, then: Activation) -> Result<Self::Map>;
    /// The convolution and its bias, without norm and activation. Output extents are [`crate::Window::output`].
    ///
    /// # Errors
    /// `Shape` if `x` has other channels than the kernel.
    fn convolve(&self, x: &Self::Map, p: &Self::Conv) -> Result<Self::Map>;
    /// The norm that [`conv`](Self::conv) still has to apply after [`convolve`](Self::convolve); none if it is folded.
    fn norm_of<'a>(&self, p: &'a Self::Conv) -> Option<&'a Self::BatchNorm>;
    /// Batch norm: batch statistics when training, running ones otherwise.
    ///
    /// # Errors
    /// `Shape` for other channels, or when training on one value a channel.
    fn batch_norm(&self, x: &Self::Map, p: &Self::BatchNorm) -> Result<Self::Map>;
    /// Layer norm over the channels of every token, or RMSNorm: see [`NormForm`](crate::NormForm).
    ///
    /// # Errors
    /// `Shape` for other channels.
    fn layer_norm(&self, x: &Self::Map, p: &Self::Norm) -> Result<Self::Map>;
    /// The activation alone.
    ///
    /// # Errors
    /// Those of the backend.
    fn activate(&self, x: Self::Map, then: Activation) -> Result<Self::Map>;
    /// Softmax attention of every token to those of its window, with a bias for their relative position (Swin, arXiv
    /// 2103.14030, eq. 4).
    ///
    /// `qkv` is `[batch, height, width, 3 * channels]`, q then k then v, each `heads` blocks of d channels; `table` is
    /// `[(2 side - 1)^2, heads]`. With `J(i)` the tokens of the window of token `i`, which [`Windows`] says:
    ///
    /// ```text
    /// s_ij = q_i . k_j / sqrt(d) + table[(y_i - y_j + side - 1) (2 side - 1) + x_i - x_j + side - 1]
    /// o_i = sum_(j in J(i)) exp(s_ij) v_j / sum_(j in J(i)) exp(s_ij)
    /// ```
    ///
    /// # Errors
    /// `Shape` for what [`crate::shape::window_attention`] refuses.
    fn window_attention(
        &self,
        qkv: &Self::Map,
        table: &Self::Parameter,
        heads: usize,
        windows: Windows,
    ) -> Result<Self::Map>;
    /// Linear attention (MILA, arXiv 2405.16605, eq. 2 and section 5.2).
    ///
    /// `qk` is `[batch, height, width, 2 * keys]`, q then k before ELU + 1; `v` is `[batch, height, width, channels]`. Each
    /// head has its share of both. With `N` tokens, `R` the rotation of [`crate::rope2d`] or the identity, and per head:
    ///
    /// ```text
    /// q = elu(q) + 1    k = elu(k) + 1
    /// o_i = (R q_i)^T (1/N sum_j (R k_j) v_j^T) / (q_i^T (1/N sum_j k_j) + 1e-6)
    /// ```
    ///
    /// [`Normalisation::Absent`](crate::Normalisation::Absent) leaves the division out, and keeps the `1/N`.
    ///
    /// # Errors
    /// `Shape` for channels that [`crate::shape::attention`] refuses or maps that differ.
    fn linear_attention(&self, qk: &Self::Map, v: &Self::Map, form: LinearAttention) -> Result<Self::Map>;
    /// A gated linear recurrence: the output, shaped as `r.v`, and the state that `r.state` asks for, shaped as
    /// [`crate::recurrence::Start`] says. See [`crate::recurrence`] for its equations.
    ///
    /// # Errors
    /// `Shape` for what [`crate::recurrence::resolve`] refuses and, where the executor has the values at hand, for a
    /// logarithm of a gate above 0.
    fn recurrence(&self, r: &RecurrenceOn<'_, Self>) -> Result<(Self::Map, Self::Map)>;
    /// A causal depthwise convolution along an order, and the activation: with token `t` at step `t` of the order,
    ///
    /// ```text
    /// y_t = activation(b + sum_j w_j x_(t - taps + 1 + j)),  j from 0 to taps - 1
    /// ```
    ///
    /// What lies before the segment of `t`, or beyond the map, is zero; so are tokens that the order does not visit.
    ///
    /// # Errors
    /// `Shape` for other channels, and for what [`ScanOrder::steps`] refuses.
    fn causal_conv(&self, x: &Self::Map, p: &CausalConv<Self>, order: ScanOrder, then: Activation)
    -> Result<Self::Map>;
    /// The tokens of a map in a row, by rows, with a class token among them: `[batch, 1, height * width + 1, channels]`.
    ///
    /// # Errors
    /// `Shape` if `token` has not as many values as `x` has channels.
    fn insert_token(&self, x: &Self::Map, token: &Self::Parameter, place: TokenPlace) -> Result<Self::Map>;
    /// The class token of a row of tokens: `[batch, 1, 1, channels]`.
    ///
    /// # Errors
    /// `Shape` if `x` has more than one row.
    fn take_token(&self, x: &Self::Map, place: TokenPlace) -> Result<Self::Map>;
    /// Refuses a map of another height or width than positions were made for.
    ///
    /// # Errors
    /// `Shape` for another grid; an executor that does not know the extents yet keeps it for later.
    fn require_grid(&self, x: &Self::Map, grid: [usize; 2]) -> Result<()>;
    /// `a + b`.
    ///
    /// # Errors
    /// `Shape` if the extents differ.
    fn add(&self, a: Self::Map, b: &Self::Map) -> Result<Self::Map>;
    /// `a * b`, element by element.
    ///
    /// # Errors
    /// `Shape` if the extents differ.
    fn mul(&self, a: Self::Map, b: &Self::Map) -> Result<Self::Map>;
    /// The channels `range` of every token.
    ///
    /// # Errors
    /// `Shape` for a range that [`crate::shape::channel_range`] refuses.
    fn channels(&self, x: &Self::Map, range: Range<usize>) -> Result<Self::Map>;
    /// The channels of `a`, then those of `b`.
    ///
    /// # Errors
    /// `Shape` if the maps differ in more than their channels.
    fn concat(&self, a: &Self::Map, b: &Self::Map) -> Result<Self::Map>;
    /// `x * factor`, one number.
    ///
    /// # Errors
    /// Those of the backend.
    fn scale_all(&self, x: Self::Map, factor: f32) -> Result<Self::Map>;
    /// `x * factors`, a factor per channel.
    ///
    /// # Errors
    /// `Shape` for other channels.
    fn scale(&self, x: Self::Map, factors: &Self::Parameter) -> Result<Self::Map>;
    /// Absolute positions: adds a parameter `[height, width, c]`, one value a token of a fixed grid, to the last `c`
    /// channels of every image. With one row of as many tokens as the map has, they are those of its rows one by one.
    ///
    /// # Errors
    /// `Shape` for another grid or fewer channels.
    fn add_positions(&self, x: Self::Map, table: &Self::Parameter) -> Result<Self::Map>;
    /// Patches of 2x2 tokens side by side: `[batch, height / 2, width / 2, 4 * channels]`.
    ///
    /// # Errors
    /// `Shape` for an odd height or width.
    fn patches(&self, x: Self::Map, order: PatchOrder) -> Result<Self::Map>;
    /// Multiplies every image by [`DropPath::factor`]: the identity unless training.
    ///
    /// # Errors
    /// Those of the backend.
    fn drop_path(&self, x: Self::Map, drop: DropPath) -> Result<Self::Map>;
    /// Mean over the tokens of each image: `[batch, 1, 1, channels]`.
    ///
    /// # Errors
    /// Those of the backend.
    fn mean_tokens(&self, x: &Self::Map) -> Result<Self::Map>;
    /// Zeros below and to the right until height and width are multiples of `multiple`.
    ///
    /// # Errors
    /// `Shape` if `multiple` is zero.
    fn pad_to_multiple(&self, x: Self::Map, multiple: usize) -> Result<Self::Map>;

    /// The sum of the outputs of several recurrences over one map, such as VMamba's four directions, each with parameters
    /// of its own.
    ///
    /// # Errors
    /// Those of [`recurrence`](Self::recurrence); `Shape` if there is none, or if their values have different extents.
    fn recurrences(&self, all: &[RecurrenceOn<'_, Self>]) -> Result<Self::Map> {
        composed::recurrences(self, all)
    }
    /// Convolution, norm and activation.
    ///
    /// # Errors
    /// Those of the operators.
    fn conv(&self, x: &Self::Map, p: &Self::Conv, then: Activation) -> Result<Self::Map> {
        composed::conv(self, x, p, then)
    }
    /// `onto + conv(x)`: conditional positional encoding, and the local part beside an attention.
    ///
    /// # Errors
    /// Those of the operators.
    fn conv_residual(&self, x: Self::Map, p: &Self::Conv, add: Residual<Self>) -> Result<Self::Map> {
        composed::conv_residual(self, x, p, add)
    }
    /// The gate and the inner stream of Mamba's block design, from one normed input.
    ///
    /// # Errors
    /// Those of the operators.
    fn gated_input(
        &self,
        x: &Self::Map,
        p: &GatedInput<Self>,
        tap: &mut dyn Tap<Self>,
    ) -> Result<(Self::Map, Self::Map)> {
        composed::gated_input(self, x, p, tap)
    }
    /// `onto + linear(x * gate)`: the way out of Mamba's block design.
    ///
    /// # Errors
    /// Those of the operators.
    fn gated_output(&self, x: Self::Map, gate: &Self::Map, p: &Self::Linear, add: Residual<Self>) -> Result<Self::Map> {
        composed::gated_output(self, x, gate, p, add)
    }
    /// `onto + fc2(activation(fc1(norm(x))))`.
    ///
    /// # Errors
    /// Those of the operators.
    fn mlp(&self, x: Self::Map, p: &Mlp<Self>, add: Residual<Self>, tap: &mut dyn Tap<Self>) -> Result<Self::Map> {
        composed::mlp(self, x, p, add, tap)
    }
    /// `linear(norm(x))`: the way into a block.
    ///
    /// # Errors
    /// Those of the operators.
    fn normed_linear(&self, x: &Self::Map, p: &NormedLinear<Self>, tap: &mut dyn Tap<Self>) -> Result<Self::Map> {
        composed::normed_linear(self, x, p, tap)
    }
    /// `onto + linear(x)`: the way out of a block.
    ///
    /// # Errors
    /// Those of the operators.
    fn linear_residual(&self, x: Self::Map, p: &Self::Linear, add: Residual<Self>) -> Result<Self::Map> {
        composed::linear_residual(self, x, p, add)
    }
    /// The gated CNN block: a gate beside a map of which some channels are convolved.
    ///
    /// # Errors
    /// Those of the operators.
    fn gated_conv(
        &self,
        x: Self::Map,
        p: &GatedConv<Self>,
        add: Residual<Self>,
        tap: &mut dyn Tap<Self>,
    ) -> Result<Self::Map> {
        composed::gated_conv(self, x, p, add, tap)
    }
    /// The three convolutions of an inverted bottleneck.
    ///
    /// # Errors
    /// Those of the operators.
    fn bottleneck(&self, x: &Self::Map, p: &Bottleneck<Self>, tap: &mut dyn Tap<Self>) -> Result<Self::Map> {
        composed::bottleneck(self, x, p, tap)
    }
    /// The two convolutions of a fused inverted bottleneck.
    ///
    /// # Errors
    /// Those of the operators.
    fn fused_bottleneck(&self, x: &Self::Map, p: &FusedBottleneck<Self>, tap: &mut dyn Tap<Self>) -> Result<Self::Map> {
        composed::fused_bottleneck(self, x, p, tap)
    }
}
