"""The compiled decoder takes and refuses the same messages as python-protobuf, and reads the same."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from epp.extproc.codec import decode
from tests.native import streams as on

native = pytest.importorskip("inference_epp_native")


def reference(message: bytes) -> Any:
    """What the Python decoder reads; None for none of the six kinds. Raises DecodeError."""
    request = pb.ProcessingRequest.FromString(message)
    decoded = decode(request)
    if decoded is None:
        return None
    kind, piece = decoded
    modes = None
    if request.HasField("protocol_config"):
        config = request.protocol_config
        modes = (config.request_body_mode, config.response_body_mode)
    headers = dict(piece.headers or {})
    return (
        kind.name.lower(), headers, piece.data, piece.end_of_stream, modes, piece.subset, piece.served,
        piece.pool,
    )  # fmt: skip


def agree(message: bytes) -> None:
    try:
        expected = reference(message)
    except DecodeError:
        with pytest.raises(ValueError, match="malformed message"):
            native.decode(message)
    else:
        assert native.decode(message) == expected


@st.composite
def full(draw: st.DrawFn) -> pb.ProcessingRequest:
    """A message with what Envoy may add and nobody reads."""
    request = draw(on.requests())
    if draw(st.booleans()):
        request.protocol_config.CopyFrom(
            on.modes_of(*draw(st.tuples(st.sampled_from(on.MODES), st.integers())))
        )
    if draw(st.booleans()):
        request.attributes["envoy.filters.http.ext_proc"].update(
            {"request.path": "/", "n": [1.5, {"d": None}]}
        )
        request.metadata_context.typed_filter_metadata["t"].type_url = "type.googleapis.com/x"
    if draw(st.booleans()):
        request.observability_mode = True
    return request


MESSAGES = st.lists(
    full().map(lambda message: bytes(message.SerializeToString())), min_size=1, max_size=2
).map(b"".join)
TEXTS = [
    b"envoy.lb", b"envoy.lb.subset_hint", b"x-gateway-destination-endpoint-subset", b"a, b", b"", b"X-Odd",
    b"x-gateway-destination-endpoint-served", b"x-gateway-inference-pool", b"\x1c\xe3\x80\x80,c",
    "\u0130\u03a3".encode(), b"\0",
]  # fmt: skip
KEYS = TEXTS[:3] + TEXTS[5:8]
BAD_TEXTS = [b"\xff", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc0\x80", b"ok\xe2\x82"]
NUMBERS = [0, 1, 1, 2, 3, 5, 1 << 31, (1 << 32) + 1, (1 << 64) - 1, 1 << 63]
WIRE_TYPES = {8: 0, 14: 0, 1: 1}
"""By the descriptor's type; all others that occur are length-delimited."""


def varint(number: int, bytes_more: int = 0) -> bytes:
    """`bytes_more`: spelled longer than it need be."""
    spelled = b""
    while number > 0x7F or bytes_more:
        bytes_more -= number <= 0x7F
        spelled += bytes([number & 0x7F | 0x80])
        number >>= 7
    return spelled + bytes([number])


