//! The recorded operators.

use mila_ops::{Activation, LinearAttention, PatchOrder, ScanOrder, TokenPlace, Window, Windows};

use crate::{Extent, Recorded, TensorPart};

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
        /// `[outputs, inputs]`: a tensor, or some of its rows.
        weight: TensorPart,
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
    /// RMSNorm over channels.
    RmsNorm {
        /// `[channels]`.
        weight: TensorId,
        /// Added to the mean square.
        eps: f64,
    },
    /// Causal depthwise convolution along an order.
    CausalConv {
        /// `[channels, 1, taps]`.
        weight: TensorId,
        /// `[channels]`.
        bias: Option<TensorId>,
        /// Steps that an output sees.
        taps: usize,
        /// In which order.
        order: ScanOrder,
        /// What follows.
        then: Activation,
    },
    /// The tokens in a row, with a class token among them.
    InsertToken {
        /// `[channels]`.
        token: TensorId,
        /// Where it stands.
        place: TokenPlace,
    },
    /// The class token of a row.
    TakeToken(TokenPlace),
    /// Nothing: its input has to have this height and width. It has no channels, for it gives no map.
    RequireGrid([usize; 2]),
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
    LinearAttention(LinearAttention),
    /// Inputs: the maps of its operands, each once, and the start.
    Recurrence(Box<Recorded>),
    /// The state of the recurrence that is its input.
    State,
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
    /// One factor.
    ScaleAll(f32),
    /// A value per channel and token of a fixed grid, `[height, width, c]`, added to the last `c` channels.
    AddPositions(TensorId),
    /// Patches of 2x2 tokens side by side.
    Patches(PatchOrder),
    /// Mean over tokens.
    MeanTokens,
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
    /// What the norms add per output token: 5 a value for layer norm, 3 for RMSNorm, 2 for batch norm in evaluation.
    pub norm_macs_per_token: u64,
}
