//! Zip and legacy containers that lie.

use mila_weights::{Checkpoint, Error};
use zip::CompressionMethod;

use crate::forge::{Pickle, floats, legacy, refused, torch_zip, values, zip};

fn pickle() -> Vec<u8> {
    Pickle::one_tensor(4, 0, &[4], &[1])
}

fn valid() -> Vec<u8> {
    torch_zip(&pickle(), &[("0", &floats(&[1.0, 2.0, 3.0, 4.0]))])
}

/// Where the directory's record of the entry `name` starts.
fn record(file: &[u8], name: &str) -> usize {
    let name_at = file.windows(name.len()).rposition(|window| window == name.as_bytes()).unwrap();
    name_at - 46
}

fn patched(mut file: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    file[at..at + bytes.len()].copy_from_slice(bytes);
    file
}

#[test]
fn every_truncation_is_an_error() {
    let file = valid();
    assert_eq!(values(&Checkpoint::from_bytes(file.clone()).unwrap(), "w"), [1.0, 2.0, 3.0, 4.0]);
    for length in 0..file.len() {
        assert!(Checkpoint::from_bytes(file[..length].to_vec()).is_err(), "cut to {length} bytes");
    }
    let file = legacy(&pickle(), &[("0", 4, &floats(&[1.0, 2.0, 3.0, 4.0]))]);
    assert_eq!(values(&Checkpoint::from_bytes(file.clone()).unwrap(), "w"), [1.0, 2.0, 3.0, 4.0]);
    for length in 0..file.len() {
        assert!(Checkpoint::from_bytes(file[..length].to_vec()).is_err(), "cut to {length} bytes");
    }
}

#[test]
fn lying_zip_sizes_are_errors() {
    let file = valid();
    let storage = record(&file, "archive/data/0");
    let program = record(&file, "archive/data.pkl");
    let huge = u32::MAX - 1;
    // Compressed size, size and header offset of a stored storage.
    refused(patched(file.clone(), storage + 20, &huge.to_le_bytes()), &["expected 4294967294 bytes"]);
    refused(patched(file.clone(), storage + 24, &huge.to_le_bytes()), &["stored `archive/data/0`"]);
    refused(patched(file.clone(), storage + 42, &huge.to_le_bytes()), &["zip record"]);
    refused(patched(file.clone(), storage + 42, &1_u32.to_le_bytes()), &["expected the header of `archive/data/0`"]);
    // The same of the pickle, whose CRC is checked.
    refused(patched(file.clone(), program + 20, &huge.to_le_bytes()), &["expected 4294967294 bytes"]);
    refused(patched(file.clone(), program + 24, &huge.to_le_bytes()), &["bytes of a zip entry"]);
    refused(patched(file.clone(), program + 16, &[0; 4]), &["archive/data.pkl"]);
    // A method and an encryption that nobody reads.
    refused(patched(file.clone(), storage + 10, &[99, 0]), &["stored or deflated, found method 99"]);
    refused(patched(file.clone(), storage + 8, &[1, 0]), &["encryption"]);
    // The end record: entries, size and offset of the directory.
    let end = file.len() - 22;
    refused(patched(file.clone(), end + 10, &[200, 0]), &["zip record"]);
    refused(patched(file.clone(), end + 12, &huge.to_le_bytes()), &["expected a directory before"]);
    refused(patched(file, end + 16, &huge.to_le_bytes()), &["expected a directory before"]);
}

#[test]
fn lying_zip64_records_are_errors() {
    let file = valid();
    let end = file.len() - 22;
    let zip64 = |count: u64, size: u64, offset: u64| {
        let mut forged = file[..end].to_vec();
        let record = forged.len() as u64;
        forged.extend_from_slice(b"PK\x06\x06");
        forged.extend_from_slice(&44_u64.to_le_bytes());
        forged.extend_from_slice(&[0; 12]);
        for field in [count, count, size, offset] {
            forged.extend_from_slice(&field.to_le_bytes());
        }
        forged.extend_from_slice(b"PK\x06\x07\0\0\0\0");
        forged.extend_from_slice(&record.to_le_bytes());
        forged.extend_from_slice(&[1, 0, 0, 0]);
        forged.extend_from_slice(&file[end..end + 8]);
        forged.extend_from_slice(&[0xff; 12]);
        forged.extend_from_slice(&[0; 2]);
        forged
    };
    let start = u64::from(u32::from_le_bytes(file[end + 16..end + 20].try_into().unwrap()));
    let checkpoint = Checkpoint::from_bytes(zip64(3, end as u64 - start, start)).unwrap();
    assert_eq!(values(&checkpoint, "w"), [1.0, 2.0, 3.0, 4.0]);
    refused(zip64(1 << 60, end as u64 - start, start), &["entries of a zip container"]);
    refused(zip64(1 << 20, end as u64 - start, start), &["zip record"]);
    refused(zip64(3, 1 << 60, start), &["expected a directory before"]);
    refused(zip64(3, u64::MAX, u64::MAX), &["expected a directory before"]);
}

