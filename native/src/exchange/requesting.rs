//! The request side: headers, body and trailers up to the verdict, and the verdict's effect.

use bytes::Bytes;

use super::gathered::split;
use super::{AnswerState, Awaited, Exchange, Out, RequestState};
use crate::prompt::Scanning;
use crate::proto::decode::last;
use crate::proto::encode::{self, Change, DESTINATION, Target};
use crate::proto::{BodyMode, Incoming, Side};
use crate::types::{Event, Head, Limit, Pair, Route};

pub(super) const CONTENT_LENGTH: &[u8] = b"content-length";
const LENGTH_DIGITS: usize = 16;
/// A peer that sends millions of tiny pieces is not Envoy.
const MAX_BODY_PIECES: usize = 1 << 20;

impl Exchange {
    pub(super) fn request_headers(&mut self, message: Incoming, now: f64, out: &mut Out) {
        let end_of_stream = message.end_of_stream;
        self.promised_bytes = content_length(&message.headers).unwrap_or(0).min(self.limits.max_body_bytes);
        self.open(message, !end_of_stream, now);
        if self.limits.ask_headers
            && let Some(head) = self.head.take()
        {
            self.awaited = Awaited::Leave { end_of_stream };
            out.events.push(Event::Headers { head });
        } else {
            self.headers_passed(end_of_stream, now, out);
        }
    }

    pub(super) fn headers_passed(&mut self, end_of_stream: bool, _now: f64, out: &mut Out) {
        self.headers_owed = true;
        if end_of_stream || matches!(self.request_mode, BodyMode::None | BodyMode::Streamed) {
            return self.decide(Bytes::new(), !end_of_stream, out);
        }
        if self.request_mode.buffered() {
            self.headers_owed = false;
            out.frames.push(encode::headers(Side::Request, Change::default(), false));
        }
        self.request = RequestState::Gather;
    }

    /// Envoy was told to skip the request headers.
    pub(super) fn first_body(&mut self, mut message: Incoming, now: f64, out: &mut Out) {
        let subset = message.subset.clone();
        let body = std::mem::take(&mut message.body);
        let end_of_stream = message.end_of_stream;
        let kind = message.kind;
        self.open(message, true, now);
        self.request = RequestState::Gather;
        let rest = Incoming { body, end_of_stream, subset, ..Incoming::of(kind) };
        self.request_body(rest, now, out);
    }

    pub(super) fn request_body(&mut self, message: Incoming, now: f64, out: &mut Out) {
        self.allow(message.subset);
        let bytes = message.body.len() as u64;
        self.gathered_bytes += bytes;
        self.budget.take(bytes);
        let max_bytes = self.limits.max_body_bytes;
        if self.gathered_bytes > max_bytes || self.body.pieces() > MAX_BODY_PIECES {
            let text = format!("the request body is larger than {max_bytes} bytes");
            return self.ask_refusal(Limit::BodyTooLarge, text, now, out);
        }
        let limit = self.limits.budget_limit;
        if self.budget.used() > limit {
            let text = format!("requests that are being read hold more than {limit} bytes together");
            return self.ask_refusal(Limit::TooManyStreams, text, now, out);
        }
        if let Some(scanning) = &mut self.scanning {
            scanning.push(&message.body);
        }
        self.body.push(message.body, usize::try_from(self.promised_bytes).unwrap_or(0));
        let mode = self.request_mode;
        let whole = mode.buffered() || mode == BodyMode::Streamed;
        if message.end_of_stream || whole {
            self.bodies_owed = 1;
            // A whole body with trailers behind it does not carry end_of_stream either; parsed leniently then.
            let cut = whole && mode != BodyMode::Buffered && !message.end_of_stream;
            let body = self.body.whole();
            self.decide(body, cut, out);
        }
    }

    /// After the decision was asked for: pieces of STREAMED, or a second end_of_stream.
    pub(super) fn late_body(&mut self, message: &Incoming, out: &mut Out) {
        if !message.body.is_empty() && self.request_mode != BodyMode::Streamed {
            self.violation("request_body after the end of the request", out);
        } else if self.request_mode.duplex() {
            // Nothing is waiting for a reply.
        } else if self.request == RequestState::Deciding {
            self.bodies_owed += 1;
        } else {
            out.frames.push(encode::body(Side::Request, None, Change::default()));
        }
    }

    pub(super) fn request_trailers(&mut self, message: Incoming, out: &mut Out) {
        self.allow(message.subset);
        self.trailers_owed = true;
        let body = self.body.whole();
        self.decide(body, false, out);
    }

