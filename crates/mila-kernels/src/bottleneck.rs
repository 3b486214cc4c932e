//! Inverted bottlenecks: 1x1 to many channels, depthwise, 1x1 to few: y = ((φ(x W₁ + b₁)) * d + b)φ W₂ + b₂.
//!
//! The hidden map, the widest of a model, is never whole: a thread goes down its part of the image a few output rows at a time
//! and keeps the hidden rows that they see in a ring.

use rayon::prelude::*;

use crate::{
    activation::Activation,
    cache, depthwise,
    epilogue::Epilogue,
    isa::Isa,
    linear::Layer,
    matrix::PackedMatrix,
    rows::Rows,
    scratch,
    shape::{Map, Window},
};

/// The three layers; an activation follows the first two.
#[derive(Clone, Copy, Debug)]
pub struct Bottleneck<'a> {
    /// `[inputs, hidden]` and its bias.
    pub expand: (&'a PackedMatrix, Option<&'a [f32]>),
    /// Of the depthwise convolution.
    pub window: Window,
    /// `[kernel², hidden]`, see [`depthwise::pack_weight`], and its bias.
    pub spatial: (&'a [f32], Option<&'a [f32]>),
    /// `[hidden, outputs]` and its bias.
    pub project: (&'a PackedMatrix, Option<&'a [f32]>),
    /// Follows the first and the second layer.
    pub activation: Activation,
}

/// Computes `y`, `window.map(shape, outputs)`, from `x`, `shape`.
///
/// # Panics
/// If a length does not fit, the window has no pixel, or there is a result of no pixel or no hidden channel.
pub fn forward(isa: Isa, x: &[f32], shape: Map, p: Bottleneck<'_>, y: &mut [f32]) {
    p.window.check();
    let (hidden, outputs) = (p.expand.0.columns(), p.project.0.columns());
    let output = p.window.map(shape, outputs);
    assert_eq!(x.len(), shape.len(), "bottleneck: x is {shape:?}");
    assert_eq!(y.len(), output.len(), "bottleneck: y is {output:?}");
    assert_eq!((p.expand.0.depth(), p.project.0.depth()), (shape.channels, hidden), "bottleneck: inputs of the layers");
    assert_eq!(p.spatial.0.len(), p.window.taps() * hidden, "bottleneck: depthwise weight");
    assert!(p.spatial.1.is_none_or(|bias| bias.len() == hidden), "bottleneck: depthwise bias");
    if y.is_empty() {
        return;
    }
    assert!(
        !x.is_empty() && hidden > 0,
        "bottleneck: a result needs pixels and hidden channels, found {shape:?}, {hidden}"
    );
    let image = shape.len() / shape.batch;
    let row = output.width * outputs;
    let threads = rayon::current_num_threads();
    // Whole images if there are enough of them: the parts of one image both compute the hidden rows between them.
    let height = if shape.batch >= threads { output.height } else { output.height.div_ceil(threads) };
    let images = y.par_chunks_mut(output.height * row).zip(x.par_chunks(image));
    images.for_each(|(y, x)| {
        y.par_chunks_mut(height * row).enumerate().for_each(|(index, y)| {
            let part = Part { isa, x, shape: Map { batch: 1, channels: hidden, ..shape }, p, width: output.width };
            part.run(index * height, y);
        });
    });
}

/// Some output rows of an image.
struct Part<'a> {
    isa: Isa,
    /// The image.
    x: &'a [f32],
    /// Of its hidden map.
    shape: Map,
    p: Bottleneck<'a>,
    /// Output pixels in a row.
    width: usize,
}

