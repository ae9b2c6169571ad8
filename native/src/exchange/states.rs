//! What an exchange is told once, what it says, and the states between messages.

use std::cell::Cell;
use std::rc::Rc;

use crate::prompt::ScanPlan;
use crate::proto::Frame;
use crate::types::Event;

#[derive(Clone, Debug, Default)]
pub struct Limits {
    pub max_body_bytes: u64,
    /// Of request bodies that all exchanges hold together.
    pub budget_limit: u64,
    /// Python may refuse at the headers: it is asked, and waited for.
    pub ask_headers: bool,
    /// Upper bounds of the buckets in which an answer's pauses are counted.
    pub gap_bounds: Rc<[f64]>,
    /// Bodies that are scanned while they come in.
    pub scan: Rc<ScanPlan>,
}

/// Bytes of request bodies that all exchanges of one thread hold together.
#[derive(Debug, Default)]
pub struct Budget {
    used: Cell<u64>,
}

impl Budget {
    pub fn used(&self) -> u64 {
        self.used.get()
    }

    pub fn take(&self, bytes: u64) {
        self.used.set(self.used.get().saturating_add(bytes));
    }

    pub fn give_back(&self, bytes: u64) {
        self.used.set(self.used.get().saturating_sub(bytes));
    }
}

/// How the stream is to be ended by us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Close {
    Ok,
    /// A gRPC status: INVALID_ARGUMENT for an order of messages that Envoy cannot produce, UNAVAILABLE to make
    /// Envoy reset an answer that had begun.
    Fail {
        code: u32,
        message: String,
    },
}

/// What a call leads to: frames and events in the order in which they are to go out, the close after them.
#[derive(Debug, Default)]
pub struct Out {
    pub frames: Vec<Frame>,
    pub events: Vec<Event>,
    pub close: Option<Close>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RequestState {
    Start,
    /// Headers seen (or skipped), the body is coming.
    Gather,
    Deciding,
    /// Routed.
    Pass,
    /// Routed, and trailers seen.
    Over,
    /// The answer began without our verdict; what still comes of the request is not looked at.
    Overtaken,
    Closed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AnswerState {
    None,
    Body,
    Done,
    /// Trailers seen.
    Over,
}

/// A reply of Python's without which nothing goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Awaited {
    Nothing,
    /// To Event::Headers: go on, or a refusal.
    Leave {
        end_of_stream: bool,
    },
    /// To Event::Limited.
    Refusal,
    /// To Event::Answered: headers to set.
    AnswerSet,
}

impl RequestState {
    /// As in the messages of the Python exchange.
    pub(super) fn name(self) -> &'static str {
        match self {
            RequestState::Start => "START",
            RequestState::Gather => "GATHER",
            RequestState::Deciding => "DECIDING",
            RequestState::Pass => "PASS",
            RequestState::Over => "OVER",
            RequestState::Overtaken => "OVERTAKEN",
            RequestState::Closed => "CLOSED",
        }
    }
}

impl AnswerState {
    pub(super) fn name(self) -> &'static str {
        match self {
            AnswerState::None => "NONE",
            AnswerState::Body => "BODY",
            AnswerState::Done => "DONE",
            AnswerState::Over => "OVER",
        }
    }
}
