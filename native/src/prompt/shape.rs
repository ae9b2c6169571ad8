//! Which members of a body make its prompt, and whether the body is as plain as it must be here.
//!
//! Wherever Python would take the body otherwise, or refuse it, a None comes. That is more often than need
//! be: so for a content before its role, and for what is repeated.

use std::mem::{swap, take};

use crate::prompt::flat::{FlatText, plain_size};

/// Of a key, a role, a model's name.
const MAX_WORD_BYTES: usize = 4096;
/// Of a limit of output tokens.
const MAX_DIGITS: usize = 15;

/// An open bracket.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Frame {
    Body,
    Messages,
    Message,
    Parts,
    Part,
    /// Of a value that is passed over.
    Passed,
}

/// What the next value is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Body,
    Messages,
    Message,
    Tools,
    Prompt,
    Model,
    Stream,
    /// A string or null that does not matter.
    Name,
    /// A limit of output tokens.
    Limit,
    Role,
    Content,
    ToolCalls,
    Part,
    Text,
    /// What makes another shape unless it is null.
    Absent,
    Passed,
}

/// Where a string's text goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sink {
    Nowhere,
    Prompt,
    Word,
}

pub struct Shape {
    is_chat: bool,
    text: FlatText,
    frames: Vec<Frame>,
    member: Place,
    sink: Sink,
    /// Nothing of the string has come.
    is_fresh: bool,
    word: Vec<u8>,
    /// A value as it stands in the body.
    pub raw: Vec<u8>,
    tool_calls: Vec<u8>,
    has_model: bool,
    has_tools: bool,
    /// The messages or the prompt.
    has_prompt: bool,
    // Of the message:
    has_role: bool,
    has_content: bool,
    has_tool_calls: bool,
    /// Of the part.
    has_text: bool,
}

impl Shape {
    pub fn new(is_chat: bool, text: FlatText) -> Shape {
        Shape {
            is_chat,
            text,
            frames: Vec::new(),
            member: Place::Body,
            sink: Sink::Nowhere,
            is_fresh: false,
            word: Vec::new(),
            raw: Vec::new(),
            tool_calls: Vec::new(),
            has_model: false,
            has_tools: false,
            has_prompt: false,
            has_role: false,
            has_content: false,
            has_tool_calls: false,
            has_text: false,
        }
    }

    pub fn finish(self) -> Option<FlatText> {
        (self.has_model && self.has_prompt).then_some(self.text)
    }

    pub fn open(&mut self, bracket: u8) -> Option<()> {
        let frame = match (self.place(), bracket) {
            (Place::Body, b'{') => Frame::Body,
            (Place::Messages, b'[') => {
                once(&mut self.has_prompt)?;
                Frame::Messages
            }
            (Place::Message, b'{') => {
                self.has_role = false;
                self.has_content = false;
                self.has_tool_calls = false;
                Frame::Message
            }
            (Place::Content, b'[') => {
                self.content()?;
                Frame::Parts
            }
            (Place::Part, b'{') => {
                self.has_text = false;
                Frame::Part
            }
            (Place::Passed | Place::Tools | Place::ToolCalls, _) => Frame::Passed,
            _ => return None,
        };
        self.frames.push(frame);
        Some(())
    }

    pub fn close(&mut self) -> Option<()> {
        match self.frames.pop()? {
            Frame::Message => {
                self.has_role.then_some(())?;
                self.text.push(b"\n")?;
                if self.has_tool_calls {
                    add_raw(&mut self.text, &self.tool_calls)?;
                }
                self.member = Place::Messages;
            }
            Frame::Parts => self.member = Place::Content,
            _ => {}
        }
        Some(())
    }

    /// A key begins.
    pub fn key(&mut self) {
        self.sink = if self.frames.last() == Some(&Frame::Passed) { Sink::Nowhere } else { Sink::Word };
        self.word.clear();
    }

    pub fn key_end(&mut self) {
        let place = match (self.frames.last(), &self.word[..]) {
            (Some(Frame::Passed), _) => return,
            (Some(Frame::Body), key) => self.body_member(key),
            (Some(Frame::Message), key) => match key {
                b"role" => Place::Role,
                b"content" => Place::Content,
                b"tool_calls" => Place::ToolCalls,
                b"name" => Place::Name,
                // Arguments, output and summary count where there is no role.
                _ => Place::Passed,
            },
            (_, key) => match key {
                b"text" => Place::Text,
                b"type" => Place::Name,
                b"refusal" | b"thinking" | b"image_url" | b"image_embeds" | b"video_url" | b"audio_url"
                | b"input_audio" | b"file" | b"file_url" | b"file_data" | b"file_id" => Place::Absent,
                _ => Place::Passed,
            },
        };
        self.member = place;
    }