impl Part<'_> {
    /// Writes the rows of `y`, of which `first` is the first.
    fn run(&self, first: usize, y: &mut [f32]) {
        let (hidden, outputs) = (self.shape.channels, self.p.project.0.columns());
        let Window { kernel, stride, .. } = self.p.window;
        let (line, row) = (self.shape.width * hidden, self.width * outputs);
        let count = (self.output_rows(line)).min(y.len() / row);
        let ring_rows = (count - 1) * stride + kernel.max(stride);
        scratch::floats(ring_rows * line, |ring| {
            scratch::floats(count * self.width * hidden, |reduced| {
                let mut entered = 0;
                for (index, y) in y.chunks_mut(count * row).enumerate() {
                    let top = first + index * count;
                    let count = y.len() / row;
                    let reduced = &mut reduced[..count * self.width * hidden];
                    entered = self.enter(entered, top, count, ring);
                    let (weight, bias) = self.p.spatial;
                    let epilogue = Epilogue { bias, activation: self.p.activation, residual: None };
                    depthwise::convolve_ring(
                        self.isa,
                        ring,
                        self.shape,
                        self.p.window,
                        weight,
                        epilogue,
                        (top, &mut *reduced),
                    );
                    let (weight, bias) = self.p.project;
                    let layer = Layer::checked("bottleneck", weight, Epilogue { bias, ..Epilogue::default() }, y);
                    layer.run_here(self.isa, Rows::Plain { x: reduced, stride: hidden });
                }
            });
        });
    }

    /// Output rows at a time: as many as keep the hidden rows that they see in the second-level cache; at least so many that the
    /// weights, which are read once for them, are worth it.
    fn output_rows(&self, line: usize) -> usize {
        const FEWEST_PIXELS: usize = 48;
        let Window { kernel, stride, .. } = self.p.window;
        let rows = cache::second_level() / 2 / (line * size_of::<f32>());
        (rows.saturating_sub(kernel) / stride + 1).max(FEWEST_PIXELS.div_ceil(self.width))
    }

    /// Computes the hidden rows that `count` output rows from `top` on see, but for those before `entered`, which are there;
    /// returns the end of them.
    fn enter(&self, entered: usize, top: usize, count: usize, ring: &mut [f32]) -> usize {
        let (inputs, line) = (self.p.expand.0.depth(), self.shape.width * self.shape.channels);
        let Window { kernel, stride, padding } = self.p.window;
        let rows = ring.len() / line;
        let begin = (top * stride).saturating_sub(padding).max(entered);
        let end = ((top + count - 1) * stride + kernel).saturating_sub(padding).min(self.shape.height);
        let mut next = begin;
        while next < end {
            // Up to where the ring begins again.
            let slot = next % rows;
            let stop = end.min(next + rows - slot);
            let x = &self.x[next * self.shape.width * inputs..stop * self.shape.width * inputs];
            let y = &mut ring[slot * line..(slot + stop - next) * line];
            let (weight, bias) = self.p.expand;
            let epilogue = Epilogue { bias, activation: self.p.activation, residual: None };
            Layer::checked("bottleneck", weight, epilogue, y).run_here(self.isa, Rows::Plain { x, stride: inputs });
            next = stop;
        }
        end.max(entered)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        linear,
        testing::{assert_close, everywhere, numbers, unwritten, wide},
    };

    /// Against the three kernels that it is made of.
    #[test]
    fn rows_by_rows_is_the_composition() {
        let same = Window { kernel: 3, stride: 1, padding: 1 };
        let halving = Window { stride: 2, ..same };
        let cases = [
            (Map { batch: 0, height: 4, width: 4, channels: 8 }, halving, 16, 8),
            (Map { batch: 1, height: 1, width: 1, channels: 24 }, halving, 96, 12),
            (Map { batch: 2, height: 7, width: 9, channels: 32 }, halving, 130, 33),
            (Map { batch: 1, height: 14, width: 5, channels: 16 }, same, 64, 16),
            (Map { batch: 1, height: 41, width: 30, channels: 60 }, halving, 240, 120),
            (Map { batch: 3, height: 9, width: 8, channels: 8 }, Window { kernel: 2, stride: 3, padding: 0 }, 20, 8),
        ];
        for (shape, window, hidden, outputs) in cases {
            let x = numbers(1, shape.len());
            let expand =
                PackedMatrix::from_columns(Isa::detect(), &numbers(2, hidden * shape.channels), hidden, shape.channels);
            let project = PackedMatrix::from_columns(Isa::detect(), &numbers(3, outputs * hidden), outputs, hidden);
            let spatial = numbers(4, window.taps() * hidden);
            let [bias_1, bias_2, bias_3] = [(5, hidden), (6, hidden), (7, outputs)].map(|(seed, n)| numbers(seed, n));
            let p = Bottleneck {
                expand: (&expand, Some(&bias_1)),
                window,
                spatial: (&spatial, Some(&bias_2)),
                project: (&project, Some(&bias_3)),
                activation: Activation::Relu,
            };
            let isa = Isa::detect();
            let wide_shape = Map { channels: hidden, ..shape };
            let output = window.map(shape, outputs);
            let (mut first, mut second, mut wanted) =
                (unwritten(wide_shape.len()), unwritten(window.map(shape, hidden).len()), unwritten(output.len()));
            let relu = |bias| Epilogue { bias: Some(bias), activation: Activation::Relu, residual: None };
            linear::forward(isa, &x, &expand, relu(&bias_1), &mut first);
            depthwise::forward(isa, &first, wide_shape, window, &spatial, relu(&bias_2), &mut second);
            let last = Epilogue { bias: Some(&bias_3), ..Epilogue::default() };
            linear::forward(isa, &second, &project, last, &mut wanted);
            everywhere(
                |isa| {
                    let mut y = unwritten(output.len());
                    forward(isa, &x, shape, p, &mut y);
                    vec![y]
                },
                |isa, y| assert_close(format!("{isa} {shape:?} {window:?}"), &y[0], &wide(&wanted), 2e-6),
            );
        }
    }
}
