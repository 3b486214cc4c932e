//! Tiles of a product by AMX: the matrix unit of Intel's server processors.
//!
//! It has eight registers of 16 rows of 64 bytes and one instruction that counts: 16 × 16 sums of 32 products each. Two by two
//! registers of sums, 32 rows of a panel, take as many loads as products, which the first-level cache just feeds.

use std::{arch::asm, marker::PhantomData, sync::OnceLock};

use super::product::Tile;
use crate::{arithmetic::LANES, lane::Lane, matrix::Panel};

/// Rows of a tile, in two registers.
pub(crate) const ROWS: usize = 32;

/// Whether the processor has AMX for bf16 and the operating system lets this process use it. Asks once.
pub(crate) fn permitted() -> bool {
    static PERMITTED: OnceLock<bool> = OnceLock::new();
    *PERMITTED.get_or_init(|| present() && kept_by_system() && requested())
}

/// CPUID's leaf 7: bit 22 of EDX is AMX-BF16, bit 24 AMX-TILE.
fn present() -> bool {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    const BITS: u32 = 1 << 22 | 1 << 24;
    __cpuid(0).eax >= 7 && __cpuid_count(7, 0).edx & BITS == BITS
}

/// Whether the operating system keeps the registers of AMX, 17 and 18 of XCR0, when it changes between threads.
fn kept_by_system() -> bool {
    /// CPUID's leaf 1: bit 27 of ECX tells that `xgetbv` may be used.
    const OSXSAVE: u32 = 1 << 27;
    const STATES: u32 = 1 << 17 | 1 << 18;
    if std::arch::x86_64::__cpuid(1).ecx & OSXSAVE == 0 {
        return false;
    }
    let states: u32;
    // SAFETY: `xgetbv` is allowed, as has just been seen; it reads register 0 and changes nothing but EAX and EDX.
    unsafe { asm!("xgetbv", in("ecx") 0, out("eax") states, out("edx") _, options(nomem, nostack)) };
    states & STATES == STATES
}

/// Asks Linux for the registers, for all threads of the process.
#[cfg(target_os = "linux")]
fn requested() -> bool {
    const ARCH_PRCTL: isize = 158;
    const ARCH_REQ_XCOMP_PERM: usize = 0x1023;
    /// The state of the tiles, by its bit in XCR0.
    const XTILEDATA: usize = 18;
    let result: isize;
    // SAFETY: a system call with two numbers, which touches no memory of ours; it overwrites RCX and R11 beside its result.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => result,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XTILEDATA,
            out("rcx") _,
            out("r11") _,
            options(nostack),
        );
    }
    result == 0
}

/// Other systems have their own ways to be asked, which are not tried.
#[cfg(not(target_os = "linux"))]
fn requested() -> bool {
    false
}

