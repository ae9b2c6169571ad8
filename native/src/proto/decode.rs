//! A ProcessingRequest to what the exchange takes. Bodies and header values share the message's memory.

use std::ops::Range;

use bytes::Bytes;

use super::metadata::{Metadata, check_struct_entry};
use super::wire::{Malformed, Reader, Wire};
use crate::types::Pair;

const SERVED: &[u8] = b"x-gateway-destination-endpoint-served";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    RequestHeaders,
    RequestBody,
    RequestTrailers,
    AnswerHeaders,
    AnswerBody,
    AnswerTrailers,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::RequestHeaders => "request_headers",
            Kind::RequestBody => "request_body",
            Kind::RequestTrailers => "request_trailers",
            Kind::AnswerHeaders => "answer_headers",
            Kind::AnswerBody => "answer_body",
            Kind::AnswerTrailers => "answer_trailers",
        }
    }

    /// By the number in ProcessingRequest's oneof `request`.
    fn numbered(number: u32) -> Option<Kind> {
        match number {
            2 => Some(Kind::RequestHeaders),
            3 => Some(Kind::AnswerHeaders),
            4 => Some(Kind::RequestBody),
            5 => Some(Kind::AnswerBody),
            6 => Some(Kind::RequestTrailers),
            7 => Some(Kind::AnswerTrailers),
            _ => None,
        }
    }
}

/// Content of any message; what a message does not have is empty.
#[derive(Clone, Debug)]
pub struct Incoming {
    pub kind: Kind,
    /// In order; names in lower case. Of repeated ones the last counts.
    pub headers: Vec<Pair>,
    pub body: Bytes,
    pub end_of_stream: bool,
    /// Body modes of request and answer, from `protocol_config`.
    pub modes: Option<(i32, i32)>,
    /// Endpoints that the gateway allows.
    pub subset: Option<Vec<String>>,
    /// The endpoint that the gateway says it used.
    pub served: Option<String>,
    /// The pool that the gateway says it is for; empty where it does not.
    pub pool: Bytes,
}

impl Incoming {
    pub fn of(kind: Kind) -> Incoming {
        Incoming {
            kind,
            headers: Vec::new(),
            body: Bytes::new(),
            end_of_stream: false,
            modes: None,
            subset: None,
            served: None,
            pool: Bytes::new(),
        }
    }
}

/// None when the message holds none of the six kinds.
pub fn decode(message: Bytes) -> Result<Option<Incoming>, Malformed> {
    let mut reader = Reader::new(&message);
    let mut incoming: Option<Incoming> = None;
    let mut metadata: Option<Metadata> = None;
    let mut modes = None;
    while let Some((number, value)) = reader.field()? {
        let Wire::Span(span) = value else { continue };
        match number {
            2..=7 => {
                let Some(kind) = Kind::numbered(number) else { continue };
                let inner = reader.inner(span)?;
                // A kind that comes again is merged; another one takes its place.
                if incoming.as_ref().is_none_or(|earlier| earlier.kind != kind) {
                    incoming = Some(Incoming::of(kind));
                }
                if let Some(incoming) = &mut incoming {
                    match kind {
                        Kind::RequestHeaders | Kind::AnswerHeaders => read_headers(inner, incoming)?,
                        Kind::RequestBody | Kind::AnswerBody => read_body(inner, incoming)?,
                        Kind::RequestTrailers | Kind::AnswerTrailers => check_trailers(inner)?,
                    }
                }
            }
            8 => metadata.get_or_insert_default().read(reader.inner(span)?)?,
            9 => check_struct_entry(reader.inner(span)?)?,
            11 => read_modes(reader.inner(span)?, modes.get_or_insert((0, 0)))?,
            _ => {}
        }
    }
    if let Some(incoming) = &mut incoming {
        incoming.modes = modes;
        incoming.pool = metadata.as_mut().map(Metadata::pool).unwrap_or_default();
        match incoming.kind {
            Kind::AnswerBody => {}
            Kind::AnswerHeaders => {
                let named = last(&incoming.headers, SERVED).map(lossy);
                incoming.served = metadata.and_then(Metadata::served).or(named);
            }
            _ => incoming.subset = metadata.and_then(Metadata::subset),
        }
    }
    Ok(incoming)
}

/// Of repeated headers the last counts.
pub fn last<'a>(headers: &'a [Pair], name: &[u8]) -> Option<&'a Bytes> {
    headers.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value)
}

