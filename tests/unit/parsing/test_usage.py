from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.domain.request import Api, Usage
from epp.parsing.jsonanswer import MAX_WHOLE_BYTES
from epp.parsing.sse import MAX_LINE_BYTES
from epp.parsing.usage import AnswerReader, answer_reader
from tests.unit.parsing.bodies import JSON_VALUES, TEXT
from tests.unit.parsing.test_engines import field, frame, varint

SSE = "text/event-stream; charset=utf-8"
JSON = "application/json"


def fed(reader: AnswerReader, pieces: Iterable[bytes]) -> tuple[Usage | None, int, str]:
    for piece in pieces:
        reader.feed(piece)
    return reader.finish(), reader.events, reader.response_id


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    return [data[a:b] for a, b in pairwise(places)]


def event(body: Any, *, start: str = "data: ", end: str = "\n\n") -> bytes:
    return f"{start}{json.dumps(body, ensure_ascii=False)}{end}".encode()


USAGE = {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}
CACHED = {**USAGE, "prompt_tokens_details": {"cached_tokens": 8, "audio_tokens": 0}}
CHAT = (
    b": ping\n\n"
    + event({"choices": [{"delta": {"content": 'say "usage": {"prompt_tokens": 1} 日本 data: [DONE]'}}]})
    + event({"choices": [{"delta": {"content": "🙂"}}], "usage": None})
    + event({"choices": [], "usage": CACHED})
    + b"data: [DONE]\n\n"
)
RESPONSES = (
    b"event: response.created\n"
    + event({"type": "response.created", "response": {"id": "resp_1", "usage": None, "output": []}})
    + b"event: response.output_text.delta\n"
    + event({"type": "response.output_text.delta", "item_id": "msg_1", "delta": "x"})
    + b"event: response.completed\n"
    + event(
        {"type": "response.completed", "response": {"id": "resp_1", "output": [{"id": "msg_1"}], "usage": {
            "input_tokens": 5, "input_tokens_details": {"cached_tokens": 4}, "output_tokens": 6,
            "total_tokens": 11}}}
    )
)  # fmt: skip
ANTHROPIC = (
    b"event: message_start\n"
    + event({"type": "message_start", "message": {"id": "msg", "usage": {
        "input_tokens": 5, "cache_read_input_tokens": 3, "cache_creation_input_tokens": 2,
        "output_tokens": 1}}})
    + b"event: content_block_delta\n"
    + event({"type": "content_block_delta", "delta": {"text": "x"}})
    + b"event: message_delta\n"
    + event({"type": "message_delta", "delta": {}, "usage": {"output_tokens": 7}})
)  # fmt: skip
SGLANG = event({"text": "a", "meta_info": {"prompt_tokens": 4, "completion_tokens": 1}}) + event(
    {"text": "ab", "meta_info": {"id": "x", "prompt_tokens": 4, "completion_tokens": 2, "cached_tokens": 3}}
)

STREAMS = [
    (Api.CHAT, CHAT, Usage(9, 2, 11, 8), 3, ""),
    (Api.RESPONSES, RESPONSES, Usage(5, 6, 11, 4), 3, "resp_1"),
    (Api.ANTHROPIC, ANTHROPIC, Usage(10, 7, None, 3), 3, ""),
    (Api.SGLANG, SGLANG, Usage(4, 2, None, 3), 2, ""),
]


@pytest.mark.parametrize(("api", "stream", "usage", "events", "response_id"), STREAMS)
@pytest.mark.parametrize("ending", [b"\n", b"\r\n"])
@pytest.mark.parametrize("start", [b"data: ", b"data:"])
@pytest.mark.parametrize("step", [1, 2, 7, 10_000])
def test_streams_in_all_spellings(
    api: Api,
    stream: bytes,
    usage: Usage,
    events: int,
    response_id: str,
    ending: bytes,
    start: bytes,
    step: int,
) -> None:
    stream = stream.replace(b"data: {", start + b"{").replace(b"\n", ending)
    pieces = [stream[i : i + step] for i in range(0, len(stream), step)]
    assert fed(answer_reader(api, SSE, ""), pieces) == (usage, events, response_id)
    assert fed(answer_reader(api, "", ""), pieces) == (usage, events, response_id)
    assert fed(answer_reader(api, SSE, "identity"), [*pieces[:-1], pieces[-1].rstrip()])[0] == usage


