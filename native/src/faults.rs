//! Tests of what a panic ends: its stream alone, or the thread, and never more quietly than that.

use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use h2::{RecvStream, SendStream, client};
use http::Request;
use tokio::task::{LocalSet, spawn_local};

use crate::counts::Counts;
use crate::handoff::{Down, Handoff, Up};
use crate::io::{self, Core, Listening, Options};
use crate::listener;
use crate::prompt::ScanPlan;
use crate::types::{Ending, Event, Route, Verdict};

const PATIENCE: Duration = Duration::from_secs(20);
/// request_headers with end_of_stream in a frame.
const HEADERS: &[u8] = b"\0\0\0\0\x04\x12\x02\x18\x01";
/// The beginning of a request_body of 100 bytes.
const PART: &[u8] = b"\0\0\0\0\x64\x22\x62\x0a\x60xxx";

fn options() -> Options {
    Options {
        max_body_bytes: 1 << 20,
        max_buffered_bytes: 1 << 20,
        max_streams: 100,
        max_message_bytes: 1 << 20,
        progress_timeout_s: 60.0,
        answer_timeout_s: 600.0,
        max_connection_age_s: 0.0,
        ask_headers: false,
        health_checking: false,
        gap_bounds: Vec::new(),
        scan: ScanPlan::default(),
        fixed: None,
    }
}

fn core_with(options: Options) -> Rc<Core> {
    Core::new(options, Arc::new(Handoff::new().unwrap()), Arc::new(Counts::new(vec![1.0], vec![1.0])))
}

type Client = client::SendRequest<Bytes>;

async fn connected(core: &Rc<Core>) -> Client {
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    spawn_local(listener::converse(core.clone(), theirs));
    let (client, connection) = client::Builder::new().initial_window_size(0).handshake(ours).await.unwrap();
    spawn_local(connection);
    client
}

/// A Process call that has sent this; the answer's headers come with the first frame.
async fn calling(client: &mut Client, data: &'static [u8]) -> (client::ResponseFuture, SendStream<Bytes>) {
    let uri = "http://epp/envoy.service.ext_proc.v3.ExternalProcessor/Process";
    let request = Request::post(uri).body(()).unwrap();
    let mut ready = client.clone().ready().await.unwrap();
    let (answer, mut send) = ready.send_request(request, false).unwrap();
    send.send_data(Bytes::from_static(data), false).unwrap();
    (answer, send)
}

async fn until<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let looking = async {
        loop {
            if let Some(seen) = look() {
                return seen;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, looking).await.unwrap()
}

/// Numbers of the streams that wait for a verdict.
async fn deciding(core: &Core, count: usize) -> Vec<u64> {
    let mut seen = Vec::new();
    until(|| {
        seen.extend(
            core.handoff
                .take(100)
                .into_iter()
                .filter_map(|(id, up)| matches!(up, Up::Stream(Event::Decide { .. }, _)).then_some(id)),
        );
        (seen.len() == count).then(|| seen.clone())
    })
    .await
}

async fn ended(core: &Core, id: u64) -> Ending {
    until(|| {
        core.handoff.take(100).into_iter().find_map(|event| match event {
            (of, Up::Stream(Event::End { ending, .. }, _)) if of == id => Some(ending),
            _ => None,
        })
    })
    .await
}

fn route(core: &Core, id: u64) {
    let destination = Bytes::from_static(b"10.0.0.1:8000");
    let route = Route { destination, ..Route::default() };
    core.apply(Down::Verdict(id, Verdict::Route(Box::new(route))), None);
}

fn alone(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, test);
}

#[test]
fn a_panic_ends_its_stream_alone() {
    alone(async {
        let core = core_with(options());
        let mut client = connected(&core).await;
        let (failing, _sending) = calling(&mut client, HEADERS).await;
        let (served, _also_sending) = calling(&mut client, HEADERS).await;
        let ids = deciding(&core, 2).await;
        core.apply(Down::Fault(ids[0]), None);
        assert_eq!(ended(&core, ids[0]).await, Ending::Error);
        let error = failing.await.unwrap_err();
        assert_eq!(error.reason(), Some(h2::Reason::INTERNAL_ERROR));
        assert_eq!((core.counts.open.load(Relaxed), core.streams.borrow().len()), (1, 1));
        route(&core, ids[1]);
        assert_eq!(served.await.unwrap().status(), 200);
        let taken = core.counts.take();
        assert_eq!((taken.faults, taken.closed.get("INTERNAL")), (1, Some(&1)));
    });
}

