//! Protobuf's wire format read from shared bytes. As strict and as lenient as `upb`, the parser below
//! python-protobuf, so that both transports take and refuse the same messages.

use std::fmt;
use std::ops::Range;

use bytes::Bytes;

/// Messages and groups inside each other.
const DEEPEST: u8 = 100;
const VARINT_BYTES: usize = 10;
/// Of a tag and of a length; overlong spellings are taken up to here.
const SHORT_VARINT_BYTES: usize = 5;

/// What was not protobuf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "malformed message: {}", self.0)
    }
}

impl std::error::Error for Malformed {}

/// A field's value by its wire type; whether it suits the field is for the reader of the message to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wire {
    Varint(u64),
    Fixed64,
    /// Place of a length-delimited value in the message.
    Span(Range<usize>),
    /// Fixed32, or a group: no field of ours has one.
    Other,
}

/// The fields of one message, in order.
pub struct Reader<'a> {
    message: &'a Bytes,
    at: usize,
    end: usize,
    depth_left: u8,
}

impl<'a> Reader<'a> {
    pub fn new(message: &'a Bytes) -> Reader<'a> {
        Reader { message, at: 0, end: message.len(), depth_left: DEEPEST }
    }

    /// The message in a field of this one.
    pub fn inner(&self, span: Range<usize>) -> Result<Reader<'a>, Malformed> {
        let depth_left = self.depth_left.checked_sub(1).ok_or(Malformed("nested too deep"))?;
        Ok(Reader { message: self.message, at: span.start, end: span.end, depth_left })
    }

    /// Shares the message's memory.
    pub fn bytes(&self, span: Range<usize>) -> Bytes {
        self.message.slice(span)
    }

    /// As `bytes`, of a field that must be UTF-8.
    pub fn text(&self, span: Range<usize>) -> Result<Bytes, Malformed> {
        self.check_text(&span)?;
        Ok(self.bytes(span))
    }

    pub fn check_text(&self, span: &Range<usize>) -> Result<(), Malformed> {
        let bytes = self.message.get(span.clone()).unwrap_or_default();
        std::str::from_utf8(bytes).map(|_| ()).map_err(|_| Malformed("text that is not UTF-8"))
    }

    pub fn field(&mut self) -> Result<Option<(u32, Wire)>, Malformed> {
        if self.at >= self.end {
            return Ok(None);
        }
        let (number, wire_type) = self.tag()?;
        if number == 0 {
            return Err(Malformed("field number 0"));
        }
        Ok(Some((number, self.value(number, wire_type, self.depth_left)?)))
    }

    fn value(&mut self, number: u32, wire_type: u8, depth_left: u8) -> Result<Wire, Malformed> {
        match wire_type {
            0 => Ok(Wire::Varint(self.varint(VARINT_BYTES)?)),
            1 => self.skip(8).map(|_| Wire::Fixed64),
            2 => {
                let length = self.varint(SHORT_VARINT_BYTES)?;
                let length = i32::try_from(length).map_err(|_| Malformed("length over 2 GiB"))?;
                self.skip(length as usize).map(Wire::Span)
            }
            3 => self.skip_group(number, depth_left).map(|()| Wire::Other),
            5 => self.skip(4).map(|_| Wire::Other),
            4 => Err(Malformed("end of a group that did not begin")),
            _ => Err(Malformed("unknown wire type")),
        }
    }

    fn skip_group(&mut self, group: u32, depth_left: u8) -> Result<(), Malformed> {
        let depth_left = depth_left.checked_sub(1).ok_or(Malformed("nested too deep"))?;
        loop {
            let (number, wire_type) = self.tag()?;
            if wire_type == 4 {
                return if number == group { Ok(()) } else { Err(Malformed("end of another group")) };
            }
            self.value(number, wire_type, depth_left)?;
        }
    }

    fn tag(&mut self) -> Result<(u32, u8), Malformed> {
        let tag =
            u32::try_from(self.varint(SHORT_VARINT_BYTES)?).map_err(|_| Malformed("tag over 32 bits"))?;
        Ok((tag >> 3, (tag & 7) as u8))
    }

    fn skip(&mut self, length: usize) -> Result<Range<usize>, Malformed> {
        if length > self.end - self.at {
            return Err(Malformed("a value ends behind its message"));
        }
        let start = self.at;
        self.at += length;
        Ok(start..self.at)
    }

    fn varint(&mut self, longest: usize) -> Result<u64, Malformed> {
        let bytes = self.message.get(self.at..self.end).unwrap_or_default();
        let mut value = 0_u64;
        for (index, byte) in bytes.iter().take(longest).enumerate() {
            // Bits above the 64th fall away.
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte & 0x80 == 0 {
                self.at += index + 1;
                return Ok(value);
            }
        }
        Err(Malformed("a number without end"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(message: &'static [u8]) -> Result<Vec<(u32, Wire)>, Malformed> {
        let message = Bytes::from_static(message);
        let mut reader = Reader::new(&message);
        let mut fields = Vec::new();
        while let Some(field) = reader.field()? {
            fields.push(field);
        }
        Ok(fields)
    }

    #[test]
    fn fields_of_every_wire_type() {
        let fields = read(b"\x08\x96\x01\x12\x01a\x1d\0\0\0\0\x21\0\0\0\0\0\0\0\0\x2b\x08\x01\x2c");
        let span = Wire::Span(5..6);
        let expected = [Wire::Varint(150), span, Wire::Other, Wire::Fixed64, Wire::Other];
        assert_eq!(fields, Ok((1_u32..).zip(expected).collect()));
    }

    #[test]
    fn malformed_fields_are_errors() {
        for message in [
            b"\x08".as_slice(),
            b"\x00\x00",
            b"\x12\x05a",
            b"\x0c",
            b"\x0b\x08\x01",
            b"\x0b\x14",
            b"\x0e\x00",
            b"\x12\xff\xff\xff\xff\x0f",
            b"\x08\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01",
        ] {
            assert!(read(message).is_err(), "{message:?}");
        }
    }

    #[test]
    fn groups_end_before_the_stack_does() {
        let deep: &'static [u8] = vec![0x0b_u8; 1 << 20].leak();
        assert_eq!(read(deep), Err(Malformed("nested too deep")));
    }
}
