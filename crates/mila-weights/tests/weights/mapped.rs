//! Large files are mapped: opening one neither reads nor copies its tensors.

use std::borrow::Cow;
use std::path::Path;
use std::time::Instant;

use mila_ops::Values;
use mila_weights::{Checkpoint, Which, write_tensors};

use crate::forge::{Pickle, torch_zip};

const COUNT: usize = 25 << 20;

/// Opens a file of 100 MiB and takes its tensor, in milliseconds.
#[track_caller]
fn opens_by_reference(path: &Path) -> f64 {
    let start = Instant::now();
    let checkpoint = Checkpoint::open(path, Which::Raw).unwrap();
    let tensor = checkpoint.get("w").unwrap();
    let values = tensor.values().unwrap();
    let taken = start.elapsed().as_secs_f64() * 1e3;
    let Values::F32(Cow::Borrowed(values)) = values else {
        panic!("the tensor was copied");
    };
    assert_eq!((values.len(), values[0], values[COUNT - 1]), (COUNT, 0.5, 0.5));
    taken
}

#[test]
fn a_large_safetensors_file_is_borrowed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    write_tensors(&path, [("w".into(), vec![COUNT], Values::F32(vec![0.5; COUNT].into()))]).unwrap();
    let taken = opens_by_reference(&path);
    eprintln!("safetensors of 100 MiB: opened in {taken:.3} ms");
}

#[test]
fn a_large_pth_file_is_borrowed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.pth");
    let count = COUNT as i64;
    let data = 0.5_f32.to_le_bytes().repeat(COUNT);
    let pickle = Pickle::one_tensor(count, 0, &[count], &[1]);
    std::fs::write(&path, torch_zip(&pickle, &[("0", &data)])).unwrap();
    let taken = opens_by_reference(&path);
    eprintln!("pth of 100 MiB: opened in {taken:.3} ms");
}
