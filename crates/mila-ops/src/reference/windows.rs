//! Softmax attention within windows, with a bias for relative positions.

use super::{Array, Real};
use crate::{Result, Windows, shape};

/// `o_i = sum_j softmax_j(q_i . k_j / sqrt(d) + table[y_i - y_j, x_i - x_j]) v_j` over the tokens `j` of the window of `i`.
pub(super) fn window_attention<T: Real>(
    qkv: &Array<T>,
    table: &[T],
    heads: usize,
    windows: Windows,
) -> Result<Array<T>> {
    let channels = shape::window_attention(qkv.dims.channels, table.len(), heads, windows)?;
    let d = channels / heads;
    let scale = T::one() / T::of(d as f64).sqrt();
    let mut out = Array::zeros(qkv.dims.with_channels(channels));
    for b in 0..qkv.dims.batch {
        for rows in windows.along(qkv.dims.height) {
            for columns in windows.along(qkv.dims.width) {
                let tokens: Vec<_> = rows.clone().flat_map(|y| columns.clone().map(move |x| (y, x))).collect();
                for head in 0..heads {
                    let part =
                        |(y, x): (usize, usize), part: usize| &qkv.token(b, y, x)[part * channels + head * d..][..d];
                    for &i in &tokens {
                        let score = |&j: &(usize, usize)| {
                            let offset = windows.offset(i.0 + windows.side - 1 - j.0, i.1 + windows.side - 1 - j.1);
                            dot(part(i, 0), part(j, 1)) * scale + table[offset * heads + head]
                        };
                        let scores: Vec<T> = tokens.iter().map(score).collect();
                        let largest = scores.iter().fold(scores[0], |a, &b| if b > a { b } else { a });
                        let weights: Vec<T> = scores.iter().map(|&s| (s - largest).exp()).collect();
                        let total: T = weights.iter().copied().sum();
                        for c in 0..d {
                            let sum: T = tokens.iter().zip(&weights).map(|(&j, &w)| w * part(j, 2)[c]).sum();
                            out.token_mut(b, i.0, i.1)[head * d + c] = sum / total;
                        }
                    }
                }
            }
        }
    }
    Ok(out)
}

fn dot<T: Real>(a: &[T], b: &[T]) -> T {
    a.iter().zip(b).map(|(&x, &y)| x * y).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Dims;

    /// Two tokens, one channel: weights by hand.
    #[test]
    fn two_tokens_by_hand() {
        let qkv = Array::new(Dims::new(1, 1, 2, 3), vec![1.0, 2.0, 10.0, 3.0, 0.5, 20.0_f64]);
        let mut table = vec![0.0; 9];
        // The query is one column left of its key, or right of it.
        (table[3], table[5]) = (0.25, -0.5);
        let out = window_attention(&qkv, &table, 1, Windows { side: 2, shift: 0 }).unwrap();
        let weigh =
            |own: f64, other: f64, a: f64, b: f64| (a * own.exp() + b * other.exp()) / (own.exp() + other.exp());
        assert!((out.values[0] - weigh(2.0, 0.5 + 0.25, 10.0, 20.0)).abs() < 1e-12);
        assert!((out.values[1] - weigh(1.5, 6.0 - 0.5, 20.0, 10.0)).abs() < 1e-12);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let map = |channels| Array::<f64>::zeros(Dims::new(1, 3, 3, channels));
        let windows = Windows { side: 2, shift: 1 };
        assert!(window_attention(&map(12), &[0.0; 18], 2, windows).is_ok());
        for (channels, table, heads, windows) in [
            (11, 18, 2, windows),
            (12, 17, 2, windows),
            (12, 0, 0, windows),
            (9, 18, 2, windows),
            (12, 18, 2, Windows { side: 2, shift: 2 }),
            (12, 0, 2, Windows { side: 0, shift: 0 }),
        ] {
            let found = window_attention(&map(channels), &vec![0.0; table], heads, windows);
            assert!(found.is_err(), "{channels} channels, table of {table}, {heads} heads, {windows:?}");
        }
    }
}
