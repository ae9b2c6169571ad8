//! HTTP/2 by hand: good and spoilt connections to the real listener, and a good client at the end.

use std::cell::RefCell;
use std::collections::HashSet;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use inference_epp_native::counts::Counts;
use inference_epp_native::handoff::{Down, Handoff, Up};
use inference_epp_native::io::{Core, Options};
use inference_epp_native::listener;
use inference_epp_native::prompt::ScanPlan;
use inference_epp_native::types::{Event, Refusal, Route, Verdict};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex, split};
use tokio::runtime::Runtime;
use tokio::task::{LocalSet, spawn_local, yield_now};

use crate::messages::{REQUEST_HEADERS, conversation, message};
use crate::random::Random;

pub const PROCESS: &str = "/envoy.service.ext_proc.v3.ExternalProcessor/Process";
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
const RESET: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
const GOAWAY: u8 = 7;
pub const WINDOW: u8 = 8;
pub const MORE: u8 = 9;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
/// Polls in which a connection that has ended must have told everything.
const SETTLING: usize = 2000;
pub const PATIENCE: Duration = Duration::from_secs(20);
const CLIENT_EVERY: u64 = 400;

pub struct Served {
    runtime: Runtime,
    core: Rc<Core>,
    /// Streams that Python knows.
    known: RefCell<HashSet<u64>>,
    cases: RefCell<u64>,
}

impl Served {
    pub fn new() -> Served {
        let handoff = Arc::new(Handoff::new().expect("a descriptor"));
        let core = Core::new(options(), handoff, Arc::new(Counts::new(vec![1.0], vec![1.0])));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        Served { runtime, core, known: RefCell::default(), cases: RefCell::default() }
    }

    /// One connection.
    pub fn case(&self, random: &mut Random) -> u64 {
        let bytes = connection(random);
        LocalSet::new().block_on(&self.runtime, self.fed(random, &bytes));
        let core = &self.core;
        assert_eq!((core.streams.borrow().len(), core.budget.used()), (0, 0));
        assert_eq!((core.counts.open.load(Relaxed), core.counts.connections.load(Relaxed)), (0, 0));
        assert!(self.known.borrow().is_empty(), "every stream that was told has its end told");
        assert_eq!(core.counts.take().faults, 0);
        *self.cases.borrow_mut() += 1;
        if self.cases.borrow().is_multiple_of(CLIENT_EVERY) {
            self.check_client();
        }
        1
    }

    async fn fed(&self, random: &mut Random, bytes: &[u8]) {
        let (ours, theirs) = duplex(random.pick(&[64, 5000, 70_000]));
        let serving = spawn_local(listener::converse(self.core.clone(), theirs));
        let (mut read, mut write) = split(ours);
        let reads = !random.one_in(8);
        let mut sink = [0; 8192];
        let most = random.pick(&[1, 9, 300, 5000, bytes.len()]).max(bytes.len() / 60);
        for piece in bytes.chunks(most.max(1)) {
            let mut rest = piece;
            // Whoever does not read may find that nothing is taken any more.
            for _ in 0..200 {
                if rest.is_empty() {
                    break;
                }
                tokio::select! {
                    biased;
                    wrote = write.write(rest) => match wrote {
                        Ok(count) => rest = &rest[count..],
                        Err(_) => break,
                    },
                    _ = read.read(&mut sink), if reads => {}
                    () = yield_now() => {}
                }
                self.reply(random);
            }
        }
        for _ in 0..random.below(20) {
            self.reply(random);
            tokio::select! {
                biased;
                _ = read.read(&mut sink), if reads => {}
                () = yield_now() => {}
            }
        }
        drop((read, write));
        tokio::time::timeout(PATIENCE, serving).await.expect("the connection ends").expect("no panic");
        for _ in 0..SETTLING {
            if self.core.streams.borrow().is_empty() && self.core.health.borrow().is_empty() {
                break;
            }
            self.reply(random);
            yield_now().await;
        }
        self.reply(random);
    }

    /// Python's part, done well or late or never.
    fn reply(&self, random: &mut Random) {
        for (id, up) in self.core.handoff.take(1000) {
            let down = match up {
                Up::Health => Down::Health(id, true),
                Up::Stream(event, _) => {
                    self.note(id, &event);
                    match event {
                        Event::End { .. } | Event::FirstToken { .. } => continue,
                        _ if random.one_in(8) => Down::Abort(id, Refusal::default()),
                        Event::Headers { .. } => Down::GoOn(id),
                        Event::Answered { wait, .. } if wait => Down::AnswerSet(id, Vec::new()),
                        Event::Limited { .. } => Down::Verdict(id, Verdict::Refuse(Refusal::default())),
                        Event::Decide { .. } if !random.one_in(5) => Down::Verdict(id, route()),
                        _ => continue,
                    }
                }
                _ => continue,
            };
            self.core.apply(down, None);
        }
    }

