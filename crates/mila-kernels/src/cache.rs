//! The size of the second-level cache, which tiles are cut by.

/// Taken where the processor does not say.
const USUAL: usize = 1 << 20;

/// Bytes of the second-level cache of a core. What a result is does not depend on it.
#[cfg(target_arch = "x86_64")]
pub(crate) fn second_level() -> usize {
    use std::{arch::x86_64::__cpuid, sync::OnceLock};

    /// The leaf that tells it, of AMD's origin and Intel's too: KiB in the upper half of `ecx`.
    const LEAF: u32 = 0x8000_0006;
    static SIZE: OnceLock<usize> = OnceLock::new();
    *SIZE.get_or_init(|| {
        let kib = if __cpuid(0x8000_0000).eax >= LEAF { __cpuid(LEAF).ecx >> 16 } else { 0 };
        // Hypervisors may say anything.
        if kib == 0 { USUAL } else { (kib as usize * 1024).clamp(USUAL / 4, 4 * USUAL) }
    })
}

/// Bytes of the second-level cache of a core. What a result is does not depend on it.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn second_level() -> usize {
    USUAL
}
