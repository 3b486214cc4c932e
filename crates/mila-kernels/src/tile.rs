//! The innermost loop: a tile of a matrix product.
//!
//! Written in assembly where it matters. A compiler that must keep 28 accumulators in 32 registers over a loop inside large
//! functions spills some of them, or copies all, at its whim: the same source ran at 30 to 75 % of the processor's peak.

use crate::{
    arithmetic::{Arithmetic, LANES},
    lane::Lane,
};

/// The left-hand side of a tile: the float of row `r` in step `i` is `floats[i * step + r * row]`.
#[derive(Clone, Copy)]
pub struct Factors<'a> {
    pub(crate) floats: &'a [f32],
    pub(crate) step: usize,
    pub(crate) row: usize,
}

impl Factors<'_> {
    /// Panics unless there are the floats of `rows` rows for each of `depth` steps.
    #[cfg(any(target_arch = "x86_64", test))]
    #[inline(always)]
    pub(crate) fn check(&self, rows: usize, depth: usize) {
        let (Some(last_row), Some(last)) = (rows.checked_sub(1), depth.checked_sub(1)) else { return };
        let last = last.checked_mul(self.step).zip(last_row.checked_mul(self.row)).and_then(|(a, b)| a.checked_add(b));
        assert!(last.is_some_and(|last| last < self.floats.len()), "a tile reads beyond its left-hand side");
    }
}

/// The right-hand side of a tile: the columns of step `i` begin at `floats[i * stride]`.
#[derive(Clone, Copy)]
pub struct Steps<'a> {
    pub(crate) floats: &'a [f32],
    pub(crate) stride: usize,
}

impl Steps<'_> {
    /// Panics unless there are `count` floats for each of `depth` steps.
    #[cfg(any(target_arch = "x86_64", test))]
    #[inline(always)]
    pub(crate) fn check(&self, count: usize, depth: usize) {
        let Some(last) = depth.checked_sub(1) else { return };
        let end = last.checked_mul(self.stride).and_then(|last| last.checked_add(count));
        assert!(end.is_some_and(|end| end <= self.floats.len()), "a tile reads beyond its right-hand side");
    }
}

/// `tile[r] = start + Σᵢ left[i][r] · right[i]` over `depth` steps, written plainly; `right[i]` is `L` lanes.
#[inline(always)]
pub(crate) fn multiply<A: Arithmetic, const R: usize, const L: usize>(
    left: Factors<'_>,
    right: Steps<'_>,
    depth: usize,
    start: &[Lane; L],
    tile: &mut [[Lane; L]; R],
) {
    let mut first = [A::splat(0.0); L];
    for (sum, start) in first.iter_mut().zip(start) {
        *sum = A::load(&start.0);
    }
    let mut sums = [first; R];
    for i in 0..depth {
        let left = Factors { floats: &left.floats[i * left.step..], ..left };
        let (lanes, _) = right.floats[i * right.stride..].as_chunks();
        let mut right = [A::splat(0.0); L];
        for (register, lane) in right.iter_mut().zip(lanes) {
            *register = A::load(lane);
        }
        for (r, sums) in sums.iter_mut().enumerate() {
            let factor = A::splat(left.floats[r * left.row]);
            for (sum, right) in sums.iter_mut().zip(right) {
                *sum = A::mul_add_each(factor, right, *sum);
            }
        }
    }
    for r in 0..R {
        for l in 0..L {
            A::store(sums[r][l], &mut tile[r][l].0);
        }
    }
}

