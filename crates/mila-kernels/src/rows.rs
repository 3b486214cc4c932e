//! The rows of a left-hand matrix, and what happens to them on the way into a product.
//!
//! A layer's product of floats by AVX2 or plain instructions reads rows: where they lie if nothing happens to them first, else from
//! memory that [`fill`] has written. Other layers read [strips](crate::strip), or [bf16 strips](crate::bf16::rows).

use crate::{
    arithmetic::{Arithmetic, LANES},
    isa::{Isa, Kernel},
    lane::{self, Lane},
    windows::{Position, Windows},
};

/// What a norm takes deviations from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Centre {
    /// The mean of the row: layer norm.
    #[default]
    Mean,
    /// Zero: RMSNorm.
    Zero,
}

/// The scale and the shift of a norm over channels.
#[derive(Clone, Copy, Debug)]
pub struct Norm<'a> {
    /// `[channels]`
    pub weight: &'a [f32],
    /// `[channels]`
    pub bias: &'a [f32],
    /// Added to the variance.
    pub eps: f32,
    /// What the variance is about.
    pub centre: Centre,
}

impl Norm<'_> {
    /// Panics unless the norm is one of `channels` channels.
    pub(crate) fn check(&self, channels: usize) {
        assert_eq!(
            (self.weight.len(), self.bias.len()),
            (channels, channels),
            "layer norm: lengths of weight and bias"
        );
    }
}

/// The rows of a left-hand matrix, `[rows, depth]`, and what happens to them on the way into the product.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Rows<'a> {
    /// Rows that begin `stride` floats apart.
    Plain { x: &'a [f32], stride: usize },
    /// x ⊙ gate, both contiguous.
    Gated { x: &'a [f32], gate: &'a [f32] },
    /// The norm of contiguous rows.
    Normed { x: &'a [f32], norm: Norm<'a> },
    /// The windows of a convolution, one a row.
    Windows(Windows<'a>),
}

/// A row on its way.
///
/// A trait, not a closure: one that the compiler did not inline would be compiled without the instruction set.
pub(crate) trait Row<A: Arithmetic> {
    /// Sixteen floats from `d` on, followed by zeros.
    fn part(&self, d: usize) -> A::Register;
}

/// Where rows go.
pub(crate) trait Sink<A: Arithmetic> {
    /// Takes row `index` of those that come.
    fn row(&mut self, index: usize, row: impl Row<A>);

    /// Takes row `index`, which is the window at `position`.
    fn window(&mut self, index: usize, windows: Windows<'_>, position: Position);
}

impl Rows<'_> {
    /// Gives `count` rows of `depth` floats, from `first` on, to `sink`.
    #[inline(always)]
    pub(crate) fn give<A: Arithmetic>(self, (first, count): (usize, usize), depth: usize, sink: &mut impl Sink<A>) {
        // Rows of nothing are the same whatever happens to them.
        if depth == 0 {
            return;
        }
        match self {
            Rows::Plain { x, stride } => {
                for row in 0..count {
                    sink.row(row, Plain(&x[(first + row) * stride..][..depth]));
                }
            }
            Rows::Gated { x, gate } => {
                for row in 0..count {
                    let at = (first + row) * depth;
                    sink.row(row, Gated { x: &x[at..][..depth], gate: &gate[at..][..depth] });
                }
            }
            Rows::Normed { x, norm } => {
                let x = &x[first * depth..][..count * depth];
                for (index, x) in x.chunks(LANES * depth).enumerate() {
                    let (minus_mean, scale) = moments::<A>(x, norm);
                    for (row, x) in x.chunks_exact(depth).enumerate() {
                        let row_of_norm = Normed { x, norm, minus_mean: minus_mean.0[row], scale: scale.0[row] };
                        sink.row(index * LANES + row, row_of_norm);
                    }
                }
            }
            Rows::Windows(windows) => {
                for begin in (0..count).step_by(LANES) {
                    let positions = windows.positions(first + begin);
                    for (row, position) in positions.iter().enumerate().take(count - begin) {
                        sink.window(begin + row, windows, *position);
                    }
                }
            }
        }
    }
}

/// A row as it is.
pub(crate) struct Plain<'a>(pub(crate) &'a [f32]);

