"""Bodies: whatever comes, an Ask or a clear refusal."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epp.sim.openai import MEDIA_TOKENS, Ask, Bodies
from epp.sim.sequence import Rejected
from epp.sim.tokens import TOKEN_BYTES, count, pack_chat, pack_ids

BODIES = Bodies()
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
)
FIELDS = ("messages", "prompt", "model", "stream", "max_tokens", "min_tokens", "n", "stream_options", "tools")
MESSAGES = st.lists(st.dictionaries(st.sampled_from(["role", "content", "tool_calls"]), JSON), max_size=3)


@settings(max_examples=80, deadline=None)
@given(
    st.dictionaries(st.sampled_from(FIELDS), JSON | MESSAGES),
    st.sampled_from([BODIES.chat, BODIES.completion]),
)
def test_any_json_is_read_or_refused(body: dict[str, Any], read: Any) -> None:
    try:
        seen: Ask | Rejected = read(json.dumps(body).encode())
    except Rejected as rejected:
        seen = rejected
    if isinstance(seen, Rejected):
        assert seen.status == 400
        assert seen.message
        return
    assert all(prompt and len(prompt) % TOKEN_BYTES == 0 for prompt in seen.prompts)
    assert seen.max_tokens is None or seen.max_tokens >= max(1, seen.min_tokens)


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    for read in (BODIES.chat, BODIES.completion, BODIES.tokenize, BODIES.lora):
        with pytest.raises(Rejected):
            read(body)


def chat(**body: Any) -> Ask:
    return BODIES.chat(json.dumps({"messages": [{"role": "user", "content": "a"}]} | body).encode())


def test_fields() -> None:
    ask = chat(model="m", stream=True, stream_options={"include_usage": True}, max_tokens=9, min_tokens=2)
    assert (ask.model, ask.stream, ask.include_usage, ask.max_tokens, ask.min_tokens) == (
        "m",
        True,
        True,
        9,
        2,
    )
    assert ask.prompts == (pack_chat([("user", b"a")]),)
    assert chat(max_tokens=9, max_completion_tokens=4).max_tokens == 4
    assert chat(temperature=1, stop=["x"], user=None).ignore_eos is False
    assert chat(cache_salt="s").cache_salt == "s"


def test_parts_are_joined_and_media_counted() -> None:
    text = [{"type": "text", "text": "ab"}, {"type": "text", "text": "cd"}]
    joined = chat(messages=[{"role": "user", "content": text}])
    assert joined.prompts == (pack_chat([("user", b"abcd")]),)
    media = [{"type": "image_url", "image_url": {"url": "u"}}]
    assert count(chat(messages=[{"role": "user", "content": text + media}]).prompts[0]) == (
        count(joined.prompts[0]) + MEDIA_TOKENS
    )


def test_empty_tool_calls_are_none() -> None:
    plain = chat(messages=[{"role": "assistant", "content": "x"}])
    for nothing in ([], None):
        assert chat(messages=[{"role": "assistant", "content": "x", "tool_calls": nothing}]) == plain
    assert chat(messages=[{"role": "assistant", "content": "x", "tool_calls": [{"id": "1"}]}]) != plain


@pytest.mark.parametrize(
    ("prompt", "packed"),
    [
        ("abcde", (b"abcde\0\0\0",)),
        (["ab", "cd"], (b"ab\0\0", b"cd\0\0")),
        ([1, 2], (pack_ids([1, 2]),)),
        ([[1], [2, 3]], (pack_ids([1]), pack_ids([2, 3]))),
    ],
)
def test_forms_of_a_prompt(prompt: Any, packed: tuple[bytes, ...]) -> None:
    ask = BODIES.completion(json.dumps({"prompt": prompt}).encode())
    assert ask.prompts == packed
    assert ask.max_tokens == 16
