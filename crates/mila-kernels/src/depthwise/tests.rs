use super::*;
use crate::Activation;
use crate::testing::{assert_close, everywhere, gradient, numbers, unwritten, wide};

fn naive(x: &[f64], shape: Map, window: Window, weight: &[f64], bias: &[f64]) -> Vec<f64> {
    let Map { height, width, channels, .. } = shape;
    let output = window.map(shape, channels);
    let mut y = Vec::new();
    for image in 0..output.batch {
        for oy in 0..output.height {
            for ox in 0..output.width {
                for c in 0..channels {
                    let mut sum = bias[c];
                    for tap in 0..window.taps() {
                        let (ky, kx) = (tap / window.kernel, tap % window.kernel);
                        let iy = (oy * window.stride + ky).wrapping_sub(window.padding);
                        let ix = (ox * window.stride + kx).wrapping_sub(window.padding);
                        if iy < height && ix < width {
                            let at = ((image * height + iy) * width + ix) * channels + c;
                            sum += x[at] * weight[tap * channels + c];
                        }
                    }
                    y.push(sum);
                }
            }
        }
    }
    y
}

fn map(batch: usize, height: usize, width: usize, channels: usize) -> Map {
    Map { batch, height, width, channels }
}

const SAME: Window = Window { kernel: 3, stride: 1, padding: 1 };

#[test]
fn forward_is_the_definition() {
    let cases = [
        (map(0, 7, 7, 8), SAME),
        (map(1, 1, 1, 24), SAME),
        (map(2, 7, 9, 60), SAME),
        (map(1, 7, 7, 96), Window { stride: 2, ..SAME }),
        (map(1, 14, 14, 32), Window { stride: 2, ..SAME }),
        (map(2, 8, 5, 1), Window { kernel: 7, stride: 1, padding: 3 }),
        (map(1, 20, 33, 3), Window { kernel: 7, stride: 1, padding: 3 }),
        (map(1, 9, 9, 17), Window { kernel: 3, stride: 4, padding: 0 }),
        (map(1, 6, 6, 5), Window { kernel: 1, stride: 2, padding: 0 }),
        (map(1, 40, 28, 64), SAME),
        (map(1, 2, 2, 4), Window { kernel: 5, stride: 1, padding: 0 }),
        (map(1, 3, 4, 2), Window { kernel: 3, stride: 1, padding: 4 }),
    ];
    for (shape, window) in cases {
        let output = window.map(shape, shape.channels);
        let x = numbers(1, shape.len());
        let (weight, bias) = (numbers(2, window.taps() * shape.channels), numbers(3, shape.channels));
        let residual = numbers(4, output.len());
        let wanted = naive(&wide(&x), shape, window, &wide(&weight), &wide(&bias));
        let none = naive(&wide(&x), shape, window, &wide(&weight), &vec![0.0; shape.channels]);
        let rectified: Vec<f64> = none.iter().zip(wide(&residual)).map(|(y, residual)| y.max(0.0) + residual).collect();
        everywhere(
            |isa| {
                let mut y = [unwritten(output.len()), unwritten(output.len())];
                let plain = Epilogue { bias: Some(&bias), ..Epilogue::default() };
                forward(isa, &x, shape, window, &weight, plain, &mut y[0]);
                let full = Epilogue { bias: None, activation: Activation::Relu, residual: Some(&residual) };
                forward(isa, &x, shape, window, &weight, full, &mut y[1]);
                y.to_vec()
            },
            |isa, y| {
                assert_close(format!("{isa} {shape:?} {window:?}"), &y[0], &wanted, 1e-6);
                assert_close(format!("{isa} {shape:?} {window:?} epilogue"), &y[1], &rectified, 1e-6);
            },
        );
    }
}

#[test]
fn backward_is_the_difference_quotient() {
    let cases = [
        (map(1, 1, 1, 3), SAME),
        (map(2, 5, 4, 3), SAME),
        (map(1, 7, 7, 2), Window { stride: 2, ..SAME }),
        (map(1, 6, 8, 2), Window { stride: 2, ..SAME }),
        (map(1, 5, 9, 1), Window { kernel: 7, stride: 1, padding: 3 }),
        (map(1, 7, 6, 2), Window { kernel: 3, stride: 4, padding: 0 }),
        (map(1, 4, 4, 2), Window { kernel: 1, stride: 1, padding: 1 }),
    ];
    for (shape, window) in cases {
        let x = numbers(1, shape.len());
        let dy = numbers(2, window.map(shape, shape.channels).len());
        let (weight, bias) = (numbers(3, window.taps() * shape.channels), numbers(4, shape.channels));
        let (x64, weight64, bias64) = (wide(&x), wide(&weight), wide(&bias));
        let wanted = [
            gradient(&x, &dy, |x| naive(x, shape, window, &weight64, &bias64)),
            gradient(&weight, &dy, |weight| naive(&x64, shape, window, weight, &bias64)),
            gradient(&bias, &dy, |bias| naive(&x64, shape, window, &weight64, bias)),
        ];
        everywhere(
            |isa| gradients(isa, &x, shape, window, &weight, &dy),
            |isa, got| {
                for ((name, got), wanted) in ["dx", "dweight", "dbias"].iter().zip(&got).zip(&wanted) {
                    assert_close(format!("{isa} {shape:?} {window:?} {name}"), got, wanted, 1e-6);
                }
            },
        );
    }
}

/// The adjoint identities ⟨dy, A x⟩ = ⟨Aᵀ dy, x⟩ = ⟨dA, A⟩, at a size that is cut into several pieces.
#[test]
fn backward_is_the_adjoint_at_size() {
    for (shape, window) in [(map(2, 30, 28, 40), SAME), (map(1, 28, 31, 96), Window { stride: 2, ..SAME })] {
        let x = numbers(1, shape.len());
        let weight = numbers(2, window.taps() * shape.channels);
        let dy = numbers(3, window.map(shape, shape.channels).len());
        let y = naive(&wide(&x), shape, window, &wide(&weight), &vec![0.0; shape.channels]);
        let inner = |a: &[f64], b: &[f32]| a.iter().zip(b).map(|(a, &b)| a * f64::from(b)).sum::<f64>();
        let wanted = inner(&y, &dy);
        everywhere(
            |isa| gradients(isa, &x, shape, window, &weight, &dy),
            |isa, got| {
                for got in [inner(&wide(&got[0]), &x), inner(&wide(&got[1]), &weight)] {
                    assert!((got - wanted).abs() < 1e-4 * wanted.abs().max(1.0), "{isa}: {got} is not {wanted}");
                }
            },
        );
    }
}

#[test]
fn packing_turns_round() {
    let weight = numbers(1, 5 * 9);
    let packed = pack_weight(&weight, 5, 9);
    assert_eq!(packed[2 * 5 + 3], weight[3 * 9 + 2]);
    assert_eq!(unpack_weight(&packed, 5, 9), weight);
}

fn gradients(isa: Isa, x: &[f32], shape: Map, window: Window, weight: &[f32], dy: &[f32]) -> Vec<Vec<f32>> {
    let [mut dx, mut dweight, mut dbias] = [x.len(), weight.len(), shape.channels].map(unwritten);
    let gradients = Gradients { x: Some(&mut dx), weight: Some(&mut dweight), bias: Some(&mut dbias) };
    backward(isa, x, shape, window, weight, dy, gradients);
    vec![dx, dweight, dbias]
}
