//! Whatever can be decoded goes into an exchange, with Python's replies at odd moments.

use std::rc::Rc;

use bytes::Bytes;
use inference_epp_native::exchange::{Budget, Close, Exchange, Limits, Out};
use inference_epp_native::prompt::ScanPlan;
use inference_epp_native::proto::wire::{Reader, Wire};
use inference_epp_native::proto::{Frame, decode};
use inference_epp_native::types::{AnswerPlan, Api, Event, Limit, Refusal, Route, Verdict};

use crate::messages::conversation;
use crate::random::Random;

const PIECE_BYTES: usize = 62_000;

/// One stream; every message is an input.
pub fn case(random: &mut Random) -> u64 {
    let budget = Rc::new(Budget::default());
    let limits = Limits {
        max_body_bytes: random.pick(&[10, 100_000, 1 << 30]),
        budget_limit: random.pick(&[100, 200_000, 1 << 30]),
        ask_headers: random.one_in(3),
        gap_bounds: Rc::from([0.1, 1.0]),
        scan: Rc::new(ScanPlan {
            suffixes: vec![
                ("/chat/completions".into(), Api::Chat),
                ("/completions".into(), Api::Completions),
            ],
            block_bytes: 64,
            max_blocks: 100,
        }),
    };
    let exchange = Exchange::new(Rc::new(limits), budget.clone());
    let mut run =
        Run { exchange, budget, told: Told::default(), out: Out::default(), modes: false, now: 1.0 };
    let messages = conversation(random);
    let inputs = messages.len() as u64;
    for message in messages {
        run.now += 0.01;
        run.give(random, message);
        if run.out.close.is_some() {
            break;
        }
    }
    // What comes late must find nothing to break.
    for _ in 0..random.below(3) {
        run.odd_reply(random);
        run.look(random);
    }
    if !random.one_in(10) {
        for _ in 0..2 {
            run.exchange.over(random.one_in(3), run.now, &mut run.out);
            run.look(random);
        }
        assert_eq!(run.told.ends, run.told.heads, "every opened stream has one end");
    }
    let Run { exchange, budget, .. } = run;
    drop(exchange);
    assert_eq!(budget.used(), 0);
    inputs
}

#[derive(Default)]
struct Told {
    heads: u32,
    decides: u32,
    ends: u32,
}

struct Run {
    exchange: Exchange,
    budget: Rc<Budget>,
    told: Told,
    out: Out,
    modes: bool,
    now: f64,
}

impl Run {
    fn give(&mut self, random: &mut Random, message: Vec<u8>) {
        let Ok(Some(incoming)) = decode(Bytes::from(message)) else { return };
        for _ in 0..8 {
            if !self.exchange.blocked() {
                break;
            }
            self.reply(random);
            self.look(random);
        }
        if self.exchange.blocked() || self.out.close.is_some() {
            return;
        }
        if !std::mem::replace(&mut self.modes, true)
            && let Some((request, answer)) = incoming.modes
        {
            self.exchange.learn_modes(request, answer);
        }
        self.exchange.receive(incoming, self.now, &mut self.out);
        self.look(random);
        if random.one_in(20) {
            self.odd_reply(random);
            self.look(random);
        }
    }

    /// One of those that may be waited for.
    fn reply(&mut self, random: &mut Random) {
        let (now, out) = (self.now, &mut self.out);
        match random.below(4) {
            0 => self.exchange.go_on(now, out),
            1 => self.exchange.refused(refusal(), now, out),
            2 => self.exchange.answer_set(vec![("x-a".into(), "1".into())], now, out),
            _ => {
                let verdict = verdict(random);
                self.exchange.decided(verdict, now, out);
            }
        }
    }

    fn odd_reply(&mut self, random: &mut Random) {
        match random.below(4) {
            0 => self.exchange.abort(refusal(), self.now, &mut self.out),
            1 => {
                let limit = random.pick(&[Limit::BodyTooLarge, Limit::TooManyStreams, Limit::TimedOut]);
                self.exchange.limit(limit, "a limit".to_owned(), self.now, &mut self.out);
            }
            _ => self.reply(random),
        }
    }

