//! Convolution over all channels: the windows of a few output pixels are laid out as rows, then multiplied by the weight.
//!
//! Where the window does not fit the input there is no output; a caller that wants one pads first.

use crate::{
    activation::Activation,
    epilogue::Epilogue,
    isa::Isa,
    linear,
    matrix::{self, Left, PackedMatrix, Product, ROWS, Start},
    shape::{Map, Window},
    threads,
};

/// Packs PyTorch's weight, `[outputs, inputs, kernel, kernel]`: depth is kernel² × inputs, columns are the outputs.
///
/// # Panics
/// If the length does not fit.
pub fn pack_weight(weight: &[f32], inputs: usize, outputs: usize, kernel: usize) -> PackedMatrix {
    let depth = kernel * kernel * inputs;
    PackedMatrix::from_columns(&inputs_last(weight, inputs, outputs, kernel), outputs, depth)
}

/// `[outputs, inputs, kernel²]` as `[outputs, kernel², inputs]`.
fn inputs_last(weight: &[f32], inputs: usize, outputs: usize, kernel: usize) -> Vec<f32> {
    let taps = kernel * kernel;
    assert_eq!(weight.len(), outputs * inputs * taps, "conv: weight is [{outputs}, {inputs}, {kernel}, {kernel}]");
    transpose_inner(weight, inputs, taps)
}

/// `[.., rows, columns]` as `[.., columns, rows]`.
fn transpose_inner(x: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    let matrices = x.chunks_exact((rows * columns).max(1));
    matrices.flat_map(|x| (0..columns).flat_map(move |c| x[c..].iter().step_by(columns))).copied().collect()
}

/// `y = activation(x * weight + bias) + residual`.
///
/// `x` is `shape`, `weight` comes from [`pack_weight`], `y` is `window.map(shape, outputs)`.
///
/// # Panics
/// If a length does not fit or the window has no pixel.
pub fn forward(
    isa: Isa,
    x: &[f32],
    shape: Map,
    window: Window,
    weight: &PackedMatrix,
    epilogue: Epilogue<'_>,
    y: &mut [f32],
) {
    window.check();
    let (depth, outputs) = (weight.depth(), weight.columns());
    let output = window.map(shape, outputs);
    assert_eq!(x.len(), shape.len(), "conv: x is {shape:?}");
    assert_eq!(depth, window.taps() * shape.channels, "conv: depth of the weight");
    assert_eq!(y.len(), output.len(), "conv: y is {output:?}");
    epilogue.check("conv", outputs, y.len());
    if window == (Window { kernel: 1, stride: 1, padding: 0 }) {
        return linear::forward(isa, x, weight, epilogue, y);
    }
    let pixels = output.batch * output.height * output.width;
    matrix::each_block(y, outputs, matrix::blocks(pixels, outputs, depth), |first, column, y| {
        let stride = linear::spread_stride(depth);
        let mut windows = vec![0.0; y.len() * stride];
        lay_out(x, shape, window, first, stride, &mut windows);
        isa.run(Product {
            left: Left::Rows { x: &windows, stride },
            right: weight,
            column,
            start: epilogue.bias.map_or(Start::Zero, Start::Bias),
            activation: epilogue.activation,
            residual: epilogue.residual.map(|residual| &residual[first * outputs..]),
            target: 0..y.first().map_or(0, |row| row.len()),
            y,
        });
    });
}

/// Where [`backward`] writes its results; what is `None` is not computed.
#[derive(Debug, Default)]
pub struct Gradients<'a> {
    /// Shaped as `x`.
    pub x: Option<&'a mut [f32]>,
    /// `[outputs, inputs, kernel, kernel]`.
    pub weight: Option<&'a mut [f32]>,
    /// `[outputs]`.
    pub bias: Option<&'a mut [f32]>,
}

/// The gradients of `y = x * weight + bias` for `dy`, `window.map(shape, outputs)`.
///
/// `weight` is PyTorch's `[outputs, inputs, kernel, kernel]`, with the channels of `shape` as inputs.
///
/// # Panics
/// If a length does not fit or the window has no pixel.
pub fn backward(isa: Isa, x: &[f32], shape: Map, window: Window, weight: &[f32], dy: &[f32], gradients: Gradients<'_>) {
    window.check();
    let (inputs, depth) = (shape.channels, window.taps() * shape.channels);
    let outputs = weight.len() / depth.max(1);
    let output = window.map(shape, outputs);
    assert_eq!(x.len(), shape.len(), "conv: x is {shape:?}");
    assert_eq!(dy.len(), output.len(), "conv: dy is {output:?}");
    let weight = inputs_last(weight, inputs, outputs, window.kernel);
    if let Some(dx) = gradients.x {
        assert_eq!(dx.len(), x.len(), "conv: dx is {shape:?}");
        let right = PackedMatrix::from_rows(&weight, outputs, depth);
        input_gradient(isa, dy, output, window, &right, shape, dx);
    }
    if let Some(dweight) = gradients.weight {
        assert_eq!(dweight.len(), weight.len(), "conv: length of dweight");
        let mut sums = vec![0.0; weight.len()];
        add_weight_gradient(isa, x, shape, window, dy, (outputs, depth), &mut sums);
        dweight.copy_from_slice(&transpose_inner(&sums, window.taps(), inputs));
    }
    if let Some(dbias) = gradients.bias {
        assert_eq!(dbias.len(), outputs, "conv: length of dbias");
        threads::narrow(&linear::column_sums(dy, outputs), dbias);
    }
}

