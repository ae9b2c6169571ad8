//! What Python sees of the transport: one object that listens, hands events over and takes replies.

use std::net::{TcpListener, ToSocketAddrs};
use std::os::fd::RawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use pyo3::exceptions::{PyOSError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple};
use socket2::{Domain, Socket, Type};

use crate::convert;
use crate::counts::{Counts, Histogram};
use crate::handoff::{Down, Handoff, Up};
use crate::io::{self, Listening, Options};
use crate::prompt::ScanPlan;
use crate::tls;
use crate::types::{Api, Refusal, Verdict};

const BACKLOG: i32 = 1024;

/// Serves Envoy's ExternalProcessor on a thread of its own. All methods are for one Python thread.
#[pyclass(frozen, module = "inference_epp_native")]
pub struct Server {
    handoff: Arc<Handoff>,
    counts: Arc<Counts>,
    options: Options,
    /// A fork has the object, but not the thread.
    process: u32,
    tls: Mutex<Option<Arc<tls::Current>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[pymethods]
impl Server {
    #[new]
    #[pyo3(signature = (*, max_body_bytes, max_buffered_bytes, max_streams, max_message_bytes,
        progress_timeout_s, answer_timeout_s, max_connection_age_s, ask_headers, health_checking, gap_bounds,
        stream_bounds, handoff_bounds, scan=Vec::new(), block_bytes=256, max_blocks=2048, fixed=None))]
    #[allow(clippy::too_many_arguments)]
    fn new(
        max_body_bytes: u64,
        max_buffered_bytes: u64,
        max_streams: usize,
        max_message_bytes: usize,
        progress_timeout_s: f64,
        answer_timeout_s: f64,
        max_connection_age_s: f64,
        ask_headers: bool,
        health_checking: bool,
        gap_bounds: Vec<f64>,
        stream_bounds: Vec<f64>,
        handoff_bounds: Vec<f64>,
        scan: Vec<(String, String)>,
        block_bytes: usize,
        max_blocks: usize,
        fixed: Option<String>,
    ) -> PyResult<Server> {
        let handoff = Handoff::new().map_err(os_error)?;
        Ok(Server {
            handoff: Arc::new(handoff),
            counts: Arc::new(Counts::new(stream_bounds, handoff_bounds)),
            options: Options {
                max_body_bytes,
                max_buffered_bytes,
                max_streams,
                max_message_bytes,
                progress_timeout_s,
                answer_timeout_s,
                max_connection_age_s,
                ask_headers,
                health_checking,
                gap_bounds,
                scan: ScanPlan {
                    suffixes: scan.into_iter().map(|(suffix, api)| (suffix, Api::named(&api))).collect(),
                    block_bytes,
                    max_blocks,
                },
                fixed,
            },
            process: std::process::id(),
            tls: Mutex::default(),
            thread: Mutex::default(),
        })
    }

    /// Binds `host:port`, starts the thread and returns the port. Raises OSError when the port cannot be had, and
    /// ValueError for a certificate that cannot be used. `certificate`: (chain, key) as PEM, None for plain text.
    #[pyo3(signature = (address, certificate=None))]
    fn start(&self, address: &str, certificate: Option<(Vec<u8>, Vec<u8>)>) -> PyResult<u16> {
        self.here()?;
        let mut thread = self.thread.lock();
        if thread.is_some() {
            return Err(PyRuntimeError::new_err("the transport was started before"));
        }
        let certificates = match certificate {
            Some((chain, key)) => {
                Some(tls::Current::new(tls::certificate(&chain, &key).map_err(PyValueError::new_err)?))
            }
            None => None,
        };
        let socket = listen(address)
            .map_err(|error| PyOSError::new_err(format!("cannot listen on {address}: {error}")))?;
        let port = socket.local_addr().map_err(os_error)?.port();
        let listening = Listening { socket, certificates: certificates.clone() };
        let started = io::spawn(self.options.clone(), listening, self.handoff.clone(), self.counts.clone());
        *thread = Some(started.map_err(os_error)?);
        *self.tls.lock() = certificates;
        Ok(port)
    }

    /// New handshakes get this certificate. Raises ValueError and keeps the old one when it cannot be used.
    fn set_certificate(&self, chain: &[u8], key: &[u8]) -> PyResult<()> {
        self.here()?;
        let certificate = tls::certificate(chain, key).map_err(PyValueError::new_err)?;
        self.reply(Down::Certificate(certificate));
        self.handoff.flush();
        Ok(())
    }

    /// Readable when `drain` has something.
    #[getter]
    fn wake_fd(&self) -> RawFd {
        self.handoff.wake_fd()
    }

    /// Requests that end wake Python at once, since something waits for their places.
    fn set_eager(&self, eager: bool) {
        self.handoff.set_eager(eager);
    }

    /// At most `limit` events as tuples (stream, name, ...): those of `convert::event`, and
    /// `health`; `log` (warning, text); `stopped` (asked).
    fn drain<'py>(&self, py: Python<'py>, limit: usize) -> PyResult<Bound<'py, PyList>> {
        self.here()?;
        let list = PyList::empty(py);
        for (id, up) in self.handoff.take(limit) {
            if matches!(up, Up::Nothing) {
                continue;
            }
            // The others of the batch must not be lost with one.
            match self.guarded(|| told(py, id, up)) {
                Ok(event) => list.append(event)?,
                Err(error) => {
                    self.handoff.warn(format!("an event could not be told: {error}"));
                    let answer = Refusal { status: 500, reason: "internal".into(), ..Refusal::default() };
                    self.reply(Down::Abort(id, answer));
                    self.handoff.flush();
                }
            }
        }
        Ok(list)
    }

    /// The verdict of a request: a Route or an Answer.
    fn decided(&self, id: u64, verdict: &Bound<'_, PyAny>) -> PyResult<()> {
        let verdict = self.guarded(|| convert::verdict(verdict))?;
        self.reply(Down::Verdict(id, verdict));
        Ok(())
    }

    /// The refusal that a limit or an early look asked for.
    fn refused(&self, id: u64, answer: &Bound<'_, PyAny>) -> PyResult<()> {
        let refusal = self.guarded(|| convert::refusal(answer))?;
        self.reply(Down::Verdict(id, Verdict::Refuse(refusal)));
        Ok(())
    }

    /// Nothing against a request at its headers.
    fn go_on(&self, id: u64) {
        self.reply(Down::GoOn(id));
    }

    /// Headers to set on an answer that waits for them.
    fn set_answer(&self, id: u64, fields: &Bound<'_, PyAny>) -> PyResult<()> {
        self.reply(Down::AnswerSet(id, self.guarded(|| convert::pairs(fields))?));
        Ok(())
    }

    /// End a request that was let in: by this answer, or by a reset where its own has begun.
    fn abort(&self, id: u64, answer: &Bound<'_, PyAny>) -> PyResult<()> {
        self.reply(Down::Abort(id, self.guarded(|| convert::refusal(answer))?));
        Ok(())
    }

    fn health(&self, id: u64, serving: bool) {
        self.reply(Down::Health(id, serving));
    }

    /// The I/O thread sees the replies.
    fn flush(&self) {
        self.handoff.flush();
    }

    /// Takes no new streams, waits for the open ones so long, then cuts them off. `drain` tells when it is done.
    fn stop(&self, grace_s: f64) -> PyResult<()> {
        self.here()?;
        self.reply(Down::Stop { grace_s });
        self.handoff.flush();
        Ok(())
    }

    /// After `drain` has told that the thread is done.
    fn join(&self, py: Python<'_>) {
        let thread = self.thread.lock().take();
        if let Some(thread) = thread {
            if self.here().is_err() {
                return std::mem::forget(thread); // it runs in the process that made it
            }
            py.detach(|| {
                let _ = thread.join();
            });
        }
    }

    #[getter]
    fn open_streams(&self) -> u64 {
        self.counts.open.load(Relaxed)
    }

    /// Since the start.
    #[getter]
    fn opened_streams(&self) -> u64 {
        self.counts.opened.load(Relaxed)
    }

    #[getter]
    fn connections(&self) -> u64 {
        self.counts.connections.load(Relaxed)
    }

    /// Of request bodies, all streams together, as of at most 50 ms ago.
    #[getter]
    fn held_bytes(&self) -> u64 {
        self.counts.held_bytes.load(Relaxed)
    }

    /// What was counted since the last call.
    fn counts<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        self.here()?; // a fork may have been made while the thread held the lock
        let taken = self.counts.take();
        let dict = PyDict::new(py);
        dict.set_item("closed", taken.closed)?;
        dict.set_item("durations", histogram(py, taken.durations)?)?;
        dict.set_item("handoffs", histogram(py, taken.handoffs)?)?;
        dict.set_item("violations", taken.violations)?;
        dict.set_item("faults", taken.faults)?;
        dict.set_item("handshake_failures", taken.handshake_failures)?;
        Ok(dict)
    }
}

