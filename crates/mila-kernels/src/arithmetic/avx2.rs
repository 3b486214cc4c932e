//! The arithmetic of AVX2 with FMA: two machine registers for sixteen floats.
//!
//! Whole loops, no closures: what the compiler does not inline into the function that enables the instructions is compiled
//! for plain x86-64, where each of these operations is a call.

use std::arch::x86_64::*;

use super::{Arithmetic, LANES};
use crate::{
    isa::Level,
    lane::Lane,
    tile::{self, Factors, Steps},
};

/// Floats in a machine register.
const HALF: usize = LANES / 2;

/// The arithmetic of [`Level::Avx2`].
pub(crate) struct Avx2;

impl Arithmetic for Avx2 {
    const LEVEL: Level = Level::Avx2;
    type Register = [__m256; 2];

    #[inline(always)]
    fn mul_add(a: f32, b: f32, c: f32) -> f32 {
        a.mul_add(b, c)
    }

    #[inline(always)]
    fn multiply<const R: usize, const L: usize>(
        left: Factors<'_>,
        right: Steps<'_>,
        depth: usize,
        start: &[Lane; L],
        tile: &mut [[Lane; L]; R],
    ) {
        // SAFETY: `Isa::run` alone chooses this arithmetic, on processors with its instructions.
        unsafe { tile::multiply_avx2::<Self, R, L>(left, right, depth, start, tile) }
    }

    #[inline(always)]
    fn splat(x: f32) -> [__m256; 2] {
        // SAFETY: `Isa::run` alone chooses this arithmetic, on processors with AVX2 and FMA.
        [unsafe { _mm256_set1_ps(x) }; 2]
    }

    #[inline(always)]
    fn load(x: &[f32; LANES]) -> [__m256; 2] {
        // SAFETY: AVX2 as above; the sixteen floats that are read are those of `x`, at any alignment.
        unsafe { load(x.as_ptr()) }
    }

    #[inline(always)]
    fn store(x: [__m256; 2], y: &mut [f32; LANES]) {
        // SAFETY: AVX2 as above; the sixteen floats that are written are those of `y`, at any alignment.
        unsafe {
            _mm256_storeu_ps(y.as_mut_ptr(), x[0]);
            _mm256_storeu_ps(y.as_mut_ptr().add(HALF), x[1]);
        }
    }

    #[inline(always)]
    fn store_low(x: [__m256; 2], y: &mut [f32; HALF]) {
        // SAFETY: AVX2 as above; the eight floats that are written are those of `y`, at any alignment.
        unsafe { _mm256_storeu_ps(y.as_mut_ptr(), x[0]) }
    }

