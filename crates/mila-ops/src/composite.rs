//! Parts of the composite operators: cut at the size that an executor can fuse.

use crate::{Activation, Builder, DropPath, Executor, Result};

/// What a residual branch is added to.
#[derive(Clone)]
pub enum Onto<M> {
    /// The composite's own input, so that an executor that owns it may work in place.
    Input,
    /// Another map.
    Map(M),
}

/// How a composite's result joins the stream: `onto + drop_path(layer_scale * result)`.
pub struct Residual<'a, E: Executor> {
    /// What the branch is added to.
    pub onto: Onto<E::Map>,
    /// A factor per channel.
    pub layer_scale: Option<&'a E::Parameter>,
    /// Stochastic depth of the branch.
    pub drop_path: Option<DropPath>,
}

impl<E: Executor> Residual<'_, E> {
    /// A plain `x + branch(x)`.
    pub fn onto_input() -> Self {
        Self { onto: Onto::Input, layer_scale: None, drop_path: None }
    }

    /// A plain `map + branch(x)`.
    pub fn onto(map: E::Map) -> Self {
        Self { onto: Onto::Map(map), layer_scale: None, drop_path: None }
    }
}

/// `fc2(activation(fc1(norm(x))))`: a Transformer's channel MLP with its norm.
pub struct Mlp<E: Executor> {
    /// Tap name of the normed input, such as `layers.0.blocks.0.norm2`.
    pub norm_name: String,
    /// Tap name of the activated hidden map: `layers.0.blocks.0.mlp.act`.
    pub hidden_name: String,
    /// Tap name of the branch before the residual: `layers.0.blocks.0.mlp`.
    pub name: String,
    /// Layer norm of the input.
    pub norm: E::Norm,
    /// `channels -> hidden`.
    pub fc1: E::Linear,
    /// `hidden -> channels`.
    pub fc2: E::Linear,
    /// Follows `fc1`.
    pub activation: Activation,
}

impl<E: Executor> Mlp<E> {
    /// Asks for `{norm}.*`, `mlp.fc1.*` and `mlp.fc2.*`; the norm has an eps of `eps`.
    ///
    /// # Errors
    /// Those of the source and of the executor.
    pub fn build(b: &mut Builder<E>, norm: &str, eps: f64, channels: usize, hidden: usize) -> Result<Self> {
        Ok(Self {
            norm_name: b.path(norm),
            hidden_name: b.path("mlp.act"),
            name: b.path("mlp"),
            norm: b.layer_norm(norm, channels, eps)?,
            fc1: b.scope("mlp", |b| b.linear("fc1", channels, hidden))?,
            fc2: b.scope("mlp", |b| b.linear("fc2", hidden, channels))?,
            activation: Activation::Gelu,
        })
    }
}

/// The two input projections of Mamba's block design: a gate and an inner stream from one normed input.
pub struct GatedInput<E: Executor> {
    /// Tap name of the normed input.
    pub norm_name: String,
    /// Layer norm of the input.
    pub norm: E::Norm,
    /// The gate's projection, followed by SiLU.
    pub gate: E::Linear,
    /// The inner stream's projection.
    pub inner: E::Linear,
}

/// `linear(norm(x))`.
pub struct NormedLinear<E: Executor> {
    /// Tap name of the normed input.
    pub norm_name: String,
    /// Layer norm of the input.
    pub norm: E::Norm,
    /// What follows it.
    pub linear: E::Linear,
}

impl<E: Executor> NormedLinear<E> {
    /// Asks for `{norm}.*`, with an eps of `eps`, and `{linear}.*`.
    ///
    /// # Errors
    /// Those of the source and of the executor.
    pub fn build(
        b: &mut Builder<E>,
        (norm, eps): (&str, f64),
        linear: &str,
        inputs: usize,
        outputs: usize,
    ) -> Result<Self> {
        let norm_name = b.path(norm);
        Ok(Self { norm_name, norm: b.layer_norm(norm, inputs, eps)?, linear: b.linear(linear, inputs, outputs)? })
    }
}

/// `fc2(activation(g) * [i | conv(c)])` with `[g | i | c] = fc1(norm(x))`: the gated CNN block of MambaOut (arXiv 2405.07992),
/// whose convolution sees some of the channels only.
pub struct GatedConv<E: Executor> {
    /// Tap name of `[g | i | c]`, such as `stages.0.blocks.0.fc1`.
    pub input_name: String,
    /// Tap name of the convolved channels.
    pub conv_name: String,
    /// Tap name of the branch before the residual.
    pub name: String,
    /// To twice `hidden` channels.
    pub input: NormedLinear<E>,
    /// Channels of `g`, and of `i` and `c` together.
    pub hidden: usize,
    /// Channels of `c`: fewer than `hidden`.
    pub convolved: usize,
    /// Keeps the extent.
    pub conv: E::Conv,
    /// `hidden -> channels`.
    pub fc2: E::Linear,
    /// Of the gate.
    pub activation: Activation,
}

/// `project(activation(spatial(activation(expand(x)))))`: an inverted bottleneck, whose hidden map is the widest of the model.
pub struct Bottleneck<E: Executor> {
    /// Tap names of what the three convolutions give, activated.
    pub names: [String; 3],
    /// 1x1, to the hidden channels.
    pub expand: E::Conv,
    /// Depthwise, with the stride.
    pub spatial: E::Conv,
    /// 1x1, to the outputs.
    pub project: E::Conv,
    /// Follows the first two.
    pub activation: Activation,
}

/// `project(activation(expand(x)))`: an inverted bottleneck whose first convolution is a full one, with the stride.
pub struct FusedBottleneck<E: Executor> {
    /// Tap names of what the two convolutions give, activated.
    pub names: [String; 2],
    /// To the hidden channels.
    pub expand: E::Conv,
    /// 1x1, to the outputs.
    pub project: E::Conv,
    /// Follows the first.
    pub activation: Activation,
}
