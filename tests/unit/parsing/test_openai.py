from __future__ import annotations

import pytest

from epp.domain.errors import Reason
from epp.domain.request import Api
from epp.parsing.media import IMAGE_TOKENS, VIDEO_TOKENS
from tests.unit.parsing.bodies import (
    CHAT,
    COMPLETIONS,
    RESPONSES,
    SAMPLES,
    encoded,
    parse,
    refusal,
    text,
    tokens,
)


def test_chat() -> None:
    request = parse(CHAT, SAMPLES[CHAT])
    assert (request.api, request.model, request.target_model) == (Api.CHAT, "base", "base")
    assert (request.stream, request.max_output_tokens, request.cache_salt) == (True, 7, "s")
    flat = text(request)
    order = [
        b'[{"type": "function"}]',
        b"system\nbe brief",
        "what is 日本\n?".encode(),
        b'"name": "f"',
        b"tool\n42",
    ]
    places = [flat.index(piece) for piece in order]
    assert places == sorted(places)
    assert b"base64" not in flat


@pytest.mark.parametrize(
    ("more", "limit"),
    [
        ({"max_completion_tokens": 3, "max_tokens": 4}, 3),
        ({"max_completion_tokens": None, "max_tokens": 4.0}, 4),
        ({"max_tokens": None}, None),
        ({"max_tokens": -1}, None),
        ({"max_tokens": 10**30}, 2**31 - 1),
    ],
)
def test_output_limit(more: dict[str, object], limit: int | None) -> None:
    assert parse(CHAT, {"model": "m", "messages": [], **more}).max_output_tokens == limit


def with_part(part: object) -> bytes:
    return text(parse(CHAT, {"model": "m", "messages": [{"role": "user", "content": [part, "tail"]}]}))


@pytest.mark.parametrize(
    ("kind", "size"),
    [("image_url", IMAGE_TOKENS), ("video_url", VIDEO_TOKENS), ("audio_url", None), ("file", None)],
)
def test_media_are_told_apart_by_their_hash_alone(kind: str, size: int | None) -> None:
    one = with_part({"type": kind, kind: {"url": "data:,AAAA", "file_data": "x", "detail": "low"}})
    same = with_part({"type": kind, kind: {"detail": "high", "url": "data:,AAAA"}})
    other = with_part({"type": kind, kind: {"url": "data:,AAAB"}})
    plain = with_part({"type": kind, kind: "data:,AAAA"})
    assert one == same == plain != other
    assert len(one) == len(other)
    if size is not None:
        assert len(one) == 4 * size + len(b"user\ntail\n")


def test_media_without_content_add_nothing() -> None:
    assert with_part({"type": "image_url", "image_url": None}) == b"user\ntail\n"
    assert with_part({"type": "refusal", "refusal": "no"}) == b"user\nnotail\n"


@pytest.mark.parametrize(
    ("prompt", "texts"),
    [("a b", [b"a b"]), (["a", "b"], [b"a", b"b"]), ([], []), ([{"x": 1}], [b'[{"x": 1}]'])],
)
def test_prompt_texts(prompt: object, texts: list[bytes]) -> None:
    assert [p.text for p in parse(COMPLETIONS, {"model": "m", "prompt": prompt}).prompts] == texts


@pytest.mark.parametrize(
    ("prompt", "ids"), [([1, 2], [[1, 2]]), ([[1], [2, 2**32 - 1]], [[1], [2, 2**32 - 1]])]
)
def test_prompt_token_ids(prompt: object, ids: list[list[int]]) -> None:
    request = parse(COMPLETIONS, {"model": "m", "prompt": prompt})
    assert tokens(request) == ids
    assert request.input_tokens == sum(map(len, ids))


def test_completions_may_bring_embeddings_instead_of_a_prompt() -> None:
    assert parse(COMPLETIONS, {"model": "m", "prompt_embeds": "AAAA"}).prompts == ()


def test_responses() -> None:
    request = parse(RESPONSES, SAMPLES[RESPONSES])
    assert (request.previous_response_id, request.max_output_tokens) == ("resp_1", 5)
    assert text(request) == b'system\nbe brief\nuser\nhi\n\nf\n"{}"\n\n42\n'


def test_responses_output_may_be_a_picture() -> None:
    item = {"type": "computer_call_output", "output": {"type": "computer_screenshot", "image_url": "data:,A"}}
    assert len(text(parse(RESPONSES, {"model": "m", "input": [item]}))) == 4 * IMAGE_TOKENS + 2
    wrong = refusal(RESPONSES, {"model": "m", "input": [{"output": 3}]})
    assert wrong.param == "input[].output"