    /// At what the exchange has said.
    fn look(&mut self, random: &mut Random) {
        assert_eq!(self.budget.used(), self.exchange.held_bytes());
        for frame in self.out.frames.drain(..) {
            check(&frame);
        }
        let mut wants_verdict = false;
        for event in self.out.events.drain(..) {
            assert_eq!(self.told.ends, 0, "nothing is told after the end");
            let (head, is_end) = match event {
                Event::Headers { head } => (Some(head), false),
                Event::Decide { head, .. } => {
                    self.told.decides += 1;
                    wants_verdict = true;
                    (head, false)
                }
                Event::Limited { head, .. } | Event::Answered { head, .. } => (head, false),
                Event::FirstToken { head, .. } => (head, false),
                Event::End { head, .. } => (head, true),
            };
            self.told.heads += u32::from(head.is_some());
            self.told.ends += u32::from(is_end);
            assert_eq!(self.told.heads, 1, "the first event, and it alone, opens");
        }
        assert!(self.told.decides <= 1);
        if let Some(Close::Fail { code, .. }) = &self.out.close {
            assert_ne!(*code, 0);
        }
        if wants_verdict && !random.one_in(4) {
            let verdict = verdict(random);
            self.exchange.decided(verdict, self.now, &mut self.out);
            self.look(random);
        }
    }
}

fn refusal() -> Refusal {
    Refusal { status: 503, body: "no".into(), reason: "shutting_down".into(), ..Refusal::default() }
}

fn verdict(random: &mut Random) -> Verdict {
    if random.one_in(6) {
        return Verdict::Refuse(refusal());
    }
    let apis = [Api::Chat, Api::Completions, Api::Responses, Api::Anthropic, Api::VllmGrpc, Api::Opaque];
    let body = random.one_in(4).then(|| {
        let length = random.pick(&[0, 10, 62_000, 62_001, 200_000]);
        Bytes::from(vec![b'y'; length])
    });
    Verdict::Route(Box::new(Route {
        destination: random.pick(&["10.0.0.1:8000", "10.0.0.1:8000,10.0.0.2:8000", ""]).into(),
        set: vec![("x-set".into(), "1\n".into())],
        remove: vec!["x-removed".into()],
        body,
        scores: random.one_in(3).then(|| vec![("10.0.0.1:8000".into(), 0.5)]),
        skip_response: random.one_in(10),
        answer: AnswerPlan {
            api: random.pick(&apis),
            stream: random.one_in(2),
            set: vec![("x-plan".into(), "2".into())],
            restore: random.one_in(2).then(|| ("target".to_owned(), "a longer name".to_owned())),
            ask: random.one_in(3),
            observe: random.one_in(2),
        },
    }))
}

/// One gRPC message, which is a ProcessingResponse, whose streamed piece is not too long for Envoy.
fn check(frame: &Frame) {
    let whole = Bytes::from([&frame.head[..], &frame.tail[..]].concat());
    assert_eq!(whole[0], 0);
    let length = u32::from_be_bytes([whole[1], whole[2], whole[3], whole[4]]);
    assert_eq!(length as usize, whole.len() - 5);
    let message = whole.slice(5..);
    let mut kinds = 0;
    each_span(Reader::new(&message), |kind, reader| {
        kinds += u32::from((1..=7).contains(&kind));
        if kind != 3 && kind != 4 {
            return;
        }
        // BodyResponse.response, CommonResponse.body_mutation, BodyMutation.streamed_response, its body.
        each_span_of(1, reader, &mut |common| {
            each_span_of(3, common, &mut |mutation| {
                each_span_of(3, mutation, &mut |mut streamed| {
                    while let Some((number, value)) = streamed.field().expect("a valid piece") {
                        if let (1, Wire::Span(span)) = (number, value) {
                            assert!(span.len() <= PIECE_BYTES, "a piece of {} bytes", span.len());
                        }
                    }
                });
            });
        });
    });
    assert_eq!(kinds, 1, "one of the oneof");
}

fn each_span_of(wanted: u32, reader: Reader<'_>, step: &mut dyn FnMut(Reader<'_>)) {
    each_span(reader, |number, inner| {
        if number == wanted {
            step(inner);
        }
    });
}

fn each_span(mut reader: Reader<'_>, mut step: impl FnMut(u32, Reader<'_>)) {
    while let Some((number, value)) = reader.field().expect("a valid field") {
        if let Wire::Span(span) = value {
            step(number, reader.inner(span).expect("not nested too deep"));
        }
    }
}
