//! Safetensors: an 8-byte length, a JSON header of that length, the tensors row-major and little-endian.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::io::Write;
use std::path::Path;

use mila_ops::Values;
use safetensors::SafeTensors;
use safetensors::tensor::{Metadata, TensorInfo};
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};

use crate::limits::{self, HEADER_BYTES};
use crate::select::{Skipped, Which, is_ignored, no_average, wrapper_prefix};
use crate::tensor::Tensor;
use crate::torch_state::Contents;
use crate::whole_file::write_whole;
use crate::{Dtype, Error, Origin, Result};

/// Whether a file may be one: a JSON object after eight bytes.
pub(crate) fn is_likely(file: &[u8]) -> bool {
    file.get(8) == Some(&b'{')
}

/// Reads the header; the tensors stay where they are.
pub(crate) fn read(file: &[u8], which: Which) -> Result<Contents> {
    if which == Which::Ema {
        return Err(no_average());
    }
    let broken = |what: String| Error::Safetensors { what };
    let Some((length, rest)) = file.split_first_chunk::<8>() else {
        return Err(Error::Truncated { what: "safetensors length".into(), expected: 8, found: file.len() as u64 });
    };
    let length = u64::from_le_bytes(*length);
    limits::at_most("bytes of a safetensors header", HEADER_BYTES, length)?;
    let Some(header) = rest.get(..length as usize) else {
        let found = rest.len() as u64;
        return Err(Error::Truncated { what: "safetensors header".into(), expected: length, found });
    };
    let mut json = serde_json::Deserializer::from_slice(header);
    json.deserialize_map(DistinctNames).map_err(|error| broken(error.to_string()))?;
    // Checks that the tensors cover the data without gap or overlap, and that shapes, types and offsets agree.
    let (_, metadata) = SafeTensors::read_metadata(file).map_err(|error| broken(error.to_string()))?;
    let data = 8 + header.len();
    let names = metadata.offset_keys();
    let prefix = wrapper_prefix(names.iter().map(String::as_str));
    let mut contents = Contents {
        tensors: Vec::new(),
        skipped: Vec::new(),
        origin: Origin { key: None, which, has_raw: true, has_ema: false },
    };
    for full in &names {
        let Some(info) = metadata.info(full) else { continue };
        let name = &full[prefix..];
        limits::at_most("dimensions of a tensor", limits::RANK as u64, info.shape.len() as u64)?;
        let Some(dtype) = Dtype::from_safetensors(info.dtype) else {
            contents.skipped.push(Skipped { name: name.into(), found: format!("a tensor of {}", info.dtype) });
            continue;
        };
        if !is_ignored(name) {
            let bytes = data + info.data_offsets.0..data + info.data_offsets.1;
            let shape = info.shape.clone();
            contents.tensors.push(Tensor { name: name.into(), shape, dtype, part: 0, bytes, strides: None });
        }
    }
    Ok(contents)
}

/// Refuses a JSON object that has a key twice: of those, the parser behind would silently keep one.
struct DistinctNames;

impl<'de> Visitor<'de> for DistinctNames {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors by name")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<(), A::Error> {
        let mut names = HashSet::new();
        while let Some(name) = map.next_key::<String>()? {
            map.next_value::<IgnoredAny>()?;
            if let Some(name) = names.replace(name) {
                let found = name.escape_debug();
                return Err(serde::de::Error::custom(format!("expected distinct names, found `{found}` twice")));
            }
        }
        Ok(())
    }
}

/// Writes tensors (name, shape, values row-major) as the safetensors file `path`, whole or not at all: beside it, then
/// renamed. The header says that the names are PyTorch's (`"format": "pt"`); wide types come first, so that each tensor
/// is aligned.
///
/// # Errors
/// [`Error::Io`] with the path, leaving nothing behind; [`Error::Unwritable`] for a name twice or values that do not fill
/// their shape.
pub fn write_tensors<'a>(
    path: &Path,
    tensors: impl IntoIterator<Item = (String, Vec<usize>, Values<'a>)>,
) -> Result<()> {
    let mut tensors: Vec<_> = tensors.into_iter().collect();
    tensors.sort_by_key(|(_, _, values)| std::cmp::Reverse(dtype(values).0));
    let mut names = HashSet::from(["__metadata__"]);
    let mut infos = Vec::new();
    let mut at = 0;
    for (name, shape, values) in &tensors {
        let volume = shape.iter().try_fold(1_usize, |volume, &n| volume.checked_mul(n));
        if volume != Some(values.len()) {
            let found = format!("{} of them", values.len());
            let expected = format!("values for the shape {shape:?}");
            return Err(Error::Unwritable { what: format!("`{name}`"), expected, found });
        }
        if !names.insert(name) {
            let (expected, found) = ("a name of its own".into(), "another tensor of that name".into());
            return Err(Error::Unwritable { what: format!("`{name}`"), expected, found });
        }
        let (size, dtype) = dtype(values);
        let end = at + values.len() * size;
        infos.push((name.clone(), TensorInfo { dtype, shape: shape.clone(), data_offsets: (at, end) }));
        at = end;
    }
    let unwritable = |found: String| Error::Unwritable {
        what: path.display().to_string(),
        expected: "a valid safetensors header".into(),
        found,
    };
    let format = HashMap::from([("format".into(), "pt".into())]);
    let metadata = Metadata::new(Some(format), infos).map_err(|error| unwritable(error.to_string()))?;
    let mut header = serde_json::to_vec(&metadata).map_err(|error| unwritable(error.to_string()))?;
    header.resize(header.len().next_multiple_of(8), b' ');
    write_whole(path, |file| {
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(&header)?;
        tensors.iter().try_for_each(|(_, _, values)| file.write_all(bytes(values)))
    })
}

/// Bytes of an element, and its type.
fn dtype(values: &Values<'_>) -> (usize, safetensors::Dtype) {
    match values {
        Values::F64(_) => (8, safetensors::Dtype::F64),
        Values::F32(_) => (4, safetensors::Dtype::F32),
        Values::F16(_) => (2, safetensors::Dtype::F16),
        Values::Bf16(_) => (2, safetensors::Dtype::BF16),
    }
}

fn bytes<'v>(values: &'v Values<'_>) -> &'v [u8] {
    match values {
        Values::F64(values) => bytemuck::cast_slice(values),
        Values::F32(values) => bytemuck::cast_slice(values),
        Values::F16(values) => bytemuck::cast_slice(values),
        Values::Bf16(values) => bytemuck::cast_slice(values),
    }
}