impl<A: Arithmetic> Row<A> for Plain<'_> {
    #[inline(always)]
    fn part(&self, d: usize) -> A::Register {
        part::<A>(self.0, d)
    }
}

struct Gated<'a> {
    x: &'a [f32],
    gate: &'a [f32],
}

impl<A: Arithmetic> Row<A> for Gated<'_> {
    #[inline(always)]
    fn part(&self, d: usize) -> A::Register {
        A::mul(part::<A>(self.x, d), part::<A>(self.gate, d))
    }
}

struct Normed<'a> {
    x: &'a [f32],
    norm: Norm<'a>,
    minus_mean: f32,
    scale: f32,
}

impl<A: Arithmetic> Row<A> for Normed<'_> {
    #[inline(always)]
    fn part(&self, d: usize) -> A::Register {
        let x = A::mul(A::add(part::<A>(self.x, d), A::splat(self.minus_mean)), A::splat(self.scale));
        A::mul_add_each(x, part::<A>(self.norm.weight, d), part::<A>(self.norm.bias, d))
    }
}

/// Sixteen floats of `x` from `d` on, followed by zeros.
#[inline(always)]
pub(crate) fn part<A: Arithmetic>(x: &[f32], d: usize) -> A::Register {
    let x = &x[d.min(x.len())..];
    match x.first_chunk() {
        Some(floats) => A::load(floats),
        None => A::load_part(x),
    }
}

/// What sixteen rows at most are shifted and then scaled by in a norm.
///
/// Two passes for mean and variance, as in [`layer_norm`](crate::layer_norm); one without a mean.
#[inline(always)]
fn moments<A: Arithmetic>(x: &[f32], norm: Norm<'_>) -> (Lane, Lane) {
    let depth = norm.weight.len();
    let share = A::splat(1.0 / depth as f32);
    let mut sums = [Lane::ZERO; LANES];
    let mut minus_mean = Lane::ZERO;
    if norm.centre == Centre::Mean {
        for (sum, x) in sums.iter_mut().zip(x.chunks_exact(depth)) {
            A::store(total::<A, false>(x, 0.0), &mut sum.0);
        }
        A::store(A::sub(A::splat(0.0), A::mul(each_total::<A>(&sums), share)), &mut minus_mean.0);
    }
    for ((sum, x), &shift) in sums.iter_mut().zip(x.chunks_exact(depth)).zip(&minus_mean.0) {
        // What fills up the last register is not zero once the mean is taken away.
        let (whole, rest) = x.split_at(depth - depth % LANES);
        A::store(total::<A, true>(whole, shift), &mut sum.0);
        for x in rest {
            sum.0[0] += (x + shift) * (x + shift);
        }
    }
    let mut variance = Lane::ZERO;
    A::store(A::mul_add_each(each_total::<A>(&sums), share, A::splat(norm.eps)), &mut variance.0);
    (minus_mean, Lane(variance.0.map(|variance| 1.0 / variance.sqrt())))
}

/// Sixteen partial sums of x + shift, or of its squares, over all floats of `x`, in four chains; the last floats are filled up
/// with zeros.
#[inline(always)]
fn total<A: Arithmetic, const SQUARED: bool>(x: &[f32], shift: f32) -> A::Register {
    let shift = A::splat(shift);
    let mut chains = [A::splat(0.0); 4];
    let (fours, rest) = x.as_chunks::<{ 4 * LANES }>();
    for four in fours {
        for (chain, x) in chains.iter_mut().zip(four.as_chunks().0) {
            let x = A::add(A::load(x), shift);
            *chain = if SQUARED { A::mul_add_each(x, x, *chain) } else { A::add(x, *chain) };
        }
    }
    let [mut a, b, c, d] = chains;
    for x in rest.chunks(LANES) {
        let x = A::add(A::load_part(x), shift);
        a = if SQUARED { A::mul_add_each(x, x, a) } else { A::add(x, a) };
    }
    A::add(A::add(a, b), A::add(c, d))
}

