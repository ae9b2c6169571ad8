"""Envoy's messages to values and back: odd headers, odd metadata, values that would break a request."""

from __future__ import annotations

from typing import Any

import pytest
from envoy.config.core.v3 import base_pb2
from envoy.extensions.filters.http.ext_proc.v3.processing_mode_pb2 import ProcessingMode
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb
from hypothesis import given
from hypothesis import strategies as st

from epp.extproc.actions import HeadersReply, Side
from epp.extproc.codec import decode, encode
from epp.extproc.messages import Message


def sent(*fields: tuple[str, bytes, str]) -> dict[str, str]:
    message = pb.ProcessingRequest()
    message.request_headers.headers.headers.extend(
        [base_pb2.HeaderValue(key=key, raw_value=raw, value=value) for key, raw, value in fields]
    )
    decoded = decode(message)
    assert decoded is not None
    assert decoded[0] is Message.REQUEST_HEADERS
    return dict(decoded[1].headers or {})


def test_names_fold_and_the_last_of_repeated_ones_counts() -> None:
    assert sent(("X-A", b"one", ""), ("x-a", b"", "two"), ("x-b", b"raw", "plain")) == {
        "x-a": "two",
        "x-b": "raw",
    }


@given(st.lists(st.tuples(st.text(max_size=5), st.binary(max_size=9), st.text(max_size=5)), max_size=5))
def test_any_header_is_read(fields: list[tuple[str, bytes, str]]) -> None:
    headers = sent(*fields)
    assert set(headers) == {key.lower() for key, _, _ in fields}


@pytest.mark.parametrize("value", ["a\r\nx-b: c", "\x00", "tab\there", "\x7f", "\u2028"])
def test_no_value_holds_what_ends_a_line(value: str) -> None:
    """A plugin's value, say. Envoy refuses such a mutation and fails the request with it."""
    made = encode(HeadersReply(Side.ANSWER, (("x-a", value),)))
    assert made is not None
    (option,) = made.response_headers.response.header_mutation.set_headers
    raw = option.header.raw_value
    assert raw
    assert all(byte >= 32 and byte != 127 for byte in raw)


@pytest.mark.parametrize("skip", [True, False])
def test_a_body_that_need_not_be_sent_is_told_by_an_override(skip: bool) -> None:
    """Its trailers are still wanted: they end the answer."""
    made = encode(HeadersReply(Side.ANSWER, skip_body=skip))
    assert made is not None
    assert made.WhichOneof("response") == "response_headers"
    assert made.HasField("mode_override") is skip
    if skip:
        modes = made.mode_override
        assert modes.response_body_mode == ProcessingMode.NONE
        assert modes.response_trailer_mode == ProcessingMode.SEND


def test_printable_values_go_as_they_are() -> None:
    made = encode(HeadersReply(Side.REQUEST, (("x-a", "a b; ü=\u4e2d"),), ("x-b",)))
    assert made is not None
    mutation = made.request_headers.response.header_mutation
    assert mutation.set_headers[0].header.raw_value.decode() == "a b; ü=\u4e2d"
    assert list(mutation.remove_headers) == ["x-b"]


@pytest.mark.parametrize(
    ("hint", "subset"),
    [
        (None, None),
        (5, None),
        ({"a": 1}, None),
        ("", ()),
        ([], ()),
        ([1, None, ["x"]], ()),
        (" a:1 ,,b ", ("a:1", "b")),
        (["a,b", "c"], ("a", "b", "c")),
    ],
)
def test_subset_hints(hint: Any, subset: tuple[str, ...] | None) -> None:
    message = pb.ProcessingRequest()
    message.request_body.body = b"x"
    space = message.metadata_context.filter_metadata["envoy.lb.subset_hint"]
    space.update({"x-gateway-destination-endpoint-subset": hint})
    decoded = decode(message)
    assert decoded is not None
    assert decoded[1].subset == subset
