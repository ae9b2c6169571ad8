//! Events as tuples for Python: (stream, name, head or None, ...), without a class to be looked up.
//!
//! - `headers`: head
//! - `decide`: head, subset, body, truncated, scanned or None
//! - `limited`: head, name of the limit's Reason, text
//! - `answered`: head, answer, wait
//! - `first_token`: head, at
//! - `end`: head, ending, report or None where nothing was observed, answer that was not told before or None
//!
//! A head is (headers, received_at, has_body, subset, name of its AnswerView, answer_only, authority, pool); answers, reports and
//! usages have the fields of AnswerHead, Report and Usage in order.

use std::ffi::{c_int, c_void};

use bytes::Bytes;
use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyMemoryView, PyTuple};

use super::names;
use crate::prompt::Scanned;
use crate::types::{AnswerHead, AnswerView, Event, Head, Report};

/// Longer bodies are shown instead of copied.
const COPIED_BYTES: usize = 64 << 10;

/// A body's bytes for a memoryview.
#[pyclass(frozen, module = "inference_epp_native")]
pub struct Body(Bytes);

#[pymethods]
impl Body {
    /// # Safety
    /// `view` comes from the interpreter, which wants it filled.
    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        if view.is_null() {
            return Err(PyBufferError::new_err("no view to fill"));
        }
        let bytes = &slf.get().0;
        let (start, length) = (bytes.as_ptr().cast_mut().cast::<c_void>(), bytes.len() as ffi::Py_ssize_t);
        // SAFETY: the view is not null; it holds a reference to this object, which never changes or moves the
        // bytes, and is filled as read-only: asking for more is refused.
        if unsafe { ffi::PyBuffer_FillInfo(view, slf.as_ptr(), start, length, 1, flags) } == 0 {
            Ok(())
        } else {
            Err(PyErr::fetch(slf.py()))
        }
    }
}

/// As `event_with`, where everything was told in its turn.
pub fn event<'py>(py: Python<'py>, stream: u64, event: Event) -> PyResult<Bound<'py, PyTuple>> {
    event_with(py, stream, event, None)
}

/// `answered`: what an End tells of the answer's headers, where Event::Answered was not told before.
pub fn event_with<'py>(
    py: Python<'py>,
    stream: u64,
    event: Event,
    answered: Option<Box<AnswerHead>>,
) -> PyResult<Bound<'py, PyTuple>> {
    match event {
        Event::Headers { head } => (stream, intern!(py, "headers"), head_tuple(py, *head)?).into_pyobject(py),
        Event::Decide { head, subset, body, truncated, scanned } => {
            let (head, subset) = (maybe_head(py, head)?, subset_tuple(py, subset)?);
            let scanned = scanned.map(|scanned| self::scanned(py, *scanned, &body)).transpose()?;
            (stream, intern!(py, "decide"), head, subset, body_object(py, body)?, truncated, scanned)
                .into_pyobject(py)
        }
        Event::Limited { head, limit, text } => {
            (stream, intern!(py, "limited"), maybe_head(py, head)?, limit.name(), text).into_pyobject(py)
        }
        Event::Answered { head, answer, wait } => {
            let (head, answer) = (maybe_head(py, head)?, answer_tuple(py, *answer)?);
            (stream, intern!(py, "answered"), head, answer, wait).into_pyobject(py)
        }
        Event::FirstToken { head, at } => {
            (stream, intern!(py, "first_token"), maybe_head(py, head)?, at).into_pyobject(py)
        }
        Event::End { head, ending, report } => {
            let head = maybe_head(py, head)?;
            let report = if report.observed { Some(report_tuple(py, *report)?) } else { None };
            let answered = answered.map(|answer| answer_tuple(py, *answer)).transpose()?;
            (stream, intern!(py, "end"), head, ending.name(), report, answered).into_pyobject(py)
        }
    }
}

fn maybe_head<'py>(py: Python<'py>, head: Option<Box<Head>>) -> PyResult<Option<Bound<'py, PyTuple>>> {
    head.map(|head| head_tuple(py, *head)).transpose()
}

fn head_tuple<'py>(py: Python<'py>, head: Head) -> PyResult<Bound<'py, PyTuple>> {
    let headers = PyDict::new(py);
    for (name, value) in &head.headers {
        headers.set_item(names::of(py, name), names::string(py, value))?;
    }
    let view = match head.view {
        AnswerView::Always => intern!(py, "ALWAYS"),
        AnswerView::Choice => intern!(py, "CHOICE"),
        AnswerView::Never => intern!(py, "NEVER"),
    };
    let subset = subset_tuple(py, head.subset)?;
    let (authority, pool) = (names::origin(py, &head.origin.authority), names::origin(py, &head.origin.pool));
    (headers, head.received_at, head.has_body, subset, view, head.answer_only, authority, pool)
        .into_pyobject(py)
}

fn subset_tuple(py: Python<'_>, subset: Option<Vec<String>>) -> PyResult<Option<Bound<'_, PyTuple>>> {
    subset.map(|subset| PyTuple::new(py, subset)).transpose()
}

fn answer_tuple<'py>(py: Python<'py>, answer: AnswerHead) -> PyResult<Bound<'py, PyTuple>> {
    let AnswerHead { status, at, served, streamed, encoded, local } = answer;
    (status, at, served, streamed, encoded, local).into_pyobject(py)
}

fn report_tuple<'py>(py: Python<'py>, report: Report) -> PyResult<Bound<'py, PyTuple>> {
    let usage = report
        .usage
        .map(|usage| (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens, usage.cached_tokens));
    let gaps = PyTuple::new(py, report.gaps)?;
    (
        report.observed,
        report.override_ignored,
        report.first_at,
        report.last_at,
        report.body_bytes,
        usage,
        report.response_id,
        gaps,
        report.gaps_s,
        report.processing_s,
    )
        .into_pyobject(py)
}

/// The fields of `epp.domain.request.Scanned`.
pub fn scanned<'py>(py: Python<'py>, scanned: Scanned, body: &[u8]) -> PyResult<Bound<'py, PyTuple>> {
    let (start, end) = scanned.place;
    let (before, after) = (body.get(..start).unwrap_or_default(), body.get(end..).unwrap_or_default());
    let empty: &[u8] = if body.get(start) == Some(&b'[') { b"[]" } else { b"\"\"" };
    let rest = [before, empty, after].concat();
    let chain: Vec<u8> = scanned.chain.iter().flat_map(|hash| hash.to_le_bytes()).collect();
    (
        PyBytes::new(py, &chain),
        scanned.text_bytes,
        scanned.block_bytes,
        scanned.max_blocks,
        PyBytes::new(py, &rest),
        start,
        end - start,
    )
        .into_pyobject(py)
}

fn body_object<'py>(py: Python<'py>, body: Bytes) -> PyResult<Bound<'py, PyAny>> {
    if body.len() <= COPIED_BYTES {
        return Ok(PyBytes::new(py, &body).into_any());
    }
    let body = Bound::new(py, Body(body))?;
    Ok(PyMemoryView::from(body.as_any())?.into_any())
}
