"""A door that fails ends the stream that it failed, and nothing else."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
import pytest
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb

from epp.domain.errors import Answer, Refused
from epp.domain.request import Body, RequestHead, Scanned
from epp.domain.views import AnswerHead, AnswerPlan, Ending, Report, Route, Verdict
from epp.extproc.certificates import self_signed
from epp.extproc.native import NativeTransport
from epp.extproc.transport import Transport
from tests.fakes.door import FakeCall, FakeDoor
from tests.fakes.sink import CountingSink
from tests.wire import gateway as gw
from tests.wire.transports import needs_native, serving

pytestmark = needs_native


class Broken(Exception):
    """What the door raises."""


@dataclass
class BrokenCall(FakeCall):
    breaks: frozenset[str] = frozenset()

    def _may(self, name: str) -> None:
        if name in self.breaks:
            raise Broken(name)

    def refuse_early(self) -> Answer | None:
        self._may("refuse_early")
        return super().refuse_early()

    def refuse(self, refused: Refused) -> Answer:
        self._may("refuse")
        return super().refuse(refused)

    def decide(
        self, body: Body, *, truncated: bool = False, scanned: Scanned | None = None
    ) -> Verdict | Awaitable[Verdict]:
        self._may("decide")
        verdict = super().decide(body, truncated=truncated, scanned=scanned)
        return self._later(verdict) if self.breaks & {"later", "cancelled", "nonsense"} else verdict

    async def _later(self, verdict: Any) -> Verdict:
        await asyncio.sleep(0)
        self._may("later")
        if "cancelled" in self.breaks:
            raise asyncio.CancelledError
        return "nonsense"  # type: ignore[return-value]

    def answered(self, head: AnswerHead) -> Sequence[tuple[str, str]]:
        self._may("answered")
        return super().answered(head)

    def first_token(self, at: float) -> None:
        self._may("first_token")
        super().first_token(at)

    def end(self, ending: Ending, report: Report) -> None:
        super().end(ending, report)
        self._may("end")


@dataclass
class BreakingDoor(FakeDoor):
    """Requests with the header `x-break` fail in the methods named there."""

    broken: list[BrokenCall] = field(default_factory=list)

    def open(self, head: RequestHead, *more: Any) -> FakeCall:
        breaks = frozenset(head.headers.get("x-break", "").split(","))
        if "open" in breaks:
            raise Broken("open")
        if breaks == {""}:
            return super().open(head, *more)
        self.broken.append(BrokenCall(head, self, breaks=breaks))
        return self.broken[-1]


def breaking(*methods: str) -> dict[str, str]:
    return {":method": "POST", ":path": "/v1/completions", "x-break": ",".join(methods)}


async def until(so: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not so():
            await asyncio.sleep(0.005)


async def status_of(call: Any) -> grpc.StatusCode:
    """Behind whatever was sent before it."""
    with suppress(grpc.aio.AioRpcError):
        while await call.read() is not grpc.aio.EOF:
            pass
    return await call.code()


async def check_served(channel: grpc.aio.Channel, door: BreakingDoor) -> None:
    call = gw.stream(channel)
    await call.write(gw.request_headers(end=True))
    assert gw.set_headers(await call.read()) == {"x-gateway-destination-endpoint": "10.0.0.1:8000"}
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    await until(lambda: door.calls[-1].endings == [Ending.CLIENT_DISCONNECT])


async def check_nothing_is_left(served: Transport, sink: CountingSink, *, errors: int) -> None:
    """`errors`: how many are counted once the counts were collected."""
    await until(lambda: (served.open_streams, served.held_bytes) == (0, 0))
    assert isinstance(served, NativeTransport)
    await until(lambda: served.known_streams == 0)
    assert sink.errors == ["stream"] * errors


@pytest.mark.parametrize(
    ("methods", "errors"),
    [
        (("open",), 1),
        (("decide",), 1),
        (("decide", "refuse"), 1),
        (("decide", "end"), 2),
        (("later",), 1),
        (("cancelled",), 1),
        (("nonsense",), 1),
    ],
    ids=str,
)
async def test_a_fault_before_the_verdict_is_a_500(methods: tuple[str, ...], errors: int) -> None:
    door = BreakingDoor()
    async with serving("native", door) as (served, sink), gw.channel(served.port) as channel:
        call = gw.stream(channel)
        await call.write(gw.request_headers(breaking(*methods), end=True))
        response: pb.ProcessingResponse = await call.read()
        assert response.immediate_response.status.code == 500
        assert await call.read() is grpc.aio.EOF
        await check_served(channel, door)
        await check_nothing_is_left(served, sink, errors=errors)
        assert [call.endings for call in door.broken] == [[Ending.REFUSED]] * len(door.broken)


async def test_a_fault_of_an_early_look_is_a_500() -> None:
    door = BreakingDoor()
    async with serving("native", door, early=True) as (served, sink), gw.channel(served.port) as channel:
        for method in ("refuse_early", "open"):
            call = gw.stream(channel)
            await call.write(gw.request_headers(breaking(method)))
            assert (await call.read()).immediate_response.status.code == 500
            assert await call.read() is grpc.aio.EOF
        await check_served(channel, door)
        await check_nothing_is_left(served, sink, errors=2)


@pytest.mark.parametrize("ask", [True, False])
@pytest.mark.parametrize("method", ["answered", "first_token"])
async def test_a_fault_during_the_answer_ends_its_stream(method: str, ask: bool) -> None:
    door = BreakingDoor(verdict=lambda call: Route("10.0.0.1:8000", answer=AnswerPlan(ask=ask)))
    async with serving("native", door) as (served, sink), gw.channel(served.port) as channel:
        call = gw.stream(channel)
        await call.write(gw.request_headers(breaking(method), end=True))
        await call.read()
        await call.write(gw.answer_headers())
        if method == "first_token":
            await call.write(gw.answer_body(b"token"))
        assert await status_of(call) is grpc.StatusCode.UNAVAILABLE
        await check_served(channel, door)
        await check_nothing_is_left(served, sink, errors=1)
        assert door.broken[0].endings == [Ending.ERROR]


@pytest.mark.parametrize("method", ["answered", "end"])
async def test_a_fault_at_the_end_frees_what_the_request_held(method: str) -> None:
    door = BreakingDoor(verdict=lambda call: Route("10.0.0.1:8000"))
    async with serving("native", door) as (served, sink), gw.channel(served.port) as channel:
        call = gw.stream(channel)
        await call.write(gw.request_headers(breaking(method), end=True))
        await call.read()
        # One batch of events: the answer is told with the end.
        await call.write(gw.answer_headers(end=True))
        await call.done_writing()
        while await call.read() is not grpc.aio.EOF:
            pass
        await until(lambda: bool(door.broken[0].endings))
        await check_served(channel, door)
        await check_nothing_is_left(served, sink, errors=1)
        assert len(door.broken[0].endings) == 1


async def test_a_health_check_that_fails_is_answered() -> None:
    def ready() -> bool:
        raise Broken("ready")

    async with serving("native", FakeDoor(), ready=ready) as (served, sink):
        async with gw.channel(served.port) as channel:
            check = channel.unary_unary("/grpc.health.v1.Health/Check")
            assert await check(b"", timeout=10) == b"\x08\x02"  # NOT_SERVING
        assert sink.errors == ["stream"]


FORK = """
import os
from inference_epp_native import Server

