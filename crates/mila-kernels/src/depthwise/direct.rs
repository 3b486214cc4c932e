//! The forward pass, straight from the map.
//!
//! Sixteen channels of a few neighbouring output pixels are summed in registers: every tap of the kernel is one load of its
//! weight and eight products with floats of the map, which are in the cache from the tap before.

use std::ops::Range;

use crate::{
    activation::Activation,
    arithmetic::{Arithmetic, LANES},
    epilogue::Epilogue,
    isa::{Isa, Kernel, Level},
    lane::Lane,
    scratch,
    shape::{Map, Window},
    threads,
};

pub(super) fn convolve(
    isa: Isa,
    x: &[f32],
    shape: Map,
    window: Window,
    weight: &[f32],
    epilogue: Epilogue<'_>,
    y: &mut [f32],
) {
    let output = window.map(shape, shape.channels);
    if y.is_empty() {
        return;
    }
    let row = output.width * output.channels;
    // High enough that few input rows are read by two threads.
    let height = threads::piece_rows(row).max(2 * window.kernel);
    let x = Pixels { x, rows: shape.height };
    threads::chunks(y, height * row, |index, y| {
        scratch::lanes(window.taps() + 1, |lanes| {
            isa.run(Rows { x, shape, window, output, weight, epilogue, first: index * height, lanes, y });
        });
    });
}

/// Some output rows of one image from `first` on, on the caller's thread.
///
/// `ring` holds the input rows that they see, row `i` at `i` modulo the rows that it holds.
pub(crate) fn convolve_ring(
    isa: Isa,
    ring: &[f32],
    shape: Map,
    window: Window,
    weight: &[f32],
    epilogue: Epilogue<'_>,
    (first, y): (usize, &mut [f32]),
) {
    let output = window.map(shape, shape.channels);
    let x = Pixels { x: ring, rows: ring.len() / (shape.width * shape.channels) };
    scratch::lanes(window.taps() + 1, |lanes| {
        isa.run(Rows { x, shape, window, output, weight, epilogue, first, lanes, y });
    });
}

/// The input: whole images, or a ring of rows of one.
#[derive(Clone, Copy)]
struct Pixels<'a> {
    x: &'a [f32],
    /// Rows in memory of an image.
    rows: usize,
}

/// Some output rows, counted over all images.
struct Rows<'a> {
    x: Pixels<'a>,
    shape: Map,
    window: Window,
    output: Map,
    /// `[kernel², channels]`
    weight: &'a [f32],
    epilogue: Epilogue<'a>,
    first: usize,
    /// For the bias and the weights of sixteen channels.
    lanes: &'a mut [Lane],
    y: &'a mut [f32],
}

impl Kernel for Rows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        match (self.window.kernel, self.window.stride) {
            (3, 1) => self.convolve::<A, 3, 1>(),
            (3, 2) => self.convolve::<A, 3, 2>(),
            (7, 1) => self.convolve::<A, 7, 1>(),
            _ => self.convolve::<A, 0, 0>(),
        }
    }
}

impl Rows<'_> {
    /// With a kernel and a stride that the compiler knows, or any if they are 0.
    #[inline(always)]
    fn convolve<A: Arithmetic, const KERNEL: usize, const STRIDE: usize>(self) {
        let Rows { x, shape, window, output, weight, epilogue, first, lanes, y } = self;
        let kernel = if KERNEL == 0 { window.kernel } else { KERNEL };
        let stride = if STRIDE == 0 { window.stride } else { STRIDE };
        let (channels, padding) = (shape.channels, window.padding);
        let (size, row) = (x.rows * shape.width * channels, output.width * channels);
        // Output pixels whose whole window lies between the left and the right edge.
        let fitting = (shape.width + padding).checked_sub(kernel).map_or(0, |room| room / stride + 1);
        let inner = padding.div_ceil(stride).min(output.width);
        let inner = inner..fitting.clamp(inner, output.width);
        let (start, weights) = lanes.split_at_mut(1);
        for c in (0..channels).step_by(LANES) {
            let part = c..channels.min(c + LANES);
            start[0].set(epilogue.bias.map_or(&[], |bias| &bias[part.clone()]));
            for (lane, weight) in weights.iter_mut().zip(weight.chunks_exact(channels)) {
                lane.set(&weight[part.clone()]);
            }
            let (mut image, mut oy) = (first / output.height, first % output.height);
            for index in 0..y.len() / row {
                let top = oy * stride;
                let line = Line {
                    x: &x.x[image * size..][..size],
                    rows: x.rows,
                    shape,
                    weights,
                    start: &start[0],
                    activation: epilogue.activation,
                    residual: epilogue.residual.map(|residual| &residual[(first + index) * row..][..row]),
                    kernel,
                    stride,
                    padding,
                    taps: padding.saturating_sub(top).min(kernel)
                        ..kernel.min((shape.height + padding).saturating_sub(top)),
                    top,
                    part: part.clone(),
                };
                line.convolve::<A, KERNEL>(inner.clone(), output.width, &mut y[index * row..][..row]);
                oy += 1;
                if oy == output.height {
                    (image, oy) = (image + 1, 0);
                }
            }
        }
    }
}

