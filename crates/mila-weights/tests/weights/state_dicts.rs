//! Where a state dict may be, and what may stand beside its tensors.

use mila_weights::{Checkpoint, Dtype, Which};
use zip::CompressionMethod;

use crate::forge::{Pickle, floats, legacy, refused, torch_zip, values, zip};

fn float(key: &'static str, count: i64) -> impl Fn(Pickle) -> Pickle {
    move |pickle| pickle.storage("FloatStorage", key, count)
}

#[test]
fn only_an_average_is_taken_and_said() {
    let pickle = Pickle::new().raw("}").text("state_dict_ema").raw("}").text("module.w");
    let pickle = pickle.tensor(float("0", 2), 0, &[2], &[1]).raw("s").stop_dict();
    let checkpoint = Checkpoint::from_bytes(torch_zip(&pickle, &[("0", &floats(&[1.0, 2.0]))])).unwrap();
    assert_eq!(values(&checkpoint, "w"), [1.0, 2.0]);
    let origin = checkpoint.origin();
    assert_eq!((origin.which, origin.has_raw, origin.has_ema), (Which::Ema, false, true));
}

#[test]
fn deflated_entries_are_inflated_once() {
    let pickle = Pickle::new().raw("}(").text("a").tensor(float("0", 4), 0, &[2], &[1]);
    let pickle = pickle.text("b").tensor(float("0", 4), 2, &[2], &[1]).raw("u.").0;
    let data = floats(&[1.0, 2.0, 3.0, 4.0]);
    let entries = [("x/data.pkl", pickle.as_slice()), ("x/data/0", &data)];
    let checkpoint = Checkpoint::from_bytes(zip(&entries, CompressionMethod::Deflated)).unwrap();
    assert_eq!(values(&checkpoint, "a"), [1.0, 2.0]);
    assert_eq!(values(&checkpoint, "b"), [3.0, 4.0]);
}

#[test]
fn neighbours_of_tensors_are_skipped_and_listed() {
    let pickle = Pickle::new().raw("}(").text("w").tensor(float("0", 1), 0, &[1], &[1]);
    let pickle = pickle.text("epoch").int(3).text("args").global("argparse", "Namespace").raw(")R");
    let complex = |pickle: Pickle| pickle.storage("ComplexFloatStorage", "1", 1);
    let pickle = pickle.text("c").tensor(complex, 0, &[1], &[1]).raw("u.").0;
    for file in [
        torch_zip(&pickle, &[("0", &floats(&[5.0])), ("1", &[0; 8])]),
        legacy(&pickle, &[("1", 1, &[0; 8]), ("0", 1, &floats(&[5.0]))]),
    ] {
        let checkpoint = Checkpoint::from_bytes(file).unwrap();
        assert_eq!(values(&checkpoint, "w"), [5.0]);
        let skipped: Vec<_> = checkpoint.skipped().iter().map(|s| (s.name.as_str(), s.found.as_str())).collect();
        let expected = [
            ("epoch", "an int"),
            ("args", "an object of argparse.Namespace"),
            ("c", "a tensor in a ComplexFloatStorage"),
        ];
        assert_eq!(skipped, expected);
    }
}

#[test]
fn a_key_that_is_set_twice_has_the_last_value() {
    let pickle = Pickle::new().raw("}(").text("w").tensor(float("0", 2), 0, &[1], &[1]);
    let pickle = pickle.text("w").tensor(float("0", 2), 1, &[1], &[1]).raw("u.").0;
    let checkpoint = Checkpoint::from_bytes(torch_zip(&pickle, &[("0", &floats(&[1.0, 2.0]))])).unwrap();
    assert_eq!(values(&checkpoint, "w"), [2.0]);
    assert_eq!(checkpoint.names().count(), 1);
}

#[test]
fn an_ordered_dict_of_python_2_is_read() {
    let pickle = Pickle::new().global("collections", "OrderedDict").raw("(](](").raw("U\x01w");
    let pickle = pickle.tensor(float("0", 1), 0, &[1], &[1]).raw("eetR.").0;
    let checkpoint = Checkpoint::from_bytes(torch_zip(&pickle, &[("0", &floats(&[7.0]))])).unwrap();
    assert_eq!(values(&checkpoint, "w"), [7.0]);
}

#[test]
fn integers_are_entries_of_their_own_type() {
    let long = |pickle: Pickle| pickle.storage("LongStorage", "0", 2);
    let pickle = Pickle::new().raw("}").text("index").tensor(long, 0, &[2], &[1]).stop_dict();
    let data = [3_i64.to_le_bytes(), (-4_i64).to_le_bytes()].concat();
    let checkpoint = Checkpoint::from_bytes(torch_zip(&pickle, &[("0", &data)])).unwrap();
    let tensor = checkpoint.get("index").unwrap();
    assert_eq!((tensor.dtype(), tensor.integers()), (Dtype::I64, Some(vec![3, -4])));
    assert!(tensor.values().is_none());
}

#[test]
fn what_holds_no_tensors_is_described() {
    let pickle = Pickle::new().raw("}(").text("epoch").int(1).text("model").raw("}u.").0;
    refused(torch_zip(&pickle, &[]), &["expected tensors by name", "`epoch` (an int)", "`model` (a dict)"]);

    let module = Pickle::new().global("models.mlla", "MLLA").raw([b')', 0x81, b'}']).text("_modules").raw("}sb.").0;
    refused(torch_zip(&module, &[]), &["an object of models.mlla.MLLA", "state_dict()"]);

    refused(b"".to_vec(), &["an empty file"]);
    refused(b"\x1f\x8b\x08 and so on".to_vec(), &["gzip"]);
    refused(Pickle::new().raw("}.").0, &["magic number", "a dict"]);
    let mut tar = vec![0; 1024];
    tar[..8].copy_from_slice(b"sys_info");
    tar[257..262].copy_from_slice(b"ustar");
    refused(tar, &["a tar archive"]);
}
