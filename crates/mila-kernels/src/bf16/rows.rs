//! Rows of floats as strips of bf16 numbers, the left-hand side of a product.
//!
//! A strip is `[⌈depth / 32⌉, rows]` lanes: 32 numbers of every row, then the next 32. AMX takes sixteen such lanes as a tile.
//! AVX-512 wants the numbers of all rows at one depth side by side, as f32 products do; for it each sixteen lanes are
//! transposed, pair by pair.

use super::{BLOCK, Bf16Unit};
use crate::{
    arithmetic::{Arithmetic, LANES},
    isa::Kernel,
    lane::Lane,
    scratch,
    strip::{Norm, Rows},
    windows::{Position, Windows},
};

/// Fills the strips of `count` rows from `first` on. What is missing, rows and depth, is zero.
pub(crate) fn fill(unit: Bf16Unit, rows: Rows<'_>, (first, count): (usize, usize), depth: usize, strips: &mut [Lane]) {
    let (height, lanes) = (unit.strip(), unit.lanes());
    scratch::floats(depth, |window| {
        for (index, strip) in strips.chunks_exact_mut((lanes * depth.div_ceil(BLOCK)).max(1)).enumerate() {
            let begin = index * height;
            let count = height.min(count - begin);
            unit.run(Fill { unit, rows, first: first + begin, count, depth, window, strip });
        }
    });
}

struct Fill<'a> {
    unit: Bf16Unit,
    rows: Rows<'a>,
    first: usize,
    count: usize,
    depth: usize,
    /// Room for a window, `depth` floats.
    window: &'a mut [f32],
    strip: &'a mut [Lane],
}

impl Kernel for Fill<'_> {
    type Output = ();

    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        let Fill { unit, rows, first, count, depth, window, strip } = self;
        let lanes = unit.lanes();
        match rows {
            Rows::Plain { x, stride } => {
                for row in 0..count {
                    let x = &x[(first + row) * stride..][..depth];
                    narrow::<A>(strip, (lanes, row), Plain(x));
                }
            }
            Rows::Gated { x, gate } => {
                for row in 0..count {
                    let at = (first + row) * depth;
                    narrow::<A>(strip, (lanes, row), Gated { x: &x[at..][..depth], gate: &gate[at..][..depth] });
                }
            }
            Rows::Normed { x, norm } => {
                let x = &x[first * depth..][..count * depth];
                for (index, x) in x.chunks(LANES * depth).enumerate() {
                    normalise::<A>(x, norm, strip, (lanes, index * LANES));
                }
            }
            Rows::Windows(windows) => {
                for begin in (0..count).step_by(LANES) {
                    let positions = windows.positions(first + begin);
                    for (row, position) in positions.iter().enumerate().take(count - begin) {
                        if windows.shape.channels.is_multiple_of(BLOCK) {
                            narrow_pixels::<A>(windows, *position, strip, (lanes, begin + row));
                        } else {
                            lay_out::<A>(windows, *position, window);
                            narrow::<A>(strip, (lanes, begin + row), Plain(window));
                        }
                    }
                }
            }
        }
        if count < unit.strip() {
            for lanes in strip.chunks_exact_mut(lanes) {
                lanes[count..].fill(Lane::ZERO);
            }
        }
        if unit.transposed() {
            for lanes in strip.as_chunks_mut::<LANES>().0 {
                transpose::<A>(lanes);
            }
        }
    }
}

/// A row on its way into a strip.
///
/// A trait, not a closure: one that the compiler did not inline would be compiled without the instruction set.
trait Row<A: Arithmetic> {
    /// Sixteen floats from `d` on, followed by zeros.
    fn part(&self, d: usize) -> A::Register;
}

struct Plain<'a>(&'a [f32]);

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
        A::mul_add_each(part::<A>(self.x, d), part::<A>(self.gate, d), A::splat(0.0))
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
        let x = A::add(part::<A>(self.x, d), A::splat(self.minus_mean));
        let x = A::mul_add_each(x, A::splat(self.scale), A::splat(0.0));
        A::mul_add_each(x, part::<A>(self.norm.weight, d), part::<A>(self.norm.bias, d))
    }
}

/// Writes a row to lane `row` of every `lanes` of the strip.
#[inline(always)]
fn narrow<A: Arithmetic>(strip: &mut [Lane], (lanes, at): (usize, usize), row: impl Row<A>) {
    let mut d = 0;
    for lanes in strip.chunks_exact_mut(lanes) {
        A::store(A::narrow(row.part(d), row.part(d + LANES)), &mut lanes[at].0);
        d += BLOCK;
    }
}

