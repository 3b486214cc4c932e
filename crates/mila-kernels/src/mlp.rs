//! Two layers with an activation between them: y = activation(norm(x) W₁ + b₁) W₂ + b₂ + residual, or with the windows of a map
//! in place of norm(x): a convolution and a 1x1 one.
//!
//! Where threads share the rows, the hidden layer, four times as wide as the input in most models, is never whole: it is computed for
//! some rows at a time, in the form that the second layer reads, and stays in the second-level cache or near it.

use rayon::prelude::*;

use crate::{
    activation::Activation,
    cache,
    epilogue::Epilogue,
    isa::Isa,
    lane::Lane,
    linear::{self, Layer},
    matrix::PackedMatrix,
    product::{Product, Right, Start, Target},
    rows::{Norm, Rows},
    scratch,
    shape::{Map, Window},
    windows::Windows,
};

/// The layers and what lies between them.
#[derive(Clone, Copy, Debug)]
pub struct Mlp<'a> {
    /// `[inputs, hidden]`
    pub fc1: &'a PackedMatrix,
    /// `[hidden]`
    pub bias: Option<&'a [f32]>,
    /// Between the layers.
    pub activation: Activation,
    /// `[hidden, outputs]`
    pub fc2: &'a PackedMatrix,
    /// After the second layer.
    pub epilogue: Epilogue<'a>,
}

/// Computes `y`, `[rows, outputs]`, from `x`, `[rows, inputs]`, normalised.
///
/// # Panics
/// If a length does not fit.
pub fn forward(isa: Isa, x: &[f32], norm: Norm<'_>, mlp: Mlp<'_>, y: &mut [f32]) {
    let inputs = mlp.fc1.depth();
    norm.check(inputs);
    assert_eq!(x.len(), mlp.check("mlp", y.len()) * inputs, "mlp: length of x");
    run(isa, Rows::Normed { x, norm }, mlp, y);
}

/// Computes `y`, `window.map(shape, outputs)`, from the windows of `x`, `shape`; the first layer's weight is that of a
/// [convolution](crate::conv::pack_weight).
///
/// # Panics
/// If a length does not fit or the window has no pixel.
pub fn forward_windows(isa: Isa, x: &[f32], shape: Map, window: Window, mlp: Mlp<'_>, y: &mut [f32]) {
    window.check();
    mlp.check("conv", y.len());
    assert_eq!(x.len(), shape.len(), "conv: x is {shape:?}");
    assert_eq!(mlp.fc1.depth(), window.taps() * shape.channels, "conv: depth of the weight");
    assert_eq!(y.len(), window.map(shape, mlp.fc2.columns()).len(), "conv: length of y");
    run(isa, Rows::Windows(Windows { x, shape, window }), mlp, y);
}

impl Mlp<'_> {
    /// Checks what does not depend on the input; returns the rows of a `y` of `len` floats.
    fn check(&self, kernel: &str, len: usize) -> usize {
        let outputs = self.fc2.columns();
        assert_eq!(self.fc2.depth(), self.fc1.columns(), "{kernel}: inputs of the second layer");
        assert_eq!(self.fc2.format(), self.fc1.format(), "{kernel}: format of the second layer");
        assert!(outputs > 0 && len.is_multiple_of(outputs), "{kernel}: y is rows of {outputs} outputs");
        self.epilogue.check(kernel, outputs, len);
        len / outputs
    }
}

fn run(isa: Isa, input: Rows<'_>, mlp: Mlp<'_>, y: &mut [f32]) {
    let (hidden, outputs) = (mlp.fc1.columns(), mlp.fc2.columns());
    if y.is_empty() {
        return;
    }
    let rows = y.len() / outputs;
    match linear::piece(isa, mlp.fc1.format(), rows, (hidden, mlp.fc1.depth())) {
        Some(height) => {
            let pieces = y.par_chunks_mut(height * outputs);
            pieces.enumerate().for_each(|(index, y)| piece(isa, input, mlp, index * height, y));
        }
        // Few rows: a thread had better read its own part of the weights.
        None => scratch::floats(rows * hidden, |middle| {
            let epilogue = Epilogue { bias: mlp.bias, activation: mlp.activation, residual: None };
            Layer::checked("mlp", mlp.fc1, epilogue, middle).run(isa, input);
            let middle = &*middle;
            Layer::new(middle, mlp.fc2, mlp.epilogue, y).run(isa, Rows::Plain { x: middle, stride: hidden });
        }),
    }
}

