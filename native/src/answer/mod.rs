//! What the door sees of one answer as it passes by: when, how much, its usage; a model's name put back.
//! The twin of `epp/extproc/answer.py`.

mod counts;
mod grpc;
mod json;
mod reader;
mod restore;
pub(crate) mod scan;
mod search;
mod sse;

use std::rc::Rc;
use std::time::Instant;

use bytes::Bytes;

use crate::types::{AnswerHead, AnswerPlan, Pair, Report};
use reader::Reader;
use restore::ModelRestorer;

/// On every answer of a model server that came through, or on Envoy's own about its own limits.
const ENGINES_OWN: [&[u8]; 4] = [b"date", b"server", b"x-envoy-upstream-service-time", b"x-envoy-overloaded"];

/// The value of a header: of repeated ones the last counts; empty when absent.
fn value_of<'a>(headers: &'a [Pair], name: &[u8]) -> &'a [u8] {
    headers.iter().rev().find(|(key, _)| key == name).map_or(&[], |(_, value)| value)
}

pub fn head_of(headers: &[Pair], served: Option<String>, at: f64) -> AnswerHead {
    let status = match value_of(headers, b":status") {
        &[a, b, c] if [a, b, c].iter().all(u8::is_ascii_digit) => {
            [a, b, c].iter().fold(0, |number, digit| number * 10 + u16::from(digit - b'0'))
        }
        _ => 0,
    };
    AnswerHead {
        status,
        at,
        served,
        streamed: memchr::memmem::find(value_of(headers, b"content-type"), b"text/event-stream").is_some(),
        encoded: !matches!(value_of(headers, b"content-encoding"), b"" | b"identity"),
        local: !headers.iter().any(|(name, _)| ENGINES_OWN.contains(&&name[..])),
    }
}

/// Feed every piece; `report` after the last.
pub struct Watch {
    plan: AnswerPlan,
    gap_bounds: Rc<[f64]>,
    reader: Option<Reader>,
    restorer: Option<ModelRestorer>,
    streamed: bool,
    seen: bool,
    override_ignored: bool,
    first_at: f64,
    last_at: f64,
    body_bytes: u64,
    gaps: Vec<u32>,
    gaps_s: f64,
    processing_s: f64,
}

impl Watch {
    /// `gap_bounds`: upper bounds of the buckets that pauses are counted in, rising; seconds.
    pub fn new(plan: &AnswerPlan, gap_bounds: Rc<[f64]>) -> Watch {
        Watch {
            streamed: plan.stream,
            plan: plan.clone(),
            gap_bounds,
            reader: None,
            restorer: None,
            seen: false,
            override_ignored: false,
            first_at: 0.0,
            last_at: 0.0,
            body_bytes: 0,
            gaps: Vec::new(),
            gaps_s: 0.0,
            processing_s: 0.0,
        }
    }

    /// The name that is put back may be longer or shorter.
    pub fn changes_length(&self) -> bool {
        self.restorer.is_some()
    }

    /// The body came although the gateway was told that it need not send it.
    pub fn set_override_ignored(&mut self) {
        self.override_ignored = true;
    }

    pub fn headers(&mut self, headers: &[Pair], head: &AnswerHead) {
        self.last_at = head.at;
        self.streamed = head.streamed || self.plan.stream;
        let media = value_of(headers, b"content-type");
        let encoding = value_of(headers, b"content-encoding");
        self.reader = Some(Reader::of(self.plan.api, media, encoding));
        if let Some((target, incoming)) = &self.plan.restore
            && !head.encoded
        {
            self.restorer = Some(ModelRestorer::new(target, incoming));
        }
    }

    /// What is sent instead, None for the piece itself; and whether it is the first with content.
    /// `began_at`: CLOCK_MONOTONIC seconds, when the piece came.
    pub fn chunk(&mut self, data: &Bytes, last: bool, began_at: f64) -> (Option<Bytes>, bool) {
        let began = Instant::now();
        self.seen = true;
        let mut first = false;
        if !data.is_empty() {
            if self.body_bytes == 0 {
                first = true;
                self.first_at = began_at;
            } else if self.streamed {
                self.gap(began_at - self.last_at);
            }
            self.last_at = began_at;
            self.body_bytes += data.len() as u64;
        }
        // Without a reader, Envoy was told to skip the headers: the kind must be guessed, the length stands.
        self.reader.get_or_insert_with(|| Reader::of(self.plan.api, b"", b"")).feed(data);
        let changed = self.restorer.as_mut().map(|restorer| restorer.feed(data, last));
        self.processing_s += began.elapsed().as_secs_f64();
        (changed, first)
    }

    /// The end came as trailers: what of the body was held back.
    pub fn flush(&mut self) -> Option<Bytes> {
        self.restorer.as_mut().map(|restorer| restorer.feed(&Bytes::new(), true))
    }

    pub fn report(&mut self) -> Report {
        let Some(reader) = self.reader.as_mut().filter(|_| self.seen) else {
            return Report::default();
        };
        let usage = reader.finish();
        Report {
            observed: true,
            override_ignored: self.override_ignored,
            first_at: self.first_at,
            last_at: self.last_at,
            body_bytes: self.body_bytes,
            usage,
            response_id: reader.response_id().to_owned(),
            gaps: std::mem::take(&mut self.gaps),
            gaps_s: self.gaps_s,
            processing_s: self.processing_s,
        }
    }

    fn gap(&mut self, seconds: f64) {
        if self.gaps.is_empty() {
            self.gaps = vec![0; self.gap_bounds.len() + 1];
        }
        let bucket = self.gap_bounds.partition_point(|bound| *bound < seconds);
        self.gaps[bucket] = self.gaps[bucket].saturating_add(1);
        self.gaps_s += seconds;
    }
}
