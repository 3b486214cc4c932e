//! Pickles that lie, explode, or want to be executed.

use mila_weights::{Checkpoint, Error};

use crate::forge::{Pickle, floats, legacy, refused, torch_zip, values};

/// The pickle in both containers, refused with the same message.
#[track_caller]
fn refused_in_both(pickle: Pickle, parts: &[&str]) {
    refused(torch_zip(&pickle.0, &[]), parts);
    refused(legacy(&pickle.0, &[]), parts);
}

#[test]
fn calls_are_data() {
    // The classic exploit: `os.system("touch ...")` on loading.
    let proof = std::env::temp_dir().join("mila-weights-executed");
    let command = format!("touch {}", proof.display());
    let pickle = Pickle::new().global("os", "system").raw("(").text(&command).raw("tR.");
    refused_in_both(pickle, &["an object of os.system"]);

    // Beside tensors it is listed, not executed, and the tensors are read.
    let storage = |pickle: Pickle| pickle.storage("FloatStorage", "0", 1);
    let pickle = Pickle::new().raw("}(").text("w").tensor(storage, 0, &[1], &[1]);
    let pickle = pickle.text("x").global("os", "system").raw("(").text(&command).raw("tRu.");
    let checkpoint = Checkpoint::from_bytes(torch_zip(&pickle.0, &[("0", &floats(&[1.0]))])).unwrap();
    assert_eq!(values(&checkpoint, "w"), [1.0]);
    assert_eq!(checkpoint.skipped()[0].found, "an object of os.system");
    assert!(!proof.exists());
}

#[test]
fn deep_nesting_takes_no_call_stack() {
    let depth = 100_000;
    let lists = Pickle::new().raw("]".repeat(depth)).raw("a".repeat(depth - 1)).raw(".");
    refused_in_both(lists, &["found a list"]);
    let tuples = Pickle::new().raw(")").raw(vec![0x85; depth]).raw(".");
    refused_in_both(tuples, &["found a tuple"]);
    let parameters = Pickle::new().raw("}").text("w").raw(")");
    let parameter = Pickle(Vec::new()).global("torch._utils", "_rebuild_parameter").0;
    // Each parameter is the argument of the next: function, memo 0, tuple, call.
    let chain: Vec<u8> = (0..depth).flat_map(|_| [&b"q\0"[..], &parameter, b"h\0\x85R"].concat()).collect();
    refused_in_both(parameters.raw(chain).raw("s."), &["expected tensors by name"]);
}

#[test]
fn cycles_end() {
    // A list in itself; a dict in itself under `model`; an object whose state is itself.
    refused_in_both(Pickle::new().raw("]q\0h\0a."), &["found a list"]);
    refused_in_both(Pickle::new().raw("}q\0").text("model").raw("h\0s."), &["`model` (a dict)"]);
    let cycle = Pickle::new().global("a", "B").raw([b')', 0x81]).raw("q\0h\0bh\0.");
    refused_in_both(cycle, &["an object of a.B"]);
}

#[test]
fn declared_sizes_are_not_allocated() {
    let huge = (1_u64 << 60).to_le_bytes();
    for opcode in [0x8e, 0x8d, 0x96] {
        refused_in_both(Pickle::new().raw([opcode]).raw(huge), &["expected 1152921504606846976 bytes"]);
    }
    for opcode in [b'X', b'B'] {
        refused_in_both(Pickle::new().raw([opcode]).raw(u32::MAX.to_le_bytes()), &["expected 4294967295 bytes"]);
    }
    refused_in_both(Pickle::new().raw([0x8b]).raw(i32::MAX.to_le_bytes()), &["expected 2147483647 bytes"]);
    refused_in_both(Pickle::new().raw([0x8b]).raw((-1_i32).to_le_bytes()), &["expected a length, found -1"]);
    refused_in_both(Pickle::new().raw([b'T']).raw(i32::MIN.to_le_bytes()), &["expected a length"]);
    // A frame is not believed either way: what follows decides.
    let framed = Pickle::new().raw([0x95]).raw(huge).raw("}.");
    refused_in_both(framed, &["expected tensors by name"]);
}

