//! The recorded operators.

use mila_ops::{Activation, Window, Windows};

use crate::Extent;

/// A node of the graph: the map that its operator gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id(pub usize);

/// A tensor of the manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TensorId(pub usize);

/// What a node computes from its inputs.
#[derive(Clone, Debug, PartialEq)]
pub enum Operator {
    /// The image.
    Input,
    /// `activation(x W^T + b)`.
    Linear {
        /// `[outputs, inputs]`.
        weight: TensorId,
        /// `[outputs]`.
        bias: Option<TensorId>,
        /// What follows.
        then: Activation,
    },
    /// Convolution and bias.
    Convolution {
        /// `[outputs, inputs / groups, kernel, kernel]`.
        weight: TensorId,
        /// `[outputs]`.
        bias: Option<TensorId>,
        /// Kernel, stride, padding.
        window: Window,
        /// One, or as many as channels.
        groups: usize,
    },
    /// Batch norm with running statistics.
    BatchNorm {
        /// Weight, bias, mean, variance.
        tensors: [TensorId; 4],
        /// Added to the variance.
        eps: f64,
    },
    /// Layer norm over channels.
    LayerNorm {
        /// Weight, bias.
        tensors: [TensorId; 2],
        /// Added to the variance.
        eps: f64,
    },
    /// An activation alone.
    Activate(Activation),
    /// Input: q, k and v.
    WindowAttention {
        /// `[offsets, heads]`.
        table: TensorId,
        /// Heads.
        heads: usize,
        /// What attends to what.
        windows: Windows,
    },
    /// Inputs: qk, v.
    LinearAttention {
        /// Heads.
        heads: usize,
    },
    /// `a + b`.
    Add,
    /// `a * b`.
    Mul,
    /// Some of the channels.
    Channels {
        /// The first of them.
        start: usize,
        /// The first that is not.
        end: usize,
    },
    /// The channels of `a`, then those of `b`.
    Concat,
    /// A factor per channel.
    Scale(TensorId),
    /// Mean over tokens.
    MeanTokens,
    /// This many by this many tokens side by side in one, those beyond the map zero.
    MergePatches(usize),
    /// Zeros below and to the right.
    PadToMultiple(usize),
}

/// One operator of a traced model.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Parameter path of the layer, such as `layers.0.blocks.0.attn.qk`; empty for what has none.
    pub name: String,
    /// What it computes.
    pub operator: Operator,
    /// Where its operands come from.
    pub inputs: Vec<Id>,
    /// `[batch, height, width]`.
    pub extents: [Extent; 3],
    /// Channels.
    pub channels: usize,
    /// Multiply-accumulates of convolutions, linear maps and matrix products per output token; not those of windows, which
    /// depend on the extents.
    pub macs_per_token: u64,
    /// What the norms add per output token: 5 a value for layer norm, 2 for batch norm in evaluation.
    pub norm_macs_per_token: u64,
}
