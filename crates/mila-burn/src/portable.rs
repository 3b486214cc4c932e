//! The operators as compositions of Burn's own, for every device.

use burn::tensor::ops::ConvOptions;
use burn::tensor::{Device, Tensor, activation, module};
use mila_ops::{Activation, LinearAttention, Normalisation, PatchOrder, Positions, Window, rope2d};

/// `x W^T + b`; weight `[outputs, inputs]`, flat.
pub(crate) fn linear(x: Tensor<4>, weight: Tensor<1>, bias: Option<Tensor<1>>, outputs: usize) -> Tensor<4> {
    let [batch, height, width, inputs] = x.dims();
    let rows = x.reshape([batch * height * width, inputs]);
    let y = rows.matmul(weight.reshape([outputs, inputs]).transpose());
    let y = match bias {
        Some(bias) => y + bias.reshape([1, outputs]),
        None => y,
    };
    y.reshape([batch, height, width, outputs])
}

/// Convolution; weight `[outputs, inputs / groups, kernel, kernel]`, flat.
pub(crate) fn convolve(
    x: Tensor<4>,
    weight: Tensor<1>,
    bias: Option<Tensor<1>>,
    window: Window,
    groups: usize,
    outputs: usize,
) -> Tensor<4> {
    let inputs = x.dims()[3];
    let x = fitted(x, window);
    let weight = weight.reshape([outputs, inputs / groups, window.kernel, window.kernel]);
    let options = ConvOptions::new([window.stride; 2], [window.padding; 2], [1, 1], groups);
    let y = module::conv2d(x.permute([0, 3, 1, 2]), weight, None, options).permute([0, 2, 3, 1]);
    match bias {
        Some(bias) => y + bias.reshape([1, 1, 1, outputs]),
        None => y,
    }
}

/// Zeros below and to the right until one window fits; see [`Window::output`].
pub(crate) fn fitted(x: Tensor<4>, window: Window) -> Tensor<4> {
    let [_, height, width, _] = x.dims();
    let missing = |n: usize| window.kernel.saturating_sub(n + 2 * window.padding);
    padded(x, height + missing(height), width + missing(width))
}

/// Zeros below and to the right up to the given extent.
pub(crate) fn padded(x: Tensor<4>, height: usize, width: usize) -> Tensor<4> {
    let [batch, h, w, channels] = x.dims();
    let x = match height - h {
        0 => x,
        rows => {
            let zeros = Tensor::zeros([batch, rows, w, channels], &x.device());
            Tensor::cat(vec![x, zeros], 1)
        }
    };
    match width - w {
        0 => x,
        columns => {
            let zeros = Tensor::zeros([batch, height, columns, channels], &x.device());
            Tensor::cat(vec![x, zeros], 2)
        }
    }
}

/// Layer norm over channels.
pub(crate) fn layer_norm(x: Tensor<4>, weight: Tensor<1>, bias: Tensor<1>, eps: f64) -> Tensor<4> {
    let channels = x.dims()[3];
    let centered = x.clone() - x.mean_dim(3);
    let variance = centered.clone().powi_scalar(2).mean_dim(3);
    let normed = centered / (variance + eps).sqrt();
    normed * weight.reshape([1, 1, 1, channels]) + bias.reshape([1, 1, 1, channels])
}

/// Mean and biased variance of each channel over images and tokens, each `[1, 1, 1, channels]`.
pub(crate) fn batch_statistics(x: Tensor<4>) -> (Tensor<4>, Tensor<4>) {
    let [batch, height, width, channels] = x.dims();
    let rows = x.reshape([batch * height * width, channels]);
    let mean = rows.clone().mean_dim(0);
    let variance = (rows - mean.clone()).powi_scalar(2).mean_dim(0);
    (mean.reshape([1, 1, 1, channels]), variance.reshape([1, 1, 1, channels]))
}

/// Batch norm with the given statistics, each `[1, 1, 1, channels]`.
pub(crate) fn batch_norm(
    x: Tensor<4>,
    (mean, variance): (Tensor<4>, Tensor<4>),
    weight: Tensor<1>,
    bias: Tensor<1>,
    eps: f64,
) -> Tensor<4> {
    let channels = x.dims()[3];
    let scale = weight.reshape([1, 1, 1, channels]) / (variance + eps).sqrt();
    (x - mean) * scale + bias.reshape([1, 1, 1, channels])
}

