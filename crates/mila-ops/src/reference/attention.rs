//! Linear attention by its quadratic identity: every token looks at every token.

use std::ops::Range;

use super::{Array, Real};
use crate::{LinearAttention, Normalisation, Positions, Result, rope2d, shape};

/// Added to the mean normaliser (`z = 1 / (q . mean(k) + 1e-6)` in the official code).
const EPS: f64 = 1e-6;

/// `o_i = sum_j (R q_i . R k_j) v_j / (sum_j q_i . k_j + N eps)`, per head; `R` turns the channel pairs of [`rope2d`].
/// Without normalisation `N` takes the denominator's place.
pub(super) fn linear_attention<T: Real>(qk: &Array<T>, v: &Array<T>, form: LinearAttention) -> Result<Array<T>> {
    let (keys, channels) = (qk.dims.channels / 2, v.dims.channels);
    shape::attention(qk.dims.channels, channels, form)?;
    shape::same("linear attention", &v.dims.with_channels(2 * keys), &qk.dims)?;
    if v.dims.batch == 0 {
        return Ok(v.clone());
    }
    let tokens = v.dims.tokens();
    let count = T::of(tokens as f64);
    let turns = rope2d::rotations(v.dims.height, v.dims.width, keys);
    let positive = qk.clone().map(|x| if x > T::zero() { x + T::one() } else { x.exp() });
    let mut out = Array::zeros(v.dims);
    for b in 0..v.dims.batch {
        let row = |n: usize| &positive.values[(b * tokens + n) * 2 * keys..][..2 * keys];
        let q = |n: usize| &row(n)[..keys];
        let k = |n: usize| &row(n)[keys..];
        let place = |x: &[T], n: usize| match form.positions {
            Positions::Absent => x.to_vec(),
            Positions::Rotary => turned(x, &turns[n * keys..]),
        };
        let placed_q: Vec<Vec<T>> = (0..tokens).map(|n| place(q(n), n)).collect();
        let placed_k: Vec<Vec<T>> = (0..tokens).map(|n| place(k(n), n)).collect();
        for i in 0..tokens {
            for head in 0..form.heads {
                let of_keys = share(keys, form.heads, head);
                let mut weights = T::zero();
                for j in 0..tokens {
                    let score = dot(&placed_q[i][of_keys.clone()], &placed_k[j][of_keys.clone()]);
                    weights = weights + dot(&q(i)[of_keys.clone()], &k(j)[of_keys.clone()]);
                    for c in share(channels, form.heads, head) {
                        let o = &mut out.values[(b * tokens + i) * channels + c];
                        *o = *o + score * v.values[(b * tokens + j) * channels + c];
                    }
                }
                let below = match form.normalisation {
                    Normalisation::Absent => count,
                    Normalisation::Weights => weights + count * T::of(EPS),
                };
                for c in share(channels, form.heads, head) {
                    let o = &mut out.values[(b * tokens + i) * channels + c];
                    *o = *o / below;
                }
            }
        }
    }
    Ok(out)
}

/// The channels of one head.
fn share(channels: usize, heads: usize, head: usize) -> Range<usize> {
    let width = channels / heads;
    head * width..(head + 1) * width
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
        let form = LinearAttention::mila(heads);
        linear_attention(&Array::new(dims.with_channels(2 * channels), qk), &Array::new(dims, v), form).unwrap()
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
        for (qk, v, heads) in [(12, 6, 1), (16, 8, 3), (16, 8, 0), (7, 8, 1), (8, 6, 4)] {
            let form = LinearAttention::mila(heads);
            assert!(linear_attention(&map(qk), &map(v), form).is_err(), "{qk} of both, {v}, {heads} heads");
        }
        // Only a rotation needs pairs in two halves, and only the heads divide the values.
        assert!(linear_attention(&map(12), &map(6), LinearAttention::plain(1)).is_ok());
        assert!(linear_attention(&map(8), &map(6), LinearAttention::mila(2)).is_ok());
    }

    /// Section 7.4 of the specification: without division the output follows the queries' scale, with it it does not.
    /// Queries above zero are what they are, plus one.
    #[test]
    fn only_the_division_makes_the_output_free_of_the_queries_scale() {
        let dims = Dims::new(1, 2, 2, 4);
        let wave = |i: usize, shift: f64| 1.5 + (0.7 * i as f64 + shift).sin();
        let v = Array::new(dims, (0..16).map(|i| wave(i, 2.7)).collect());
        let qk = |scale: f64| {
            let value = |i: usize| if i % 8 < 4 { scale * wave(i, 0.1) - 1.0 } else { wave(i, 1.3) };
            Array::new(dims.with_channels(8), (0..32).map(value).collect())
        };
        for (normalisation, factor) in [(Normalisation::Absent, 3.0), (Normalisation::Weights, 1.0)] {
            let form = LinearAttention { normalisation, ..LinearAttention::plain(2) };
            let [one, three] = [2.0, 6.0].map(|scale| linear_attention(&qk(scale), &v, form).unwrap().values);
            for (one, three) in one.iter().zip(&three) {
                assert!((three / one - factor).abs() < 1e-6, "{normalisation:?}: {three} for {one}");
            }
        }
    }

    /// One group over all values: every channel is weighed alike.
    #[test]
    fn one_group_mixes_every_channel_by_the_same_weights() {
        let dims = Dims::new(1, 1, 3, 6);
        let qk = Array::new(dims.with_channels(4), (0..12).map(|i| (0.9 * f64::from(i)).sin()).collect());
        let column = |n: usize| [0.3, -1.2, 2.0][n];
        let v = Array::new(dims, (0..18).map(|i| column(i / 6) * (i % 6 + 1) as f64).collect());
        let y = linear_attention(&qk, &v, LinearAttention::plain(1)).unwrap();
        for token in y.values.chunks_exact(6) {
            for (c, value) in token.iter().enumerate() {
                assert!((value - token[0] * (c + 1) as f64).abs() < 1e-12, "{token:?}");
            }
        }
    }
}
