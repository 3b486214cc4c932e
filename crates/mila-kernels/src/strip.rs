//! Strips: a few rows of a matrix, transposed, for the left-hand side of a layer by AVX-512, and for the queries of linear attention,
//! which are changed in that form.
//!
//! A tile of a product needs, for every step down the depth, one float of each of its rows. In a strip these stand side by
//! side: `[depth]` lanes, each with one float for up to [`STRIP`](Arithmetic::STRIP) rows. So a product reads one stream
//! instead of fourteen, and what happens to the rows first, the gate or the layer norm, happens on the way, sixteen rows or
//! channels at a time.

use crate::{
    arithmetic::{Arithmetic, LANES},
    isa::{Isa, Kernel},
    lane::Lane,
    rows::{Centre, Norm, Rows},
    windows::{Overlap, Position, Windows},
};

/// Fills the strips of `count` rows from `first` on: `[strip, depth]` lanes. Rows that are missing in the last strip are zero.
pub(crate) fn fill(isa: Isa, rows: Rows<'_>, (first, count): (usize, usize), depth: usize, strips: &mut [Lane]) {
    let height = isa.level().strip();
    for (index, strip) in strips.chunks_exact_mut(depth.max(1)).enumerate() {
        let begin = index * height;
        isa.run(Fill { rows, first: first + begin, count: height.min(count - begin), strip });
    }
}

struct Fill<'a> {
    rows: Rows<'a>,
    first: usize,
    count: usize,
    strip: &'a mut [Lane],
}

impl Kernel for Fill<'_> {
    type Output = ();

    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        let Fill { rows, first, count, strip } = self;
        let depth = strip.len();
        let starts = |stride| Starts::new(count, |row| (first + row) * stride);
        match rows {
            Rows::Plain { x, stride } => transpose::<A>(x, starts(stride), strip, |rows, _| rows),
            Rows::Gated { x, gate } => {
                let starts = starts(depth);
                transpose::<A>(x, starts, strip, |rows, d| {
                    let gates = starts.load::<A>(gate, d, depth);
                    multiply_each::<A>(rows, gates)
                });
            }
            Rows::Normed { x, norm } => {
                transpose::<A>(x, starts(depth), strip, |rows, _| rows);
                normalise::<A>(strip, norm);
            }
            Rows::Windows(windows) => {
                let positions = windows.positions(first);
                for (ky, strip) in strip.chunks_exact_mut(windows.line()).enumerate() {
                    fill_windows::<A>(windows, &positions[..count], ky, strip);
                }
            }
        }
    }
}

/// Where the rows of a strip begin; rows that are missing begin where the first does.
#[derive(Clone, Copy)]
struct Starts {
    count: usize,
    at: [usize; LANES],
}

impl Starts {
    #[inline(always)]
    fn new(count: usize, at: impl Fn(usize) -> usize) -> Starts {
        let mut starts = [at(0); LANES];
        starts[..count].iter_mut().enumerate().for_each(|(row, start)| *start = at(row));
        Starts { count, at: starts }
    }

    /// The floats from `d` on of every row of `depth` floats, sixteen at most, followed by zeros.
    #[inline(always)]
    fn load<A: Arithmetic>(&self, x: &[f32], d: usize, depth: usize) -> [A::Register; LANES] {
        if self.count == A::STRIP && d + LANES <= depth {
            return A::load_rows(&x[d..], &self.at);
        }
        let len = LANES.min(depth - d);
        let mut rows = [A::splat(0.0); LANES];
        for (row, &at) in rows.iter_mut().zip(&self.at).take(self.count) {
            *row = A::load_part(&x[at + d..][..len]);
        }
        rows
    }
}

/// Writes the transpose of the rows that begin at `starts`, after `change(rows, d)` at every sixteen floats.
#[inline(always)]
fn transpose<A: Arithmetic>(
    x: &[f32],
    starts: Starts,
    strip: &mut [Lane],
    change: impl Fn([A::Register; LANES], usize) -> [A::Register; LANES],
) {
    let depth = strip.len();
    for (block, lanes) in strip.chunks_mut(LANES).enumerate() {
        let d = block * LANES;
        store::<A>(change(starts.load::<A>(x, d, depth), d), lanes);
    }
}

/// Writes the columns of `rows` to `lanes`, sixteen at most.
#[inline(always)]
fn store<A: Arithmetic>(rows: [A::Register; LANES], lanes: &mut [Lane]) {
    let columns = A::transpose(rows);
    match lanes.first_chunk_mut::<LANES>() {
        Some(lanes) => {
            for (lane, column) in lanes.iter_mut().zip(columns) {
                A::store(column, &mut lane.0);
            }
        }
        None => {
            for (lane, column) in lanes.iter_mut().zip(columns) {
                A::store(column, &mut lane.0);
            }
        }
    }
}