impl Server {
    fn here(&self) -> PyResult<()> {
        if std::process::id() == self.process {
            return Ok(());
        }
        Err(PyRuntimeError::new_err("the transport belongs to the process that made it, not to its fork"))
    }

    /// A panic is an Exception for Python, which ends the stream at hand, and a fault that is counted.
    fn guarded<T>(&self, step: impl FnOnce() -> PyResult<T>) -> PyResult<T> {
        catch_unwind(AssertUnwindSafe(step)).unwrap_or_else(|_| {
            self.counts.fault();
            Err(PyRuntimeError::new_err("a fault of the native transport"))
        })
    }

    fn reply(&self, down: Down) {
        self.handoff.reply(down);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let Some(thread) = self.thread.lock().take() else { return };
        if self.here().is_err() {
            std::mem::forget(thread);
            return;
        }
        self.handoff.reply(Down::Stop { grace_s: 0.0 });
        self.handoff.flush();
        // It never waits for the GIL, so waiting for it with the GIL is short.
        for _ in 0..100 {
            if thread.is_finished() {
                let _ = thread.join();
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn told(py: Python<'_>, id: u64, up: Up) -> PyResult<Bound<'_, PyTuple>> {
    match up {
        Up::Nothing => Ok(PyTuple::empty(py)),
        Up::Stream(event, answered) => convert::event_with(py, id, event, answered),
        Up::Health => (id, "health").into_pyobject(py),
        Up::Log { warning, text } => (id, "log", warning, text).into_pyobject(py),
        Up::Stopped { asked } => (id, "stopped", asked).into_pyobject(py),
    }
}

fn histogram<'py>(py: Python<'py>, taken: Histogram) -> PyResult<Bound<'py, PyTuple>> {
    (taken.counts, taken.total).into_pyobject(py)
}

fn os_error(error: std::io::Error) -> PyErr {
    PyOSError::new_err(error.to_string())
}

/// `[::]` takes IPv4 too.
fn listen(address: &str) -> std::io::Result<TcpListener> {
    let mut last = std::io::Error::new(std::io::ErrorKind::NotFound, "the name has no address");
    for to in address.to_socket_addrs()? {
        let bound = (|| {
            let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
            socket.set_reuse_address(true)?;
            if to.is_ipv6() {
                socket.set_only_v6(false)?;
            }
            socket.bind(&to.into())?;
            socket.listen(BACKLOG)?;
            Ok(TcpListener::from(socket))
        })();
        match bound {
            Ok(listener) => return Ok(listener),
            Err(error) => last = error,
        }
    }
    Err(last)
}
