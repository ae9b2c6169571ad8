//! For Python: the hashes of a prompt's blocks; and what is read of answers and prompts, to be compared with
//! Python's own.

use std::rc::Rc;

use bytes::Bytes;
use pyo3::buffer::PyUntypedBuffer;
use pyo3::exceptions::{PyBufferError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple};

use crate::answer::{Watch, head_of};
use crate::blocks::chain;
use crate::convert;
use crate::prompt::PromptScan;
use crate::types::{AnswerPlan, Api, Pair, Usage};

/// Hashing less takes some 10 us at most, for which others need not be let in.
const MIN_RELEASED_BYTES: usize = 64 << 10;

type Head = (u16, f64, Option<String>, bool, bool, bool);
type Counts = (Option<u64>, Option<u64>, Option<u64>, Option<u64>);
type Seen = (bool, bool, f64, f64, u64, Option<Counts>, String, Vec<u32>, f64, f64);

/// An answer's watch without the transport.
#[pyclass(unsendable, module = "inference_epp_native")]
struct AnswerProbe(Watch);

#[pymethods]
impl AnswerProbe {
    #[new]
    fn new(api: &str, stream: bool, restore: Option<(String, String)>, gap_bounds: Vec<f64>) -> AnswerProbe {
        let plan = AnswerPlan { api: Api::named(api), stream, restore, ..AnswerPlan::default() };
        AnswerProbe(Watch::new(&plan, Rc::from(gap_bounds)))
    }

    #[getter]
    fn changes_length(&self) -> bool {
        self.0.changes_length()
    }

    fn set_override_ignored(&mut self) {
        self.0.set_override_ignored();
    }

    /// The fields of the AnswerHead, in order.
    fn headers(&mut self, headers: Vec<(Vec<u8>, Vec<u8>)>, served: Option<String>, at: f64) -> Head {
        let headers: Vec<Pair> =
            headers.into_iter().map(|(name, value)| (Bytes::from(name), Bytes::from(value))).collect();
        let head = head_of(&headers, served, at);
        self.0.headers(&headers, &head);
        (head.status, head.at, head.served, head.streamed, head.encoded, head.local)
    }

    fn chunk<'py>(
        &mut self,
        py: Python<'py>,
        data: &[u8],
        last: bool,
        began_at: f64,
    ) -> (Option<Bound<'py, PyBytes>>, bool) {
        let (changed, first) = self.0.chunk(&Bytes::copy_from_slice(data), last, began_at);
        (changed.map(|bytes| PyBytes::new(py, &bytes)), first)
    }

    fn flush<'py>(&mut self, py: Python<'py>) -> Option<Bound<'py, PyBytes>> {
        self.0.flush().map(|bytes| PyBytes::new(py, &bytes))
    }

    /// The fields of the Report, in order.
    fn report(&mut self) -> Seen {
        let seen = self.0.report();
        let counts = |u: Usage| (u.prompt_tokens, u.completion_tokens, u.total_tokens, u.cached_tokens);
        (
            seen.observed,
            seen.override_ignored,
            seen.first_at,
            seen.last_at,
            seen.body_bytes,
            seen.usage.map(counts),
            seen.response_id,
            seen.gaps,
            seen.gaps_s,
            seen.processing_s,
        )
    }
}

/// The chained hashes of the blocks of any contiguous buffer, as little-endian 64-bit numbers.
#[pyfunction]
fn block_chain<'py>(
    py: Python<'py>,
    data: &Bound<'py, PyAny>,
    block_bytes: usize,
    max_blocks: usize,
) -> PyResult<Bound<'py, PyBytes>> {
    if block_bytes == 0 {
        return Err(PyValueError::new_err("block_bytes must be positive"));
    }
    let buffer = PyUntypedBuffer::get(data)?;
    if !buffer.is_c_contiguous() {
        return Err(PyBufferError::new_err("the buffer is not contiguous"));
    }
    let size = buffer.len_bytes().min(block_bytes.saturating_mul(max_blocks));
    let bytes: &[u8] = if size == 0 {
        &[]
    } else {
        // SAFETY: a contiguous buffer's bytes stand at its address, and stay there while `buffer` is held,
        // which is until this function ends. Nobody writes to them meanwhile: the interpreter's lock is held
        // throughout where anybody may.
        unsafe { std::slice::from_raw_parts(buffer.buf_ptr().cast(), size) }
    };
    let hashed = || {
        let hashes = chain(bytes, block_bytes, max_blocks);
        hashes.into_iter().flat_map(u64::to_le_bytes).collect::<Vec<u8>>()
    };
    let hashes = if size > MIN_RELEASED_BYTES && data.is_exact_instance_of::<PyBytes>() {
        py.detach(hashed)
    } else {
        hashed()
    };
    Ok(PyBytes::new(py, &hashes))
}

/// The fields of `epp.domain.request.Scanned` for a body in pieces; None for a body that Python has to look at.
#[pyfunction]
fn scan_prompt<'py>(
    py: Python<'py>,
    api: &str,
    pieces: Vec<Vec<u8>>,
    block_bytes: usize,
    max_blocks: usize,
) -> PyResult<Option<Bound<'py, PyTuple>>> {
    let mut scan = PromptScan::new(Api::named(api), block_bytes, max_blocks);
    for piece in &pieces {
        scan.push(piece);
    }
    scan.finish().map(|found| convert::scanned(py, found, &pieces.concat())).transpose()
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<AnswerProbe>()?;
    module.add_function(wrap_pyfunction!(scan_prompt, module)?)?;
    module.add_function(wrap_pyfunction!(block_chain, module)?)
}
