//! Damaged and hostile files: decoding gives a picture within the limits or an error, and never panics.
//!
//! `tests/corpus/` holds files that once broke something, or that reach a guard; each is replayed.

use std::cell::Cell;
use std::path::{Path, PathBuf};

use mila_data::{Error, Format, Limits, decode};
use proptest::prelude::*;

const LIMITS: Limits = Limits { max_pixels: 100_000 };

fn files(part: &str) -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(part);
    let mut found: Vec<PathBuf> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.retain(|path| path.extension().is_none_or(|extension| extension != "rgb"));
    found.sort();
    found
}

fn valid(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/decode").join(name)).unwrap()
}

/// Decodes and checks what holds for any bytes.
fn judge(bytes: &[u8]) -> Result<(), String> {
    match decode(bytes, &LIMITS) {
        Ok(picture) => {
            let pixels = (picture.height() * picture.width()) as u64;
            if pixels > LIMITS.max_pixels { Err(format!("{pixels} pixels")) } else { Ok(()) }
        }
        Err(_) => Ok(()),
    }
}

#[test]
fn the_corpus_is_replayed() {
    // Files that decode: what is odd in them is no harm (metadata, an unused table), or libjpeg takes them too.
    const WHOLE: [&str; 8] = [
        "jpeg_exif_directory_outside.jpg",
        "jpeg_exif_entries_outside.jpg",
        "jpeg_middle_lost.jpg",
        "jpeg_sampling_3.jpg",
        "jpeg_sampling_4x4.jpg",
        "png_palette_index_outside.png",
        "png_profile_bomb.png",
        "webp_chunk_length_overflow.webp",
    ];
    let corpus = files("corpus");
    assert_eq!(corpus.len(), 25);
    for path in corpus {
        let name = path.file_name().unwrap().to_str().unwrap();
        let found = decode(&std::fs::read(&path).unwrap(), &Limits::default());
        eprintln!("{name}: {found:?}");
        assert_eq!(found.is_ok(), WHOLE.contains(&name), "{name}: {found:?}");
    }
}

#[test]
fn every_truncated_file_is_an_error_or_whole() {
    for path in files("golden/decode") {
        let whole = std::fs::read(&path).unwrap();
        let expected = decode(&whole, &LIMITS).unwrap();
        for length in (0..whole.len()).step_by(7).chain(whole.len().saturating_sub(20)..whole.len()) {
            // What a decoder never reads may be missing (a PNG's end chunk, the padding of a bitmap), and the orientation
            // where its chunk comes last; pixels may not. A JPEG must be whole, as for Pillow.
            if let Ok(found) = decode(&whole[..length], &LIMITS) {
                assert_ne!(Format::sniff(&whole), Some(Format::Jpeg), "{} cut to {length}", path.display());
                let mut sorted = [found.into_pixels(), expected.clone().into_pixels()];
                sorted.iter_mut().for_each(|pixels| pixels.sort_unstable());
                assert!(sorted[0] == sorted[1], "{} cut to {length} of {}", path.display(), whole.len());
            }
        }
    }
}

#[test]
fn sizes_are_checked_before_pixels_exist() {
    let huge = |name: &str, at: usize, size: &[u8]| {
        let mut bytes = valid(name);
        bytes[at..at + size.len()].copy_from_slice(size);
        decode(&bytes, &Limits::default())
    };
    let frame = valid("420.jpg").windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
    assert!(matches!(huge("420.jpg", frame + 5, &[0xff; 4]), Err(Error::TooLarge { pixels: 4_294_836_225, .. })));
    assert!(matches!(huge("rgb.png", 16, &[0x7f; 8]), Err(Error::TooLarge { .. })));
    assert!(matches!(huge("24.bmp", 18, &[0xff, 0x7f, 0, 0, 0xff, 0x7f, 0, 0]), Err(Error::TooLarge { .. })));
    // A lossless WebP holds two sizes of 14 bits.
    assert!(matches!(huge("lossless.webp", 21, &[0xff; 3]), Err(Error::TooLarge { .. } | Error::Broken { .. })));
    let exact = Limits { max_pixels: 27 * 37 };
    assert!(decode(&valid("420.jpg"), &exact).is_ok());
    assert!(matches!(decode(&valid("420.jpg"), &Limits { max_pixels: 27 * 37 - 1 }), Err(Error::TooLarge { .. })));
}

