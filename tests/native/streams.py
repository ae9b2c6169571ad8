"""ext_proc messages for tests that feed the same stream to both exchanges, and random streams of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from envoy.extensions.filters.http.ext_proc.v3.processing_mode_pb2 import ProcessingMode
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb
from google.protobuf import struct_pb2
from hypothesis import strategies as st

MODES = (-7, *ProcessingMode.BodySendMode.values(), 77)
SIZES = (0, 1, 2, 3, 61_999, 62_000, 62_001, 124_001)
PAIRS = [
    ("x-request-id", b"r1"), (":path", b"/v1/chat/completions?x=1"), (":method", b"GET"),
    (":status", b"200"), (":status", b"5\xc2\xb25"), ("content-length", b"3"), ("content-length", b"62001"),
    ("content-length", b""), ("content-length", "\u00b2".encode()), ("content-length", b"-1"),
    ("content-length", b"9999999999999999999"), ("content-length", b"999999999999999"),
    ("content-type", b"text/event-stream; charset=utf-8"), ("content-type", b"application/json"),
    ("content-encoding", b"gzip"), ("content-encoding", b"identity"), ("server", b"uvicorn"),
    ("x-gateway-destination-endpoint-served", b"10.0.0.1:8000"), ("X-Odd", b"\xff\xc3("),
    ("X-Gateway-Destination-Endpoint-Served", b"10.9.9.9:1"),
    ("x-gateway-destination-endpoint-served", b""), ("\u0130\u03a3", b"x"),
]  # fmt: skip
LISTS = st.lists(
    st.sampled_from(
        ["10.0.0.1:8000", " a , b,", "\x1cx\x1f", "\u3000y\u200b", "", ",", 5, None, True, ["a"], {"b": "c"}]
    ),
    max_size=3,
)
HINTS = LISTS | st.sampled_from(["10.0.0.1:80, [::1]:90", "", 7, None, {"a": 1}])


def headers_of(pairs: Sequence[tuple[str, bytes]], end: bool) -> pb.HttpHeaders:
    message = pb.HttpHeaders(end_of_stream=end)
    for name, value in pairs:
        message.headers.headers.add(key=name, raw_value=value)
    return message


def body_of(size: int, end: bool, fill: bytes = b"x") -> pb.HttpBody:
    return pb.HttpBody(body=(fill * (size // len(fill) + 1))[:size], end_of_stream=end)


def tell(request: pb.ProcessingRequest, namespace: str, key: str, value: Any) -> None:
    """Puts dynamic metadata on a message."""
    fields = struct_pb2.Struct()
    fields.update({key: value, "other": [1, "x", {"y": None}]})
    request.metadata_context.filter_metadata[namespace].CopyFrom(fields)


def modes_of(request: int, answer: int) -> pb.ProtocolConfiguration:
    return pb.ProtocolConfiguration.FromString(b"\x08" + _varint(request) + b"\x10" + _varint(answer))


def _varint(number: int) -> bytes:
    number &= (1 << 64) - 1
    spelled = b""
    while number > 0x7F:
        spelled += bytes([number & 0x7F | 0x80])
        number >>= 7
    return spelled + bytes([number])


HEADERS = st.builds(
    headers_of, st.lists(st.sampled_from(PAIRS), max_size=5), st.sampled_from([False, False, True])
)
FILLS = st.sampled_from(
    [b"x", b'{"model": "served-name", "usage": {"prompt_tokens": 3}}', b'data: {"model":"served-name"}\n\n']
)
BODIES = st.builds(body_of, st.sampled_from(SIZES) | st.integers(0, 90), st.booleans(), FILLS)
TRAILERS = st.builds(pb.HttpTrailers)
KINDS: Mapping[str, st.SearchStrategy[object]] = {
    "request_headers": HEADERS,
    "request_body": BODIES,
    "request_trailers": TRAILERS,
    "response_headers": HEADERS,
    "response_body": BODIES,
    "response_trailers": TRAILERS,
}
USUAL = [
    ["request_headers", "request_body", "request_body", "response_headers", "response_body", "response_body"],
    [
        "request_headers",
        "request_body",
        "response_headers",
        "response_body",
        "response_body",
        "response_body",
    ],
    [
        "request_headers",
        "request_body",
        "request_trailers",
        "response_headers",
        "response_body",
        "response_trailers",
    ],
    ["request_headers", "response_headers", "response_body", "response_body"],
    ["request_headers", "request_body", "request_body", "request_body", "response_body", "response_trailers"],
]


@st.composite
def requests(draw: st.DrawFn, kind: str | None = None) -> pb.ProcessingRequest:
    """One message, of any kind where none is given."""
    kind = kind or draw(st.sampled_from(sorted(KINDS)))
    request = pb.ProcessingRequest(**{kind: draw(KINDS[kind])})
    hinted = draw(st.integers(0, 9))
    if hinted == 0:
        tell(request, "envoy.lb.subset_hint", "x-gateway-destination-endpoint-subset", draw(HINTS))
    elif hinted == 1:
        value = draw(st.sampled_from(["10.0.0.1:8000", "10.9.9.9:1", "", 5, None]))
        tell(request, "envoy.lb", "x-gateway-destination-endpoint-served", value)
    elif hinted == 2:
        value = draw(st.sampled_from(["models/llama", "models/llama", "p\u00f6ol", "", 5, None, ["a"]]))
        tell(request, "envoy.lb", "x-gateway-inference-pool", value)
    elif hinted == 3:
        tell(request, draw(st.sampled_from(["envoy.lb", "envoy.lb.subset_hint", "else"])), "else", "x")
    return request


@st.composite
def streams(draw: st.DrawFn) -> list[pb.ProcessingRequest]:
    """Messages as Envoy sends them, with changes; or in any order. Lengths that are told are often true."""
    kinds = list(draw(st.sampled_from(USUAL)))
    if draw(st.booleans()):
        for _ in range(draw(st.integers(0, 3))):
            at = draw(st.integers(0, len(kinds) - 1))
            kinds.insert(at, draw(st.sampled_from([*sorted(KINDS), kinds[at], kinds[at]])))
        for _ in range(draw(st.sampled_from([0, 0, 1, 2]))):
            kinds.pop(draw(st.integers(0, len(kinds) - 1)))
    messages = [draw(requests(kind)) for kind in kinds]
    if draw(st.integers(0, 3)):
        for at, (kind, message) in enumerate(zip(kinds, messages, strict=True)):
            side = kind.partition("_")[0]
            if not kind.endswith("trailers"):
                follows = any(later.startswith(side) for later in kinds[at + 1 :])
                getattr(message, kind).end_of_stream = not follows
    for side in ("request", "response"):
        bodies = [
            len(message.request_body.body or message.response_body.body)
            for kind, message in zip(kinds, messages, strict=True)
            if kind == f"{side}_body"
        ]
        if draw(st.booleans()) and bodies:
            told = sum(bodies[: draw(st.integers(1, len(bodies)))])
            for kind, message in zip(kinds, messages, strict=True):
                if kind == f"{side}_headers":
                    fields = getattr(message, kind).headers.headers
                    fields.add(key="content-length", raw_value=str(told).encode())
    for side in ("request", "response"):
        if not draw(st.integers(0, 3)):  # Envoy may send a second end
            after = max((at for at, kind in enumerate(kinds) if kind.startswith(side)), default=0) + 1
            kind = f"{side}_{draw(st.sampled_from(['body', 'trailers']))}"
            again = pb.HttpBody(end_of_stream=True) if kind.endswith("body") else pb.HttpTrailers()
            kinds.insert(after, kind)
            messages.insert(after, pb.ProcessingRequest(**{kind: again}))
    return messages if draw(st.integers(0, 3)) else messages[: draw(st.integers(0, len(messages)))]
