//! The attention that linear attention implies: the weights of its quadratic form, for one token that looks.

use mila_ops::reference::Array;
use mila_ops::{LinearAttention, Normalisation, Positions, Result, rope2d, shape};

/// Added to the mean normaliser, as [`mila_ops::Executor::linear_attention`] says.
const EPS: f64 = 1e-6;

/// How much the token `looking` looks at every token of the first image of `qk`, the mean over heads. With that token `i`, `N`
/// tokens and the rotation `R` or the identity,
///
/// ```text
/// w_j = R q_i · R k_j / (Σ_j q_i · k_j + N eps),  or / N without normalisation
/// ```
///
/// so that `o_i = Σ_j w_j v_j`. Weights add up to 1 where they are normalised and nothing turns; a rotation can make some negative.
///
/// # Errors
/// Those of [`shape::attention`].
pub(crate) fn weights(qk: &Array<f32>, form: LinearAttention, looking: usize) -> Result<Vec<f64>> {
    let (tokens, width) = (qk.dims.tokens(), qk.dims.channels);
    // The values may have any width that the heads divide.
    shape::attention(width, form.heads, form)?;
    let keys = width / 2;
    let turns = rope2d::rotations(qk.dims.height, qk.dims.width, keys);
    let row =
        |n: usize| qk.values[n * width..][..width].iter().map(|&x| elu_plus_one(f64::from(x))).collect::<Vec<_>>();
    let placed = |x: &[f64], n: usize| match form.positions {
        Positions::Absent => x.to_vec(),
        Positions::Rotary => turned(x, &turns[n * keys..]),
    };
    let q = row(looking)[..keys].to_vec();
    let placed_q = placed(&q, looking);

    let of_head = keys / form.heads;
    let mut weights = vec![0.0; tokens];
    let mut scores = vec![0.0; tokens * form.heads];
    let mut below = vec![0.0; form.heads];
    for n in 0..tokens {
        let k = row(n)[keys..].to_vec();
        let placed_k = placed(&k, n);
        for head in 0..form.heads {
            let share = head * of_head..(head + 1) * of_head;
            scores[n * form.heads + head] = dot(&placed_q[share.clone()], &placed_k[share.clone()]);
            below[head] += match form.normalisation {
                Normalisation::Absent => 1.0,
                Normalisation::Weights => dot(&q[share.clone()], &k[share]) + EPS,
            };
        }
    }
    for (weight, scores) in weights.iter_mut().zip(scores.chunks_exact(form.heads)) {
        *weight = scores.iter().zip(&below).map(|(score, below)| score / below).sum::<f64>() / form.heads as f64;
    }
    Ok(weights)
}

fn elu_plus_one(x: f64) -> f64 {
    if x > 0.0 { x + 1.0 } else { x.exp() }
}

/// `token` with every pair `(re, im)` of channels turned by its `(cos, sin)`.
fn turned(token: &[f64], turns: &[f32]) -> Vec<f64> {
    let pairs = token.chunks_exact(2).zip(turns.chunks_exact(2));
    let turn = |(pair, turn): (&[f64], &[f32])| {
        let (re, im, cos, sin) = (pair[0], pair[1], f64::from(turn[0]), f64::from(turn[1]));
        [re * cos - im * sin, im * cos + re * sin]
    };
    pairs.flat_map(turn).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

#[cfg(test)]
mod tests {
    use mila_ops::reference::Reference;
    use mila_ops::{Dims, Executor};

    use super::*;

    fn wave(dims: Dims, shift: f64) -> Array<f64> {
        Array::new(dims, (0..dims.volume()).map(|i| (0.7 * i as f64 + shift).sin()).collect())
    }

    /// The weights applied to values are the operator's output at the token that looks: with one head, and for values that all
    /// heads share.
    #[test]
    fn weights_times_values_are_the_operator() {
        let dims = Dims::new(1, 3, 4, 8);
        let forms = [
            LinearAttention::plain(1),
            LinearAttention::mila(1),
            LinearAttention { normalisation: Normalisation::Absent, ..LinearAttention::plain(1) },
            LinearAttention::mila(2),
        ];
        for form in forms {
            let qk = wave(dims.with_channels(16), 0.3);
            // Every channel of a token holds the same value, so that the mean over heads of the outputs is that of the weights.
            let column = |n: usize| (1.1 * n as f64).cos();
            let v = Array::new(dims, (0..dims.volume()).map(|i| column(i / 8)).collect());
            let y = Reference::<f64>::eval().linear_attention(&qk, &v, form).unwrap();
            let as_f32 = Array::new(qk.dims, qk.values.iter().map(|&x| x as f32).collect());
            for token in [0, 6, 11] {
                let found = weights(&as_f32, form, token).unwrap();
                let found: f64 = found.iter().enumerate().map(|(n, w)| w * column(n)).sum();
                let wanted = y.values[token * 8..][..8].iter().sum::<f64>() / 8.0;
                // Queries and keys were rounded to f32.
                assert!((found - wanted).abs() < 1e-6, "{form:?} from token {token}: {found} for {wanted}");
            }
        }
    }

    #[test]
    fn normalised_weights_add_up_to_one() {
        let qk = wave(Dims::new(1, 3, 4, 16), 0.9);
        let qk = Array::new(qk.dims, qk.values.iter().map(|&x| x as f32).collect());
        let sum: f64 = weights(&qk, LinearAttention::plain(4), 3).unwrap().iter().sum();
        assert!((sum - 1.0).abs() < 1e-5, "{sum}");
    }
}
