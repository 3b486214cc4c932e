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
fn naive(qk: &[f64], v: &[f64], shape: Attention, rotation: &[f64]) -> Vec<f64> {
    let Attention { batch, tokens, channels, heads } = shape;
    let d = channels / heads;
    let features = |x: &[f64]| -> Vec<f64> { x.iter().map(|&x| if x > 0.0 { x + 1.0 } else { x.exp() }).collect() };
    let rotated = |x: &[f64], n: usize| -> Vec<f64> {
        let turn = |m: usize| {
            let (re, im) = (x[2 * m], x[2 * m + 1]);
            let (cos, sin) = (rotation[n * channels + 2 * m], rotation[n * channels + 2 * m + 1]);
            [re * cos - im * sin, im * cos + re * sin]
        };
        (0..channels / 2).flat_map(turn).collect()
    };
    let dot = |a: &[f64], b: &[f64], h: usize| (h * d..(h + 1) * d).map(|c| a[c] * b[c]).sum::<f64>();
    let mut y = vec![0.0; batch * tokens * channels];
    for image in 0..batch {
        let row = |n: usize| &qk[(image * tokens + n) * 2 * channels..][..2 * channels];
        let q: Vec<_> = (0..tokens).map(|n| features(&row(n)[..channels])).collect();
        let k: Vec<_> = (0..tokens).map(|n| features(&row(n)[channels..])).collect();
        let rq: Vec<_> = (0..tokens).map(|n| rotated(&q[n], n)).collect();
        let rk: Vec<_> = (0..tokens).map(|n| rotated(&k[n], n)).collect();
        for n in 0..tokens {
            for h in 0..heads {
                let total = (0..tokens).map(|j| dot(&q[n], &k[j], h)).sum::<f64>() + tokens as f64 * 1e-6;
                for j in 0..tokens {
                    let weight = dot(&rq[n], &rk[j], h) / total;
                    for c in h * d..(h + 1) * d {
                        y[(image * tokens + n) * channels + c] += weight * v[(image * tokens + j) * channels + c];
                    }
                }
            }
        }
    }
    y
}

fn shape(batch: usize, tokens: usize, heads: usize, head_dim: usize) -> Attention {
    Attention { batch, tokens, channels: heads * head_dim, heads }
}

fn operands(shape: Attention) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let len = shape.batch * shape.tokens * shape.channels;
    let qk = numbers(1, 2 * len).iter().map(|x| 3.0 * x).collect();
    (qk, numbers(2, len), table(shape.tokens, shape.channels))
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
    for shape in shapes {
        let (qk, v, rotation) = operands(shape);
        let wanted = naive(&wide(&qk), &wide(&v), shape, &wide(&rotation));
        everywhere(
            |isa| {
                let mut y = unwritten(v.len());
                let [rows, columns] = rows_and_columns(shape.tokens, shape.channels);
                forward(isa, &qk, &v, shape, &Rotations::new(&rows, &columns, shape.channels), &mut y);
                vec![y]
            },
            |isa, y| assert_close(format!("{isa} {shape:?}"), &y[0], &wanted, 2e-6),
        );
    }
}

#[test]
fn backward_is_the_difference_quotient() {
    for shape in [shape(1, 2, 1, 4), shape(2, 5, 2, 6), shape(1, 9, 4, 3), shape(1, 4, 1, 24), shape(1, 3, 2, 32)] {
        let (qk, v, rotation) = operands(shape);
        let dy = numbers(3, v.len());
        let (qk64, v64, rotation64) = (wide(&qk), wide(&v), wide(&rotation));
        let dqk = gradient(&qk, &dy, |qk| naive(qk, &v64, shape, &rotation64));
        let dv = gradient(&v, &dy, |v| naive(&qk64, v, shape, &rotation64));
        everywhere(
            |isa| gradients(isa, &qk, &v, shape, &rotation, &dy),
            |isa, got| {
                assert_close(format!("{isa} {shape:?} dqk"), &got[0], &dqk, 1e-5);
                assert_close(format!("{isa} {shape:?} dv"), &got[1], &dv, 1e-5);
            },
        );
    }
}

/// Over several chunks: ⟨dy, o⟩ = ⟨dv, v⟩, because o is linear in v; and a step along dqk changes ⟨dy, o⟩ by |dqk|².
#[test]
fn backward_holds_over_several_chunks() {
    let shape = shape(2, 430, 2, 16);
    let (qk, v, rotation) = operands(shape);
    let dy = numbers(3, v.len());
    let inner = |a: &[f64], b: &[f32]| a.iter().zip(b).map(|(a, &b)| a * f64::from(b)).sum::<f64>();
    let loss = |qk: &[f64]| inner(&naive(qk, &wide(&v), shape, &wide(&rotation)), &dy);
    let wanted = loss(&wide(&qk));
    everywhere(
        |isa| gradients(isa, &qk, &v, shape, &rotation, &dy),
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

fn gradients(isa: Isa, qk: &[f32], v: &[f32], shape: Attention, rotation: &[f32], dy: &[f32]) -> Vec<Vec<f32>> {
    let (mut dqk, mut dv) = (unwritten(qk.len()), unwritten(v.len()));
    backward(isa, qk, v, shape, rotation, dy, Gradients { qk: &mut dqk, v: &mut dv });
    vec![dqk, dv]
}
