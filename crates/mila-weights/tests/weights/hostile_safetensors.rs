//! Safetensors files whose header lies.

use mila_weights::{Checkpoint, Error};

use crate::forge::{floats, refused, safetensors, values};

fn tensor(name: &str, shape: &str, start: i64, end: i64) -> String {
    format!(r#""{name}":{{"dtype":"F32","shape":{shape},"data_offsets":[{start},{end}]}}"#)
}

fn file(tensors: &[String], data: &[f32]) -> Vec<u8> {
    safetensors(&format!("{{{}}}", tensors.join(",")), &floats(data))
}

#[test]
fn sound_files_are_read_in_any_order() {
    let unsorted = file(&[tensor("b", "[2]", 4, 12), tensor("a", "[]", 0, 4)], &[1.0, 2.0, 3.0]);
    let checkpoint = Checkpoint::from_bytes(unsorted).unwrap();
    assert_eq!(checkpoint.names().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(values(&checkpoint, "a"), [1.0]);
    assert_eq!(values(&checkpoint, "b"), [2.0, 3.0]);
    assert_eq!(checkpoint.get("a").unwrap().shape(), [0_usize; 0]);

    let wrapped = file(&[tensor("module.a.rope.rotations", "[1]", 0, 4), tensor("module.w", "[1]", 4, 8)], &[1.0, 2.0]);
    assert_eq!(Checkpoint::from_bytes(wrapped).unwrap().names().collect::<Vec<_>>(), ["w"]);

    let empty = Checkpoint::from_bytes(safetensors("{}", &[])).unwrap();
    assert_eq!(empty.names().count(), 0);
}

#[test]
fn lying_lengths_are_errors() {
    let sound = file(&[tensor("a", "[1]", 0, 4)], &[1.0]);
    for length in [0_u64, 1, 5, 1000, 40_000_000, 1 << 40, u64::MAX] {
        let mut forged = sound.clone();
        forged[..8].copy_from_slice(&length.to_le_bytes());
        refused(forged, &[]);
    }
    let mut forged = sound.clone();
    forged[..8].copy_from_slice(&(1_u64 << 60).to_le_bytes());
    assert!(matches!(refused(forged, &["header"]), Error::Hostile { .. }));
    for length in 0..sound.len() {
        assert!(Checkpoint::from_bytes(sound[..length].to_vec()).is_err(), "cut to {length} bytes");
    }
}

#[test]
fn lying_ranges_are_errors() {
    let cases = [
        vec![tensor("a", "[1]", 0, 400)],
        vec![tensor("a", "[2]", 0, 4)],
        vec![tensor("a", "[1]", 4, 8)],
        vec![tensor("a", "[1]", -4, 0)],
        vec![tensor("a", "[-1]", 0, 4)],
        vec![tensor("a", "[1]", 4, 0)],
        vec![tensor("a", "[0]", 2, 2)],
        vec![tensor("a", "[1]", 0, 4), tensor("b", "[1]", 0, 4)],
        vec![tensor("a", "[1]", 0, 4), tensor("b", "[1]", 2, 6)],
        vec![tensor("a", "[1]", 0, 4), tensor("b", "[1]", 8, 12)],
        vec![tensor("a", "[1]", 0, 4), tensor("a", "[1]", 4, 8)],
        vec![tensor("a", "[18446744073709551615,18446744073709551615]", 0, 4)],
        vec![tensor("a", "[4611686018427387904,4]", 0, 0)],
        vec![tensor("a", "[9223372036854775808,2,1]", 0, 4)],
        vec![tensor("a", &format!("[{}1]", "1,".repeat(100)), 0, 4)],
    ];
    for tensors in cases {
        refused(file(&tensors, &[1.0, 2.0]), &[]);
    }
    let twice = file(&[tensor("a", "[0]", 0, 0), tensor("a", "[0]", 0, 0)], &[]);
    refused(twice, &["expected distinct names, found `a` twice"]);
}

#[test]
fn broken_json_is_an_error() {
    for header in ["{", "{]", "{\"a\":1}", "{\"a\":{\"dtype\":\"F33\",\"shape\":[],\"data_offsets\":[0,4]}}", "{\"a\"}"]
    {
        refused(safetensors(header, &[0; 4]), &["safetensors"]);
    }
    let depth = 100_000;
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let deep = format!("{{\"a\":{}1{}}}", open.repeat(depth), close.repeat(depth));
        refused(safetensors(&deep, &[]), &["recursion limit"]);
    }
    let text = b"{\"a\xff\":1}";
    refused([&(text.len() as u64).to_le_bytes()[..], text].concat(), &["safetensors"]);
}
