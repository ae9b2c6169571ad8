//! The flattened text of a prompt: checked, hashed block by block, and forgotten.

use xxhash_rust::xxh64::xxh64;

/// Checked and hashed when so much has come, unless a block is longer.
const BATCH_BYTES: usize = 16 << 10;

pub struct FlatText {
    block_bytes: usize,
    max_blocks: usize,
    /// What is not hashed yet.
    held: Vec<u8>,
    batch_bytes: usize,
    above: u64,
    chain: Vec<u64>,
    text_bytes: u64,
}

impl FlatText {
    pub fn new(block_bytes: usize, max_blocks: usize) -> FlatText {
        FlatText {
            block_bytes,
            max_blocks,
            held: Vec::new(),
            batch_bytes: BATCH_BYTES.max(block_bytes.saturating_mul(2)),
            above: 0,
            chain: Vec::new(),
            text_bytes: 0,
        }
    }

    /// A string's text, or a piece of it. Pieces may end within a character, strings must not begin within
    /// one. None: not UTF-8.
    #[inline]
    pub fn push(&mut self, piece: &[u8]) -> Option<()> {
        self.held.extend_from_slice(piece);
        if self.held.len() < self.batch_bytes { Some(()) } else { self.hash() }
    }

    /// (hashes, length of the text)
    pub fn finish(mut self) -> Option<(Vec<u64>, u64)> {
        self.hash()?;
        std::str::from_utf8(&self.held).ok()?;
        self.text_bytes += self.held.len() as u64;
        if !self.held.is_empty() && self.chain.len() < self.max_blocks {
            self.chain.push(xxh64(&self.held, self.above));
        }
        Some((self.chain, self.text_bytes))
    }

    fn hash(&mut self) -> Option<()> {
        let valid = match std::str::from_utf8(&self.held) {
            Ok(text) => text.len(),
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            Err(_) => return None,
        };
        let mut end = valid - valid % self.block_bytes;
        // A character that is cut after the last whole block is checked again with its rest.
        while end > 0 && self.held.get(end).is_some_and(|byte| byte & 0xc0 == 0x80) {
            end = end.saturating_sub(self.block_bytes);
        }
        for block in self.held[..end].chunks_exact(self.block_bytes) {
            if self.chain.len() == self.max_blocks {
                break;
            }
            self.above = xxh64(block, self.above);
            self.chain.push(self.above);
        }
        self.text_bytes += end as u64;
        self.held.drain(..end);
        Some(())
    }
}
