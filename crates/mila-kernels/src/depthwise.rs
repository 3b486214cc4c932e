//! Depthwise convolution: every channel with a kernel of its own.
//!
//! The forward pass works straight from the map. The gradients, whose input may have gaps between its pixels,
//! come from a ring of `kernel` input rows for a band of output rows, copied once each into lanes: `[lane of 16
//! channels, pixel]` with the padding's zeros in place. So the inner loop has no border, and reads and writes sixteen
//! channels at a time: seven neighbouring pixels share a tap's weight. Lanes are taken in groups, so that the ring stays
//! in the first-level cache.

use std::ops::Range;

use crate::{
    epilogue::Epilogue,
    isa::Isa,
    shape::{Map, Window},
    threads,
};

mod direct;
mod input_gradient;
mod ring;
#[cfg(test)]
mod tests;
mod weight_gradient;

pub(crate) use direct::convolve_ring;
use input_gradient::input_gradient;
use ring::Source;
use weight_gradient::WeightBand;

/// Packs PyTorch's depthwise weight, `[channels, 1, kernel, kernel]`, as `[kernel², channels]`.
///
/// # Panics
/// If `weight` is not `channels * taps` long.
pub fn pack_weight(weight: &[f32], channels: usize, taps: usize) -> Vec<f32> {
    assert_eq!(weight.len(), channels * taps, "depthwise: weight is [{channels}, 1, {taps} taps]");
    (0..taps).flat_map(|tap| weight.iter().skip(tap).step_by(taps)).copied().collect()
}

/// The inverse of [`pack_weight`]: `[kernel², channels]` as `[channels, 1, kernel, kernel]`.
///
/// # Panics
/// If `packed` is not `channels * taps` long.
pub fn unpack_weight(packed: &[f32], channels: usize, taps: usize) -> Vec<f32> {
    pack_weight(packed, taps, channels)
}

/// `y = activation(x * weight + bias) + residual`.
///
/// `x` is `shape`, `weight` is `[kernel², channels]` (see [`pack_weight`]), `y` is `window.map(shape, channels)`. With a
/// window that keeps the size, the residual may be `x` itself: x + dw(x).
///
/// # Panics
/// If a length does not fit or the window has no pixel.
pub fn forward(isa: Isa, x: &[f32], shape: Map, window: Window, weight: &[f32], epilogue: Epilogue<'_>, y: &mut [f32]) {
    let output = check(x, shape, window, weight.len());
    assert_eq!(y.len(), output.len(), "depthwise: y is {output:?}");
    epilogue.check("depthwise", shape.channels, y.len());
    direct::convolve(isa, x, shape, window, weight, epilogue, y);
}

/// Where [`backward`] writes its results; what is `None` is not computed.
#[derive(Debug, Default)]
pub struct Gradients<'a> {
    /// Shaped as `x`.
    pub x: Option<&'a mut [f32]>,
    /// `[kernel², channels]`; see [`unpack_weight`].
    pub weight: Option<&'a mut [f32]>,
    /// `[channels]`.
    pub bias: Option<&'a mut [f32]>,
}

/// The gradients of `y = x * weight + bias` for `dy`, shaped as `y`.
///
/// dx is a convolution of dy with the kernel turned round; the pixels of dy stand `stride` apart in it.
///
/// # Panics
/// If a length does not fit or the window has no pixel.
pub fn backward(isa: Isa, x: &[f32], shape: Map, window: Window, weight: &[f32], dy: &[f32], gradients: Gradients<'_>) {
    let output = check(x, shape, window, weight.len());
    let (taps, channels) = (window.taps(), shape.channels);
    assert_eq!(dy.len(), output.len(), "depthwise: dy is {output:?}");
    if let Some(dx) = gradients.x {
        assert_eq!(dx.len(), x.len(), "depthwise: dx is {shape:?}");
        let padding = window.kernel as isize - 1 - window.padding as isize;
        let source = Source { x: dy, shape: output, spacing: window.stride, padding };
        input_gradient(isa, source, weight, (shape, window.kernel), dx);
    }
    if gradients.weight.is_none() && gradients.bias.is_none() {
        return;
    }
    let source = Source { x, shape, spacing: 1, padding: window.padding as isize };
    let row = output.width * channels;
    let pieces = bands(output, window.kernel).map(|(image, rows)| {
        let start = image * output.height * row;
        (image, rows.start, &dy[start + rows.start * row..start + rows.end * row])
    });
    let sums = threads::sum((taps + 1) * channels, pieces, |_, (image, first, dy), sums| {
        isa.run(WeightBand { source, window, image, first, width: output.width, dy, sums });
    });
    if let Some(dweight) = gradients.weight {
        assert_eq!(dweight.len(), taps * channels, "depthwise: dweight is [{taps}, {channels}]");
        threads::narrow(&sums[..taps * channels], dweight);
    }
    if let Some(dbias) = gradients.bias {
        assert_eq!(dbias.len(), channels, "depthwise: length of dbias");
        threads::narrow(&sums[taps * channels..], dbias);
    }
}

fn check(x: &[f32], shape: Map, window: Window, weight: usize) -> Map {
    window.check();
    assert_eq!(x.len(), shape.len(), "depthwise: x is {shape:?}");
    assert_eq!(weight, window.taps() * shape.channels, "depthwise: weight is [{}, {}]", window.taps(), shape.channels);
    window.map(shape, shape.channels)
}

/// The bands of rows that a result is cut into: (image, rows). High enough that few rows are copied twice.
fn bands(output: Map, kernel: usize) -> impl Iterator<Item = (usize, Range<usize>)> {
    let height = threads::piece_rows(output.width * output.channels).max(2 * kernel);
    let images = if output.is_empty() { 0 } else { output.batch };
    (0..images).flat_map(move |image| {
        (0..output.height).step_by(height).map(move |row| (image, row..output.height.min(row + height)))
    })
}