/// The layout of the registers, as `ldtilecfg` reads it.
#[repr(C, align(64))]
struct Layout {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// Eight full registers.
static FULL: Layout = Layout {
    palette: 1,
    start_row: 0,
    reserved: [0; 14],
    row_bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

const _: () = assert!(size_of::<Layout>() == 64, "the processor reads 64 bytes");

/// The registers of this thread, laid out while this lives; it does not leave the thread.
pub(crate) struct Amx(PhantomData<*const ()>);

impl Amx {
    /// Lays the registers out. Nothing else in this program uses them, the compiler included, and no two of this live on one
    /// thread at a time.
    ///
    /// # Safety
    /// AMX is [`permitted`].
    pub(crate) unsafe fn new() -> Amx {
        // SAFETY: the caller vouches for the instruction; the layout is a valid one.
        unsafe { asm!("ldtilecfg [{layout}]", layout = in(reg) &raw const FULL, options(nostack, readonly)) };
        Amx(PhantomData)
    }

    /// Four sums of products of zeros, `steps` times; returns how many floating-point operations they were.
    pub(crate) fn products(&self, steps: usize) -> u64 {
        // SAFETY: `self` is the proof of AMX and of the layout of its registers; no memory is touched.
        unsafe {
            asm!(
                "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
                "tilezero tmm4", "tilezero tmm5", "tilezero tmm6", "tilezero tmm7",
                "2:",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "dec {steps}",
                "jnz 2b",
                steps = inout(reg) steps.max(1) => _,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack, nomem),
            );
        }
        (4 * 2 * 16 * 16 * 32) * steps.max(1) as u64
    }
}

impl Drop for Amx {
    /// Registers that are not in use need not be kept when the system changes between threads.
    fn drop(&mut self) {
        // SAFETY: who made `self` vouched for the instruction.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }
}

/// The product with the upper sixteen rows of a strip, or with all 32; `$lower` is what the lower ones add to it.
macro_rules! amx {
    ($strip:expr, $panel:expr, $start:expr, $tile:expr, [$($begin:literal),*], [$($step:literal),*], [$($end:literal),*]) => {
        asm!(
            // With a stride of zero, every row of a register begins with the same sixteen floats.
            "tileloadd tmm0, [{start} + {none}]",
            "tileloadd tmm1, [{start} + {none} + 64]",
            $($begin,)*
            "2:",
            "tileloadd tmm4, [{left} + {lane}]",
            "tileloadd tmm6, [{panel} + {row}]",
            "tileloadd tmm7, [{panel} + {row} + 64]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            $($step,)*
            "add {left}, 2048",
            "add {panel}, 2048",
            "dec {blocks}",
            "jnz 2b",
            "tilestored [{tile} + {row}], tmm0",
            "tilestored [{tile} + {row} + 64], tmm1",
            $($end,)*
            start = in(reg) $start.as_ptr(),
            none = in(reg) 0_usize,
            left = inout(reg) $strip.as_ptr() => _,
            lane = in(reg) size_of::<Lane>(),
            panel = inout(reg) $panel.as_ptr() => _,
            row = in(reg) size_of::<Panel>(),
            blocks = inout(reg) $panel.len() / LANES => _,
            tile = in(reg) $tile.as_mut_ptr(),
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        )
    };
}

impl Tile for Amx {
    const ROWS: usize = ROWS;

    #[inline(always)]
    fn multiply(&self, strip: &[Lane], panel: &[Panel], start: &[Lane; 2], rows: usize, tile: &mut [[Lane; 2]]) {
        let blocks = panel.len() / LANES;
        assert!(blocks > 0 && panel.len() == blocks * LANES, "a panel has blocks of sixteen pairs in depth");
        assert!(strip.len() >= blocks * ROWS && tile.len() >= ROWS, "a strip and a tile have 32 rows");
        // Of both cases: `self` is the proof of AMX and of the layout of its registers, full ones. For each block, which is
        // 2048 bytes of the strip and of the panel, 16 lanes at the start of it, or twice as many, and 16 rows of the panel
        // are read; the two lanes of the start are read, and 16 or 32 rows of the tile are written. All of that is there, as
        // has just been seen. No memory is touched beside.
        match rows {
            // SAFETY: as above.
            ..=16 => unsafe { amx!(strip, panel, start, tile, [], [], []) },
            // SAFETY: as above.
            _ => unsafe {
                amx!(
                    strip,
                    panel,
                    start,
                    tile,
                    ["tileloadd tmm2, [{start} + {none}]", "tileloadd tmm3, [{start} + {none} + 64]"],
                    [
                        "tileloadd tmm5, [{left} + {lane} + 1024]",
                        "tdpbf16ps tmm2, tmm5, tmm6",
                        "tdpbf16ps tmm3, tmm5, tmm7"
                    ],
                    ["tilestored [{tile} + {row} + 2048], tmm2", "tilestored [{tile} + {row} + 2112], tmm3"]
                )
            },
        }
    }
}