#[test]
fn a_half_message_counts_until_its_stream_ends() {
    alone(async {
        let core = core_with(options());
        let mut client = connected(&core).await;
        let (_answer, mut sending) = calling(&mut client, PART).await;
        until(|| (core.budget.used() == PART.len() as u64).then_some(())).await;
        sending.send_reset(h2::Reason::CANCEL);
        until(|| (core.counts.open.load(Relaxed) == 0).then_some(())).await;
        assert_eq!(core.budget.used(), 0);
    });
}

#[test]
fn half_messages_of_too_many_are_refused() {
    alone(async {
        let core = core_with(Options { max_buffered_bytes: 20, ..options() });
        let mut client = connected(&core).await;
        let (_first, _sending) = calling(&mut client, PART).await;
        until(|| (core.budget.used() > 0).then_some(())).await;
        let (_second, _also_sending) = calling(&mut client, PART).await;
        let limited = |(_, up)| matches!(up, Up::Stream(Event::Limited { .. }, _));
        until(|| core.handoff.take(100).into_iter().any(limited).then_some(())).await;
        assert_eq!(core.budget.used(), PART.len() as u64);
    });
}

/// A window that never opens holds back the last words.
#[test]
fn who_never_reads_is_cut_off() {
    alone(async {
        let core = core_with(options());
        let mut client = connected(&core).await;
        let (answer, _sending) = calling(&mut client, HEADERS).await;
        let id = deciding(&core, 1).await[0];
        core.apply(Down::Verdict(id, Verdict::Refuse(crate::types::Refusal::default())), None);
        let _unread: RecvStream = answer.await.unwrap().into_body();
        let stream = core.streams.borrow()[&id].clone();
        stream.sweep(core.now() + 1.0);
        assert_eq!(core.streams.borrow().len(), 1);
        stream.sweep(core.now() + 61.0);
        assert_eq!((core.streams.borrow().len(), core.budget.used()), (0, 0));
        assert_eq!(ended(&core, id).await, Ending::Refused);
    });
}

#[test]
fn streams_that_come_and_go_faster_than_python_looks_are_refused() {
    alone(async {
        let core = core_with(options());
        let mut client = connected(&core).await;
        for id in 0..4096 {
            core.handoff.push(id, Up::Health, false);
        }
        let (answer, _sending) = calling(&mut client, HEADERS).await;
        let mut body = answer.await.unwrap().into_body();
        let trailers = body.trailers().await.unwrap().unwrap();
        assert_eq!(trailers["grpc-status"], "8");
        assert_eq!((core.counts.opened.load(Relaxed), core.handoff.backlog()), (0, 4096));
    });
}

fn listening() -> Listening {
    Listening { socket: TcpListener::bind("127.0.0.1:0").unwrap(), certificates: None }
}

fn stopped(handoff: &Handoff) -> bool {
    let taken = handoff.take(100);
    let Some((_, Up::Stopped { asked })) = taken.back() else { panic!("{taken:?}") };
    *asked
}

#[test]
fn a_panic_of_the_thread_is_told() {
    let (handoff, counts) = (Arc::new(Handoff::new().unwrap()), Arc::new(Counts::default()));
    let thread = io::spawn(options(), listening(), handoff.clone(), counts).unwrap();
    handoff.reply(Down::Fault(0));
    handoff.flush();
    thread.join().unwrap();
    assert!(!stopped(&handoff));
}

#[test]
fn two_threads_stop_by_themselves_and_what_is_behind_a_stop_counts() {
    let made = || (Arc::new(Handoff::new().unwrap()), Arc::new(Counts::default()));
    let ((one, its_counts), (other, others_counts)) = (made(), made());
    let first = io::spawn(options(), listening(), one.clone(), its_counts).unwrap();
    let second = io::spawn(options(), listening(), other.clone(), others_counts).unwrap();
    one.reply(Down::Stop { grace_s: f64::NAN });
    one.reply(Down::Fault(7)); // no such stream
    one.flush();
    first.join().unwrap();
    assert!(stopped(&one));
    assert!(!second.is_finished());
    other.reply(Down::Stop { grace_s: 0.0 });
    other.flush();
    second.join().unwrap();
    assert!(stopped(&other));
}
