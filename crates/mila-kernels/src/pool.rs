//! The mean over the tokens of an image.

use crate::threads;

/// Tokens whose sum one piece makes.
const CHUNK: usize = 64;

/// Channels whose totals are kept at a time.
const BLOCK: usize = 64;

/// `y[b][c]` = the mean over n of `x[b][n][c]`, for `x` `[batch, tokens, channels]` and `y` `[batch, channels]`.
///
/// The mean of no token is 0.
///
/// # Panics
/// If a length does not fit.
pub fn mean_tokens(x: &[f32], (batch, tokens, channels): (usize, usize, usize), y: &mut [f32]) {
    assert_eq!(x.len(), batch * tokens * channels, "mean over tokens: x is [{batch}, {tokens}, {channels}]");
    assert_eq!(y.len(), batch * channels, "mean over tokens: y is [{batch}, {channels}]");
    if x.is_empty() {
        return y.fill(0.0);
    }
    threads::chunks(y, channels, |image, y| {
        let x = &x[image * tokens * channels..][..tokens * channels];
        for (block, y) in y.chunks_mut(BLOCK).enumerate() {
            let mut totals = [0.0_f64; BLOCK];
            for x in x.chunks(CHUNK * channels) {
                y.fill(0.0);
                for x in x.chunks_exact(channels) {
                    y.iter_mut().zip(&x[block * BLOCK..]).for_each(|(y, x)| *y += x);
                }
                totals.iter_mut().zip(&*y).for_each(|(total, &y)| *total += f64::from(y));
            }
            y.iter_mut().zip(totals).for_each(|(y, total)| *y = (total / tokens as f64) as f32);
        }
    });
}

/// The gradient of [`mean_tokens`]: `dx[b][n][c] = dy[b][c] / tokens`.
///
/// # Panics
/// If a length does not fit.
pub fn mean_tokens_backward(dy: &[f32], (batch, tokens, channels): (usize, usize, usize), dx: &mut [f32]) {
    assert_eq!(dx.len(), batch * tokens * channels, "mean over tokens: dx is [{batch}, {tokens}, {channels}]");
    assert_eq!(dy.len(), batch * channels, "mean over tokens: dy is [{batch}, {channels}]");
    if dx.is_empty() {
        return;
    }
    let share = 1.0 / tokens as f32;
    threads::each(dx.chunks_exact_mut(tokens * channels).zip(dy.chunks_exact(channels)), |_, (dx, dy)| {
        for dx in dx.chunks_exact_mut(channels) {
            dx.iter_mut().zip(dy).for_each(|(dx, dy)| *dx = dy * share);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, everywhere, numbers, unwritten};

    #[test]
    fn both_ways() {
        for (batch, tokens, channels) in [(0, 4, 3), (2, 0, 3), (1, 1, 24), (3, 49, 60), (2, 196, 33)] {
            let shape = (batch, tokens, channels);
            let (x, dy) = (numbers(1, batch * tokens * channels), numbers(2, batch * channels));
            let at = |i: usize| i / (tokens * channels) * channels + i % channels;
            let (mut y, mut dx) = (vec![0.0; batch * channels], vec![0.0; x.len()]);
            for (i, &x) in x.iter().enumerate() {
                y[at(i)] += f64::from(x) / tokens as f64;
                dx[i] = f64::from(dy[at(i)]) / tokens as f64;
            }
            everywhere(
                |_| {
                    let mut result = [batch * channels, x.len()].map(unwritten);
                    mean_tokens(&x, shape, &mut result[0]);
                    mean_tokens_backward(&dy, shape, &mut result[1]);
                    result.to_vec()
                },
                |_, result| {
                    assert_close(format!("{shape:?} y"), &result[0], &y, 1e-6);
                    assert_close(format!("{shape:?} dx"), &result[1], &dx, 1e-6);
                },
            );
        }
    }
}
