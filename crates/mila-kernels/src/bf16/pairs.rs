//! Tiles of a product by AVX-512 BF16: as those of floats, with a pair of numbers in every cell.

use super::product::Tile;
use crate::{
    arithmetic::LANES,
    lane::{self, Lane},
    matrix::{PANEL, Panel},
    tile::{Factors, Steps, tile},
};

/// Rows of a tile.
pub(crate) const ROWS: usize = 14;

/// Proof of AVX-512 BF16.
pub(crate) struct Avx512Bf16(());

impl Avx512Bf16 {
    /// # Safety
    /// The processor has AVX-512 BF16.
    pub(crate) unsafe fn new() -> Avx512Bf16 {
        Avx512Bf16(())
    }

    /// Twelve chains of products of zeros, `steps` long; returns how many floating-point operations they were.
    pub(crate) fn products(&self, steps: usize) -> u64 {
        // SAFETY: the instruction is there, of which `self` is the proof; no memory is touched.
        unsafe {
            std::arch::asm!(
                "vzeroall",
                "2:",
                "vdpbf16ps zmm0, zmm12, zmm13", "vdpbf16ps zmm1, zmm12, zmm13", "vdpbf16ps zmm2, zmm12, zmm13",
                "vdpbf16ps zmm3, zmm12, zmm13", "vdpbf16ps zmm4, zmm12, zmm13", "vdpbf16ps zmm5, zmm12, zmm13",
                "vdpbf16ps zmm6, zmm12, zmm13", "vdpbf16ps zmm7, zmm12, zmm13", "vdpbf16ps zmm8, zmm12, zmm13",
                "vdpbf16ps zmm9, zmm12, zmm13", "vdpbf16ps zmm10, zmm12, zmm13", "vdpbf16ps zmm11, zmm12, zmm13",
                "dec {steps}",
                "jnz 2b",
                steps = inout(reg) steps.max(1) => _,
                out("zmm0") _, out("zmm1") _, out("zmm2") _, out("zmm3") _, out("zmm4") _, out("zmm5") _, out("zmm6") _,
                out("zmm7") _, out("zmm8") _, out("zmm9") _, out("zmm10") _, out("zmm11") _, out("zmm12") _,
                out("zmm13") _, out("zmm14") _, out("zmm15") _,
                options(nostack, nomem),
            );
        }
        12 * (2 * 2 * LANES) as u64 * steps.max(1) as u64
    }
}

impl Tile for Avx512Bf16 {
    const ROWS: usize = ROWS;

    #[inline(always)]
    fn multiply(&self, strip: &[Lane], panel: &[Panel], start: &[Lane; 2], rows: usize, tile: &mut [[Lane; 2]]) {
        let left = Factors { floats: lane::floats(strip), step: LANES, row: 1 };
        let right = Steps { floats: lane::floats(panel.as_flattened()), stride: PANEL };
        let depth = panel.len();
        left.check(ROWS, depth);
        assert!(tile.len() >= ROWS && depth > 0, "a tile of fourteen rows");
        // Of both cases: the instructions are there, of which `self` is the proof. `depth` steps of 14 or 7 cells of the
        // left-hand side are read, which `check` has seen to be there, and as many rows of the panel; the two lanes of the start are read
        // and 14 or 7 rows of the tile are written. No memory is touched beside.
        match rows {
            // SAFETY: as above.
            ..=7 => unsafe { tile!(zmm 7, "vdpbf16ps", (left, right, depth, start, tile)) },
            // SAFETY: as above.
            _ => unsafe { tile!(zmm 14, "vdpbf16ps", (left, right, depth, start, tile)) },
        }
    }
}