    fn note(&self, id: u64, event: &Event) {
        let mut known = self.known.borrow_mut();
        let (head, is_end) = match event {
            Event::Headers { .. } => (true, false),
            Event::Decide { head, .. }
            | Event::Limited { head, .. }
            | Event::Answered { head, .. }
            | Event::FirstToken { head, .. } => (head.is_some(), false),
            Event::End { head, .. } => (head.is_some(), true),
        };
        if head {
            assert!(known.insert(id), "a stream is opened once");
        }
        assert!(if is_end { known.remove(&id) } else { known.contains(&id) }, "a stream that is not known");
    }

    /// Somebody who does everything right is served.
    pub fn check_client(&self) {
        LocalSet::new().block_on(&self.runtime, async {
            let (ours, theirs) = duplex(1 << 16);
            let serving = spawn_local(listener::converse(self.core.clone(), theirs));
            tokio::time::timeout(PATIENCE, self.client(ours)).await.expect("served in time");
            serving.await.expect("no panic");
        });
        assert_eq!(self.core.counts.open.load(Relaxed), 0);
    }

    async fn client(&self, ours: DuplexStream) {
        let mut random = Random::new(1);
        let (client, connection) = h2::client::handshake(ours).await.expect("a handshake");
        let connection = spawn_local(connection);
        let mut client = client.ready().await.expect("a client");
        let request = http::Request::post(format!("http://epp{PROCESS}")).body(()).expect("a request");
        let (answer, mut send) = client.send_request(request, false).expect("a stream");
        let headers = message(&mut random, REQUEST_HEADERS, true);
        send.send_data(framed(&headers).into(), true).expect("sent");
        let python = async {
            loop {
                for (id, up) in self.core.handoff.take(1000) {
                    let Up::Stream(event, _) = up else { continue };
                    self.note(id, &event);
                    match event {
                        Event::Headers { .. } => drop(self.core.apply(Down::GoOn(id), None)),
                        Event::Decide { .. } => drop(self.core.apply(Down::Verdict(id, route()), None)),
                        _ => {}
                    }
                }
                yield_now().await;
            }
        };
        let reading = async {
            let mut body = answer.await.expect("an answer").into_body();
            let mut seen = Vec::new();
            while let Some(data) = body.data().await {
                let data: Bytes = data.expect("data");
                seen.extend(data);
            }
            let trailers = body.trailers().await.expect("trailers").expect("a status");
            assert_eq!(trailers["grpc-status"], "0");
            seen
        };
        tokio::select! {
            () = python => {}
            _ = reading => {}
        }
        drop((client, send));
        connection.await.expect("no panic").expect("a clean end");
        self.reply(&mut random);
    }
}

pub fn options() -> Options {
    Options {
        max_body_bytes: 100_000,
        max_buffered_bytes: 300_000,
        max_streams: 20,
        max_message_bytes: 200_000,
        progress_timeout_s: 60.0,
        max_connection_age_s: 0.0,
        answer_timeout_s: 600.0,
        ask_headers: true,
        health_checking: true,
        gap_bounds: vec![0.1],
        scan: ScanPlan::default(),
        fixed: None,
    }
}

fn route() -> Verdict {
    Verdict::Route(Box::new(Route { destination: "10.0.0.1:8000".into(), ..Route::default() }))
}

pub fn framed(message: &[u8]) -> Vec<u8> {
    let mut out = vec![0];
    out.extend((message.len() as u32).to_be_bytes());
    out.extend(message);
    out
}

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    let mut out = vec![length[1], length[2], length[3], kind, flags];
    out.extend(stream.to_be_bytes());
    out.extend(payload);
    out
}

/// HPACK's literal without an index.
fn literal(name: &str, value: &str, out: &mut Vec<u8>) {
    out.push(0);
    for text in [name, value] {
        out.push(text.len() as u8);
        out.extend(text.as_bytes());
    }
}

