//! One ext_proc stream: moves messages between HTTP/2 and the exchange, with backpressure both ways.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};

use crate::exchange::{Budget, Close, Exchange, Out};
use crate::handoff::{Down, Up};
use crate::inbox::Inbox;
use crate::io::Core;
use crate::outbox::Outbox;
use crate::proto;
use crate::status;
use crate::types::{Ending, Event, Limit, Origin, Verdict};

/// More than this waits to be sent: read no further messages.
const QUEUED_BYTES: usize = 256 << 10;

struct State {
    exchange: Exchange,
    out: Out,
    inbox: Inbox,
    outbox: Outbox,
    /// Of a message whose end has not come, as it counts against the budget.
    partial_bytes: u64,
    close: Option<Close>,
    /// The peer has said all.
    heard: bool,
    modes_known: bool,
    ended: bool,
    /// Python knows of the stream, and has not been told its end.
    told: bool,
    /// Something panicked.
    faulty: bool,
    /// How the request ended, once it has.
    ending: Option<Ending>,
    decide_at: f64,
    answered: Option<u64>,
    first_token: Option<u64>,
}

pub struct Stream {
    id: u64,
    core: Rc<Core>,
    began_at: f64,
    progress_at: std::cell::Cell<f64>,
    state: RefCell<State>,
    waker: RefCell<Option<Waker>>,
}

impl Stream {
    pub fn open(core: Rc<Core>, respond: SendResponse<Bytes>, origin: Origin) -> Rc<Stream> {
        let now = core.now();
        let id = core.new_id();
        let crowded = core.streams.borrow().len() >= core.options.max_streams;
        core.counts.stream_opened();
        let mut exchange = Exchange::new(core.limits.clone(), core.budget.clone());
        exchange.came_from(origin);
        let stream = Rc::new(Stream {
            id,
            began_at: now,
            progress_at: std::cell::Cell::new(now),
            state: RefCell::new(State {
                exchange,
                out: Out::default(),
                inbox: Inbox::new(core.options.max_message_bytes),
                outbox: Outbox::new(respond, core.budget.clone()),
                partial_bytes: 0,
                close: None,
                heard: false,
                modes_known: false,
                ended: false,
                told: false,
                faulty: false,
                ending: None,
                decide_at: 0.0,
                answered: None,
                first_token: None,
            }),
            waker: RefCell::new(None),
            core,
        });
        stream.core.streams.borrow_mut().insert(id, stream.clone());
        if crowded {
            let text = format!("more than {} requests are open", stream.core.options.max_streams);
            stream.guarded(|| {
                stream
                    .act(|state, now| state.exchange.limit(Limit::TooManyStreams, text, now, &mut state.out));
            });
        }
        stream
    }

    /// Runs the stream to its end.
    pub async fn run(self: Rc<Self>, mut recv: RecvStream) {
        std::future::poll_fn(|cx| self.guarded(|| self.poll(cx, &mut recv)).unwrap_or(Poll::Ready(()))).await;
    }

    /// A panic ends this stream alone.
    fn guarded<T>(&self, step: impl FnOnce() -> T) -> Option<T> {
        let done = catch_unwind(AssertUnwindSafe(step));
        if done.is_err() {
            self.fault();
        }
        done.ok()
    }

    /// A reply of Python's.
    pub fn reply(&self, down: Down) {
        self.guarded(|| {
            // The task waits for data by itself; it must be woken where it had stopped reading.
            let paused = self.state.borrow().exchange.blocked();
            self.act(|state, now| {
                let out = &mut state.out;
                match down {
                    Down::Verdict(_, verdict) => {
                        if state.decide_at > 0.0 {
                            self.core.counts.handed_off(now - state.decide_at);
                            state.decide_at = 0.0;
                        }
                        match verdict {
                            Verdict::Refuse(refusal) if !state.exchange.deciding() => {
                                state.exchange.refused(refusal, now, out);
                            }
                            verdict => state.exchange.decided(verdict, now, out),
                        }
                    }
                    Down::GoOn(_) => state.exchange.go_on(now, out),
                    Down::AnswerSet(_, set) => state.exchange.answer_set(set, now, out),
                    Down::Abort(_, refusal) => state.exchange.abort(refusal, now, out),
                    #[cfg(test)]
                    Down::Fault(_) => panic!("asked for by a test"),
                    _ => {}
                }
            });
            if self.flush_ready() || paused {
                self.wake();
            }
        });
    }

