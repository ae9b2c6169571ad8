//! JSON texts of which only a few members are of interest, without copies.
//!
//! What is valid is exactly what msgspec's decoder takes: a value that is decoded must be whole in every
//! respect (UTF-8, numbers in range); one that is passed over must have its signs and escapes in order.

use std::borrow::Cow;
use std::mem::take;

use memchr::memchr2;

/// msgspec's depth is bounded by Python's limit of recursion in C: 1,000 to 10,000 and more, by version.
const MAX_DEPTH: usize = 9_999;
/// Python decodes no longer integers.
const MAX_INTEGER_BYTES: usize = 4300;

/// None of any of its functions: not valid.
pub struct Scanner<'a> {
    data: &'a [u8],
    at: usize,
}

/// How closely a value is looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Look {
    Decoded,
    Passed,
}

impl<'a> Scanner<'a> {
    pub fn new(data: &'a [u8]) -> Scanner<'a> {
        Scanner { data, at: 0 }
    }

    /// Nothing but white space is left.
    pub fn at_end(&mut self) -> bool {
        self.peek().is_none()
    }

    /// A value to be decoded. Returns its text.
    pub fn decoded(&mut self) -> Option<&'a [u8]> {
        self.value(Look::Decoded)
    }

    /// A value to be passed over, or decoded later. Returns its text.
    pub fn passed(&mut self) -> Option<&'a [u8]> {
        self.value(Look::Passed)
    }

    /// An object: `member` is called with every key and takes the value that follows.
    pub fn object(&mut self, mut member: impl FnMut(&mut Self, &[u8]) -> Option<()>) -> Option<()> {
        self.sign(b'{')?;
        if self.peek()? == b'}' {
            return self.sign(b'}');
        }
        loop {
            if self.peek()? != b'"' {
                return None;
            }
            let key = self.string(Look::Passed)?;
            self.sign(b':')?;
            member(self, &unescaped(key))?;
            if self.peek()? == b'}' {
                return self.sign(b'}');
            }
            self.sign(b',')?;
        }
    }

    /// An array: `element` takes each of its values.
    pub fn array(&mut self, mut element: impl FnMut(&mut Self) -> Option<()>) -> Option<()> {
        self.sign(b'[')?;
        if self.peek()? == b']' {
            return self.sign(b']');
        }
        loop {
            element(self)?;
            if self.peek()? == b']' {
                return self.sign(b']');
            }
            self.sign(b',')?;
        }
    }

    /// The next byte behind white space, which is skipped.
    fn peek(&mut self) -> Option<u8> {
        loop {
            match *self.data.get(self.at)? {
                b' ' | b'\n' | b'\r' | b'\t' => self.at += 1,
                byte => return Some(byte),
            }
        }
    }

    fn sign(&mut self, sign: u8) -> Option<()> {
        (self.peek()? == sign).then(|| self.at += 1)
    }

    fn value(&mut self, look: Look) -> Option<&'a [u8]> {
        self.peek()?;
        let start = self.at;
        // The brackets that are open; with those around the value that the caller has opened, one at most.
        let mut open: Vec<u8> = Vec::new();
        let mut is_first = false; // behind an opening bracket
        loop {
            let byte = self.peek()?;
            if let Some(&bracket) = open.last() {
                // An element, a member or the end of what is open.
                if byte == bracket + 2 {
                    self.at += 1;
                    open.pop();
                    is_first = false;
                    if open.is_empty() {
                        break;
                    }
                    continue;
                }
                if !take(&mut is_first) {
                    self.sign(b',')?;
                }
                if bracket == b'{' {
                    if self.peek()? != b'"' {
                        return None;
                    }
                    self.string(look)?;
                    self.sign(b':')?;
                }
            }
            match self.peek()? {
                bracket @ (b'{' | b'[') => {
                    if open.len() + 1 == MAX_DEPTH {
                        return None;
                    }
                    self.at += 1;
                    open.push(bracket);
                    is_first = true;
                }
                byte => {
                    self.scalar(byte, look)?;
                    if open.is_empty() {
                        break;
                    }
                }
            }
        }
        Some(&self.data[start..self.at])
    }

    fn scalar(&mut self, byte: u8, look: Look) -> Option<()> {
        match byte {
            b'"' => self.string(look).map(|_| ()),
            b'n' => self.word(b"null"),
            b't' => self.word(b"true"),
            b'f' => self.word(b"false"),
            _ => self.number(look),
        }
    }

    fn word(&mut self, word: &[u8]) -> Option<()> {
        self.data[self.at..].starts_with(word).then(|| self.at += word.len())
    }

    fn number(&mut self, look: Look) -> Option<()> {
        let start = self.at;
        self.at += usize::from(self.byte() == b'-');
        if self.byte() == b'0' {
            self.at += 1;
            if self.byte().is_ascii_digit() {
                return None;
            }
        } else {
            self.digits()?;
        }
        let mut is_float = false;
        if self.byte() == b'.' {
            is_float = true;
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.byte(), b'e' | b'E') {
            is_float = true;
            self.at += 1;
            self.at += usize::from(matches!(self.byte(), b'+' | b'-'));
            self.digits()?;
        }
        let text = &self.data[start..self.at];
        match look {
            Look::Passed => Some(()),
            Look::Decoded if is_float => float(text).map(|_| ()),
            Look::Decoded => (text.len() <= MAX_INTEGER_BYTES).then_some(()),
        }
    }

    /// The byte here; 0 at the end, which no number has.
    fn byte(&self) -> u8 {
        self.data.get(self.at).copied().unwrap_or(0)
    }

    fn digits(&mut self) -> Option<()> {
        let rest = &self.data[self.at..];
        let count = rest.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(rest.len());
        self.at += count;
        (count > 0).then_some(())
    }

    /// What stands between the quotes of the string that begins here.
    fn string(&mut self, look: Look) -> Option<&'a [u8]> {
        self.at += 1;
        let start = self.at;
        loop {
            let rest = &self.data[self.at..];
            let plain = &rest[..memchr2(b'"', b'\\', rest)?];
            // Not `any`: without an early end the loop is vectorized.
            if plain.iter().fold(false, |found, byte| found | (*byte < 0x20)) {
                return None;
            }
            self.at += plain.len() + 1;
            if self.data[self.at - 1] == b'"' {
                let text = &self.data[start..self.at - 1];
                return (look == Look::Passed || std::str::from_utf8(text).is_ok()).then_some(text);
            }
            self.at += escape(&self.data[self.at..])?.1;
        }
    }
}

