//! Depthwise convolution: every channel with a kernel of its own.
//!
//! The forward pass works straight from the map. The gradients, whose input may have gaps between its pixels,
//! come from a ring of `kernel` input rows for a band of output rows, copied once each into lanes: `[lane of 16
//! channels, pixel]` with the padding's zeros in place. So the inner loop has no border, and reads and writes sixteen
//! channels at a time: seven neighbouring pixels share a tap's weight. Lanes are taken in groups, so that the ring stays
//! in the first-level cache.

use std::ops::Range;

use crate::{
    activation::Activation,
    arithmetic::{Arithmetic, LANES},
    epilogue::Epilogue,
    isa::{Isa, Kernel},
    lane::Lane,
    shape::{Map, Window},
    threads,
};

mod direct;
mod ring;
#[cfg(test)]
mod tests;
mod weight_gradient;

pub(crate) use direct::convolve_ring;
use ring::{Ring, Source, groups};
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
        let filter = Filter::new(window.kernel, 1, weight.chunks_exact(channels.max(1)).rev(), None);
        convolve(isa, source, &filter, shape, Epilogue::default(), dx);
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

/// The kernel in lanes.
struct Filter {
    kernel: usize,
    stride: usize,
    /// `[lane, tap]`.
    weight: Vec<Lane>,
    /// `[lane]`.
    bias: Vec<Lane>,
}

impl Filter {
    /// From the weights of each tap, in order.
    fn new<'a>(kernel: usize, stride: usize, taps: impl Iterator<Item = &'a [f32]>, bias: Option<&[f32]>) -> Filter {
        let count = kernel * kernel;
        let mut weight = Vec::new();
        for (tap, values) in taps.enumerate() {
            weight.resize(values.len().div_ceil(LANES) * count, Lane::ZERO);
            values.chunks(LANES).zip(weight[tap..].iter_mut().step_by(count)).for_each(|(part, lane)| lane.set(part));
        }
        let mut lanes = vec![Lane::ZERO; weight.len() / count];
        lanes.iter_mut().zip(bias.unwrap_or_default().chunks(LANES)).for_each(|(lane, part)| lane.set(part));
        Filter { kernel, stride, weight, bias: lanes }
    }
}

fn convolve(isa: Isa, source: Source<'_>, filter: &Filter, output: Map, epilogue: Epilogue<'_>, y: &mut [f32]) {
    let row = output.width * output.channels;
    let mut rest = y;
    let pieces = bands(output, filter.kernel).map(|(image, rows)| {
        let start = (image * output.height + rows.start) * row;
        let (band, tail) = std::mem::take(&mut rest).split_at_mut(rows.len() * row);
        rest = tail;
        let residual = epilogue.residual.map(|residual| &residual[start..start + band.len()]);
        Band { source, filter, image, first: rows.start, activation: epilogue.activation, residual, row, y: band }
    });
    threads::each(pieces, |_, band| isa.run(band));
}

struct Band<'a> {
    source: Source<'a>,
    filter: &'a Filter,
    image: usize,
    /// The first output row.
    first: usize,
    activation: Activation,
    residual: Option<&'a [f32]>,
    /// Floats in an output row.
    row: usize,
    y: &'a mut [f32],
}

impl Kernel for Band<'_> {
    type Output = ();

    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        match (self.filter.kernel, self.filter.stride) {
            (3, 1) => self.slide::<A, 3, 1>(),
            (3, 2) => self.slide::<A, 3, 2>(),
            (7, 1) => self.slide::<A, 7, 1>(),
            _ => self.slide::<A, 0, 0>(),
        }
    }
}

