//! The compiled ext_proc transport: bytes here, meaning in Python.

pub mod answer;
pub mod blocks;
pub mod probe_answers;
pub mod types;
#[cfg(feature = "python")]
pub mod convert;
pub mod exchange;
#[cfg(feature = "python")]
pub mod probe_exchange;
pub mod proto;