/// A tile of some rows and two registers in assembly: `tile!(zmm 14, "vfmadd231ps", (left, right, depth, start, tile))` for the
/// instruction that multiplies and adds. Its last rule has, for each row, the address of its factor, its offset in the tile in bytes, and the
/// two accumulators. `row`, `row_3` and `row_5` are once, three and five times the bytes between rows: an address takes a register
/// twice, four or eight times only.
#[cfg(target_arch = "x86_64")]
macro_rules! tile {
    (zmm 14, $multiply:literal, $operands:tt) => {
        tile!(zmm $multiply, $operands, [
                ("[{left}]", "0", "zmm0", "zmm1"),
                ("[{left} + 4]", "128", "zmm2", "zmm3"),
                ("[{left} + 8]", "256", "zmm4", "zmm5"),
                ("[{left} + 12]", "384", "zmm6", "zmm7"),
                ("[{left} + 16]", "512", "zmm8", "zmm9"),
                ("[{left} + 20]", "640", "zmm10", "zmm11"),
                ("[{left} + 24]", "768", "zmm12", "zmm13"),
                ("[{left} + 28]", "896", "zmm14", "zmm15"),
                ("[{left} + 32]", "1024", "zmm16", "zmm17"),
                ("[{left} + 36]", "1152", "zmm18", "zmm19"),
                ("[{left} + 40]", "1280", "zmm20", "zmm21"),
                ("[{left} + 44]", "1408", "zmm22", "zmm23"),
                ("[{left} + 48]", "1536", "zmm24", "zmm25"),
                ("[{left} + 52]", "1664", "zmm26", "zmm27"),
        ])
    };
    (zmm 8, $multiply:literal, $operands:tt) => {
        tile!(zmm $multiply, $operands, [
                ("[{left}]", "0", "zmm0", "zmm1"),
                ("[{left} + 4]", "128", "zmm2", "zmm3"),
                ("[{left} + 8]", "256", "zmm4", "zmm5"),
                ("[{left} + 12]", "384", "zmm6", "zmm7"),
                ("[{left} + 16]", "512", "zmm8", "zmm9"),
                ("[{left} + 20]", "640", "zmm10", "zmm11"),
                ("[{left} + 24]", "768", "zmm12", "zmm13"),
                ("[{left} + 28]", "896", "zmm14", "zmm15"),
        ])
    };
    (zmm 7, $multiply:literal, $operands:tt) => {
        tile!(zmm $multiply, $operands, [
                ("[{left}]", "0", "zmm0", "zmm1"),
                ("[{left} + 4]", "128", "zmm2", "zmm3"),
                ("[{left} + 8]", "256", "zmm4", "zmm5"),
                ("[{left} + 12]", "384", "zmm6", "zmm7"),
                ("[{left} + 16]", "512", "zmm8", "zmm9"),
                ("[{left} + 20]", "640", "zmm10", "zmm11"),
                ("[{left} + 24]", "768", "zmm12", "zmm13"),
        ])
    };
    (ymm 6, $multiply:literal, $operands:tt) => {
        tile!(ymm $multiply, $operands, [
                ("[{left}]", "0", "ymm0", "ymm1"),
                ("[{left} + {row}]", "64", "ymm2", "ymm3"),
                ("[{left} + 2*{row}]", "128", "ymm4", "ymm5"),
                ("[{left} + {row_3}]", "192", "ymm6", "ymm7"),
                ("[{left} + 4*{row}]", "256", "ymm8", "ymm9"),
                ("[{left} + {row_5}]", "320", "ymm10", "ymm11"),
        ])
    };
    (ymm 4, $multiply:literal, $operands:tt) => {
        tile!(ymm $multiply, $operands, [
                ("[{left}]", "0", "ymm0", "ymm1"),
                ("[{left} + {row}]", "64", "ymm2", "ymm3"),
                ("[{left} + 2*{row}]", "128", "ymm4", "ymm5"),
                ("[{left} + {row_3}]", "192", "ymm6", "ymm7"),
        ])
    };
    (ymm 3, $multiply:literal, $operands:tt) => {
        tile!(ymm $multiply, $operands, [
                ("[{left}]", "0", "ymm0", "ymm1"),
                ("[{left} + {row}]", "64", "ymm2", "ymm3"),
                ("[{left} + 2*{row}]", "128", "ymm4", "ymm5"),
        ])
    };
    (ymm 1, $multiply:literal, $operands:tt) => {
        tile!(ymm $multiply, $operands, [
                ("[{left}]", "0", "ymm0", "ymm1"),
        ])
    };
    (ymm $multiply:literal, $operands:tt, $rows:tt) => {
        tile!(
            $multiply, $operands, ["32", "ymm12", "ymm13", "ymm14"], [],
            [(row, 1), (row_3, 3), (row_5, 5)],
            $rows,
            ["ymm0", "ymm1", "ymm2", "ymm3", "ymm4", "ymm5", "ymm6", "ymm7", "ymm8", "ymm9", "ymm10", "ymm11", "ymm12", "ymm13", "ymm14"]
        )
    };
    (zmm $multiply:literal, $operands:tt, $rows:tt) => {
        tile!(
            $multiply, $operands, ["64", "zmm28", "zmm29", "zmm30"],
            ["[{right} + 2048]", "[{right} + 2112]", "[{left} + 1024]"], [],
            $rows,
            ["zmm0", "zmm1", "zmm2", "zmm3", "zmm4", "zmm5", "zmm6", "zmm7", "zmm8", "zmm9", "zmm10", "zmm11", "zmm12", "zmm13", "zmm14", "zmm15", "zmm16", "zmm17", "zmm18", "zmm19", "zmm20", "zmm21", "zmm22", "zmm23", "zmm24", "zmm25", "zmm26", "zmm27", "zmm28", "zmm29", "zmm30"]
        )
    };
    (
        $multiply:literal, ($left:expr, $right:expr, $depth:expr, $start:expr, $tile:expr),
        [$half:literal, $right_0:literal, $right_1:literal, $left_0:literal], [$($prefetch:literal),*],
        [$(($rows:ident, $times:literal)),*],
        [$(($factor:literal, $at:literal, $sum_0:literal, $sum_1:literal),)*], [$($clobber:tt),*]
    ) => {
        std::arch::asm!(
            $(
                concat!("vmovups ", $sum_0, ", [{start}]"),
                concat!("vmovups ", $sum_1, ", [{start} + ", $half, "]"),
            )*
            // Comments that name every operand, since not every tile has so many rows and `asm!` refuses an unused one.
            $(concat!("# {", stringify!($rows), "}"),)*
            "2:",
            $(concat!("prefetcht0 ", $prefetch),)*
            concat!("vmovups ", $right_0, ", [{right}]"),
            concat!("vmovups ", $right_1, ", [{right} + ", $half, "]"),
            $(
                concat!("vbroadcastss ", $left_0, ", dword ptr ", $factor),
                concat!($multiply, " ", $sum_0, ", ", $left_0, ", ", $right_0),
                concat!($multiply, " ", $sum_1, ", ", $left_0, ", ", $right_1),
            )*
            "add {left}, {step}",
            "add {right}, {right_stride}",
            "dec {depth}",
            "jnz 2b",
            $(
                concat!("vmovups [{tile} + ", $at, "], ", $sum_0),
                concat!("vmovups [{tile} + ", $at, " + ", $half, "], ", $sum_1),
            )*
            left = inout(reg) $left.floats.as_ptr() => _,
            step = in(reg) 4 * $left.step,
            $($rows = in(reg) $times * 4 * $left.row,)*
            right = inout(reg) $right.floats.as_ptr() => _,
            right_stride = in(reg) 4 * $right.stride,
            depth = inout(reg) $depth => _,
            start = in(reg) $start.as_ptr(),
            tile = in(reg) $tile.as_mut_ptr(),
            $(out($clobber) _,)*
            options(nostack),
        )
    };
}
#[cfg(target_arch = "x86_64")]
pub(crate) use tile;

