//! Fully connected layers: y = activation(x W + b) + residual.

use crate::{
    arithmetic::LANES,
    epilogue::Epilogue,
    isa::Isa,
    matrix::PackedMatrix,
    product::{self, Left, Product, Start},
    threads,
};

/// `y = activation(x W + bias) + residual`.
///
/// `x` is `[rows, inputs]`, `weight` has depth `inputs` and `outputs` columns, `y` is `[rows, outputs]`.
///
/// # Panics
/// If a length does not fit.
pub fn forward(isa: Isa, x: &[f32], weight: &PackedMatrix, epilogue: Epilogue<'_>, y: &mut [f32]) {
    run(isa, x, None, weight, epilogue, y);
}

/// `y = activation((x ⊙ gate) W + bias) + residual`, with `gate` shaped as `x`: the block's output projection.
///
/// # Panics
/// If a length does not fit.
pub fn forward_gated(isa: Isa, x: &[f32], gate: &[f32], weight: &PackedMatrix, epilogue: Epilogue<'_>, y: &mut [f32]) {
    assert_eq!(x.len(), gate.len(), "linear: lengths of x and gate");
    run(isa, x, Some(gate), weight, epilogue, y);
}

fn run(isa: Isa, x: &[f32], gate: Option<&[f32]>, weight: &PackedMatrix, epilogue: Epilogue<'_>, y: &mut [f32]) {
    let (inputs, outputs) = (weight.depth(), weight.columns());
    if outputs == 0 {
        return assert!(y.is_empty(), "linear: no outputs, but y has {} floats", y.len());
    }
    let rows = y.len() / outputs;
    assert_eq!(y.len(), rows * outputs, "linear: y is rows of {outputs} outputs");
    assert_eq!(x.len(), rows * inputs, "linear: x is {rows} rows of {inputs} inputs");
    epilogue.check("linear", outputs, y.len());
    product::each_block(y, outputs, product::blocks(rows, outputs, inputs), |row, column, y| {
        let part = row * inputs..(row + y.len()) * inputs;
        let stride = spread_stride(inputs);
        let copy;
        let x = if gate.is_some() || stride != inputs {
            copy = spread(&x[part.clone()], gate.map(|gate| &gate[part]), inputs, stride);
            &copy
        } else {
            &x[part]
        };
        isa.run(Product {
            left: Left::Rows { x, stride },
            right: weight,
            column,
            start: epilogue.bias.map_or(Start::Zero, Start::Bias),
            activation: epilogue.activation,
            residual: epilogue.residual.map(|residual| &residual[row * outputs..]),
            target: 0..y.first().map_or(0, |row| row.len()),
            y,
        });
    });
}

/// The distance between rows of `inputs` floats in a copy: a cache line more where the rows would all begin in one set of
/// the first-level cache, which has fewer ways than a tile has rows.
fn spread_stride(inputs: usize) -> usize {
    if inputs.is_multiple_of(1024) { inputs + LANES } else { inputs }
}

/// The rows of `x`, multiplied by `gate`, at a distance of `stride`.
fn spread(x: &[f32], gate: Option<&[f32]>, inputs: usize, stride: usize) -> Vec<f32> {
    let rows = x.len() / inputs.max(1);
    let mut copy = Vec::with_capacity(rows * stride);
    for row in 0..rows {
        let x = &x[row * inputs..][..inputs];
        match gate {
            Some(gate) => copy.extend(x.iter().zip(&gate[row * inputs..]).map(|(x, gate)| x * gate)),
            None => copy.extend_from_slice(x),
        }
        copy.resize((row + 1) * stride, 0.0);
    }
    copy
}

/// Where [`backward`] writes its results; what is `None` is not computed.
#[derive(Debug, Default)]
pub struct Gradients<'a> {
    /// `[rows, inputs]`.
    pub x: Option<&'a mut [f32]>,
    /// `[outputs, inputs]`, PyTorch's storage.
    pub weight: Option<&'a mut [f32]>,
    /// `[outputs]`.
    pub bias: Option<&'a mut [f32]>,
}

