//! Reading a pickle's bytes.

use std::borrow::Cow;

use crate::limits::{self, PICKLE_BYTES, PICKLE_LINE};
use crate::{Error, Result};

/// A position in the input. Lengths are checked against the bytes that are there.
pub(crate) struct Input<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Offset of the current opcode, for messages.
    opcode: usize,
}

impl<'a> Input<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, opcode: 0 }
    }

    /// Bytes read so far.
    pub(crate) fn consumed(&self) -> usize {
        self.at
    }

    /// An error at the current opcode.
    pub(crate) fn error(&self, what: impl Into<String>) -> Error {
        Error::Pickle { offset: self.opcode, what: what.into() }
    }

    /// The next opcode.
    pub(crate) fn next_opcode(&mut self) -> Result<u8> {
        self.opcode = self.at;
        limits::at_most("bytes of one pickle", PICKLE_BYTES as u64, self.at as u64)?;
        let Some(&opcode) = self.bytes.get(self.at) else {
            return Err(self.error("expected an opcode, found the end of the data (no STOP)"));
        };
        self.at += 1;
        Ok(opcode)
    }

    /// The next `count` bytes.
    pub(crate) fn take(&mut self, count: u64) -> Result<&'a [u8]> {
        let left = &self.bytes[self.at..];
        let taken = usize::try_from(count).ok().and_then(|count| left.get(..count));
        let Some(taken) = taken else {
            return Err(self.error(format!("expected {count} bytes, found {} left", left.len())));
        };
        self.at += taken.len();
        Ok(taken)
    }

    /// A little-endian unsigned integer of `width` bytes, at most 8.
    pub(crate) fn unsigned(&mut self, width: u64) -> Result<u64> {
        Ok(self.take(width)?.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte)))
    }

    /// A little-endian signed 32-bit integer.
    pub(crate) fn signed(&mut self) -> Result<i32> {
        Ok(self.unsigned(4)? as u32 as i32)
    }

    /// A length that is written signed.
    pub(crate) fn signed_length(&mut self) -> Result<u64> {
        let length = self.signed()?;
        u64::try_from(length).map_err(|_| self.error(format!("expected a length, found {length}")))
    }

    /// A big-endian double.
    pub(crate) fn double(&mut self) -> Result<f64> {
        let bits = self.take(8)?.iter().fold(0, |value, &byte| value << 8 | u64::from(byte));
        Ok(f64::from_bits(bits))
    }

    /// The text up to the next newline, which is skipped.
    pub(crate) fn line(&mut self) -> Result<&'a str> {
        let left = &self.bytes[self.at..];
        let window = &left[..left.len().min(PICKLE_LINE)];
        let Some(end) = window.iter().position(|&byte| byte == b'\n') else {
            return Err(self.error(format!("expected a line of at most {PICKLE_LINE} bytes, found no end of line")));
        };
        self.at += end + 1;
        self.utf8(&window[..end])
    }

    /// `bytes` as text. Python writes lone surrogates as `surrogatepass`, which no tensor's name holds.
    pub(crate) fn utf8(&self, bytes: &'a [u8]) -> Result<&'a str> {
        std::str::from_utf8(bytes).map_err(|error| self.error(format!("expected UTF-8 text, found {error}")))
    }

    /// A line in Python's `raw-unicode-escape`.
    pub(crate) fn escaped_line(&mut self) -> Result<Cow<'a, str>> {
        let line = self.line()?;
        super::text::unescape(line).ok_or_else(|| self.error(format!("expected \\uXXXX, found `{line}`")))
    }
}
