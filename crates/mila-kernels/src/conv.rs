//! Convolution over all channels: a product of the windows, as rows, and the weight.
//!
//! A row of a window is contiguous in a map of pixels with their channels last, so the left-hand side of the product is filled
//! from the map itself, a few windows at a time.
//!
//! Where the window does not fit the input there is no output; a caller that wants one pads first.

use crate::{
    arithmetic::LANES,
    epilogue::Epilogue,
    isa::Isa,
    linear::{self, Layer},
    matrix::PackedMatrix,
    product,
    rows::Rows,
    scratch,
    shape::{Map, Window},
    threads,
    windows::{Overlap, Windows},
};

#[cfg(test)]
mod tests;

/// Packs PyTorch's weight, `[outputs, inputs, kernel, kernel]`: depth is kernel² × inputs, columns are the outputs.
///
/// # Panics
/// If the length does not fit.
pub fn pack_weight(isa: Isa, weight: &[f32], inputs: usize, outputs: usize, kernel: usize) -> PackedMatrix {
    let depth = kernel * kernel * inputs;
    PackedMatrix::from_columns(isa, &inputs_last(weight, inputs, outputs, kernel), outputs, depth)
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
    let layer = Layer::checked("conv", weight, epilogue, y);
    layer.run(isa, Rows::Windows(Windows { x, shape, window }));
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
        let right = PackedMatrix::from_rows(isa, &weight, outputs, depth);
        input_gradient(isa, dy, output, window, &right, shape, dx);
    }
    if let Some(dweight) = gradients.weight {
        assert_eq!(dweight.len(), weight.len(), "conv: length of dweight");
        let mut sums = vec![0.0; weight.len()];
        add_weight_gradient(isa, Windows { x, shape, window }, dy, (outputs, depth), &mut sums);
        dweight.copy_from_slice(&transpose_inner(&sums, window.taps(), inputs));
    }
    if let Some(dbias) = gradients.bias {
        assert_eq!(dbias.len(), outputs, "conv: length of dbias");
        threads::narrow(&linear::column_sums(dy, outputs), dbias);
    }
}

/// Pixels whose windows are laid out at a time.
const PIXELS: usize = 1024;

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
        let windows = Windows { x: &[], shape: image, window };
        scratch::floats(PIXELS.min(dy.len() / outputs) * depth, |laid_out| {
            for (block, dy) in dy.chunks(PIXELS * outputs).enumerate() {
                let laid_out = &mut laid_out[..dy.len() / outputs * depth];
                let layer = Layer::checked("conv", right, Epilogue::default(), laid_out);
                layer.run(isa, Rows::Plain { x: dy, stride: outputs });
                each_part(windows, block * PIXELS, laid_out, |Overlap { at, skip, len }, part| {
                    dx[at..at + len].iter_mut().zip(&part[skip..]).for_each(|(dx, part)| *dx += *part);
                });
            }
        });
    });
}

/// `sums += dyᵀ · windows`, `[outputs, depth]`.
fn add_weight_gradient(isa: Isa, windows: Windows<'_>, dy: &[f32], (outputs, depth): (usize, usize), sums: &mut [f32]) {
    if depth == 0 {
        return;
    }
    let mut laid_out = vec![0.0; PIXELS.min(dy.len() / outputs.max(1)) * depth];
    for (block, dy) in dy.chunks((PIXELS * outputs).max(1)).enumerate() {
        let laid_out = &mut laid_out[..dy.len() / outputs * depth];
        threads::each(laid_out.chunks_mut(LANES * depth), |piece, laid_out| {
            each_part(windows, block * PIXELS + piece * LANES, laid_out, |Overlap { at, skip, len }, part| {
                part[..skip].fill(0.0);
                part[skip..skip + len].copy_from_slice(&windows.x[at..at + len]);
                part[skip + len..].fill(0.0);
            });
        });
        product::add_transposed_product(isa, dy, laid_out, (outputs, depth), sums);
    }
}

/// Calls `body` with every row of the windows from output pixel `first` on, and what it has in common with the map.
fn each_part(windows: Windows<'_>, first: usize, laid_out: &mut [f32], mut body: impl FnMut(Overlap, &mut [f32])) {
    let line = windows.line();
    let pixels = LANES * windows.window.kernel * line;
    for (block, laid_out) in laid_out.chunks_mut(pixels).enumerate() {
        let positions = windows.positions(first + block * LANES);
        for (at, rows) in positions.iter().zip(laid_out.chunks_exact_mut(windows.window.kernel * line)) {
            for (ky, row) in rows.chunks_exact_mut(line).enumerate() {
                body(windows.overlap(*at, ky), row);
            }
        }
    }
}