/// [`multiply`] on AVX-512 for 14, 8 or 7 rows of two lanes; others are few and done plainly.
///
/// # Safety
/// The processor has AVX-512 F.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(crate) unsafe fn multiply_avx512<A: Arithmetic, const R: usize, const L: usize>(
    left: Factors<'_>,
    right: Steps<'_>,
    depth: usize,
    start: &[Lane; L],
    tile: &mut [[Lane; L]; R],
) {
    left.check(R, depth);
    right.check(L * LANES, depth);
    // Of all cases: `check` has seen that `R` floats of the left-hand side and `L` lanes of the right-hand side are there for each
    // of `depth` steps; `L` lanes of the start are read and `R` by `L` lanes of the tile are written. Prefetching reads nothing.
    match (R, L, depth > 0 && left.row == 1) {
        // SAFETY: the caller vouches for the instructions; memory as above.
        (14, 2, true) => unsafe { tile!(zmm 14, "vfmadd231ps", (left, right, depth, start, tile)) },
        // SAFETY: as above.
        (8, 2, true) => unsafe { tile!(zmm 8, "vfmadd231ps", (left, right, depth, start, tile)) },
        // SAFETY: as above.
        (7, 2, true) => unsafe { tile!(zmm 7, "vfmadd231ps", (left, right, depth, start, tile)) },
        _ => multiply::<A, R, L>(left, right, depth, start, tile),
    }
}

