//! The arithmetic of an instruction set: what the source of a kernel may know about it.

use crate::{
    bf16::Bf16,
    isa::Level,
    lane::Lane,
    tile::{self, Steps},
};

/// Floats in a register of [`Arithmetic`]: one register of AVX-512, two of AVX2, four of SSE or NEON.
pub const LANES: usize = 16;

/// What kernels compute with. Only [`Isa::run`](crate::isa::Isa::run) chooses an implementation, so a value of
/// `Avx2` or `Avx512` arithmetic is computed only on processors that have the instructions.
pub trait Arithmetic {
    /// The level itself, a constant after inlining, for the choice of tile sizes.
    const LEVEL: Level;

    /// Rows of a strip, a multiple of the rows of a product's tile, sixteen at most.
    const STRIP: usize = Self::LEVEL.strip();

    /// Sixteen floats in registers.
    type Register: Copy;

    /// `a * b + c`: one instruction where the set has it, else a product and a sum, never a call into the C library.
    fn mul_add(a: f32, b: f32, c: f32) -> f32;

    /// Sixteen times `x`.
    fn splat(x: f32) -> Self::Register;

    /// The floats of `x`.
    fn load(x: &[f32; LANES]) -> Self::Register;

    /// Writes the floats of `x` to `y`.
    fn store(x: Self::Register, y: &mut [f32; LANES]);

    /// `a * b + c`, float by float.
    fn mul_add_each(a: Self::Register, b: Self::Register, c: Self::Register) -> Self::Register;

    /// `a + b`, float by float.
    #[inline(always)]
    fn add(a: Self::Register, b: Self::Register) -> Self::Register {
        Self::mul_add_each(a, Self::splat(1.0), b)
    }

    /// Floats 1, 0, 3, 2 and so on.
    #[inline(always)]
    fn swap_pairs(x: Self::Register) -> Self::Register {
        let mut floats = [0.0; LANES];
        Self::store(x, &mut floats);
        Self::load(&std::array::from_fn(|l| floats[l ^ 1]))
    }

    /// `sums[t] += x[t * stride..][..16] * weight` for every `t`.
    #[inline(always)]
    fn mul_add_rows<const T: usize>(x: &[f32], stride: usize, weight: Self::Register, sums: &mut [Self::Register; T]) {
        for (t, sum) in sums.iter_mut().enumerate() {
            *sum = Self::mul_add_each(Self::load_part(&x[t * stride..][..LANES]), weight, *sum);
        }
    }

    /// `tile[r] = start + Σᵢ left[i][r] · right[i]` over `depth` steps; `right[i]` is `L` lanes.
    #[inline(always)]
    fn multiply<const R: usize, const L: usize>(
        left: Steps<'_>,
        right: Steps<'_>,
        depth: usize,
        start: &[Lane; L],
        tile: &mut [[Lane; L]; R],
    ) where
        Self: Sized,
    {
        tile::multiply::<Self, R, L>(left, right, depth, start, tile);
    }

    /// Sixteen floats of `x` from each of the first [`STRIP`](Self::STRIP) of `starts`, and zeros.
    #[inline(always)]
    fn load_rows(x: &[f32], starts: &[usize; LANES]) -> [Self::Register; LANES] {
        std::array::from_fn(|row| match x[starts[row]..].first_chunk() {
            Some(floats) if row < Self::STRIP => Self::load(floats),
            _ => Self::splat(0.0),
        })
    }

    /// The transpose: float `c` of register `r` becomes float `r` of register `c`.
    #[inline(always)]
    fn transpose(rows: [Self::Register; LANES]) -> [Self::Register; LANES] {
        let mut matrix = [[0.0; LANES]; LANES];
        matrix.iter_mut().zip(rows).for_each(|(floats, row)| Self::store(row, floats));
        std::array::from_fn(|c| Self::load(&std::array::from_fn(|r| matrix[r][c])))
    }

    /// Thirty-two floats as bf16 numbers, those of `low` first, in the bits of a register.
    #[inline(always)]
    fn narrow(low: Self::Register, high: Self::Register) -> Self::Register
    where
        Self: Sized,
    {
        narrow_plainly::<Self>(low, high)
    }

