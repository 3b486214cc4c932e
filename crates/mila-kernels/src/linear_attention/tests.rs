use super::*;
use crate::testing::{assert_close, everywhere, gradient, numbers, unwritten, wide};

/// Cosines and sines, `[positions, channels / 4, 2]`, of angles that differ from position to position and pair to pair.
fn axis(positions: usize, channels: usize, step: f32) -> Vec<f32> {
    let angle = |n: usize, m: usize| n as f32 * step * 0.7_f32.powi(m as i32 % 8);
    (0..positions).flat_map(|n| (0..channels / 4).flat_map(move |m| [angle(n, m).cos(), angle(n, m).sin()])).collect()
}

/// Rows of nine tokens where they divide, else of one.
fn rows_and_columns(tokens: usize, channels: usize) -> [Vec<f32>; 2] {
    let width = [9, 7, 14, 10, 25].into_iter().find(|&width| tokens.is_multiple_of(width)).unwrap_or(1);
    [axis(tokens / width, channels, 0.1), axis(width, channels, 0.7)]
}

/// The same for every token, `[tokens, channels / 2, 2]`.
fn table(tokens: usize, channels: usize) -> Vec<f32> {
    let half = channels / 2;
    let [rows, columns] = rows_and_columns(tokens, channels);
    let rows = rows.chunks_exact(half);
    rows.flat_map(|row| columns.chunks_exact(half).flat_map(move |column| row.iter().chain(column))).copied().collect()
}

/// The quadratic form: weights of every query over every key, with no state.
fn naive(qk: &[f64], v: &[f64], shape: Attention, rotation: Option<&[f64]>) -> Vec<f64> {
    let Attention { batch, tokens, keys, channels, heads, normalisation } = shape;
    let (dk, dv) = (keys / heads, channels / heads);
    let features = |x: &[f64]| -> Vec<f64> { x.iter().map(|&x| if x > 0.0 { x + 1.0 } else { x.exp() }).collect() };
    let rotated = |x: &[f64], n: usize| -> Vec<f64> {
        let Some(rotation) = rotation else { return x.to_vec() };
        let turn = |m: usize| {
            let (re, im) = (x[2 * m], x[2 * m + 1]);
            let (cos, sin) = (rotation[n * keys + 2 * m], rotation[n * keys + 2 * m + 1]);
            [re * cos - im * sin, im * cos + re * sin]
        };
        (0..keys / 2).flat_map(turn).collect()
    };
    let dot = |a: &[f64], b: &[f64], h: usize| (h * dk..(h + 1) * dk).map(|c| a[c] * b[c]).sum::<f64>();
    let mut y = vec![0.0; batch * tokens * channels];
    for image in 0..batch {
        let row = |n: usize| &qk[(image * tokens + n) * 2 * keys..][..2 * keys];
        let q: Vec<_> = (0..tokens).map(|n| features(&row(n)[..keys])).collect();
        let k: Vec<_> = (0..tokens).map(|n| features(&row(n)[keys..])).collect();
        let rq: Vec<_> = (0..tokens).map(|n| rotated(&q[n], n)).collect();
        let rk: Vec<_> = (0..tokens).map(|n| rotated(&k[n], n)).collect();
        for n in 0..tokens {
            for h in 0..heads {
                let total = match normalisation {
                    Normalisation::Absent => tokens as f64,
                    Normalisation::Weights => {
                        (0..tokens).map(|j| dot(&q[n], &k[j], h)).sum::<f64>() + tokens as f64 * 1e-6
                    }
                };
                for j in 0..tokens {
                    let weight = dot(&rq[n], &rk[j], h) / total;
                    for c in h * dv..(h + 1) * dv {
                        y[(image * tokens + n) * channels + c] += weight * v[(image * tokens + j) * channels + c];
                    }
                }
            }
        }
    }
    y
}

fn shape(batch: usize, tokens: usize, heads: usize, head_dim: usize) -> Attention {
    let (keys, normalisation) = (heads * head_dim, Normalisation::Weights);
    Attention { batch, tokens, keys, channels: keys, heads, normalisation }
}

/// Keys of one width and values of another, with both kinds of normalisation.
fn unequal(batch: usize, tokens: usize, heads: usize, [dk, dv]: [usize; 2]) -> [Attention; 2] {
    [Normalisation::Absent, Normalisation::Weights].map(|normalisation| Attention {
        batch,
        tokens,
        keys: heads * dk,
        channels: heads * dv,
        heads,
        normalisation,
    })
}

fn operands(shape: Attention) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let rows = shape.batch * shape.tokens;
    let qk = numbers(1, 2 * rows * shape.keys).iter().map(|x| 3.0 * x).collect();
    (qk, numbers(2, rows * shape.channels), table(shape.tokens, shape.keys))
}

