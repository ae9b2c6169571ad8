"""Whatever comes over real gRPC, in any order: the real director ends every stream and forgets it wholly."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import Iterator, Sequence
from typing import Any

import grpc.aio
import pytest
from envoy.config.core.v3 import base_pb2
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb
from hypothesis import given, settings
from hypothesis import strategies as st

from epp.extproc.transport import Limits
from tests.fakes.sink import CountingSink
from tests.house import House, chat
from tests.wire import gateway as gw
from tests.wire.transports import TRANSPORTS, build

CHAT = {":method": "POST", ":path": "/v1/chat/completions", "x-gateway-model-name-rewrite": "target"}
SUBSETS = [
    None,
    ["10.0.0.1:8000"],
    ["10.9.9.9"],
    [],
    "",
    ["", ",", 5, None, {"a": 1}, ["10.0.0.1"]],
    "[::1]:80,10.0.0.2:8000",
]  # fmt: skip
NAMES = ["x-request-id", ":path", "content-encoding", "traceparent", ":status", "content-type", "X-Odd"]
VALUES = [b"", b"\xff\xfe\x00", b"a\r\nb: c", "²".encode(), b"/v1/responses/x", b"9" * 5000, b"gzip"]


class Served:
    """A transport on a loop of its own, in front of the real rooms."""

    def __init__(self, kind: str) -> None:
        self.house = House(4)
        self.sink = CountingSink()
        limits = Limits(max_body_bytes=300_000)
        self.transport = build(kind, self.house.director, sink=self.sink, limits=limits)
        self.loop = asyncio.new_event_loop()
        self.run(self.transport.start())
        self.channel = self.run(self._channel())

    async def _channel(self) -> grpc.aio.Channel:
        return gw.channel(self.transport.port)

    def run(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    def stop(self) -> None:
        self.run(self.channel.close())
        self.run(self.transport.stop(0))
        self.loop.close()
        gc.collect()

    async def talk(self, messages: Sequence[pb.ProcessingRequest], leaves: bool) -> None:
        """One stream; the replies are read while messages are written, as Envoy does."""
        call = gw.stream(self.channel)

        async def replies() -> list[pb.ProcessingResponse]:
            return [reply async for reply in call]

        reading = asyncio.ensure_future(replies())
        try:
            for message in messages:
                await call.write(message)
            if leaves:
                call.cancel()
            else:
                await call.done_writing()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            pass  # it was ended before
        await asyncio.gather(reading, return_exceptions=True)
        await call.code()

    async def all_ended(self) -> None:
        """A transport may tell of ends a little later than it counts them."""
        house, transport = self.house, self.transport
        while (
            transport.open_streams
            or transport.held_bytes
            or house.ledger.open_entries
            or house.director.kept_bytes
        ):
            await asyncio.sleep(0.001)


@pytest.fixture(scope="module", params=TRANSPORTS)
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    served = Served(request.param)
    yield served
    served.stop()


def _odd(message: pb.ProcessingRequest, header: tuple[str, bytes] | None) -> pb.ProcessingRequest:
    if header is not None:
        kind = message.WhichOneof("request")
        fields = getattr(message, kind).headers.headers
        fields.append(base_pb2.HeaderValue(key=header[0], raw_value=header[1]))
    return message


MODES = st.tuples(st.integers(0, 4), st.integers(0, 4)) | st.just((4, 4)) | st.sampled_from([(9, -1), None])
ODD = st.none() | st.tuples(st.sampled_from(NAMES), st.sampled_from(VALUES))
BODIES = st.sampled_from(
    [b"", b"{", chat(), chat("long " * 20_000), chat(model=""), b"\xff", json.dumps([1]).encode()]
)
ANSWERS = st.sampled_from([b"", b'data: {"usage": {"completion_tokens": 3}}\n\n', b'{"model":"tar', b"\xff"])
HEAD = st.builds(
    lambda end, modes, subset, odd: _odd(gw.request_headers(CHAT, end=end, modes=modes, subset=subset), odd),
    st.booleans(), MODES, st.sampled_from(SUBSETS), ODD,
)  # fmt: skip
BODY = st.builds(lambda data, end: gw.request_body(data, end=end), BODIES, st.booleans())
TRAILERS = st.builds(gw.request_trailers)
ANSWER_HEAD = st.builds(
    lambda status, end, served, odd: _odd(gw.answer_headers(status, end=end, served=served), odd),
    st.sampled_from([200, 404, 500, 503]), st.booleans(),
    st.sampled_from(["", "10.0.0.2:8000", "10.9.9.9:1", ",", "\x00"]), ODD,
)  # fmt: skip
ANSWER = st.builds(lambda data, end: gw.answer_body(data, end=end), ANSWERS, st.booleans())
ANSWER_TRAILERS = st.just(pb.ProcessingRequest(response_trailers=pb.HttpTrailers()))
NOTHING = st.just(pb.ProcessingRequest())
ANY = st.lists(
    st.one_of(HEAD, BODY, TRAILERS, ANSWER_HEAD, ANSWER, ANSWER_TRAILERS, NOTHING), max_size=7
)  # fmt: skip


@st.composite
def likely(draw: st.DrawFn) -> list[pb.ProcessingRequest]:
    """What Envoy may send, any part of it skipped or cut off."""
    parts = [
        [draw(HEAD)],
        draw(st.lists(BODY, max_size=3)),
        draw(st.lists(TRAILERS, max_size=1)),
        [draw(ANSWER_HEAD)],
        draw(st.lists(ANSWER, max_size=3)),
        draw(st.lists(ANSWER_TRAILERS, max_size=1)),
    ]
    whole = [message for part in parts if draw(st.integers(0, 5)) for message in part]
    return whole[: draw(st.integers(0, len(whole)))] if draw(st.booleans()) else whole


STREAMS = st.lists(st.tuples(st.one_of(ANY, likely()), st.booleans()), min_size=1, max_size=4)


@settings(max_examples=60, deadline=None)
@given(streams=STREAMS)
def test_every_stream_ends_and_nothing_is_left(
    served: Served, streams: list[tuple[list[pb.ProcessingRequest], bool]]
) -> None:
    async def play() -> None:
        async with asyncio.timeout(20):
            await asyncio.gather(*(served.talk(*stream) for stream in streams))
            await served.all_ended()

    served.run(play())
    assert set(served.sink.closed) <= {"OK", "INVALID_ARGUMENT", "CANCELLED"}
    assert served.sink.errors == []
    assert "epp_internal_errors_total{" not in served.house.page()
    assert served.house.ledger.open_entries == 0
    assert served.house.inflight() == (0, 0)
    assert served.house.director.kept_bytes == 0
    assert served.transport.held_bytes == 0
