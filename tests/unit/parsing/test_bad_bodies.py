"""Whatever a client sends is parsed or refused, in bounded time and memory."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.domain.errors import Reason, Refused, answer_of
from tests.unit.parsing.bodies import CHAT, COMPLETIONS, JSON_VALUES, SAMPLES, encoded, parse, refusal, text

OK = b'"model":"m","messages":[]'


@pytest.mark.parametrize(
    "raw",
    [
        b"", b" ", b"null", b"[]", b"5", b'"x"', b"{", b'{"model"', b'{"model":"m","messages":[}', b"{" + OK,
        b"\xff",
        b"{" + OK + b"} x", b"{" + OK + b',"x":nan}', b"{" + OK + b',"x":01}', b"\xef\xbb\xbf{" + OK + b"}",
        b'{"model":"m","messages":[{"role":"u","content":"\xff"}]}',
        b'{"model":"m","messages":[{"role":"u","content":"\\ud800"}]}',
        b'{"model":"m","messages":[{"role":"u","content":"a\nb"}]}',
        b'{"model":"\xff","messages":[]}', b'{"model":"\\x","messages":[]}',
        b'{"model":"m","messages":[],"max_tokens":1e999}',
        b'{"model":"m","messages":[],"max_tokens":' + b"9" * 100_000 + b"}",
        b'{"model":"m","messages":[],"x":' + b"[" * 200_000,
        b'{"model":"m","messages":[],"x":' + b'{"a":' * 200_000,
        b'{"model":"m","messages":' + b'[{"content":' * 200_000,
    ],
)  # fmt: skip
def test_malformed(raw: bytes) -> None:
    refused = refusal(CHAT, raw)
    assert refused.reason is Reason.MALFORMED
    answer = json.loads(answer_of(refused).body)["error"]
    assert answer["type"] == "invalid_request_error"
    assert 10 < len(answer["message"]) < 300


def test_nested_tool_results_are_bounded() -> None:
    raw = (
        b'{"model":"m","messages":[{"content":' + b'[{"content":' * 50_000 + b'"x"' + b"}]" * 50_000 + b"}]}"
    )
    assert "nested too deeply" in refusal("/v1/messages", raw).message


def with_image(depth: int) -> bytes:
    inner = b'{"url":' + b"[" * depth + b"]" * depth + b"}"
    return b'{"model":"m","messages":[{"role":"u","content":[{"image_url":' + inner + b"}]}]}"


def test_parts_that_are_decoded_later_are_bounded_too() -> None:
    def accepted(depth: int) -> bool:
        with contextlib.suppress(Refused):
            return parse(CHAT, with_image(depth)).model == "m"
        return False

    most, least_refused = 1, 1 << 20
    assert accepted(most)
    assert not accepted(least_refused)
    while least_refused - most > 1:
        middle = (most + least_refused) // 2
        most, least_refused = (middle, least_refused) if accepted(middle) else (most, middle)
    # Which of two decoders finds out first depends on the depth; nothing but a refusal comes of either.
    around = [accepted(depth) for depth in range(most - 40, most + 40)]
    assert around == sorted(around, reverse=True)
    assert (around[0], around[-1]) == (True, False)
    assert parse(CHAT, with_image(least_refused), truncated=True).prompts is not None


def test_giant_numbers_elsewhere_do_not_matter() -> None:
    raw = b"{" + OK + b',"seed":' + b"9" * 100_000 + b',"x":1e99999,"y":-0.0}'
    assert parse(CHAT, raw).model == "m"


@pytest.mark.parametrize("path", [p for p in SAMPLES if p not in ("/generate", "/v1/conversations")])
@pytest.mark.parametrize(
    ("value", "reason"),
    [("absent", Reason.MODEL_MISSING), (None, Reason.MODEL_MISSING), ("", Reason.MODEL_MISSING),
     (5, Reason.MALFORMED), (["m"], Reason.MALFORMED), ({}, Reason.MALFORMED), (True, Reason.MALFORMED)],
)  # fmt: skip
def test_model(path: str, value: object, reason: Reason) -> None:
    body = {key: item for key, item in SAMPLES[path].items() if key != "model"}
    if value != "absent":
        body["model"] = value
    refused = refusal(path, body)
    assert (refused.reason, refused.param) == (reason, "model")
    stood_in = {"x-llm-d-model-name-rewrite": "target"}
    if reason is Reason.MODEL_MISSING:
        assert parse(path, body, headers=stood_in).model == ""
        assert parse(path, body, headers={"x-gateway-model-name-rewrite": "target"}).model_span is not None
    else:
        assert refusal(path, body, headers=stood_in).param == "model"


def test_compressed_body_is_refused_by_name() -> None:
    headers = {"content-encoding": "gzip"}
    assert "gzip" in refusal(CHAT, b"\x1f\x8b\x08", headers=headers).message
    assert parse(CHAT, b"{" + OK + b"}", headers=headers).model == "m"


@given(st.sampled_from(sorted(SAMPLES)), st.data())
def test_mutated_json_is_parsed_or_refused(path: str, data: st.DataObject) -> None:
    body = dict(SAMPLES[path])
    for key in data.draw(st.lists(st.sampled_from(sorted(body)), max_size=3)):
        body[key] = data.draw(JSON_VALUES)
    raw = bytearray(encoded(body, ascii_only=data.draw(st.booleans())))
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.integers(0, len(raw) - 1))
        raw[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    with contextlib.suppress(Refused):  # anything else is a bug
        assert parse(path, bytes(raw)).size_bytes == len(raw)
    parse(path, bytes(raw), truncated=True)


@given(
    st.sampled_from([CHAT, "/v1/messages", "/generate", "/v1/audio/translations"]),
    st.binary(),
)
def test_any_bytes_are_parsed_or_refused(path: str, raw: bytes) -> None:
    headers = {"content-type": "multipart/form-data; boundary=a"}
    with pytest.raises(Refused):
        parse(path, raw, headers=headers)
    parse(path, raw, headers=headers, truncated=True)


def test_64_mb_prompt() -> None:
    raw = b'{"messages":[{"role":"user","content":"' + b"lorem ipsum\\n " * (5 << 20) + b'"}],"model":"m"}'
    assert len(raw) > 64 << 20
    request = parse(CHAT, raw)
    assert request.model == "m"
    assert request.input_tokens > 15_000_000


@pytest.mark.parametrize(
    ("path", "raw"),
    [
        (CHAT, b'{"messages":[' + b"{}," * 2_000_000 + b'{}],"model":"m"}'),
        ("/v1/messages", b'{"messages":[' + b"{}," * 2_000_000 + b'{}],"model":"m"}'),
        ("/v1/embeddings", b'{"messages":[' + b"{}," * 2_000_000 + b'{}],"model":"m"}'),
        ("/v1/responses", b'{"input":[' + b"{}," * 2_000_000 + b'{}],"model":"m"}'),
        ("/v1/conversations", b'{"items":[' + b"{}," * 2_000_000 + b'{}],"model":"m"}'),
        (COMPLETIONS, b'{"prompt":[' + b'"",' * 2_000_000 + b'""],"model":"m"}'),
        (COMPLETIONS, b'{"prompt":[' + b"[]," * 2_000_000 + b'[]],"model":"m"}'),
        (COMPLETIONS, b'{"prompt":[' + b"1," * 5_000_000 + b'1],"model":"m"}'),
    ],
)
def test_millions_of_tiny_values_are_one_prompt_of_raw_json(path: str, raw: bytes) -> None:
    request = parse(path, raw)
    assert request.model == "m"
    assert text(request).rstrip() in raw


def test_many_small_prompts_are_one() -> None:
    assert len(parse(COMPLETIONS, {"model": "m", "prompt": ["a"] * 8192}).prompts) == 8192
    assert len(parse(COMPLETIONS, {"model": "m", "prompt": ["a"] * 8193}).prompts) == 1
    assert len(parse(COMPLETIONS, {"model": "m", "prompt": [[1]] * 8193}).prompts) == 1


def test_huge_body_without_a_prompt_is_refused() -> None:
    raw = b'{"model":"m","x":[' + b"{}," * 500_000 + b"{}]}"
    assert refusal(CHAT, raw).reason is Reason.MALFORMED
