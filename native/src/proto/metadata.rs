//! Dynamic metadata: which endpoints the gateway allows, which one it used, and which pool it is for.
//!
//! Numbers are those of `Metadata` in `envoy/config/core/v3/base.proto` and of `google/protobuf/struct.proto`.

use bytes::Bytes;

use super::wire::{Malformed, Reader, Wire};

const SUBSET_NAMESPACE: &[u8] = b"envoy.lb.subset_hint";
const SUBSET_KEY: &[u8] = b"x-gateway-destination-endpoint-subset";
const LB_NAMESPACE: &[u8] = b"envoy.lb";
const SERVED_KEY: &[u8] = b"x-gateway-destination-endpoint-served";
const POOL_KEY: &[u8] = b"x-gateway-inference-pool";

/// `google.protobuf.Value`, as far as we look.
#[derive(Debug, Default)]
enum Value {
    #[default]
    Unset,
    Text(Bytes),
    List(Vec<Value>),
    Other,
}

/// The fields that we know, out of one Struct.
#[derive(Debug, Default)]
struct Picked {
    subset: Option<Value>,
    served: Option<Value>,
    pool: Option<Value>,
}

/// What is in the two namespaces that we know.
#[derive(Debug, Default)]
pub struct Metadata {
    subset: Option<Value>,
    served: Option<Value>,
    pool: Option<Value>,
}

impl Metadata {
    pub fn read(&mut self, mut reader: Reader<'_>) -> Result<(), Malformed> {
        while let Some((number, value)) = reader.field()? {
            match (number, value) {
                (1, Wire::Span(span)) => self.read_entry(reader.inner(span)?)?,
                (2, Wire::Span(span)) => check_any_entry(reader.inner(span)?)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// One namespace; the last of a name counts.
    fn read_entry(&mut self, reader: Reader<'_>) -> Result<(), Malformed> {
        let mut picked = Picked::default();
        if let Some(namespace) = entry(reader, |inner| read_struct(inner, Some(&mut picked)))? {
            if namespace == SUBSET_NAMESPACE {
                self.subset = picked.subset;
            } else if namespace == LB_NAMESPACE {
                self.served = picked.served;
                self.pool = picked.pool;
            }
        }
        Ok(())
    }

    /// A list of strings, each possibly comma-joined, or one such string.
    pub fn subset(self) -> Option<Vec<String>> {
        let texts = match self.subset? {
            Value::Text(text) => vec![text],
            Value::List(values) => values
                .into_iter()
                .filter_map(|v| if let Value::Text(text) = v { Some(text) } else { None })
                .collect(),
            _ => return None,
        };
        let mut allowed = Vec::new();
        for text in &texts {
            let text = String::from_utf8_lossy(text);
            allowed.extend(text.split(',').map(strip).filter(|part| !part.is_empty()).map(str::to_owned));
        }
        Some(allowed)
    }

    /// A copy: it stays longer than the message.
    pub fn pool(&mut self) -> Bytes {
        match self.pool.take() {
            Some(Value::Text(text)) => Bytes::copy_from_slice(&text),
            _ => Bytes::new(),
        }
    }

    pub fn served(self) -> Option<String> {
        match self.served {
            Some(Value::Text(text)) if !text.is_empty() => Some(String::from_utf8_lossy(&text).into_owned()),
            _ => None,
        }
    }
}

/// White space is what Python calls so: the separators of ASCII too.
fn strip(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || matches!(c, '\x1c'..='\x1f'))
}

/// An entry of a map with text keys; the key, or None for an entry with unknown fields, which upb leaves out.
fn entry(
    mut reader: Reader<'_>,
    mut read_value: impl FnMut(Reader<'_>) -> Result<(), Malformed>,
) -> Result<Option<Bytes>, Malformed> {
    let mut key = Bytes::new();
    let mut known = true;
    while let Some((number, value)) = reader.field()? {
        match (number, value) {
            (1, Wire::Span(span)) => key = reader.text(span)?,
            (2, Wire::Span(span)) => read_value(reader.inner(span)?)?,
            _ => known = false,
        }
    }
    Ok(known.then_some(key))
}

/// An entry of a map to Struct that is not used.
pub fn check_struct_entry(reader: Reader<'_>) -> Result<(), Malformed> {
    entry(reader, |inner| read_struct(inner, None)).map(|_| ())
}

/// An entry of a map to `google.protobuf.Any` that is not used.
pub fn check_any_entry(reader: Reader<'_>) -> Result<(), Malformed> {
    entry(reader, |mut any| {
        while let Some((number, value)) = any.field()? {
            if let (1, Wire::Span(type_url)) = (number, value) {
                any.check_text(&type_url)?;
            }
        }
        Ok(())
    })
    .map(|_| ())
}

fn read_struct(mut reader: Reader<'_>, mut picked: Option<&mut Picked>) -> Result<(), Malformed> {
    while let Some((number, value)) = reader.field()? {
        let (1, Wire::Span(span)) = (number, value) else { continue };
        let mut value = Value::Unset;
        let key = entry(reader.inner(span)?, |inner| read_value(inner, &mut value))?;
        if let (Some(key), Some(picked)) = (key, picked.as_deref_mut()) {
            if key == SUBSET_KEY {
                picked.subset = Some(value);
            } else if key == SERVED_KEY {
                picked.served = Some(value);
            } else if key == POOL_KEY {
                picked.pool = Some(value);
            }
        }
    }
    Ok(())
}

fn read_value(mut reader: Reader<'_>, value: &mut Value) -> Result<(), Malformed> {
    while let Some((number, wire)) = reader.field()? {
        match (number, wire) {
            (1 | 4, Wire::Varint(_)) | (2, Wire::Fixed64) => *value = Value::Other,
            (3, Wire::Span(span)) => *value = Value::Text(reader.text(span)?),
            (5, Wire::Span(span)) => {
                read_struct(reader.inner(span)?, None)?;
                *value = Value::Other;
            }
            (6, Wire::Span(span)) => read_list(reader.inner(span)?, value)?,
            _ => {}
        }
    }
    Ok(())
}

/// Goes on with the list that the value already is.
fn read_list(mut reader: Reader<'_>, value: &mut Value) -> Result<(), Malformed> {
    let mut values = match std::mem::take(value) {
        Value::List(values) => values,
        _ => Vec::new(),
    };
    while let Some((number, wire)) = reader.field()? {
        if let (1, Wire::Span(span)) = (number, wire) {
            let mut item = Value::Unset;
            read_value(reader.inner(span)?, &mut item)?;
            values.push(item);
        }
    }
    *value = Value::List(values);
    Ok(())
}
