//! Frames (RFC 9113, section 4): which are header blocks, and how a changed one is sent.

use super::{Names, block};

pub const PREFACE: usize = 24;
const HEAD: usize = 9;
const HEADERS: u8 = 1;
const PUSH_PROMISE: u8 = 5;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const PRIORITY: u8 = 0x20;
const PRIORITY_BYTES: usize = 5;
/// Every receiver takes frames of this size.
const FRAME: usize = 16 << 10;
/// h2 refuses blocks that are much smaller, and in fewer frames.
const MOST: usize = 96 << 10;
const MOST_FRAMES: usize = 16;

/// What a piece of a connection begins with, where a frame begins.
pub enum Found {
    /// So many bytes that go on as they are. Not all of them may be there.
    Fine(usize),
    /// Instead of so many bytes, these.
    Mended(usize, Vec<u8>),
    /// More is needed to know.
    Partial,
    /// What h2 will end the connection for.
    Broken,
}

struct Frame<'a> {
    kind: u8,
    flags: u8,
    stream: [u8; 4],
    payload: Option<&'a [u8]>,
    /// With its head.
    length: usize,
}

fn frame(bytes: &[u8]) -> Option<Frame<'_>> {
    let [high, middle, low, kind, flags, stream @ ..] = *bytes.first_chunk::<HEAD>()?;
    let length = HEAD + u32::from_be_bytes([0, high, middle, low]) as usize;
    Some(Frame { kind, flags, stream, payload: bytes.get(HEAD..length), length })
}

pub fn look(bytes: &[u8], names: &Names) -> Found {
    let Some(first) = frame(bytes) else { return Found::Partial };
    match first.kind {
        HEADERS => {}
        PUSH_PROMISE | CONTINUATION => return Found::Broken,
        _ => return Found::Fine(first.length),
    }
    if first.length > MOST {
        return Found::Broken;
    }
    let Some(payload) = first.payload else { return Found::Partial };
    let Some((priority, fragment)) = parts(payload, first.flags) else { return Found::Broken };
    let (mut end, mut further) = (first.length, Vec::new());
    if first.flags & END_HEADERS == 0 {
        loop {
            let Some(more) = frame(&bytes[end..]) else { return Found::Partial };
            end += more.length;
            if more.kind != CONTINUATION
                || more.stream != first.stream
                || end > MOST
                || further.len() == MOST_FRAMES
            {
                return Found::Broken;
            }
            let Some(payload) = more.payload else { return Found::Partial };
            further.push(payload);
            if more.flags & END_HEADERS != 0 {
                break;
            }
        }
    }
    // Put together only when all are there.
    let gathered;
    let whole = if further.is_empty() {
        fragment
    } else {
        gathered = [fragment, &further.concat()].concat();
        &gathered
    };
    match block::mended(whole, names) {
        Ok(None) => Found::Fine(end),
        Ok(Some(block)) => Found::Mended(end, framed(&first, priority, &block)),
        Err(block::Broken) => Found::Broken,
    }
}

/// Of a HEADERS frame: its priority, and what it has of the block.
fn parts(payload: &[u8], flags: u8) -> Option<(&[u8], &[u8])> {
    let unpadded = if flags & PADDED == 0 {
        payload
    } else {
        let (padding, rest) = payload.split_first()?;
        rest.get(..rest.len().checked_sub(usize::from(*padding))?)?
    };
    unpadded.split_at_checked(if flags & PRIORITY == 0 { 0 } else { PRIORITY_BYTES })
}

