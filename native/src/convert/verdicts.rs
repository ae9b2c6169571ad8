//! Route, Answer and header fields out of Python.

use bytes::Bytes;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyBytes, PyDict, PyString, PyTuple};

use crate::types::{AnswerPlan, Api, Pair, Refusal, Route, Verdict};

/// Shorter bodies are copied: cheaper than to have Python told when they are not needed any more.
const SHARED_BYTES: usize = 4096;

/// A Route or an Answer.
pub fn verdict(value: &Bound<'_, PyAny>) -> PyResult<Verdict> {
    match value.getattr_opt(intern!(value.py(), "destination"))? {
        Some(destination) => Ok(Verdict::Route(Box::new(routed(value, &destination)?))),
        None => Ok(Verdict::Refuse(refusal(value)?)),
    }
}

/// `epp.domain.views.Route`.
pub fn route(value: &Bound<'_, PyAny>) -> PyResult<Route> {
    routed(value, &value.getattr(intern!(value.py(), "destination"))?)
}

fn routed(value: &Bound<'_, PyAny>, destination: &Bound<'_, PyAny>) -> PyResult<Route> {
    let py = value.py();
    let mut remove = Vec::new();
    for name in value.getattr(intern!(py, "remove_headers"))?.try_iter()? {
        remove.push(text(&name?)?);
    }
    let body = value.getattr(intern!(py, "body"))?;
    let scores = value.getattr(intern!(py, "scores"))?;
    Ok(Route {
        destination: text(destination)?,
        set: pairs(&value.getattr(intern!(py, "set_headers"))?)?,
        remove,
        body: if body.is_none() { None } else { Some(shared(&body)?) },
        scores: if scores.is_none() { None } else { Some(scored(&scores)?) },
        skip_response: value.getattr(intern!(py, "skip_response"))?.is_truthy()?,
        answer: plan(&value.getattr(intern!(py, "answer"))?)?,
    })
}

/// `epp.domain.views.AnswerPlan`.
fn plan(value: &Bound<'_, PyAny>) -> PyResult<AnswerPlan> {
    let py = value.py();
    let api = value.getattr(intern!(py, "api"))?;
    Ok(AnswerPlan {
        api: Api::named(api.cast::<PyString>()?.to_str()?),
        stream: value.getattr(intern!(py, "stream"))?.is_truthy()?,
        set: pairs(&value.getattr(intern!(py, "set"))?)?,
        restore: value.getattr(intern!(py, "restore"))?.extract()?,
        ask: value.getattr(intern!(py, "ask"))?.is_truthy()?,
        observe: value.getattr(intern!(py, "observe"))?.is_truthy()?,
    })
}

/// `epp.domain.errors.Answer`.
pub fn refusal(value: &Bound<'_, PyAny>) -> PyResult<Refusal> {
    let py = value.py();
    let reason = value.getattr(intern!(py, "reason"))?.getattr(intern!(py, "name"))?;
    Ok(Refusal {
        status: value.getattr(intern!(py, "status"))?.extract()?,
        headers: pairs(&value.getattr(intern!(py, "headers"))?)?,
        body: shared(&value.getattr(intern!(py, "body"))?)?,
        reason: reason.cast::<PyString>()?.to_str()?.to_lowercase(),
    })
}

/// A sequence of (name, value).
pub fn pairs(fields: &Bound<'_, PyAny>) -> PyResult<Vec<Pair>> {
    let mut pairs = Vec::new();
    for field in fields.try_iter()? {
        let field = field?;
        let field = field.cast::<PyTuple>()?;
        pairs.push((text(&field.get_item(0)?)?, header_value(&field.get_item(1)?)?));
    }
    Ok(pairs)
}

fn text(value: &Bound<'_, PyAny>) -> PyResult<Bytes> {
    Ok(Bytes::copy_from_slice(value.cast::<PyString>()?.to_str()?.as_bytes()))
}

/// What is not printable becomes `?`: Envoy fails the whole request for a control character. Of ASCII the encoder
/// sees to that; what else is printable Python knows.
fn header_value(value: &Bound<'_, PyAny>) -> PyResult<Bytes> {
    let value = value.cast::<PyString>()?;
    let isprintable = intern!(value.py(), "isprintable");
    if let Ok(plain) = value.to_str()
        && (plain.is_ascii() || value.call_method0(isprintable)?.is_truthy()?)
    {
        return Ok(Bytes::copy_from_slice(plain.as_bytes()));
    }
    let mut clean = String::new();
    for character in value.try_iter()? {
        let character = character?;
        if character.call_method0(isprintable)?.is_truthy()? {
            clean.push_str(character.cast::<PyString>()?.to_str()?);
        } else {
            clean.push('?');
        }
    }
    Ok(clean.into())
}

/// Long ones stay Python's, and are held until they are sent.
fn shared(value: &Bound<'_, PyAny>) -> PyResult<Bytes> {
    let bytes = value.cast::<PyBytes>()?;
    if bytes.as_bytes().len() < SHARED_BYTES {
        return Ok(Bytes::copy_from_slice(bytes.as_bytes()));
    }
    Ok(Bytes::from_owner(PyBackedBytes::from(bytes.clone())))
}

fn scored(value: &Bound<'_, PyAny>) -> PyResult<Vec<(Bytes, f64)>> {
    let copy;
    let scores = match value.cast::<PyDict>() {
        Ok(scores) => scores,
        Err(_) => {
            copy = PyDict::new(value.py());
            copy.update(value.cast::<pyo3::types::PyMapping>()?)?;
            &copy
        }
    };
    scores.iter().map(|(authority, score)| Ok((text(&authority)?, score.extract()?))).collect()
}