/// Spreads the product of dy and the weight over the windows, image by image.
fn input_gradient(isa: Isa, dy: &[f32], output: Map, window: Window, right: &PackedMatrix, shape: Map, dx: &mut [f32]) {
    let (outputs, depth) = (right.depth(), right.columns());
    dx.fill(0.0);
    if dy.is_empty() || dx.is_empty() {
        return;
    }
    let image = Map { batch: 1, ..shape };
    let images = dy.chunks_exact(dy.len() / output.batch).zip(dx.chunks_exact_mut(image.len()));
    threads::each(images, |_, (dy, dx)| {
        let mut windows = vec![0.0; ROWS * depth];
        for (block, dy) in dy.chunks(ROWS * outputs).enumerate() {
            let windows = &mut windows[..dy.len() / outputs * depth];
            isa.run(Product {
                left: Left::Rows { x: dy, stride: outputs },
                right,
                column: 0,
                start: Start::Zero,
                activation: Activation::None,
                residual: None,
                target: 0..depth,
                y: &mut windows.chunks_exact_mut(depth).collect::<Vec<_>>(),
            });
            let line = window.kernel * shape.channels;
            for (pixel, windows) in windows.chunks_exact(depth).enumerate() {
                for (row, part) in windows.chunks_exact(line).enumerate() {
                    if let Some(Overlap { at, skip, len }) = overlap(image, window, block * ROWS + pixel, row) {
                        dx[at..at + len].iter_mut().zip(&part[skip..]).for_each(|(dx, part)| *dx += part);
                    }
                }
            }
        }
    });
}

/// `sums += dyᵀ · windows`, `[outputs, depth]`.
fn add_weight_gradient(
    isa: Isa,
    x: &[f32],
    shape: Map,
    window: Window,
    dy: &[f32],
    (outputs, depth): (usize, usize),
    sums: &mut [f32],
) {
    /// Pixels whose windows are laid out at a time.
    const PIXELS: usize = 1024;
    let mut windows = vec![0.0; PIXELS.min(dy.len() / outputs.max(1)) * depth];
    for (block, dy) in dy.chunks((PIXELS * outputs).max(1)).enumerate() {
        let windows = &mut windows[..dy.len() / outputs * depth];
        threads::each(windows.chunks_mut((ROWS * depth).max(1)), |piece, windows| {
            lay_out(x, shape, window, block * PIXELS + piece * ROWS, depth, windows);
        });
        matrix::add_transposed_product(isa, dy, windows, (outputs, depth), sums);
    }
}

/// Writes the windows of the output pixels from `first` on to the rows of `windows`, `stride` floats each.
fn lay_out(x: &[f32], shape: Map, window: Window, first: usize, stride: usize, windows: &mut [f32]) {
    let line = window.kernel * shape.channels;
    if line == 0 {
        return;
    }
    for (pixel, windows) in windows.chunks_exact_mut(stride).enumerate() {
        let rows = windows[..window.kernel * line].chunks_exact_mut(line);
        for (row, part) in rows.enumerate() {
            match overlap(shape, window, first + pixel, row) {
                Some(Overlap { at, skip, len }) => {
                    part[..skip].fill(0.0);
                    part[skip..skip + len].copy_from_slice(&x[at..at + len]);
                    part[skip + len..].fill(0.0);
                }
                None => part.fill(0.0),
            }
        }
    }
}

/// What a row of a window has in common with the map: `len` floats, at `at` in the map and at `skip` in the row.
struct Overlap {
    at: usize,
    skip: usize,
    len: usize,
}

/// The overlap for row `row` of the window of output pixel `pixel`, counted over all images.
fn overlap(shape: Map, window: Window, pixel: usize, row: usize) -> Option<Overlap> {
    let Map { height, width, channels, .. } = shape;
    let across = window.output(width);
    let (line, ox) = (pixel / across, pixel % across);
    let (image, oy) = (line / window.output(height), line % window.output(height));
    let y = (oy * window.stride + row).checked_sub(window.padding).filter(|&y| y < height)?;
    // The first pixel of the window, counted from the left edge of the padding.
    let left = ox * window.stride;
    let start = left.max(window.padding);
    let end = (left + window.kernel).min(window.padding + width);
    let pixels = end.checked_sub(start).filter(|&pixels| pixels > 0)?;
    Some(Overlap {
        at: ((image * height + y) * width + start - window.padding) * channels,
        skip: (start - left) * channels,
        len: pixels * channels,
    })
}

#[cfg(test)]
#[path = "conv_tests.rs"]
mod tests;
