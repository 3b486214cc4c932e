//! Depthwise convolution: every channel with a kernel of its own.
//!
//! A band of output rows is computed from a ring of `kernel` input rows, copied once each into lanes: `[lane of 16
//! channels, pixel]` with the padding's zeros in place. So the inner loop has no border, and reads and writes sixteen
//! channels at a time: seven neighbouring pixels share a tap's weight.

use crate::{
    activation::Activation,
    arithmetic::{Arithmetic, LANES},
    epilogue::Epilogue,
    isa::{Isa, Kernel},
    lane::Lane,
    shape::{Map, Window},
    threads,
};

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
    let source = Source { x, shape, spacing: 1, padding: window.padding as isize };
    let filter = Filter::new(window.kernel, window.stride, weight.chunks_exact(shape.channels.max(1)), epilogue.bias);
    convolve(isa, source, &filter, output, epilogue, y);
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
fn bands(output: Map, kernel: usize) -> impl Iterator<Item = (usize, std::ops::Range<usize>)> {
    let height = threads::piece_rows(output.width * output.channels).max(2 * kernel);
    let images = if output.is_empty() { 0 } else { output.batch };
    (0..images).flat_map(move |image| {
        (0..output.height).step_by(height).map(move |row| (image, row..output.height.min(row + height)))
    })
}

/// A map to slide over: pixels `spacing` apart with zeros between them and all round.
#[derive(Clone, Copy)]
struct Source<'a> {
    x: &'a [f32],
    shape: Map,
    spacing: usize,
    padding: isize,
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

/// The last `kernel` input rows that a band has met, in lanes: `[row modulo kernel, lane, pixel]`.
struct Ring<'a> {
    source: Source<'a>,
    image: &'a [f32],
    kernel: usize,
    lanes: usize,
    width: usize,
    rows: Vec<Lane>,
}

impl<'a> Ring<'a> {
    /// A ring for an output of `width` pixels.
    #[inline(always)]
    fn new(source: Source<'a>, image: usize, kernel: usize, stride: usize, width: usize) -> Ring<'a> {
        let lanes = source.shape.channels.div_ceil(LANES);
        let width = (width - 1) * stride + kernel;
        let size = source.shape.len() / source.shape.batch;
        let rows = vec![Lane::ZERO; kernel * lanes * width];
        Ring { source, image: &source.x[image * size..][..size], kernel, lanes, width, rows }
    }

    /// Copies row `row` of the padded map into the ring, over the row `kernel` rows before it.
    #[inline(always)]
    fn enter(&mut self, row: usize) {
        let Source { shape, spacing, padding, .. } = self.source;
        let size = self.lanes * self.width;
        let slot = &mut self.rows[row % self.kernel * size..][..size];
        let row = row.checked_add_signed(-padding).filter(|row| row.is_multiple_of(spacing)).map(|row| row / spacing);
        let Some(row) = row.filter(|&row| row < shape.height) else {
            return slot.fill(Lane::ZERO);
        };
        let line = shape.width * shape.channels;
        let x = &self.image[row * line..][..line];
        for (pixel, x) in x.chunks_exact(shape.channels).enumerate() {
            if let Some(at) = (pixel * spacing).checked_add_signed(padding).filter(|&at| at < self.width) {
                let lanes = slot[at..].iter_mut().step_by(self.width);
                x.chunks(LANES).zip(lanes).for_each(|(part, lane)| lane.set(part));
            }
        }
    }

    /// The pixels of one lane of row `row`.
    #[inline(always)]
    fn pixels(&self, row: usize, lane: usize) -> &[Lane] {
        &self.rows[(row % self.kernel * self.lanes + lane) * self.width..][..self.width]
    }
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
        match self.filter.stride {
            1 => self.slide::<A, 1>(),
            2 => self.slide::<A, 2>(),
            _ => self.slide::<A, 0>(),
        }
    }
}

impl Band<'_> {
    /// The band with a stride known to the compiler, or any stride if `STRIDE` is 0.
    #[inline(always)]
    fn slide<A: Arithmetic, const STRIDE: usize>(self) {
        let Filter { kernel, stride, .. } = *self.filter;
        let channels = self.source.shape.channels;
        let width = self.row / channels;
        let mut ring = Ring::new(self.source, self.image, kernel, stride, width);
        let mut entered = self.first * stride;
        for (index, y) in self.y.chunks_exact_mut(self.row).enumerate() {
            let top = (self.first + index) * stride;
            // A stride beyond the kernel skips rows.
            for row in entered.max(top)..top + kernel {
                ring.enter(row);
            }
            entered = top + kernel;
            for lane in 0..ring.lanes {
                let line = Line { ring: &ring, filter: self.filter, top, lane, channels };
                let mut pixel = 0;
                pixel = line.pixels::<A, STRIDE, 7>(pixel, y);
                pixel = line.pixels::<A, STRIDE, 3>(pixel, y);
                line.pixels::<A, STRIDE, 1>(pixel, y);
            }
            let residual = self.residual.map(|residual| &residual[index * self.row..][..self.row]);
            self.activation.finish::<A>(residual, y);
        }
    }
}

