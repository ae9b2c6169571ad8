//! The compiled ext_proc transport: bytes here, meaning in Python.
//!
//! `listener` and `stream` move bytes between HTTP/2 and `exchange`, the twin of `epp/extproc/exchange.py`, which
//! knows the protocol (`proto` its messages, `answer` what is read of answers); `authority` lets h2 take what it would
//! not. `handoff` carries events to Python and the replies back; `server` is what Python sees. The probes let tests
//! compare the twins.

pub mod answer;
pub mod authority;
pub mod blocks;
pub mod counts;
pub mod exchange;
#[cfg(test)]
mod faults;
pub mod handoff;
pub mod health;
pub mod inbox;
pub mod io;
pub mod listener;
pub mod outbox;
pub mod prompt;
pub mod proto;
pub mod status;
pub mod stream;
pub mod tls;
pub mod types;

#[cfg(feature = "python")]
pub mod convert;
#[cfg(feature = "python")]
pub mod probe_answers;
#[cfg(feature = "python")]
pub mod probe_exchange;
#[cfg(feature = "python")]
pub mod server;

#[cfg(feature = "python")]
#[pyo3::pymodule]
fn inference_epp_native(module: &pyo3::Bound<'_, pyo3::types::PyModule>) -> pyo3::PyResult<()> {
    use pyo3::types::PyModuleMethods;
    module.add_class::<server::Server>()?;
    probe_answers::register(module)?;
    probe_exchange::register(module)
}