#[inline(always)]
fn multiply_each<A: Arithmetic>(a: [A::Register; LANES], b: [A::Register; LANES]) -> [A::Register; LANES] {
    let mut products = a;
    for (a, b) in products.iter_mut().zip(b) {
        *a = A::mul_add_each(*a, b, A::splat(0.0));
    }
    products
}

/// Row `ky` of the windows at `positions`, between zeros where it leaves the map.
#[inline(always)]
fn fill_windows<A: Arithmetic>(windows: Windows<'_>, positions: &[Position], ky: usize, strip: &mut [Lane]) {
    let (line, count) = (strip.len(), positions.len());
    let mut parts = [Overlap::default(); LANES];
    parts.iter_mut().zip(positions).for_each(|(part, at)| *part = windows.overlap(*at, ky));
    let parts = &parts[..count];
    if parts.iter().all(|part| part.len == 0) {
        return strip.fill(Lane::ZERO);
    }
    // Most windows at a border still lie within the memory of the map: they are read whole, and what is not theirs is
    // replaced by zeros.
    if parts.iter().all(|part| part.len > 0 && part.at >= part.skip && part.at - part.skip + line <= windows.x.len()) {
        transpose::<A>(windows.x, Starts::new(count, |row| parts[row].at - parts[row].skip), strip, |rows, _| rows);
        for (row, part) in parts.iter().enumerate().filter(|(_, part)| part.len < line) {
            let (before, rest) = strip.split_at_mut(part.skip);
            before.iter_mut().chain(&mut rest[part.len..]).for_each(|lane| lane.0[row] = 0.0);
        }
        return;
    }
    for (block, lanes) in strip.chunks_mut(LANES).enumerate() {
        let d = block * LANES;
        let mut rows = [A::splat(0.0); LANES];
        for (row, &Overlap { at, skip, len }) in rows.iter_mut().zip(parts) {
            let part = &windows.x[at..at + len];
            *row = match d.checked_sub(skip) {
                Some(d) => A::load_part(&part[d.min(len)..len.min(d + LANES)]),
                None => {
                    let mut floats = [0.0; LANES];
                    floats[LANES.min(skip - d)..].iter_mut().zip(part).for_each(|(float, x)| *float = *x);
                    A::load(&floats)
                }
            };
        }
        store::<A>(rows, lanes);
    }
}

/// The norm of every row of a strip, all of them at once: a row is a float of each lane.
///
/// Two passes for mean and variance, as in [`layer_norm`](crate::layer_norm), in four chains of sums; one without a mean.
#[inline(always)]
fn normalise<A: Arithmetic>(strip: &mut [Lane], norm: Norm<'_>) {
    let one = A::splat(1.0);
    let share = A::splat(1.0 / strip.len() as f32);
    let zero = A::splat(0.0);
    let minus_mean = match norm.centre {
        Centre::Mean => {
            let mean = A::mul_add_each(total::<A>(strip, |x, sum| A::mul_add_each(x, one, sum)), share, zero);
            A::mul_add_each(mean, A::splat(-1.0), zero)
        }
        Centre::Zero => zero,
    };
    let squares = total::<A>(strip, |x, sum| {
        let d = A::mul_add_each(x, one, minus_mean);
        A::mul_add_each(d, d, sum)
    });
    let mut variance = [0.0; LANES];
    A::store(A::mul_add_each(squares, share, A::splat(norm.eps)), &mut variance);
    let scale = A::load(&variance.map(|variance| 1.0 / variance.sqrt()));
    for ((lane, &weight), &bias) in strip.iter_mut().zip(norm.weight).zip(norm.bias) {
        let x = A::mul_add_each(A::load(&lane.0), one, minus_mean);
        let x = A::mul_add_each(x, scale, zero);
        A::store(A::mul_add_each(x, A::splat(weight), A::splat(bias)), &mut lane.0);
    }
}

/// The sum, over the lanes, of what `add` adds of each.
#[inline(always)]
fn total<A: Arithmetic>(strip: &[Lane], add: impl Fn(A::Register, A::Register) -> A::Register) -> A::Register {
    let mut sums = [A::splat(0.0); 4];
    let (fours, rest) = strip.as_chunks::<4>();
    for four in fours {
        for (sum, lane) in sums.iter_mut().zip(four) {
            *sum = add(A::load(&lane.0), *sum);
        }
    }
    for (sum, lane) in sums.iter_mut().zip(rest) {
        *sum = add(A::load(&lane.0), *sum);
    }
    let one = A::splat(1.0);
    let [a, b, c, d] = sums;
    A::mul_add_each(A::mul_add_each(a, one, b), one, A::mul_add_each(c, one, d))
}