fn lossy(bytes: &Bytes) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// HttpHeaders.
fn read_headers(mut reader: Reader<'_>, incoming: &mut Incoming) -> Result<(), Malformed> {
    while let Some((number, value)) = reader.field()? {
        match (number, value) {
            (1, Wire::Span(span)) => {
                read_header_map(reader.inner(span)?, |pair| incoming.headers.push(pair))?
            }
            (2, Wire::Span(span)) => check_struct_entry(reader.inner(span)?)?,
            (3, Wire::Varint(end)) => incoming.end_of_stream = end != 0,
            _ => {}
        }
    }
    Ok(())
}

/// HttpBody.
fn read_body(mut reader: Reader<'_>, incoming: &mut Incoming) -> Result<(), Malformed> {
    while let Some((number, value)) = reader.field()? {
        match (number, value) {
            (1, Wire::Span(span)) => incoming.body = reader.bytes(span),
            (2, Wire::Varint(end)) => incoming.end_of_stream = end != 0,
            _ => {}
        }
    }
    Ok(())
}

/// HttpTrailers: nothing of them is used, but they must be right.
fn check_trailers(mut reader: Reader<'_>) -> Result<(), Malformed> {
    while let Some((number, value)) = reader.field()? {
        if let (1, Wire::Span(span)) = (number, value) {
            read_header_map(reader.inner(span)?, drop)?;
        }
    }
    Ok(())
}

/// ProtocolConfiguration.
fn read_modes(mut reader: Reader<'_>, modes: &mut (i32, i32)) -> Result<(), Malformed> {
    while let Some((number, value)) = reader.field()? {
        match (number, value) {
            // An enum is the low 32 bits of its number.
            (1, Wire::Varint(mode)) => modes.0 = mode as i32,
            (2, Wire::Varint(mode)) => modes.1 = mode as i32,
            _ => {}
        }
    }
    Ok(())
}

/// HeaderMap of base.proto.
fn read_header_map(mut reader: Reader<'_>, mut take: impl FnMut(Pair)) -> Result<(), Malformed> {
    while let Some((number, value)) = reader.field()? {
        if let (1, Wire::Span(span)) = (number, value) {
            take(header(reader.inner(span)?)?);
        }
    }
    Ok(())
}

/// HeaderValue of base.proto. Envoy fills raw_value; the plain value is what older gateways send.
fn header(mut reader: Reader<'_>) -> Result<Pair, Malformed> {
    let empty: Range<usize> = 0..0;
    let (mut key, mut plain, mut raw) = (empty.clone(), empty.clone(), empty);
    while let Some((number, value)) = reader.field()? {
        match (number, value) {
            (1, Wire::Span(span)) => {
                reader.check_text(&span)?;
                key = span;
            }
            (2, Wire::Span(span)) => {
                reader.check_text(&span)?;
                plain = span;
            }
            (3, Wire::Span(span)) => raw = span,
            _ => {}
        }
    }
    let value = if raw.is_empty() { plain } else { raw };
    Ok((lower(reader.bytes(key)), reader.bytes(value)))
}

/// Names come in lower case from HTTP/2 and Envoy; others may not know that.
fn lower(name: Bytes) -> Bytes {
    if name.iter().all(|byte| byte.is_ascii() && !byte.is_ascii_uppercase()) {
        return name;
    }
    lossy(&name).to_lowercase().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_a_slice_of_its_message() -> Result<(), Malformed> {
        let message = Bytes::from_static(b"\x22\x07\x0a\x03abc\x10\x01");
        let incoming = decode(message.clone())?;
        let Some(Incoming { kind: Kind::RequestBody, body, end_of_stream: true, .. }) = incoming else {
            panic!("{incoming:?}")
        };
        assert_eq!(body, "abc");
        assert_eq!(body.as_ptr(), message[4..].as_ptr());
        Ok(())
    }

    #[test]
    fn names_are_lowered_and_kept_in_order() {
        let message = b"\x12\x12\x0a\x10\x0a\x06\x0a\x01B\x1a\x01x\x0a\x06\x0a\x01a\x12\x01y";
        let headers = decode(Bytes::from_static(message)).ok().flatten().map(|incoming| incoming.headers);
        assert_eq!(headers, Some(vec![("b".into(), "x".into()), ("a".into(), "y".into())]));
    }
}
