//! The answer side: watched by the plan, passed on or echoed piece by piece.

use bytes::{Bytes, BytesMut};

use super::gathered::split;
use super::requesting::{CONTENT_LENGTH, content_length};
use super::{AnswerState, Awaited, Exchange, Out, RequestState};
use crate::answer::{Watch, head_of};
use crate::proto::encode::{self, Change};
use crate::proto::{BodyMode, Incoming, Side};
use crate::types::{Event, Pair};

impl Exchange {
    pub(super) fn answer_headers(&mut self, message: Incoming, now: f64, out: &mut Out) {
        self.begin_answer(now);
        let head = head_of(&message.headers, message.served, now);
        if let Some(watch) = &mut self.watch {
            watch.headers(&message.headers, &head);
        }
        let elsewhere = head.served.as_ref().is_some_and(|at| !at.is_empty() && at.as_bytes() != self.target);
        let wait = self.plan.ask || elsewhere;
        // Without a body there is nothing to leave out.
        self.overridden = !self.plan.observe && !message.end_of_stream && self.may_skip_body();
        if let Some(length) = content_length(&message.headers) {
            self.answer_left = i64::try_from(length).unwrap_or(0);
        }
        if message.end_of_stream {
            self.answer = AnswerState::Done;
        }
        out.events.push(Event::Answered { head: self.head.take(), answer: Box::new(head), wait });
        if wait {
            self.awaited = Awaited::AnswerSet;
        } else {
            self.reply_headers(&[], out);
        }
    }

    /// Python's reply to Event::Answered where it was waited for.
    pub fn answer_set(&mut self, more: Vec<Pair>, _now: f64, out: &mut Out) {
        if self.awaited == Awaited::AnswerSet {
            self.awaited = Awaited::Nothing;
            self.reply_headers(&more, out);
        }
    }

    fn reply_headers(&mut self, more: &[Pair], out: &mut Out) {
        let set: Vec<(&[u8], &[u8])> =
            self.plan.set.iter().chain(more).map(|(name, value)| (&name[..], &value[..])).collect();
        let changes_length = self.watch.as_ref().is_some_and(|watch| watch.changes_length());
        let remove: &[&[u8]] = if changes_length { &[CONTENT_LENGTH] } else { &[] };
        let change = Change { set: &set, remove, target: None };
        out.frames.push(encode::headers(Side::Answer, change, self.overridden));
    }

    /// Envoy takes no override where a body is full duplex.
    pub(super) fn may_skip_body(&self) -> bool {
        self.answer_mode == BodyMode::Streamed && !self.request_mode.duplex()
    }

    pub(super) fn answer_body(&mut self, message: Incoming, now: f64, out: &mut Out) {
        self.begin_answer(now);
        // These are one message, which need not carry end_of_stream: trailers, or the rest of a body over
        // Envoy's limit, may follow.
        let last = message.end_of_stream || self.answer_mode.buffered();
        let ignored = std::mem::take(&mut self.overridden);
        let (changed, first) = match &mut self.watch {
            Some(watch) => {
                if ignored {
                    watch.set_override_ignored();
                }
                watch.chunk(&message.body, last, now)
            }
            None => (None, false),
        };
        if first {
            out.events.push(Event::FirstToken { head: self.head.take(), at: now });
        }
        if self.answer_mode.duplex() {
            let came = message.body.len();
            let held = std::mem::take(&mut self.held);
            self.echo_answer(joined(held, changed.unwrap_or(message.body)), came, last, out);
        } else {
            out.frames.push(encode::body(Side::Answer, changed, Change::default()));
        }
        if last {
            self.answer = AnswerState::Done;
        }
    }

    /// As it came, but for the piece that completes content-length: only the empty end of the stream can follow
    /// it, which Envoy sends right behind, so the two go back as one message.
    fn echo_answer(&mut self, chunk: Bytes, came: usize, last: bool, out: &mut Out) {
        let chunk = send_all_but_last(chunk, out);
        if self.answer_left > 0 {
            self.answer_left = self.answer_left.saturating_sub_unsigned(came as u64);
            if self.answer_left == 0 && !last {
                self.held = chunk;
                return;
            }
        }
        if !chunk.is_empty() || last {
            out.frames.push(encode::streamed(Side::Answer, chunk, last, None));
        }
    }

    /// A second end_of_stream.
    pub(super) fn late_answer_body(&mut self, message: &Incoming, out: &mut Out) {
        if !message.body.is_empty() {
            self.violation("response_body after the end of the answer", out);
        } else if self.answer_mode == BodyMode::Streamed || self.answer_mode.buffered() {
            out.frames.push(encode::body(Side::Answer, None, Change::default()));
        }
    }