    #[inline(always)]
    fn mul_add_each(a: [__m256; 2], b: [__m256; 2], c: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: AVX2 and FMA as above.
        unsafe { [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])] }
    }

    #[inline(always)]
    fn add(a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: AVX2 as above.
        unsafe { [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn sub(a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: AVX2 as above.
        unsafe { [_mm256_sub_ps(a[0], b[0]), _mm256_sub_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn mul(a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: AVX2 as above.
        unsafe { [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn max(a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: AVX2 as above.
        unsafe { [_mm256_max_ps(a[0], b[0]), _mm256_max_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn reciprocal(x: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: AVX2 as above.
        unsafe {
            let one = _mm256_set1_ps(1.0);
            [_mm256_div_ps(one, x[0]), _mm256_div_ps(one, x[1])]
        }
    }

    #[inline(always)]
    fn add_to_exponents(x: [__m256; 2], integers: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: AVX2 as above.
        unsafe { [add_to_exponents(x[0], integers[0]), add_to_exponents(x[1], integers[1])] }
    }

    #[inline(always)]
    fn sums(rows: [[__m256; 2]; LANES]) -> [__m256; 2] {
        let mut halves = [Self::splat(0.0); 2];
        for (half, sums) in halves.iter_mut().enumerate() {
            let mut square = [rows[0][0]; HALF];
            for (i, row) in square.iter_mut().enumerate() {
                let [low, high] = rows[HALF * half + i];
                // SAFETY: AVX2 as above.
                *row = unsafe { _mm256_add_ps(low, high) };
            }
            // SAFETY: AVX2 as above.
            sums[0] = unsafe { sums_of_square(square) };
        }
        [halves[0][0], halves[1][0]]
    }

    #[inline(always)]
    fn load_part(x: &[f32]) -> [__m256; 2] {
        if let Some(full) = x.first_chunk() {
            return Self::load(full);
        }
        let [low, high] = first(x.len());
        // SAFETY: AVX2 as above; only the floats of the masks are read, which are those of `x`.
        unsafe { [_mm256_maskload_ps(x.as_ptr(), low), _mm256_maskload_ps(x.as_ptr().wrapping_add(HALF), high)] }
    }

    #[inline(always)]
    fn store_part(x: [__m256; 2], y: &mut [f32]) {
        if let Some(full) = y.first_chunk_mut() {
            return Self::store(x, full);
        }
        let [low, high] = first(y.len());
        // SAFETY: AVX2 as above; only the floats of the masks are written, which are those of `y`.
        unsafe {
            _mm256_maskstore_ps(y.as_mut_ptr(), low, x[0]);
            _mm256_maskstore_ps(y.as_mut_ptr().wrapping_add(HALF), high, x[1]);
        }
    }

    #[inline(always)]
    fn swap_pairs(x: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: AVX2 as above.
        unsafe { [_mm256_permute_ps::<0b10_11_00_01>(x[0]), _mm256_permute_ps::<0b10_11_00_01>(x[1])] }
    }

    #[inline(always)]
    fn mul_add_rows<const T: usize>(x: &[f32], stride: usize, weight: [__m256; 2], sums: &mut [[__m256; 2]; T]) {
        let end = (T - 1).checked_mul(stride).and_then(|last| last.checked_add(LANES));
        assert!(end.is_some_and(|end| end <= x.len()), "a row ends beyond its map");
        for (t, sum) in sums.iter_mut().enumerate() {
            // SAFETY: AVX2 as above; row `t` ends within `x`.
            let row = unsafe { load(x.as_ptr().add(t * stride)) };
            *sum = Self::mul_add_each(row, weight, *sum);
        }
    }

    #[inline(always)]
    fn load_rows(x: &[f32], starts: &[usize; LANES]) -> [[__m256; 2]; LANES] {
        let last = starts.iter().fold(0, |last, &start| last.max(start));
        assert!(last <= x.len() && x.len() - last >= LANES, "a row ends beyond its matrix");
        let mut rows = [Self::splat(0.0); LANES];
        for (row, &start) in rows.iter_mut().zip(starts).take(Self::STRIP) {
            // SAFETY: AVX2 as above; `start` is at most `last`, from which on there are sixteen floats.
            *row = unsafe { load(x.as_ptr().add(start)) };
        }
        rows
    }

    /// In four squares of eight.
    #[inline(always)]
    fn transpose(rows: [[__m256; 2]; LANES]) -> [[__m256; 2]; LANES] {
        let mut columns = rows;
        for half in 0..2 {
            for quarter in 0..2 {
                let mut square = [rows[0][0]; HALF];
                for (i, row) in square.iter_mut().enumerate() {
                    *row = rows[HALF * half + i][quarter];
                }
                // SAFETY: AVX2 as above.
                let square = unsafe { transpose_square(square) };
                for (j, column) in square.into_iter().enumerate() {
                    columns[HALF * quarter + j][half] = column;
                }
            }
        }
        columns
    }
}

/// The sixteen floats from `x` on.
///
/// # Safety
/// The processor has AVX2, and the floats are there.
#[inline(always)]
unsafe fn load(x: *const f32) -> [__m256; 2] {
    // SAFETY: the caller vouches for both.
    unsafe { [_mm256_loadu_ps(x), _mm256_loadu_ps(x.add(HALF))] }
}

/// The masks of the first `count` floats, sixteen at most.
#[inline(always)]
fn first(count: usize) -> [__m256i; 2] {
    /// Ones for floats that are there, then zeros for those that are not.
    static MASKS: [i32; 2 * LANES] = {
        let mut masks = [0; 2 * LANES];
        let mut lane = 0;
        while lane < LANES {
            masks[lane] = -1;
            lane += 1;
        }
        masks
    };
    let masks = &MASKS[LANES - count.min(LANES)..][..LANES];
    // SAFETY: `Isa::run` alone chooses the arithmetic that calls this, on processors with AVX2; sixteen numbers are there.
    unsafe { [_mm256_loadu_si256(masks.as_ptr().cast()), _mm256_loadu_si256(masks.as_ptr().add(HALF).cast())] }
}

/// `x` with integers, in the low bits of `integers`, added to the exponents.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
unsafe fn add_to_exponents(x: __m256, integers: __m256) -> __m256 {
    // SAFETY: the caller vouches for the instructions.
    unsafe {
        let integers = _mm256_slli_epi32::<23>(_mm256_castps_si256(integers));
        _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(x), integers))
    }
}

/// The sums of eight rows: those of pairs of floats, of fours, and of all.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
unsafe fn sums_of_square(rows: [__m256; HALF]) -> __m256 {
    let [a, b, c, d, e, f, g, h] = rows;
    // SAFETY: the caller vouches for the instructions.
    unsafe {
        let ab = _mm256_add_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
        let cd = _mm256_add_ps(_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
        let ef = _mm256_add_ps(_mm256_unpacklo_ps(e, f), _mm256_unpackhi_ps(e, f));
        let gh = _mm256_add_ps(_mm256_unpacklo_ps(g, h), _mm256_unpackhi_ps(g, h));
        let upper = _mm256_add_ps(_mm256_shuffle_ps::<0x44>(ab, cd), _mm256_shuffle_ps::<0xee>(ab, cd));
        let lower = _mm256_add_ps(_mm256_shuffle_ps::<0x44>(ef, gh), _mm256_shuffle_ps::<0xee>(ef, gh));
        let low = _mm256_permute2f128_ps::<0x20>(upper, lower);
        _mm256_add_ps(low, _mm256_permute2f128_ps::<0x31>(upper, lower))
    }
}

/// The transpose of eight by eight floats, in three steps, each of which doubles the squares that are transposed.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
unsafe fn transpose_square(rows: [__m256; HALF]) -> [__m256; HALF] {
    let [a, b, c, d, e, f, g, h] = rows;
    // SAFETY: the caller vouches for the instructions.
    unsafe {
        let (ab_low, ab_high) = (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
        let (cd_low, cd_high) = (_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
        let (ef_low, ef_high) = (_mm256_unpacklo_ps(e, f), _mm256_unpackhi_ps(e, f));
        let (gh_low, gh_high) = (_mm256_unpacklo_ps(g, h), _mm256_unpackhi_ps(g, h));
        // Column j of the upper and the lower four rows, and beside it column j + 4.
        let upper = [
            _mm256_shuffle_ps::<0x44>(ab_low, cd_low),
            _mm256_shuffle_ps::<0xee>(ab_low, cd_low),
            _mm256_shuffle_ps::<0x44>(ab_high, cd_high),
            _mm256_shuffle_ps::<0xee>(ab_high, cd_high),
        ];
        let lower = [
            _mm256_shuffle_ps::<0x44>(ef_low, gh_low),
            _mm256_shuffle_ps::<0xee>(ef_low, gh_low),
            _mm256_shuffle_ps::<0x44>(ef_high, gh_high),
            _mm256_shuffle_ps::<0xee>(ef_high, gh_high),
        ];
        [
            _mm256_permute2f128_ps::<0x20>(upper[0], lower[0]),
            _mm256_permute2f128_ps::<0x20>(upper[1], lower[1]),
            _mm256_permute2f128_ps::<0x20>(upper[2], lower[2]),
            _mm256_permute2f128_ps::<0x20>(upper[3], lower[3]),
            _mm256_permute2f128_ps::<0x31>(upper[0], lower[0]),
            _mm256_permute2f128_ps::<0x31>(upper[1], lower[1]),
            _mm256_permute2f128_ps::<0x31>(upper[2], lower[2]),
            _mm256_permute2f128_ps::<0x31>(upper[3], lower[3]),
        ]
    }
}
