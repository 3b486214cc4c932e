//! Convolution over all channels: a product of the windows, as rows, and the weight.
//!
//! A row of a window is contiguous in a map of pixels with their channels last, so the product reads the windows where they
//! are: in a copy of a band of the map that has the padding's zeros, or in the map itself if there is no padding.
//!
//! Where the window does not fit the input there is no output; a caller that wants one pads first.

use std::borrow::Cow;

use crate::{
    activation::Activation,
    epilogue::Epilogue,
    isa::Isa,
    linear,
    matrix::PackedMatrix,
    product::{self, Left, Product, ROWS, Start},
    shape::{Map, Window},
    threads,
};

#[cfg(test)]
mod tests;

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
    if y.is_empty() {
        return;
    }
    let height = band_height(output);
    let row = output.width * outputs;
    let bands = output.height.div_ceil(height);
    let pieces = y.chunks_mut(output.height * row).flat_map(|image| image.chunks_mut(height * row));
    threads::each(pieces, |index, y| {
        let (image, first) = (index / bands, index % bands * height);
        let start = (image * output.height + first) * row;
        let band = Band::new(x, shape, window, image, first, y.len() / row);
        isa.run(Product {
            left: Left::Windows {
                x: &band.x,
                origins: &band.origins(window, shape.channels, output.width, y.len() / row),
                line: window.kernel * shape.channels,
                pitch: band.pitch,
            },
            right: weight,
            column: 0,
            start: epilogue.bias.map_or(Start::Zero, Start::Bias),
            activation: epilogue.activation,
            residual: epilogue.residual.map(|residual| &residual[start..]),
            target: 0..outputs,
            y: &mut y.chunks_exact_mut(outputs).collect::<Vec<_>>(),
        });
    });
}

/// Output rows of a band: eight blocks of pixels, so that few rows of the map are copied twice, but also enough bands for
/// several threads.
fn band_height(output: Map) -> usize {
    const PIXELS: usize = 8 * ROWS;
    PIXELS.div_ceil(output.width).min(output.height.div_ceil(8))
}

/// The rows of a map that some output rows see.
struct Band<'a> {
    x: Cow<'a, [f32]>,
    /// Floats from one row to the next.
    pitch: usize,
}

impl<'a> Band<'a> {
    /// For `count` output rows of image `image` from `first` on.
    fn new(x: &'a [f32], shape: Map, window: Window, image: usize, first: usize, count: usize) -> Band<'a> {
        let Map { height, width, channels, .. } = shape;
        let line = width * channels;
        let x = &x[image * height * line..][..height * line];
        let top = first * window.stride;
        let rows = (count - 1) * window.stride + window.kernel;
        if window.padding == 0 {
            return Band { x: Cow::Borrowed(&x[top * line..(top + rows) * line]), pitch: line };
        }
        let margin = window.padding * channels;
        let pitch = line + 2 * margin;
        let mut copy = vec![0.0; rows * pitch];
        for (row, copy) in copy.chunks_exact_mut(pitch).enumerate() {
            if let Some(y) = (top + row).checked_sub(window.padding).filter(|&y| y < height) {
                copy[margin..margin + line].copy_from_slice(&x[y * line..][..line]);
            }
        }
        Band { x: Cow::Owned(copy), pitch }
    }

    /// Where the window of every output pixel begins.
    fn origins(&self, window: Window, channels: usize, width: usize, rows: usize) -> Vec<usize> {
        let row = |y: usize| (0..width).map(move |x| (y * self.pitch + x * channels) * window.stride);
        (0..rows).flat_map(row).collect()
    }
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
            lay_out(x, shape, window, block * PIXELS + piece * ROWS, windows);
        });
        product::add_transposed_product(isa, dy, windows, (outputs, depth), sums);
    }
}

/// Writes the windows of the output pixels from `first` on, one after another.
fn lay_out(x: &[f32], shape: Map, window: Window, first: usize, windows: &mut [f32]) {
    let line = window.kernel * shape.channels;
    if line == 0 {
        return;
    }
    for (pixel, windows) in windows.chunks_exact_mut(window.kernel * line).enumerate() {
        for (row, part) in windows.chunks_exact_mut(line).enumerate() {
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
