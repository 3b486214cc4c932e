//! The gradient with respect to the input: a convolution with the kernel turned round and stride one.

use std::ops::Range;

use super::{
    bands,
    ring::{Ring, Source, groups},
};
use crate::{
    arithmetic::{Arithmetic, LANES},
    isa::{Isa, Kernel},
    lane::Lane,
    shape::Map,
    threads,
};

/// Writes the convolution of `source` with the kernel of `weight`, `[kernel², channels]`, turned round, to `dx`, `map`.
pub(super) fn input_gradient(
    isa: Isa,
    source: Source<'_>,
    weight: &[f32],
    (map, kernel): (Map, usize),
    dx: &mut [f32],
) {
    let weight = turned_round(weight, map.channels, kernel * kernel);
    let row = map.width * map.channels;
    let mut rest = dx;
    let pieces = bands(map, kernel).map(|(image, rows)| {
        let (band, tail) = std::mem::take(&mut rest).split_at_mut(rows.len() * row);
        rest = tail;
        Band { source, weight: &weight, kernel, image, first: rows.start, row, dx: band }
    });
    threads::each(pieces, |_, band| isa.run(band));
}

/// The last tap first, in lanes: `[lane, tap]`.
fn turned_round(weight: &[f32], channels: usize, taps: usize) -> Vec<Lane> {
    let mut lanes = vec![Lane::ZERO; channels.div_ceil(LANES) * taps];
    for (tap, values) in weight.chunks_exact(channels.max(1)).rev().enumerate() {
        let of_tap = lanes[tap..].iter_mut().step_by(taps);
        values.chunks(LANES).zip(of_tap).for_each(|(part, lane)| lane.set(part));
    }
    lanes
}

/// Some rows of an image's gradient.
struct Band<'a> {
    source: Source<'a>,
    /// `[lane, tap]`
    weight: &'a [Lane],
    kernel: usize,
    image: usize,
    /// The first row.
    first: usize,
    /// Floats in a row.
    row: usize,
    dx: &'a mut [f32],
}

impl Kernel for Band<'_> {
    type Output = ();

    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        match self.kernel {
            3 => self.slide::<A, 3>(),
            7 => self.slide::<A, 7>(),
            _ => self.slide::<A, 0>(),
        }
    }
}

impl Band<'_> {
    /// The band with a kernel that the compiler knows, or any if it is 0.
    #[inline(always)]
    fn slide<A: Arithmetic, const KERNEL: usize>(self) {
        let kernel = if KERNEL == 0 { self.kernel } else { KERNEL };
        let channels = self.source.shape.channels;
        let width = self.row / channels;
        for lanes in groups(channels, kernel, 1, width) {
            let mut ring = Ring::new(self.source, self.image, (kernel, 1), width, lanes.clone());
            let mut entered = self.first;
            for (top, dx) in (self.first..).zip(self.dx.chunks_exact_mut(self.row)) {
                (entered..top + kernel).for_each(|row| ring.enter(row));
                entered = top + kernel;
                for lane in lanes.clone() {
                    let line = Line {
                        ring: &ring,
                        lane: lane - lanes.start,
                        slot: top % kernel,
                        weight: &self.weight[lane * kernel * kernel..][..kernel * kernel],
                        kernel,
                        channels,
                        part: lane * LANES..channels.min((lane + 1) * LANES),
                    };
                    let mut pixel = 0;
                    pixel = line.pixels::<A, 7>(pixel, width, dx);
                    pixel = line.pixels::<A, 3>(pixel, width, dx);
                    line.pixels::<A, 1>(pixel, width, dx);
                }
            }
        }
    }
}

/// One lane of a row.
struct Line<'a> {
    ring: &'a Ring<'a>,
    /// The lane within the ring.
    lane: usize,
    /// Where the ring holds the first row of the source.
    slot: usize,
    /// `[kernel²]`
    weight: &'a [Lane],
    kernel: usize,
    channels: usize,
    /// The lane's channels within a pixel.
    part: Range<usize>,
}

impl Line<'_> {
    /// Computes `T` pixels at a time from `pixel` on while they fit in `width`; returns the first that is left.
    ///
    /// There is no iterator over chunks here: each would cost a division, as long as the sums of a small kernel.
    #[inline(always)]
    fn pixels<A: Arithmetic, const T: usize>(&self, mut pixel: usize, width: usize, dx: &mut [f32]) -> usize {
        let kernel = self.kernel;
        while pixel + T <= width {
            let mut sums = [A::splat(0.0); T];
            let mut slot = self.slot;
            for row in 0..kernel {
                let x = self.ring.pixels(slot, self.lane);
                slot = if slot + 1 == kernel { 0 } else { slot + 1 };
                let x = &x[pixel..][..T - 1 + kernel];
                let weight = &self.weight[row * kernel..][..kernel];
                for tap in 0..kernel {
                    let weight = A::load(&weight[tap].0);
                    for (t, sum) in sums.iter_mut().enumerate() {
                        *sum = A::mul_add_each(A::load(&x[t + tap].0), weight, *sum);
                    }
                }
            }
            for (t, sum) in sums.into_iter().enumerate() {
                A::store_part(sum, &mut dx[(pixel + t) * self.channels..][self.part.clone()]);
            }
            pixel += T;
        }
        pixel
    }
}
