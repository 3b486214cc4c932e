//! Checkpoints against what a model wants.

use mila_ops::{Init, Source, Wanted};
use mila_weights::{Allow, Checkpoint, Error};

use crate::forge::{floats, safetensors};

fn checkpoint() -> Checkpoint {
    let header = r#"{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},
        "head.weight":{"dtype":"F32","shape":[1,2],"data_offsets":[8,16]},
        "norm.weight":{"dtype":"F32","shape":[1],"data_offsets":[16,20]},
        "norm.num_batches_tracked":{"dtype":"I64","shape":[],"data_offsets":[20,28]},
        "index":{"dtype":"I32","shape":[1],"data_offsets":[28,32]},
        "small":{"dtype":"F8_E4M3","shape":[4],"data_offsets":[32,36]}}"#;
    Checkpoint::from_bytes(safetensors(header, &floats(&[1.0, 2.0, 3.0, 4.0, 5.0, 0.0, 0.0, 0.0, 0.0]))).unwrap()
}

fn wanted(name: &str, shape: &[usize]) -> Wanted {
    Wanted::parameter(name.into(), shape, Init::Ones)
}

#[test]
fn a_fitting_checkpoint_is_a_source() {
    let checkpoint = checkpoint();
    let manifest = [wanted("w", &[2]), wanted("head.weight", &[1, 2]), wanted("norm.weight", &[1])];
    let allow = Allow { unused: &|name| name == "index", ..Allow::NOTHING };
    let allowed = checkpoint.check(&manifest, &allow).unwrap();
    assert_eq!(allowed.unused, ["index"]);
    assert_eq!(checkpoint.fetch(&manifest[1]).unwrap().into_f32(), [3.0, 4.0].as_slice());
    let error = checkpoint.load(&wanted("v", &[2])).unwrap_err();
    assert!(error.to_string().contains("`v`") && error.to_string().contains("found none"), "{error}");
    let error = checkpoint.load(&wanted("w", &[1, 2])).unwrap_err();
    assert!(
        error.to_string().contains("expected a float tensor of [1, 2] in the checkpoint, found one of [2]"),
        "{error}"
    );
    let error = checkpoint.load(&wanted("index", &[1])).unwrap_err();
    assert!(error.to_string().contains("found int32 values"), "{error}");
}

/// Some checkpoints of VMamba hold linear maps as 1x1 convolutions.
#[test]
fn a_convolution_of_one_pixel_is_a_linear_map() {
    let header = r#"{"fc.weight":{"dtype":"F32","shape":[1,2,1,1],"data_offsets":[0,8]}}"#;
    let checkpoint = Checkpoint::from_bytes(safetensors(header, &floats(&[1.0, 2.0]))).unwrap();
    let linear = wanted("fc.weight", &[1, 2]);
    assert!(checkpoint.check(std::slice::from_ref(&linear), &Allow::NOTHING).is_ok());
    assert_eq!(checkpoint.fetch(&linear).unwrap().into_f32(), [1.0, 2.0].as_slice());
    for shape in [&[1, 2, 1][..], &[2, 1], &[1]] {
        assert!(checkpoint.check(&[wanted("fc.weight", shape)], &Allow::NOTHING).is_err(), "{shape:?}");
    }
}

#[test]
fn all_differences_are_listed_at_once() {
    let manifest =
        [wanted("w", &[3]), wanted("absent", &[4, 4]), wanted("index", &[1]), wanted("small", &[4]), wanted("x", &[1])];
    let mismatch = checkpoint().check(&manifest, &Allow::NOTHING).unwrap_err();
    let expected = "\
the checkpoint does not fit the model
  2 missing from the checkpoint:
    absent [4, 4]
    x [1]
  1 of the wrong shape:
    w: expected [3], found [2]
  2 not readable as floats:
    index: expected a float tensor, found int32 values
    small: expected a float tensor, found a tensor of F8_E4M3
  2 not part of the model:
    head.weight [1, 2]
    norm.weight [1]";
    assert_eq!(mismatch.to_string(), expected);
    assert!(Error::from(mismatch).is_bad_data());
}

#[test]
fn long_lists_are_cut() {
    let manifest: Vec<_> = (0..50).map(|at| wanted(&format!("layer{at}"), &[1])).collect();
    let text = checkpoint().check(&manifest, &Allow::NOTHING).unwrap_err().to_string();
    assert!(text.contains("50 missing") && text.contains("layer39 [1]\n    and 10 more"), "{text}");
    assert!(!text.contains("layer40"));
}

#[test]
fn a_new_head_may_be_missing_or_of_another_shape() {
    let checkpoint = checkpoint();
    let manifest = [wanted("w", &[2]), wanted("head.weight", &[7, 2]), wanted("norm0.weight", &[1])];
    let allow = Allow {
        fresh: &|name| name.starts_with("head.") || name.starts_with("norm0."),
        unused: &|name| name == "index" || name.starts_with("norm."),
    };
    let allowed = checkpoint.check(&manifest, &allow).unwrap();
    assert_eq!(allowed.fresh, ["head.weight", "norm0.weight"]);
}