def test_a_string_input_begins_the_conversation_that_goes_on_as_a_list() -> None:
    first = text(parse(RESPONSES, {"model": "m", "input": "hi"}))
    items = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    assert text(parse(RESPONSES, {"model": "m", "input": items})).startswith(first)


def test_embeddings_from_messages() -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    assert text(parse("/v1/embeddings", body)) == b"user\nhi\n"


def test_conversations_need_no_model() -> None:
    request = parse("/v1/conversations", {"items": [{"role": "user", "content": "hi"}]})
    assert (request.model, text(request)) == ("", b"user\nhi\n")


def test_rerank_and_score() -> None:
    assert text(parse("/v1/rerank", SAMPLES["/v1/rerank"])) == b'"q"\n["a", "b"]\n'
    assert text(parse("/v1/score", SAMPLES["/v1/score"])) == b'"q"\n["a", "b"]\n'


@pytest.mark.parametrize(
    ("path", "field"),
    [
        (CHAT, "messages"), (COMPLETIONS, "prompt"), (RESPONSES, "input"), ("/v1/conversations", "items"),
        ("/v1/embeddings", "input"), ("/v1/images/generations", "prompt"), ("/v1/rerank", "query"),
        ("/score", "text_1"), ("/v1/audio/speech", "input"), ("/v1/messages", "messages"),
        ("/inference/v1/generate", "token_ids"), ("/generate", "input_ids"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("body", [{"model": "m"}, {"model": "m", "FIELD": None}])
def test_missing_field_is_named(path: str, field: str, body: dict[str, object]) -> None:
    refused = refusal(path, {field if key == "FIELD" else key: value for key, value in body.items()})
    assert (refused.reason, refused.param) == (Reason.MALFORMED, field)
    assert field in refused.message


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (CHAT, {"messages": {}}, "messages"),
        (CHAT, {"messages": [1]}, "messages[0]"),
        (CHAT, {"messages": [{}, {}, {"content": 1}]}, "messages[2].content"),
        (CHAT, {"messages": [{"role": 1}]}, "messages[0].role"),
        (CHAT, {"messages": [{"content": [{"text": "a"}, {"text": 1}]}]}, "messages[0].content[1].text"),
        (CHAT, {"messages": [], "stream": "yes"}, "stream"),
        (CHAT, {"messages": [], "max_tokens": "5"}, "max_tokens"),
        (CHAT, {"messages": [], "max_tokens": 1.5}, "max_tokens"),
        (CHAT, {"messages": [], "cache_salt": 5}, "cache_salt"),
        (COMPLETIONS, {"prompt": 5}, "prompt"),
        (COMPLETIONS, {"prompt": {}}, "prompt"),
        (COMPLETIONS, {"prompt": ["a", 5]}, "prompt[1]"),
        (COMPLETIONS, {"prompt": [1, -5]}, "prompt[1]"),
        (COMPLETIONS, {"prompt": [1, 2**32]}, "prompt[1]"),
        (COMPLETIONS, {"prompt": [[1], ["a"]]}, "prompt[1][0]"),
        (RESPONSES, {"input": 5}, "input"),
        (RESPONSES, {"input": "a", "previous_response_id": 5}, "previous_response_id"),
        ("/v1/messages", {"messages": [{"content": [{"content": [{"text": 1}]}]}]},
         "messages[0].content[0].content[0].text"),
        ("/inference/v1/generate", {"token_ids": [1], "sampling_params": 5}, "sampling_params"),
        ("/generate", {"input_ids": [1], "sampling_params": {"max_new_tokens": "a"}},
         "sampling_params.max_new_tokens"),
    ],
)  # fmt: skip
def test_wrong_type_is_named_with_its_path(path: str, body: dict[str, object], param: str) -> None:
    refused = refusal(path, {"model": "m", **body})
    assert (refused.reason, refused.param) == (Reason.MALFORMED, param)
    assert f"`{param}`" in refused.message


def test_last_of_repeated_keys_is_used() -> None:
    raw = b'{"model":"a","messages":[],"stream":true,"model":"b","messages":[{"role":"user","content":"x"}]}'
    request = parse(CHAT, raw)
    assert (request.model, text(request)) == ("b", b"user\nx\n")
    assert request.model_span is not None
    assert raw[slice(*request.model_span)] == b'"b"'


def test_unknown_fields_may_hold_anything() -> None:
    body = encoded(
        {"model": "m", "messages": [{"role": "user", "content": "x", "y": {"content": 1}}], "z": [1, "a"]}
    )
    assert text(parse(CHAT, body)) == b"user\nx\n"
