//! The arithmetic of an instruction set: what the source of a kernel may know about it.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;

#[cfg(target_arch = "x86_64")]
pub(crate) use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) use avx512::Avx512;

use crate::{
    bf16::Bf16,
    isa::Level,
    lane::Lane,
    tile::{self, Factors, Steps},
};

/// Floats in a register of [`Arithmetic`]: one register of AVX-512, two of AVX2, four of SSE or NEON.
pub const LANES: usize = 16;

/// What kernels compute with. Only [`Isa::run`](crate::isa::Isa::run), and for bf16 its unit, choose an implementation, so a
/// value of `Avx2` or `Avx512` arithmetic is computed only on processors that have the instructions.
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

    /// Writes the first half of the floats of `x` to `y`.
    #[inline(always)]
    fn store_low(x: Self::Register, y: &mut [f32; LANES / 2]) {
        Self::store_part(x, y);
    }

    /// `a * b + c`, float by float.
    fn mul_add_each(a: Self::Register, b: Self::Register, c: Self::Register) -> Self::Register;

    /// `a + b`, float by float.
    #[inline(always)]
    fn add(a: Self::Register, b: Self::Register) -> Self::Register {
        Self::mul_add_each(a, Self::splat(1.0), b)
    }

    /// `a - b`, float by float.
    fn sub(a: Self::Register, b: Self::Register) -> Self::Register;

    /// `a * b`, float by float.
    fn mul(a: Self::Register, b: Self::Register) -> Self::Register;

    /// The larger of two floats each, and that of `b` if one of them is NaN.
    fn max(a: Self::Register, b: Self::Register) -> Self::Register;

    /// Adds integers to the exponents of `x`: those of the low bits of `integers`, and whatever stands above them is lost.
    fn add_to_exponents(x: Self::Register, integers: Self::Register) -> Self::Register;

    /// `1 / x`, float by float, within a unit in the last place, for 1 ≤ x < 2¹²⁵.
    fn reciprocal(x: Self::Register) -> Self::Register;

    /// The sum of each register: float `i` is that of register `i`.
    #[inline(always)]
    fn sums(rows: [Self::Register; LANES]) -> Self::Register {
        let mut columns = Self::transpose(rows);
        for half in [8, 4, 2, 1] {
            for i in 0..half {
                columns[i] = Self::add(columns[i], columns[i + half]);
            }
        }
        columns[0]
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
        left: Factors<'_>,
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
        let mut rows = [Self::splat(0.0); LANES];
        for (row, &start) in rows.iter_mut().zip(starts).take(Self::STRIP) {
            *row = Self::load_part(&x[start..][..LANES]);
        }
        rows
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

    #[inline(always)]
    fn sub(a: Self::Register, b: Self::Register) -> Self::Register {
        std::array::from_fn(|l| a[l] - b[l])
    }

    #[inline(always)]
    fn mul(a: Self::Register, b: Self::Register) -> Self::Register {
        std::array::from_fn(|l| a[l] * b[l])
    }

    #[inline(always)]
    fn max(a: Self::Register, b: Self::Register) -> Self::Register {
        std::array::from_fn(|l| if a[l] > b[l] { a[l] } else { b[l] })
    }

    #[inline(always)]
    fn reciprocal(x: Self::Register) -> Self::Register {
        x.map(|x| 1.0 / x)
    }

    #[inline(always)]
    fn add_to_exponents(x: Self::Register, integers: Self::Register) -> Self::Register {
        std::array::from_fn(|l| f32::from_bits(x[l].to_bits().wrapping_add(integers[l].to_bits() << 23)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::{Isa, Kernel};

    struct Sums([[f32; LANES]; LANES]);

    impl Kernel for Sums {
        type Output = [f32; LANES];

        #[inline(always)]
        fn run<A: Arithmetic>(self) -> [f32; LANES] {
            let mut rows = [A::splat(0.0); LANES];
            for (row, floats) in rows.iter_mut().zip(&self.0) {
                *row = A::load(floats);
            }
            let mut sums = [0.0; LANES];
            A::store(A::sums(rows), &mut sums);
            sums
        }
    }

    struct Reciprocals<'a>(&'a mut [[f32; LANES]]);

    impl Kernel for Reciprocals<'_> {
        type Output = ();

        #[inline(always)]
        fn run<A: Arithmetic>(self) {
            for x in self.0 {
                A::store(A::reciprocal(A::load(x)), x);
            }
        }
    }

    #[test]
    fn reciprocals_are_right_to_the_last_place() {
        let exponents = [0, 1, 7, 60, 123, 124];
        let bits = exponents.iter().flat_map(|e| (0..1 << 23).step_by(1021).map(move |m| (127 + e) << 23 | m));
        let x: Vec<[f32; LANES]> = bits.map(f32::from_bits).collect::<Vec<_>>().as_chunks().0.to_vec();
        for isa in Isa::available() {
            let mut y = x.clone();
            isa.run(Reciprocals(&mut y));
            for (x, y) in x.as_flattened().iter().zip(y.as_flattened()) {
                let exact = 1.0 / f64::from(*x);
                let unit = f64::from(f32::from_bits(y.to_bits() + 1)) - f64::from(*y);
                assert!((f64::from(*y) - exact).abs() <= unit, "{isa}: 1 / {x} is {y}");
            }
        }
    }

    #[test]
    fn sums_stand_in_the_order_of_their_registers() {
        let rows = std::array::from_fn(|r| std::array::from_fn(|l| ((r * r + 3) * (l + 1) + l * l) as f32));
        let wanted: [f32; LANES] = rows.map(|row: [f32; LANES]| row.iter().sum());
        for isa in Isa::available() {
            assert_eq!(isa.run(Sums(rows)), wanted, "{isa}");
        }
    }
}
