//! The arithmetic of AVX-512.

use std::arch::x86_64::*;

use super::{Arithmetic, LANES, narrow_plainly};
use crate::{
    isa::Level,
    lane::Lane,
    math,
    tile::{self, Factors, Steps},
};

/// The arithmetic of [`Level::Avx512`], also where AVX-512 BF16 is there.
pub(crate) struct Avx512<const BF16: bool = false>;

impl<const BF16: bool> Arithmetic for Avx512<BF16> {
    const LEVEL: Level = Level::Avx512;
    type Register = __m512;

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
        unsafe { tile::multiply_avx512::<Self, R, L>(left, right, depth, start, tile) }
    }

    #[inline(always)]
    fn splat(x: f32) -> __m512 {
        // SAFETY: `Isa::run` alone chooses this arithmetic, on processors with AVX-512 F.
        unsafe { _mm512_set1_ps(x) }
    }

    #[inline(always)]
    fn load(x: &[f32; LANES]) -> __m512 {
        // SAFETY: AVX-512 F as above; the sixteen floats that are read are those of `x`, at any alignment.
        unsafe { _mm512_loadu_ps(x.as_ptr()) }
    }

    #[inline(always)]
    fn store(x: __m512, y: &mut [f32; LANES]) {
        // SAFETY: AVX-512 F as above; the sixteen floats that are written are those of `y`, at any alignment.
        unsafe { _mm512_storeu_ps(y.as_mut_ptr(), x) }
    }

    #[inline(always)]
    fn mul_add_each(a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: AVX-512 F as above.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn sub(a: __m512, b: __m512) -> __m512 {
        // SAFETY: AVX-512 F as above.
        unsafe { _mm512_sub_ps(a, b) }
    }

    #[inline(always)]
    fn mul(a: __m512, b: __m512) -> __m512 {
        // SAFETY: AVX-512 F as above.
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    fn max(a: __m512, b: __m512) -> __m512 {
        // SAFETY: AVX-512 F as above.
        unsafe { _mm512_max_ps(a, b) }
    }

    #[inline(always)]
    fn reciprocal(x: __m512) -> __m512 {
        let (one, minus_x) = (Self::splat(1.0), Self::sub(Self::splat(0.0), x));
        // As `math::reciprocal`, not from `vrcp14ps`, whose bits makers of processors may choose.
        // SAFETY: AVX-512 F as above.
        let mut guess = unsafe {
            _mm512_castsi512_ps(_mm512_sub_epi32(_mm512_set1_epi32(math::RECIPROCAL_GUESS), _mm512_castps_si512(x)))
        };
        for _ in 0..3 {
            guess = Self::mul_add_each(guess, Self::mul_add_each(minus_x, guess, one), guess);
        }
        guess
    }

    #[inline(always)]
    fn add_to_exponents(x: __m512, integers: __m512) -> __m512 {
        // SAFETY: AVX-512 F as above.
        unsafe {
            let integers = _mm512_slli_epi32::<23>(_mm512_castps_si512(integers));
            _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(x), integers))
        }
    }

    #[inline(always)]
    fn load_part(x: &[f32]) -> __m512 {
        // SAFETY: AVX-512 F as above; only the floats of the mask are read, which are those of `x`.
        unsafe { _mm512_maskz_loadu_ps(first(x.len()), x.as_ptr()) }
    }

    #[inline(always)]
    fn store_part(x: __m512, y: &mut [f32]) {
        // SAFETY: AVX-512 F as above; only the floats of the mask are written, which are those of `y`.
        unsafe { _mm512_mask_storeu_ps(y.as_mut_ptr(), first(y.len()), x) }
    }

    #[inline(always)]
    fn swap_pairs(x: __m512) -> __m512 {
        // SAFETY: AVX-512 F as above.
        unsafe { _mm512_permute_ps::<0b10_11_00_01>(x) }
    }

    #[inline(always)]
    fn mul_add_rows<const T: usize>(x: &[f32], stride: usize, weight: __m512, sums: &mut [__m512; T]) {
        let end = (T - 1).checked_mul(stride).and_then(|last| last.checked_add(LANES));
        assert!(end.is_some_and(|end| end <= x.len()), "a row ends beyond its map");
        for (t, sum) in sums.iter_mut().enumerate() {
            // SAFETY: AVX-512 F as above; row `t` ends within `x`.
            let row = unsafe { _mm512_loadu_ps(x.as_ptr().add(t * stride)) };
            *sum = Self::mul_add_each(row, weight, *sum);
        }
    }

    #[inline(always)]
    fn load_rows(x: &[f32], starts: &[usize; LANES]) -> [__m512; LANES] {
        let last = starts.iter().fold(0, |last, &start| last.max(start));
        assert!(last <= x.len() && x.len() - last >= LANES, "a row ends beyond its matrix");
        let mut rows = [Self::splat(0.0); LANES];
        for (row, &start) in rows.iter_mut().zip(starts).take(Self::STRIP) {
            // SAFETY: AVX-512 F as above; `start` is at most `last`, from which on there are sixteen floats.
            *row = unsafe { _mm512_loadu_ps(x.as_ptr().add(start)) };
        }
        rows
    }

    #[inline(always)]
    fn narrow(low: __m512, high: __m512) -> __m512 {
        if BF16 {
            // SAFETY: `Bf16Unit::run` alone chooses this arithmetic, on processors with AVX-512 BF16; both types are
            // 64 bytes without a meaning of their own.
            return unsafe { std::mem::transmute::<__m512bh, __m512>(_mm512_cvtne2ps_pbh(high, low)) };
        }
        narrow_plainly::<Self>(low, high)
    }

    /// In four steps, each of which doubles the squares that are transposed.
    #[inline(always)]
    fn transpose(mut rows: [__m512; LANES]) -> [__m512; LANES] {
        for quad in rows.as_chunks_mut::<4>().0 {
            let [a, b, c, d] = *quad;
            // SAFETY: AVX-512 F as above.
            *quad = unsafe {
                let [a, b, c, d] = [
                    _mm512_unpacklo_ps(a, b),
                    _mm512_unpackhi_ps(a, b),
                    _mm512_unpacklo_ps(c, d),
                    _mm512_unpackhi_ps(c, d),
                ]
                .map(|x| _mm512_castps_pd(x));
                [_mm512_unpacklo_pd(a, c), _mm512_unpackhi_pd(a, c), _mm512_unpacklo_pd(b, d), _mm512_unpackhi_pd(b, d)]
                    .map(|x| _mm512_castpd_ps(x))
            };
        }
        // Quarter q of register 4 i + j is now column 4 q + j of the rows 4 i to 4 i + 3.
        let mut columns = rows;
        for j in 0..4 {
            let [a, b, c, d] = [rows[j], rows[4 + j], rows[8 + j], rows[12 + j]];
            // SAFETY: AVX-512 F as above.
            let quarters = unsafe {
                let (even, odd) = (_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0xdd>(a, b));
                let (even_2, odd_2) = (_mm512_shuffle_f32x4::<0x88>(c, d), _mm512_shuffle_f32x4::<0xdd>(c, d));
                [
                    _mm512_shuffle_f32x4::<0x88>(even, even_2),
                    _mm512_shuffle_f32x4::<0x88>(odd, odd_2),
                    _mm512_shuffle_f32x4::<0xdd>(even, even_2),
                    _mm512_shuffle_f32x4::<0xdd>(odd, odd_2),
                ]
            };
            for (q, column) in quarters.into_iter().enumerate() {
                columns[4 * q + j] = column;
            }
        }
        columns
    }
}

/// The mask of the first `count` floats, sixteen at most.
#[inline(always)]
fn first(count: usize) -> __mmask16 {
    debug_assert!(count <= LANES, "a register has no {count} floats");
    ((1_u32 << count.min(LANES)) - 1) as __mmask16
}