/// The gradients of `y = x W + b`: dx = dy Wᵀ, dW = xᵀ dy, db = Σ dy.
///
/// `x` is `[rows, inputs]`, `weight` `[outputs, inputs]` (PyTorch's storage) and `dy` `[rows, outputs]`. With an
/// activation, `dy` is first taken through [`activation::backward`](crate::activation::backward) at `x W + b`; a
/// residual's gradient is `dy` itself.
///
/// # Panics
/// If a length does not fit.
pub fn backward(
    isa: Isa,
    x: &[f32],
    weight: &[f32],
    (inputs, outputs): (usize, usize),
    dy: &[f32],
    gradients: Gradients<'_>,
) {
    let rows = dy.len().checked_div(outputs).or(x.len().checked_div(inputs)).unwrap_or(0);
    assert_eq!(dy.len(), rows * outputs, "linear: dy is rows of {outputs} outputs");
    assert_eq!(x.len(), rows * inputs, "linear: x is {rows} rows of {inputs} inputs");
    assert_eq!(weight.len(), outputs * inputs, "linear: weight is [{outputs}, {inputs}]");
    if let Some(dx) = gradients.x {
        forward(isa, dy, &PackedMatrix::from_rows(weight, outputs, inputs), Epilogue::default(), dx);
    }
    if let Some(dweight) = gradients.weight {
        assert_eq!(dweight.len(), outputs * inputs, "linear: dweight is [{outputs}, {inputs}]");
        dweight.fill(0.0);
        product::add_transposed_product(isa, dy, x, (outputs, inputs), dweight);
    }
    if let Some(dbias) = gradients.bias {
        assert_eq!(dbias.len(), outputs, "linear: length of dbias");
        threads::narrow(&column_sums(dy, outputs), dbias);
    }
}

