//! Writing safetensors: round trips, and failures that leave nothing behind.

use std::path::Path;

use half::{bf16, f16};
use mila_ops::Values;
use mila_weights::{Checkpoint, Error, Which, write_safetensors, write_tensors};

use crate::forge::values;

fn tensor(name: &str, values: &[f32]) -> (String, Vec<usize>, Values<'static>) {
    (name.into(), vec![values.len()], Values::F32(values.to_vec().into()))
}

#[test]
fn every_float_type_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    let tensors = [
        ("half".to_string(), vec![3], Values::F16(vec![f16::ONE; 3].into())),
        ("brain".to_string(), vec![1], Values::Bf16(vec![bf16::NEG_ONE].into())),
        ("single".to_string(), vec![1, 2], Values::F32(vec![1.5, f32::NEG_INFINITY].into())),
        ("double".to_string(), vec![], Values::F64(vec![0.1].into())),
        ("none".to_string(), vec![0, 4], Values::F32(vec![].into())),
    ];
    write_tensors(&path, tensors).unwrap();
    let checkpoint = Checkpoint::open(&path, Which::Raw).unwrap();
    assert_eq!(checkpoint.names().collect::<Vec<_>>(), ["double", "single", "none", "half", "brain"]);
    assert_eq!(checkpoint.get("double").unwrap().values().unwrap().into_f64(), [0.1].as_slice());
    assert_eq!(values(&checkpoint, "single"), [1.5, f32::NEG_INFINITY]);
    assert_eq!(values(&checkpoint, "half"), [1.0; 3]);
    assert_eq!(values(&checkpoint, "brain"), [-1.0]);
    assert_eq!(checkpoint.get("none").unwrap().shape(), [0, 4]);
    let header = std::fs::read(&path).unwrap();
    assert!(String::from_utf8_lossy(&header).contains(r#"{"__metadata__":{"format":"pt"}"#));
}

#[test]
fn real_checkpoints_convert() {
    let folder = tempfile::tempdir().unwrap();
    let pth = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pth");
    for file in ["layouts_zip.pth", "layouts_legacy.pth", "dtypes_zip.pth"] {
        let from = Checkpoint::open(&pth.join(file), Which::Raw).unwrap();
        let path = folder.path().join("model.safetensors");
        let left_out = write_safetensors(&from, &path).unwrap();
        assert_eq!(left_out, if file.starts_with("dtypes") { vec!["int64"] } else { vec![] });
        let to = Checkpoint::open(&path, Which::Raw).unwrap();
        for (name, tensor) in from.iter().filter(|(_, tensor)| tensor.dtype().is_float()) {
            let written = to.get(name).unwrap();
            assert_eq!((written.shape(), written.dtype()), (tensor.shape(), tensor.dtype()));
            assert_eq!(values(&to, name), values(&from, name), "{name}");
        }
        assert_eq!(to.names().count() + left_out.len(), from.names().count());
    }
}

#[test]
fn a_pth_is_never_written() {
    let folder = tempfile::tempdir().unwrap();
    let pth = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pth/bare_zip.pth");
    let from = Checkpoint::open(&pth, Which::Raw).unwrap();
    let error = write_safetensors(&from, &folder.path().join("x.PTH")).unwrap_err();
    assert!(matches!(error, Error::Unwritable { .. }) && !error.is_bad_data(), "{error}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn an_open_file_can_be_replaced_by_its_own_content() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    write_tensors(&path, [tensor("a", &[1.0, 2.0])]).unwrap();
    let checkpoint = Checkpoint::open(&path, Which::Raw).unwrap();
    write_safetensors(&checkpoint, &path).unwrap();
    assert_eq!(values(&checkpoint, "a"), [1.0, 2.0]);
    assert_eq!(values(&Checkpoint::open(&path, Which::Raw).unwrap(), "a"), [1.0, 2.0]);
}

#[test]
fn wrong_tensors_are_refused_before_writing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    let twice = write_tensors(&path, [tensor("a", &[1.0]), tensor("a", &[2.0])]).unwrap_err();
    assert!(twice.to_string().contains("another tensor of that name"), "{twice}");
    let reserved = write_tensors(&path, [tensor("__metadata__", &[1.0])]).unwrap_err();
    assert!(matches!(reserved, Error::Unwritable { .. }));
    let short = ("a".to_string(), vec![usize::MAX, 2], Values::F32(vec![1.0].into()));
    let short = write_tensors(&path, [short]).unwrap_err();
    assert!(short.to_string().contains("found 1 of them"), "{short}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn failures_name_the_path_and_leave_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    // No such folder; a folder in the place of the file.
    let absent = folder.path().join("absent/x.safetensors");
    let taken = folder.path().join("taken.safetensors");
    std::fs::create_dir(&taken).unwrap();
    std::fs::write(taken.join("content"), "x").unwrap();
    for path in [&absent, &taken] {
        let error = write_tensors(path, [tensor("a", &[1.0])]).unwrap_err();
        assert!(matches!(error, Error::Io { .. }) && !error.is_bad_data(), "{error:?}");
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    }
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["taken.safetensors"]);
}

#[cfg(target_os = "linux")]
#[test]
fn special_files_are_neither_read_nor_written() {
    for path in ["/dev/full", "/dev/zero"] {
        let error = Checkpoint::open(Path::new(path), Which::Raw).unwrap_err();
        assert!(matches!(error, Error::NotACheckpoint { .. }), "{error}");
    }
    // A folder in which not even root may write.
    let error = write_tensors(Path::new("/proc/x.safetensors"), [tensor("a", &[1.0])]).unwrap_err();
    assert!(matches!(error, Error::Io { .. }) && error.to_string().contains("/proc/x.safetensors"), "{error}");
}

/// Runs this very test again in a process that may write no more than a few kilobytes to a file, as on a full disk.
#[cfg(unix)]
#[test]
fn a_disk_that_fills_up_leaves_nothing_behind() {
    const FOLDER: &str = "MILA_TEST_SMALL_FILES_IN";
    if let Some(folder) = std::env::var_os(FOLDER) {
        let path = Path::new(&folder).join("x.safetensors");
        let error = write_tensors(&path, [tensor("a", &[1.0; 1 << 20])]).unwrap_err();
        assert!(matches!(error, Error::Io { .. }) && error.to_string().contains("x.safetensors"), "{error}");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("x.safetensors"), "what was there").unwrap();
    let test = "writing::a_disk_that_fills_up_leaves_nothing_behind";
    let output = std::process::Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 16; exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test])
        .env(FOLDER, folder.path())
        .output()
        .unwrap();
    let log = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && log.contains("1 passed"), "{log}");
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["x.safetensors"]);
    assert_eq!(std::fs::read(folder.path().join("x.safetensors")).unwrap(), b"what was there");
}

#[cfg(unix)]
#[test]
fn written_files_are_like_any_other() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let (ours, other) = (folder.path().join("x.safetensors"), folder.path().join("other"));
    write_tensors(&ours, [tensor("a", &[1.0])]).unwrap();
    std::fs::write(&other, "x").unwrap();
    let mode = |path| std::fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode(&ours), mode(&other));
}

#[test]
fn a_file_that_is_not_there_is_an_io_error() {
    let error = Checkpoint::open(Path::new("no/such/file.pth"), Which::Raw).unwrap_err();
    assert!(matches!(error, Error::Io { .. }) && error.to_string().contains("no/such/file.pth"), "{error}");
    assert!(!error.is_bad_data());
}
