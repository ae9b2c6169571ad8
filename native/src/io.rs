//! The I/O thread: one tokio runtime, all connections, no Python.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::net::TcpListener;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::task::{JoinError, LocalSet};
use tokio::time::Instant;

use crate::counts::Counts;
use crate::exchange::{Budget, Limits};
use crate::handoff::{Down, Handoff, Up};
use crate::listener;
use crate::prompt::ScanPlan;
use crate::stream::Stream;
use crate::tls;
use crate::types::Route;

const TICK: Duration = Duration::from_millis(50);
const QUIET_CHECK: Duration = Duration::from_millis(5);
const TICKS_A_SWEEP: u32 = 20;
/// Python may be so many events behind, or four for each allowed stream: new streams are refused beyond it.
const MIN_BACKLOG: usize = 4096;
const LONGEST_GRACE_S: f64 = 1e6;

#[derive(Clone, Debug)]
pub struct Options {
    pub max_body_bytes: u64,
    pub max_buffered_bytes: u64,
    pub max_streams: usize,
    pub max_message_bytes: usize,
    pub progress_timeout_s: f64,
    pub answer_timeout_s: f64,
    /// Of connections, give or take a tenth; 0 for no end.
    pub max_connection_age_s: f64,
    /// Ask Python at the headers whether a request is refused before its body is read.
    pub ask_headers: bool,
    pub health_checking: bool,
    pub gap_bounds: Vec<f64>,
    pub scan: ScanPlan,
    /// Answer every request with this endpoint without asking Python: the transport's own cost, for benchmarks.
    pub fixed: Option<String>,
}

/// How far the end has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Serving,
    /// No new connections, no new streams on the old ones.
    Draining,
    Over,
}

/// Numbers are given out one after the other: they need no hashing.
#[derive(Default)]
pub struct Plain(u64);

impl Hasher for Plain {
    fn finish(&self) -> u64 {
        self.0.wrapping_mul(0x9E37_79B9_7F4A_7C15)
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 << 8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}

/// What all streams of the thread share.
pub struct Core {
    pub options: Options,
    pub limits: Rc<Limits>,
    pub budget: Rc<Budget>,
    pub handoff: Arc<Handoff>,
    pub counts: Arc<Counts>,
    pub fixed: Option<Box<Route>>,
    pub streams: RefCell<HashMap<u64, Rc<Stream>, BuildHasherDefault<Plain>>>,
    pub health: RefCell<HashMap<u64, oneshot::Sender<bool>>>,
    pub phase: watch::Sender<Phase>,
    next_id: Cell<u64>,
}

impl Core {
    pub fn new(options: Options, handoff: Arc<Handoff>, counts: Arc<Counts>) -> Rc<Core> {
        Rc::new(Core {
            limits: Rc::new(Limits {
                max_body_bytes: options.max_body_bytes,
                budget_limit: options.max_buffered_bytes,
                ask_headers: options.ask_headers,
                gap_bounds: Rc::from(options.gap_bounds.as_slice()),
                scan: Rc::new(options.scan.clone()),
            }),
            budget: Rc::new(Budget::default()),
            fixed: options.fixed.as_ref().map(|to| {
                Box::new(Route {
                    destination: bytes::Bytes::from(to.clone().into_bytes()),
                    ..Route::default()
                })
            }),
            options,
            handoff,
            counts,
            streams: RefCell::default(),
            health: RefCell::default(),
            phase: watch::Sender::new(Phase::Serving),
            next_id: Cell::new(1),
        })
    }

    /// CLOCK_MONOTONIC, as Python's time.monotonic.
    pub fn now(&self) -> f64 {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: writes one timespec that lives here; the clock exists on every Linux.
        unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
        time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
    }

    pub fn new_id(&self) -> u64 {
        let id = self.next_id.get();
        self.next_id.set(id + 1);
        id
    }

    pub fn warn(&self, text: String) {
        self.handoff.warn(text);
    }

    /// Python is too far behind to be told of more streams: whoever opens and resets them fast must not fill
    /// our memory.
    pub fn overrun(&self) -> bool {
        self.handoff.backlog() >= self.options.max_streams.saturating_mul(4).max(MIN_BACKLOG)
    }

    /// All streams end now.
    fn cut_off(&self) {
        let left: Vec<_> = self.streams.borrow().values().cloned().collect();
        for stream in left {
            stream.cut_off();
        }
    }

    /// Every reply counts, also those behind a stop. Returns the grace where one was asked for.
    fn apply_all(&self, replies: Vec<Down>, certificates: Option<&tls::Current>) -> Option<Duration> {
        let mut grace: Option<Duration> = None;
        for down in replies {
            if let Some(asked_s) = self.apply(down, certificates) {
                let asked_s = if asked_s > 0.0 { asked_s.min(LONGEST_GRACE_S) } else { 0.0 };
                let asked = Duration::from_secs_f64(asked_s);
                grace = Some(grace.map_or(asked, |earlier| earlier.min(asked)));
            }
        }
        grace
    }

