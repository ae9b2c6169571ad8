//! The compiled ext_proc transport: bytes here, meaning in Python.

pub mod types;
