//! A small assembler for pickles and their containers.

use std::io::{Cursor, Write};

use mila_weights::{Checkpoint, Error};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

/// A pickle under construction; every method appends opcodes.
#[derive(Clone, Default)]
pub(crate) struct Pickle(pub(crate) Vec<u8>);

impl Pickle {
    pub(crate) fn new() -> Self {
        Self(vec![0x80, 2])
    }

    pub(crate) fn raw(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.0.extend_from_slice(bytes.as_ref());
        self
    }

    pub(crate) fn text(self, text: &str) -> Self {
        self.raw([b'X']).raw((text.len() as u32).to_le_bytes()).raw(text)
    }

    pub(crate) fn int(self, value: i64) -> Self {
        self.raw([0x8a, 8]).raw(value.to_le_bytes())
    }

    pub(crate) fn global(self, module: &str, name: &str) -> Self {
        self.raw(format!("c{module}\n{name}\n"))
    }

    pub(crate) fn ints(self, values: &[i64]) -> Self {
        values.iter().fold(self.raw("("), |pickle, &value| pickle.int(value)).raw("t")
    }

    /// A persistent storage of `class`.
    pub(crate) fn storage(self, class: &str, key: &str, count: i64) -> Self {
        self.raw("(").text("storage").global("torch", class).text(key).text("cpu").int(count).raw("tQ")
    }

    /// A tensor on the storage that `storage` appends.
    pub(crate) fn tensor(self, storage: impl Fn(Self) -> Self, offset: i64, shape: &[i64], strides: &[i64]) -> Self {
        let rebuild = self.global("torch._utils", "_rebuild_tensor_v2").raw("(");
        storage(rebuild).int(offset).ints(shape).ints(strides).raw([0x89]).raw("}tR")
    }

    /// A pickle of `{name: tensor}` over one float storage `0`.
    pub(crate) fn one_tensor(count: i64, offset: i64, shape: &[i64], strides: &[i64]) -> Vec<u8> {
        let storage = |pickle: Self| pickle.storage("FloatStorage", "0", count);
        Self::new().raw("}").text("w").tensor(storage, offset, shape, strides).stop_dict()
    }

    /// Sets one item and stops.
    pub(crate) fn stop_dict(self) -> Vec<u8> {
        self.raw("s.").0
    }
}

/// A zip file of stored or deflated entries.
pub(crate) fn zip(entries: &[(&str, &[u8])], method: CompressionMethod) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(method).with_alignment(64);
    for (name, bytes) in entries {
        writer.start_file(*name, options).unwrap();
        writer.write_all(bytes).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

/// A PyTorch zip container of stored entries.
pub(crate) fn torch_zip(pickle: &[u8], storages: &[(&str, &[u8])]) -> Vec<u8> {
    let names: Vec<_> = storages.iter().map(|(key, _)| format!("archive/data/{key}")).collect();
    let mut entries = vec![("archive/data.pkl", pickle), ("archive/byteorder", b"little".as_slice())];
    entries.extend(names.iter().zip(storages).map(|(name, (_, bytes))| (name.as_str(), *bytes)));
    zip(&entries, CompressionMethod::Stored)
}

/// A legacy container: storages are key, written count, bytes.
pub(crate) fn legacy(pickle: &[u8], storages: &[(&str, i64, &[u8])]) -> Vec<u8> {
    let mut file = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.".to_vec();
    file.extend(Pickle::new().int(1001).raw(".").0);
    file.extend(Pickle::new().raw("}").text("little_endian").raw([0x88]).stop_dict());
    file.extend_from_slice(pickle);
    let keys = storages.iter().fold(Pickle::new().raw("]("), |keys, (key, _, _)| keys.text(key));
    file.extend(keys.raw("e.").0);
    for (_, count, bytes) in storages {
        file.extend_from_slice(&count.to_le_bytes());
        file.extend_from_slice(bytes);
    }
    file
}

/// A safetensors file with this header.
pub(crate) fn safetensors(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

/// The bytes of floats.
pub(crate) fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// The error that `file` ends in; its message must say all of `parts`, and it must be bad data.
#[track_caller]
pub(crate) fn refused(file: Vec<u8>, parts: &[&str]) -> Error {
    let error = Checkpoint::from_bytes(file).expect_err("a hostile file was accepted");
    let message = error.to_string();
    for part in parts {
        assert!(message.contains(part), "expected {part:?} in {message:?}");
    }
    assert!(message.len() < 2000, "a message of {} bytes", message.len());
    assert!(error.is_bad_data(), "expected bad data, found {error:?}");
    error
}

/// The values of a float tensor.
#[track_caller]
pub(crate) fn values(checkpoint: &Checkpoint, name: &str) -> Vec<f32> {
    checkpoint.get(name).unwrap().values().unwrap().into_f32().into_owned()
}
