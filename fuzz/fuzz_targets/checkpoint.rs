//! Bytes as a checkpoint of any container: every tensor is read.

#![no_main]

use std::hint::black_box;

use libfuzzer_sys::fuzz_target;
use mila_weights::Checkpoint;

fuzz_target!(|bytes: &[u8]| {
    let Ok(checkpoint) = Checkpoint::from_bytes(bytes.to_vec()) else { return };
    for (name, tensor) in checkpoint.iter() {
        let elements: usize = tensor.shape().iter().product();
        match (tensor.values(), tensor.integers()) {
            (Some(values), None) => assert_eq!(values.len(), elements, "{name}"),
            (None, Some(integers)) => assert_eq!(integers.len(), elements, "{name}"),
            _ => panic!("{name} is neither floats nor integers"),
        }
        assert!(checkpoint.get(name).is_some(), "{name} is listed, but not found");
    }
    black_box(checkpoint.skipped());
});
