//! Sound files with bytes changed: reading ends in tensors or in an error, never in a panic, and in bounded memory.

use std::io::{Cursor, Read};
use std::path::Path;
use std::sync::LazyLock;

use mila_weights::Checkpoint;
use proptest::prelude::*;
use proptest::sample::Index;
use zip::{CompressionMethod, ZipArchive};

use crate::forge::zip;

/// Name and bytes of the sound files, of every container.
static FILES: LazyLock<Vec<(String, Vec<u8>)>> = LazyLock::new(|| {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pth");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.file_name().unwrap().to_str().unwrap().to_string(), std::fs::read(&path).unwrap()))
        .collect();
    files.sort();
    files
});

fn files(suffix: &str) -> Vec<Vec<u8>> {
    let files: Vec<_> =
        FILES.iter().filter(|(name, _)| name.ends_with(suffix)).map(|(_, bytes)| bytes.clone()).collect();
    assert!(!files.is_empty());
    files
}

/// Reads everything there is to read.
fn read_all(file: Vec<u8>) {
    if let Ok(checkpoint) = Checkpoint::from_bytes(file) {
        for (name, tensor) in checkpoint.iter() {
            let volume: usize = tensor.shape().iter().product();
            let count = tensor.values().map(|values| values.len()).or(tensor.integers().map(|values| values.len()));
            assert_eq!(count, Some(volume), "{name}");
        }
    }
}

/// One change of a file.
#[derive(Clone, Debug)]
enum Change {
    Set(Index, u8),
    Word(Index, u64, usize),
    Insert(Index, Vec<u8>),
    Remove(Index, usize),
    Repeat(Index, usize),
    Truncate(Index),
    Splice(Index, Index, Index),
}

fn change() -> impl Strategy<Value = Change> {
    let word = prop_oneof![
        Just(0),
        Just(1),
        Just(u64::MAX),
        Just(u64::MAX - 1),
        Just(i64::MAX as u64),
        Just(1_u64 << 60),
        Just(0x7fff_ffff),
        Just(0x8000_0000),
        any::<u64>()
    ];
    prop_oneof![
        6 => (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Change::Set(at, byte)),
        3 => (any::<Index>(), word, 1..=8_usize).prop_map(|(at, word, width)| Change::Word(at, word, width)),
        2 => (any::<Index>(), prop::collection::vec(any::<u8>(), 1..9)).prop_map(|(at, bytes)| Change::Insert(at, bytes)),
        2 => (any::<Index>(), 1..40_usize).prop_map(|(at, count)| Change::Remove(at, count)),
        2 => (any::<Index>(), 1..200_usize).prop_map(|(at, count)| Change::Repeat(at, count)),
        1 => any::<Index>().prop_map(Change::Truncate),
        1 => (any::<Index>(), any::<Index>(), any::<Index>()).prop_map(|(file, at, from)| Change::Splice(file, at, from)),
    ]
}

fn changed(mut file: Vec<u8>, changes: &[Change], others: &[Vec<u8>]) -> Vec<u8> {
    for change in changes {
        if file.is_empty() {
            return file;
        }
        let length = file.len();
        match change {
            Change::Set(at, byte) => *at.get_mut(&mut file) = *byte,
            Change::Word(at, word, width) => {
                let at = at.index(length);
                let width = (*width).min(length - at);
                file[at..at + width].copy_from_slice(&word.to_le_bytes()[..width]);
            }
            Change::Insert(at, bytes) => {
                let at = at.index(length);
                file.splice(at..at, bytes.iter().copied());
            }
            Change::Remove(at, count) => {
                let at = at.index(length);
                file.drain(at..(at + count).min(length));
            }
            Change::Repeat(at, count) => {
                let at = at.index(length);
                let piece = file[at..(at + count).min(length)].to_vec();
                file.splice(at..at, piece);
            }
            Change::Truncate(at) => file.truncate(at.index(length)),
            Change::Splice(other, at, from) => {
                let other = other.get(others);
                file.truncate(at.index(length));
                file.extend_from_slice(&other[from.index(other.len())..]);
            }
        }
    }
    file
}

/// The entries of a zip file.
fn unzipped(file: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut archive = ZipArchive::new(Cursor::new(file)).unwrap();
    let read = |at| {
        let mut entry = archive.by_index(at).unwrap();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        (entry.name().unwrap().into_owned(), bytes)
    };
    (0..ZipArchive::new(Cursor::new(file)).unwrap().len()).map(read).collect()
}

fn case() -> impl Strategy<Value = (Index, Vec<Change>)> {
    (any::<Index>(), prop::collection::vec(change(), 1..6))
}

/// Enough for a few seconds; `PROPTEST_CASES` asks for more.
fn config() -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(4000);
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn legacy_files((which, changes) in case()) {
        let files = files("_legacy.pth");
        read_all(changed(which.get(&files).clone(), &changes, &files));
    }

    #[test]
    fn zip_files((which, changes) in case()) {
        let files = files("_zip.pth");
        read_all(changed(which.get(&files).clone(), &changes, &files));
    }

    /// Changes inside the pickle, with sizes and CRCs made right again.
    #[test]
    fn pickles((which, changes) in case(), deflate in any::<bool>()) {
        let files = files("_zip.pth");
        let file: &Vec<u8> = which.get(&files);
        let mut entries = unzipped(file);
        let others: Vec<_> = files.iter().map(|file| unzipped(file)[0].1.clone()).collect();
        let program = entries.iter_mut().find(|(name, _)| name.ends_with("data.pkl")).unwrap();
        program.1 = changed(std::mem::take(&mut program.1), &changes, &others);
        let entries: Vec<_> = entries.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
        let method = if deflate { CompressionMethod::Deflated } else { CompressionMethod::Stored };
        read_all(zip(&entries, method));
    }

    #[test]
    fn safetensors_files(changes in prop::collection::vec(change(), 1..6)) {
        let files = files(".safetensors");
        read_all(changed(files[0].clone(), &changes, &files));
    }

    #[test]
    fn noise(bytes in prop::collection::vec(any::<u8>(), 0..400), start in 0..6_usize) {
        let starts: [&[u8]; 6] = [b"", b"PK\x03\x04", b"PK\x05\x06", b"\x80\x02", b"\x80\x04\x95", b"\x20\0\0\0\0\0\0\0{\""];
        read_all([starts[start], &bytes].concat());
    }
}

/// Runs the hostile tests again in a process that has one gigabyte of address space, program and threads included.
#[cfg(target_os = "linux")]
#[test]
fn memory_is_bounded() {
    let output = std::process::Command::new("sh")
        .args(["-c", "ulimit -v 1048576; exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().unwrap())
        .args(["mutation::", "hostile_pickle::", "hostile_safetensors::", "--test-threads=1"])
        .args(["--skip", "memory_is_bounded"])
        .output()
        .unwrap();
    let log = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&log));
}

#[test]
fn what_once_broke_stays_mended() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        read_all(std::fs::read(entry.unwrap().path()).unwrap());
        count += 1;
    }
    assert!(count > 0, "an empty corpus");
}