/// Without padding; a block that grew may need one frame more.
fn framed(first: &Frame, priority: &[u8], block: &[u8]) -> Vec<u8> {
    let payload = [priority, block].concat();
    let mut out = Vec::with_capacity(payload.len() + HEAD * (1 + payload.len() / FRAME));
    let last = payload.len().div_ceil(FRAME) - 1;
    for (number, piece) in payload.chunks(FRAME).enumerate() {
        let mut flags = if number == last { END_HEADERS } else { 0 };
        let mut kind = CONTINUATION;
        if number == 0 {
            flags |= first.flags & !(PADDED | END_HEADERS);
            kind = HEADERS;
        }
        out.extend_from_slice(&(piece.len() as u32).to_be_bytes()[1..]);
        out.extend_from_slice(&[kind, flags]);
        out.extend_from_slice(&first.stream);
        out.extend_from_slice(piece);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const ODD: &[u8] = b"\x41\x03a/b";
    const GIVEN: &[u8] = b"\x41\x03~00";

    fn sent(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = (payload.len() as u32).to_be_bytes();
        [&length[1..], &[kind, flags], &[0x80, 0, 0, 7], payload].concat()
    }

    /// What goes on, and how much came in for it.
    fn mended(bytes: &[u8]) -> Option<(usize, Vec<u8>)> {
        match look(bytes, &Names::default()) {
            Found::Mended(end, new) => Some((end, new)),
            _ => None,
        }
    }

    #[test]
    fn flags_stream_and_priority_stay_and_padding_goes() {
        let priority = [0x80, 0, 0, 1, 9];
        for end_stream in [0, 1] {
            for (flags, before, after) in [
                (0, vec![], &b""[..]),
                (PADDED, vec![3], b"\0\0\0"),
                (PRIORITY, priority.to_vec(), b""),
                (PADDED | PRIORITY, [&[2][..], &priority].concat(), b"\0\0"),
            ] {
                let payload = [&before, ODD, after].concat();
                let bytes = sent(HEADERS, flags | END_HEADERS | end_stream, &payload);
                let kept = if flags & PRIORITY == 0 { &[][..] } else { &priority };
                let flags = flags & !PADDED | END_HEADERS | end_stream;
                let expected = sent(HEADERS, flags, &[kept, GIVEN].concat());
                assert_eq!(mended(&[&bytes[..], b"more"].concat()), Some((bytes.len(), expected)));
                for end in 0..bytes.len() {
                    assert!(matches!(look(&bytes[..end], &Names::default()), Found::Partial));
                }
            }
        }
    }

    #[test]
    fn a_block_in_pieces_is_looked_at_as_a_whole() {
        for first in 0..=ODD.len() {
            for second in first..=ODD.len() {
                let bytes = [
                    sent(HEADERS, 1, &ODD[..first]),
                    sent(CONTINUATION, 0, &ODD[first..second]),
                    sent(CONTINUATION, END_HEADERS, &ODD[second..]),
                ]
                .concat();
                let expected = sent(HEADERS, END_HEADERS | 1, GIVEN);
                assert_eq!(mended(&bytes), Some((bytes.len(), expected)));
                assert!(matches!(look(&bytes[..bytes.len() - 1], &Names::default()), Found::Partial));
            }
        }
    }

    #[test]
    fn a_long_block_goes_on_in_frames_that_anybody_takes() {
        // Another header, of 127 + 127 + 127 * 128 bytes.
        let rest = &[&b"\0\x01x\x7f\xff\x7f"[..], &[b'y'; 16_510]].concat();
        let block = [ODD, rest].concat();
        let bytes = sent(HEADERS, END_HEADERS, &block);
        let (end, new) = mended(&bytes).unwrap();
        assert_eq!(end, bytes.len());
        let block = [GIVEN, rest].concat();
        let expected =
            [sent(HEADERS, 0, &block[..FRAME]), sent(CONTINUATION, END_HEADERS, &block[FRAME..])].concat();
        assert_eq!(new, expected);
    }

    #[test]
    fn everything_else_goes_on_before_it_is_whole() {
        for kind in (0..=255).filter(|kind| ![HEADERS, PUSH_PROMISE, CONTINUATION].contains(kind)) {
            let bytes = sent(kind, 0xff, ODD);
            assert!(
                matches!(look(&bytes[..HEAD], &Names::default()), Found::Fine(length) if length == bytes.len())
            );
        }
    }

    #[test]
    fn what_h2_will_end_the_connection_for() {
        let other = {
            let mut frame = sent(CONTINUATION, END_HEADERS, b"");
            frame[8] = 9;
            frame
        };
        let begun = sent(HEADERS, 0, b"\x41");
        for bytes in [
            sent(CONTINUATION, END_HEADERS, ODD),
            sent(PUSH_PROMISE, END_HEADERS, ODD),
            sent(HEADERS, END_HEADERS | PADDED, b""),
            sent(HEADERS, END_HEADERS | PADDED, b"\x01"),
            sent(HEADERS, END_HEADERS | PRIORITY, b"\0\0\0\0"),
            sent(HEADERS, END_HEADERS, b"\x41\x7f"),
            [begun.clone(), other].concat(),
            [begun.clone(), sent(0, 0, b"")].concat(),
            [begun, sent(CONTINUATION, 0, b"").repeat(MOST_FRAMES + 1)].concat(),
            sent(HEADERS, 0, &vec![0; MOST])[..HEAD].to_vec(),
        ] {
            assert!(matches!(look(&bytes, &Names::default()), Found::Broken), "{bytes:x?}");
        }
    }
}
