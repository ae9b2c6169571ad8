//! Token counts out of an engine's answer as it passes by, whatever the pieces it comes in.
//! The twin of `epp/parsing/usage.py`.

use crate::answer::grpc::GrpcReader;
use crate::answer::json::JsonReader;
use crate::answer::search::stripped;
use crate::answer::sse::SseReader;
use crate::types::{Api, Usage};

/// Reads one answer.
pub enum Reader {
    /// Compressed answers, audio and the like.
    Unread,
    /// The content type did not come: the first byte tells JSON from events.
    Untyped(Api),
    Sse(SseReader),
    Json(JsonReader),
    Grpc(GrpcReader),
}

impl Reader {
    /// For an answer with these headers; either may be empty.
    pub fn of(api: Api, content_type: &[u8], content_encoding: &[u8]) -> Reader {
        let encoding = trimmed(content_encoding);
        if !encoding.is_empty() && !encoding.eq_ignore_ascii_case("identity") {
            return Reader::Unread;
        }
        if api == Api::VllmGrpc {
            return Reader::Grpc(GrpcReader::default());
        }
        let media = trimmed(content_type.split(|byte| *byte == b';').next().unwrap_or_default());
        let ending = media.as_bytes().last_chunk::<5>();
        if media.eq_ignore_ascii_case("text/event-stream") {
            Reader::Sse(SseReader::new(api))
        } else if media.eq_ignore_ascii_case("application/json")
            || ending.is_some_and(|ending| ending.eq_ignore_ascii_case(b"+json"))
        {
            Reader::Json(JsonReader::new(api))
        } else if media.is_empty() {
            Reader::Untyped(api)
        } else {
            Reader::Unread
        }
    }

    pub fn feed(&mut self, chunk: &[u8]) {
        if let Reader::Untyped(api) = *self {
            *self = match stripped(chunk).first() {
                None => return,
                Some(b'{' | b'[') => Reader::Json(JsonReader::new(api)),
                // data, event, id, a comment, retry
                Some(b'd' | b'e' | b'i' | b':' | b'r') => Reader::Sse(SseReader::new(api)),
                Some(_) => Reader::Unread,
            };
        }
        match self {
            Reader::Sse(reader) => reader.feed(chunk),
            Reader::Json(reader) => reader.feed(chunk),
            Reader::Grpc(reader) => reader.feed(chunk),
            Reader::Unread | Reader::Untyped(_) => {}
        }
    }

    /// After the last piece; None when the answer tells no counts or cannot be read.
    pub fn finish(&mut self) -> Option<Usage> {
        match self {
            Reader::Sse(reader) => reader.finish(),
            Reader::Json(reader) => reader.finish(),
            Reader::Grpc(reader) => reader.finish(),
            Reader::Unread | Reader::Untyped(_) => None,
        }
    }

    /// `id` of a /v1/responses answer, as soon as it has passed by; empty for others.
    pub fn response_id(&self) -> &str {
        match self {
            Reader::Sse(reader) => &reader.response_id,
            Reader::Json(reader) => &reader.response_id,
            _ => "",
        }
    }
}

/// A header's value without white space around it, Unicode's included as Python's `str.strip` has it.
fn trimmed(value: &[u8]) -> String {
    let text = String::from_utf8_lossy(value);
    text.trim_matches(|c: char| c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)).to_owned()
}
