//! A request's body as it comes in: one contiguous buffer, and where its pieces began.

use std::mem::take;

use bytes::{Bytes, BytesMut};

/// Largest body piece in one message: Envoy's streamed pieces may hold 64 KiB, less room for framing.
pub const BODY_LIMIT_BYTES: usize = 62_000;
/// A buffer begins with so much, where that much is promised.
const FIRST_BYTES: usize = 64 << 10;
/// Room is made for so many times what has come, where that much is promised: a lie costs little.
const TRUST: usize = 4;

/// The only piece stays what it is; several are copied together.
#[derive(Debug, Default)]
pub struct Gathered {
    /// The first piece while there is no other; everything once it was asked for.
    whole: Bytes,
    growing: BytesMut,
    /// Lengths of the pieces that hold something.
    pieces: Vec<usize>,
}

impl Gathered {
    pub fn pieces(&self) -> usize {
        self.pieces.len()
    }

    /// `promised_bytes`: of the whole body, as far as the client said.
    pub fn push(&mut self, piece: Bytes, promised_bytes: usize) {
        if piece.is_empty() {
            return;
        }
        self.pieces.push(piece.len());
        if self.pieces.len() == 1 {
            self.whole = piece;
            return;
        }
        let first = take(&mut self.whole);
        let needed = self.growing.len() + first.len() + piece.len();
        if needed > self.growing.capacity() {
            let room = promised_bytes.min(FIRST_BYTES.max(needed.saturating_mul(TRUST))).max(needed);
            self.growing.reserve(room - self.growing.len());
        }
        self.growing.extend_from_slice(&first);
        self.growing.extend_from_slice(&piece);
    }

    /// Everything that has come.
    pub fn whole(&mut self) -> Bytes {
        if !self.growing.is_empty() {
            self.whole = take(&mut self.growing).freeze();
        }
        self.whole.clone()
    }

    /// Everything, as it came, cut where a piece was too long. Shares the memory of `whole`.
    pub fn echo(&mut self) -> Vec<Bytes> {
        let mut rest = self.whole();
        let mut parts = Vec::with_capacity(self.pieces.len());
        for length in &self.pieces {
            split(rest.split_to(*length), &mut parts);
        }
        parts
    }
}

/// Cuts off parts of BODY_LIMIT_BYTES. A piece without content is one part.
pub fn split(mut piece: Bytes, parts: &mut Vec<Bytes>) {
    while piece.len() > BODY_LIMIT_BYTES {
        parts.push(piece.split_to(BODY_LIMIT_BYTES));
    }
    parts.push(piece);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_piece_is_not_copied() {
        let piece = Bytes::from(vec![7; 70_000]);
        let mut body = Gathered::default();
        body.push(Bytes::new(), 0);
        body.push(piece.clone(), 70_000);
        assert_eq!(body.whole().as_ptr(), piece.as_ptr());
        let parts = body.echo();
        assert_eq!(parts.iter().map(Bytes::len).collect::<Vec<_>>(), [62_000, 8_000]);
        assert_eq!(parts[1].as_ptr(), piece[62_000..].as_ptr());
    }

    #[test]
    fn several_pieces_share_one_buffer() {
        let mut body = Gathered::default();
        for letter in [b'a', b'b', b'c'] {
            body.push(vec![letter; 3].into(), 9);
        }
        let whole = body.whole();
        assert_eq!(whole, "aaabbbccc");
        let parts = body.echo();
        assert_eq!(parts, ["aaa", "bbb", "ccc"]);
        assert_eq!(parts[2].as_ptr(), whole[6..].as_ptr());
    }

    #[test]
    fn a_false_length_reserves_little() {
        let mut body = Gathered::default();
        body.push(vec![0; 10].into(), 1 << 40);
        assert_eq!(body.growing.capacity(), 0);
        body.push(vec![0; 10].into(), 1 << 40);
        assert!(body.growing.capacity() <= 2 * FIRST_BYTES);
        body.push(vec![0; 200_000].into(), 1);
        assert_eq!(body.whole().len(), 200_020);
    }

    #[test]
    fn a_true_length_is_reserved_once() {
        let mut body = Gathered::default();
        for _ in 0..2 {
            body.push(vec![0; 60_000].into(), 420_000);
        }
        let buffer = body.growing.as_ptr();
        for _ in 0..5 {
            body.push(vec![0; 60_000].into(), 420_000);
        }
        assert_eq!(body.whole().as_ptr(), buffer);
    }
}
