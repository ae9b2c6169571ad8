//! Replies to gRPC frames of ProcessingResponse. A body is not copied: it is the last field of the last message,
//! and travels as the frame's tail.
//!
//! Messages are written from their end to their beginning, so that every length is known when its turn comes.

use bytes::Bytes;

use super::Side;
use crate::types::Refusal;

pub const DESTINATION: &str = "x-gateway-destination-endpoint";
const LB_NAMESPACE: &[u8] = b"envoy.lb";
const SCORES: &[u8] = b"x-gateway-destination-endpoint-scores";
/// `HeaderValueOption.append_action` (3) of base.proto: OVERWRITE_IF_EXISTS_OR_ADD (2).
const OVERWRITE: [u8; 2] = [3 << 3, 2];
const USUAL_HEAD_BYTES: usize = 256;

/// One message of a gRPC stream, prefix included: `tail` follows `head` on the wire.
#[derive(Clone, Debug, Default)]
pub struct Frame {
    pub head: Bytes,
    pub tail: Bytes,
}

/// The chosen endpoint as dynamic metadata in namespace `envoy.lb`; none where it is empty.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    pub destination: &'a [u8],
    pub scores: Option<&'a [(Bytes, f64)]>,
}

/// Headers to set and to remove. `target` is set on the reply that routes; the route cache is cleared with it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Change<'a> {
    pub set: &'a [(&'a [u8], &'a [u8])],
    pub remove: &'a [&'a [u8]],
    pub target: Option<Target<'a>>,
}

/// Answers headers. `skip_body`: an answer's body need not be sent to us, only its trailers.
pub fn headers(side: Side, change: Change<'_>, skip_body: bool) -> Frame {
    let mut out = Backwards::new(Bytes::new());
    out.common(change, None);
    out.close(if side == Side::Request { 1 } else { 2 }, 0);
    if skip_body {
        // ProcessingMode of processing_mode.proto: response_trailer_mode (6) SEND, and response_body_mode (4)
        // NONE, which is 0 and so not written. In ProcessingResponse: mode_override (9).
        let end = out.len();
        out.number(6, 1);
        out.close(9, end);
    }
    out.metadata(change.target);
    out.frame()
}

/// Answers one body message of the modes in which Envoy waits for each. A `body` of None leaves it as it is.
pub fn body(side: Side, body: Option<Bytes>, change: Change<'_>) -> Frame {
    let changed = body.is_some();
    let mut out = Backwards::new(body.unwrap_or_default());
    out.common(change, changed.then_some(BodyField::Whole));
    out.close(if side == Side::Request { 3 } else { 4 }, 0);
    out.metadata(change.target);
    out.frame()
}

/// A piece of body in full duplex.
pub fn streamed(side: Side, chunk: Bytes, last: bool, target: Option<Target<'_>>) -> Frame {
    let mut out = Backwards::new(chunk);
    out.common(Change::default(), Some(BodyField::Piece { last }));
    out.close(if side == Side::Request { 3 } else { 4 }, 0);
    out.metadata(target);
    out.frame()
}

pub fn trailers(side: Side, target: Option<Target<'_>>) -> Frame {
    let mut out = Backwards::new(Bytes::new());
    out.close(if side == Side::Request { 5 } else { 6 }, 0);
    out.metadata(target);
    out.frame()
}

/// A complete answer to the client. Envoy closes the stream after it.
pub fn immediate(refusal: &Refusal) -> Frame {
    let mut out = Backwards::new(refusal.body.clone());
    out.tail_field(3);
    let end = out.len();
    out.put(refusal.reason.as_bytes());
    out.put(b"epp_");
    out.close(5, end);
    let end = out.len();
    for (name, value) in refusal.headers.iter().rev() {
        out.option(name, value);
    }
    if out.len() > end {
        out.close(2, end);
    }
    let end = out.len();
    if refusal.status != 0 {
        out.number(1, u64::from(refusal.status)); // HttpStatus.code of http_status.proto
    }
    out.close(1, end);
    out.close(7, 0);
    out.frame()
}

enum BodyField {
    Whole,
    Piece { last: bool },
}

/// A message written from its end; lengths count the tail, which is already "written".
struct Backwards {
    reversed: Vec<u8>,
    tail: Bytes,
}

impl Backwards {
    fn new(tail: Bytes) -> Backwards {
        Backwards { reversed: Vec::with_capacity(USUAL_HEAD_BYTES), tail }
    }

