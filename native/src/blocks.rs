//! Chained hashes of a prompt's blocks; the twin of `epp/parsing/blocks.py`, which says what they are.

use xxhash_rust::xxh64::xxh64;

/// h[i] = xxh64(block i, seed h[i-1]) for at most `max_blocks` blocks; the last may be shorter than the
/// others. Nothing for blocks of no bytes.
pub fn chain(data: &[u8], block_bytes: usize, max_blocks: usize) -> Vec<u64> {
    if block_bytes == 0 {
        return Vec::new();
    }
    let mut above = 0;
    let mut hashes = Vec::with_capacity(data.len().div_ceil(block_bytes).min(max_blocks));
    for block in data.chunks(block_bytes).take(max_blocks) {
        above = xxh64(block, above);
        hashes.push(above);
    }
    hashes
}
