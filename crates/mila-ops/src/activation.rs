//! The element-wise functions that follow a linear map.

/// An element-wise function applied to the result of a linear map or a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    /// The identity.
    None,
    /// `max(x, 0)`.
    Relu,
    /// `x / (1 + exp(-x))`.
    Silu,
    /// `x (1 + erf(x / sqrt 2)) / 2`: the exact form, not the one with `tanh`.
    Gelu,
    /// `ln(1 + exp(x))`: positive, as a gate's step size has to be.
    Softplus,
    /// `elu(x) + 1`: `x + 1` above zero, `exp(x)` below; the feature map of linear attention, positive.
    EluPlusOne,
}