class Scribe:
    """Writes messages of a given kind, now and then with something that does not belong there."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.oddity = self.random.choice([0.0, 0.005, 0.02, 0.1])

    def odd(self) -> bool:
        return self.random.random() < self.oddity

    def message(self, kind: Any, depth: int = 0) -> bytes:
        written = b""
        for _ in range(self.random.choice([0, 1, 1, 2, 2, 3]) + (depth == 0)):
            field = self.random.choice(kind.fields)
            number, wire_type = field.number, WIRE_TYPES.get(field.type, 2)
            if self.odd():
                number = self.random.choice([0, 1, 2, 3, 100, (1 << 29) - 1, 1 << 29])
            if self.odd():
                wire_type = self.random.randrange(8)
            tag = varint(number << 3 | wire_type, self.random.randrange(6) if self.odd() else 0)
            written += tag + self.value(field, number, wire_type, depth + 1)
        return written[: self.random.randrange(len(written) + 1)] if self.odd() else written

    def value(self, field: Any, number: int, wire_type: int, depth: int) -> bytes:
        if wire_type == 0:
            return varint(self.random.choice(NUMBERS), self.random.randrange(11) if self.odd() else 0)
        if wire_type in (1, 5):
            return b"12345678"[: 8 if wire_type == 1 else 4]
        if wire_type == 3:
            end = number + 1 if self.odd() else number
            return self.message(pb.ProcessingRequest.DESCRIPTOR, depth) + varint(end << 3 | 4)
        if wire_type != 2:
            return b""
        if field.message_type is None:
            texts = KEYS if field.name == "key" else TEXTS
            content = self.random.choice(BAD_TEXTS if self.odd() or field.type == 12 else texts)
        else:
            content = self.message(field.message_type, depth) if depth < 14 else b""
        wrong = self.random.choice([-1, 1, 1 << 31]) if self.odd() else 0
        return varint(max(0, len(content) + wrong), self.random.randrange(6) if self.odd() else 0) + content


@given(MESSAGES)
def test_messages_are_read_alike(message: bytes) -> None:
    agree(message)


@given(
    MESSAGES, st.lists(st.tuples(st.floats(0, 1), st.sampled_from("+-~^"), st.integers(0, 255)), max_size=3)
)
def test_broken_messages_are_read_or_refused_alike(
    message: bytes, edits: list[tuple[float, str, int]]
) -> None:
    broken = bytearray(message)
    for where, edit, byte in edits:
        at = int(where * len(broken))
        if edit == "+":
            broken.insert(at, byte)
        elif edit == "-":
            del broken[at : at + 1]
        elif edit == "^" and at < len(broken):
            broken[at] ^= 1 << byte % 8
        else:
            del broken[at:]
    agree(bytes(broken))


@given(st.integers(0, (1 << 64) - 1))
def test_whatever_looks_like_protobuf_is_read_or_refused_alike(seed: int) -> None:
    scribe = Scribe(seed)
    for _ in range(20):
        agree(scribe.message(pb.ProcessingRequest.DESCRIPTOR))


@given(st.binary(max_size=40))
def test_noise_is_read_or_refused_alike(message: bytes) -> None:
    agree(message)


def inside(number: int, message: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(message)) + message


@pytest.mark.parametrize("depth", [*range(29, 35), *range(45, 52), 98, 99, 100, 101, 5000])
def test_nesting_has_the_same_limit(depth: int) -> None:
    lists = structs = inside(3, b"x")
    for _ in range(depth):
        lists = inside(6, inside(1, lists))
        structs = inside(5, inside(1, inside(2, structs)))
    groups = varint(100 << 3 | 3) * depth + varint(100 << 3 | 4) * depth
    for message in (
        inside(8, inside(1, inside(2, inside(1, inside(2, lists))))),
        inside(9, inside(2, inside(1, inside(2, structs)))),
        groups,
        inside(2, groups),
    ):
        agree(message)


def test_an_entry_with_an_unknown_field_is_left_out() -> None:
    value = inside(1, inside(1, b"x-gateway-destination-endpoint-subset") + inside(2, inside(3, b"a:1")))
    entry = inside(1, b"envoy.lb.subset_hint") + inside(2, value)
    asked = inside(2, b"")
    for more in (b"", inside(3, b""), b"\x18\x01", b"\x08\x01"):
        agree(asked + inside(8, inside(1, entry + more)))
        agree(asked + inside(8, inside(1, entry) + inside(1, entry + more)))
    assert native.decode(asked + inside(8, inside(1, entry)))[5] == ("a:1",)


def test_a_kind_that_comes_twice_is_merged_and_another_replaces_it() -> None:
    body, end, headers = inside(4, inside(1, b"abc")), inside(4, b"\x10\x01"), inside(2, inside(1, b""))
    agree(body + end)
    agree(body + headers + end)
    agree(headers + inside(2, inside(1, inside(1, inside(1, b"x")))) + body + headers)
    assert native.decode(body + end)[2:4] == (b"abc", True)
    assert native.decode(body + headers + end)[2:4] == (b"", True)