@given(st.sampled_from(STREAMS), st.lists(st.integers(0, 700), max_size=12))
def test_streams_however_they_are_split(stream: tuple[Any, ...], cuts: list[int]) -> None:
    api, data, *expected = stream
    assert fed(answer_reader(api, SSE, ""), split(data, cuts)) == tuple(expected)


def test_usage_in_every_chunk_counts_the_last() -> None:
    chunks = [event({"usage": {"prompt_tokens": 9, "completion_tokens": n}}) for n in range(1, 20)]
    assert fed(answer_reader(Api.CHAT, SSE, ""), chunks) == (Usage(9, 19), 19, "")


def test_stream_without_usage() -> None:
    assert fed(answer_reader(Api.CHAT, SSE, ""), [event({"choices": []})] * 3) == (None, 3, "")
    assert fed(answer_reader(Api.CHAT, SSE, ""), []) == (None, 0, "")


def test_longest_line_is_bounded() -> None:
    reader = answer_reader(Api.CHAT, SSE, "")
    reader.feed(b"da")
    for _ in range(2 * MAX_LINE_BYTES // 65536):
        reader.feed(b"ta: " + b"x" * 65532)
    reader.feed(b"\n\n" + event({"usage": USAGE}))
    assert (reader.finish(), reader.events) == (Usage(9, 2, 11), 2)


@pytest.mark.parametrize(
    ("api", "body", "usage"),
    [
        (Api.CHAT, {"id": "c", "usage": CACHED}, Usage(9, 2, 11, 8)),
        (Api.CHAT, {"usage": USAGE, "choices": [{"message": {"content": '{"usage": {}}'}}]}, Usage(9, 2, 11)),
        (Api.CHAT, {"choices": [{"usage": {"prompt_tokens": 1}}]}, None),
        (Api.CHAT, {"usage": None}, None),
        (Api.CHAT, {"usage": []}, None),
        (Api.CHAT, {"usage": {}}, None),
        (Api.CHAT, [], None),
        (Api.CHAT, {"error": {"message": "x"}}, None),
        (Api.EMBEDDINGS, {"usage": {"prompt_tokens": 4, "total_tokens": 4}}, Usage(4, None, 4)),
        (Api.RESPONSES, {"id": "resp_1", "usage": {"input_tokens": 1, "output_tokens": 2}}, Usage(1, 2)),
        (Api.ANTHROPIC, {"usage": {"input_tokens": 1, "cache_read_input_tokens": 7}},
         Usage(8, cached_tokens=7)),
        (Api.SGLANG, {"meta_info": {"prompt_tokens": 1, "completion_tokens": 2}}, Usage(1, 2)),
        (
            Api.SGLANG,
            [{"meta_info": {"prompt_tokens": 1, "cached_tokens": 1}}, {"meta_info": {"prompt_tokens": 4}},
             {}],
            Usage(5, cached_tokens=1),
        ),
        (Api.CHAT, {"usage": {"prompt_tokens": -1, "completion_tokens": 2}}, Usage(None, 2)),
        (Api.CHAT, {"usage": {"prompt_tokens": 1.0, "completion_tokens": 2.5}}, Usage(1)),
        (Api.CHAT, {"usage": {"prompt_tokens": True, "total_tokens": 3}}, Usage(total_tokens=3)),
        (Api.CHAT, {"usage": {"prompt_tokens": "9", "total_tokens": 3}}, Usage(total_tokens=3)),
    ],
)  # fmt: skip
def test_json_answers(api: Api, body: Any, usage: Usage | None) -> None:
    raw = json.dumps(body).encode()
    for step in (1, 5, 10_000):
        reader = answer_reader(api, JSON, "")
        found, events, response_id = fed(reader, [raw[i : i + step] for i in range(0, len(raw), step)])
        assert (found, events) == (usage, 0)
        assert response_id == ("resp_1" if api is Api.RESPONSES else "")
        assert fed(answer_reader(api, "", ""), [b"\r\n", raw])[0] == usage


@given(
    st.dictionaries(TEXT, JSON_VALUES, max_size=4), st.booleans(), st.lists(st.integers(0, 400), max_size=6)
)
def test_json_however_it_is_split(body: dict[str, Any], first: bool, cuts: list[int]) -> None:
    whole = {"usage": CACHED, **body} if first else {**body, "usage": CACHED}
    raw = json.dumps(whole, ensure_ascii=False).encode()
    assert fed(answer_reader(Api.CHAT, JSON, ""), split(raw, cuts))[0] == Usage(9, 2, 11, 8)


@pytest.mark.parametrize("place", ["first", "middle", "last"])
@pytest.mark.parametrize("step", [997, 62_000, 1 << 30])
def test_long_json_answers_are_searched_in_bounded_memory(place: str, step: int) -> None:
    values = ["0.123456"] * 80_000
    body: dict[str, Any] = {"id": "resp_1"}
    for key, value in (
        ("first", None),
        ("a", values[:9999]),
        ("middle", None),
        ("b", values),
        ("last", None),
    ):
        if value is not None:
            body[key] = value
        elif key == place:
            body["usage"] = CACHED
    raw = json.dumps(body).encode()
    assert len(raw) > 3 * MAX_WHOLE_BYTES
    reader = answer_reader(Api.RESPONSES, JSON, "")
    pieces = [raw[i : i + step] for i in range(0, len(raw), step)]
    assert fed(reader, pieces) == (Usage(9, 2, 11, 8), 0, "resp_1")


@pytest.mark.parametrize(
    ("media", "encoding"), [(SSE, "gzip"), (JSON, "br"), (JSON, "zstd"), ("audio/mpeg", "")]
)
def test_what_cannot_be_read_is_counted(media: str, encoding: str) -> None:
    assert fed(answer_reader(Api.CHAT, media, encoding), [CHAT, b"", CHAT]) == (None, 2, "")


@given(
    st.sampled_from(list(Api)), st.sampled_from([SSE, JSON, "", "application/grpc"]), st.lists(st.binary())
)
def test_any_bytes_are_borne(api: Api, media: str, pieces: list[bytes]) -> None:
    fed(answer_reader(api, media, ""), pieces)


def complete(prompt: int, completion: int, cached: int) -> bytes:
    return field(2, field(1, varint(7)) + field(3, prompt) + field(4, completion) + field(5, cached))


@pytest.mark.parametrize("step", [1, 3, 1000])
def test_grpc_answers(step: int) -> None:
    chunk = field(1, field(1, varint(5)) + field(2, 9) + field(3, 1))
    data = frame(chunk) * 3 + frame(complete(9, 4, 8))
    pieces = [data[i : i + step] for i in range(0, len(data), step)]
    assert fed(answer_reader(Api.VLLM_GRPC, "application/grpc", ""), pieces) == (Usage(9, 4, None, 8), 4, "")


def test_grpc_answers_that_break_off_or_are_embeddings() -> None:
    chunk = field(1, field(2, 9) + field(3, 1))
    cut = frame(chunk) + frame(complete(9, 4, 8))[:-2]
    assert fed(answer_reader(Api.VLLM_GRPC, "application/grpc+proto", ""), [cut])[0] == Usage(9, 1, None, 0)
    embedding = frame(field(1, b"\0" * 64) + field(2, 12) + field(3, 16))
    assert fed(answer_reader(Api.VLLM_GRPC, "application/grpc", ""), [embedding])[0] == Usage(12)


def test_grpc_giant_and_compressed_messages_are_skipped() -> None:
    giant = frame(b"x" * (3 << 20))
    compressed = b"\1" + frame(b"zz")[1:]
    data = giant + compressed + frame(complete(9, 4, 8))
    pieces = [data[i : i + 50_000] for i in range(0, len(data), 50_000)]
    assert fed(answer_reader(Api.VLLM_GRPC, "", ""), pieces) == (Usage(9, 4, None, 8), 3, "")
