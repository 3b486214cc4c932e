use super::*;
use crate::activation::Activation;
use crate::testing::{assert_close, everywhere, gradient, numbers, unwritten, wide};

/// The definition, with the weight as PyTorch stores it.
fn naive(x: &[f64], shape: Map, window: Window, weight: &[f64], bias: &[f64]) -> Vec<f64> {
    let Map { height, width, channels, .. } = shape;
    let output = window.map(shape, bias.len());
    let mut y = Vec::new();
    for image in 0..output.batch {
        for oy in 0..output.height {
            for ox in 0..output.width {
                for (o, bias) in bias.iter().enumerate() {
                    let mut sum = *bias;
                    for tap in 0..window.taps() {
                        let iy = (oy * window.stride + tap / window.kernel).wrapping_sub(window.padding);
                        let ix = (ox * window.stride + tap % window.kernel).wrapping_sub(window.padding);
                        if iy < height && ix < width {
                            for c in 0..channels {
                                let at = ((image * height + iy) * width + ix) * channels + c;
                                sum += x[at] * weight[(o * channels + c) * window.taps() + tap];
                            }
                        }
                    }
                    y.push(sum);
                }
            }
        }
    }
    y
}

fn case(map: [usize; 4], outputs: usize, window: [usize; 3]) -> (Map, usize, Window) {
    let [batch, height, width, channels] = map;
    let [kernel, stride, padding] = window;
    (Map { batch, height, width, channels }, outputs, Window { kernel, stride, padding })
}

#[test]
fn forward_is_the_definition() {
    let cases = [
        case([0, 8, 8, 3], 4, [3, 1, 1]),
        case([1, 1, 1, 3], 5, [3, 1, 1]),
        case([2, 7, 9, 3], 32, [3, 2, 1]),
        case([1, 14, 15, 32], 24, [3, 1, 1]),
        case([1, 16, 12, 3], 96, [4, 4, 0]),
        case([1, 7, 7, 24], 60, [2, 2, 0]),
        case([2, 7, 7, 33], 40, [1, 1, 0]),
        case([1, 5, 5, 4], 3, [1, 2, 1]),
        case([1, 3, 3, 2], 4, [5, 1, 0]),
        case([1, 40, 40, 8], 64, [3, 1, 1]),
    ];
    for (shape, outputs, window) in cases {
        let x = numbers(1, shape.len());
        let (weight, bias) = (numbers(2, outputs * shape.channels * window.taps()), numbers(3, outputs));
        let residual = numbers(4, window.map(shape, outputs).len());
        let packed = pack_weight(Isa::detect(), &weight, shape.channels, outputs, window.kernel);
        let wanted: Vec<f64> = naive(&wide(&x), shape, window, &wide(&weight), &wide(&bias))
            .iter()
            .zip(&residual)
            .map(|(y, &residual)| y.max(0.0) + f64::from(residual))
            .collect();
        everywhere(
            |isa| {
                let mut y = unwritten(wanted.len());
                let epilogue = Epilogue { bias: Some(&bias), activation: Activation::Relu, residual: Some(&residual) };
                forward(isa, &x, shape, window, &packed, epilogue, &mut y);
                vec![y]
            },
            |isa, y| assert_close(format!("{isa} {shape:?} {window:?}"), &y[0], &wanted, 2e-6),
        );
    }
}

#[test]
fn backward_is_the_difference_quotient() {
    let cases = [
        case([1, 1, 1, 2], 3, [3, 1, 1]),
        case([2, 5, 4, 3], 2, [3, 1, 1]),
        case([1, 7, 6, 2], 3, [3, 2, 1]),
        case([1, 8, 9, 2], 2, [4, 4, 0]),
        case([1, 5, 4, 1], 5, [2, 2, 0]),
        case([2, 3, 3, 4], 3, [1, 1, 0]),
    ];
    for (shape, outputs, window) in cases {
        let x = numbers(1, shape.len());
        let dy = numbers(2, window.map(shape, outputs).len());
        let (weight, bias) = (numbers(3, outputs * shape.channels * window.taps()), numbers(4, outputs));
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
                    assert_close(format!("{isa} {shape:?} {window:?} {name}"), got, wanted, 2e-6);
                }
            },
        );
    }
}

/// ⟨dy, A x⟩ = ⟨Aᵀ dy, x⟩ = ⟨dA, A⟩ at a size that is cut into several pieces.
#[test]
fn backward_is_the_adjoint_at_size() {
    let (shape, outputs, window) = case([2, 33, 35, 8], 24, [3, 1, 1]);
    let x = numbers(1, shape.len());
    let weight = numbers(2, outputs * shape.channels * window.taps());
    let dy = numbers(3, window.map(shape, outputs).len());
    let inner = |a: &[f64], b: &[f32]| a.iter().zip(b).map(|(a, &b)| a * f64::from(b)).sum::<f64>();
    let wanted = inner(&naive(&wide(&x), shape, window, &wide(&weight), &vec![0.0; outputs]), &dy);
    everywhere(
        |isa| gradients(isa, &x, shape, window, &weight, &dy),
        |isa, got| {
            for got in [inner(&wide(&got[0]), &x), inner(&wide(&got[1]), &weight)] {
                assert!((got - wanted).abs() < 1e-4 * wanted.abs().max(1.0), "{isa}: {got} is not {wanted}");
            }
        },
    );
}

fn gradients(isa: Isa, x: &[f32], shape: Map, window: Window, weight: &[f32], dy: &[f32]) -> Vec<Vec<f32>> {
    let outputs = weight.len() / (window.taps() * shape.channels);
    let [mut dx, mut dweight, mut dbias] = [x.len(), weight.len(), outputs].map(unwritten);
    let gradients = Gradients { x: Some(&mut dx), weight: Some(&mut dweight), bias: Some(&mut dbias) };
    backward(isa, x, shape, window, weight, dy, gradients);
    vec![dx, dweight, dbias]
}