/// [`multiply`] on AVX2 for 6, 4, 3 or 1 rows of one lane.
///
/// # Safety
/// The processor has AVX2 and FMA.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(crate) unsafe fn multiply_avx2<A: Arithmetic, const R: usize, const L: usize>(
    left: Factors<'_>,
    right: Steps<'_>,
    depth: usize,
    start: &[Lane; L],
    tile: &mut [[Lane; L]; R],
) {
    left.check(R, depth);
    right.check(L * LANES, depth);
    // Of all cases: `check` has seen that `R` floats of the left-hand side and a lane of the right-hand side are there for each of
    // `depth` steps; the lane of the start is read and the tile is written, `R` lanes.
    match (R, L, depth > 0) {
        // SAFETY: the caller vouches for the instructions; memory as above.
        (6, 1, true) => unsafe { tile!(ymm 6, "vfmadd231ps", (left, right, depth, start, tile)) },
        // SAFETY: as above.
        (4, 1, true) => unsafe { tile!(ymm 4, "vfmadd231ps", (left, right, depth, start, tile)) },
        // SAFETY: as above.
        (3, 1, true) => unsafe { tile!(ymm 3, "vfmadd231ps", (left, right, depth, start, tile)) },
        // SAFETY: as above.
        (1, 1, true) => unsafe { tile!(ymm 1, "vfmadd231ps", (left, right, depth, start, tile)) },
        _ => multiply::<A, R, L>(left, right, depth, start, tile),
    }
}

const _: () = assert!(size_of::<Lane>() == 64 && LANES == 16, "the offsets above are in bytes");

#[cfg(test)]
mod tests {
    use super::*;

    fn fits(check: impl FnOnce() + std::panic::UnwindSafe) -> bool {
        std::panic::catch_unwind(check).is_ok()
    }

    #[test]
    fn sides_end_within_their_floats() {
        let floats = [0.0; 40];
        let left = |step, row, rows, depth| fits(move || Factors { floats: &floats, step, row }.check(rows, depth));
        // Four rows of ten.
        assert!(left(1, 10, 4, 10));
        assert!(!left(1, 10, 4, 11) && !left(1, 11, 4, 10) && !left(1, 10, 5, 10));
        // Ten steps of four.
        assert!(left(4, 1, 4, 10));
        assert!(!left(4, 1, 5, 10) && !left(4, 1, 4, 11));
        assert!(left(usize::MAX, usize::MAX, 1, 1) && left(1, 1, 6, 0) && left(1, 1, 0, 6));
        assert!(!left(usize::MAX, 1, 1, 3) && !left(1, usize::MAX, 3, 1) && !left(usize::MAX, usize::MAX, 2, 2));
        let right = |stride, count, depth| fits(move || Steps { floats: &floats, stride }.check(count, depth));
        assert!(right(8, 8, 5) && right(usize::MAX, 40, 1) && right(8, 16, 0));
        assert!(!right(8, 9, 5) && !right(8, 8, 6) && !right(usize::MAX, 8, 3));
    }
}
