//! The flattened text of a prompt: checked, hashed block by block, and forgotten.

use xxhash_rust::xxh64::xxh64;

/// Checked and hashed when so much has come, unless a block is longer.
const BATCH_BYTES: usize = 16 << 10;
const WORD_BYTES: usize = size_of::<u64>();

pub struct FlatText {
    block_bytes: usize,
    max_blocks: usize,
    /// Of the text what is not hashed yet, and room for more.
    held: Vec<u8>,
    held_bytes: usize,
    /// So much of what is held is known to be UTF-8.
    checked: usize,
    above: u64,
    chain: Vec<u64>,
    text_bytes: u64,
}

/// A string's text comes in pieces, which may end within a character; strings must not begin within one.
/// None of any of its functions: not UTF-8.
impl FlatText {
    pub fn new(block_bytes: usize, max_blocks: usize) -> FlatText {
        FlatText {
            block_bytes,
            max_blocks,
            held: vec![0; BATCH_BYTES.max(2 * block_bytes)],
            held_bytes: 0,
            checked: 0,
            above: 0,
            chain: Vec::new(),
            text_bytes: 0,
        }
    }

    pub fn push(&mut self, mut piece: &[u8]) -> Option<()> {
        while !piece.is_empty() {
            let room = self.room()?;
            let size = piece.len().min(room.len());
            room[..size].copy_from_slice(&piece[..size]);
            self.held_bytes += size;
            piece = &piece[size..];
        }
        Some(())
    }

    /// The inside of a JSON string up to its end, an escape of a code or what is not valid. Returns the length
    /// of that.
    #[inline]
    pub fn push_inside(&mut self, data: &[u8]) -> Option<usize> {
        let mut done = 0;
        loop {
            let (read, written, is_held_up) = unescape_plain(&data[done..], self.room()?);
            self.held_bytes += written;
            done += read;
            if is_held_up || done == data.len() {
                return Some(done);
            }
        }
    }

    /// (hashes, length of the text)
    pub fn finish(mut self) -> Option<(Vec<u64>, u64)> {
        self.hash()?;
        if self.checked < self.held_bytes {
            return None;
        }
        self.text_bytes += self.held_bytes as u64;
        if self.held_bytes > 0 && self.chain.len() < self.max_blocks {
            self.chain.push(xxh64(&self.held[..self.held_bytes], self.above));
        }
        Some((self.chain, self.text_bytes))
    }

    /// At least a byte.
    #[inline]
    fn room(&mut self) -> Option<&mut [u8]> {
        if self.held_bytes == self.held.len() {
            self.hash()?;
        }
        Some(&mut self.held[self.held_bytes..])
    }

    /// Leaves less than a block and a character.
    fn hash(&mut self) -> Option<()> {
        self.checked += match std::str::from_utf8(&self.held[self.checked..self.held_bytes]) {
            Ok(text) => text.len(),
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            Err(_) => return None,
        };
        let end = self.checked - self.checked % self.block_bytes;
        let blocks = self.held[..end].chunks_exact(self.block_bytes);
        for block in blocks.take(self.max_blocks - self.chain.len()) {
            self.above = xxh64(block, self.above);
            self.chain.push(self.above);
        }
        self.text_bytes += end as u64;
        self.held.copy_within(end..self.held_bytes, 0);
        self.held_bytes -= end;
        self.checked -= end;
        Some(())
    }
}

/// Bytes up to a quote, a backslash or a control character.
pub fn plain_size(data: &[u8]) -> usize {
    let words = data.chunks_exact(WORD_BYTES);
    let rest = words.remainder();
    let mut size = 0;
    for word in words {
        if let Some(plain) = first_special(word) {
            return size + plain;
        }
        size += WORD_BYTES;
    }
    size + rest.iter().position(is_special).unwrap_or(rest.len())
}

/// Copies the inside of a string, and maybe some bytes more, with escapes of one letter put in place: (bytes
/// read, bytes written, whether the next byte is for others to judge, else the data or the room are at an end).
#[inline]
fn unescape_plain(data: &[u8], room: &mut [u8]) -> (usize, usize, bool) {
    let (mut at, mut to) = (0, 0);
    loop {
        if let (Some(word), Some(copy)) =
            (data[at..].first_chunk::<WORD_BYTES>(), room[to..].first_chunk_mut::<WORD_BYTES>())
        {
            *copy = *word;
            let Some(plain) = first_special(word) else {
                at += WORD_BYTES;
                to += WORD_BYTES;
                continue;
            };
            at += plain;
            to += plain;
        } else {
            let (Some(byte), Some(copy)) = (data.get(at), room.get_mut(to)) else {
                return (at, to, false);
            };
            if !is_special(byte) {
                *copy = *byte;
                at += 1;
                to += 1;
                continue;
            }
        }
        let Some([b'\\', letter]) = data[at..].first_chunk::<2>() else {
            return (at, to, true);
        };
        let unescaped = LETTERS[usize::from(*letter)];
        if unescaped == 0 {
            return (at, to, true);
        }
        room[to] = unescaped;
        at += 2;
        to += 1;
    }
}

/// What one-letter escapes stand for; 0 for those that are none.
const LETTERS: [u8; 256] = {
    let mut letters = [0; 256];
    letters[b'"' as usize] = b'"';
    letters[b'\\' as usize] = b'\\';
    letters[b'/' as usize] = b'/';
    letters[b'b' as usize] = 0x08;
    letters[b'f' as usize] = 0x0c;
    letters[b'n' as usize] = b'\n';
    letters[b'r' as usize] = b'\r';
    letters[b't' as usize] = b'\t';
    letters
};

fn is_special(byte: &u8) -> bool {
    *byte < 0x20 || matches!(byte, b'"' | b'\\')
}

/// Where in eight bytes the first special one is.
#[inline]
fn first_special(word: &[u8]) -> Option<usize> {
    const ONES: u64 = u64::from_ne_bytes([1; WORD_BYTES]);
    const HIGH: u64 = ONES << 7;
    let word = u64::from_le_bytes(*word.first_chunk()?);
    // The high bit of every byte that is less than the limit, and maybe of some behind the first such.
    let less = |word: u64, limit: u64| word.wrapping_sub(ONES * limit) & !word & HIGH;
    let quotes = less(word ^ (ONES * u64::from(b'"')), 1);
    let backslashes = less(word ^ (ONES * u64::from(b'\\')), 1);
    let found = less(word, 0x20) | quotes | backslashes;
    (found != 0).then(|| found.trailing_zeros() as usize / 8)
}
