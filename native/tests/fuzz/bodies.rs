//! Bodies of answers and requests, spoilt and cut at random: read without a panic, and the same however cut.

use std::rc::Rc;

use bytes::Bytes;
use inference_epp_native::answer::{Watch, head_of};
use inference_epp_native::prompt::{PromptScan, Scanned};
use inference_epp_native::types::{AnswerPlan, Api, Pair, Report};

use crate::random::Random;

const APIS: [Api; 13] = [
    Api::Chat,
    Api::Completions,
    Api::Responses,
    Api::Conversations,
    Api::Embeddings,
    Api::Images,
    Api::Rerank,
    Api::Audio,
    Api::Anthropic,
    Api::Vllm,
    Api::Sglang,
    Api::VllmGrpc,
    Api::Opaque,
];

const MEDIA: [&str; 6] =
    ["application/json", "text/event-stream", "a/b+json; c", "application/grpc", "audio/x", ""];

const ANSWERS: [&[u8]; 9] = [
    br#"{"id":"resp_1","model":"target","usage":{"prompt_tokens":5,"completion_tokens":7,"total_tokens":12}}"#,
    br#"{"usage":{"input_tokens":3,"output_tokens":4,"input_tokens_details":{"cached_tokens":1}},"model": "target"}"#,
    br#"[{"text":"a","meta_info":{"id":"x","prompt_tokens":2}},{"meta_info":{"completion_tokens":1e3}}]"#,
    br#"{"message":{"usage":{"cache_read_input_tokens":9,"cache_creation_input_tokens":18446744073709551615}}}"#,
    b"data: {\"model\":\"target\",\"choices\":[{\"delta\":{\"content\":\"\xc3\xa9\\u00e9\"}}]}\n\ndata: {\"usage\":{\"prompt_tokens\":5}}\n\ndata: [DONE]\n\n",
    b"event: message_start\r\ndata: {\"message\":{\"usage\":{\"input_tokens\":10}}}\r\n\r\nevent: message_delta\ndata: {\"usage\":{\"output_tokens\":3}}\n\n",
    b"event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"id\":\"resp_2\",\"usage\":{\"total_tokens\":1}}}\n\n",
    b"\0\0\0\0\x0a\x12\x08\x08\x01\x18\x05\x20\x03\x28\x02\0\0\0\0\x02\x10\x05",
    b"   {\"object\":\"list\",\"data\":[0.1,-0.2e-3],\"usage\" : {\"prompt_tokens\":8}, \"model\":\"target\"}  ",
];

const REQUESTS: [&[u8]; 5] = [
    br#"{"model":"m","messages":[{"role":"system","content":"Be \"brief\"."},{"role":"user","content":[{"type":"text","text":"H\u00e9llo \ud83d\ude00"}]}],"max_tokens":5}"#,
    br#"{"prompt":"Once upon a time there was a picker of endpoints, and it was quick.","model":"m","stream":true}"#,
    br#"{"model":"m","tools":[{"type":"function","function":{"name":"f"}}],"messages":[{"role":"user","content":"a","name":null}]}"#,
    br#"{"messages":[{"role":"assistant","content":null,"tool_calls":[{"id":"1"}]}],"stream":false,"model":"m"}"#,
    br#"{"prompt":["a","b"],"model":"m"}"#,
];

pub fn case(random: &mut Random) -> u64 {
    if random.one_in(2) {
        answer(random)
    } else {
        prompt(random)
    }
    1
}

fn spoilt(random: &mut Random, corpus: &[&[u8]]) -> Vec<u8> {
    let mut body = random.pick(corpus).to_vec();
    if random.one_in(40) {
        // Long ones are searched instead of decoded.
        let filler = random.pick(&[70_000, 270_000]);
        let mut long = b"{\"data\":\"".to_vec();
        long.resize(filler, b'a');
        long.extend(b"\",");
        long.extend(&body[1..]);
        body = long;
    }
    if !random.one_in(4) {
        let other = random.pick(corpus);
        random.mutate(&mut body, other);
    }
    body
}

fn answer(random: &mut Random) {
    let body = spoilt(random, &ANSWERS);
    let headers: Vec<Pair> = vec![
        (":status".into(), "200".into()),
        ("content-type".into(), random.pick(&MEDIA).into()),
        ("content-encoding".into(), random.pick(&["", "", "", "identity", "gzip"]).into()),
    ];
    let plan = AnswerPlan {
        api: random.pick(&APIS),
        restore: random
            .one_in(2)
            .then(|| ("target".to_owned(), random.pick(&["m", "a \"name\""]).to_owned())),
        ..AnswerPlan::default()
    };
    let (whole, report) = watched(&plan, &headers, std::slice::from_ref(&body));
    let pieces = random.split(&body);
    let (joined, also) = watched(&plan, &headers, &pieces);
    assert!(whole == joined, "restored differently in {} pieces", pieces.len());
    if plan.restore.is_none() {
        assert!(whole == body);
    }
    assert_eq!((report.body_bytes, also.body_bytes), (body.len() as u64, body.len() as u64));
    if body.len() < 64 << 10 {
        let (one, cut) = ((report.usage, report.response_id), (also.usage, also.response_id));
        assert_eq!(one, cut, "{plan:?} {headers:?} {:?}", String::from_utf8_lossy(&body));
    }
    // Headers that never came.
    let mut unknown = Watch::new(&plan, Rc::from([0.5]));
    for piece in random.split(&body) {
        unknown.chunk(&Bytes::from(piece), false, 1.0);
    }
    unknown.flush();
    unknown.report();
}

/// What the client gets, and what the door is told.
fn watched(plan: &AnswerPlan, headers: &[Pair], pieces: &[Vec<u8>]) -> (Vec<u8>, Report) {
    let mut watch = Watch::new(plan, Rc::from([0.5]));
    watch.headers(headers, &head_of(headers, None, 1.0));
    let mut sent = Vec::new();
    for piece in pieces {
        let piece = Bytes::copy_from_slice(piece);
        sent.extend(watch.chunk(&piece, false, 1.0).0.unwrap_or(piece));
    }
    sent.extend(watch.flush().unwrap_or_default());
    (sent, watch.report())
}

fn prompt(random: &mut Random) {
    let body = spoilt(random, &REQUESTS);
    let (api, block_bytes) = (random.pick(&[Api::Chat, Api::Completions]), random.pick(&[1, 7, 64, 256]));
    let most = random.pick(&[0, 3, 1000]);
    let scanned = |pieces: &[Vec<u8>]| -> Option<Scanned> {
        let mut scan = PromptScan::new(api, block_bytes, most);
        pieces.iter().for_each(|piece| scan.push(piece));
        scan.finish()
    };
    let pieces = random.split(&body);
    assert_eq!(scanned(std::slice::from_ref(&body)), scanned(&pieces));
}
