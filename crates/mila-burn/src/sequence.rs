//! Operators that see which token is which, and RMSNorm, as compositions of Burn's own.

use burn::tensor::{Int, Tensor};
use mila_ops::{Steps, TokenPlace};

/// A causal convolution without activation, at the tokens that the order visits; weight `[channels, 1, taps]`, flat; `table` are
/// [`Steps::sources`].
pub(crate) fn causal_conv(
    x: Tensor<4>,
    weight: Tensor<1>,
    bias: Option<Tensor<1>>,
    table: &[u32],
    taps: usize,
) -> Tensor<4> {
    let [batch, height, width, channels] = x.dims();
    let tokens = height * width;
    let device = x.device();
    // What a tap does not read is the row of zeros behind the tokens.
    let rows = Tensor::cat(vec![x.reshape([batch, tokens, channels]), Tensor::zeros([batch, 1, channels], &device)], 1);
    let weight: Tensor<2> = weight.reshape([channels, taps]);
    let tap = |j: usize| {
        let row = |n: usize| if table[n * taps + j] == Steps::PAD { tokens } else { table[n * taps + j] as usize };
        let index: Vec<i64> = (0..tokens).map(|n| row(n) as i64).collect();
        let index = Tensor::<1, Int>::from_ints(index.as_slice(), &device);
        rows.clone().select(1, index) * weight.clone().narrow(1, j, 1).reshape([1, 1, channels])
    };
    let y = (1..taps).fold(tap(0), |sum, j| sum + tap(j));
    let y = match bias {
        Some(bias) => y + bias.reshape([1, 1, channels]),
        None => y,
    };
    y.reshape([batch, height, width, channels])
}

/// The map at the tokens that the order visits, and zero at others.
pub(crate) fn at_visited(map: Tensor<4>, steps: &Steps) -> Tensor<4> {
    let visited: Vec<f32> = steps.inverse().iter().map(|step| if step.is_some() { 1.0 } else { 0.0 }).collect();
    if !visited.contains(&0.0) {
        return map;
    }
    let [_, height, width, _] = map.dims();
    let visited = Tensor::<1>::from_floats(visited.as_slice(), &map.device());
    map * visited.reshape([1, height, width, 1])
}

/// The tokens in a row, with a class token of `[channels]` among them.
pub(crate) fn insert_token(x: Tensor<4>, token: Tensor<1>, place: TokenPlace) -> Tensor<4> {
    let [batch, height, width, channels] = x.dims();
    let (tokens, at) = (height * width, place.index(height * width));
    if batch == 0 {
        // `expand` refuses an extent of zero.
        return Tensor::zeros([0, 1, tokens + 1, channels], &x.device());
    }
    let row = x.reshape([batch, 1, tokens, channels]);
    let token: Tensor<4> = token.reshape([1, 1, 1, channels]).expand([batch, 1, 1, channels]);
    let mut parts = vec![token];
    if at > 0 {
        parts.insert(0, row.clone().narrow(2, 0, at));
    }
    if at < tokens {
        parts.push(row.narrow(2, at, tokens - at));
    }
    Tensor::cat(parts, 2)
}

/// RMSNorm over channels.
pub(crate) fn rms_norm(x: Tensor<4>, weight: Tensor<1>, eps: f64) -> Tensor<4> {
    let channels = x.dims()[3];
    let square = x.clone().powi_scalar(2).mean_dim(3);
    x / (square + eps).sqrt() * weight.reshape([1, 1, 1, channels])
}
