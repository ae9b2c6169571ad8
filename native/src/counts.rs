//! What the I/O thread counts; Python collects it when somebody asks for the metrics.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;

#[derive(Clone, Default)]
pub struct Histogram {
    pub counts: Vec<u64>,
    pub total: f64,
}

impl Histogram {
    pub fn observe(&mut self, bounds: &[f64], value: f64) {
        if self.counts.is_empty() {
            self.counts = vec![0; bounds.len() + 1];
        }
        self.counts[bounds.partition_point(|bound| *bound < value)] += 1;
        self.total += value;
    }
}

/// Taken away when read.
#[derive(Default)]
pub struct Taken {
    /// Streams that ended, by gRPC status name.
    pub closed: BTreeMap<&'static str, u64>,
    pub durations: Histogram,
    pub handoffs: Histogram,
    /// Messages that Envoy cannot send, by kind.
    pub violations: BTreeMap<&'static str, u64>,
    /// Panics that were caught: faults of ours.
    pub faults: u64,
    pub handshake_failures: u64,
}

#[derive(Default)]
pub struct Counts {
    pub open: AtomicU64,
    pub opened: AtomicU64,
    pub held_bytes: AtomicU64,
    pub connections: AtomicU64,
    taken: Mutex<Taken>,
    /// Upper bounds of the histograms, seconds.
    stream_bounds: Vec<f64>,
    handoff_bounds: Vec<f64>,
}

impl Counts {
    pub fn new(stream_bounds: Vec<f64>, handoff_bounds: Vec<f64>) -> Counts {
        Counts { stream_bounds, handoff_bounds, ..Counts::default() }
    }

    pub fn stream_opened(&self) {
        self.open.fetch_add(1, Relaxed);
        self.opened.fetch_add(1, Relaxed);
    }

    pub fn stream_closed(&self, code: &'static str, seconds: f64) {
        self.open.fetch_sub(1, Relaxed);
        let mut taken = self.taken.lock();
        *taken.closed.entry(code).or_default() += 1;
        taken.durations.observe(&self.stream_bounds, seconds);
    }

    /// From the queueing of a decision to its verdict's arrival.
    pub fn handed_off(&self, seconds: f64) {
        self.taken.lock().handoffs.observe(&self.handoff_bounds, seconds);
    }

    pub fn violation(&self, kind: &'static str) {
        *self.taken.lock().violations.entry(kind).or_default() += 1;
    }

    pub fn fault(&self) {
        self.taken.lock().faults += 1;
    }

    pub fn handshake_failed(&self) {
        self.taken.lock().handshake_failures += 1;
    }

    pub fn take(&self) -> Taken {
        std::mem::take(&mut *self.taken.lock())
    }
}
