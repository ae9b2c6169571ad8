//! Usage out of a stream of server-sent events; the twin of `epp/parsing/sse.py`.
//!
//! A token's event costs some tens of nanoseconds: its bytes are searched for a name that hardly any has, and
//! the few lines that have it are kept and read at the end.

use memchr::memmem::Finder;
use memchr::{memchr_iter, memrchr};

use crate::answer::counts::{merged, read};
use crate::answer::search::{META_INFO, USAGE, reports, stripped};
use crate::types::{Api, Usage};

/// A longer line is not read. The longest in use is the last of a /v1/responses stream, which repeats the
/// whole answer.
const MAX_LINE_BYTES: usize = 4 << 20;
const ID_TRIES: u8 = 8;
const DATA: &[u8] = b"data:";

pub struct SseReader {
    mark: &'static Finder<'static>,
    id_tries: u8,
    /// A line whose end has not come.
    held: Vec<u8>,
    held_bytes: usize,
    first: Option<Vec<u8>>,
    last: Option<Vec<u8>>,
    pub response_id: String,
}

impl SseReader {
    pub fn new(api: Api) -> SseReader {
        SseReader {
            mark: if api == Api::Sglang { &META_INFO } else { &USAGE },
            id_tries: if api == Api::Responses { ID_TRIES } else { 0 },
            held: Vec::new(),
            held_bytes: 0,
            first: None,
            last: None,
            response_id: String::new(),
        }
    }

    pub fn feed(&mut self, chunk: &[u8]) {
        if self.held.is_empty() && chunk.last() == Some(&b'\n') {
            self.lines(chunk);
            return;
        }
        let end = memrchr(b'\n', chunk).map_or(0, |at| at + 1);
        let (whole, rest) = chunk.split_at(end);
        if !whole.is_empty() {
            if self.held.is_empty() {
                self.lines(whole);
            } else {
                let mut data = std::mem::take(&mut self.held);
                data.extend_from_slice(whole);
                self.lines(&data);
            }
            self.held_bytes = 0;
        }
        if !rest.is_empty() {
            self.hold(rest);
        }
    }

    pub fn finish(&mut self) -> Option<Usage> {
        let rest = std::mem::take(&mut self.held);
        self.lines(&rest);
        let report = |line: &Option<Vec<u8>>| line.as_deref().and_then(|line| read(line).0);
        merged(report(&self.first), report(&self.last))
    }

    fn hold(&mut self, piece: &[u8]) {
        self.held_bytes += piece.len();
        if self.held_bytes <= MAX_LINE_BYTES {
            self.held.extend_from_slice(piece);
        } else {
            // Its beginning stays, which tells what line it is; the rest is dropped until the line ends.
            self.held.extend_from_slice(&piece[..piece.len().min(DATA.len())]);
            self.held.truncate(DATA.len());
            self.held.shrink_to_fit();
        }
    }

    /// Whole lines.
    fn lines(&mut self, data: &[u8]) {
        if self.id_tries > 0 {
            self.find_id(data);
        }
        if self.mark.find(data).is_none() {
            return;
        }
        for event in events(data) {
            if self.mark.find(event).is_none() || reports(event).next().is_none() {
                continue;
            }
            let place = if self.first.is_none() { &mut self.first } else { &mut self.last };
            let line = place.get_or_insert_default();
            line.clear();
            line.extend_from_slice(stripped(event));
        }
    }

    fn find_id(&mut self, data: &[u8]) {
        for event in events(data) {
            if self.id_tries == 0 {
                return;
            }
            self.id_tries -= 1;
            self.response_id = read(stripped(event)).1;
            if !self.response_id.is_empty() {
                self.id_tries = 0;
            }
        }
    }
}

/// What stands behind `data:` in every line that begins so.
fn events(data: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut start = 0;
    memchr_iter(b'\n', data).chain([data.len()]).filter_map(move |end| {
        let line = &data[start..end];
        start = end + 1;
        line.strip_prefix(DATA)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_in_the_same_piece_makes_no_difference() {
        let lines = b"data: {\"meta_info\":1}\ndata: {\"usage\":{\"prompt_tokens\":3}}\n";
        for step in [1, 24, lines.len()] {
            let mut reader = SseReader::new(Api::Sglang);
            lines.chunks(step).for_each(|piece| reader.feed(piece));
            assert_eq!(reader.finish(), None, "in steps of {step}");
        }
    }
}
