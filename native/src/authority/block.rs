//! One header block: the literals of `:authority` in it.

use super::{Names, huffman};

const NAME: &[u8] = b":authority";
const NAME_IN_HUFFMAN: &[u8] = b"\xb8\x3b\x53\x39\xec\x32\x7d\x7f";
/// Its place in HPACK's static table.
const INDEX: usize = 1;
/// Octets of a number, as h2 has it.
const LONGEST: usize = 5;

/// Not what HPACK says; h2 will say the same.
#[derive(Debug, PartialEq)]
pub struct Broken;

/// The block as h2 is to see it. None: as it is.
///
/// A literal may also have its name from an entry of the dynamic table. That is not looked up: the name has a place in
/// the static table, which encoders take.
pub fn mended(block: &[u8], names: &Names) -> Result<Option<Vec<u8>>, Broken> {
    let mut reader = Reader { block, at: 0 };
    let (mut out, mut copied) = (Vec::new(), 0);
    while let Some(first) = block.get(reader.at) {
        let prefix = match *first {
            0x80.. => {
                reader.number(7)?;
                continue;
            }
            0x20..0x40 => {
                reader.number(5)?; // a new size of the table
                continue;
            }
            0x40.. => 6,
            _ => 4,
        };
        let named = match reader.number(prefix)? {
            0 => {
                let name = reader.string()?;
                name.bytes == if name.huffman { NAME_IN_HUFFMAN } else { NAME }
            }
            index => index == INDEX,
        };
        let value_at = reader.at;
        let value = reader.string()?;
        if !named {
            continue;
        }
        let stand_in = if value.huffman {
            names.stand_in(&huffman::decoded(value.bytes).ok_or(Broken)?)
        } else {
            names.stand_in(value.bytes)
        };
        if let Some(stand_in) = stand_in {
            out.extend_from_slice(&block[copied..value_at]);
            string(&stand_in, &mut out);
            copied = reader.at;
        }
    }
    if copied == 0 {
        return Ok(None);
    }
    out.extend_from_slice(&block[copied..]);
    Ok(Some(out))
}

struct Text<'a> {
    bytes: &'a [u8],
    huffman: bool,
}

struct Reader<'a> {
    block: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn octet(&mut self) -> Result<u8, Broken> {
        let octet = self.block.get(self.at).ok_or(Broken)?;
        self.at += 1;
        Ok(*octet)
    }

    fn number(&mut self, prefix: u8) -> Result<usize, Broken> {
        let mask = (1 << prefix) - 1;
        let mut number = usize::from(self.octet()? & mask);
        if number < usize::from(mask) {
            return Ok(number);
        }
        for place in 0..LONGEST - 1 {
            let octet = self.octet()?;
            number += usize::from(octet & 0x7f) << (7 * place);
            if octet & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(Broken)
    }

    fn string(&mut self) -> Result<Text<'a>, Broken> {
        let huffman = self.block.get(self.at).is_some_and(|first| first & 0x80 != 0);
        let length = self.number(7)?;
        let bytes = self.block.get(self.at..).and_then(|rest| rest.get(..length)).ok_or(Broken)?;
        self.at += length;
        Ok(Text { bytes, huffman })
    }
}

/// Without Huffman's code.
fn string(text: &[u8], out: &mut Vec<u8>) {
    let mut rest = text.len();
    if rest < 0x7f {
        out.push(rest as u8);
    } else {
        out.push(0x7f);
        rest -= 0x7f;
        while rest >= 0x80 {
            out.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        out.push(rest as u8);
    }
    out.extend_from_slice(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    const ODD: &[u8] = b"outbound|9002||a.b";

    fn literal(first: &[u8], value: &[u8]) -> Vec<u8> {
        let mut block = first.to_vec();
        string(value, &mut block);
        block
    }

    #[test]
    fn every_way_to_write_the_name() {
        let plain = [&b"\0\x0a"[..], NAME].concat();
        let indexed = [&b"\x40\x0a"[..], NAME].concat();
        let huffman = [&b"\x10\x88"[..], NAME_IN_HUFFMAN].concat();
        for first in [&b"\x01"[..], b"\x11", b"\x41", &plain, &indexed, &huffman] {
            let names = Names::default();
            let block = [&b"\x3f\xe1\x1f\x82"[..], &literal(first, ODD), b"\x84\xc0"].concat();
            let expected =
                [&b"\x3f\xe1\x1f\x82"[..], &literal(first, b"~00000000000000000"), b"\x84\xc0"].concat();
            assert_eq!(mended(&block, &names), Ok(Some(expected)));
            assert_eq!(names.real("~00000000000000000").unwrap(), ODD);
        }
        assert_eq!(huffman::decoded(NAME_IN_HUFFMAN).as_deref(), Some(NAME));
    }

    #[test]
    fn a_value_in_huffmans_code() {
        // "a/b" and its padding.
        let names = Names::default();
        assert_eq!(
            mended(b"\x82\x41\x83\x1b\x11\xff\x84", &names),
            Ok(Some(b"\x82\x41\x03~00\x84".to_vec()))
        );
        assert_eq!(names.real("~00").unwrap(), &b"a/b"[..]);
        assert_eq!(mended(b"\x41\x83\x1b\x11\x00", &names), Err(Broken));
    }

    #[test]
    fn long_values() {
        for length in [126, 127, 128, 254, 255, 256, 20_000] {
            let (names, value) = (Names::default(), vec![b'/'; length]);
            let new = mended(&literal(b"\x41", &value), &names).unwrap().unwrap();
            let mut reader = Reader { block: &new, at: 1 };
            let text = reader.string().unwrap();
            assert_eq!((text.bytes.len(), text.huffman, reader.at), (length, false, new.len()));
            assert_eq!(names.real(std::str::from_utf8(text.bytes).unwrap()).unwrap(), value);
        }
    }

    #[test]
    fn other_headers_are_not_touched() {
        let names = Names::default();
        for first in [&b"\x44"[..], b"\x04", b"\x66", b"\0\x04host", b"\x7e"] {
            assert_eq!(mended(&literal(first, b"/a|b"), &names), Ok(None));
        }
        assert_eq!(mended(&literal(b"\x41", b"epp:9002"), &names), Ok(None));
        assert_eq!(mended(b"", &names), Ok(None));
    }

    #[test]
    fn blocks_that_end_too_early() {
        let whole = literal(b"\0\x0a:authority", &[b'|'; 300]);
        for end in 1..whole.len() {
            assert_eq!(mended(&whole[..end], &Names::default()), Err(Broken));
        }
        assert_eq!(mended(b"\xff\xff\xff\xff\xff\xff\x01", &Names::default()), Err(Broken));
        assert_eq!(mended(b"\x41\x81\x00", &Names::default()), Err(Broken));
    }
}