#[test]
fn twice_the_same_name_is_an_error() {
    let mut file = zip(
        &[("archive/data.pkl", &pickle()), ("archive/data/0", &[0; 16]), ("archive/data/1", &[1; 16])],
        CompressionMethod::Stored,
    );
    let record = record(&file, "archive/data/1");
    file[record + 46 + 13] = b'0';
    refused(file, &["expected distinct names, found `archive/data/0` twice"]);
}

#[test]
fn names_are_never_paths() {
    let storage = |pickle: Pickle| pickle.storage("FloatStorage", "../../../../etc/passwd", 4);
    let pickle = Pickle::new().raw("}").text("../w").tensor(storage, 0, &[4], &[1]).stop_dict();
    refused(torch_zip(&pickle, &[]), &["storage `../../../../etc/passwd`", "found none"]);
    let data = floats(&[1.0; 4]);
    let file = torch_zip(&pickle, &[("../../../../etc/passwd", &data)]);
    assert_eq!(values(&Checkpoint::from_bytes(file).unwrap(), "../w"), [1.0; 4]);
}

#[test]
fn zip_bombs_are_bounded() {
    // 512 MiB of zeros in some 500 kB, as a storage and as the pickle.
    let zeros = vec![0; 512 << 20];
    let pickle = Pickle::one_tensor(128 << 20, 0, &[128 << 20], &[1]);
    let file = zip(&[("a/data.pkl", &pickle), ("a/data/0", &zeros)], CompressionMethod::Deflated);
    assert!(file.len() < 1 << 20);
    let error = refused(file, &["bytes of a zip entry"]);
    assert!(matches!(error, Error::Hostile { .. }));
    refused(zip(&[("a/data.pkl", &zeros)], CompressionMethod::Deflated), &["bytes of a zip entry"]);

    // One that declares less than it inflates to.
    let mut file = zip(&[("a/data.pkl", &zeros[..1 << 20])], CompressionMethod::Deflated);
    let at = record(&file, "a/data.pkl");
    file[at + 24..at + 28].copy_from_slice(&16_u32.to_le_bytes());
    refused(file, &["a/data.pkl"]);
}

#[test]
fn other_zip_files_are_named() {
    refused(zip(&[("word/document.xml", b"x")], CompressionMethod::Stored), &["word/document.xml"]);
    refused(zip(&[], CompressionMethod::Stored), &["0 entries"]);
    let twice = [("a/data.pkl", b"}.".as_slice()), ("b/data.pkl", b"}.")];
    refused(zip(&twice, CompressionMethod::Stored), &["several"]);
    let script = [("a/data.pkl", b"}.".as_slice()), ("a/constants.pkl", b"}.")];
    refused(zip(&script, CompressionMethod::Stored), &["TorchScript"]);
    let big = [("a/data.pkl", pickle()), ("a/byteorder", b"big".to_vec()), ("a/data/0", vec![0; 16])];
    let big: Vec<_> = big.iter().map(|(name, bytes)| (*name, bytes.as_slice())).collect();
    refused(zip(&big, CompressionMethod::Stored), &["expected little, found big"]);
}

#[test]
fn lying_legacy_lengths_are_errors() {
    let data = floats(&[1.0, 2.0, 3.0, 4.0]);
    for length in [-1, 0, 3, 5, i64::MAX, i64::MIN] {
        refused(legacy(&pickle(), &[("0", length, &data)]), &["storage `0`: expected 4 elements"]);
    }
    let huge = Pickle::one_tensor(i64::MAX, 0, &[4], &[1]);
    refused(legacy(&huge, &[("0", i64::MAX, &data)]), &["storage `0`", "cut short"]);
    refused(legacy(&pickle(), &[("0", 4, &data[..12])]), &["expected 16 bytes, found 12"]);
    refused(legacy(&pickle(), &[]), &["storage `0`", "found none"]);
    refused(legacy(&pickle(), &[("0", 4, &data), ("0", 4, &data)]), &["found two"]);
    refused(legacy(&pickle(), &[("1", 4, &data)]), &["storage `1`", "a tensor that uses it"]);
    let storage = |class| move |pickle: Pickle| pickle.storage(class, "0", 4);
    let both = Pickle::new().raw("}(").text("a").tensor(storage("FloatStorage"), 0, &[4], &[1]);
    let both = both.text("b").tensor(storage("LongStorage"), 0, &[4], &[1]).raw("u.").0;
    refused(legacy(&both, &[("0", 4, &data)]), &["expected one size"]);
    let strange = Pickle::new().raw("}").text("a").tensor(storage("EvilStorage"), 0, &[4], &[1]).stop_dict();
    refused(legacy(&strange, &[("0", 4, &data)]), &["EvilStorage"]);
}

#[test]
fn a_small_file_cannot_claim_large_tensors() {
    // Many names for one storage: what they add up to is bounded by the file.
    let data = floats(&vec![1.0; 1 << 20]);
    let storage = |pickle: Pickle| pickle.storage("FloatStorage", "0", 1 << 20);
    let many = (0..100).fold(Pickle::new().raw("}("), |pickle, at| {
        pickle.text(&format!("w{at}")).tensor(storage, 0, &[1 << 20], &[1]) //
    });
    refused(torch_zip(&many.raw("u.").0, &[("0", &data)]), &["bytes of tensors, shared storages counted"]);
}
