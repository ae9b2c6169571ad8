//! ProcessingRequests as Envoy writes them, by field numbers of external_processor.proto, in orders it may send
//! and in others.

use crate::random::Random;

pub const REQUEST_HEADERS: u32 = 2;
pub const ANSWER_HEADERS: u32 = 3;
pub const REQUEST_BODY: u32 = 4;
pub const ANSWER_BODY: u32 = 5;
pub const REQUEST_TRAILERS: u32 = 6;
pub const ANSWER_TRAILERS: u32 = 7;

pub fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn number(field: u32, value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    varint(u64::from(field) << 3, &mut out);
    varint(value, &mut out);
    out
}

fn bytes(field: u32, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(value.len() + 8);
    varint(u64::from(field) << 3 | 2, &mut out);
    varint(value.len() as u64, &mut out);
    out.extend(value);
    out
}

fn header_map(random: &mut Random, headers: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut map = Vec::new();
    for (name, value) in headers {
        let place = random.pick(&[2, 3, 3, 3]);
        map.extend(bytes(1, &[bytes(1, name.as_bytes()), bytes(place, value)].concat()));
    }
    bytes(1, &map)
}

fn headers(random: &mut Random, kind: u32, end: bool) -> Vec<u8> {
    let length = random.pick(&["5", "0", "62000", "99999999999", "-1", "x", "700"]).as_bytes().to_vec();
    let common = [("content-length", length), ("X-Request-Id", random.bytes(6))];
    let path = random.pick(&["/v1/chat/completions", "/v1/completions", "/x?y", ""]);
    let media =
        random.pick(&["application/json", "text/event-stream; charset=utf-8", "application/grpc", "*"]);
    let own = if kind == REQUEST_HEADERS {
        [(":path", path.as_bytes().to_vec()), (":method", b"POST".to_vec())]
    } else {
        [(":status", random.pick(&[&b"200"[..], b"503", b"x"]).to_vec()), ("content-type", media.into())]
    };
    let mut fields: Vec<_> = common.into_iter().chain(own).collect();
    if random.one_in(3) {
        fields.push(("x-gateway-destination-endpoint-served", b"10.0.0.2:8000".to_vec()));
    }
    fields.rotate_left(random.below(4));
    let mut inner = header_map(random, &fields);
    if end {
        inner.extend(number(3, 1));
    }
    bytes(kind, &inner)
}

fn body(random: &mut Random, kind: u32, end: bool) -> Vec<u8> {
    let plain: &[u8] = br#"{"model":"target","messages":[{"role":"user","content":"Hello"}]}"#;
    let data = match random.below(12) {
        0 => Vec::new(),
        1 => vec![b'x'; random.pick(&[61_999, 62_000, 62_001, 130_000])],
        2 => random.bytes(600),
        3 => plain.repeat(200),
        4 => b"data: {\"model\": \"target\",\"usage\":{\"prompt_tokens\":5}}\n\ndata: [DONE]\n\n".to_vec(),
        _ => plain[random.below(40)..].to_vec(),
    };
    let mut inner = bytes(1, &data);
    if end {
        inner.extend(number(2, 1));
    }
    bytes(kind, &inner)
}

/// `protocol_config`, and what gateways say of endpoints in `metadata_context`.
fn extras(random: &mut Random) -> Vec<u8> {
    let mut out = Vec::new();
    if !random.one_in(5) {
        let modes = [0, 1, 2, 3, 4, 4, 4, 5, u64::MAX];
        let (request, answer) = (random.pick(&modes), random.pick(&modes));
        out.extend(bytes(11, &[number(1, request), number(2, answer)].concat()));
    }
    if random.one_in(3) {
        let (space, key) = random.pick(&[
            ("envoy.lb.subset_hint", "x-gateway-destination-endpoint-subset"),
            ("envoy.lb", "x-gateway-destination-endpoint-served"),
        ]);
        let text = bytes(3, b"10.0.0.1:8000, 10.0.0.2:8000");
        let value = if random.one_in(2) { bytes(6, &bytes(1, &text)) } else { text };
        let fields = bytes(1, &[bytes(1, key.as_bytes()), bytes(2, &value)].concat());
        let entry = [bytes(1, space.as_bytes()), bytes(2, &fields)].concat();
        out.extend(bytes(8, &bytes(1, &entry)));
    }
    out
}

pub fn message(random: &mut Random, kind: u32, end: bool) -> Vec<u8> {
    match kind {
        REQUEST_HEADERS | ANSWER_HEADERS => headers(random, kind, end),
        REQUEST_BODY | ANSWER_BODY => body(random, kind, end),
        _ => bytes(kind, &header_map(random, &[("grpc-status", b"0".to_vec())])),
    }
}

/// The messages of one stream: an order that Envoy knows, now and then spoilt; some of them mutated.
pub fn conversation(random: &mut Random) -> Vec<Vec<u8>> {
    let mut plan = Vec::new();
    for (headers, body, trailers) in
        [(REQUEST_HEADERS, REQUEST_BODY, REQUEST_TRAILERS), (ANSWER_HEADERS, ANSWER_BODY, ANSWER_TRAILERS)]
    {
        let (pieces, trailed) = (random.below(5), random.one_in(4));
        plan.push((headers, pieces == 0 && !trailed));
        plan.extend((1..=pieces).map(|piece| (body, piece == pieces && !trailed)));
        if trailed {
            plan.push((trailers, false));
        }
    }
    if random.one_in(3) {
        for _ in 0..=random.below(3) {
            let (from, to) = (random.below(plan.len()), random.below(plan.len()));
            match random.below(4) {
                0 => plan.swap(from, to),
                1 => plan.insert(to, plan[from]),
                2 if plan.len() > 1 => drop(plan.remove(from)),
                _ => plan[from].1 ^= true,
            }
        }
    }
    let spoilt = random.one_in(2);
    let mut messages: Vec<Vec<u8>> = Vec::new();
    for (kind, end) in plan {
        let mut made = message(random, kind, end);
        if messages.is_empty() || random.one_in(10) {
            made.extend(extras(random));
        }
        if random.one_in(20) {
            // Another kind takes the first one's place, or the same is merged.
            let kind = random.pick(&[2, 3, 4, 5, 6, 7]);
            made.extend(message(random, kind, false));
        }
        if spoilt && random.one_in(2) {
            let other = messages.last().cloned().unwrap_or_default();
            random.mutate(&mut made, &other);
        }
        messages.push(made);
    }
    messages
}
