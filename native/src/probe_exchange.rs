//! For Python: an exchange without the transport, and the decoder, to be compared with Python's own.

use std::rc::Rc;

use bytes::Bytes;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyTuple};

use crate::convert;
use crate::exchange::{Budget, Close, Exchange, Limits, Out};
use crate::proto::{self, Frame};
use crate::types::{Limit, Origin};

/// Frames, events, and (code, message) of the close with code 0 for OK.
type Effects<'py> = (Vec<Bound<'py, PyBytes>>, Vec<Bound<'py, PyTuple>>, Option<(u32, String)>);

/// Every method returns what it leads to.
#[pyclass(unsendable, module = "inference_epp_native")]
struct ExchangeProbe {
    exchange: Exchange,
    budget: Rc<Budget>,
}

#[pymethods]
impl ExchangeProbe {
    #[new]
    #[pyo3(signature = (max_body_bytes, budget_bytes, ask_headers, gap_bounds, sharing=None))]
    fn new(
        max_body_bytes: u64,
        budget_bytes: u64,
        ask_headers: bool,
        gap_bounds: Vec<f64>,
        sharing: Option<PyRef<'_, ExchangeProbe>>,
    ) -> ExchangeProbe {
        let gap_bounds = Rc::from(gap_bounds);
        let limits = Limits {
            max_body_bytes,
            budget_limit: budget_bytes,
            ask_headers,
            gap_bounds,
            ..Limits::default()
        };
        let budget = sharing.map_or_else(Rc::default, |other| other.budget.clone());
        ExchangeProbe { exchange: Exchange::new(Rc::new(limits), budget.clone()), budget }
    }

    fn learn_modes(&mut self, request: i32, answer: i32) {
        self.exchange.learn_modes(request, answer);
    }

    fn came_from(&mut self, authority: Vec<u8>, pool: Vec<u8>) {
        self.exchange.came_from(Origin { authority: authority.into(), pool: pool.into() });
    }

    /// A serialized ProcessingRequest, which must be one.
    fn receive<'py>(&mut self, py: Python<'py>, message: &[u8], now: f64) -> PyResult<Effects<'py>> {
        let incoming = proto::decode(Bytes::copy_from_slice(message)).map_err(malformed)?;
        let incoming = incoming.ok_or_else(|| PyValueError::new_err("none of the six kinds"))?;
        self.effects(py, |exchange, out| exchange.receive(incoming, now, out))
    }

    fn go_on<'py>(&mut self, py: Python<'py>, now: f64) -> PyResult<Effects<'py>> {
        self.effects(py, |exchange, out| exchange.go_on(now, out))
    }

    fn decided<'py>(&mut self, verdict: &Bound<'py, PyAny>, now: f64) -> PyResult<Effects<'py>> {
        let py = verdict.py();
        let verdict = convert::verdict(verdict)?;
        self.effects(py, |exchange, out| exchange.decided(verdict, now, out))
    }

    fn answer_set<'py>(&mut self, fields: &Bound<'py, PyAny>, now: f64) -> PyResult<Effects<'py>> {
        let py = fields.py();
        let fields = convert::pairs(fields)?;
        self.effects(py, |exchange, out| exchange.answer_set(fields, now, out))
    }

    fn limit<'py>(&mut self, py: Python<'py>, name: &str, text: String, now: f64) -> PyResult<Effects<'py>> {
        let limit = [Limit::BodyTooLarge, Limit::TooManyStreams, Limit::TimedOut]
            .into_iter()
            .find(|limit| limit.name() == name)
            .ok_or_else(|| PyValueError::new_err("no such limit"))?;
        self.effects(py, |exchange, out| exchange.limit(limit, text, now, out))
    }

    fn refused<'py>(&mut self, answer: &Bound<'py, PyAny>, now: f64) -> PyResult<Effects<'py>> {
        let py = answer.py();
        let answer = convert::refusal(answer)?;
        self.effects(py, |exchange, out| exchange.refused(answer, now, out))
    }

    fn abort<'py>(&mut self, answer: &Bound<'py, PyAny>, now: f64) -> PyResult<Effects<'py>> {
        let py = answer.py();
        let answer = convert::refusal(answer)?;
        self.effects(py, |exchange, out| exchange.abort(answer, now, out))
    }

    fn over<'py>(&mut self, py: Python<'py>, drained: bool, now: f64) -> PyResult<Effects<'py>> {
        self.effects(py, |exchange, out| exchange.over(drained, now, out))
    }

    #[getter]
    fn blocked(&self) -> bool {
        self.exchange.blocked()
    }

    #[getter]
    fn deciding(&self) -> bool {
        self.exchange.deciding()
    }

    #[getter]
    fn waits_for_request(&self) -> bool {
        self.exchange.waits_for_request()
    }

    #[getter]
    fn sees_upload(&self) -> bool {
        self.exchange.sees_upload()
    }

    #[getter]
    fn held_bytes(&self) -> u64 {
        self.exchange.held_bytes()
    }

    /// Of all exchanges that share the budget.
    #[getter]
    fn used_bytes(&self) -> u64 {
        self.budget.used()
    }
}

