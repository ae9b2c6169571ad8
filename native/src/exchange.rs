//! One ext_proc stream as a state table without I/O: messages and Python's replies in, frames and events out.
//!
//! The exact twin of `epp/extproc/exchange.py`, which says what the states and modes mean. What differs: Python
//! replies later, so the exchange may be `blocked` until it has; and the request's head goes up with the first
//! event instead of by itself.

mod answering;
mod gathered;
mod requesting;

use std::cell::Cell;
use std::rc::Rc;

use bytes::Bytes;

use crate::answer::Watch;
use crate::proto::encode::{self, Frame};
use crate::proto::{BodyMode, Incoming, Kind};
use crate::types::{AnswerPlan, AnswerView, Ending, Event, Head, Limit, Refusal, Report, Verdict};
use gathered::Gathered;

const INVALID_ARGUMENT: u32 = 3;
const UNAVAILABLE: u32 = 14;

pub struct Limits {
    pub max_body_bytes: u64,
    /// Of request bodies that all exchanges hold together.
    pub budget_limit: u64,
    /// Python may refuse at the headers: it is asked, and waited for.
    pub ask_headers: bool,
    /// Upper bounds of the buckets in which an answer's pauses are counted.
    pub gap_bounds: Rc<[f64]>,
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
enum RequestState {
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
enum AnswerState {
    None,
    Body,
    Done,
    /// Trailers seen.
    Over,
}

/// A reply of Python's without which nothing goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Awaited {
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

pub struct Exchange {
    limits: Rc<Limits>,
    budget: Rc<Budget>,
    request_mode: BodyMode,
    answer_mode: BodyMode,
    request: RequestState,
    answer: AnswerState,
    awaited: Awaited,
    /// Python has to be told the end.
    opened: bool,
    /// Not told yet.
    head: Option<Box<Head>>,
    refused: bool,
    failed: bool,
    skipped: bool,
    headers_owed: bool,
    bodies_owed: u64,
    trailers_owed: bool,
    /// Named by the gateway behind the headers.
    allowed: Option<Vec<String>>,
    body: Gathered,
    gathered_bytes: u64,
    promised_bytes: u64,
    plan: AnswerPlan,
    /// `ip:port` of the first endpoint that was named.
    target: Bytes,
    watch: Option<Watch>,
    /// Bytes that content-length still promises; 0 or less where it promised none.
    answer_left: i64,
    held: Bytes,
    /// Envoy was told that it need not send the answer's body, and has not done so yet.
    overridden: bool,
}

impl Exchange {
    pub fn new(limits: Rc<Limits>, budget: Rc<Budget>) -> Exchange {
        Exchange {
            limits,
            budget,
            request_mode: BodyMode::Unknown,
            answer_mode: BodyMode::Unknown,
            request: RequestState::Start,
            answer: AnswerState::None,
            awaited: Awaited::Nothing,
            opened: false,
            head: None,
            refused: false,
            failed: false,
            skipped: false,
            headers_owed: false,
            bodies_owed: 0,
            trailers_owed: false,
            allowed: None,
            body: Gathered::default(),
            gathered_bytes: 0,
            promised_bytes: 0,
            plan: AnswerPlan::default(),
            target: Bytes::new(),
            watch: None,
            answer_left: 0,
            held: Bytes::new(),
            overridden: false,
        }
    }

    /// Body modes from `protocol_config` of the stream's first message.
    pub fn learn_modes(&mut self, request: i32, answer: i32) {
        self.request_mode = BodyMode::numbered(request);
        self.answer_mode = BodyMode::numbered(answer);
    }

    /// Waits for Python's reply to Headers, Limited or Answered: no message may be given to `receive` meanwhile.
    pub fn blocked(&self) -> bool {
        self.awaited != Awaited::Nothing
    }

    /// Waits for a verdict; messages are taken meanwhile.
    pub fn deciding(&self) -> bool {
        self.request == RequestState::Deciding
    }

