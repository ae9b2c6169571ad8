//! Usage out of vLLM's gRPC answers (GenerateResponse, EmbedResponse); the twin of `epp/parsing/grpcanswer.py`
//! and `epp/parsing/protowire.py`.

use crate::types::Usage;

/// Longer messages (thousands of embedding dimensions are far from it) are skipped.
const MAX_MESSAGE_BYTES: usize = 1 << 20;
/// A flag and the message's length.
const FRAME_HEAD: usize = 5;

// GenerateResponse; in EmbedResponse, 1 are floats and 2 is the number of prompt tokens.
const CHUNK: u64 = 1;
const COMPLETE: u64 = 2;

#[derive(Default)]
pub struct GrpcReader {
    held: Vec<u8>,
    /// Bytes to come of a message that is not read.
    skip: usize,
    usage: Option<Usage>,
}

impl GrpcReader {
    pub fn feed(&mut self, chunk: &[u8]) {
        let skipped = self.skip.min(chunk.len());
        self.skip -= skipped;
        self.held.extend_from_slice(&chunk[skipped..]);
        let data = std::mem::take(&mut self.held);
        let rest = self.frames(&data);
        self.held = if rest.len() == data.len() { data } else { rest.to_vec() };
    }

    pub fn finish(&mut self) -> Option<Usage> {
        self.usage
    }

    /// Reads the whole messages; returns the rest.
    fn frames<'a>(&mut self, mut data: &'a [u8]) -> &'a [u8] {
        while let Some((head, body)) = data.split_first_chunk::<FRAME_HEAD>() {
            let [flag, size @ ..] = *head;
            let size = u32::from_be_bytes(size) as usize;
            if let Some((message, rest)) = body.split_at_checked(size) {
                if flag == 0 && size <= MAX_MESSAGE_BYTES {
                    self.read(message);
                }
                data = rest;
            } else if size <= MAX_MESSAGE_BYTES {
                break;
            } else {
                self.skip = size - body.len();
                data = &[];
            }
        }
        data
    }

    fn read(&mut self, message: &[u8]) {
        for field in Fields(message) {
            match field {
                None => return,
                Some((COMPLETE, Value::Number(value))) => {
                    self.usage = Some(Usage { prompt_tokens: Some(value), ..Usage::default() });
                }
                Some((CHUNK, Value::Bytes(chunk))) => self.count(chunk, 2),
                Some((COMPLETE, Value::Bytes(complete))) => self.count(complete, 3),
                Some(_) => {}
            }
        }
    }

    /// `first`: the number of the field of prompt tokens; those of completion and cached tokens follow it.
    fn count(&mut self, message: &[u8], first: u64) {
        let mut found = [None; 3];
        for field in Fields(message) {
            match field {
                None => return,
                Some((number, Value::Number(value))) if (first..first + 3).contains(&number) => {
                    found[(number - first) as usize] = Some(value);
                }
                Some(_) => {}
            }
        }
        if let [Some(prompt), completion, cached] = found {
            // proto3 leaves zeros out
            self.usage = Some(Usage {
                prompt_tokens: Some(prompt),
                completion_tokens: Some(completion.unwrap_or(0)),
                total_tokens: None,
                cached_tokens: Some(cached.unwrap_or(0)),
            });
        }
    }
}

enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// Every varint and length-delimited field of a protobuf message; fixed ones are skipped. Ends with a None
/// where it is no such message.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// None: broken; Some(None): a fixed one.
    fn field(&mut self) -> Option<Option<(u64, Value<'a>)>> {
        let key = self.varint()?;
        let number = key >> 3;
        if number == 0 {
            return None;
        }
        Some(match key & 7 {
            0 => Some((number, Value::Number(self.varint()?))),
            1 => self.take(8).map(|_| None)?,
            2 => {
                let size = self.varint()?;
                Some((number, Value::Bytes(self.take(usize::try_from(size).ok()?)?)))
            }
            5 => self.take(4).map(|_| None)?,
            _ => return None,
        })
    }

    fn take(&mut self, size: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(size)?;
        self.0 = rest;
        Some(taken)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for (at, byte) in self.0.iter().take(10).enumerate() {
            value |= u64::from(byte & 0x7f) << (7 * at);
            if *byte < 0x80 {
                self.0 = &self.0[at + 1..];
                return Some(value);
            }
        }
        None
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Option<(u64, Value<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.0.is_empty() {
            match self.field() {
                Some(None) => {}
                Some(field) => return Some(field),
                None => {
                    self.0 = &[];
                    return Some(None);
                }
            }
        }
        None
    }
}