/// Sixteen floats of `x` from `d` on, followed by zeros.
#[inline(always)]
fn part<A: Arithmetic>(x: &[f32], d: usize) -> A::Register {
    let x = &x[d.min(x.len())..];
    match x.first_chunk() {
        Some(floats) => A::load(floats),
        None => A::load_part(x),
    }
}

/// Transposes sixteen lanes of sixteen cells.
#[inline(always)]
pub(crate) fn transpose<A: Arithmetic>(lanes: &mut [Lane; LANES]) {
    let rows = std::array::from_fn(|row| A::load(&lanes[row].0));
    for (lane, column) in lanes.iter_mut().zip(A::transpose(rows)) {
        A::store(column, &mut lane.0);
    }
}

/// [`narrow`] for the window at `position`, straight from the map, of which a pixel is whole blocks.
#[inline(always)]
fn narrow_pixels<A: Arithmetic>(
    windows: Windows<'_>,
    position: Position,
    strip: &mut [Lane],
    (lanes, at): (usize, usize),
) {
    for (ky, strip) in strip.chunks_exact_mut(windows.line() / BLOCK * lanes).enumerate() {
        let overlap = windows.overlap(position, ky);
        let x = &windows.x[overlap.at..][..overlap.len];
        let (blocks, _) = x.as_chunks::<BLOCK>();
        let skip = overlap.skip / BLOCK;
        for (block, lanes) in strip.chunks_exact_mut(lanes).enumerate() {
            match blocks.get(block.wrapping_sub(skip)) {
                Some(x) => A::store(A::narrow(part::<A>(x, 0), part::<A>(x, LANES)), &mut lanes[at].0),
                None => lanes[at] = Lane::ZERO,
            }
        }
    }
}

/// The window at `position`, between zeros where it leaves the map.
#[inline(always)]
fn lay_out<A: Arithmetic>(windows: Windows<'_>, position: Position, window: &mut [f32]) {
    for (ky, row) in window.chunks_exact_mut(windows.line()).enumerate() {
        let overlap = windows.overlap(position, ky);
        let x = &windows.x[overlap.at..][..overlap.len];
        let (before, rest) = row.split_at_mut(overlap.skip);
        let (inside, after) = rest.split_at_mut(overlap.len);
        before.fill(0.0);
        after.fill(0.0);
        for (inside, x) in inside.chunks_mut(LANES).zip(x.chunks(LANES)) {
            A::store_part(A::load_part(x), inside);
        }
    }
}

/// The layer norm of sixteen rows at most, written to the lanes from `first` on.
///
/// Two passes for mean and variance, as in [`layer_norm`](crate::layer_norm).
#[inline(always)]
fn normalise<A: Arithmetic>(x: &[f32], norm: Norm<'_>, strip: &mut [Lane], (lanes, first): (usize, usize)) {
    let depth = norm.weight.len();
    let share = A::splat(1.0 / depth as f32);
    let mut sums = [Lane::ZERO; LANES];
    for (sum, x) in sums.iter_mut().zip(x.chunks_exact(depth)) {
        A::store(total::<A, false>(x, 0.0), &mut sum.0);
    }
    let mut mean = Lane::ZERO;
    A::store(A::mul_add_each(each_total::<A>(&sums), share, A::splat(0.0)), &mut mean.0);
    for ((sum, x), mean) in sums.iter_mut().zip(x.chunks_exact(depth)).zip(mean.0) {
        // What fills up the last register is not zero once the mean is taken away.
        let (whole, rest) = x.split_at(depth - depth % LANES);
        A::store(total::<A, true>(whole, -mean), &mut sum.0);
        for x in rest {
            sum.0[0] += (x - mean) * (x - mean);
        }
    }
    let mut variance = Lane::ZERO;
    A::store(A::mul_add_each(each_total::<A>(&sums), share, A::splat(norm.eps)), &mut variance.0);
    for (row, x) in x.chunks_exact(depth).enumerate() {
        let normed = Normed { x, norm, minus_mean: -mean.0[row], scale: 1.0 / variance.0[row].sqrt() };
        narrow::<A>(strip, (lanes, first + row), normed);
    }
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
    let columns = A::transpose(std::array::from_fn(|row| A::load(&lanes[row].0)));
    let (mut sums, (fours, _)) = ([A::splat(0.0); 4], columns.as_chunks::<4>());
    for four in fours {
        for (sum, column) in sums.iter_mut().zip(four) {
            *sum = A::add(*column, *sum);
        }
    }
    let [a, b, c, d] = sums;
    A::add(A::add(a, b), A::add(c, d))
}