/// The sums of sixteen lanes, one float each.
#[inline(always)]
fn each_total<A: Arithmetic>(lanes: &[Lane; LANES]) -> A::Register {
    let mut rows = [A::splat(0.0); LANES];
    for (row, lane) in rows.iter_mut().zip(lanes) {
        *row = A::load(&lane.0);
    }
    A::sums(rows)
}

/// The window at `position`, between zeros where it leaves the map, at the beginning of `room`, whose rest may be overwritten.
///
/// Panics if `room` is shorter than a window.
#[inline(always)]
pub(crate) fn lay_out<A: Arithmetic>(windows: Windows<'_>, position: Position, room: &mut [f32]) {
    let line = windows.line();
    if let Some(first) = windows.inside(position) {
        let whole = line.next_multiple_of(LANES);
        for ky in 0..windows.window.kernel {
            let (from, to) = (&windows.x[first + ky * windows.pitch()..], &mut room[ky * line..]);
            // Whole registers: the next row overwrites what is too much of this one.
            match (from.get(..whole), to.get_mut(..whole)) {
                (Some(from), Some(to)) => copy::<A>(from, to),
                _ => copy::<A>(&from[..line], &mut to[..line]),
            }
        }
        return;
    }
    for (ky, row) in room.chunks_exact_mut(line).take(windows.window.kernel).enumerate() {
        let overlap = windows.overlap(position, ky);
        if overlap.len < row.len() {
            row.fill(0.0);
        }
        copy::<A>(&windows.x[overlap.at..][..overlap.len], &mut row[overlap.skip..][..overlap.len]);
    }
}

#[inline(always)]
fn copy<A: Arithmetic>(from: &[f32], to: &mut [f32]) {
    let (to, to_rest) = to.as_chunks_mut();
    let (from, from_rest) = from.as_chunks();
    for (to, from) in to.iter_mut().zip(from) {
        A::store(A::load(from), to);
    }
    if !to_rest.is_empty() {
        A::store_part(A::load_part(from_rest), to_rest);
    }
}

/// Lanes from one row of `depth` floats to the next in memory that [`fill`] writes: an odd number, so that the rows of a tile,
/// which are read side by side, do not all fall on one set of a cache.
pub(crate) fn lanes(depth: usize) -> usize {
    depth.div_ceil(LANES) | 1
}

/// Writes `count` rows from `first` on, [`lanes`] apart.
pub(crate) fn fill(isa: Isa, rows: Rows<'_>, some: (usize, usize), depth: usize, memory: &mut [Lane]) {
    isa.run(Fill { rows, some, memory: Memory { depth, lanes: memory } });
}

struct Fill<'a> {
    rows: Rows<'a>,
    /// The first row, and how many.
    some: (usize, usize),
    memory: Memory<'a>,
}

impl Kernel for Fill<'_> {
    type Output = ();

    #[inline(always)]
    fn run<A: Arithmetic>(mut self) {
        self.rows.give::<A>(self.some, self.memory.depth, &mut self.memory);
    }
}

/// Rows in memory, one after another.
struct Memory<'a> {
    depth: usize,
    lanes: &'a mut [Lane],
}

