//! Normalised linear attention by its quadratic identity: every token looks at every token.

use super::{Array, Real};
use crate::{Result, rope2d, shape};

/// Added to the mean normaliser (`z = 1 / (q . mean(k) + 1e-6)` in the official code).
const EPS: f64 = 1e-6;

/// `o_i = sum_j (R q_i . R k_j) v_j / (sum_j q_i . k_j + N eps)`, per head; `R` turns the channel pairs of [`rope2d`].
pub(super) fn linear_attention<T: Real>(qk: &Array<T>, v: &Array<T>, heads: usize) -> Result<Array<T>> {
    let channels = v.dims.channels;
    shape::attention(qk.dims.channels, channels, heads)?;
    shape::same("linear attention", &v.dims.with_channels(2 * channels), &qk.dims)?;
    if v.dims.batch == 0 {
        return Ok(v.clone());
    }
    let (tokens, head_dim) = (v.dims.tokens(), channels / heads);
    let turns = rope2d::rotations(v.dims.height, v.dims.width, channels);
    let positive = qk.clone().map(|x| if x > T::zero() { x + T::one() } else { x.exp() });
    let mut out = Array::zeros(v.dims);
    for b in 0..v.dims.batch {
        let row = |n: usize| &positive.values[(b * tokens + n) * 2 * channels..][..2 * channels];
        let q = |n: usize| &row(n)[..channels];
        let k = |n: usize| &row(n)[channels..];
        let turned_q: Vec<Vec<T>> = (0..tokens).map(|n| turned(q(n), &turns[n * channels..])).collect();
        let turned_k: Vec<Vec<T>> = (0..tokens).map(|n| turned(k(n), &turns[n * channels..])).collect();
        for i in 0..tokens {
            for head in 0..heads {
                let range = head * head_dim..(head + 1) * head_dim;
                let mut below = T::of(tokens as f64 * EPS);
                for j in 0..tokens {
                    let score = dot(&turned_q[i][range.clone()], &turned_k[j][range.clone()]);
                    below = below + dot(&q(i)[range.clone()], &k(j)[range.clone()]);
                    for c in range.clone() {
                        let o = &mut out.values[(b * tokens + i) * channels + c];
                        *o = *o + score * v.values[(b * tokens + j) * channels + c];
                    }
                }
                for c in range {
                    let o = &mut out.values[(b * tokens + i) * channels + c];
                    *o = *o / below;
                }
            }
        }
    }
    Ok(out)
}

/// `token` with every pair `(re, im)` of channels turned by its `(cos, sin)`.
fn turned<T: Real>(token: &[T], turns: &[f32]) -> Vec<T> {
    let pairs = token.chunks_exact(2).zip(turns.chunks_exact(2));
    let turn = |(pair, turn): (&[T], &[f32])| {
        let (re, im, cos, sin) = (pair[0], pair[1], T::of(f64::from(turn[0])), T::of(f64::from(turn[1])));
        [re * cos - im * sin, im * cos + re * sin]
    };
    pairs.flat_map(turn).collect()
}

fn dot<T: Real>(a: &[T], b: &[T]) -> T {
    a.iter().zip(b).map(|(&x, &y)| x * y).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Dims;

    /// Pre-activations and values of the anchors: `sin(0.7 (i + 1)(c + 1) + shift)`.
    fn anchor(height: usize, width: usize, channels: usize, heads: usize) -> Array<f64> {
        let wave = |i: usize, c: usize, shift: f64| (0.7 * ((i + 1) * (c + 1)) as f64 + shift).sin();
        let dims = Dims::new(1, height, width, channels);
        let rows = |shift: f64| move |i: usize| (0..channels).map(move |c| wave(i, c, shift));
        let (q, k, v) = (rows(0.1), rows(1.3), rows(2.7));
        let qk = (0..height * width).flat_map(|i| q(i).chain(k(i))).collect();
        let v = (0..height * width).flat_map(v).collect();
        linear_attention(&Array::new(dims.with_channels(2 * channels), qk), &Array::new(dims, v), heads).unwrap()
    }

    fn check(found: &Array<f64>, wanted: &[f64]) {
        assert_eq!(found.values.len(), wanted.len());
        for (f, w) in found.values.iter().zip(wanted) {
            // Angles are f32, the printed anchors have seven digits.
            assert!((f - w).abs() < 2e-6, "{f} for {w}");
        }
    }

    #[test]
    fn anchors_2x2() {
        let wanted = [
            -0.4269645, -0.1402237, -0.1821395, -0.2919352, -0.3593548, -0.3951992, -0.1556965, -0.0480895, -0.5227450,
            -0.0279942, -0.2224079, -0.1636027, -0.5382066, 0.0318736, -0.2274392, -0.0657385,
        ];
        check(&anchor(2, 2, 4, 1), &wanted);
    }

    #[test]
    fn anchors_1x3_two_heads() {
        let wanted = [
            -0.6601895, -0.3333283, -0.0787594, -0.3275605, -0.1991648, -0.1927358, 0.4236430, 0.4830379, -0.6147729,
            -0.4452382, -0.1511484, -0.2592465, -0.0806612, -0.2751303, 0.0636043, 0.5856665, -0.6842119, -0.3529658,
            0.0014650, -0.2118259, 0.2190772, 0.2364749, -0.2297581, 0.4585427,
        ];
        check(&anchor(1, 3, 8, 2), &wanted);
    }

    #[test]
    fn anchors_3x2_last_row() {
        let wanted = [-0.2308698, -0.0858467, 0.1048288, 0.0361993, -0.0866216, -0.0124827, 0.0702319, -0.0789017];
        let found = anchor(3, 2, 8, 1);
        check(&Array::new(Dims::new(1, 1, 1, 8), found.values[40..].to_vec()), &wanted);
    }

    #[test]
    fn channels_that_cannot_be_split_are_refused() {
        let map = |channels| Array::<f64>::zeros(Dims::new(1, 2, 2, channels));
        for (channels, heads) in [(6, 1), (8, 3), (8, 0)] {
            assert!(linear_attention(&map(2 * channels), &map(channels), heads).is_err(), "{channels}, {heads} heads");
        }
        assert!(linear_attention(&map(8), &map(8), 2).is_err(), "q and k of half the width");
    }
}