    /// A string begins that is a value.
    pub fn string(&mut self) -> Option<()> {
        self.sink = match self.place() {
            Place::Passed | Place::Tools | Place::ToolCalls => Sink::Nowhere,
            Place::Content => {
                self.content()?;
                Sink::Prompt
            }
            Place::Text => {
                once(&mut self.has_text)?;
                Sink::Prompt
            }
            Place::Prompt => {
                once(&mut self.has_prompt)?;
                Sink::Prompt
            }
            Place::Part => Sink::Prompt,
            Place::Role | Place::Model | Place::Name => Sink::Word,
            _ => return None,
        };
        self.is_fresh = true;
        self.word.clear();
        Some(())
    }

    /// The inside of a string up to its end, an escape or what is not valid. Returns the length of that.
    #[inline]
    pub fn plain(&mut self, data: &[u8]) -> Option<usize> {
        match self.sink {
            Sink::Nowhere => Some(plain_size(data)),
            Sink::Prompt => {
                // Else it could complete a character that another string began.
                if take(&mut self.is_fresh) && data.first().is_some_and(|byte| byte & 0xc0 == 0x80) {
                    return None;
                }
                self.text.push_inside(data)
            }
            Sink::Word => {
                let size = plain_size(data);
                self.word.extend_from_slice(&data[..size]);
                (self.word.len() <= MAX_WORD_BYTES).then_some(size)
            }
        }
    }

    /// A character of the string that was written as an escape.
    #[inline]
    pub fn unescaped(&mut self, found: char) -> Option<()> {
        let mut bytes = [0; 4];
        let piece = found.encode_utf8(&mut bytes).as_bytes();
        match self.sink {
            Sink::Nowhere => {}
            Sink::Prompt => self.text.push(piece)?,
            Sink::Word => self.word.extend_from_slice(piece),
        }
        Some(())
    }

    /// The end of a string that is a value.
    pub fn string_end(&mut self) -> Option<()> {
        if self.sink != Sink::Word {
            return Some(());
        }
        std::str::from_utf8(&self.word).ok()?;
        match self.place() {
            Place::Model => self.has_model = !self.word.is_empty(),
            Place::Role => {
                once(&mut self.has_role)?;
                if !self.word.is_empty() {
                    self.text.push(&self.word)?;
                    self.text.push(b"\n")?;
                }
            }
            _ => {}
        }
        Some(())
    }

    /// A number, `true`, `false` or `null`.
    pub fn scalar(&mut self, text: &[u8]) -> Option<()> {
        let is_null = text == b"null";
        let fits = match self.place() {
            Place::Passed | Place::Tools | Place::ToolCalls => true,
            Place::Content => {
                once(&mut self.has_content)?;
                is_null
            }
            Place::Name | Place::Text | Place::Absent => is_null,
            Place::Stream => is_null || matches!(text, b"true" | b"false"),
            Place::Limit => is_null || (text.len() <= MAX_DIGITS && text.iter().all(u8::is_ascii_digit)),
            _ => false,
        };
        fits.then_some(())
    }

    /// The next value, or the one that has just ended, is kept as it stands.
    pub fn is_raw(&self) -> bool {
        matches!(self.place(), Place::Tools | Place::ToolCalls)
    }

    /// The next value is the messages or the prompt.
    pub fn is_prompt(&self) -> bool {
        matches!(self.place(), Place::Messages | Place::Prompt)
    }

    pub fn raw_end(&mut self) -> Option<()> {
        if self.member == Place::ToolCalls {
            once(&mut self.has_tool_calls)?;
            swap(&mut self.tool_calls, &mut self.raw);
        } else {
            once(&mut self.has_tools)?;
            if self.has_prompt && !is_nothing(&self.raw) {
                return None; // they stand before the messages in the text
            }
            add_raw(&mut self.text, &self.raw)?;
        }
        self.raw.clear();
        Some(())
    }

    fn place(&self) -> Place {
        match self.frames.last() {
            None => Place::Body,
            Some(Frame::Messages) => Place::Message,
            Some(Frame::Parts) => Place::Part,
            Some(Frame::Passed) => Place::Passed,
            Some(Frame::Body | Frame::Message | Frame::Part) => self.member,
        }
    }

    fn body_member(&self, key: &[u8]) -> Place {
        match key {
            b"model" => Place::Model,
            b"stream" => Place::Stream,
            b"cache_salt" => Place::Name,
            b"max_tokens" => Place::Limit,
            b"prompt" if !self.is_chat => Place::Prompt,
            b"messages" if self.is_chat => Place::Messages,
            b"tools" if self.is_chat => Place::Tools,
            b"max_completion_tokens" if self.is_chat => Place::Limit,
            _ => Place::Passed,
        }
    }

    /// The message's content begins: once, and behind its role.
    fn content(&mut self) -> Option<()> {
        self.has_role.then_some(())?;
        once(&mut self.has_content)
    }
}

fn once(has: &mut bool) -> Option<()> {
    (!std::mem::replace(has, true)).then_some(())
}

fn is_nothing(raw: &[u8]) -> bool {
    matches!(raw, b"null" | b"[]")
}

fn add_raw(text: &mut FlatText, raw: &[u8]) -> Option<()> {
    if !is_nothing(raw) {
        text.push(raw)?;
        text.push(b"\n")?;
    }
    Some(())
}