    pub(super) fn late_trailers(&mut self, out: &mut Out) {
        if self.request == RequestState::Deciding {
            self.trailers_owed = true;
        } else {
            self.request = RequestState::Over;
            out.frames.push(encode::trailers(Side::Request, None));
        }
    }

    pub(super) fn apply(&mut self, route: Route, out: &mut Out) {
        self.request = RequestState::Pass;
        self.plan = route.answer;
        let first_end =
            route.destination.iter().position(|byte| *byte == b',').unwrap_or(route.destination.len());
        self.target = route.destination.slice(..first_end);
        let duplex = self.request_mode.duplex();
        let named = !route.destination.is_empty();
        let changed_length = route.body.as_ref().map(|body| body.len().to_string());
        // Envoy takes the length off a body that is sent in pieces; the filter behind us may want to know it.
        let passed_on = duplex && !named && self.gathered_bytes > 0 && !self.trailers_owed;
        let own_length = passed_on.then(|| self.gathered_bytes.to_string());
        let mut set: Vec<(&[u8], &[u8])> = Vec::with_capacity(route.set.len() + 2);
        if named {
            set.push((DESTINATION.as_bytes(), &route.destination));
        }
        set.extend(route.set.iter().map(|(name, value)| (&name[..], &value[..])));
        let mut remove: Vec<&[u8]> = route.remove.iter().map(|name| &name[..]).collect();
        if let Some(length) = &changed_length {
            if duplex || self.request_mode == BodyMode::Buffered {
                // Envoy refuses a changed BUFFERED body whose length is not the header's.
                set.push((CONTENT_LENGTH, length.as_bytes()));
            } else {
                // More of the body may follow behind the part that we changed.
                remove.push(CONTENT_LENGTH);
            }
        } else if let Some(length) = &own_length {
            set.push((CONTENT_LENGTH, length.as_bytes()));
        }
        let target = Target { destination: &route.destination, scores: route.scores.as_deref() };
        let mut change = Change { set: &set, remove: &remove, target: Some(target) };
        if self.headers_owed {
            out.frames.push(encode::headers(Side::Request, std::mem::take(&mut change), false));
        }
        if duplex {
            self.echo(route.body, &mut change.target, out);
        } else {
            let mut body = route.body;
            for _ in 0..self.bodies_owed {
                out.frames.push(encode::body(Side::Request, body.take(), std::mem::take(&mut change)));
            }
        }
        if self.trailers_owed {
            self.request = RequestState::Over;
            out.frames.push(encode::trailers(Side::Request, change.target));
        }
        self.let_go();
        if route.skip_response {
            self.skipped = true;
            out.close = Some(super::Close::Ok);
        }
    }

    /// The body in pieces of limited length; the received pieces go back as they came.
    fn echo(&mut self, changed: Option<Bytes>, target: &mut Option<Target<'_>>, out: &mut Out) {
        if self.bodies_owed == 0 && self.body.pieces() == 0 {
            return;
        }
        let mut parts = match changed {
            None => self.body.echo(),
            Some(body) => {
                let mut parts = Vec::new();
                split(body, &mut parts);
                parts
            }
        };
        if parts.is_empty() {
            parts.push(Bytes::new());
        }
        let count = parts.len();
        for (index, part) in parts.into_iter().enumerate() {
            let last = !self.trailers_owed && index + 1 == count;
            out.frames.push(encode::streamed(Side::Request, part, last, target.take()));
        }
    }

    fn decide(&mut self, body: Bytes, truncated: bool, out: &mut Out) {
        self.request = RequestState::Deciding;
        let (head, subset) = (self.head.take(), self.allowed.take());
        let scanning = self.scanning.take().filter(|_| !truncated);
        let scanned = scanning.and_then(Scanning::finish).map(Box::new);
        out.events.push(Event::Decide { head, subset, body, truncated, scanned });
    }

    fn allow(&mut self, subset: Option<Vec<String>>) {
        if subset.is_some() {
            self.allowed = subset;
        }
    }

    fn open(&mut self, message: Incoming, has_body: bool, now: f64) {
        debug_assert!(self.answer == AnswerState::None || self.request == RequestState::Start);
        self.opened = true;
        if has_body {
            self.scanning = Scanning::of(&self.limits.scan, &message.headers);
        }
        self.head = Some(Box::new(Head {
            headers: message.headers,
            received_at: now,
            has_body,
            subset: message.subset,
            view: self.answer_view(),
            answer_only: false,
            origin: self.origin.clone(),
        }));
    }
}

/// None for what is not a plain, likely number.
pub(super) fn content_length(headers: &[Pair]) -> Option<u64> {
    let value = last(headers, CONTENT_LENGTH)?;
    if value.len() >= LENGTH_DIGITS || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}
