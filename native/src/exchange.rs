//! One ext_proc stream as a state table without I/O: messages and Python's replies in, frames and events out.
//!
//! The exact twin of `epp/extproc/exchange.py`, which says what the states and modes mean. What differs: Python
//! replies later, so the exchange may be `blocked` until it has; and the request's head goes up with the first
//! event instead of by itself.

mod answering;
mod gathered;
mod requesting;
mod states;

use std::rc::Rc;

use bytes::Bytes;

use crate::answer::Watch;
use crate::prompt::Scanning;
use crate::proto::encode;
use crate::proto::{BodyMode, Incoming, Kind};
use crate::types::{AnswerPlan, AnswerView, Ending, Event, Head, Limit, Origin, Refusal, Report, Verdict};
use gathered::Gathered;
use states::{AnswerState, Awaited, RequestState};
pub use states::{Budget, Close, Limits, Out};

const INVALID_ARGUMENT: u32 = 3;
const UNAVAILABLE: u32 = 14;

pub struct Exchange {
    limits: Rc<Limits>,
    budget: Rc<Budget>,
    request_mode: BodyMode,
    answer_mode: BodyMode,
    request: RequestState,
    answer: AnswerState,
    awaited: Awaited,
    origin: Origin,
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
    scanning: Option<Scanning>,
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
            origin: Origin::default(),
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
            scanning: None,
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

    /// What the call itself says, before the first message.
    pub fn came_from(&mut self, origin: Origin) {
        self.origin = origin;
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

    pub fn receive(&mut self, mut message: Incoming, now: f64, out: &mut Out) {
        use AnswerState as A;
        use RequestState as R;
        if !self.opened && self.origin.pool.is_empty() {
            self.origin.pool = std::mem::take(&mut message.pool);
        }
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
                origin: self.origin.clone(),
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
        self.scanning = None;
    }

    fn misplaced(&mut self, kind: Kind, out: &mut Out) {
        let (request, answer) = (self.request.name(), self.answer.name());
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