impl<A: Arithmetic> Sink<A> for Memory<'_> {
    #[inline(always)]
    fn row(&mut self, index: usize, row: impl Row<A>) {
        let lanes = &mut self.lanes[index * lanes(self.depth)..][..self.depth.div_ceil(LANES)];
        for (index, lane) in lanes.iter_mut().enumerate() {
            A::store(row.part(index * LANES), &mut lane.0);
        }
    }

    #[inline(always)]
    fn window(&mut self, index: usize, windows: Windows<'_>, position: Position) {
        let room = &mut self.lanes[index * lanes(self.depth)..][..lanes(self.depth)];
        lay_out::<A>(windows, position, lane::floats_mut(room));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        layer_norm, rms_norm,
        shape::{Map, Window},
        strip,
        testing::{assert_close, numbers, wide},
    };

    /// All rows of `fill`, side by side.
    fn filled(isa: Isa, rows: Rows<'_>, some: (usize, usize), depth: usize) -> Vec<f32> {
        let mut memory = vec![Lane([f32::NAN; LANES]); some.1 * lanes(depth)];
        fill(isa, rows, some, depth, &mut memory);
        memory.chunks_exact(lanes(depth)).flat_map(|row| lane::floats(row)[..depth].to_vec()).collect()
    }

    /// The same rows from strips.
    fn from_strips(isa: Isa, rows: Rows<'_>, some: (usize, usize), depth: usize) -> Vec<f32> {
        let height = isa.level().strip();
        let mut strips = vec![Lane([f32::NAN; LANES]); some.1.div_ceil(height) * depth];
        strip::fill(isa, rows, some, depth, &mut strips);
        let row = |row: usize| -> Vec<f32> {
            strips[row / height * depth..][..depth].iter().map(|lane| lane.0[row % height]).collect()
        };
        (0..some.1).flat_map(row).collect()
    }

    fn check(rows: Rows<'_>, some: (usize, usize), depth: usize, wanted: &[f32], tolerance: f64) {
        for isa in Isa::available() {
            for (form, got) in
                [("rows", filled(isa, rows, some, depth)), ("strips", from_strips(isa, rows, some, depth))]
            {
                assert_close(format!("{isa} {form} {some:?} x {depth}"), &got, &wide(wanted), tolerance);
            }
        }
    }

    #[test]
    fn rows_and_strips_hold_what_the_kernels_compute() {
        let isa = Isa::detect();
        for (first, count, depth) in [(0, 1, 1), (2, 13, 24), (0, 40, 33), (5, 16, 64), (1, 50, 100)] {
            let len = (first + count) * depth;
            let x: Vec<f32> = numbers(1, len).iter().map(|x| 3.0 * x + 5.0).collect();
            let (gate, weight, bias) = (numbers(2, len), numbers(3, depth), numbers(4, depth));
            let (some, skipped) = ((first, count), first * depth);
            check(Rows::Plain { x: &x, stride: depth }, some, depth, &x[skipped..], 0.0);
            let gated: Vec<f32> = x.iter().zip(&gate).map(|(x, gate)| x * gate).collect();
            check(Rows::Gated { x: &x, gate: &gate }, some, depth, &gated[skipped..], 0.0);
            let mut normed = vec![0.0; len];
            layer_norm::forward(isa, &x, &weight, Some(&bias), 1e-5, &mut normed);
            let norm = Norm { weight: &weight, bias: &bias, eps: 1e-5, centre: Centre::Mean };
            check(Rows::Normed { x: &x, norm }, some, depth, &normed[skipped..], 2e-6);
            rms_norm::forward(isa, &x, &weight, 1e-5, &mut normed);
            let norm = Norm { bias: &vec![0.0; depth], centre: Centre::Zero, ..norm };
            check(Rows::Normed { x: &x, norm }, some, depth, &normed[skipped..], 2e-6);
        }
    }

    #[test]
    fn windows_are_patches_between_zeros() {
        let shape = Map { batch: 2, height: 8, width: 5, channels: 5 };
        let window = Window { kernel: 3, stride: 2, padding: 1 };
        let x = numbers(1, shape.len());
        let output = window.map(shape, 1);
        let mut wanted = Vec::new();
        for (image, row, column) in (0..output.len())
            .map(|i| (i / (output.height * output.width), i / output.width % output.height, i % output.width))
        {
            for (ky, kx) in (0..9).map(|tap| (tap / 3, tap % 3)) {
                let (y, at) = ((row * 2 + ky).wrapping_sub(1), (column * 2 + kx).wrapping_sub(1));
                match y < shape.height && at < shape.width {
                    true => wanted.extend(&x[((image * shape.height + y) * shape.width + at) * 5..][..5]),
                    false => wanted.extend([0.0; 5]),
                }
            }
        }
        let windows = Rows::Windows(Windows { x: &x, shape, window });
        check(windows, (0, output.len()), 45, &wanted, 0.0);
        check(windows, (3, 4), 45, &wanted[3 * 45..7 * 45], 0.0);
    }
}
