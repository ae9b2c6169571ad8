//! The compiled ext_proc transport: bytes here, meaning in Python.

pub mod answer;
pub mod blocks;
pub mod probe_answers;
pub mod types;
