//! What happens to a kernel's result before it leaves the cache.

use crate::activation::Activation;

/// `y = activation(result + bias) + residual`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Epilogue<'a> {
    /// Added first: one float per channel of the result.
    pub bias: Option<&'a [f32]>,
    /// Applied to the sum.
    pub activation: Activation,
    /// Added last: shaped as the result.
    pub residual: Option<&'a [f32]>,
}

impl Epilogue<'_> {
    /// Panics unless the epilogue fits a result of `len` floats in `channels` channels.
    pub(crate) fn check(&self, kernel: &str, channels: usize, len: usize) {
        assert_eq!(self.bias.map_or(channels, <[f32]>::len), channels, "{kernel}: length of the bias");
        assert_eq!(self.residual.map_or(len, <[f32]>::len), len, "{kernel}: length of the residual");
    }
}
