//! The wire format of protocol buffers, as far as writing ONNX needs it.
//!
//! A field is a key (`number << 3 | type`) and a value: a varint (type 0), a length and as many bytes (type 2), or four
//! bytes (type 5).

const VARINT: u64 = 0;
const LENGTH: u64 = 2;
const FOUR_BYTES: u64 = 5;

/// A message while it is written.
#[derive(Debug, Default)]
pub(super) struct Message {
    pub(super) bytes: Vec<u8>,
}

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8);
    }

    /// A whole number; negative ones take ten bytes, as `int64` has it.
    pub(super) fn integer(&mut self, field: u64, value: i64) {
        self.varint(field << 3 | VARINT);
        self.varint(value as u64);
    }

    /// A number of 32 bits.
    pub(super) fn float(&mut self, field: u64, value: f32) {
        self.varint(field << 3 | FOUR_BYTES);
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    /// Key and length of a field whose `length` bytes the caller writes.
    pub(super) fn opening(&mut self, field: u64, length: u64) {
        self.varint(field << 3 | LENGTH);
        self.varint(length);
    }

    /// Text.
    pub(super) fn text(&mut self, field: u64, text: &str) {
        self.opening(field, text.len() as u64);
        self.bytes.extend_from_slice(text.as_bytes());
    }

    /// A message inside this one.
    pub(super) fn message(&mut self, field: u64, inner: &Self) {
        self.opening(field, inner.bytes.len() as u64);
        self.bytes.extend_from_slice(&inner.bytes);
    }

    /// A list of whole numbers, each a field of its own: ONNX's schema is of the second version of the language, which does
    /// not pack lists, and not every reader takes packed ones.
    pub(super) fn integers(&mut self, field: u64, values: &[i64]) {
        values.iter().for_each(|&value| self.integer(field, value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of the format's own documentation.
    #[test]
    fn documented_examples() {
        let mut message = Message::default();
        message.integer(1, 150);
        message.text(2, "testing");
        message.integers(6, &[3, 270]);
        let wanted = [
            &[0x08, 0x96, 0x01][..],
            &[0x12, 0x07, 0x74, 0x65, 0x73, 0x74, 0x69, 0x6e, 0x67],
            &[0x30, 0x03, 0x30, 0x8e, 0x02],
        ];
        assert_eq!(message.bytes, wanted.concat());
    }

    #[test]
    fn negative_numbers_take_ten_bytes() {
        let mut message = Message::default();
        message.integer(3, -1);
        assert_eq!(message.bytes, [[0x18].as_slice(), &[0xff; 9], &[0x01]].concat());
    }
}
