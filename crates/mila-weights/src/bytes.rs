//! The bytes of a file: mapped, or held.

use std::fs::{self, File};
use std::ops::{Deref, Range};
use std::path::Path;

use memmap2::Mmap;

use crate::{Error, Result};

/// Read-only bytes.
#[derive(Debug)]
pub(crate) enum Bytes {
    /// A file in the address space; its pages are read when touched.
    Mapped(Mmap),
    /// In memory.
    Held(Vec<u8>),
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Held(bytes) => bytes,
        }
    }
}

impl Bytes {
    /// Lets the pages of a part of a mapped file go; they are read again when touched.
    pub(crate) fn release(&self, part: Range<usize>) {
        #[cfg(unix)]
        if let Self::Mapped(map) = self {
            use memmap2::UncheckedAdvice;
            // SAFETY: the map is read-only and backed by its file, so a page that is dropped comes back with the same bytes.
            #[allow(unsafe_code, reason = "what the advice does to writable or anonymous maps does not happen here")]
            let advised = unsafe { map.unchecked_advise_range(UncheckedAdvice::DontNeed, part.start, part.len()) };
            // Memory that is kept is no failure.
            let _ = advised;
        }
        #[cfg(not(unix))]
        let _ = part;
    }
}

/// Maps the regular file at `path`.
pub(crate) fn map(path: &Path) -> Result<Bytes> {
    let open = |source| Error::io("open", path, source);
    // Asked before opening: to open a pipe would wait for its writer.
    if !fs::metadata(path).map_err(open)?.is_file() {
        return Err(Error::NotACheckpoint { expected: "a regular file", found: "a special file".into() });
    }
    let file = File::open(path).map_err(open)?;
    // SAFETY: the map is read-only and this crate replaces files by renaming, never in place. Another process that shortens
    // the file meanwhile can end this one with SIGBUS; every reader that maps files accepts that.
    #[allow(unsafe_code, reason = "the crate's one memory map: weights are borrowed from the file, not copied")]
    let map = unsafe { Mmap::map(&file) };
    map.map(Bytes::Mapped).map_err(|source| Error::io("map", path, source))
}