    /// The first floats of `x`, sixteen at most, followed by zeros.
    #[inline(always)]
    fn load_part(x: &[f32]) -> Self::Register {
        match x.first_chunk() {
            Some(full) => Self::load(full),
            None => {
                let mut full = [0.0; LANES];
                full[..x.len()].copy_from_slice(x);
                Self::load(&full)
            }
        }
    }

    /// Writes the first floats of `x` to all of `y`, which holds sixteen at most.
    #[inline(always)]
    fn store_part(x: Self::Register, y: &mut [f32]) {
        match y.first_chunk_mut() {
            Some(full) => Self::store(x, full),
            None => {
                let mut full = [0.0; LANES];
                Self::store(x, &mut full);
                let len = y.len();
                y.copy_from_slice(&full[..len]);
            }
        }
    }

    /// The sum of the sixteen floats, added as a tree.
    #[inline(always)]
    fn sum(x: Self::Register) -> f32 {
        let mut x16 = [0.0; LANES];
        Self::store(x, &mut x16);
        let x8: [f32; 8] = std::array::from_fn(|l| x16[l] + x16[l + 8]);
        let x4: [f32; 4] = std::array::from_fn(|l| x8[l] + x8[l + 4]);
        (x4[0] + x4[2]) + (x4[1] + x4[3])
    }
}

/// [`Arithmetic::narrow`] without an instruction for it.
#[inline(always)]
fn narrow_plainly<A: Arithmetic>(low: A::Register, high: A::Register) -> A::Register {
    let mut floats = [[0.0; LANES]; 2];
    A::store(low, &mut floats[0]);
    A::store(high, &mut floats[1]);
    let floats = floats.as_flattened();
    A::load(&std::array::from_fn(|l| Bf16::pair(Bf16::new(floats[2 * l]), Bf16::new(floats[2 * l + 1]))))
}

/// The arithmetic of [`Level::Portable`].
pub(crate) struct Portable;

impl Arithmetic for Portable {
    const LEVEL: Level = Level::Portable;
    type Register = [f32; LANES];

    #[inline(always)]
    fn mul_add(a: f32, b: f32, c: f32) -> f32 {
        if cfg!(any(target_feature = "fma", target_arch = "aarch64")) { a.mul_add(b, c) } else { a * b + c }
    }

    #[inline(always)]
    fn splat(x: f32) -> Self::Register {
        [x; LANES]
    }

    #[inline(always)]
    fn load(x: &[f32; LANES]) -> Self::Register {
        *x
    }

    #[inline(always)]
    fn store(x: Self::Register, y: &mut [f32; LANES]) {
        *y = x;
    }

    #[inline(always)]
    fn mul_add_each(a: Self::Register, b: Self::Register, c: Self::Register) -> Self::Register {
        std::array::from_fn(|l| Self::mul_add(a[l], b[l], c[l]))
    }
}

#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{Arithmetic, LANES, narrow_plainly};
    use crate::{
        isa::Level,
        lane::Lane,
        tile::{self, Steps},
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
            left: Steps<'_>,
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
            assert!(
                stride <= isize::MAX as usize / 64 && x.len() >= (T - 1) * stride + LANES,
                "a row ends beyond its map"
            );
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
                    [
                        _mm512_unpacklo_pd(a, c),
                        _mm512_unpackhi_pd(a, c),
                        _mm512_unpacklo_pd(b, d),
                        _mm512_unpackhi_pd(b, d),
                    ]
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
            left: Steps<'_>,
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
            let (low, high) = x.split_at(LANES / 2);
            // SAFETY: AVX2 as above; each half of `x` has the eight floats that are read, at any alignment.
            unsafe { [_mm256_loadu_ps(low.as_ptr()), _mm256_loadu_ps(high.as_ptr())] }
        }

        #[inline(always)]
        fn store(x: [__m256; 2], y: &mut [f32; LANES]) {
            let (low, high) = y.split_at_mut(LANES / 2);
            // SAFETY: AVX2 as above; each half of `y` has the eight floats that are written, at any alignment.
            unsafe {
                _mm256_storeu_ps(low.as_mut_ptr(), x[0]);
                _mm256_storeu_ps(high.as_mut_ptr(), x[1]);
            }
        }

        #[inline(always)]
        fn mul_add_each(a: [__m256; 2], b: [__m256; 2], c: [__m256; 2]) -> [__m256; 2] {
            // SAFETY: AVX2 and FMA as above.
            unsafe { [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])] }
        }
    }
}