/// The most memory that this process has held, in MiB, where the system tells.
fn peak_mib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib / 1024)
}

/// One change of a file.
#[derive(Debug, Clone)]
enum Damage {
    Set(usize, u8),
    Flip(usize, u8),
    Cut(usize),
    Remove(usize, usize),
    Repeat(usize, usize),
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        4 => (any::<usize>(), any::<u8>()).prop_map(|(at, value)| Damage::Set(at, value)),
        4 => (any::<usize>(), 0..8_u8).prop_map(|(at, bit)| Damage::Flip(at, bit)),
        1 => any::<usize>().prop_map(Damage::Cut),
        1 => (any::<usize>(), 1..40_usize).prop_map(|(at, count)| Damage::Remove(at, count)),
        1 => (any::<usize>(), 1..40_usize).prop_map(|(at, count)| Damage::Repeat(at, count)),
    ]
}

/// Half of the places fall into the first 200 bytes, where the headers are.
fn place(at: usize, length: usize) -> usize {
    let span = if at.is_multiple_of(2) { length.min(200) } else { length };
    (at / 2) % span.max(1)
}

fn apply(bytes: &mut Vec<u8>, damage: &Damage) {
    let length = bytes.len();
    if length == 0 {
        return;
    }
    match *damage {
        Damage::Set(at, value) => bytes[place(at, length)] = value,
        Damage::Flip(at, bit) => bytes[place(at, length)] ^= 1 << bit,
        Damage::Cut(at) => bytes.truncate(place(at, length)),
        Damage::Remove(at, count) => {
            let start = place(at, length);
            bytes.drain(start..length.min(start + count));
        }
        Damage::Repeat(at, count) => {
            let start = place(at, length);
            let piece = bytes[start..length.min(start + count)].to_vec();
            bytes.splice(start..start, piece);
        }
    }
}

/// Cases per file; more by the environment variable for a long search.
fn cases() -> u32 {
    std::env::var("MILA_DATA_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(1500)
}

#[test]
fn damaged_files_never_panic_or_outgrow_the_limits() {
    // The panics of decoders are contained by `decode`; their kind is counted to keep it in view.
    let contained = Cell::new(0);
    for path in files("golden/decode") {
        let whole = std::fs::read(&path).unwrap();
        let config = ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() };
        let mut runner = proptest::test_runner::TestRunner::new(config);
        runner
            .run(&prop::collection::vec(damage(), 1..6), |changes| {
                let mut bytes = whole.clone();
                changes.iter().for_each(|change| apply(&mut bytes, change));
                if let Err(Error::Broken { reason, .. }) = decode(&bytes, &LIMITS)
                    && reason.contains("panicked")
                {
                    contained.set(contained.get() + 1);
                    if let Some(dir) = std::env::var_os("MILA_DATA_BREAKERS") {
                        let name = format!("{}-{}", contained.get(), path.file_name().unwrap().to_string_lossy());
                        std::fs::write(Path::new(&dir).join(name), &bytes).unwrap();
                    }
                }
                judge(&bytes).map_err(TestCaseError::fail)
            })
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
    // A hundred thousand pixels need less than a megabyte; the rest is the test program itself.
    if let Some(peak) = peak_mib() {
        assert!(peak < 128, "{peak} MiB");
    }
    eprintln!("contained panics of decoders: {}", contained.get());
}

#[test]
#[cfg(unix)]
fn a_device_and_a_folder_are_no_pictures() {
    for path in ["/dev/zero", "/dev/null", "."] {
        let error = mila_data::decode_file(std::path::Path::new(path), &mila_data::Limits::default()).unwrap_err();
        assert!(error.to_string().contains("regular file"), "{path}: {error}");
    }
}

#[test]
fn an_input_size_beyond_any_picture_is_refused() {
    for side in [20_000, usize::MAX] {
        let transform = mila_data::EvalTransform { input_size: (side, side), ..mila_data::EvalTransform::default() };
        assert!(transform.check().unwrap_err().to_string().contains("120 million"), "{side}");
    }
}