impl Band<'_> {
    /// The band with a kernel and a stride that the compiler knows, or any if they are 0.
    #[inline(always)]
    fn slide<A: Arithmetic, const KERNEL: usize, const STRIDE: usize>(self) {
        let kernel = if KERNEL == 0 { self.filter.kernel } else { KERNEL };
        let stride = if STRIDE == 0 { self.filter.stride } else { STRIDE };
        let channels = self.source.shape.channels;
        let width = self.row / channels;
        for lanes in groups(channels, kernel, stride, width) {
            let mut ring = Ring::new(self.source, self.image, (kernel, stride), width, lanes.clone());
            let mut entered = self.first * stride;
            for (index, y) in self.y.chunks_exact_mut(self.row).enumerate() {
                let top = (self.first + index) * stride;
                // A stride beyond the kernel skips rows.
                (entered.max(top)..top + kernel).for_each(|row| ring.enter(row));
                entered = top + kernel;
                for lane in lanes.clone() {
                    let line = Line {
                        ring: &ring,
                        lane: lane - lanes.start,
                        slot: top % kernel,
                        weight: &self.filter.weight[lane * kernel * kernel..][..kernel * kernel],
                        bias: &self.filter.bias[lane],
                        kernel,
                        stride,
                        activation: self.activation,
                        residual: self.residual.map(|residual| &residual[index * self.row..][..self.row]),
                        channels,
                        part: lane * LANES..channels.min((lane + 1) * LANES),
                    };
                    let mut pixel = 0;
                    pixel = line.pixels::<A, 7>(pixel, width, y);
                    pixel = line.pixels::<A, 3>(pixel, width, y);
                    line.pixels::<A, 1>(pixel, width, y);
                }
            }
        }
    }
}

/// One lane of an output row.
struct Line<'a> {
    ring: &'a Ring<'a>,
    /// The lane within the ring.
    lane: usize,
    /// Where the ring holds the first input row.
    slot: usize,
    /// `[kernel²]`
    weight: &'a [Lane],
    bias: &'a Lane,
    kernel: usize,
    stride: usize,
    activation: Activation,
    residual: Option<&'a [f32]>,
    channels: usize,
    /// The lane's channels within a pixel.
    part: Range<usize>,
}

impl Line<'_> {
    /// Computes `T` pixels at a time from `pixel` on while they fit in `width`; returns the first that is left.
    ///
    /// There is no iterator over chunks here: each would cost a division, as long as the sums of a small kernel.
    #[inline(always)]
    fn pixels<A: Arithmetic, const T: usize>(&self, mut pixel: usize, width: usize, y: &mut [f32]) -> usize {
        let Line { kernel, stride, .. } = *self;
        while pixel + T <= width {
            let mut sums = [A::load(&self.bias.0); T];
            let mut slot = self.slot;
            for row in 0..kernel {
                let x = self.ring.pixels(slot, self.lane);
                slot = if slot + 1 == kernel { 0 } else { slot + 1 };
                let x = &x[pixel * stride..][..(T - 1) * stride + kernel];
                let weight = &self.weight[row * kernel..][..kernel];
                for tap in 0..kernel {
                    let weight = A::load(&weight[tap].0);
                    for (t, sum) in sums.iter_mut().enumerate() {
                        *sum = A::mul_add_each(A::load(&x[t * stride + tap].0), weight, *sum);
                    }
                }
            }
            self.store::<A, T>(pixel, sums, y);
            pixel += T;
        }
        pixel
    }

    /// Writes the activation of the sums, plus the residual, to the pixels from `pixel` on.
    #[inline(always)]
    fn store<A: Arithmetic, const T: usize>(&self, pixel: usize, mut sums: [A::Register; T], y: &mut [f32]) {
        if self.activation != Activation::None {
            let mut floats = [[0.0; LANES]; T];
            floats.iter_mut().zip(sums).for_each(|(floats, sum)| A::store(sum, floats));
            self.activation.finish::<A>(floats.as_flattened_mut());
            sums.iter_mut().zip(&floats).for_each(|(sum, floats)| *sum = A::load(floats));
        }
        for (t, mut sum) in sums.into_iter().enumerate() {
            let first = (pixel + t) * self.channels;
            if let Some(residual) = self.residual {
                let residual = A::load_part(&residual[first..][self.part.clone()]);
                sum = A::mul_add_each(residual, A::splat(1.0), sum);
            }
            A::store_part(sum, &mut y[first..][self.part.clone()]);
        }
    }
}