/// The sums over the rows of `x`, `[rows, columns]`.
pub(crate) fn column_sums(x: &[f32], columns: usize) -> Vec<f64> {
    let size = threads::piece_rows(columns) * columns;
    threads::sum(columns, x.chunks(size.max(1)), |_, piece, sums| {
        for row in piece.chunks_exact(columns) {
            sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        activation::Activation,
        testing::{assert_close, everywhere, gradient, numbers, unwritten, wide},
    };

    /// x Wᵀ + b for W `[outputs, inputs]`.
    fn naive(x: &[f64], weight: &[f64], bias: &[f64], inputs: usize) -> Vec<f64> {
        let row = |x: &[f64]| -> Vec<f64> {
            let dot = |w: &[f64]| w.iter().zip(x).map(|(w, x)| w * x).sum::<f64>();
            weight.chunks_exact(inputs).zip(bias).map(|(w, bias)| dot(w) + bias).collect()
        };
        x.chunks_exact(inputs).flat_map(row).collect()
    }

    #[test]
    fn forward_is_the_definition() {
        let shapes = [
            (0, 8, 8),
            (1, 1, 1),
            (1, 3, 1000),
            (7, 24, 96),
            (49, 64, 60),
            (49, 1024, 128),
            (63, 32, 33),
            (60, 3, 32),
            (196, 96, 24),
            (500, 64, 64),
            (784, 40, 130),
        ];
        for (rows, inputs, outputs) in shapes {
            let (x, gate) = (numbers(1, rows * inputs), numbers(2, rows * inputs));
            let (weight, bias) = (numbers(3, outputs * inputs), numbers(4, outputs));
            let residual = numbers(5, rows * outputs);
            let packed = PackedMatrix::from_columns(&weight, outputs, inputs);
            let plain = naive(&wide(&x), &wide(&weight), &wide(&bias), inputs);
            let gated: Vec<f64> = wide(&x).iter().zip(&gate).map(|(x, &gate)| x * f64::from(gate)).collect();
            let gated: Vec<f64> = naive(&gated, &wide(&weight), &vec![0.0; outputs], inputs)
                .iter()
                .zip(&residual)
                .map(|(y, &residual)| y.max(0.0) + f64::from(residual))
                .collect();
            everywhere(
                |isa| {
                    let mut y = [unwritten(rows * outputs), unwritten(rows * outputs)];
                    forward(isa, &x, &packed, Epilogue { bias: Some(&bias), ..Epilogue::default() }, &mut y[0]);
                    let epilogue = Epilogue { bias: None, activation: Activation::Relu, residual: Some(&residual) };
                    forward_gated(isa, &x, &gate, &packed, epilogue, &mut y[1]);
                    y.to_vec()
                },
                |isa, y| {
                    assert_close(format!("{isa} {rows}x{inputs}x{outputs}"), &y[0], &plain, 2e-6);
                    assert_close(format!("{isa} {rows}x{inputs}x{outputs} gated"), &y[1], &gated, 2e-6);
                },
            );
        }
    }

    #[test]
    fn both_packings_are_one_matrix() {
        let (inputs, outputs) = (9, 37);
        let columns = numbers(1, outputs * inputs);
        let rows: Vec<f32> = (0..inputs * outputs).map(|i| columns[i % outputs * inputs + i / outputs]).collect();
        let x = numbers(2, 5 * inputs);
        let [a, b] =
            [PackedMatrix::from_columns(&columns, outputs, inputs), PackedMatrix::from_rows(&rows, inputs, outputs)]
                .map(|weight| {
                    let mut y = unwritten(5 * outputs);
                    forward(Isa::detect(), &x, &weight, Epilogue::default(), &mut y);
                    y
                });
        assert_eq!(a, b);
    }

    #[test]
    fn backward_is_the_difference_quotient() {
        for (rows, inputs, outputs) in [(1, 1, 3), (7, 24, 5), (19, 33, 14)] {
            let (x, dy) = (numbers(1, rows * inputs), numbers(2, rows * outputs));
            let (weight, bias) = (numbers(3, outputs * inputs), numbers(4, outputs));
            let (x64, weight64, bias64) = (wide(&x), wide(&weight), wide(&bias));
            let wanted = [
                gradient(&x, &dy, |x| naive(x, &weight64, &bias64, inputs)),
                gradient(&weight, &dy, |weight| naive(&x64, weight, &bias64, inputs)),
                gradient(&bias, &dy, |bias| naive(&x64, &weight64, bias, inputs)),
            ];
            check_backward(&x, &weight, (inputs, outputs), &dy, &wanted);
        }
    }

    /// More rows than one chain of sums, against the sums themselves.
    #[test]
    fn backward_adds_over_many_rows() {
        for (rows, inputs, outputs) in [(0, 3, 4), (2_500, 30, 70)] {
            let (x, dy) = (numbers(1, rows * inputs), numbers(2, rows * outputs));
            let weight = numbers(3, outputs * inputs);
            let transposed: Vec<f64> =
                (0..inputs * outputs).map(|i| f64::from(weight[i % outputs * inputs + i / outputs])).collect();
            let mut dweight = vec![0.0; outputs * inputs];
            let mut dbias = vec![0.0; outputs];
            for (x, dy) in x.chunks_exact(inputs).zip(dy.chunks_exact(outputs)) {
                for (o, &dy) in dy.iter().enumerate() {
                    dbias[o] += f64::from(dy);
                    for (i, &x) in x.iter().enumerate() {
                        dweight[o * inputs + i] += f64::from(dy) * f64::from(x);
                    }
                }
            }
            let dx = naive(&wide(&dy), &transposed, &vec![0.0; inputs], outputs);
            check_backward(&x, &weight, (inputs, outputs), &dy, &[dx, dweight, dbias]);
        }
    }

    fn check_backward(x: &[f32], weight: &[f32], extent: (usize, usize), dy: &[f32], wanted: &[Vec<f64>; 3]) {
        everywhere(
            |isa| {
                let [mut dx, mut dweight, mut dbias] = [x.len(), weight.len(), extent.1].map(unwritten);
                let gradients = Gradients { x: Some(&mut dx), weight: Some(&mut dweight), bias: Some(&mut dbias) };
                backward(isa, x, weight, extent, dy, gradients);
                vec![dx, dweight, dbias]
            },
            |isa, got| {
                for ((name, got), wanted) in ["dx", "dweight", "dbias"].iter().zip(&got).zip(wanted) {
                    assert_close(format!("{isa} {extent:?} {name}"), got, wanted, 3e-6);
                }
            },
        );
    }
}