    fn len(&self) -> usize {
        self.reversed.len() + self.tail.len()
    }

    fn put(&mut self, bytes: &[u8]) {
        self.reversed.extend(bytes.iter().rev());
    }

    fn varint(&mut self, mut value: u64) {
        let mut spelled = [0_u8; 10];
        let mut length = 0;
        for slot in &mut spelled {
            *slot = (value & 0x7f) as u8 | 0x80;
            length += 1;
            value >>= 7;
            if value == 0 {
                *slot &= 0x7f;
                break;
            }
        }
        self.put(spelled.get(..length).unwrap_or_default());
    }

    fn number(&mut self, field: u32, value: u64) {
        self.varint(value);
        self.varint(u64::from(field) << 3);
    }

    /// Makes all that was written since the message was `end` long a field of this number.
    fn close(&mut self, field: u32, end: usize) {
        self.varint((self.len() - end) as u64);
        self.varint(u64::from(field) << 3 | 2);
    }

    fn text(&mut self, field: u32, bytes: &[u8]) {
        let end = self.len();
        self.put(bytes);
        self.close(field, end);
    }

    /// The tail as a field that need not be there when it is empty.
    fn tail_field(&mut self, field: u32) {
        if !self.tail.is_empty() {
            self.close(field, 0);
        }
    }

    /// CommonResponse in field `response` (1) of HeadersResponse and BodyResponse: the last of the message.
    fn common(&mut self, change: Change<'_>, body: Option<BodyField>) {
        match body {
            None => {}
            Some(BodyField::Whole) => {
                self.close(1, 0);
                self.close(3, 0);
            }
            Some(BodyField::Piece { last }) => {
                self.tail_field(1);
                if last {
                    self.number(2, 1);
                }
                self.close(3, 0); // BodyMutation.streamed_response
                self.close(3, 0); // CommonResponse.body_mutation
            }
        }
        if change.target.is_some() && !matches!(body, Some(BodyField::Piece { .. })) {
            self.number(5, 1); // clear_route_cache
        }
        let end = self.len();
        for name in change.remove.iter().rev() {
            self.text(2, name);
        }
        for (name, value) in change.set.iter().rev() {
            self.option(name, value);
        }
        if self.len() > end {
            self.close(2, end); // header_mutation
        }
        if self.len() > 0 {
            self.close(1, 0);
        }
    }

    /// HeaderMutation.set_headers (1): HeaderValueOption of base.proto.
    fn option(&mut self, name: &[u8], value: &[u8]) {
        let option_end = self.len();
        self.put(&OVERWRITE);
        let header_end = self.len();
        // Envoy fails the whole request for a control character in a value.
        self.reversed
            .extend(value.iter().rev().map(|byte| if byte.is_ascii_control() { b'?' } else { *byte }));
        self.close(3, header_end);
        self.text(1, name);
        self.close(1, header_end);
        self.close(1, option_end);
    }

    /// ProcessingResponse.dynamic_metadata (8): a Struct of struct.proto.
    fn metadata(&mut self, target: Option<Target<'_>>) {
        let Some(target) = target.filter(|target| !target.destination.is_empty()) else { return };
        let end = self.len();
        if let Some(scores) = target.scores {
            self.entry(SCORES, |out| {
                let scores_end = out.len();
                for (authority, score) in scores.iter().rev() {
                    out.entry(authority, |out| {
                        out.put(&score.to_le_bytes());
                        out.varint(2 << 3 | 1); // Value.number_value
                    });
                }
                if out.len() > scores_end {
                    out.close(5, scores_end);
                }
            });
        }
        self.entry(DESTINATION.as_bytes(), |out| out.text(3, target.destination));
        self.close(5, end); // Value.struct_value
        self.close(2, end);
        self.text(1, LB_NAMESPACE);
        self.close(1, end);
        self.close(8, end);
    }

    /// One entry of Struct.fields (1), whose Value is written by `value`.
    fn entry(&mut self, key: &[u8], value: impl FnOnce(&mut Backwards)) {
        let end = self.len();
        value(self);
        self.close(2, end);
        self.text(1, key);
        self.close(1, end);
    }

    fn frame(mut self) -> Frame {
        let length = self.len() as u32; // bodies are limited far below 4 GiB
        self.put(&length.to_be_bytes());
        self.put(&[0]);
        self.reversed.reverse();
        Frame { head: self.reversed.into(), tail: self.tail }
    }
}