    /// The next move is Envoy's and the request is not complete: the time limit for uploads applies.
    pub fn waits_for_request(&self) -> bool {
        matches!(self.request, RequestState::Start | RequestState::Gather)
            && self.answer == AnswerState::None
            && !self.blocked()
    }

    /// False where Envoy keeps the body to itself until it is whole: its own time limits apply then.
    pub fn sees_upload(&self) -> bool {
        !self.request_mode.buffered()
    }

    /// Of the request's body, as it counts against the budget.
    pub fn held_bytes(&self) -> u64 {
        self.gathered_bytes
    }

    pub fn receive(&mut self, message: Incoming, now: f64, out: &mut Out) {
        use AnswerState as A;
        use RequestState as R;
        let (kind, request, answer) = (message.kind, self.request, self.answer);
        if request == R::Closed {
            return self.misplaced(kind, out);
        }
        match kind {
            Kind::RequestHeaders => match request {
                R::Start => self.request_headers(message, now, out),
                _ => self.misplaced(kind, out),
            },
            Kind::RequestBody => match request {
                R::Start => self.first_body(message, now, out),
                R::Gather => self.request_body(message, now, out),
                R::Deciding | R::Pass => self.late_body(&message, out),
                R::Overtaken => {}
                R::Over | R::Closed => self.misplaced(kind, out),
            },
            Kind::RequestTrailers => match request {
                R::Gather => self.request_trailers(message, out),
                R::Start | R::Deciding | R::Pass => self.late_trailers(out),
                R::Overtaken => {}
                R::Over | R::Closed => self.misplaced(kind, out),
            },
            Kind::AnswerHeaders => match answer {
                A::None => self.answer_headers(message, now, out),
                _ => self.misplaced(kind, out),
            },
            Kind::AnswerBody => match answer {
                A::None | A::Body => self.answer_body(message, now, out),
                A::Done => self.late_answer_body(&message, out),
                A::Over => self.misplaced(kind, out),
            },
            Kind::AnswerTrailers => match answer {
                A::None | A::Body | A::Done => self.answer_trailers(now, out),
                A::Over => self.misplaced(kind, out),
            },
        }
    }

    /// Python's reply to Event::Headers: the request may go on.
    pub fn go_on(&mut self, now: f64, out: &mut Out) {
        if let Awaited::Leave { end_of_stream } = self.awaited {
            self.awaited = Awaited::Nothing;
            self.headers_passed(end_of_stream, now, out);
        }
    }

    pub fn decided(&mut self, verdict: Verdict, _now: f64, out: &mut Out) {
        if self.request == RequestState::Deciding {
            match verdict {
                Verdict::Route(route) => self.apply(*route, out),
                Verdict::Refuse(refusal) => self.immediate(&refusal, out),
            }
        }
    }

    /// A limit of the transport was reached. Nothing, once the answer has begun.
    pub fn limit(&mut self, limit: Limit, text: String, now: f64, out: &mut Out) {
        if self.request != RequestState::Closed && self.answer == AnswerState::None {
            self.ask_refusal(limit, text, now, out);
        }
    }

    /// Python's reply to Event::Limited, or to Event::Headers.
    pub fn refused(&mut self, refusal: Refusal, _now: f64, out: &mut Out) {
        if matches!(self.awaited, Awaited::Refusal | Awaited::Leave { .. }) {
            self.immediate(&refusal, out);
        }
    }

    /// We end a request that was let in: by this answer, or by a reset where its own has begun. Nothing, where that
    /// is complete.
    pub fn abort(&mut self, refusal: Refusal, now: f64, out: &mut Out) {
        match self.awaited {
            Awaited::Refusal => return self.immediate(&refusal, out),
            // Its headers wait for a reply that may never come.
            Awaited::AnswerSet if self.answer == AnswerState::Done => {
                return self.answer_set(Vec::new(), now, out);
            }
            _ => {}
        }
        let complete = matches!(self.answer, AnswerState::Done | AnswerState::Over);
        if self.request == RequestState::Closed || complete {
            return;
        }
        if self.answer == AnswerState::None {
            self.immediate(&refusal, out);
        } else {
            self.request = RequestState::Closed;
            self.awaited = Awaited::Nothing;
            self.failed = true;
            out.close =
                Some(Close::Fail { code: UNAVAILABLE, message: "the request was aborted".to_owned() });
        }
    }

