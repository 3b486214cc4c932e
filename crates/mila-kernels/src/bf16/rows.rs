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
    rows::{Plain, Row, Rows, Sink, lay_out, part},
    scratch,
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
        rows.give::<A>((first, count), depth, &mut Strip { lanes, window, strip: &mut *strip });
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

/// A strip to whose rows floats are narrowed.
struct Strip<'a> {
    /// Rows that it has room for.
    lanes: usize,
    window: &'a mut [f32],
    strip: &'a mut [Lane],
}

impl<A: Arithmetic> Sink<A> for Strip<'_> {
    #[inline(always)]
    fn row(&mut self, index: usize, row: impl Row<A>) {
        narrow::<A>(self.strip, (self.lanes, index), row);
    }

    #[inline(always)]
    fn window(&mut self, index: usize, windows: Windows<'_>, position: Position) {
        if windows.shape.channels.is_multiple_of(BLOCK) {
            return narrow_pixels::<A>(windows, position, self.strip, (self.lanes, index));
        }
        lay_out::<A>(windows, position, self.window);
        narrow::<A>(self.strip, (self.lanes, index), Plain(self.window));
    }
}

/// Writes a row to lane `at` of every `lanes` of the strip.
#[inline(always)]
fn narrow<A: Arithmetic>(strip: &mut [Lane], (lanes, at): (usize, usize), row: impl Row<A>) {
    let mut d = 0;
    for lanes in strip.chunks_exact_mut(lanes) {
        A::store(A::narrow(row.part(d), row.part(d + LANES)), &mut lanes[at].0);
        d += BLOCK;
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
