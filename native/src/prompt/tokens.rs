//! JSON in pieces: the grammar, as `answer::scan` has it for whole texts. What it finds is told to the shape.

use std::mem::take;

use crate::answer::scan::{Scanner, escape};
use crate::prompt::shape::Shape;

/// Deeper bodies are given up.
const MAX_DEPTH: u32 = 60;
/// Longer numbers are given up.
const MAX_SCALAR_BYTES: usize = 40;
/// Of an escape behind its backslash: `uXXXX\uXXXX`.
const MAX_ESCAPE_BYTES: usize = 11;

/// What is to come.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Step {
    #[default]
    Value,
    /// Behind an opening bracket: its end, or what it holds.
    First,
    /// Behind a value: a comma, or the end of what holds it.
    Next,
    Key,
    Colon,
    /// The rest of a number, `true`, `false` or `null`.
    Scalar,
    String(Role),
    Escape(Role),
    Done,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Key,
    Value,
}

#[derive(Default)]
pub struct Tokens {
    step: Step,
    depth: u32,
    /// A bit for each open bracket, the innermost lowest: whether it is an object's.
    objects: u64,
    /// A number or word, or an escape, whose end has not come.
    held: Vec<u8>,
    /// Where a value that is kept as it stands began in this piece.
    raw_start: Option<usize>,
    /// Bytes before this piece.
    before: usize,
    /// Where the messages or the prompt stand in the body; the end is 0 until it has come.
    prompt: Option<(usize, usize)>,
}

impl Tokens {
    pub fn is_done(&self) -> bool {
        self.step == Step::Done
    }

    /// [start, end) of the messages' or the prompt's value in the body.
    pub fn prompt(&self) -> Option<(usize, usize)> {
        self.prompt.filter(|(_, end)| *end > 0)
    }

    /// None: not JSON, or nothing for the shape.
    pub fn push(&mut self, data: &[u8], shape: &mut Shape) -> Option<()> {
        self.raw_start = self.raw_start.map(|_| 0);
        let mut at = 0;
        while at < data.len() {
            at = match self.step {
                Step::String(role) => self.string(data, at, role, shape)?,
                Step::Escape(role) => self.escape(data, at, role, shape)?,
                Step::Scalar => self.scalar(data, at, shape)?,
                _ => self.sign(data, at, shape)?,
            };
        }
        if let Some(start) = self.raw_start {
            shape.raw.extend_from_slice(&data[start..]);
        }
        self.before += data.len();
        Some(())
    }

    fn sign(&mut self, data: &[u8], at: usize, shape: &mut Shape) -> Option<usize> {
        let byte = data[at];
        if matches!(byte, b' ' | b'\n' | b'\r' | b'\t') {
            return Some(at + 1);
        }
        let is_object = self.objects & 1 == 1;
        match (self.step, byte) {
            (Step::First | Step::Next, b'}' | b']') => {
                if is_object != (byte == b'}') {
                    return None;
                }
                self.depth -= 1;
                self.objects >>= 1;
                shape.close()?;
                self.ended(data, at + 1, shape)?;
            }
            (Step::Next, b',') => self.step = if is_object { Step::Key } else { Step::Value },
            (Step::First, _) if !is_object => {
                self.step = Step::Value;
                return Some(at);
            }
            (Step::First | Step::Key, b'"') => {
                shape.key();
                self.step = Step::String(Role::Key);
            }
            (Step::Colon, b':') => self.step = Step::Value,
            (Step::Value, _) => self.value(byte, at, shape)?,
            _ => return None,
        }
        // A number's or a word's first byte is part of it.
        Some(at + usize::from(self.step != Step::Scalar))
    }

    fn value(&mut self, byte: u8, at: usize, shape: &mut Shape) -> Option<()> {
        if shape.is_raw() {
            self.raw_start = Some(at);
        } else if shape.is_prompt() {
            self.prompt = Some((self.before + at, 0));
        }
        self.step = match byte {
            b'{' | b'[' if self.depth == MAX_DEPTH => return None,
            b'{' | b'[' => {
                shape.open(byte)?;
                self.depth += 1;
                self.objects = self.objects << 1 | u64::from(byte == b'{');
                Step::First
            }
            b'"' => {
                shape.string()?;
                Step::String(Role::Value)
            }
            _ => Step::Scalar,
        };
        Some(())
    }

    /// A value ends before `at`.
    fn ended(&mut self, data: &[u8], at: usize, shape: &mut Shape) -> Option<()> {
        if let Some(start) = self.raw_start
            && shape.is_raw()
        {
            shape.raw.extend_from_slice(&data[start..at]);
            self.raw_start = None;
            shape.raw_end()?;
        }
        if let Some((_, end @ 0)) = &mut self.prompt
            && self.depth == 1
        {
            *end = self.before + at;
        }
        self.step = if self.depth == 0 { Step::Done } else { Step::Next };
        Some(())
    }

    fn scalar(&mut self, data: &[u8], at: usize, shape: &mut Shape) -> Option<usize> {
        let is_part = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'z' | b'E' | b'+' | b'-' | b'.');
        let rest = &data[at..];
        let size = rest.iter().position(|byte| !is_part(byte)).unwrap_or(rest.len());
        self.held.extend_from_slice(&rest[..size]);
        if self.held.len() > MAX_SCALAR_BYTES {
            return None;
        }
        if size < rest.len() {
            let text = take(&mut self.held);
            let mut scanner = Scanner::new(&text);
            scanner.passed()?;
            if !scanner.at_end() {
                return None;
            }
            shape.scalar(&text)?;
            self.ended(data, at + size, shape)?;
        }
        Some(at + size)
    }

    fn string(&mut self, data: &[u8], start: usize, role: Role, shape: &mut Shape) -> Option<usize> {
        let mut at = start;
        loop {
            let rest = &data[at..];
            let plain = shape.plain(rest)?;
            at += plain + 1;
            match rest.get(plain) {
                None => return Some(data.len()),
                Some(b'"') => break,
                Some(b'\\') => {}
                Some(_) => return None,
            }
            let Some((found, size)) = escape(&data[at..]) else {
                self.step = Step::Escape(role);
                return Some(at);
            };
            shape.unescaped(found)?;
            at += size;
        }
        match role {
            Role::Key => {
                shape.key_end();
                self.step = Step::Colon;
            }
            Role::Value => {
                shape.string_end()?;
                self.ended(data, at, shape)?;
            }
        }
        Some(at)
    }

    /// A byte of an escape that is cut by the end of a piece, or not valid.
    fn escape(&mut self, data: &[u8], at: usize, role: Role, shape: &mut Shape) -> Option<usize> {
        self.held.push(data[at]);
        if let Some((found, _)) = escape(&self.held) {
            self.held.clear();
            self.step = Step::String(role);
            shape.unescaped(found)?;
        } else if self.held.len() == MAX_ESCAPE_BYTES {
            return None;
        }
        Some(at + 1)
    }
}
