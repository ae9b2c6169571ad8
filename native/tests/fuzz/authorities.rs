//! Calls with authorities of all kinds, their header blocks written in every way that HPACK and HTTP/2 allow: what the
//! listener tells of each call is what was sent. Each call names its authority a second time, in the header of the
//! pool, which nothing replaces.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use inference_epp_native::authority::{Mended, Names};
use inference_epp_native::counts::Counts;
use inference_epp_native::handoff::{Handoff, Up};
use inference_epp_native::io::{Core, Options};
use inference_epp_native::listener;
use inference_epp_native::types::{Event, Origin};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex, split};
use tokio::runtime::Runtime;
use tokio::task::{LocalSet, spawn_local, yield_now};

use crate::connections::{
    DATA, END_HEADERS, END_STREAM, HEADERS, MORE, PATIENCE, PING, PREFACE, PROCESS, SETTINGS, WINDOW, frame,
    framed,
};
use crate::messages::{REQUEST_HEADERS, message};
use crate::random::Random;

const PADDED: u8 = 8;
const PRIORITY: u8 = 0x20;
const TABLE: usize = 4096;
const STATIC: usize = 61;
const CALLS: usize = 20;

/// One of each connection's few, or one that comes once.
fn authority(random: &mut Random) -> Vec<u8> {
    let known: [&[u8]; 9] = [
        b"epp",
        b"one.models.svc:9002",
        b"outbound|9002||one.models.svc.cluster.local",
        b"envoyextensionpolicy/ns/one/extproc/0",
        b"~000",
        b"a b",
        b"\xff\xfe",
        b"[::1]:9002",
        b"x]",
    ];
    if !random.one_in(4) {
        return random.pick(&known).to_vec();
    }
    let length = 2 + random.pick(&[1, 20, 200, 1500]);
    (0..length).map(|_| random.pick(b"abcxyz0189.-|/~:@%[]{}\" \xc3\xbc")).collect()
}

/// An encoder that does everything an encoder may, at random.
struct Encoder {
    entries: VecDeque<(Vec<u8>, Vec<u8>)>,
    size: usize,
    limit: usize,
}

impl Encoder {
    fn new() -> Encoder {
        Encoder { entries: VecDeque::new(), size: 0, limit: TABLE }
    }

    fn resize(&mut self, limit: usize, out: &mut Vec<u8>) {
        self.limit = limit;
        self.shrink(0);
        number(limit, 5, 0x20, out);
    }

    fn shrink(&mut self, for_bytes: usize) {
        while self.size + for_bytes > self.limit {
            let Some((name, value)) = self.entries.pop_back() else { return };
            self.size -= name.len() + value.len() + 32;
        }
    }

    fn field(&mut self, random: &mut Random, name: &[u8], value: &[u8], out: &mut Vec<u8>) {
        let known = self.entries.iter().position(|(key, text)| (&key[..], &text[..]) == (name, value));
        if let Some(place) = known
            && !random.one_in(8)
        {
            return number(STATIC + 1 + place, 7, 0x80, out);
        }
        let (prefix, kind) = random.pick(&[(6, 0x40), (6, 0x40), (4, 0), (4, 0x10)]);
        let fixed = match name {
            b":authority" => Some(1),
            b":path" => Some(4),
            _ => None,
        };
        match fixed {
            Some(index) if !random.one_in(4) => number(index, prefix, kind, out),
            _ => {
                out.push(kind);
                string(name, out);
            }
        }
        string(value, out);
        let size = name.len() + value.len() + 32;
        if kind == 0x40 {
            self.shrink(size);
            if size <= self.limit {
                self.size += size;
                self.entries.push_front((name.to_vec(), value.to_vec()));
            }
        }
    }
}

fn number(number: usize, prefix: u8, kind: u8, out: &mut Vec<u8>) {
    let most = (1 << prefix) - 1;
    if number < most {
        return out.push(kind | number as u8);
    }
    out.push(kind | most as u8);
    crate::messages::varint((number - most) as u64, out);
}

fn string(text: &[u8], out: &mut Vec<u8>) {
    number(text.len(), 7, 0, out);
    out.extend(text);
}

/// A connection and how many calls it has.
fn connection(random: &mut Random) -> (Vec<u8>, usize) {
    let mut encoder = Encoder::new();
    let mut bytes = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
    let calls = 1 + random.below(CALLS);
    for call in 0..calls {
        let stream = 2 * call as u32 + 1;
        let mut block = Vec::new();
        if random.one_in(10) {
            encoder.resize(random.pick(&[0, 60, 300, TABLE]), &mut block);
        }
        let authority = authority(random);
        let mut fields: [(&[u8], &[u8]); 4] = [
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", PROCESS.as_bytes()),
            (b":authority", &authority),
        ];
        fields.rotate_left(random.below(4));
        for (name, value) in fields {
            encoder.field(random, name, value, &mut block);
        }
        let noise = vec![b'n'; random.pick(&[0, 40, 900])];
        let late: [(&[u8], &[u8]); 3] =
            [(b"x-gateway-inference-pool", &authority), (b"x-noise", &noise), (b"te", b"trailers")];
        for (name, value) in late {
            encoder.field(random, name, value, &mut block);
        }
        bytes.extend(headers(random, stream, &block));
        let asked = message(&mut Random::new(1), REQUEST_HEADERS, true);
        bytes.extend(frame(DATA, END_STREAM, stream, &framed(&asked)));
        match random.below(6) {
            0 => bytes.extend(frame(PING, 0, 0, &[7; 8])),
            1 => bytes.extend(frame(WINDOW, 0, 0, &[0, 0, 1, 0])),
            2 => bytes.extend(frame(0xbe, 4, stream, b"\x41\x03a/b")),
            _ => {}
        }
    }
    (bytes, calls)
}

