//! Envoy's external processing messages, read and written by hand: only the fields that a picker uses.
//!
//! Field numbers are those of `envoy/service/ext_proc/v3/external_processor.proto`, and where a file says so of
//! `envoy/config/core/v3/base.proto`, `envoy/type/v3/http_status.proto`,
//! `envoy/extensions/filters/http/ext_proc/v3/processing_mode.proto` and `google/protobuf/struct.proto`.

pub mod decode;
pub mod encode;
pub mod metadata;
pub mod wire;

pub use decode::{Incoming, Kind, decode};
pub use encode::Frame;

/// Envoy's `ProcessingMode.BodySendMode`; `Unknown` while Envoy has not told, or for a mode we do not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum BodyMode {
    #[default]
    Unknown,
    None,
    Streamed,
    Buffered,
    BufferedPartial,
    FullDuplex,
}

impl BodyMode {
    pub fn numbered(number: i32) -> BodyMode {
        match number {
            0 => BodyMode::None,
            1 => BodyMode::Streamed,
            2 => BodyMode::Buffered,
            3 => BodyMode::BufferedPartial,
            4 => BodyMode::FullDuplex,
            _ => BodyMode::Unknown,
        }
    }

    /// The body comes in pieces that go back one by one; also what is assumed where nothing is known.
    pub fn duplex(self) -> bool {
        matches!(self, BodyMode::FullDuplex | BodyMode::Unknown)
    }

    /// The body, or its first part, comes as one message.
    pub fn buffered(self) -> bool {
        matches!(self, BodyMode::Buffered | BodyMode::BufferedPartial)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Request,
    Answer,
}
