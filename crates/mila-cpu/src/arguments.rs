//! The algebra's values as the kernels take them.

use mila_kernels::Epilogue;
use mila_ops::{Activation, Dims, Result, Window, shape};

use crate::buffer::Map;

pub(crate) fn extent(dims: Dims) -> mila_kernels::Map {
    mila_kernels::Map { batch: dims.batch, height: dims.height, width: dims.width, channels: dims.channels }
}

pub(crate) fn kernel_window(window: Window) -> mila_kernels::Window {
    mila_kernels::Window { kernel: window.kernel, stride: window.stride, padding: window.padding }
}

pub(crate) fn kernel_activation(then: Activation) -> mila_kernels::Activation {
    match then {
        Activation::None => mila_kernels::Activation::None,
        Activation::Relu => mila_kernels::Activation::Relu,
        Activation::Silu => mila_kernels::Activation::Silu,
        Activation::Gelu => mila_kernels::Activation::Gelu,
        Activation::Softplus => mila_kernels::Activation::Softplus,
        Activation::EluPlusOne => mila_kernels::Activation::EluPlusOne,
    }
}

/// What follows the product for an output of `dims`.
pub(crate) fn epilogue<'a>(
    dims: Dims,
    bias: Option<&'a [f32]>,
    then: Activation,
    residual: Option<&'a Map>,
) -> Result<Epilogue<'a>> {
    if let Some(residual) = residual {
        shape::same("residual", &dims, &residual.dims())?;
    }
    Ok(Epilogue { bias, activation: kernel_activation(then), residual: residual.map(Map::values) })
}
