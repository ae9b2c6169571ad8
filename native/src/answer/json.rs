//! Usage out of a JSON answer that comes in pieces, in bounded memory; the twin of `epp/parsing/jsonanswer.py`.

use crate::answer::counts::{read, report_at};
use crate::answer::search::{lstripped, reports, stripped};
use crate::types::{Api, Usage};

/// Answers up to this size are decoded properly; in longer ones (embeddings) `usage` is searched for.
const MAX_WHOLE_BYTES: usize = 256 << 10;
/// A usage object is shorter than this.
const MAX_REPORT_BYTES: usize = 4096;
/// Search a long answer when so much of it has come.
const SEARCH_BYTES: usize = 64 << 10;
const MAX_ID_BYTES: usize = 256;

/// The last usage object of a long answer counts; engines write it at the end or the beginning.
pub struct JsonReader {
    api: Api,
    held: Vec<u8>,
    is_long: bool,
    found: Option<Usage>,
    pub response_id: String,
}

impl JsonReader {
    pub fn new(api: Api) -> JsonReader {
        JsonReader { api, held: Vec::new(), is_long: false, found: None, response_id: String::new() }
    }

    pub fn feed(&mut self, chunk: &[u8]) {
        self.held.extend_from_slice(chunk);
        if self.held.len() <= if self.is_long { SEARCH_BYTES } else { MAX_WHOLE_BYTES } {
            return;
        }
        if !self.is_long {
            self.is_long = true;
            if self.api == Api::Responses {
                self.response_id = leading_id(&self.held).unwrap_or_default();
            }
        }
        let data = std::mem::take(&mut self.held);
        self.search(&data);
        self.held = data[data.len().saturating_sub(MAX_REPORT_BYTES)..].to_vec();
    }

    pub fn finish(&mut self) -> Option<Usage> {
        let data = std::mem::take(&mut self.held);
        let data = stripped(&data);
        if self.is_long {
            self.search(data);
            return self.found;
        }
        let (usage, answer_id) = read(data);
        if self.api == Api::Responses {
            self.response_id = answer_id;
        }
        usage
    }

    fn search(&mut self, data: &[u8]) {
        for start in reports(data) {
            let report = &data[start..data.len().min(start + MAX_REPORT_BYTES)];
            // None: its end has not come yet, or it is not one.
            self.found = report_at(String::from_utf8_lossy(report).as_bytes()).or(self.found);
        }
    }
}

/// The answer's id where it is the first member.
fn leading_id(data: &[u8]) -> Option<String> {
    let rest = lstripped(data).strip_prefix(b"{")?;
    let rest = lstripped(rest).strip_prefix(b"\"id\"")?;
    let rest = lstripped(rest).strip_prefix(b":")?;
    let rest = lstripped(rest).strip_prefix(b"\"")?;
    let end = memchr::memchr2(b'"', b'\\', rest)?;
    ((1..=MAX_ID_BYTES).contains(&end) && rest[end] == b'"')
        .then(|| String::from_utf8_lossy(&rest[..end]).into_owned())
}