    /// Once a second: no message for too long.
    pub fn sweep(&self, now: f64) {
        self.guarded(|| self.lose_patience(now));
    }

    fn lose_patience(&self, now: f64) {
        let options = &self.core.options;
        let (patience_s, closing) = {
            let State { exchange, close, .. } = &*self.state.borrow();
            if exchange.deciding() || exchange.blocked() {
                return; // it is Python's turn
            }
            let uploading = exchange.waits_for_request() && exchange.sees_upload();
            let patience_s = if uploading { options.progress_timeout_s } else { options.answer_timeout_s };
            // Our last words need no longer than a piece of an upload.
            (if close.is_some() { options.progress_timeout_s } else { patience_s }, close.is_some())
        };
        if now - self.progress_at.get() <= patience_s {
            return;
        }
        if closing {
            self.cut(Some(status::DEADLINE_EXCEEDED), false);
            return;
        }
        self.progress_at.set(now);
        self.act(|state, now| {
            if state.exchange.waits_for_request() {
                let text = format!("no further part of the body came for {patience_s} seconds");
                state.exchange.limit(Limit::TimedOut, text, now, &mut state.out);
            } else {
                let message = "no message for too long".to_owned();
                state.close = Some(Close::Fail { code: status::DEADLINE_EXCEEDED, message });
            }
        });
        self.wake();
    }

    /// The grace is over.
    pub fn cut_off(&self) {
        self.guarded(|| self.cut(None, true));
    }

    /// The end, without waiting for what is still to be sent.
    fn cut(&self, code: Option<u32>, drained: bool) {
        {
            let mut state = self.state.borrow_mut();
            if !state.ended {
                state.outbox.reset(Reason::CANCEL);
            }
        }
        self.finish(code.map(status::name), drained);
        self.wake();
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }

    /// Something happens to the exchange; what it wants is passed on.
    fn act(&self, step: impl FnOnce(&mut State, f64)) {
        let mut state = self.state.borrow_mut();
        let now = self.core.now();
        step(&mut state, now);
        self.settle(&mut state, now);
    }

    fn settle(&self, state: &mut State, now: f64) {
        state.outbox.push(state.out.frames.drain(..));
        if let Some(close) = state.out.close.take() {
            if let Close::Fail { code: status::INVALID_ARGUMENT, message } = &close {
                self.core.counts.violation("order");
                self.core.warn(format!("ext_proc stream refused: {message}"));
            }
            state.close = Some(close);
            self.progress_at.set(now);
        }
        let mut events = std::mem::take(&mut state.out.events);
        for event in events.drain(..) {
            self.tell(state, event, now);
        }
        state.out.events = events;
    }

    fn tell(&self, state: &mut State, mut event: Event, now: f64) {
        let core = &self.core;
        if core.fixed.is_none() {
            state.told = true;
        }
        match &mut event {
            Event::Decide { .. } => {
                if let Some(route) = &core.fixed {
                    state.exchange.decided(Verdict::Route(route.clone()), now, &mut state.out);
                    return self.settle(state, now);
                }
                state.decide_at = now;
                core.handoff.push(self.id, Up::Stream(event, None), true);
            }
            Event::Answered { wait, .. } => {
                let wait = *wait;
                if core.fixed.is_none() {
                    state.answered = Some(core.handoff.push(self.id, Up::Stream(event, None), wait));
                } else if wait {
                    state.exchange.answer_set(Vec::new(), now, &mut state.out);
                    self.settle(state, now);
                }
            }
            Event::FirstToken { .. } => {
                if core.fixed.is_none() {
                    state.first_token = Some(core.handoff.push(self.id, Up::Stream(event, None), false));
                }
            }
            Event::End { ending, .. } => {
                if state.faulty {
                    *ending = Ending::Error;
                }
                state.ending = Some(*ending);
                if std::mem::take(&mut state.told) {
                    core.handoff.push_end(self.id, event, state.answered, state.first_token);
                }
            }
            Event::Headers { .. } | Event::Limited { .. } => {
                state.told = true;
                core.handoff.push(self.id, Up::Stream(event, None), true);
            }
        }
    }

