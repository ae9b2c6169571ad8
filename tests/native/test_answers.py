"""The compiled watch of answers does what the Python one does, piece by piece."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from epp.domain.request import Api
from epp.domain.views import AnswerPlan
from epp.extproc.answer import AnswerWatch, head_of
from epp.parsing.jsonanswer import MAX_REPORT_BYTES, MAX_WHOLE_BYTES
from epp.parsing.sse import MAX_LINE_BYTES
from epp.telemetry.buckets import ITL_S
from tests.unit.parsing.bodies import JSON_VALUES, TEXT
from tests.unit.parsing.test_engines import field, frame, varint

native = pytest.importorskip("inference_epp_native")

Headers = Sequence[tuple[bytes, bytes]]
Restore = tuple[str, str] | None

NAMES = (
    "usage", "meta_info", "response", "message", "id", "prompt_tokens", "input_tokens", "completion_tokens",
    "output_tokens", "total_tokens", "cached_tokens", "prompt_tokens_details", "input_tokens_details",
    "cache_read_input_tokens", "cache_creation_input_tokens", "model", "x",
)  # fmt: skip
COUNTS = st.integers(0, 50) | st.sampled_from(
    [-1, 2.0, 2.5, -0.0, 1e12, 1e13, 1e300, 2**40, 2**40 + 1, 2**64, True, "3"]
)
ODD_TEXTS = (
    b"", b"-", b"-0", b"01", b"1.", b".5", b"1e", b"1E+2", b"1e400", b"-1e400", b"1e-400", b"0.0e0",
    b"1.50e1", b"+1", b"NaN", b"Infinity", b"nul", b"tru", b"truex", b"false", b"null", b"[1,]", b"[,1]",
    b'{"a":1,}', b'{,"a":1}', b"{1:2}", b"[1 2]", b'{"a" 1}', b'"\x01"', b'"\x7f"', b'"\xff"',
    b'"\\ud83d\\ude42"', b'"\\ud83d"', b'"\\ude42"', b'"\\ud83d\\u0041"', b'"\\u12"', b'"\\x"', b'"\\', b'"',
    b'{"\xff":1}', b'{"\\ud800":1}', b"\x0b1", b"1\x0c", b"9" * 30, b"9" * 4300, b"9" * 4301,
    b"-" + b"9" * 4300, b"-" + b"9" * 4299, b"[" * 500, b"[" * 500 + b"]" * 500, b'{"usage":' * 40,
    "é日🙂".encode()[:-1], b"1099511627776", b"1099511627777", b"1099511627777.0", b'"\\ude42\\ude42"',
)  # fmt: skip


def split(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    places = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    return [data[a:b] for a, b in pairwise(places)]


def agree(
    api: Api,
    headers: Headers | None,
    pieces: Sequence[bytes],
    *,
    restore: Restore = None,
    stream: bool = False,
    flush: bool = False,
) -> None:
    """Both watches say the same of everything but the time they take."""
    times = iter(float(n * n % 97) / 64 + n for n in range(1 << 20))
    began = 0.0
    python = AnswerWatch(AnswerPlan(api=api, stream=stream, restore=restore), lambda: began)
    probe = native.AnswerProbe(api, stream, restore, ITL_S)
    if headers is not None:
        texts = {name.decode("utf-8", "replace"): value.decode("utf-8", "replace") for name, value in headers}
        head = head_of(texts, "10.0.0.1:80", next(times))
        python.headers(texts, head)
        assert probe.headers(headers, head.served, head.at) == msgspec.structs.astuple(head)
    assert probe.changes_length == python.changes_length
    for number, piece in enumerate(pieces):
        began = next(times)
        last = number == len(pieces) - 1 and not flush
        assert probe.chunk(piece, last, began) == python.chunk(piece, last)
    if flush:
        assert probe.flush() == python.flush()
        python.override_ignored = True
        probe.set_override_ignored()
    expected = python.report()
    found = list(probe.report())
    usage = expected.usage
    counts = None if usage is None else (
        usage.prompt_tokens, usage.completion_tokens, usage.total_tokens, usage.cached_tokens
    )  # fmt: skip
    *seen, _, processing_s = found
    assert [*seen[:5], seen[5], seen[6], tuple(seen[7])] == [
        expected.observed, expected.override_ignored, expected.first_at, expected.last_at,
        expected.body_bytes, counts, expected.response_id, tuple(expected.gaps),
    ]  # fmt: skip
    assert found[8] == pytest.approx(expected.gaps_s)
    assert processing_s >= 0


TYPES = (
    b"text/event-stream", b"text/event-stream; charset=utf-8", b" Text/Event-Stream ;x", b"application/json",
    b"application/problem+JSON", b"application/json;charset=utf-8", b"application/grpc", b"audio/mpeg", b"",
    b";", b"\xc2\xa0application/json\x1c", b"text/event-stream\xff", b"\xff+json", "\u212a".encode(), b"json",
)  # fmt: skip
ENCODINGS = (b"", b"identity", b"Identity", b" identity ", b"gzip", b"\xff")
HEADERS = st.none() | st.lists(
    st.tuples(st.just(b"content-type"), st.sampled_from(TYPES))
    | st.tuples(st.just(b"content-encoding"), st.sampled_from(ENCODINGS))
    | st.tuples(
        st.just(b":status"), st.sampled_from((b"200", b"503", b"20", b"2000", b"-20", b"+20", b"\xd9\xa1"))
    )
    | st.tuples(st.sampled_from((b"server", b"date", b"x-envoy-overloaded", b"x-\xff")), st.just(b"x")),
    max_size=5,
)
RESTORES = st.none() | st.tuples(
    st.sampled_from(('a"\\\n', "日", "target", "m", "", '"model":"m')),
    st.sampled_from(("alias", "m", "\0\x7fé", "")),
)
APIS = st.sampled_from(list(Api))
REPORTS = st.recursive(
    st.dictionaries(st.sampled_from(NAMES), COUNTS | TEXT | st.none(), max_size=6),
    lambda inner: st.dictionaries(st.sampled_from(NAMES), inner | COUNTS | JSON_VALUES, max_size=5),
    max_leaves=6,
)


@st.composite
def json_texts(draw: st.DrawFn) -> bytes:
    """A report as engines or nobody would write it: with members twice, with escapes, with odd values."""
    body: Any = draw(REPORTS | st.lists(REPORTS, max_size=4))
    text = json.dumps(
        body,
        ensure_ascii=draw(st.booleans()),
        separators=draw(st.sampled_from(((",", ":"), (" , ", " :\n ")))),
    ).encode()
    for _ in range(draw(st.integers(0, 3))):
        name = draw(st.sampled_from(NAMES)).encode()
        value = draw(st.sampled_from(ODD_TEXTS) | st.binary(max_size=5) | st.just(b'{"prompt_tokens":4}'))
        escaped = b"".join(b"\\u%04x" % byte for byte in name) if draw(st.booleans()) else name
        at = draw(st.sampled_from([n for n, byte in enumerate(text) if byte == 0x7B] or [len(text) - 1])) + 1
        more = b"," if text[at : at + 1] != b"}" else b""
        text = text[:at] + b'"' + escaped + b'":' + value + more + text[at:]
    return text


MODELS = st.sampled_from(
    (
        b'"model":"m"', b'"model": "target"', b'"model":  "m"', '{"model":"日"}'.encode(), b'"mod',
        b'"model":"a\\"\\\\\\n"', b'"model":"\\"model\\":\\"m"', b'"model":"m"model":"m"',
    )
)  # fmt: skip
LINES = st.sampled_from(
    (b": ping", b"event: x", b"data: [DONE]", b"data:", b"", b"data: {}", b" data: {}", b"retry: 1")
)
EVENTS = st.builds(
    lambda start, text, end: start + text + end,
    st.sampled_from((b"data: ", b"data:", b"data:\x0b", b"", b"event: ")),
    json_texts() | MODELS,
    st.sampled_from((b"\n\n", b"\r\n", b"\n", b"")),
)
STREAMS = st.lists(EVENTS | st.builds(bytes.__add__, LINES, st.just(b"\n")) | MODELS, max_size=8).map(
    b"".join
)
CUTS = st.lists(st.integers(0, 900), max_size=12)


@given(APIS, HEADERS, STREAMS | json_texts(), CUTS, RESTORES, st.booleans(), st.booleans())
@example(Api.CHAT, None, b"", [], None, False, False)
@example(Api.CHAT, None, b" \n", [], ("m", "alias"), False, True)
def test_odd_answers(
    api: Api,
    headers: Headers | None,
    data: bytes,
    cuts: Sequence[int],
    restore: Restore,
    stream: bool,
    flush: bool,
) -> None:
    agree(api, headers, split(data, cuts), restore=restore, stream=stream, flush=flush)


@given(
    APIS, st.sampled_from((b"text/event-stream", b"application/json")), STREAMS | json_texts(), CUTS, RESTORES
)
def test_answers_with_a_type(
    api: Api, media: bytes, data: bytes, cuts: Sequence[int], restore: Restore
) -> None:
    agree(api, [(b"content-type", media)], split(data, cuts), restore=restore)


@given(APIS, HEADERS, st.lists(st.binary(max_size=40)), RESTORES)
def test_any_bytes(api: Api, headers: Headers | None, pieces: list[bytes], restore: Restore) -> None:
    agree(api, headers, pieces, restore=restore, flush=True)


@pytest.mark.parametrize("text", ODD_TEXTS, ids=range(len(ODD_TEXTS)))
def test_odd_values(text: bytes) -> None:
    for name in ("prompt_tokens", "cached_tokens", "prompt_tokens_details", "x"):
        report = b'{"total_tokens":1,"%s":%s}' % (name.encode(), text)
        agree(Api.CHAT, None, [b'{"usage":%s}' % report])
        agree(Api.CHAT, None, [b"data: %s\n" % (b'{"usage":%s}' % report)])
        agree(Api.CHAT, None, [b'{"%s":{"usage":{"total_tokens":1}},"x":"%s","usage":%s}' % (
            b"response", b"x" * MAX_WHOLE_BYTES, report)])  # fmt: skip
    for name in ("id", "usage", "response", "x"):
        body = b'{"%s":%s,"meta_info":{"total_tokens":1}}' % (name.encode(), text)
        agree(Api.RESPONSES, None, [body])
        agree(Api.RESPONSES, None, [b"[%s , %s]" % (body, body)])
        agree(Api.RESPONSES, None, [b'{"id":"x","response":%s,"message":{"id":"y"}}' % body])


BROKEN = st.binary(max_size=6)
NUMBERS = st.integers(0, 2**64 - 1)
FIELDS = st.builds(field, st.integers(0, 6), NUMBERS | st.binary(max_size=12) | st.just(b"\x11" + bytes(8)))


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    inner = b"".join(draw(st.lists(FIELDS, max_size=5)))
    fixed = draw(st.sampled_from((b"", b"\x19" + bytes(8), b"\x1d" + bytes(4))))
    outer = fixed + b"".join(draw(st.lists(FIELDS, max_size=2))) + field(draw(st.integers(1, 3)), inner)
    return frame(
        outer + draw(st.just(b"") | BROKEN | st.sampled_from((b"\x19" + bytes(8), b"\x1d" + bytes(3))))
    )


@given(st.lists(messages() | BROKEN.map(frame) | st.just(b"\1" + frame(b"zz")[1:]), max_size=5), BROKEN, CUTS)
def test_grpc_answers(parts: list[bytes], end: bytes, cuts: Sequence[int]) -> None:
    agree(Api.VLLM_GRPC, [(b"content-type", b"application/grpc")], split(b"".join(parts) + end, cuts))


@pytest.mark.parametrize("step", [50_000, 1 << 22])
def test_grpc_giants(step: int) -> None:
    complete = frame(field(2, field(3, varint(9)) + field(3, 9) + field(4, 2)))
    data = frame(b"x" * (1 << 20)) + frame(b"x" * (3 << 20)) + complete
    agree(Api.VLLM_GRPC, None, [data[at : at + step] for at in range(0, len(data), step)])


@pytest.mark.parametrize("step", [997, 65_000, 1 << 30])
@pytest.mark.parametrize(
    "start", [b'{"id":"resp_1",', b' { "id" : "r\xff" ,', b'{"id":"\\n",', b'{"x":1,', b"{"]
)
def test_long_json_answers(step: int, start: bytes) -> None:
    usage = b'"usage" : {"prompt_tokens":%d, "cached_tokens":"\xff"} ,'
    filling = b'"a":[' + b"0.123456," * 60_000 + b"1],"
    cut = b'"meta_info":{"prompt_tokens":8,"x":"' + b"x" * MAX_REPORT_BYTES + b'"},'
    nan = b'"usage":{"prompt_tokens":NaN},"usage":{"x":"\\ud800","prompt_tokens":6},'
    data = (
        start
        + usage % 1
        + filling
        + b'"b":"'
        + b"y" * 300
        + b'",'
        + usage % 2
        + cut
        + nan
        + filling
        + b'"z":0}'
    )
    for end in (len(data), len(data) // 2, 300_000):
        pieces = [data[at : min(at + step, end)] for at in range(0, end, step)]
        agree(Api.RESPONSES, [(b"content-type", b"application/json")], pieces)
        agree(Api.CHAT, [(b"content-type", b"application/json")], pieces)


@pytest.mark.parametrize("api", [Api.CHAT, Api.RESPONSES])
def test_longest_lines(api: Api) -> None:
    usage = b'{"id":"x","usage":{"prompt_tokens":7}}'
    other = [b'data: {"usage":{"prompt', b'_tokens":8,"total_tokens":9}}\n']
    for start in (b"da", b"data: ", b"x"):
        giant = [start, *[b"ta: " + b"x" * 65_532] * (MAX_LINE_BYTES // 65_536), b"xx", usage + b"\n\n"]
        agree(api, [(b"content-type", b"text/event-stream")], [*giant, *other])
        agree(api, [(b"content-type", b"text/event-stream")], [*other, *giant])


@pytest.mark.parametrize("more", [0, 1])
def test_longest_reports(more: int) -> None:
    start = b'{"prompt_tokens":5,"x":"'
    report = start + b"x" * (MAX_REPORT_BYTES - len(start) - 2 + more) + b'"}'
    body = b'{"usage":{"prompt_tokens":1},"a":"%s","usage":%s}' % (b"x" * MAX_WHOLE_BYTES, report)
    agree(Api.CHAT, [(b"content-type", b"application/json")], [body])


@pytest.mark.parametrize("media", TYPES)
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_kinds_of_answers(media: bytes, encoding: bytes) -> None:
    body = b'{"id":"x","usage":{"prompt_tokens":7}}'
    headers = [(b"content-type", b"text/html"), (b"content-type", media), (b"content-encoding", encoding)]
    for data in (body, b"data: %s\n\n" % body):
        for api in (Api.CHAT, Api.RESPONSES, Api.VLLM_GRPC):
            agree(api, headers, [data], restore=("m", "alias"))


@pytest.mark.parametrize("outer", [b"", b'"usage":null,', b'"usage":{"total_tokens":1},', b'"meta_info":{},'])
@pytest.mark.parametrize("inner", [b"{}", b'{"usage":null}', b'{"usage":{"total_tokens":2}}', b"[]"])
def test_reports_one_level_down(outer: bytes, inner: bytes) -> None:
    for data in (b'{%s"response":%s}', b'{%s"message":%s}', b'{%s"response":{"usage":{}},"message":%s}'):
        agree(Api.RESPONSES, None, [data % (outer, inner)])


@pytest.mark.parametrize("step", [1, 3, 100])
def test_names_put_back(step: int) -> None:
    data = b'"model":"m"model":"m" "model": "m","model":"mm" "model":  "m"\n"model":"m"'
    for restore in (("m", "alias"), ("m", "m"), ("m", ""), ('m"model', "x")):
        pieces = [data[at : at + step] for at in range(0, len(data), step)]
        agree(Api.CHAT, None, pieces, restore=restore)
        agree(Api.CHAT, [(b"content-type", b"application/json")], pieces, restore=restore, flush=True)


@pytest.mark.parametrize("fixed", [b"\x19" + bytes(8), b"\x1d" + bytes(4), b"\x19" + bytes(7), b"\x1b"])
def test_grpc_fields_of_fixed_size(fixed: bytes) -> None:
    counts = field(3, 9) + field(4, 2)
    for message in (fixed + field(2, counts), field(2, fixed + counts), field(2, counts) + fixed):
        agree(Api.VLLM_GRPC, None, [frame(message)])