server = Server(
    max_body_bytes=1, max_buffered_bytes=1, max_streams=1, max_message_bytes=1, progress_timeout_s=1,
    answer_timeout_s=1, max_connection_age_s=0, ask_headers=False, health_checking=False, gap_bounds=[],
    stream_bounds=[1], handoff_bounds=[1],
)
server.start("127.0.0.1:0")
child = os.fork()
if child == 0:
    refused = 0
    for call in (server.counts, lambda: server.drain(1), lambda: server.stop(0)):
        try:
            call()
        except RuntimeError:
            refused += 1
    server.join()  # returns, though the thread is not here
    del call, server
    os._exit(0 if refused == 3 else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
del server  # ends its thread, though nobody stopped it
assert os.listdir("/proc/self/task") == [str(os.getpid())]
"""


async def test_a_fork_has_no_part_in_the_transport() -> None:
    forking = await asyncio.create_subprocess_exec(sys.executable, "-W", "ignore", "-c", FORK)
    async with asyncio.timeout(20):
        assert await forking.wait() == 0


async def test_connections_are_counted_and_those_that_fail_to_shake_hands() -> None:
    pair = self_signed()
    async with serving("native", FakeDoor(), tls=lambda: pair) as (transport, sink):
        _, writer = await asyncio.open_connection("127.0.0.1", transport.port)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")  # no TLS
        async with asyncio.timeout(10):
            while not sink.failed_handshakes:
                transport.collect()
                await asyncio.sleep(0.005)
        writer.close()
        assert (sink.failed_handshakes, sink.open_connections) == (1, 0)
    async with serving("native", FakeDoor()) as (transport, sink), gw.channel(transport.port) as channel:
        call = gw.stream(channel)
        await call.write(gw.request_headers(end=True))
        await call.read()
        transport.collect()
        assert (sink.failed_handshakes, sink.open_connections) == (0, 1)
        call.cancel()