#[test]
fn too_many_values_are_refused() {
    let many = Pickle::new().raw("]".repeat(3 << 20)).raw(".");
    assert!(matches!(refused(torch_zip(&many.0, &[]), &["values of one pickle"]), Error::Hostile { .. }));
    let memo: Vec<u8> = (0..3_u32 << 20).flat_map(|key| [&b"r"[..], &key.to_le_bytes()].concat()).collect();
    refused_in_both(Pickle::new().raw("]").raw(memo).raw("."), &["memo entries"]);
    for push in [b'(', b'2'] {
        refused_in_both(Pickle::new().raw("N").raw(vec![push; 3 << 20]).raw("."), &["values on the stack"]);
    }
    let long = Pickle::new().raw([0x80, 2].repeat(33 << 20)).raw("N.");
    refused(legacy(&long.0, &[]), &["bytes of one pickle"]);
    refused(torch_zip(&long.0, &[]), &["bytes of a zip entry"]);
}

#[test]
fn shared_values_do_not_multiply() {
    // A tuple of two of the one before, forty times: 2^40 leaves, 40 values.
    let bomb = (0..40).fold(Pickle::new().raw(")"), |pickle, _| pickle.raw([b'2', 0x86]));
    refused_in_both(bomb.raw("."), &["found a tuple"]);
    // A dict that holds the same large dict thousands of times.
    let inner = (0..1000).fold(Pickle::new().raw("}("), |pickle, key| pickle.int(key).raw("N"));
    let outer = inner.raw("uq\0").raw("}(");
    let outer = (0..1000).fold(outer, |pickle, key| pickle.text(&format!("{key}")).raw("h\0"));
    refused_in_both(outer.raw("u."), &["expected tensors by name", "and 992 more"]);
}

#[test]
fn long_texts_are_no_names() {
    let storage = |pickle: Pickle| pickle.storage("FloatStorage", "0", 1);
    let pickle = Pickle::new().raw("}").text(&"x".repeat(5000)).tensor(storage, 0, &[1], &[1]).raw("s.");
    refused_in_both(pickle, &["expected tensors by name"]);
    let storage = |pickle: Pickle| pickle.storage("FloatStorage", &"0".repeat(5000), 1);
    let pickle = Pickle::new().raw("}").text("w").tensor(storage, 0, &[1], &[1]).raw("s.");
    refused_in_both(pickle, &["expected the name of a storage, found bytes"]);
}

#[test]
fn broken_programs_are_errors_at_their_opcode() {
    refused(torch_zip(b"", &[]), &["pickle, byte 0", "no STOP"]);
    refused(torch_zip(b"\x80\x02}", &[]), &["pickle, byte 3", "no STOP"]);
    refused(torch_zip(b"\x80\x06}.", &[]), &["pickle, byte 0", "protocol 0 to 5, found 6"]);
    for (opcode, name) in [(b'i', "INST"), (b'o', "OBJ"), (b'S', "STRING"), (b'P', "PERSID"), (0x82, "EXT1")] {
        refused(torch_zip(&[0x80, 2, opcode], &[]), &["pickle, byte 2", name]);
    }
    for opcode in [0x97, 0x98, 0xff, b'z', 0] {
        refused(torch_zip(&[0x80, 2, opcode], &[]), &["byte 2", &format!("0x{opcode:02x}")]);
    }
    let underflow = [
        ".", "0", "1", "2", "R", "b", "s", "u", "a", "e", "t", "l", "d", "Q", "q\0", "(a", "](a", "}(s", "((.", "N(.",
        "Nb", "Ns", "NNs", "Na", "NNR", "NNb", "}NNNs", "](NNu", "}(Nu", "}(Nd", "}Nb",
    ];
    for program in underflow {
        let error = refused(torch_zip(program.as_bytes(), &[]), &[]);
        assert!(matches!(error, Error::Pickle { .. }), "{program}: {error}");
    }
    for program in [&[0x81][..], &[0x85], &[0x86], &[b'N', 0x86], &[b'(', 0x85], &[0x93], &[b'N', b'N', 0x93], &[0x94]]
    {
        let error = refused(torch_zip(program, &[]), &[]);
        assert!(matches!(error, Error::Pickle { .. }), "{program:?}: {error}");
    }
    refused(torch_zip(b"h\x07.", &[]), &["memo 7, found none"]);
    refused(torch_zip(b"gx\n.", &[]), &["a memo index, found `x`"]);
    refused(torch_zip(b"Ix\n.", &[]), &["an integer, found `x`"]);
    refused(torch_zip(b"Fx\n.", &[]), &["a float, found `x`"]);
    refused(torch_zip(b"X\x01\0\0\0\xff.", &[]), &["UTF-8"]);
    refused(torch_zip(&Pickle::new().raw("c").raw("m".repeat(5000)).raw("\n").0, &[]), &["no end of line"]);
}

