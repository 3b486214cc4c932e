//! The directory of a zip container.
//!
//! Written here because a checkpoint's entries must be found in the map without copying them, and because nothing is
//! taken on trust: the number of entries, their sizes and their places are checked against the bytes that are there
//! (PKWARE APPNOTE 4.3). Inflating is the `zip` crate's.

use std::collections::HashMap;
use std::io::Read;
use std::ops::Range;

use zip::read::{ZipReadOptions, read_zipfile_from_stream_with_options};

use crate::limits::{self, ZIP_ENTRIES};
use crate::{Error, Result};

const LOCAL_HEADER: &[u8] = b"PK\x03\x04";
const DIRECTORY_HEADER: &[u8] = b"PK\x01\x02";
const DIRECTORY_END: &[u8] = b"PK\x05\x06";
const DIRECTORY_END_64: &[u8] = b"PK\x06\x06";
const LOCATOR_64: &[u8] = b"PK\x06\x07";

const STORED: u16 = 0;
const DEFLATED: u16 = 8;

/// An entry as the directory declares it.
#[derive(Debug)]
pub(crate) struct Entry<'a> {
    pub(crate) name: &'a str,
    method: u16,
    crc32: u32,
    /// Uncompressed bytes.
    size: u64,
    compressed: u64,
    /// Where its local header starts.
    header: u64,
}

impl Entry<'_> {
    /// Whether its bytes are in the file as they are.
    pub(crate) fn is_stored(&self) -> bool {
        self.method == STORED
    }
}

/// The entries of a zip container by name.
#[derive(Debug)]
pub(crate) struct ZipDirectory<'a> {
    file: &'a [u8],
    entries: Vec<Entry<'a>>,
    index: HashMap<&'a str, usize>,
}

impl<'a> ZipDirectory<'a> {
    /// Reads the directory at the end of `file`.
    pub(crate) fn read(file: &'a [u8]) -> Result<Self> {
        let (range, count) = locate(file)?;
        limits::at_most("entries of a zip container", ZIP_ENTRIES as u64, count)?;
        let mut fields = Fields { bytes: &file[range] };
        let mut entries = Vec::new();
        let mut index = HashMap::new();
        for _ in 0..count {
            let entry = entry(&mut fields)?;
            if index.insert(entry.name, entries.len()).is_some() {
                return Err(Error::zip(format!(
                    "expected distinct names, found `{}` twice",
                    entry.name.escape_debug()
                )));
            }
            entries.push(entry);
        }
        Ok(Self { file, entries, index })
    }

    /// All entries, in the directory's order.
    pub(crate) fn entries(&self) -> &[Entry<'a>] {
        &self.entries
    }

    /// The entry of that name.
    pub(crate) fn entry(&self, name: &str) -> Option<&Entry<'a>> {
        self.index.get(name).map(|&at| &self.entries[at])
    }

    /// Where the entry's bytes, compressed or not, lie in the file.
    pub(crate) fn place(&self, entry: &Entry<'_>) -> Result<Range<usize>> {
        let name = || entry.name.escape_debug();
        let start = usize::try_from(entry.header).unwrap_or(usize::MAX);
        let mut fields = Fields { bytes: self.file.get(start..).unwrap_or_default() };
        if fields.take(4)? != LOCAL_HEADER {
            return Err(Error::zip(format!("expected the header of `{}` at byte {start}, found none", name())));
        }
        fields.take(22)?;
        let lengths = fields.unsigned(2)? + fields.unsigned(2)?;
        fields.take(lengths)?;
        let data = self.file.len() - fields.bytes.len();
        let length = usize::try_from(entry.compressed).ok().filter(|&length| length <= fields.bytes.len());
        let Some(length) = length else {
            return Err(Error::Truncated {
                what: format!("zip entry `{}`", name()),
                expected: entry.compressed,
                found: fields.bytes.len() as u64,
            });
        };
        if entry.is_stored() && entry.size != entry.compressed {
            let (size, compressed) = (entry.size, entry.compressed);
            return Err(Error::zip(format!("stored `{}`: expected {size} bytes, found {compressed}", name())));
        }
        Ok(data..data + length)
    }

    /// The entry's bytes, inflated if need be and checked by their CRC; at most `limit` of them.
    pub(crate) fn bytes(&self, entry: &Entry<'_>, limit: u64) -> Result<Vec<u8>> {
        limits::at_most("bytes of a zip entry", limit, entry.size)?;
        let place = self.place(entry)?;
        // The crate reads entries behind their local header. A header made from the directory's fields leaves the local
        // one, which may say something else, no word; flag 8 takes the sizes from the options, which hold 64 bits.
        let mut header = [0; 30];
        header[..4].copy_from_slice(LOCAL_HEADER);
        header[4] = 20;
        header[6] = 8;
        header[8..10].copy_from_slice(&entry.method.to_le_bytes());
        let mut stream = header.as_slice().chain(&self.file[place]);
        let options = ZipReadOptions::new()
            .override_compressed_size(entry.compressed)
            .override_uncompressed_size(entry.size)
            .override_crc(entry.crc32);
        let problem = |what: String| Error::zip(format!("`{}`: {what}", entry.name.escape_debug()));
        let reader = read_zipfile_from_stream_with_options(&mut stream, options).map_err(|e| problem(e.to_string()))?;
        let Some(reader) = reader else {
            return Err(problem("expected an entry, found none".into()));
        };
        let mut bytes = Vec::new();
        reader.take(entry.size.saturating_add(1)).read_to_end(&mut bytes).map_err(|e| problem(e.to_string()))?;
        if bytes.len() as u64 != entry.size {
            return Err(problem(format!("expected {} bytes, found {} or more", entry.size, bytes.len())));
        }
        Ok(bytes)
    }
}