/// The header block of a call.
fn block(random: &mut Random) -> Vec<u8> {
    let paths = [
        PROCESS,
        PROCESS,
        PROCESS,
        PROCESS,
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/Watch",
        "/x",
    ];
    let mut block = Vec::new();
    let path = random.pick(&paths);
    for (name, value) in
        [(":method", "POST"), (":scheme", "http"), (":path", path), ("content-type", "application/grpc")]
    {
        if !random.one_in(200) {
            literal(name, value, &mut block);
        }
    }
    block
}

fn connection(random: &mut Random) -> Vec<u8> {
    let mut frames = Vec::new();
    let window = random.pick(&[0_u32, 1, 100, 65_535, 0x7fff_ffff, 0x8000_0000]);
    let setting = [&[0, 4][..], &window.to_be_bytes()].concat();
    frames.push(frame(SETTINGS, 0, 0, if random.one_in(2) { &setting } else { &[] }));
    for number in 0..=random.below(4) as u32 {
        let stream = 2 * number + 1;
        let headers = block(random);
        let flags = if random.one_in(30) { END_STREAM } else { 0 };
        if random.one_in(8) {
            let cut = random.below(headers.len() + 1);
            frames.push(frame(HEADERS, flags, stream, &headers[..cut]));
            for _ in 0..random.pick(&[0, 1, 30]) {
                frames.push(frame(MORE, 0, stream, &[]));
            }
            frames.push(frame(MORE, END_HEADERS, stream, &headers[cut..]));
        } else {
            frames.push(frame(HEADERS, flags | END_HEADERS, stream, &headers));
        }
        let sent: Vec<u8> = conversation(random).iter().flat_map(|message| framed(message)).collect();
        for piece in sent.chunks(random.pick(&[16_384, 1000, 37])).take(60) {
            frames.push(frame(DATA, 0, stream, piece));
        }
        match random.below(6) {
            0 => frames.push(frame(RESET, 0, stream, &[0, 0, 0, 8])),
            1 | 2 => frames.push(frame(DATA, END_STREAM, stream, &[])),
            _ => {}
        }
        for _ in 0..random.below(3) {
            frames.push(trick(random, stream));
        }
    }
    if random.one_in(2) {
        spoil(random, &mut frames);
    }
    let mut bytes = frames.concat();
    if random.one_in(3) {
        let other = frames[random.below(frames.len())].clone();
        random.mutate(&mut bytes, &other);
    }
    let mut whole = PREFACE.to_vec();
    if random.one_in(50) {
        random.mutate(&mut whole, b"GET / HTTP/1.1\r\n\r\n");
    }
    whole.extend(bytes);
    whole
}

fn trick(random: &mut Random, stream: u32) -> Vec<u8> {
    let on = random.pick(&[0, stream, stream, stream + 2, 2]);
    let step = random.pick(&[0_u32, 1, 1000, 0x7fff_ffff]).to_be_bytes();
    match random.below(9) {
        0..=2 => frame(WINDOW, 0, on, &step),
        3 => frame(PING, 0, 0, &[7; 8]).repeat(random.pick(&[1, 100])),
        4 => frame(SETTINGS, 0, 0, &[]).repeat(random.pick(&[1, 100])),
        5 => frame(DATA, 0, on, &[]).repeat(random.pick(&[1, 300])),
        6 => frame(random.next() as u8, random.next() as u8, on, &random.bytes(20)),
        7 => frame(GOAWAY, 0, 0, &[0; 8]),
        // Opened and reset at once, many times.
        _ => {
            let many = (0..random.pick(&[1, 50])).map(|number| stream + 100 + 2 * number);
            let headers = block(random);
            many.flat_map(|id| {
                [frame(HEADERS, END_HEADERS, id, &headers), frame(RESET, 0, id, &[0, 0, 0, 8])].concat()
            })
            .collect()
        }
    }
}

fn spoil(random: &mut Random, frames: &mut Vec<Vec<u8>>) {
    for _ in 0..=random.below(3) {
        let (from, to) = (random.below(frames.len()), random.below(frames.len()));
        match random.below(6) {
            0 => frames.swap(from, to),
            1 => frames.insert(to, frames[from].clone()),
            2 if frames.len() > 1 => drop(frames.remove(from)),
            // A length that lies, in bytes 0 to 2; a flag in 4; another stream in 5 to 8.
            3 => frames[from][random.pick(&[0, 1, 2])] ^= random.pick(&[1, 0x10, 0xff]),
            4 => frames[from][4] ^= 1 << random.below(8),
            _ => frames[from][8] = frames[from][8].wrapping_add(random.pick(&[1, 2, 4])),
        }
    }
}
