//! Layer norm and batch norm by their definitions.

use super::{Array, BatchNorm, Norm, Real};
use crate::{Error, Result, shape};

/// `(x - mean) / sqrt(variance + eps) * weight + bias` with the mean and biased variance of each token; without a bias
/// `x / sqrt(mean of squares + eps) * weight`.
pub(super) fn layer_norm<T: Real>(x: &Array<T>, p: &Norm<T>) -> Result<Array<T>> {
    shape::channels("layer norm", p.weight.len(), x.dims.channels)?;
    let mut values = Vec::with_capacity(x.values.len());
    for token in x.tokens() {
        match &p.bias {
            Some(bias) => {
                let (mean, variance) = moments(token.iter().copied());
                let scale = (variance + p.eps).sqrt().recip();
                values.extend((0..token.len()).map(|c| (token[c] - mean) * scale * p.weight[c] + bias[c]));
            }
            None => {
                let square = token.iter().map(|&v| v * v).sum::<T>() / T::of(token.len() as f64);
                let scale = (square + p.eps).sqrt().recip();
                values.extend((0..token.len()).map(|c| token[c] * scale * p.weight[c]));
            }
        }
    }
    Ok(Array { dims: x.dims, values })
}

/// Mean and biased variance of each channel over images and tokens.
pub(super) fn batch_statistics<T: Real>(x: &Array<T>, p: &BatchNorm<T>) -> Result<(Vec<T>, Vec<T>)> {
    if x.dims.rows() < 2 {
        let found = format!("{} at {}", x.dims.rows(), p.name);
        return Err(Error::shape("batch norm in training", "more than one value a channel", found));
    }
    Ok((0..x.dims.channels).map(|c| moments(x.tokens().map(move |token| token[c]))).unzip())
}

/// `(x - mean) / sqrt(variance + eps) * weight + bias` with the given statistics of each channel.
pub(super) fn batch_norm<T: Real>(x: &Array<T>, p: &BatchNorm<T>, mean: &[T], variance: &[T]) -> Result<Array<T>> {
    shape::channels("batch norm", p.weight.len(), x.dims.channels)?;
    let mut out = x.clone();
    for token in out.values.chunks_exact_mut(p.weight.len()) {
        for c in 0..token.len() {
            token[c] = (token[c] - mean[c]) / (variance[c] + p.eps).sqrt() * p.weight[c] + p.bias[c];
        }
    }
    Ok(out)
}

fn moments<T: Real>(values: impl Iterator<Item = T> + Clone) -> (T, T) {
    let count = T::of(values.clone().count() as f64);
    let mean = values.clone().sum::<T>() / count;
    (mean, values.map(|v| (v - mean) * (v - mean)).sum::<T>() / count)
}
