"""Bodies of which only a first part came."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.parsing.cut import completed
from tests.unit.parsing.bodies import CHAT, COMPLETIONS, JSON_VALUES, SAMPLES, TEXT, encoded, parse, text


@given(st.dictionaries(TEXT, JSON_VALUES, max_size=5), st.booleans(), st.data())
def test_completed_is_json_that_begins_like_the_body(
    body: object, ascii_only: bool, data: st.DataObject
) -> None:
    raw = encoded(body, ascii_only=ascii_only)
    cut = raw[: data.draw(st.integers(0, len(raw)))]
    whole = completed(cut)
    assert isinstance(json.loads(whole), dict)
    kept = whole.rstrip(b'"]}')
    assert cut.startswith(kept) or whole == b"{}"


@given(st.sampled_from(sorted(SAMPLES)), st.data())
def test_any_prefix_is_parsed(path: str, data: st.DataObject) -> None:
    raw = encoded(SAMPLES[path], ascii_only=data.draw(st.booleans()))
    cut = raw[: data.draw(st.integers(0, len(raw)))]
    request = parse(path, cut, truncated=True)
    assert request.model in ("", "base")
    whole = parse(path, raw)
    for part, prompt in zip(request.prompts, whole.prompts, strict=False):
        if part.tokens is None:
            assert len(part.text) <= len(prompt.text)


def test_whole_body_marked_as_cut_is_parsed_as_ever() -> None:
    raw = encoded(SAMPLES[CHAT])
    assert text(parse(CHAT, raw, truncated=True)) == text(parse(CHAT, raw))


@given(st.integers(0, 200))
def test_text_before_the_cut_is_a_prefix_of_the_prompt(at: int) -> None:
    raw = encoded(
        {"model": "m", "messages": [{"role": "user", "content": 'aé\n日🙂"' * 20}]}, ascii_only=True
    )
    whole = text(parse(CHAT, raw))
    part = parse(CHAT, raw[: 60 + at], truncated=True)
    assert part.model == "m"
    assert whole.startswith(text(part).removesuffix(b"\n"))
    assert len(text(part)) > at // 10


@pytest.mark.parametrize(
    ("cut", "model", "flat"),
    [
        (b'{"model":"m","messages":[{"role":"user","content":"abc', "m", b"user\nabc\n"),
        (b'{"messages":[{"role":"user","content":"abc"},{"ro', "", b"user\nabc\n\n"),
        (b'{"messages":[{"role":"user","content":"abc"}],"model":"mo', "", b"user\nabc\n"),
        (b'{"messages":[{"role":"user","content":"abc"}],"model":"mo"', "mo", b"user\nabc\n"),
        (b'{"messages":[{"role":"user","content":"abc\\', "", b"user\nabc\n"),
        (b'{"messages":[{"role":"user","content":"abc\\u00', "", b"user\nabc\n"),
        (b'{"messages":[{"role":"user","content":"abc\\ud83d\\ude0', "", b"user\nabc\n"),
        (b'{"messages":[{"role":"user","content":"abc\xe6\x97', "", b"user\nabc\n"),
        (b'{"messages":[{"role":"user","content":"abc\xe6\x97\xa5', "", "user\nabc日\n".encode()),
        (b'{"model":"m","max_tokens":12', "m", b""),
        (b'{"model":"m"', "m", b""),
        (b'{"mod', "", b""),
        (b"", "", b""),
        (b'{"messages":5,"model":"m","x', "", b""),
        (b'{"model":5,"messages":[{"role":"user","con', "", b""),
    ],
)
def test_cut_chat(cut: bytes, model: str, flat: bytes) -> None:
    request = parse(CHAT, cut, truncated=True)
    assert (request.model, text(request), request.size_bytes) == (model, flat, len(cut))
    if model:
        assert request.model_span is not None
        assert cut[slice(*request.model_span)] == b'"%s"' % model.encode()


def test_cut_prompts() -> None:
    assert text(parse(COMPLETIONS, b'{"model":"m","prompt":"abc', truncated=True)) == b"abc"
    request = parse(COMPLETIONS, b'{"model":"m","prompt":["abc","de', truncated=True)
    assert [prompt.text for prompt in request.prompts] == [b"abc", b"de"]
    tokens = parse(COMPLETIONS, b'{"model":"m","prompt":[1,2,34', truncated=True).prompts[0].tokens
    assert tokens is not None
    assert list(tokens) == [1, 2]  # 34 may go on


def test_model_header_stands_in_for_one_that_is_cut_off() -> None:
    headers = {"x-gateway-model-name": "m"}
    assert parse(CHAT, b'{"messages":[', truncated=True, headers=headers).model == "m"
    assert parse(CHAT, b'{"model":"body","messages":[', truncated=True, headers=headers).model == "body"


def test_cut_megabyte_and_depth_are_bounded() -> None:
    raw = b'{"model":"m","messages":[{"role":"user","content":"' + b"ab\\n\xe6\x97\xa5" * (1 << 18)
    assert len(text(parse(CHAT, raw, truncated=True))) > 1 << 20
    deep = b'{"model":"m","x":' + b"[" * 100_000
    assert parse(CHAT, deep, truncated=True).model in ("", "m")