    /// The stream ended: half-closed, reset or cut off by us. One Event::End, if there was anything to end.
    pub fn over(&mut self, drained: bool, _now: f64, out: &mut Out) {
        self.let_go();
        self.request = RequestState::Closed;
        self.awaited = Awaited::Nothing;
        if !std::mem::take(&mut self.opened) {
            return;
        }
        let ending = if drained { Ending::Drained } else { self.ending() };
        let report = self.watch.take().map_or_else(Report::default, |mut watch| watch.report());
        out.events.push(Event::End { head: self.head.take(), ending, report: Box::new(report) });
    }

    fn ending(&self) -> Ending {
        let ended = matches!(self.answer, AnswerState::Done | AnswerState::Over);
        // Without answer bodies, the reset at the end of the request is all there is to see.
        let unseen =
            self.answer == AnswerState::Body && (self.overridden || self.answer_mode == BodyMode::None);
        if self.failed {
            Ending::Error
        } else if self.refused {
            Ending::Refused
        } else if self.skipped || ended || unseen {
            Ending::Natural
        } else {
            Ending::ClientDisconnect
        }
    }

    fn answer_view(&self) -> AnswerView {
        if self.answer_mode == BodyMode::None {
            AnswerView::Never
        } else if self.may_skip_body() {
            AnswerView::Choice
        } else {
            AnswerView::Always
        }
    }

    /// The stream begins with the answer, where it has not begun otherwise.
    fn open_answer(&mut self, now: f64) {
        if !self.opened {
            self.opened = true;
            self.head = Some(Box::new(Head {
                headers: Vec::new(),
                received_at: now,
                has_body: false,
                subset: None,
                view: self.answer_view(),
                answer_only: true,
            }));
        }
    }

    fn ask_refusal(&mut self, limit: Limit, text: String, now: f64, out: &mut Out) {
        self.open_answer(now);
        self.let_go();
        self.request = RequestState::Closed;
        self.refused = true;
        self.awaited = Awaited::Refusal;
        out.events.push(Event::Limited { head: self.head.take(), limit, text });
    }

    fn immediate(&mut self, refusal: &Refusal, out: &mut Out) {
        self.refused = true;
        self.request = RequestState::Closed;
        self.awaited = Awaited::Nothing;
        self.let_go();
        out.frames.push(encode::immediate(refusal));
        out.close = Some(Close::Ok);
    }

    /// The body is not needed any more.
    fn let_go(&mut self) {
        self.body = Gathered::default();
        self.budget.give_back(std::mem::take(&mut self.gathered_bytes));
    }

    fn misplaced(&mut self, kind: Kind, out: &mut Out) {
        let request = match self.request {
            RequestState::Start => "START",
            RequestState::Gather => "GATHER",
            RequestState::Deciding => "DECIDING",
            RequestState::Pass => "PASS",
            RequestState::Over => "OVER",
            RequestState::Overtaken => "OVERTAKEN",
            RequestState::Closed => "CLOSED",
        };
        let answer = match self.answer {
            AnswerState::None => "NONE",
            AnswerState::Body => "BODY",
            AnswerState::Done => "DONE",
            AnswerState::Over => "OVER",
        };
        self.violation(&format!("{} in state {request}/{answer}", kind.name()), out);
    }

    fn violation(&mut self, message: &str, out: &mut Out) {
        self.request = RequestState::Closed;
        self.awaited = Awaited::Nothing;
        self.failed = true;
        self.let_go();
        let message = format!("a message that Envoy cannot send here: {message}");
        out.close = Some(Close::Fail { code: INVALID_ARGUMENT, message });
    }
}

/// What is still held counts no more, however the exchange comes to its end.
impl Drop for Exchange {
    fn drop(&mut self) {
        self.let_go();
    }
}