    fn poll(&self, cx: &mut Context<'_>, recv: &mut RecvStream) -> Poll<()> {
        {
            let mut waker = self.waker.borrow_mut();
            if !waker.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
                *waker = Some(cx.waker().clone());
            }
        }
        loop {
            if self.state.borrow().ended {
                return Poll::Ready(());
            }
            let mut state = self.state.borrow_mut();
            match state.outbox.poll_sent(cx) {
                Poll::Ready(Err(())) => {
                    drop(state);
                    self.finish(Some("CANCELLED"), false);
                    return Poll::Ready(());
                }
                Poll::Ready(Ok(())) if state.close.is_some() => {
                    drop(state);
                    self.close();
                    return Poll::Ready(());
                }
                _ => {}
            }
            if state.close.is_some() || state.exchange.blocked() || state.outbox.queued_bytes() > QUEUED_BYTES
            {
                // Nothing is read meanwhile, but whoever leaves is noticed.
                let left = state.outbox.poll_reset(cx).is_ready();
                drop(state);
                if left {
                    self.finish(Some("CANCELLED"), false);
                    return Poll::Ready(());
                }
                return Poll::Pending;
            }
            let taken = state.inbox.take();
            state.count_partial(&self.core.budget);
            match taken {
                Ok(Some(message)) => {
                    drop(state);
                    self.message(message);
                    continue;
                }
                Ok(None) => {
                    let limit = self.core.options.max_buffered_bytes;
                    if state.partial_bytes > 0 && self.core.budget.used() > limit {
                        drop(state);
                        if self.crowded_out(limit) {
                            continue;
                        }
                        state = self.state.borrow_mut();
                    }
                }
                Err(broken) => {
                    let (code, message) = status::of_broken(&broken, self.core.options.max_message_bytes);
                    state.close = Some(Close::Fail { code, message });
                    continue;
                }
            }
            if state.heard {
                drop(state);
                self.half_closed();
                continue;
            }
            match recv.poll_data(cx) {
                Poll::Ready(Some(Ok(data))) => {
                    // Given back at once: what a stream may hold is limited by its own window and by the exchange.
                    let _ = recv.flow_control().release_capacity(data.len());
                    state.inbox.push(data);
                }
                Poll::Ready(Some(Err(_))) => {
                    drop(state);
                    self.finish(Some("CANCELLED"), false);
                    return Poll::Ready(());
                }
                Poll::Ready(None) => state.heard = true,
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Messages that are still coming in hold too much. False where the answer has begun, which is not refused.
    fn crowded_out(&self, limit: u64) -> bool {
        self.act(|state, now| {
            let text = format!("requests that are being read hold more than {limit} bytes together");
            state.exchange.limit(Limit::TooManyStreams, text, now, &mut state.out);
        });
        let mut state = self.state.borrow_mut();
        if state.exchange.blocked() {
            // It is not looked at any more.
            state.inbox = Inbox::new(self.core.options.max_message_bytes);
            state.count_partial(&self.core.budget);
        }
        state.exchange.blocked()
    }

    fn message(&self, message: Bytes) {
        self.progress_at.set(self.core.now());
        self.act(|state, now| match proto::decode(message) {
            Ok(Some(incoming)) => {
                if !state.modes_known {
                    state.modes_known = true;
                    if let Some((request, answer)) = incoming.modes {
                        state.exchange.learn_modes(request, answer);
                    }
                }
                state.exchange.receive(incoming, now, &mut state.out);
            }
            Ok(None) => {
                self.core.counts.violation("empty");
                let message = "a message that holds none of the six kinds".to_owned();
                self.core.warn(format!("ext_proc stream refused: {message}"));
                state.close = Some(Close::Fail { code: status::INVALID_ARGUMENT, message });
            }
            Err(error) => {
                self.core.counts.violation("malformed");
                let message = format!("a message that is not a ProcessingRequest: {error}");
                self.core.warn(format!("ext_proc stream refused: {message}"));
                state.close = Some(Close::Fail { code: status::INTERNAL, message });
            }
        });
    }

    /// Envoy has half-closed the stream: the request is over.
    fn half_closed(&self) {
        self.act(|state, now| {
            state.over(false, now);
            state.close = Some(Close::Ok);
        });
    }

    /// Sends outside of the stream's task; true when its task has something left to do.
    fn flush_ready(&self) -> bool {
        let mut state = self.state.borrow_mut();
        let failed = state.outbox.send_some().is_err();
        failed || state.outbox.queued_bytes() > 0 || state.close.is_some()
    }

    /// All is sent: the status, then nothing more.
    fn close(&self) {
        let mut state = self.state.borrow_mut();
        let Some(close) = state.close.take() else { return };
        let (code, message) = match &close {
            Close::Ok => (0, ""),
            Close::Fail { code, message } => (*code, message.as_str()),
        };
        state.outbox.close(code, message);
        drop(state);
        self.finish(Some(status::name(code)), false);
    }

    /// The end, whatever the reason, exactly once. Without a code the stream was cut off by us.
    fn finish(&self, code: Option<&'static str>, drained: bool) {
        let mut state = self.state.borrow_mut();
        if state.ended {
            return;
        }
        state.ended = true;
        let now = self.core.now();
        state.over(drained, now);
        state.out.frames.clear();
        self.settle(&mut state, now);
        state.outbox.drop_rest();
        self.core.budget.give_back(std::mem::take(&mut state.partial_bytes));
        let mut code = code.unwrap_or("CANCELLED");
        if code == "OK" && state.ending == Some(Ending::ClientDisconnect) {
            code = "CANCELLED"; // a reset may show as the end of reading first
        }
        self.core.counts.stream_closed(code, now - self.began_at);
        self.core.streams.borrow_mut().remove(&self.id);
    }

    /// After a panic, which is a fault of ours. What it left may fail again: each step stands for itself.
    fn fault(&self) {
        self.core.counts.fault();
        self.core.warn("a stream ended by a fault of the native transport".to_owned());
        let _ = catch_unwind(AssertUnwindSafe(|| {
            let mut state = self.state.borrow_mut();
            state.faulty = true;
            state.outbox.reset(Reason::INTERNAL_ERROR);
        }));
        let _ = catch_unwind(AssertUnwindSafe(|| self.finish(Some("INTERNAL"), false)));
        if self.core.streams.borrow_mut().remove(&self.id).is_some() {
            self.forget();
        }
        self.wake();
    }

    /// What `finish` does, without the exchange, which cannot be asked any more.
    fn forget(&self) {
        self.core.counts.stream_closed("INTERNAL", self.core.now() - self.began_at);
        let Ok(mut state) = self.state.try_borrow_mut() else { return };
        state.outbox.drop_rest();
        self.core.budget.give_back(std::mem::take(&mut state.partial_bytes));
        if std::mem::take(&mut state.told) {
            let end = Event::End { head: None, ending: Ending::Error, report: Box::default() };
            self.core.handoff.push(self.id, Up::Stream(end, None), false);
        }
    }
}

impl State {
    fn count_partial(&mut self, budget: &Budget) {
        let bytes = self.inbox.held_bytes() as u64;
        budget.give_back(self.partial_bytes);
        budget.take(bytes);
        self.partial_bytes = bytes;
    }

    fn over(&mut self, drained: bool, now: f64) {
        self.exchange.over(drained, now, &mut self.out);
    }
}
