//! Bytes as an image file of any format.

#![no_main]

use libfuzzer_sys::fuzz_target;
use mila_data::{Limits, decode};

/// Small, so that the time goes into headers and not into pixels.
const LIMITS: Limits = Limits { max_pixels: 1 << 16 };

fuzz_target!(
    // libFuzzer's hook aborts at any panic. `decode` contains those of the decoders below it and says so in its error, so
    // only a panic that leaves it counts.
    init: std::panic::set_hook(Box::new(|panic| eprintln!("{panic}"))),
    |bytes: &[u8]| {
        if let Ok(picture) = decode(bytes, &LIMITS) {
            let pixels = picture.height() * picture.width();
            assert!(pixels as u64 <= LIMITS.max_pixels, "{pixels} pixels");
            assert_eq!(picture.pixels().len(), pixels * 3);
        }
    }
);
