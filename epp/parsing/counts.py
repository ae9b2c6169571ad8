"""The `usage` objects of all engines -> Usage. What is no non-negative whole number is absent."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from epp.domain.request import Usage
from epp.parsing.rawjson import NONE, opening

MAX_COUNT: Final = 1 << 40
"""A larger count is none; sums of any answer's stay within 64 bits."""


class Details(msgspec.Struct, gc=False):
    cached_tokens: Any = None


class Counts(msgspec.Struct, gc=False):
    """OpenAI's, Anthropic's and SGLang's (`meta_info`) names of the same counts."""

    prompt_tokens: Any = None
    input_tokens: Any = None
    completion_tokens: Any = None
    output_tokens: Any = None
    total_tokens: Any = None
    cached_tokens: Any = None
    prompt_tokens_details: msgspec.Raw = NONE
    input_tokens_details: msgspec.Raw = NONE
    cache_read_input_tokens: Any = None
    cache_creation_input_tokens: Any = None


class Answer(msgspec.Struct, gc=False):
    """An answer or one event of a streamed one; counts may stand one level down."""

    id: Any = None
    usage: msgspec.Raw = NONE
    meta_info: msgspec.Raw = NONE
    response: msgspec.Raw = NONE
    message: msgspec.Raw = NONE


_ANSWER = msgspec.json.Decoder(Answer)
_ANSWERS: msgspec.json.Decoder[list[Answer]] = msgspec.json.Decoder(list[Answer])
_COUNTS = msgspec.json.Decoder(Counts)
_DETAILS = msgspec.json.Decoder(Details)


def read(text: bytes | memoryview) -> tuple[Usage | None, str]:
    """(usage, id) of an answer or an event; (None, "") for what is not one."""
    try:
        if text[:1] == b"[":  # SGLang answers a list of prompts with a list
            return summed([_usage_of(answer) for answer in _ANSWERS.decode(text)]), ""
        answer = _ANSWER.decode(text)
        for inner in (answer.response, answer.message):
            if opening(inner) == b"{":
                outer, answer = answer, _ANSWER.decode(inner)
                if outer.usage is not NONE:
                    answer.usage = outer.usage
        return _usage_of(answer), answer.id if isinstance(answer.id, str) else ""
    except (ValueError, RecursionError):
        return None, ""


def read_counts(text: bytes | memoryview) -> Usage | None:
    """One usage object."""
    try:
        counts = _COUNTS.decode(text)
        cached = counts.cached_tokens
        for details in (counts.prompt_tokens_details, counts.input_tokens_details):
            if opening(details) == b"{":
                cached = _DETAILS.decode(details).cached_tokens
    except (ValueError, RecursionError):
        return None
    prompt = _whole(counts.prompt_tokens)
    if prompt is None:
        prompt = _whole(counts.input_tokens)
    read_from_cache = _whole(counts.cache_read_input_tokens)
    if prompt is not None:
        # Anthropic counts what came from or went to the cache beside input_tokens, not in it.
        prompt += (read_from_cache or 0) + (_whole(counts.cache_creation_input_tokens) or 0)
    completion = _whole(counts.completion_tokens)
    if completion is None:
        completion = _whole(counts.output_tokens)
    cached = _whole(cached)
    usage = Usage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=_whole(counts.total_tokens),
        cached_tokens=read_from_cache if cached is None else cached,
    )
    return None if usage == Usage() else usage


def merged(first: Usage | None, later: Usage | None) -> Usage | None:
    """What the later report does not say is taken from the first (Anthropic tells input and output apart)."""
    if first is None or later is None:
        return first or later
    return Usage(
        prompt_tokens=_last(first.prompt_tokens, later.prompt_tokens),
        completion_tokens=_last(first.completion_tokens, later.completion_tokens),
        total_tokens=_last(first.total_tokens, later.total_tokens),
        cached_tokens=_last(first.cached_tokens, later.cached_tokens),
    )


def summed(usages: list[Usage | None]) -> Usage | None:
    known = [usage for usage in usages if usage is not None]
    if not known:
        return None
    return Usage(
        prompt_tokens=_sum([u.prompt_tokens for u in known]),
        completion_tokens=_sum([u.completion_tokens for u in known]),
        total_tokens=_sum([u.total_tokens for u in known]),
        cached_tokens=_sum([u.cached_tokens for u in known]),
    )


def _usage_of(answer: Answer) -> Usage | None:
    for raw in (answer.usage, answer.meta_info):
        if opening(raw) == b"{":
            return read_counts(memoryview(raw))
    return None


def _whole(value: Any) -> int | None:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if type(value) is int and 0 <= value <= MAX_COUNT else None


def _last(first: int | None, later: int | None) -> int | None:
    return first if later is None else later


def _sum(values: list[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None
