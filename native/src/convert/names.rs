//! Names of headers, and whose stream it is, as Python strings. The same few come with every request; a string that is
//! kept has its hash already.

use std::collections::HashMap;

use bytes::Bytes;
use parking_lot::Mutex;
use pyo3::prelude::*;
use pyo3::types::PyString;

/// Clients choose names; further ones are made anew.
const MAX_NAMES: usize = 512;
const MAX_NAME_BYTES: usize = 64;
/// Authorities and pools: gateways choose them.
const MAX_ORIGINS: usize = 4096;
const MAX_ORIGIN_BYTES: usize = 256;

type Table = Mutex<Option<HashMap<Bytes, Py<PyString>>>>;
static NAMES: Table = Mutex::new(None);
static ORIGINS: Table = Mutex::new(None);

pub fn of<'py>(py: Python<'py>, name: &Bytes) -> Bound<'py, PyString> {
    kept(py, &NAMES, name, MAX_NAMES, MAX_NAME_BYTES)
}

/// An authority, or a pool's name.
pub fn origin<'py>(py: Python<'py>, text: &Bytes) -> Bound<'py, PyString> {
    kept(py, &ORIGINS, text, MAX_ORIGINS, MAX_ORIGIN_BYTES)
}

fn kept<'py>(
    py: Python<'py>,
    table: &Table,
    name: &Bytes,
    most: usize,
    most_bytes: usize,
) -> Bound<'py, PyString> {
    // Never held while Python runs: nothing in here lets the GIL go.
    let mut names = table.lock();
    let names = names.get_or_insert_with(HashMap::new);
    if let Some(known) = names.get(name) {
        return known.bind(py).clone();
    }
    let made = string(py, name);
    if names.len() < most && name.len() <= most_bytes {
        // A copy: the name is a slice of a whole message.
        names.insert(Bytes::copy_from_slice(name), made.clone().unbind());
    }
    made
}

/// Of what is not UTF-8, every broken sequence becomes a replacement character, as with Python's "replace".
pub fn string<'py>(py: Python<'py>, bytes: &[u8]) -> Bound<'py, PyString> {
    PyString::new(py, &String::from_utf8_lossy(bytes))
}
