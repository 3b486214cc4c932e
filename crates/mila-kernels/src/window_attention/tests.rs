use super::*;
use crate::testing::{assert_close, everywhere, gradient, numbers, unwritten, wide};

/// Over all pairs of tokens, those of different windows left out.
fn naive(qkv: &[f64], table: &[f64], shape: WindowAttention) -> Vec<f64> {
    let WindowAttention { map: Map { batch, height, width, channels }, heads, side, shift } = shape;
    let d = channels / heads;
    let window = |at: usize, extent: usize| {
        let first = if extent <= side { 0 } else { (side - shift) % side };
        if extent <= side { 0 } else { (at + first) / side }
    };
    let mut y = vec![0.0; batch * height * width * channels];
    for image in 0..batch {
        let token = |n: usize| &qkv[(image * height * width + n) * 3 * channels..][..3 * channels];
        for i in 0..height * width {
            let (row, column) = (i / width, i % width);
            for head in 0..heads {
                let mut weights = vec![0.0; height * width];
                for (j, weight) in weights.iter_mut().enumerate() {
                    let (other_row, other_column) = (j / width, j % width);
                    if window(row, height) != window(other_row, height)
                        || window(column, width) != window(other_column, width)
                    {
                        continue;
                    }
                    let dot: f64 = (0..d).map(|c| token(i)[head * d + c] * token(j)[channels + head * d + c]).sum();
                    let offset = (row + side - 1 - other_row) * (2 * side - 1) + column + side - 1 - other_column;
                    *weight = (dot / (d as f64).sqrt() + table[offset * heads + head]).exp();
                }
                let total: f64 = weights.iter().sum();
                for c in 0..d {
                    let sum: f64 =
                        weights.iter().enumerate().map(|(j, w)| w * token(j)[2 * channels + head * d + c]).sum();
                    y[(image * height * width + i) * channels + head * d + c] = sum / total;
                }
            }
        }
    }
    y
}

fn shape([batch, height, width]: [usize; 3], [heads, d]: [usize; 2], [side, shift]: [usize; 2]) -> WindowAttention {
    WindowAttention { map: Map { batch, height, width, channels: heads * d }, heads, side, shift }
}

fn operands(shape: WindowAttention) -> (Vec<f32>, Vec<f32>) {
    let qkv = numbers(1, 3 * shape.map.len()).iter().map(|x| 3.0 * x).collect();
    (qkv, numbers(2, (2 * shape.side - 1).pow(2) * shape.heads))
}

#[test]
fn forward_is_the_definition() {
    for shape in [
        shape([0, 7, 7], [2, 32], [7, 0]),
        shape([1, 1, 1], [1, 24], [7, 3]),
        shape([2, 7, 7], [2, 32], [7, 3]),
        shape([1, 14, 21], [3, 32], [7, 0]),
        shape([2, 14, 14], [1, 32], [7, 3]),
        shape([1, 8, 15], [2, 20], [7, 3]),
        shape([1, 30, 3], [1, 8], [7, 3]),
        shape([3, 5, 9], [2, 5], [4, 1]),
        shape([1, 6, 6], [2, 16], [1, 0]),
        shape([1, 19, 17], [1, 48], [18, 2]),
    ] {
        let (qkv, table) = operands(shape);
        let wanted = naive(&wide(&qkv), &wide(&table), shape);
        everywhere(
            |isa| {
                let mut y = unwritten(shape.map.len());
                forward(isa, &qkv, &table, shape, &mut y);
                vec![y]
            },
            |isa, y| assert_close(format!("{isa} {shape:?}"), &y[0], &wanted, 2e-6),
        );
    }
}

#[test]
fn backward_is_the_difference_quotient() {
    for shape in [
        shape([1, 1, 1], [1, 3], [2, 1]),
        shape([2, 3, 5], [2, 4], [2, 1]),
        shape([1, 4, 3], [1, 20], [3, 0]),
        shape([1, 5, 4], [2, 16], [7, 3]),
    ] {
        let (qkv, table) = operands(shape);
        let dy = numbers(3, shape.map.len());
        let (qkv64, table64) = (wide(&qkv), wide(&table));
        let dqkv = gradient(&qkv, &dy, |qkv| naive(qkv, &table64, shape));
        let dtable = gradient(&table, &dy, |table| naive(&qkv64, table, shape));
        everywhere(
            |isa| gradients(isa, &qkv, &table, shape, &dy),
            |isa, got| {
                assert_close(format!("{isa} {shape:?} dqkv"), &got[0], &dqkv, 1e-5);
                // The gradient of a window of one token is zero, and then both sides hold rounding.
                if shape.map.len() > shape.map.channels {
                    assert_close(format!("{isa} {shape:?} dtable"), &got[1], &dtable, 1e-5);
                }
            },
        );
    }
}

/// At Swin's own sizes: a step along each gradient changes ⟨dy, o⟩ by its squared length.
#[test]
fn backward_holds_at_full_windows() {
    let shape = shape([2, 14, 9], [2, 32], [7, 3]);
    let (qkv, table) = operands(shape);
    let dy = numbers(3, shape.map.len());
    let loss = |qkv: &[f64], table: &[f64]| -> f64 {
        naive(qkv, table, shape).iter().zip(&dy).map(|(y, &dy)| y * f64::from(dy)).sum()
    };
    everywhere(
        |isa| gradients(isa, &qkv, &table, shape, &dy),
        |isa, got| {
            for (at, x) in [&qkv, &table].into_iter().enumerate() {
                let length: f64 = got[at].iter().map(|&g| f64::from(g).powi(2)).sum();
                let step = 1e-4 / length.sqrt();
                let moved = |step: f64| -> Vec<f64> {
                    x.iter().zip(&got[at]).map(|(&x, &g)| f64::from(x) + step * f64::from(g)).collect()
                };
                let value = |step: f64| match at {
                    0 => loss(&moved(step), &wide(&table)),
                    _ => loss(&wide(&qkv), &moved(step)),
                };
                let slope = (value(step) - value(-step)) / (2.0 * step);
                assert!((slope - length).abs() < 1e-4 * length, "{isa} {at}: slope {slope}, squared length {length}");
            }
        },
    );
}

#[test]
fn a_nan_reaches_every_token_of_its_window_and_no_other() {
    let shape = shape([1, 4, 4], [1, 16], [2, 0]);
    let (mut qkv, table) = operands(shape);
    // The key of the first token.
    qkv[16] = f32::NAN;
    for isa in crate::Isa::available() {
        let mut y = unwritten(shape.map.len());
        forward(isa, &qkv, &table, shape, &mut y);
        for (token, y) in y.chunks_exact(16).enumerate() {
            let inside = token / 4 < 2 && token % 4 < 2;
            assert!(y.iter().all(|y| y.is_nan() == inside), "{isa}: token {token}");
        }
    }
}

fn gradients(isa: crate::Isa, qkv: &[f32], table: &[f32], shape: WindowAttention, dy: &[f32]) -> Vec<Vec<f32>> {
    let (mut dqkv, mut dtable) = (unwritten(qkv.len()), unwritten(table.len()));
    backward(isa, qkv, table, shape, dy, Gradients { qkv: &mut dqkv, table: &mut dtable });
    vec![dqkv, dtable]
}