/// In one frame or more, with or without padding and priority.
fn headers(random: &mut Random, stream: u32, block: &[u8]) -> Vec<u8> {
    let (mut flags, mut before, mut after) = (0, Vec::new(), Vec::new());
    if random.one_in(4) {
        flags |= PADDED;
        after = vec![0; random.below(200)];
        before.push(after.len() as u8);
    }
    if random.one_in(4) {
        flags |= PRIORITY;
        before.extend([0, 0, 0, 0, 9]);
    }
    let mut cuts: Vec<usize> =
        (0..random.pick(&[0, 0, 0, 1, 4])).map(|_| random.below(block.len() + 1)).collect();
    cuts.push(block.len());
    cuts.sort_unstable();
    let mut out = Vec::new();
    let mut from = 0;
    for (place, &to) in cuts.iter().enumerate() {
        let last = if place + 1 == cuts.len() { END_HEADERS } else { 0 };
        let piece = &block[from..to];
        out.extend(if place == 0 {
            frame(HEADERS, flags | last, stream, &[&before, piece, &after].concat())
        } else {
            frame(MORE, last, stream, piece)
        });
        from = to;
    }
    out
}

pub struct Heard {
    runtime: Runtime,
    core: Rc<Core>,
}

impl Heard {
    pub fn new() -> Heard {
        let options = Options { max_streams: 1000, ..crate::connections::options() };
        let handoff = Arc::new(Handoff::new().expect("a descriptor"));
        let core = Core::new(options, handoff, Arc::new(Counts::new(vec![1.0], vec![1.0])));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        Heard { runtime, core }
    }

    /// One connection, all of it as it should be.
    pub fn case(&self, random: &mut Random) -> u64 {
        let (bytes, calls) = connection(random);
        let most = random.pick(&[1, 9, 300, 5000, 1 << 20]).max(bytes.len() / 300);
        let heard = LocalSet::new().block_on(&self.runtime, async {
            tokio::time::timeout(PATIENCE, self.heard(&bytes, most, calls)).await.expect("all calls are told")
        });
        for origin in heard {
            assert_eq!(origin.authority, origin.pool.to_ascii_lowercase());
        }
        1
    }

    async fn heard(&self, bytes: &[u8], most: usize, calls: usize) -> Vec<Origin> {
        let (ours, theirs) = duplex(1 << 16);
        let serving = spawn_local(listener::converse(self.core.clone(), theirs));
        let (mut read, mut write) = split(ours);
        let mut heard = Vec::new();
        let mut sink = [0; 8192];
        let writing = async {
            for piece in bytes.chunks(most) {
                write.write_all(piece).await.expect("taken");
                yield_now().await;
            }
            std::future::pending::<()>().await;
        };
        let reading = async {
            while read.read(&mut sink).await.expect("open") > 0 {}
            panic!("the connection was ended");
        };
        let telling = async {
            while heard.len() < calls {
                for (_, up) in self.core.handoff.take(1000) {
                    if let Up::Stream(Event::Headers { head }, _) = up {
                        heard.push(head.origin);
                    }
                }
                yield_now().await;
            }
        };
        tokio::select! {
            () = writing => {}
            () = reading => {}
            () = telling => {}
        }
        drop((read, write));
        serving.await.expect("no panic");
        while !self.core.streams.borrow().is_empty() {
            yield_now().await;
        }
        self.core.handoff.take(10_000);
        heard
    }
}

/// Bytes without an authority to replace come out as they went in, whatever they are, and all of them.
pub fn untouched(random: &mut Random) -> u64 {
    let mut bytes = PREFACE.to_vec();
    for _ in 0..random.below(12) {
        let kind = random.pick(&[DATA, HEADERS, MORE, SETTINGS, PING, 5, 0xfe]);
        let block: &[u8] =
            random.pick(&[&b"\x82\x86\x41\x03epp"[..], b"\x82\xbe", b"\x41", b"", b"\x3f\xff\xff\xff\xff"]);
        let flags = random.next() as u8;
        bytes.extend(frame(kind, flags, 1 + 2 * random.below(2) as u32, block));
    }
    let other = bytes.clone();
    if random.one_in(2) {
        random.mutate(&mut bytes, &other);
    }
    // Only a stand-in has it.
    bytes.retain(|byte| *byte != b'~');
    let most = random.pick(&[1, 2, 7, 100, 1 << 16]);
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let seen = runtime.block_on(async {
        let (mut ours, theirs) = duplex(1 << 20);
        let mut mended = Mended::new(theirs, Names::default());
        let mut seen = Vec::new();
        for piece in bytes.chunks(most) {
            ours.write_all(piece).await.expect("taken");
            let mut space = [0; 50];
            tokio::select! {
                biased;
                read = mended.read(&mut space) => seen.extend(&space[..read.expect("open")]),
                () = std::future::ready(()) => {}
            }
        }
        drop(ours);
        mended.read_to_end(&mut seen).await.expect("open");
        seen
    });
    assert!(seen == bytes || seen.contains(&b'~'));
    1
}