/// One lane of an output row.
struct Line<'a> {
    ring: &'a Ring<'a>,
    filter: &'a Filter,
    /// The first of its input rows.
    top: usize,
    lane: usize,
    channels: usize,
}

impl Line<'_> {
    /// Computes `T` pixels at a time from `pixel` on while they fit in `y`; returns the first that is left.
    #[inline(always)]
    fn pixels<A: Arithmetic, const STRIDE: usize, const T: usize>(&self, mut pixel: usize, y: &mut [f32]) -> usize {
        let kernel = self.filter.kernel;
        let stride = if STRIDE == 0 { self.filter.stride } else { STRIDE };
        let weight = &self.filter.weight[self.lane * kernel * kernel..][..kernel * kernel];
        let part = self.lane * LANES..self.channels.min((self.lane + 1) * LANES);
        let width = y.len() / self.channels;
        while pixel + T <= width {
            let mut sums = [A::load(&self.filter.bias[self.lane].0); T];
            for (row, weight) in weight.chunks_exact(kernel).enumerate() {
                let x = self.ring.pixels(self.top + row, self.lane);
                for (tap, weight) in weight.iter().enumerate() {
                    let x = &x[pixel * stride + tap..][..(T - 1) * stride + 1];
                    let weight = A::load(&weight.0);
                    for (t, sum) in sums.iter_mut().enumerate() {
                        *sum = A::mul_add_each(A::load(&x[t * stride].0), weight, *sum);
                    }
                }
            }
            let y = &mut y[pixel * self.channels..][..T * self.channels];
            for (y, sum) in y.chunks_exact_mut(self.channels).zip(sums) {
                A::store_part(sum, &mut y[part.clone()]);
            }
            pixel += T;
        }
        pixel
    }
}

/// The weight's and the bias's gradient from a band of dy.
struct WeightBand<'a> {
    source: Source<'a>,
    window: Window,
    image: usize,
    first: usize,
    /// Pixels in a row of dy.
    width: usize,
    dy: &'a [f32],
    /// `[taps + 1, channels]`, the bias last.
    sums: &'a mut [f32],
}

impl Kernel for WeightBand<'_> {
    type Output = ();

    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        let Window { kernel, stride, .. } = self.window;
        let (taps, channels) = (self.window.taps(), self.source.shape.channels);
        let mut ring = Ring::new(self.source, self.image, kernel, stride, self.width);
        let mut totals = vec![Lane::ZERO; ring.lanes * (taps + 1)];
        let mut line = vec![Lane::ZERO; self.width];
        let mut entered = self.first * stride;
        for (index, dy) in self.dy.chunks_exact(self.width * channels).enumerate() {
            let top = (self.first + index) * stride;
            for row in entered.max(top)..top + kernel {
                ring.enter(row);
            }
            entered = top + kernel;
            for (lane, totals) in totals.chunks_exact_mut(taps + 1).enumerate() {
                let part = lane * LANES..channels.min((lane + 1) * LANES);
                for (line, dy) in line.iter_mut().zip(dy.chunks_exact(channels)) {
                    line.set(&dy[part.clone()]);
                }
                for (tap, total) in totals[..taps].iter_mut().enumerate() {
                    let x = &ring.pixels(top + tap / kernel, lane)[tap % kernel..];
                    add_products::<A>(&line, x, stride, total);
                }
                let one = A::splat(1.0);
                let sum =
                    line.iter().fold(A::load(&totals[taps].0), |sum, dy| A::mul_add_each(A::load(&dy.0), one, sum));
                A::store(sum, &mut totals[taps].0);
            }
        }
        for (lane, totals) in totals.chunks_exact(taps + 1).enumerate() {
            for (sums, total) in self.sums.chunks_exact_mut(channels).zip(totals) {
                sums[lane * LANES..].iter_mut().zip(total.0).for_each(|(sum, total)| *sum += total);
            }
        }
    }
}

/// `total += Σᵢ dy[i] x[i · stride]`, in four chains.
#[inline(always)]
fn add_products<A: Arithmetic>(dy: &[Lane], x: &[Lane], stride: usize, total: &mut Lane) {
    let zero = A::splat(0.0);
    let mut sums = [A::load(&total.0), zero, zero, zero];
    for (dy, x) in dy.chunks(4).zip(x.chunks(4 * stride)) {
        for ((dy, x), sum) in dy.iter().zip(x.iter().step_by(stride)).zip(&mut sums) {
            *sum = A::mul_add_each(A::load(&dy.0), A::load(&x.0), *sum);
        }
    }
    let one = A::splat(1.0);
    let sum = A::mul_add_each(sums[1], one, sums[0]);
    let sum = A::mul_add_each(A::mul_add_each(sums[3], one, sums[2]), one, sum);
    A::store(sum, &mut total.0);
}

#[cfg(test)]
#[path = "depthwise_tests.rs"]
mod tests;
