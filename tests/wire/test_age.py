"""Connections that grow old are closed without a request being lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import grpc
import grpc.aio
import pytest

from epp.domain.views import Ending, Route
from epp.extproc.transport import Limits
from tests.fakes.door import FakeDoor
from tests.wire import gateway as gw
from tests.wire.transports import TRANSPORTS, serving


@pytest.fixture(params=TRANSPORTS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def until(so: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not so():
            await asyncio.sleep(0.005)


async def connects(channel: grpc.aio.Channel, seen: list[grpc.ChannelConnectivity]) -> None:
    """Every state that the gateway's connection goes through."""
    state = channel.get_state()
    while True:
        seen.append(state)
        await channel.wait_for_state_change(state)
        state = channel.get_state()


READY = grpc.ChannelConnectivity.READY


async def test_requests_under_load_outlive_their_connections(kind: str) -> None:
    """Until five connections have grown old, everything is answered."""
    limits = Limits(max_connection_age_s=0.15)
    door = FakeDoor()
    states: list[grpc.ChannelConnectivity] = []
    served = 0
    async with serving(kind, door, limits=limits) as (transport, sink), gw.channel(transport.port) as channel:
        watching = asyncio.create_task(connects(channel, states))

        async def client() -> None:
            nonlocal served
            while states.count(READY) < 6:
                call = gw.stream(channel)
                await call.write(gw.request_headers())
                await call.write(gw.request_body(b"{}", end=True))
                assert gw.set_headers(await call.read()) == {
                    "x-gateway-destination-endpoint": "10.0.0.1:8000"
                }
                await call.read()
                await call.write(gw.answer_headers(end=True))
                await call.read()
                await call.done_writing()
                assert await call.code() is grpc.StatusCode.OK
                served += 1

        async with asyncio.timeout(30):
            await asyncio.gather(*(client() for _ in range(8)))
        watching.cancel()
        await until(lambda: all(call.endings for call in door.calls))
        assert [call.endings for call in door.calls] == [[Ending.NATURAL]] * served
        assert (sink.errors, sink.violations) == ([], [])


async def test_an_open_stream_goes_on_to_its_end(kind: str) -> None:
    limits = Limits(max_connection_age_s=0.05)
    later: asyncio.Future[Route] = asyncio.get_running_loop().create_future()
    door = FakeDoor(verdict=lambda call: later)
    states: list[grpc.ChannelConnectivity] = []
    async with serving(kind, door, limits=limits) as (transport, _), gw.channel(transport.port) as channel:
        watching = asyncio.create_task(connects(channel, states))
        call = gw.stream(channel)
        await call.write(gw.request_headers(end=True))
        # The gateway has been told to go, which it shows by connecting anew for what comes next.
        await until(lambda: grpc.ChannelConnectivity.IDLE in states[1:])
        later.set_result(Route("10.0.0.1:8000"))
        assert gw.set_headers(await call.read()) == {"x-gateway-destination-endpoint": "10.0.0.1:8000"}
        await call.write(gw.answer_headers(end=True))
        await call.read()
        await call.done_writing()
        assert await call.code() is grpc.StatusCode.OK
        watching.cancel()


async def test_without_an_age_connections_stay(kind: str) -> None:
    """As long as it takes others to go through three."""
    seen: dict[float, list[grpc.ChannelConnectivity]] = {0.0: [], 0.05: []}

    async def use(age_s: float, enough: Callable[[], bool]) -> None:
        limits = Limits(max_connection_age_s=age_s)
        async with (
            serving(kind, FakeDoor(), limits=limits) as (transport, _),
            gw.channel(transport.port) as channel,
        ):
            watching = asyncio.create_task(connects(channel, seen[age_s]))
            while not enough():
                call = gw.stream(channel)
                await call.write(gw.request_headers(end=True))
                await call.read()
                await call.done_writing()
                await call.code()
            watching.cancel()

    def enough() -> bool:
        return seen[0.05].count(READY) >= 3

    async with asyncio.timeout(30):
        await asyncio.gather(use(0.0, enough), use(0.05, enough))
    assert seen[0.0].count(READY) == 1
