//! PyTorch's container before 1.6: five pickles in a row, then the storages (torch/serialization.py, `_legacy_save`).

use std::collections::HashMap;
use std::ops::Range;

use crate::pickle::{self, Id, Node, Pickle};
use crate::select::Which;
use crate::torch_state::{self, Contents, Storages};
use crate::torch_tensor::{Storage, storage_of};
use crate::{Error, Result};

const MAGIC: i128 = 0x1950_a86a_20f9_469c_fc6c;
const PROTOCOL: i128 = 1001;

/// Whether a file may be one: its first pickle starts with a protocol, or, in protocol 1, with the magic number itself.
pub(crate) fn is_likely(file: &[u8]) -> bool {
    file.first() == Some(&0x80) || file.starts_with(format!("L{MAGIC}L\n").as_bytes())
}

/// Reads a container: magic number, protocol, system, the pickle, the keys of the storages, the storages.
pub(crate) fn read(file: &[u8], which: Which) -> Result<Contents> {
    let mut at = 0;
    let mut next = |what: &'static str| {
        let (pickle, used) = pickle::load(&file[at..]).map_err(|error| match error {
            // Offsets are the file's, not the pickle's.
            Error::Pickle { offset, what: problem } => {
                Error::Pickle { offset: at + offset, what: format!("{what}: {problem}") }
            }
            other => other,
        })?;
        at += used;
        Ok::<_, Error>((pickle, at))
    };
    let (magic, _) = next("magic number")?;
    if magic.int(magic.root()) != Some(MAGIC) {
        let expected = "a PyTorch container (a pickle of its magic number)";
        return Err(Error::NotACheckpoint { expected, found: format!("a pickle of {}", magic.describe(magic.root())) });
    }
    let (protocol, _) = next("protocol")?;
    let version = protocol.int(protocol.root());
    if version != Some(PROTOCOL) {
        let found = version.map_or_else(|| protocol.describe(protocol.root()), |version| version.to_string());
        return Err(Error::torch("protocol", format!("expected {PROTOCOL}, found {found}")));
    }
    let (system, _) = next("system")?;
    let little = system.entry(system.root(), "little_endian");
    if !little.is_some_and(|id| matches!(system.get(id), Node::Bool(true))) {
        return Err(Error::torch("system", "expected a little-endian file, found another"));
    }
    let (main, _) = next("state dict")?;
    let (keys, start) = next("storage keys")?;
    let mut storages = Raw { places: places(file, start, &main, &keys)? };
    torch_state::read(&main, which, file.len(), &mut storages)
}

/// Where each storage lies: elements as a signed 64-bit integer, then the elements, in the order of the keys.
fn places(file: &[u8], mut at: usize, main: &Pickle<'_>, keys: &Pickle<'_>) -> Result<HashMap<String, Range<usize>>> {
    let declared = declared(main)?;
    let Some(keys_list) = keys.sequence(keys.root()) else {
        return Err(Error::torch("storage keys", format!("expected a list, found {}", keys.describe(keys.root()))));
    };
    let mut places = HashMap::new();
    for &key in keys_list {
        let Some(key) = keys.text(key) else {
            return Err(Error::torch("storage keys", format!("expected text, found {}", keys.describe(key))));
        };
        let place = || format!("storage `{}`", pickle::quoted(key));
        let Some((size, count)) = declared.get(key) else {
            return Err(Error::torch(place(), "expected a tensor that uses it, found none"));
        };
        let truncated = |expected, found| Error::Truncated { what: place(), expected, found };
        let left = &file[at..];
        let Some((length, left)) = left.split_first_chunk::<8>() else {
            return Err(truncated(8, left.len() as u64));
        };
        let length = i64::from_le_bytes(*length);
        if u64::try_from(length).ok() != Some(*count) {
            return Err(Error::torch(place(), format!("expected {count} elements, found {length}")));
        }
        let bytes = count.saturating_mul(*size as u64);
        let Some(bytes) = usize::try_from(bytes).ok().filter(|&bytes| bytes <= left.len()) else {
            return Err(truncated(bytes, left.len() as u64));
        };
        at += 8;
        if places.insert(key.to_string(), at..at + bytes).is_some() {
            return Err(Error::torch(place(), "expected one, found two"));
        }
        at += bytes;
    }
    Ok(places)
}

/// Bytes of an element and number of elements of every storage that the pickle names.
fn declared<'p>(main: &'p Pickle<'_>) -> Result<HashMap<&'p str, (usize, u64)>> {
    let mut declared = HashMap::new();
    let identifiers = main.ids().filter_map(|id: Id| match main.get(id) {
        Node::Persistent(identifier) => Some(*identifier),
        _ => None,
    });
    for identifier in identifiers {
        // A pickled module names its source code in the same way.
        if main.sequence(identifier).and_then(|s| main.text(*s.first()?)) == Some("module") {
            continue;
        }
        let storage = storage_of(main, identifier).map_err(|what| Error::torch("storage", what))?;
        let place = || format!("storage `{}`", pickle::quoted(storage.key));
        let Some(size) = storage.element_size() else {
            let found = pickle::quoted(storage.class);
            return Err(Error::torch(place(), format!("expected a known class of storages, found {found}")));
        };
        let known = *declared.entry(storage.key).or_insert((size, storage.count));
        if known != (size, storage.count) {
            let found = format!("expected one size, found {known:?} and {:?}", (size, storage.count));
            return Err(Error::torch(place(), found));
        }
    }
    Ok(declared)
}

struct Raw {
    places: HashMap<String, Range<usize>>,
}

impl Storages for Raw {
    fn find(&mut self, storage: &Storage<'_>, _bytes: u64) -> Result<(usize, Range<usize>)> {
        match self.places.get(storage.key) {
            // Its size was checked when it was placed; one class and one count go with a key.
            Some(range) => Ok((0, range.clone())),
            None => Err(Error::torch(
                format!("storage `{}`", pickle::quoted(storage.key)),
                "expected one in the file, found none",
            )),
        }
    }
}