#[test]
fn forward_is_the_quadratic_form() {
    let shapes = [
        shape(0, 7, 2, 32),
        shape(2, 0, 2, 32),
        shape(1, 1, 1, 24),
        shape(2, 7, 1, 60),
        shape(1, 49, 3, 32),
        shape(1, 63, 4, 16),
        shape(2, 196, 2, 12),
        shape(1, 250, 4, 64),
        shape(1, 30, 4, 3),
        shape(1, 504, 2, 32),
        shape(1, 196, 1, 128),
    ];
    let unequal = [
        unequal(1, 49, 1, [32, 96]),
        unequal(2, 30, 2, [16, 32]),
        unequal(1, 203, 4, [32, 64]),
        unequal(1, 7, 3, [8, 5]),
        unequal(2, 9, 12, [32, 32]),
    ];
    for shape in shapes.into_iter().chain(unequal.into_iter().flatten()) {
        let (qk, v, rotation) = operands(shape);
        let [rows, columns] = rows_and_columns(shape.tokens, shape.keys);
        let rotations = Rotations::new(&rows, &columns, shape.keys);
        for (rotation, rotations) in [(Some(wide(&rotation)), Some(&rotations)), (None, None)] {
            let wanted = naive(&wide(&qk), &wide(&v), shape, rotation.as_deref());
            let turns = if rotation.is_some() { "turned" } else { "as they are" };
            everywhere(
                |isa| {
                    let mut y = unwritten(v.len());
                    forward(isa, &qk, &v, shape, rotations, &mut y);
                    vec![y]
                },
                |isa, y| assert_close(format!("{isa} {shape:?} {turns}"), &y[0], &wanted, 2e-6),
            );
        }
    }
}

/// Widths that no rotation could pair.
#[test]
fn odd_widths_need_no_rotation() {
    for shape in unequal(2, 5, 1, [3, 7]).into_iter().chain(unequal(1, 11, 3, [5, 1])) {
        let rows = shape.batch * shape.tokens;
        let (qk, v) = (numbers(1, 2 * rows * shape.keys), numbers(2, rows * shape.channels));
        let wanted = naive(&wide(&qk), &wide(&v), shape, None);
        everywhere(
            |isa| {
                let mut y = unwritten(v.len());
                forward(isa, &qk, &v, shape, None, &mut y);
                vec![y]
            },
            |isa, y| assert_close(format!("{isa} {shape:?}"), &y[0], &wanted, 2e-6),
        );
    }
}

#[test]
fn backward_is_the_difference_quotient() {
    let equal = [shape(1, 2, 1, 4), shape(2, 5, 2, 6), shape(1, 9, 4, 3), shape(1, 4, 1, 24), shape(1, 3, 2, 32)];
    let unequal = [unequal(1, 4, 1, [4, 12]), unequal(2, 3, 2, [6, 4])];
    for shape in equal.into_iter().chain(unequal.into_iter().flatten()) {
        let (qk, v, rotation) = operands(shape);
        let dy = numbers(3, v.len());
        for rotation in [Some(&*rotation), None] {
            let (qk64, v64, rotation64) = (wide(&qk), wide(&v), rotation.map(wide));
            let dqk = gradient(&qk, &dy, |qk| naive(qk, &v64, shape, rotation64.as_deref()));
            let dv = gradient(&v, &dy, |v| naive(&qk64, v, shape, rotation64.as_deref()));
            let turns = if rotation.is_some() { "turned" } else { "as they are" };
            everywhere(
                |isa| gradients(isa, &qk, &v, shape, rotation, &dy),
                |isa, got| {
                    assert_close(format!("{isa} {shape:?} {turns} dqk"), &got[0], &dqk, 1e-5);
                    assert_close(format!("{isa} {shape:?} {turns} dv"), &got[1], &dv, 1e-5);
                },
            );
        }
    }
}

/// Over several chunks: ⟨dy, o⟩ = ⟨dv, v⟩, because o is linear in v; and a step along dqk changes ⟨dy, o⟩ by |dqk|².
#[test]
fn backward_holds_over_several_chunks() {
    let shape = shape(2, 430, 2, 16);
    let (qk, v, rotation) = operands(shape);
    let dy = numbers(3, v.len());
    let inner = |a: &[f64], b: &[f32]| a.iter().zip(b).map(|(a, &b)| a * f64::from(b)).sum::<f64>();
    let loss = |qk: &[f64]| inner(&naive(qk, &wide(&v), shape, Some(&wide(&rotation))), &dy);
    let wanted = loss(&wide(&qk));
    everywhere(
        |isa| gradients(isa, &qk, &v, shape, Some(&rotation), &dy),
        |isa, got| {
            let along_v = inner(&wide(&got[1]), &v);
            assert!((along_v - wanted).abs() < 1e-5 * wanted.abs(), "{isa}: {along_v} is not {wanted}");
            let length = inner(&wide(&got[0]), &got[0]);
            let step = 1e-4 / length.sqrt();
            let moved = |step: f64| qk.iter().zip(&got[0]).map(|(&x, &g)| f64::from(x) + step * f64::from(g)).collect();
            let moved: [Vec<f64>; 2] = [moved(step), moved(-step)];
            let slope = (loss(&moved[0]) - loss(&moved[1])) / (2.0 * step);
            assert!((slope - length).abs() < 1e-4 * length, "{isa}: slope {slope}, squared length {length}");
        },
    );
}

fn gradients(isa: Isa, qk: &[f32], v: &[f32], shape: Attention, rotation: Option<&[f32]>, dy: &[f32]) -> Vec<Vec<f32>> {
    let (mut dqk, mut dv) = (unwritten(qk.len()), unwritten(v.len()));
    backward(isa, qk, v, shape, rotation, dy, Gradients { qk: &mut dqk, v: &mut dv });
    vec![dqk, dv]
}