/// The activation alone.
pub(crate) fn activate(x: Tensor<4>, then: Activation) -> Tensor<4> {
    match then {
        Activation::None => x,
        Activation::Relu => activation::relu(x),
        Activation::Silu => activation::silu(x),
        Activation::Gelu => activation::gelu(x),
        Activation::EluPlusOne => elu_plus_one(x),
        Activation::Softplus => softplus(x),
    }
}

/// `x + table` in the last channels; `table` is `[1, height, width, channels]`.
pub(crate) fn add_positions(x: Tensor<4>, table: Tensor<4>) -> Tensor<4> {
    let [_, height, width, channels] = table.dims();
    let table = match x.dims()[3] - channels {
        0 => table,
        before => {
            let zeros = Tensor::zeros([1, height, width, before], &x.device());
            Tensor::cat(vec![zeros, table], 3)
        }
    };
    x + table
}

/// Patches of 2x2 tokens side by side.
pub(crate) fn patches(x: Tensor<4>, order: PatchOrder) -> Tensor<4> {
    let [batch, height, width, channels] = x.dims();
    let pairs: Tensor<6> = x.reshape([batch, height / 2, 2, width / 2, 2, channels]);
    let axes = match order {
        PatchOrder::Tokens => [0, 1, 3, 4, 2, 5],
        PatchOrder::Channels => [0, 1, 3, 5, 2, 4],
    };
    pairs.permute(axes).reshape([batch, height / 2, width / 2, 4 * channels])
}

/// `elu(x) + 1`. At zero, ReLU has a gradient of zero, a clamp one of one: together the derivative, which is one.
fn elu_plus_one<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    activation::relu(x.clone()) + x.clamp_max(0.0).exp()
}

/// `ln(1 + exp(x)) = max(x, 0) + ln(1 + exp(-|x|))`, exact in both tails, which the device's own need not be.
///
/// `-|x|` is `min(x, 0) - max(x, 0)`: the gradients of clamp and ReLU at zero, one and zero, make the derivative there, a half.
pub(crate) fn softplus<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let above = activation::relu(x.clone());
    above.clone() + (x.clamp_max(0.0) - above).exp().log1p()
}

/// Linear attention; see [`mila_ops::Executor::linear_attention`].
pub(crate) fn linear_attention(qk: Tensor<4>, v: Tensor<4>, form: LinearAttention) -> Tensor<4> {
    let [b, height, width, c] = v.dims();
    let (n, heads, keys) = (height * width, form.heads, qk.dims()[3] / 2);
    let split = |t: Tensor<3>| {
        let width = t.dims()[2] / heads;
        t.reshape([b, n, heads, width]).permute([0, 2, 1, 3])
    };
    let qk = qk.reshape([b, n, 2 * keys]);
    let q = elu_plus_one(qk.clone().narrow(2, 0, keys));
    let k = elu_plus_one(qk.narrow(2, keys, keys));
    let turns = (form.positions == Positions::Rotary).then(|| rotations(height, width, keys, &v.device()));
    let turn = |t: Tensor<3>| match &turns {
        None => t,
        Some((cos, sin)) => {
            let t = t.reshape([b, n, keys / 2, 2]);
            let (re, im) = (t.clone().narrow(3, 0, 1), t.narrow(3, 1, 1));
            let turned = vec![re.clone() * cos.clone() - im.clone() * sin.clone(), im * cos.clone() + re * sin.clone()];
            Tensor::cat(turned, 3).reshape([b, n, keys])
        }
    };
    let kv = split(turn(k.clone())).swap_dims(2, 3).matmul(split(v.reshape([b, n, c]))) / n as f64;
    let out = split(turn(q.clone())).matmul(kv);
    let out = match form.normalisation {
        Normalisation::Absent => out,
        Normalisation::Weights => out / (split(q).matmul(split(k).mean_dim(2).swap_dims(2, 3)) + 1e-6),
    };
    out.permute([0, 2, 1, 3]).reshape([b, height, width, c])
}

/// Cosines and sines, each `[1, tokens, channels / 2, 1]`.
fn rotations(height: usize, width: usize, channels: usize, device: &Device) -> (Tensor<4>, Tensor<4>) {
    let turns = rope2d::rotations(height, width, channels);
    let turns = Tensor::<1>::from_floats(turns.as_slice(), device).reshape([1, height * width, channels / 2, 2]);
    (turns.clone().narrow(3, 0, 1), turns.narrow(3, 1, 1))
}
