//! The gradients of the weight and of the bias.

use super::ring::{Ring, Source, groups};
use crate::{
    arithmetic::{Arithmetic, LANES},
    isa::Kernel,
    lane::Lane,
    shape::Window,
};

/// The weight's and the bias's gradient from a band of dy.
pub(super) struct WeightBand<'a> {
    pub(super) source: Source<'a>,
    pub(super) window: Window,
    pub(super) image: usize,
    pub(super) first: usize,
    /// Pixels in a row of dy.
    pub(super) width: usize,
    pub(super) dy: &'a [f32],
    /// `[taps + 1, channels]`, the bias last.
    pub(super) sums: &'a mut [f32],
}

impl Kernel for WeightBand<'_> {
    type Output = ();

    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        let Window { kernel, stride, .. } = self.window;
        let (taps, channels) = (self.window.taps(), self.source.shape.channels);
        let mut line = vec![Lane::ZERO; self.width];
        for lanes in groups(channels, kernel, stride, self.width) {
            let mut ring = Ring::new(self.source, self.image, (kernel, stride), self.width, lanes.clone());
            let mut totals = vec![Lane::ZERO; lanes.len() * (taps + 1)];
            let mut entered = self.first * stride;
            for (index, dy) in self.dy.chunks_exact(self.width * channels).enumerate() {
                let top = (self.first + index) * stride;
                (entered.max(top)..top + kernel).for_each(|row| ring.enter(row));
                entered = top + kernel;
                for (lane, totals) in totals.chunks_exact_mut(taps + 1).enumerate() {
                    let first = (lanes.start + lane) * LANES;
                    let part = first..channels.min(first + LANES);
                    for (line, dy) in line.iter_mut().zip(dy.chunks_exact(channels)) {
                        line.set(&dy[part.clone()]);
                    }
                    for (row, totals) in totals[..taps].chunks_exact_mut(kernel).enumerate() {
                        let x = ring.pixels((top + row) % kernel, lane);
                        for (tap, total) in totals.iter_mut().enumerate() {
                            add_products::<A>(&line, &x[tap..], stride, total);
                        }
                    }
                    add_all::<A>(&line, &mut totals[taps]);
                }
            }
            for (lane, totals) in lanes.zip(totals.chunks_exact(taps + 1)) {
                for (sums, total) in self.sums.chunks_exact_mut(channels).zip(totals) {
                    sums[lane * LANES..].iter_mut().zip(total.0).for_each(|(sum, total)| *sum += total);
                }
            }
        }
    }
}

/// `total += Σᵢ dy[i]`.
#[inline(always)]
fn add_all<A: Arithmetic>(dy: &[Lane], total: &mut Lane) {
    let one = A::splat(1.0);
    let sum = dy.iter().fold(A::load(&total.0), |sum, dy| A::mul_add_each(A::load(&dy.0), one, sum));
    A::store(sum, &mut total.0);
}

/// `total += Σᵢ dy[i] x[i · stride]`, in four chains.
#[inline(always)]
fn add_products<A: Arithmetic>(dy: &[Lane], x: &[Lane], stride: usize, total: &mut Lane) {
    let zero = A::splat(0.0);
    let mut sums = [A::load(&total.0), zero, zero, zero];
    let (fours, rest) = dy.as_chunks::<4>();
    for (i, dy) in fours.iter().enumerate() {
        for (c, (dy, sum)) in dy.iter().zip(&mut sums).enumerate() {
            *sum = A::mul_add_each(A::load(&dy.0), A::load(&x[(4 * i + c) * stride].0), *sum);
        }
    }
    for (c, (dy, sum)) in rest.iter().zip(&mut sums).enumerate() {
        *sum = A::mul_add_each(A::load(&dy.0), A::load(&x[(4 * fours.len() + c) * stride].0), *sum);
    }
    let one = A::splat(1.0);
    let sum = A::mul_add_each(sums[1], one, sums[0]);
    let sum = A::mul_add_each(A::mul_add_each(sums[3], one, sums[2]), one, sum);
    A::store(sum, &mut total.0);
}