/// The rows of `y`, of which `first` is the first, on the caller's thread.
fn piece(isa: Isa, input: Rows<'_>, mlp: Mlp<'_>, first: usize, y: &mut [f32]) {
    let (inputs, hidden, outputs) = (mlp.fc1.depth(), mlp.fc1.columns(), mlp.fc2.columns());
    let (format, count) = (mlp.fc1.format(), y.len() / outputs);
    let (height, left, middle) = (format.strip(isa), format.lanes(isa, inputs), format.lanes(isa, hidden));
    // Rows, in and between the layers, stay in the second-level cache, or near it, while the weights pass by.
    let strips = count.div_ceil(height);
    let fitting = cache::second_level() / 8 * 3 / ((left + middle) * size_of::<Lane>()).max(1);
    let group = linear::group(strips, fitting, format.fewest(isa));
    scratch::lanes(group * (left + middle), |lanes| {
        let (left_memory, middle_memory) = lanes.split_at_mut(group * left);
        for begin in (0..count).step_by(group * height) {
            let rows = (group * height).min(count - begin);
            let strips = rows.div_ceil(height);
            let middle = &mut middle_memory[..strips * middle];
            let left = format.prepare(isa, input, (first + begin, rows), inputs, left_memory);
            let hidden = Product {
                left,
                rows,
                right: Right::Packed(mlp.fc1),
                panels: 0..mlp.fc1.panels(),
                start: Start::bias(mlp.bias),
                activation: mlp.activation,
                residual: None,
                target: format.target(isa, middle, mlp.fc1.columns()),
            };
            format.multiply(isa, hidden);
            let output = Product {
                left: format.left(isa, middle, mlp.fc2.depth()),
                rows,
                right: Right::Packed(mlp.fc2),
                panels: 0..mlp.fc2.panels(),
                start: Start::bias(mlp.epilogue.bias),
                activation: mlp.epilogue.activation,
                residual: mlp.epilogue.residual.map(|residual| &residual[(first + begin) * outputs..]),
                target: Target::Rows { y: &mut y[begin * outputs..], stride: outputs },
            };
            format.multiply(isa, output);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        conv, layer_norm,
        testing::{assert_close, everywhere, numbers, unwritten, wide},
    };

    /// Against the three kernels that it is made of.
    #[test]
    fn the_tiled_layers_are_their_composition() {
        // The fourth has so many columns for so few rows that several threads share them by columns.
        let shapes = [
            (1, 3, 5, 2),
            (7, 24, 96, 24),
            (49, 64, 256, 60),
            (49, 300, 265, 60),
            (197, 32, 130, 33),
            (700, 16, 64, 16),
        ];
        for (rows, inputs, hidden, outputs) in shapes {
            let x = numbers(1, rows * inputs);
            let (weight, bias) = (numbers(2, inputs), numbers(3, inputs));
            let (weight_1, weight_2) = (numbers(4, hidden * inputs), numbers(5, outputs * hidden));
            let packed = |isa| {
                let fc1 = PackedMatrix::from_columns(isa, &weight_1, hidden, inputs);
                [fc1, PackedMatrix::from_columns(isa, &weight_2, outputs, hidden)]
            };
            let (bias_1, bias_2, residual) = (numbers(6, hidden), numbers(7, outputs), numbers(8, rows * outputs));
            let norm = Norm { weight: &weight, bias: &bias, eps: 1e-5, centre: crate::Centre::Mean };
            let first = Epilogue { bias: Some(&bias_1), activation: Activation::Gelu, residual: None };
            let epilogue = Epilogue { bias: Some(&bias_2), activation: Activation::None, residual: Some(&residual) };

            let (mut normed, mut middle, mut wanted) =
                (unwritten(x.len()), unwritten(rows * hidden), unwritten(rows * outputs));
            let isa = Isa::detect();
            let [fc1, fc2] = packed(isa);
            layer_norm::forward(isa, &x, &weight, Some(&bias), 1e-5, &mut normed);
            linear::forward(isa, &normed, &fc1, first, &mut middle);
            linear::forward(isa, &middle, &fc2, epilogue, &mut wanted);

            everywhere(
                |isa| {
                    let [fc1, fc2] = packed(isa);
                    let mlp = Mlp { fc1: &fc1, bias: Some(&bias_1), activation: Activation::Gelu, fc2: &fc2, epilogue };
                    let mut y = unwritten(rows * outputs);
                    forward(isa, &x, norm, mlp, &mut y);
                    vec![y]
                },
                |isa, y| assert_close(format!("{isa} {rows}x{inputs}x{hidden}"), &y[0], &wide(&wanted), 2e-6),
            );
        }
    }

    #[test]
    fn windows_are_the_composition_too() {
        let shape = Map { batch: 2, height: 15, width: 9, channels: 8 };
        let window = Window { kernel: 3, stride: 2, padding: 1 };
        let (hidden, outputs) = (40, 24);
        let (x, bias) = (numbers(1, shape.len()), numbers(2, hidden));
        let isa = Isa::detect();
        let fc1 = conv::pack_weight(isa, &numbers(3, hidden * 8 * 9), 8, hidden, 3);
        let fc2 = PackedMatrix::from_columns(isa, &numbers(4, outputs * hidden), outputs, hidden);
        let rows = window.map(shape, 1).len();
        let (mut middle, mut wanted) = (unwritten(rows * hidden), unwritten(rows * outputs));
        let relu = Epilogue { bias: Some(&bias), activation: Activation::Relu, residual: None };
        conv::forward(isa, &x, shape, window, &fc1, relu, &mut middle);
        linear::forward(isa, &middle, &fc2, Epilogue::default(), &mut wanted);
        let layers = Mlp {
            fc1: &fc1,
            bias: Some(&bias),
            activation: Activation::Relu,
            fc2: &fc2,
            epilogue: Epilogue::default(),
        };
        everywhere(
            |isa| {
                let mut y = unwritten(rows * outputs);
                forward_windows(isa, &x, shape, window, layers, &mut y);
                vec![y]
            },
            |isa, y| assert_close(isa, &y[0], &wide(&wanted), 2e-6),
        );
    }
}
