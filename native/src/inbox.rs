//! gRPC messages out of a stream's DATA frames. A message that lies in one frame is a slice of it; one that spans
//! several is gathered once.

use bytes::{Buf, Bytes, BytesMut};

pub const PREFIX: usize = 5;

#[derive(Debug, PartialEq, Eq)]
pub enum Broken {
    /// No `grpc-encoding` was agreed on.
    Compressed,
    /// Longer than the limit.
    TooLarge(usize),
}

#[derive(Default)]
pub struct Inbox {
    /// What of the last frame was not used yet; empty while `gathered` holds something.
    rest: Bytes,
    gathered: BytesMut,
    max_message_bytes: usize,
}

impl Inbox {
    pub fn new(max_message_bytes: usize) -> Inbox {
        Inbox { max_message_bytes, ..Inbox::default() }
    }

    pub fn held_bytes(&self) -> usize {
        self.rest.len() + self.gathered.len()
    }

    /// Call `take` until it gives nothing before each further piece.
    pub fn push(&mut self, data: Bytes) {
        if self.gathered.is_empty() && self.rest.is_empty() {
            self.rest = data;
            return;
        }
        if !self.rest.is_empty() {
            self.gathered.extend_from_slice(&self.rest);
            self.rest = Bytes::new();
        }
        self.gathered.extend_from_slice(&data);
    }

    pub fn take(&mut self) -> Result<Option<Bytes>, Broken> {
        let seen: &[u8] = if self.gathered.is_empty() { &self.rest } else { &self.gathered };
        if seen.len() < PREFIX {
            return Ok(None);
        }
        if seen[0] != 0 {
            return Err(Broken::Compressed);
        }
        let size = u32::from_be_bytes([seen[1], seen[2], seen[3], seen[4]]) as usize;
        if size > self.max_message_bytes {
            return Err(Broken::TooLarge(size));
        }
        if seen.len() < PREFIX + size {
            if self.gathered.is_empty() {
                let rest = std::mem::take(&mut self.rest);
                // Room for what has come and a bit: a peer that only claims a size gets no memory for it.
                self.gathered.reserve((PREFIX + size).min(rest.len() + (256 << 10)));
                self.gathered.extend_from_slice(&rest);
            }
            return Ok(None);
        }
        if self.gathered.is_empty() {
            self.rest.advance(PREFIX);
            return Ok(Some(self.rest.split_to(size)));
        }
        self.gathered.advance(PREFIX);
        let message = self.gathered.split_to(size).freeze();
        self.rest = std::mem::take(&mut self.gathered).freeze();
        Ok(Some(message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(messages: &[&[u8]]) -> Vec<u8> {
        let mut all = Vec::new();
        for message in messages {
            all.push(0);
            all.extend_from_slice(&(message.len() as u32).to_be_bytes());
            all.extend_from_slice(message);
        }
        all
    }

    #[test]
    fn messages_come_out_however_they_are_cut() {
        let messages: &[&[u8]] = &[b"", b"one", &[7; 300], b"x", b""];
        let all = framed(messages);
        for step in 1..=all.len() {
            let mut inbox = Inbox::new(1000);
            let mut seen = Vec::new();
            for piece in all.chunks(step) {
                inbox.push(Bytes::copy_from_slice(piece));
                while let Some(message) = inbox.take().unwrap() {
                    seen.push(message);
                }
            }
            assert_eq!(seen, messages, "in steps of {step}");
            assert_eq!(inbox.held_bytes(), 0);
        }
    }

    #[test]
    fn what_cannot_be_taken_is_an_error() {
        let mut inbox = Inbox::new(4);
        inbox.push(Bytes::from(framed(&[b"12345"])));
        assert_eq!(inbox.take(), Err(Broken::TooLarge(5)));
        let mut inbox = Inbox::new(4);
        inbox.push(Bytes::from_static(&[1, 0, 0, 0, 0]));
        assert_eq!(inbox.take(), Err(Broken::Compressed));
    }
}
