//! What it costs to look for authorities that h2 would not take: a call's share of reading a connection through
//! `Mended`, without what reading it bare takes.
//!
//!     cargo run --release --no-default-features --example authority

use std::hint::black_box;
use std::time::Instant;

use inference_epp_native::authority::{Mended, Names};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::runtime::{Builder, Runtime};

const CALLS: u32 = 20_000;
const TRIES: usize = 9;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Ten fields that are in the table, as of a gateway that has called before.
const KNOWN: &[u8] = b"\x83\x86\xc4\xc3\xc2\xc1\xc0\xbf\xbe\xc5";
/// Of a call's messages: headers, a body in two pieces, the end.
const MESSAGES: [usize; 4] = [600, 300, 200, 0];

fn main() {
    let runtime = Builder::new_current_thread().build().expect("a runtime");
    for (what, literal) in [
        ("all fields known", &b""[..]),
        ("a new authority that h2 takes", b"\x01\x2epicker-of-the-models.models.svc.cluster.local1"),
        ("a new authority that is replaced", b"\x01\x2eoutbound|9002||picker.models.svc.cluster.local"),
    ] {
        let bytes = connection(&[KNOWN, literal].concat());
        let (mut bare, mut mended) = (f64::MAX, f64::MAX);
        for _ in 0..TRIES {
            bare = bare.min(seconds(&runtime, &bytes[..]));
            mended = mended.min(seconds(&runtime, Mended::new(&bytes[..], Names::default())));
        }
        println!("{what}: {:.0} ns a call", (mended - bare) / f64::from(CALLS) * 1e9);
    }
}

fn seconds(runtime: &Runtime, mut from: impl AsyncRead + Unpin) -> f64 {
    let mut space = vec![0; 8192];
    let began = Instant::now();
    runtime.block_on(async { while from.read(&mut space).await.expect("bytes") > 0 {} });
    black_box(space);
    began.elapsed().as_secs_f64()
}

fn connection(block: &[u8]) -> Vec<u8> {
    let mut bytes = PREFACE.to_vec();
    for call in 0..CALLS {
        let stream = 2 * call + 1;
        frame(1, 4, stream, block, &mut bytes);
        for size in MESSAGES {
            frame(0, 0, stream, &vec![0; size], &mut bytes);
        }
        frame(8, 0, 0, &[0, 0, 1, 0], &mut bytes);
    }
    bytes
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}