/// Up to sixteen channels of an output row.
struct Line<'a> {
    /// The image, or the ring.
    x: &'a [f32],
    rows: usize,
    shape: Map,
    /// `[kernel²]`
    weights: &'a [Lane],
    /// The bias.
    start: &'a Lane,
    activation: Activation,
    /// The row of the residual.
    residual: Option<&'a [f32]>,
    kernel: usize,
    stride: usize,
    padding: usize,
    /// Rows of the kernel that lie on the map.
    taps: Range<usize>,
    /// The input row of the kernel's first row, counted from the upper edge of the padding.
    top: usize,
    part: Range<usize>,
}

impl Line<'_> {
    /// The pixels of a row, of which those of `inner` have windows between the left and the right edge.
    ///
    /// Loops, not closures: a closure of this size is compiled for itself, without the instruction set.
    #[inline(always)]
    fn convolve<A: Arithmetic, const KERNEL: usize>(&self, inner: Range<usize>, width: usize, y: &mut [f32]) {
        for pixel in 0..inner.start {
            self.border::<A>(pixel, y);
        }
        let mut pixel = inner.start;
        if self.part.len() == LANES {
            // As many pixels side by side as have their sums in registers.
            if A::LEVEL == Level::Avx512 {
                pixel = self.tiles::<A, KERNEL, 8>(pixel, inner.end, y);
                pixel = self.tiles::<A, KERNEL, 4>(pixel, inner.end, y);
            } else {
                pixel = self.tiles::<A, KERNEL, 6>(pixel, inner.end, y);
                pixel = self.tiles::<A, KERNEL, 2>(pixel, inner.end, y);
            }
            pixel = self.tiles::<A, KERNEL, 1>(pixel, inner.end, y);
        }
        for pixel in pixel..width {
            self.border::<A>(pixel, y);
        }
    }

    /// Tiles of `T` pixels of sixteen channels from `pixel` on while they fit; returns the first pixel that is left.
    #[inline(always)]
    fn tiles<A: Arithmetic, const KERNEL: usize, const T: usize>(
        &self,
        mut pixel: usize,
        end: usize,
        y: &mut [f32],
    ) -> usize {
        let kernel = if KERNEL == 0 { self.kernel } else { KERNEL };
        let channels = self.shape.channels;
        while pixel + T <= end {
            let mut sums = [A::load(&self.start.0); T];
            let left = pixel * self.stride - self.padding;
            for ky in self.taps.clone() {
                let row = (self.top + ky - self.padding) % self.rows * self.shape.width;
                let x = &self.x[(row + left) * channels + self.part.start..];
                for (kx, weight) in self.weights[ky * kernel..][..kernel].iter().enumerate() {
                    A::mul_add_rows(&x[kx * channels..], self.stride * channels, A::load(&weight.0), &mut sums);
                }
            }
            self.store::<A, T>(sums, pixel, y);
            pixel += T;
        }
        pixel
    }

    /// One pixel wherever it is.
    #[inline(always)]
    fn border<A: Arithmetic>(&self, pixel: usize, y: &mut [f32]) {
        let Line { kernel, padding, ref part, shape: Map { width, channels, .. }, .. } = *self;
        let mut sum = A::load(&self.start.0);
        let left = pixel * self.stride;
        let across = padding.saturating_sub(left).min(kernel)..kernel.min((width + padding).saturating_sub(left));
        for ky in self.taps.clone() {
            for kx in across.clone() {
                let at = (self.top + ky - padding) % self.rows * width + left + kx - padding;
                let weight = A::load(&self.weights[ky * kernel + kx].0);
                sum = A::mul_add_each(A::load_part(&self.x[at * channels..][part.clone()]), weight, sum);
            }
        }
        self.store::<A, 1>([sum], pixel, y);
    }

    /// Writes the activation of the sums, plus the residual, to the pixels from `pixel` on.
    #[inline(always)]
    fn store<A: Arithmetic, const T: usize>(&self, sums: [A::Register; T], pixel: usize, y: &mut [f32]) {
        let mut lanes = [Lane::ZERO; T];
        for t in 0..T {
            A::store(sums[t], &mut lanes[t].0);
        }
        self.activation.finish_lanes::<A>(&mut lanes);
        for (t, lane) in lanes.iter().enumerate() {
            // No iterator over chunks here: each costs a division, as long as the sums of a small kernel.
            let at = (pixel + t) * self.shape.channels + self.part.start;
            let mut sum = A::load(&lane.0);
            if let Some(residual) = self.residual {
                sum = A::add(A::load_part(&residual[at..][..self.part.len()]), sum);
            }
            A::store_part(sum, &mut y[at..][..self.part.len()]);
        }
    }
}