impl ExchangeProbe {
    fn effects<'py>(
        &mut self,
        py: Python<'py>,
        step: impl FnOnce(&mut Exchange, &mut Out),
    ) -> PyResult<Effects<'py>> {
        let mut out = Out::default();
        step(&mut self.exchange, &mut out);
        let frames = out.frames.iter().map(|frame| message(py, frame)).collect::<PyResult<_>>()?;
        let events =
            out.events.into_iter().map(|event| convert::event(py, 0, event)).collect::<PyResult<_>>()?;
        let close = out.close.map(|close| match close {
            Close::Ok => (0, String::new()),
            Close::Fail { code, message } => (code, message),
        });
        Ok((frames, events, close))
    }
}

/// The message in a gRPC frame, whose prefix must be right.
fn message<'py>(py: Python<'py>, frame: &Frame) -> PyResult<Bound<'py, PyBytes>> {
    let whole = [&frame.head[..], &frame.tail[..]].concat();
    match whole.split_first_chunk::<5>() {
        Some(([0, length @ ..], message)) if u32::from_be_bytes(*length) as usize == message.len() => {
            Ok(PyBytes::new(py, message))
        }
        _ => Err(PyValueError::new_err("the frame's prefix is wrong")),
    }
}

/// What a serialized ProcessingRequest holds, or None for none of the six kinds: kind, headers, body, end_of_stream,
/// modes, subset, served, pool. Raises ValueError for what is not one.
#[pyfunction]
fn decode<'py>(py: Python<'py>, message: &[u8]) -> PyResult<Option<Bound<'py, PyTuple>>> {
    let Some(incoming) = proto::decode(Bytes::copy_from_slice(message)).map_err(malformed)? else {
        return Ok(None);
    };
    let headers = PyDict::new(py);
    for (name, value) in &incoming.headers {
        headers.set_item(String::from_utf8_lossy(name), String::from_utf8_lossy(value))?;
    }
    let subset = incoming.subset.map(|subset| PyTuple::new(py, subset)).transpose()?;
    let body = PyBytes::new(py, &incoming.body);
    let (kind, end_of_stream) = (incoming.kind.name(), incoming.end_of_stream);
    let pool = String::from_utf8_lossy(&incoming.pool);
    (kind, headers, body, end_of_stream, incoming.modes, subset, incoming.served, pool)
        .into_pyobject(py)
        .map(Some)
}

fn malformed(error: proto::wire::Malformed) -> PyErr {
    PyValueError::new_err(error.to_string())
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<ExchangeProbe>()?;
    module.add_class::<convert::Body>()?;
    module.add_function(wrap_pyfunction!(decode, module)?)
}
