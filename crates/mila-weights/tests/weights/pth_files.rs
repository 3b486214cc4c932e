//! Files written by PyTorch, against the values that PyTorch read from them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use mila_weights::{Checkpoint, Which, is_ignored};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pth")
}

/// Shape and f32 values of a tensor of any type.
fn read(checkpoint: &Checkpoint, name: &str) -> (Vec<usize>, Vec<f32>) {
    let tensor = checkpoint.get(name).unwrap_or_else(|| panic!("no tensor `{name}`"));
    let values = match tensor.values() {
        Some(values) => values.into_f32().into_owned(),
        None => tensor.integers().unwrap().into_iter().map(|value| value as f32).collect(),
    };
    (tensor.shape().to_vec(), values)
}

#[test]
fn every_tensor_of_every_file_is_read() {
    let expected = Checkpoint::open(&folder().join("expected.safetensors"), Which::Raw).unwrap();
    // `file.pth/name` is in the raw weights, `file.pth#ema/name` in the average.
    let groups: BTreeSet<&str> = expected.names().map(|name| name.split_once('/').unwrap().0).collect();
    let mut files = BTreeSet::new();
    for group in groups {
        let (file, which) = match group.strip_suffix("#ema") {
            Some(file) => (file, Which::Ema),
            None => (group, Which::Raw),
        };
        files.insert(file.to_string());
        let path = folder().join(file);
        let opened = [
            Checkpoint::open(&path, which).unwrap_or_else(|error| panic!("{group}: {error}")),
            Checkpoint::from_bytes(std::fs::read(&path).unwrap()).unwrap(),
        ];
        let in_memory_too = if which == Which::Raw { 2 } else { 1 };
        for checkpoint in &opened[..in_memory_too] {
            let mut names = BTreeSet::new();
            for full in expected.names() {
                let Some(name) = full.strip_prefix(group).and_then(|rest| rest.strip_prefix('/')) else { continue };
                assert_eq!(read(checkpoint, name), read(&expected, full), "{full}");
                names.insert(name);
            }
            assert_eq!(checkpoint.names().collect::<BTreeSet<_>>(), names, "{group}");
            assert!(!names.iter().any(|name| is_ignored(name)));
        }
    }
    let there: BTreeSet<String> = std::fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".pth"))
        .collect();
    assert_eq!(files, there, "files without expected values");
}

#[test]
fn a_training_checkpoint_says_what_was_taken() {
    for file in ["training_zip.pth", "training_legacy.pth"] {
        let raw = Checkpoint::open(&folder().join(file), Which::Raw).unwrap();
        let origin = raw.origin();
        assert_eq!((origin.key, origin.which, origin.has_raw, origin.has_ema), (Some("model"), Which::Raw, true, true));
        let ema = Checkpoint::open(&folder().join(file), Which::Ema).unwrap();
        assert_eq!((ema.origin().key, ema.origin().which), (Some("state_dict_ema"), Which::Ema));
        assert_ne!(read(&raw, "head.weight"), read(&ema, "head.weight"));
    }
}

#[test]
fn an_average_that_is_not_there_is_an_error() {
    for file in ["bare_zip.pth", "model_legacy.pth", "expected.safetensors"] {
        let error = Checkpoint::open(&folder().join(file), Which::Ema).unwrap_err();
        assert!(error.to_string().contains("state_dict_ema"), "{error}");
        assert!(error.is_bad_data());
    }
}