    pub fn apply(&self, down: Down, certificates: Option<&tls::Current>) -> Option<f64> {
        let id = match &down {
            Down::Verdict(id, _) | Down::GoOn(id) | Down::AnswerSet(id, _) | Down::Abort(id, _) => *id,
            Down::Health(id, serving) => {
                if let Some(waiting) = self.health.borrow_mut().remove(id) {
                    let _ = waiting.send(*serving);
                }
                return None;
            }
            Down::Certificate(certificate) => {
                if let Some(current) = certificates {
                    current.set(certificate.clone());
                }
                return None;
            }
            Down::Stop { grace_s } => return Some(*grace_s),
            #[cfg(test)]
            Down::Fault(0) => panic!("asked for by a test"),
            #[cfg(test)]
            Down::Fault(id) => *id,
        };
        let stream = self.streams.borrow().get(&id).cloned();
        if let Some(stream) = stream {
            stream.reply(down);
        }
        None
    }
}

pub struct Listening {
    pub socket: TcpListener,
    pub certificates: Option<Arc<tls::Current>>,
}

/// Starts the thread. It blocks all signals, so that Python's own thread gets them.
pub fn spawn(
    options: Options,
    listening: Listening,
    handoff: Arc<Handoff>,
    counts: Arc<Counts>,
) -> std::io::Result<JoinHandle<()>> {
    listening.socket.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let before = block_signals();
    let thread = std::thread::Builder::new().name("epp-extproc".into()).spawn(move || {
        let told = handoff.clone();
        let done = catch_unwind(AssertUnwindSafe(|| {
            LocalSet::new().block_on(&runtime, serve(options, listening, handoff, counts))
        }));
        if let Ok(Err(error)) = &done {
            told.warn(format!("the native transport ended: {error}"));
        }
        told.push(0, Up::Stopped { asked: matches!(done, Ok(Ok(()))) }, true);
    });
    restore_signals(&before);
    thread
}

async fn serve(
    options: Options,
    listening: Listening,
    handoff: Arc<Handoff>,
    counts: Arc<Counts>,
) -> std::io::Result<()> {
    let core = Core::new(options, handoff, counts);
    let certificates = listening.certificates.as_deref();
    let socket = tokio::net::TcpListener::from_std(listening.socket)?;
    let acceptor = listening.certificates.clone().map(tls::acceptor).transpose()?;
    let mut accepting = tokio::task::spawn_local(listener::accept(core.clone(), socket, acceptor));
    let mut ticking = tokio::task::spawn_local(tick(core.clone()));
    // These two end by a fault only, and then nothing goes on.
    let grace = loop {
        let replies = tokio::select! {
            replies = core.handoff.replies() => replies,
            ended = &mut accepting => return Err(fault("accepting", ended)),
            ended = &mut ticking => return Err(fault("ticking", ended)),
        };
        if let Some(grace) = core.apply_all(replies, certificates) {
            break grace;
        }
    };
    core.phase.send_replace(Phase::Draining);
    accepting.abort();
    let mut until = Instant::now() + grace;
    while !core.streams.borrow().is_empty() && Instant::now() < until {
        let replies = tokio::select! {
            replies = core.handoff.replies() => replies,
            () = tokio::time::sleep_until(until.min(Instant::now() + QUIET_CHECK)) => continue,
            ended = &mut ticking => return Err(fault("ticking", ended)),
        };
        // Who asks again is in more of a hurry.
        if let Some(grace) = core.apply_all(replies, certificates) {
            until = until.min(Instant::now() + grace);
        }
    }
    core.cut_off();
    ticking.abort();
    core.phase.send_replace(Phase::Over);
    // Connections get a moment to send their last frames.
    for _ in 0..20 {
        if core.phase.receiver_count() == 0 {
            break;
        }
        tokio::time::sleep(QUIET_CHECK).await;
    }
    // What came in that moment.
    core.cut_off();
    Ok(())
}

fn fault(what: &str, ended: Result<(), JoinError>) -> std::io::Error {
    let why = ended.err().map_or_else(|| "it is over".to_owned(), |error| error.to_string());
    std::io::Error::other(format!("a fault while {what}: {why}"))
}

async fn tick(core: Rc<Core>) {
    let mut interval = tokio::time::interval(TICK);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut ticks = 0;
    loop {
        interval.tick().await;
        core.handoff.tick();
        core.counts.held_bytes.store(core.budget.used(), std::sync::atomic::Ordering::Relaxed);
        ticks += 1;
        if ticks % TICKS_A_SWEEP == 0 {
            let now = core.now();
            let streams: Vec<_> = core.streams.borrow().values().cloned().collect();
            for stream in streams {
                stream.sweep(now);
            }
        }
    }
}

fn block_signals() -> libc::sigset_t {
    // SAFETY: both sets live here and are written before they are read.
    unsafe {
        let mut all = std::mem::zeroed();
        let mut before = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
        before
    }
}

fn restore_signals(before: &libc::sigset_t) {
    // SAFETY: `before` is what pthread_sigmask gave.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before, std::ptr::null_mut()) };
}
