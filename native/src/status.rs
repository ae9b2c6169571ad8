//! gRPC's statuses: their names, and the headers that carry them.

use http::{HeaderMap, HeaderValue, Response};

use crate::inbox::Broken;

pub const OK: u32 = 0;
pub const INVALID_ARGUMENT: u32 = 3;
pub const DEADLINE_EXCEEDED: u32 = 4;
pub const RESOURCE_EXHAUSTED: u32 = 8;
pub const UNIMPLEMENTED: u32 = 12;
pub const INTERNAL: u32 = 13;
pub const UNAVAILABLE: u32 = 14;

pub fn name(code: u32) -> &'static str {
    match code {
        OK => "OK",
        INVALID_ARGUMENT => "INVALID_ARGUMENT",
        DEADLINE_EXCEEDED => "DEADLINE_EXCEEDED",
        RESOURCE_EXHAUSTED => "RESOURCE_EXHAUSTED",
        UNIMPLEMENTED => "UNIMPLEMENTED",
        INTERNAL => "INTERNAL",
        UNAVAILABLE => "UNAVAILABLE",
        _ => "UNKNOWN",
    }
}

pub fn response_head() -> Response<()> {
    let mut response = Response::new(());
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    response
}

/// With gRPC's percent-encoding of the message.
pub fn trailers(code: u32, message: &str) -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(2);
    trailers.insert("grpc-status", HeaderValue::from(code));
    if !message.is_empty() {
        let mut text = String::with_capacity(message.len());
        for byte in message.bytes() {
            match byte {
                b' '..=b'~' if byte != b'%' => text.push(char::from(byte)),
                _ => text.push_str(&format!("%{byte:02X}")),
            }
        }
        if let Ok(value) = HeaderValue::try_from(text) {
            trailers.insert("grpc-message", value);
        }
    }
    trailers
}

/// Code and message for what is no gRPC message of ours.
pub fn of_broken(broken: &Broken, limit: usize) -> (u32, String) {
    match broken {
        Broken::Compressed => (UNIMPLEMENTED, "compressed messages are not supported".to_owned()),
        Broken::TooLarge(size) => {
            (RESOURCE_EXHAUSTED, format!("received a message of {size} bytes, larger than {limit}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_plain_ascii_on_the_wire() {
        let sent = trailers(INTERNAL, "50 % \u{e4}\n");
        assert_eq!(sent["grpc-status"], "13");
        assert_eq!(sent["grpc-message"], "50 %25 %C3%A4%0A");
        assert!(trailers(OK, "").get("grpc-message").is_none());
    }
}
