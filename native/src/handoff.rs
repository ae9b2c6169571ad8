//! What goes to Python and back. The I/O thread never waits for the GIL: it leaves events in a queue and wakes
//! the event loop through an eventfd, once for as many events as come until Python looks. Python leaves its
//! replies in a list and wakes the I/O thread once for all of them.
//!
//! Only events that somebody waits for wake Python. What was seen of answers lies in the queue until the next
//! such event, or at most until the I/O thread's next tick: nothing reads it before the next decision.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::tls::Certificate;
use crate::types::{AnswerHead, Event, Pair, Refusal, Verdict};

/// So many events that nobody waits for are looked at without waiting for the tick.
const MANY: usize = 512;
/// Log records that wait for Python; more are counted, and told with the next one.
const MAX_LOGS: usize = 64;

/// To Python.
#[derive(Debug)]
pub enum Up {
    /// With what `Event::Answered` would have told, where the stream ended before Python heard of it.
    Stream(Event, Option<Box<AnswerHead>>),
    /// A gRPC health check: Python answers `Down::Health`.
    Health,
    Log {
        warning: bool,
        text: String,
    },
    /// The I/O thread has ended; true when it was asked to.
    Stopped {
        asked: bool,
    },
    /// Was merged into a later event.
    Nothing,
}

/// From Python, for the stream of this number.
pub enum Down {
    Verdict(u64, Verdict),
    GoOn(u64),
    AnswerSet(u64, Vec<Pair>),
    Abort(u64, Refusal),
    Health(u64, bool),
    Certificate(Certificate),
    Stop {
        grace_s: f64,
    },
    /// Panics: within the stream of this number, or for 0 within the thread.
    #[cfg(test)]
    Fault(u64),
}

#[derive(Default)]
struct Queue {
    events: VecDeque<(u64, Up)>,
    /// Sequence number of the first event in the queue.
    base: u64,
    /// Python was woken and has not looked since.
    armed: bool,
    logs: usize,
    /// Log records that found no place.
    unsaid: u64,
}

pub struct Handoff {
    up: Mutex<Queue>,
    wake: OwnedFd,
    /// Every event wakes: somebody waits for requests to end.
    eager: AtomicBool,
    down: Mutex<Vec<Down>>,
    replied: Notify,
}

