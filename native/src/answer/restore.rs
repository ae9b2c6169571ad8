//! The name that the client used, put back where the answer names the target; the twin of
//! `epp/parsing/rewrite.py`.

use bytes::Bytes;
use memchr::memchr;

use crate::answer::search::MODEL;

/// Writes the name in `"model":"..."`, with or without a space, also when a chunk ends within it. Of a chunk
/// at most the length of that is held back. A chunk without the name goes on uncopied.
pub struct ModelRestorer {
    /// None where there is nothing to do.
    names: Option<Names>,
    held: Vec<u8>,
}

struct Names {
    /// With the key before it, without and with a space between.
    tight: Vec<u8>,
    spaced: Vec<u8>,
    /// JSON strings.
    target: Vec<u8>,
    incoming: Vec<u8>,
}

impl ModelRestorer {
    pub fn new(target: &str, incoming: &str) -> ModelRestorer {
        let needed = target != incoming && !target.is_empty() && !incoming.is_empty();
        let names = needed.then(|| {
            let (key, target) = (MODEL.needle(), json_string(target));
            Names {
                tight: [key, &target].concat(),
                spaced: [key, b" ", &target].concat(),
                target,
                incoming: json_string(incoming),
            }
        });
        ModelRestorer { names, held: Vec::new() }
    }

    /// What goes to the client now; empty when all of it is held back.
    pub fn feed(&mut self, chunk: &Bytes, last: bool) -> Bytes {
        let Some(names) = &self.names else {
            return chunk.clone();
        };
        let data = if self.held.is_empty() {
            chunk.clone()
        } else {
            let mut joined = std::mem::take(&mut self.held);
            joined.extend_from_slice(chunk);
            Bytes::from(joined)
        };
        let (mut written, done) = names.restored(&data);
        let rest = &data[done..];
        let kept =
            if last || rest.last().or(written.last()) == Some(&b'\n') { 0 } else { names.beginning(rest) };
        self.held = rest[rest.len() - kept..].to_vec();
        if done == 0 {
            return data.slice(..data.len() - kept);
        }
        written.extend_from_slice(&rest[..rest.len() - kept]);
        Bytes::from(written)
    }
}

impl Names {
    /// The data up to the last name, with all put back; and how much of the data that stands for.
    fn restored(&self, data: &[u8]) -> (Vec<u8>, usize) {
        let mut written = Vec::new();
        let mut done = 0;
        for at in MODEL.find_iter(data) {
            let value = at + MODEL.needle().len();
            let value = value + usize::from(data.get(value) == Some(&b' '));
            // What looks like a key may begin with the quote that ends the name before it.
            if at >= done && data[value..].starts_with(&self.target) {
                written.extend_from_slice(&data[done..value]);
                written.extend_from_slice(&self.incoming);
                done = value + self.target.len();
            }
        }
        (written, done)
    }

    /// How many bytes at the end may be the beginning of a name.
    fn beginning(&self, data: &[u8]) -> usize {
        let mut at = data.len().saturating_sub(self.spaced.len() - 1);
        while let Some(quote) = memchr(b'"', &data[at..]) {
            let tail = &data[at + quote..];
            if self.tight.starts_with(tail) || self.spaced.starts_with(tail) {
                return tail.len();
            }
            at += quote + 1;
        }
        0
    }
}

/// As Python's `json.dumps(text, ensure_ascii=False)`.
fn json_string(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + 2);
    out.push(b'"');
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0x08 => out.extend_from_slice(b"\\b"),
            0x0c => out.extend_from_slice(b"\\f"),
            0..0x20 => out.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
            _ => out.push(byte),
        }
    }
    out.push(b'"');
    out
}