/// Where the directory lies, and how many entries it declares.
fn locate(file: &[u8]) -> Result<(Range<usize>, u64)> {
    // The end record is 22 bytes and a comment of at most 65,535.
    let tail = file.len().saturating_sub(22 + 0xffff);
    let Some(at) = file[tail..].windows(4).rposition(|window| window == DIRECTORY_END).map(|at| tail + at) else {
        return Err(Error::zip("expected a directory at the end, found none (the file is cut short)"));
    };
    let mut fields = Fields { bytes: &file[at + 4..] };
    fields.take(6)?;
    let mut count = fields.unsigned(2)?;
    let mut size = fields.unsigned(4)?;
    let mut offset = fields.unsigned(4)?;
    let comment = fields.unsigned(2)?;
    fields.take(comment)?;
    if count == 0xffff || size == 0xffff_ffff || offset == 0xffff_ffff {
        let locator =
            at.checked_sub(20).map(|start| &file[start..at]).filter(|locator| locator.starts_with(LOCATOR_64));
        if let Some(locator) = locator {
            let record = Fields { bytes: &locator[8..] }.unsigned(8)?;
            let start = usize::try_from(record).unwrap_or(usize::MAX);
            let mut fields = Fields { bytes: file.get(start..).unwrap_or_default() };
            if fields.take(4)? != DIRECTORY_END_64 {
                return Err(Error::zip(format!("expected the zip64 end record at byte {record}, found none")));
            }
            fields.take(28)?;
            count = fields.unsigned(8)?;
            size = fields.unsigned(8)?;
            offset = fields.unsigned(8)?;
        }
    }
    let range = offset.checked_add(size).filter(|&end| end <= at as u64).map(|end| offset as usize..end as usize);
    match range {
        Some(range) => Ok((range, count)),
        None => Err(Error::zip(format!("expected a directory before byte {at}, found {size} bytes at byte {offset}"))),
    }
}

/// Reads one record of the directory.
fn entry<'a>(fields: &mut Fields<'a>) -> Result<Entry<'a>> {
    if fields.take(4)? != DIRECTORY_HEADER {
        return Err(Error::zip("expected an entry of the directory, found something else"));
    }
    fields.take(4)?;
    let flags = fields.unsigned(2)?;
    let method = fields.unsigned(2)? as u16;
    fields.take(4)?;
    let crc32 = fields.unsigned(4)? as u32;
    let mut compressed = fields.unsigned(4)?;
    let mut size = fields.unsigned(4)?;
    let (name, extra, comment) = (fields.unsigned(2)?, fields.unsigned(2)?, fields.unsigned(2)?);
    fields.take(8)?;
    let mut header = fields.unsigned(4)?;
    let name = fields.take(name)?;
    let mut extra = Fields { bytes: fields.take(extra)? };
    fields.take(comment)?;
    let Ok(name) = std::str::from_utf8(name) else {
        return Err(Error::zip("expected a name in UTF-8, found other bytes"));
    };
    // The zip64 field holds, in this order, those of the three that do not fit in 32 bits.
    while extra.bytes.len() >= 4 {
        let (tag, length) = (extra.unsigned(2)?, extra.unsigned(2)?);
        let mut field = Fields { bytes: extra.take(length)? };
        if tag == 1 {
            for value in [&mut size, &mut compressed, &mut header] {
                if *value == 0xffff_ffff {
                    *value = field.unsigned(8)?;
                }
            }
        }
    }
    if flags & 1 != 0 || !matches!(method, STORED | DEFLATED) {
        let found = if flags & 1 != 0 { "encryption".into() } else { format!("method {method}") };
        return Err(Error::zip(format!("`{}`: expected stored or deflated, found {found}", name.escape_debug())));
    }
    Ok(Entry { name, method, crc32, size, compressed, header })
}

/// Little-endian fields, read in order.
struct Fields<'a> {
    bytes: &'a [u8],
}

impl<'a> Fields<'a> {
    fn take(&mut self, count: u64) -> Result<&'a [u8]> {
        let split = usize::try_from(count).ok().and_then(|count| self.bytes.split_at_checked(count));
        let Some((taken, rest)) = split else {
            let found = self.bytes.len() as u64;
            return Err(Error::Truncated { what: "zip record".into(), expected: count, found });
        };
        self.bytes = rest;
        Ok(taken)
    }

    /// An unsigned integer of `width` bytes, at most 8.
    fn unsigned(&mut self, width: u64) -> Result<u64> {
        Ok(self.take(width)?.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte)))
    }
}
