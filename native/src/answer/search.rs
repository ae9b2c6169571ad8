//! Where in an answer's bytes the few names stand that are of interest. White space is that of Python's
//! `bytes` and `re`.

use std::sync::LazyLock;

use memchr::memmem::Finder;

pub static USAGE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"usage\""));
pub static META_INFO: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"meta_info\""));
/// Before the name of an answer's model.
pub static MODEL: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"model\":"));

const fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

/// The text without the white space before it.
pub fn lstripped(text: &[u8]) -> &[u8] {
    let start = text.iter().position(|byte| !is_space(*byte)).unwrap_or(text.len());
    &text[start..]
}

pub fn stripped(text: &[u8]) -> &[u8] {
    let text = lstripped(text);
    let end = text.iter().rposition(|byte| !is_space(*byte)).map_or(0, |last| last + 1);
    &text[..end]
}

/// Offsets of the `{` of every `"usage": {` and `"meta_info": {`, in order.
pub fn reports(data: &[u8]) -> impl Iterator<Item = usize> {
    let mut usages = USAGE.find_iter(data).map(|at| at + USAGE.needle().len()).peekable();
    let mut infos = META_INFO.find_iter(data).map(|at| at + META_INFO.needle().len()).peekable();
    std::iter::from_fn(move || match (usages.peek(), infos.peek()) {
        (Some(usage), Some(info)) if info < usage => infos.next(),
        (Some(_), _) => usages.next(),
        (None, _) => infos.next(),
    })
    .filter_map(move |name_end| {
        let rest = lstripped(lstripped(&data[name_end..]).strip_prefix(b":")?);
        (rest.first() == Some(&b'{')).then_some(data.len() - rest.len())
    })
}