#[test]
fn tensors_that_lie_about_themselves_are_errors() {
    let data = floats(&[1.0, 2.0, 3.0, 4.0]);
    // Elements, offset, shape, strides, and what the message says.
    type Case = (i64, i64, &'static [i64], &'static [i64], &'static str);
    let cases: [Case; 12] = [
        (4, 0, &[5], &[1], "within its storage of 4 elements"),
        (4, 1, &[4], &[1], "within its storage"),
        (4, 0, &[2, 2], &[i64::MAX, 1], "within its storage"),
        (4, i64::MAX, &[1], &[1], "within its storage"),
        (4, 0, &[i64::MAX, i64::MAX], &[0, 0], "a shape in memory"),
        (4, 0, &[i64::MAX, 4], &[1, i64::MAX], "within its storage"),
        (4, 0, &[1 << 40], &[0], "bytes of tensors"),
        (4, 0, &[-1], &[1], "a size, found -1"),
        (4, 0, &[2], &[-1], "a stride, found -1"),
        (4, -1, &[2], &[1], "an offset, found -1"),
        (4, 0, &[2, 2], &[1], "a stride for each of 2 dimensions, found 1"),
        (4, 0, &[1; 65], &[1; 65], "at most 64 dimensions"),
    ];
    for (count, offset, shape, strides, what) in cases {
        let pickle = Pickle::one_tensor(count, offset, shape, strides);
        refused(torch_zip(&pickle, &[("0", &data)]), &[what]);
        refused(legacy(&pickle, &[("0", count, &data)]), &[what]);
    }
    for count in [5, 3, 0, i64::MAX, -1] {
        let pickle = Pickle::one_tensor(count, 0, &[1], &[1]);
        refused(torch_zip(&pickle, &[("0", &data)]), &["expected"]);
    }
}

#[test]
fn tensors_of_other_things_are_errors() {
    let rebuild = || Pickle::new().raw("}").text("w").global("torch._utils", "_rebuild_tensor_v2");
    refused_in_both(rebuild().raw(")Rs."), &["tensor `w`", "found 0 arguments"]);
    refused_in_both(rebuild().raw("(NNNNtRs."), &["a storage, found None"]);
    refused_in_both(rebuild().raw("(N").raw("QNNNtRs."), &["the identifier of a storage"]);
    refused_in_both(rebuild().raw("((").text("storage").raw("NNNNtQNNNtRs."), &["a class of storages, found None"]);
    let evil = rebuild().raw("((").text("storage").global("os", "system").text("0").text("cpu").int(1);
    refused_in_both(evil.raw("tQNNNtRs."), &["a class of storages, found the class os.system"]);
    let view = rebuild().raw("((").text("storage").global("torch", "FloatStorage").text("0").text("cpu").int(1);
    refused_in_both(view.raw(")tQNNNtRs."), &["a view of another"]);
}