impl Handoff {
    pub fn new() -> io::Result<Handoff> {
        // SAFETY: a new descriptor that nobody else owns, or -1.
        let fd = unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Handoff {
            up: Mutex::default(),
            // SAFETY: as above, and it is not -1.
            wake: unsafe { OwnedFd::from_raw_fd(fd) },
            eager: AtomicBool::new(false),
            down: Mutex::default(),
            replied: Notify::new(),
        })
    }

    pub fn wake_fd(&self) -> RawFd {
        self.wake.as_raw_fd()
    }

    pub fn set_eager(&self, eager: bool) {
        self.eager.store(eager, Ordering::Relaxed);
        if eager {
            self.tick(); // what lies there already
        }
    }

    // --- I/O thread ---------------------------------------------------------------------------------------

    /// Queues an event and returns its sequence number.
    pub fn push(&self, id: u64, event: Up, awaited: bool) -> u64 {
        let mut queue = self.up.lock();
        queue.events.push_back((id, event));
        let sequence = queue.base + queue.events.len() as u64 - 1;
        let awaited = awaited || queue.events.len() >= MANY || self.eager.load(Ordering::Relaxed);
        if awaited && !queue.armed {
            queue.armed = true;
            drop(queue);
            self.ring();
        }
        sequence
    }

    /// Queues a log record. A peer that makes us complain faster than Python listens costs no memory.
    pub fn warn(&self, mut text: String) {
        let mut queue = self.up.lock();
        if queue.logs >= MAX_LOGS {
            queue.unsaid += 1;
            return;
        }
        queue.logs += 1;
        let unsaid = std::mem::take(&mut queue.unsaid);
        drop(queue);
        if unsaid > 0 {
            text.push_str(&format!(" ({unsaid} more records before this one were left out)"));
        }
        self.push(0, Up::Log { warning: true, text }, false);
    }

    /// Events that Python has not taken.
    pub fn backlog(&self) -> usize {
        self.up.lock().events.len()
    }

    /// Queues a stream's end; what the queue still holds of its answer becomes part of it.
    pub fn push_end(&self, id: u64, mut event: Event, answered: Option<u64>, first_token: Option<u64>) {
        let mut queue = self.up.lock();
        let base = queue.base;
        let mut take = |sequence: Option<u64>| {
            let at = sequence?.checked_sub(base)?;
            let slot = queue.events.get_mut(usize::try_from(at).ok()?)?;
            Some(std::mem::replace(&mut slot.1, Up::Nothing))
        };
        // The head comes with a stream's first event, which may be one of these.
        let mut opening = match take(first_token) {
            Some(Up::Stream(Event::FirstToken { head, .. }, _)) => head,
            _ => None,
        };
        let head = match take(answered) {
            Some(Up::Stream(Event::Answered { head, answer, .. }, _)) => {
                opening = opening.or(head);
                Some(answer)
            }
            _ => None,
        };
        if let Event::End { head, .. } = &mut event {
            *head = head.take().or(opening);
        }
        drop(queue);
        self.push(id, Up::Stream(event, head), false);
    }

    /// Wakes Python for what nobody waits for, so that it is not heard of too late.
    pub fn tick(&self) {
        let mut queue = self.up.lock();
        if !queue.events.is_empty() && !queue.armed {
            queue.armed = true;
            drop(queue);
            self.ring();
        }
    }

    pub async fn replies(&self) -> Vec<Down> {
        loop {
            let replies = std::mem::take(&mut *self.down.lock());
            if !replies.is_empty() {
                return replies;
            }
            self.replied.notified().await;
        }
    }

    fn ring(&self) {
        let one: u64 = 1;
        // SAFETY: eight bytes of a live value to a descriptor that we own. It cannot fail but for a full
        // counter, and then Python is awake anyway.
        unsafe { libc::write(self.wake.as_raw_fd(), (&raw const one).cast(), 8) };
    }

    // --- Python -------------------------------------------------------------------------------------------

    /// At most `limit` events; when some are left, the loop finds the descriptor readable still.
    pub fn take(&self, limit: usize) -> VecDeque<(u64, Up)> {
        let mut queue = self.up.lock();
        let taken = if queue.events.len() <= limit {
            queue.armed = false;
            let mut count: u64 = 0;
            // SAFETY: eight bytes into a live value from a descriptor that we own; it does not block.
            unsafe { libc::read(self.wake.as_raw_fd(), (&raw mut count).cast(), 8) };
            std::mem::take(&mut queue.events)
        } else {
            queue.events.drain(..limit).collect()
        };
        queue.base += taken.len() as u64;
        if queue.logs > 0 {
            queue.logs -= taken.iter().filter(|(_, up)| matches!(up, Up::Log { .. })).count();
        }
        taken
    }

    pub fn reply(&self, reply: Down) {
        self.down.lock().push(reply);
    }

    /// Lets the I/O thread see the replies.
    pub fn flush(&self) {
        self.replied.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Ending, Report};

    fn end() -> Event {
        Event::End { head: None, ending: Ending::Natural, report: Box::new(Report::default()) }
    }

    fn answered() -> Up {
        let answer = Box::new(AnswerHead { status: 200, ..AnswerHead::default() });
        Up::Stream(Event::Answered { head: None, answer, wait: false }, None)
    }

    #[test]
    fn an_end_takes_what_was_not_heard_of_its_answer() {
        let handoff = Handoff::new().unwrap();
        let at = handoff.push(7, answered(), false);
        let first = handoff.push(7, Up::Stream(Event::FirstToken { head: None, at: 1.0 }, None), false);
        handoff.push_end(7, end(), Some(at), Some(first));
        let events: Vec<_> = handoff.take(10).into();
        assert!(matches!(events[0].1, Up::Nothing) && matches!(events[1].1, Up::Nothing));
        let Up::Stream(Event::End { .. }, Some(head)) = &events[2].1 else { panic!("{events:?}") };
        assert_eq!(head.status, 200);
    }

    #[test]
    fn an_end_finds_nothing_of_what_was_heard() {
        let handoff = Handoff::new().unwrap();
        let at = handoff.push(7, answered(), false);
        assert_eq!(handoff.take(10).len(), 1);
        handoff.push(8, answered(), false);
        handoff.push_end(7, end(), Some(at), None);
        let events: Vec<_> = handoff.take(10).into();
        assert!(matches!(events[0], (8, Up::Stream(Event::Answered { .. }, None))));
        assert!(matches!(events[1], (7, Up::Stream(Event::End { .. }, None))));
    }

    #[test]
    fn log_records_that_nobody_takes_are_counted_only() {
        let handoff = Handoff::new().unwrap();
        for _ in 0..MAX_LOGS + 5 {
            handoff.warn("once".to_owned());
        }
        assert_eq!(handoff.take(1000).len(), MAX_LOGS);
        handoff.warn("again".to_owned());
        let (_, Up::Log { text, .. }) = &handoff.take(1000)[0] else { panic!("no log record") };
        assert_eq!(text, "again (5 more records before this one were left out)");
    }

    #[test]
    fn what_is_left_keeps_the_descriptor_readable() {
        let handoff = Handoff::new().unwrap();
        for id in 0..3 {
            handoff.push(id, Up::Health, true);
        }
        assert_eq!(handoff.take(2).len(), 2);
        let mut count: u64 = 0;
        // SAFETY: as in `take`.
        let got = unsafe { libc::read(handoff.wake_fd(), (&raw mut count).cast(), 8) };
        assert_eq!(got, 8);
        assert_eq!(handoff.take(2).len(), 1);
    }
}
