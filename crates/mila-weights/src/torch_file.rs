//! PyTorch's zip container, written since 1.6: `*/data.pkl`, and a storage in each `*/data/KEY`.

use std::collections::HashMap;
use std::ops::Range;

use crate::limits::{self, PICKLE_BYTES};
use crate::pickle;
use crate::select::Which;
use crate::torch_state::{self, Contents, Storages};
use crate::torch_tensor::Storage;
use crate::zip_directory::ZipDirectory;
use crate::{Error, Result};

/// How a zip file starts; the second is an empty one.
pub(crate) const MAGIC: [&[u8]; 2] = [b"PK\x03\x04", b"PK\x05\x06"];

/// Reads a container; returns its tensors and the storages that had to be inflated, which are parts 1 and up.
pub(crate) fn read(file: &[u8], which: Which) -> Result<(Contents, Vec<Vec<u8>>)> {
    let directory = ZipDirectory::read(file)?;
    let prefix = prefix(&directory)?;
    if let Some(entry) = directory.entry(&format!("{prefix}byteorder")) {
        let order = directory.bytes(entry, 16)?;
        if order != b"little" {
            let found = order.escape_ascii();
            return Err(Error::torch("byteorder", format!("expected little, found {found}")));
        }
    }
    let Some(entry) = directory.entry(&format!("{prefix}data.pkl")) else {
        return Err(Error::torch("data.pkl", "expected one, found none"));
    };
    let program = directory.bytes(entry, PICKLE_BYTES as u64)?;
    let (pickle, _) = pickle::load(&program)?;
    let mut storages = Zipped {
        directory: &directory,
        prefix,
        file_bytes: file.len(),
        found: HashMap::new(),
        inflated: Vec::new(),
        spent: 0,
    };
    let contents = torch_state::read(&pickle, which, file.len(), &mut storages)?;
    Ok((contents, storages.inflated))
}

/// The folder of the container, with its slash.
fn prefix<'a>(directory: &ZipDirectory<'a>) -> Result<&'a str> {
    let mut prefixes = directory.entries().iter().filter_map(|entry| {
        let folder = entry.name.strip_suffix("data.pkl")?;
        (folder.strip_suffix('/').is_some_and(|folder| !folder.contains('/'))).then_some(folder)
    });
    let expected = "a PyTorch container: one `*/data.pkl` in a zip file";
    let Some(prefix) = prefixes.next() else {
        let names: Vec<_> = directory.entries().iter().take(4).map(|e| e.name.escape_debug().to_string()).collect();
        let found = format!("{} entries: {}", directory.entries().len(), names.join(", "));
        return Err(Error::NotACheckpoint { expected, found });
    };
    if prefixes.next().is_some() {
        return Err(Error::NotACheckpoint { expected, found: "several".into() });
    }
    if directory.entry(&format!("{prefix}constants.pkl")).is_some() {
        let expected = "a PyTorch container of a state dict";
        return Err(Error::NotACheckpoint { expected, found: "a TorchScript program".into() });
    }
    Ok(prefix)
}

struct Zipped<'a> {
    directory: &'a ZipDirectory<'a>,
    prefix: &'a str,
    file_bytes: usize,
    /// Part and bytes of the storages found so far.
    found: HashMap<String, (usize, Range<usize>)>,
    inflated: Vec<Vec<u8>>,
    /// Bytes of all that was inflated.
    spent: u64,
}

impl Storages for Zipped<'_> {
    fn find(&mut self, storage: &Storage<'_>, bytes: u64) -> Result<(usize, Range<usize>)> {
        let (part, range) = match self.found.get(storage.key) {
            Some(found) => found.clone(),
            None => {
                let found = self.locate(storage)?;
                self.found.insert(storage.key.to_string(), found.clone());
                found
            }
        };
        if range.len() as u64 != bytes {
            let place = format!("storage `{}`", storage.key.escape_debug());
            return Err(Error::torch(place, format!("expected {bytes} bytes, found {}", range.len())));
        }
        Ok((part, range))
    }
}

impl Zipped<'_> {
    fn locate(&mut self, storage: &Storage<'_>) -> Result<(usize, Range<usize>)> {
        let Some(entry) = self.directory.entry(&format!("{}data/{}", self.prefix, storage.key)) else {
            let place = format!("storage `{}`", storage.key.escape_debug());
            return Err(Error::torch(place, "expected an entry of the zip file, found none"));
        };
        if entry.is_stored() {
            // Borrowed from the map, so unread: its CRC is not checked.
            return Ok((0, self.directory.place(entry)?));
        }
        let left = limits::unpacked(self.file_bytes).saturating_sub(self.spent);
        let bytes = self.directory.bytes(entry, left)?;
        self.spent += bytes.len() as u64;
        let range = 0..bytes.len();
        self.inflated.push(bytes);
        Ok((self.inflated.len(), range))
    }
}