    pub(super) fn answer_trailers(&mut self, now: f64, out: &mut Out) {
        self.begin_answer(now);
        if self.answer == AnswerState::Body {
            let flushed = self.watch.as_mut().and_then(Watch::flush).unwrap_or_default();
            let held_back = joined(std::mem::take(&mut self.held), flushed);
            if !held_back.is_empty() && self.answer_mode.duplex() {
                let chunk = send_all_but_last(held_back, out);
                out.frames.push(encode::streamed(Side::Answer, chunk, false, None));
            }
        }
        out.frames.push(encode::trailers(Side::Answer, None));
        self.answer = AnswerState::Over;
    }

    fn begin_answer(&mut self, now: f64) {
        if self.answer != AnswerState::None {
            return;
        }
        self.answer = AnswerState::Body;
        self.open_answer(now);
        if matches!(self.request, RequestState::Start | RequestState::Gather | RequestState::Deciding) {
            // Envoy's own answer: nothing of the request is left to decide.
            self.request = RequestState::Overtaken;
            self.let_go();
        }
        self.watch = Some(Watch::new(&self.plan, self.limits.gap_bounds.clone()));
    }
}

/// Sends parts of full length and returns the rest.
fn send_all_but_last(chunk: Bytes, out: &mut Out) -> Bytes {
    let mut parts = Vec::new();
    split(chunk, &mut parts);
    let rest = parts.pop().unwrap_or_default();
    out.frames.extend(parts.into_iter().map(|part| encode::streamed(Side::Answer, part, false, None)));
    rest
}

fn joined(held: Bytes, more: Bytes) -> Bytes {
    if held.is_empty() {
        return more;
    }
    if more.is_empty() {
        return held;
    }
    let mut both = BytesMut::with_capacity(held.len() + more.len());
    both.extend_from_slice(&held);
    both.extend_from_slice(&more);
    both.freeze()
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;
    use crate::exchange::{Budget, Limits};
    use crate::proto::Kind;
    use crate::types::{Limit, Route, Verdict};

    fn incoming(kind: Kind, body: &Bytes, end_of_stream: bool) -> Incoming {
        Incoming { body: body.clone(), end_of_stream, ..Incoming::of(kind) }
    }

    fn made() -> Exchange {
        let (max_body_bytes, budget_limit) = (2 << 20, 2 << 20);
        let limits = Limits { max_body_bytes, budget_limit, ..Limits::default() };
        Exchange::new(Rc::new(limits), Rc::new(Budget::default()))
    }

    #[test]
    fn pieces_are_limited_in_number() {
        let (mut exchange, mut out) = (made(), Out::default());
        exchange.receive(incoming(Kind::RequestHeaders, &Bytes::new(), false), 0.0, &mut out);
        let piece = Bytes::from_static(b"x");
        for _ in 0..=1 << 20 {
            exchange.receive(incoming(Kind::RequestBody, &piece, false), 0.0, &mut out);
        }
        assert!(out.events.is_empty() && out.close.is_none());
        exchange.receive(incoming(Kind::RequestBody, &piece, false), 0.0, &mut out);
        assert!(matches!(out.events.as_slice(), [Event::Limited { limit: Limit::BodyTooLarge, .. }]));
        assert_eq!(exchange.held_bytes(), 0);
    }

    #[test]
    fn bodies_go_back_without_being_copied() {
        let (mut exchange, mut out) = (made(), Out::default());
        let (nothing, body) = (Bytes::new(), Bytes::from(vec![b'x'; 70_000]));
        exchange.receive(incoming(Kind::RequestHeaders, &nothing, false), 0.0, &mut out);
        exchange.receive(incoming(Kind::RequestBody, &body, true), 0.0, &mut out);
        let Some(Event::Decide { body: shown, .. }) = out.events.pop() else { panic!("{:?}", out.events) };
        assert_eq!(shown.as_ptr(), body.as_ptr());
        exchange.decided(Verdict::Route(Box::<Route>::default()), 0.0, &mut out);
        let sent: Vec<_> = out.frames.drain(1..).map(|frame| frame.tail.as_ptr()).collect();
        assert_eq!(sent, [body.as_ptr(), body[62_000..].as_ptr()]);
        out.frames.clear();
        exchange.receive(incoming(Kind::AnswerBody, &body, false), 0.0, &mut out);
        let sent: Vec<_> = out.frames.iter().map(|frame| frame.tail.as_ptr()).collect();
        assert_eq!(sent, [body.as_ptr(), body[62_000..].as_ptr()]);
    }
}
