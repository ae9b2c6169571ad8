//! The `usage` objects of all engines -> Usage; the twin of `epp/parsing/counts.py`. What is no non-negative
//! whole number is absent.

use crate::answer::scan::{Scanner, float, unescaped};
use crate::types::Usage;

/// A larger count is none; sums of any answer's stay within 64 bits.
const MAX_COUNT: u64 = 1 << 40;

/// Texts of members; None: absent.
#[derive(Default, Clone, Copy)]
struct Answer<'a> {
    id: Option<&'a [u8]>,
    usage: Option<&'a [u8]>,
    meta_info: Option<&'a [u8]>,
    response: Option<&'a [u8]>,
    message: Option<&'a [u8]>,
}

/// (usage, id) of an answer or an event; (None, "") for what is not one.
pub fn read(text: &[u8]) -> (Option<Usage>, String) {
    if text.first() == Some(&b'[') {
        // SGLang answers a list of prompts with a list.
        return (answers(text).flatten(), String::new());
    }
    let Some(answer) = whole_answer(text) else {
        return (None, String::new());
    };
    (usage_of(&answer), answer.id.and_then(string).unwrap_or_default())
}

/// The usage object that the text begins with.
pub fn report_at(text: &[u8]) -> Option<Usage> {
    counts(&mut Scanner::new(text))
}

/// What the later report does not say is taken from the first (Anthropic tells input and output apart).
pub fn merged(first: Option<Usage>, later: Option<Usage>) -> Option<Usage> {
    match (first, later) {
        (Some(first), Some(later)) => Some(each(first, later, |first, later| later.or(first))),
        (first, later) => first.or(later),
    }
}

fn answers(text: &[u8]) -> Option<Option<Usage>> {
    let mut scanner = Scanner::new(text);
    let mut sum: Option<Usage> = None;
    scanner.array(|scanner| {
        let usage = usage_of(&answer(scanner)?);
        sum = match (sum, usage) {
            (Some(sum), Some(usage)) => Some(each(sum, usage, added)),
            (sum, usage) => sum.or(usage),
        };
        Some(())
    })?;
    scanner.at_end().then_some(sum)
}

/// The answer, or what it wraps.
fn whole_answer(text: &[u8]) -> Option<Answer<'_>> {
    let outermost = decoded(text)?;
    let mut found = outermost;
    for inner in [outermost.response, outermost.message].into_iter().flatten() {
        if inner.first() == Some(&b'{') {
            let outer = found;
            found = decoded(inner)?;
            found.usage = outer.usage.or(found.usage);
        }
    }
    Some(found)
}

fn decoded(text: &[u8]) -> Option<Answer<'_>> {
    let mut scanner = Scanner::new(text);
    let found = answer(&mut scanner)?;
    scanner.at_end().then_some(found)
}

fn answer<'a>(scanner: &mut Scanner<'a>) -> Option<Answer<'a>> {
    let mut found = Answer::default();
    scanner.object(|scanner, key| {
        let place = match key {
            b"id" => {
                found.id = Some(scanner.decoded()?);
                return Some(());
            }
            b"usage" => &mut found.usage,
            b"meta_info" => &mut found.meta_info,
            b"response" => &mut found.response,
            b"message" => &mut found.message,
            _ => return scanner.passed().map(|_| ()),
        };
        *place = Some(scanner.passed()?);
        Some(())
    })?;
    Some(found)
}

fn usage_of(answer: &Answer) -> Option<Usage> {
    let is_object = |text: &&[u8]| text.first() == Some(&b'{');
    report_at([answer.usage, answer.meta_info].into_iter().flatten().find(is_object)?)
}

/// One usage object; by OpenAI's, Anthropic's and SGLang's (`meta_info`) names of the same counts.
fn counts(scanner: &mut Scanner) -> Option<Usage> {
    let mut usage = Usage::default();
    let (mut input, mut output) = (None, None);
    let (mut read_from_cache, mut written_to_cache) = (None, None);
    let mut details = [None; 2];
    scanner.object(|scanner, key| {
        let place = match key {
            b"prompt_tokens" => &mut usage.prompt_tokens,
            b"input_tokens" => &mut input,
            b"completion_tokens" => &mut usage.completion_tokens,
            b"output_tokens" => &mut output,
            b"total_tokens" => &mut usage.total_tokens,
            b"cached_tokens" => &mut usage.cached_tokens,
            b"cache_read_input_tokens" => &mut read_from_cache,
            b"cache_creation_input_tokens" => &mut written_to_cache,
            _ => {
                let text = scanner.passed()?;
                match key {
                    b"prompt_tokens_details" => details[0] = Some(text),
                    b"input_tokens_details" => details[1] = Some(text),
                    _ => {}
                }
                return Some(());
            }
        };
        *place = count(scanner.decoded()?);
        Some(())
    })?;
    for text in details.into_iter().flatten().filter(|text| text.first() == Some(&b'{')) {
        usage.cached_tokens = cached(text)?;
    }
    // Anthropic counts what came from or went to the cache beside input_tokens, not in it.
    let beside = read_from_cache.unwrap_or(0) + written_to_cache.unwrap_or(0);
    usage.prompt_tokens = usage.prompt_tokens.or(input).map(|prompt| prompt + beside);
    usage.completion_tokens = usage.completion_tokens.or(output);
    usage.cached_tokens = usage.cached_tokens.or(read_from_cache);
    (usage != Usage::default()).then_some(usage)
}

/// `cached_tokens` in the details; None where they are not valid.
fn cached(details: &[u8]) -> Option<Option<u64>> {
    let mut found = None;
    Scanner::new(details).object(|scanner, key| {
        if key == b"cached_tokens" {
            found = count(scanner.decoded()?);
            Some(())
        } else {
            scanner.passed().map(|_| ())
        }
    })?;
    Some(found)
}

/// The value as a count.
fn count(value: &[u8]) -> Option<u64> {
    if !matches!(value.first(), Some(b'-' | b'0'..=b'9')) {
        return None;
    }
    if value.iter().any(|byte| matches!(byte, b'.' | b'e' | b'E')) {
        let number = float(value)?;
        let is_count = number.fract() == 0.0 && (0.0..=MAX_COUNT as f64).contains(&number);
        return is_count.then_some(number as u64);
    }
    if value == b"-0" {
        return Some(0);
    }
    std::str::from_utf8(value).ok()?.parse().ok().filter(|count| *count <= MAX_COUNT)
}

/// The text of a JSON string; None for another value.
fn string(value: &[u8]) -> Option<String> {
    let inside = value.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    String::from_utf8(unescaped(inside).into_owned()).ok()
}

fn added(first: Option<u64>, later: Option<u64>) -> Option<u64> {
    match (first, later) {
        (Some(first), Some(later)) => Some(first.saturating_add(later)),
        (first, later) => first.or(later),
    }
}

fn each(first: Usage, later: Usage, joined: fn(Option<u64>, Option<u64>) -> Option<u64>) -> Usage {
    Usage {
        prompt_tokens: joined(first.prompt_tokens, later.prompt_tokens),
        completion_tokens: joined(first.completion_tokens, later.completion_tokens),
        total_tokens: joined(first.total_tokens, later.total_tokens),
        cached_tokens: joined(first.cached_tokens, later.cached_tokens),
    }
}