/// The character of an escape, and its length behind the backslash.
pub fn escape(text: &[u8]) -> Option<(char, usize)> {
    let byte = *text.first()?;
    let plain = match byte {
        b'"' | b'\\' | b'/' => char::from(byte),
        b'b' => '\x08',
        b'f' => '\x0c',
        b'n' => '\n',
        b'r' => '\r',
        b't' => '\t',
        b'u' => {
            let unit = hex(text.get(1..5)?)?;
            if let Some(found) = char::from_u32(unit) {
                return Some((found, 5));
            }
            // A surrogate, which must be the first of two.
            let second = hex(text.get(5..11)?.strip_prefix(b"\\u")?)?;
            if unit >= 0xdc00 || !(0xdc00..0xe000).contains(&second) {
                return None;
            }
            return Some((char::from_u32(0x1_0000 + ((unit - 0xd800) << 10 | (second - 0xdc00)))?, 11));
        }
        _ => return None,
    };
    Some((plain, 1))
}

fn hex(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0, |value, digit| Some(value << 4 | char::from(*digit).to_digit(16)?))
}

/// The text of a string's inside that was found valid.
pub fn unescaped(inside: &[u8]) -> Cow<'_, [u8]> {
    if !inside.contains(&b'\\') {
        return Cow::Borrowed(inside);
    }
    let mut out = Vec::with_capacity(inside.len());
    let mut rest = inside;
    while let Some(at) = memchr::memchr(b'\\', rest) {
        out.extend_from_slice(&rest[..at]);
        let Some((found, size)) = escape(&rest[at + 1..]) else { break };
        out.extend_from_slice(found.encode_utf8(&mut [0; 4]).as_bytes());
        rest = &rest[at + 1 + size..];
    }
    out.extend_from_slice(rest);
    Cow::Owned(out)
}

/// None where it is too large for a float.
pub fn float(number: &[u8]) -> Option<f64> {
    let value: f64 = std::str::from_utf8(number).ok()?.parse().ok()?;
    value.is_finite().then_some(value)
}

#[cfg(test)]
mod tests {
    use super::{MAX_DEPTH, Scanner, unescaped};

    fn nested(depth: usize) -> Vec<u8> {
        [b"[".repeat(depth), b"]".repeat(depth)].concat()
    }

    #[test]
    fn nesting_is_bounded() {
        assert!(Scanner::new(&nested(MAX_DEPTH - 1)).passed().is_some());
        assert!(Scanner::new(&nested(MAX_DEPTH)).passed().is_none());
        assert!(Scanner::new(&b"[{\"a\":".repeat(1 << 20)).decoded().is_none());
    }

    #[test]
    fn every_beginning_of_a_value_is_borne() {
        let text = br#" {"a\u00e9\ud83d\ude42\n": [1.5e-7, -0, "", {}, [], true], "b": null} "#;
        for end in 0..text.len() {
            let whole = Scanner::new(&text[..end]).decoded().is_some();
            assert_eq!(whole, end == text.len() - 1, "{end}");
            unescaped(&text[..end]);
        }
    }
}
