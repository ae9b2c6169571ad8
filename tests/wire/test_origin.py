"""Whose stream it is, as the gateway's call says: told by each transport to the door."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb

from epp.domain.views import Ending
from epp.extproc.transport import Limits
from tests.fakes.door import FakeDoor
from tests.wire import gateway as gw
from tests.wire.transports import TRANSPORTS, serving

POOL = "x-gateway-inference-pool"


@pytest.fixture(params=TRANSPORTS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def authority(kind: str, name: str) -> str:
    """grpc.aio does not show it."""
    return name if kind == "native" else ""


async def until(so: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not so():
            await asyncio.sleep(0.005)


async def heard(
    kind: str,
    messages: Sequence[pb.ProcessingRequest],
    metadata: Sequence[tuple[str, str]] = (),
    name: str = "Llama.models.svc:9002",
) -> tuple[str, str]:
    """What the door was told of a stream that begins with these messages."""
    door = FakeDoor()
    async with (
        serving(kind, door) as (transport, sink),
        gw.channel(transport.port, authority=name) as channel,
    ):
        call = gw.stream(channel, metadata)
        for message in messages:
            await call.write(message)
        await call.done_writing()
        await until(lambda: bool(door.calls and door.calls[0].endings))
        assert sink.violations == sink.errors == []
        return door.calls[0].origin


ASKED = gw.request_headers(end=True)


async def test_the_authority_is_told_in_lower_case_and_with_its_port(kind: str) -> None:
    assert await heard(kind, [ASKED]) == (authority(kind, "llama.models.svc:9002"), "")


@pytest.mark.parametrize(
    "name",
    [
        "outbound|9002||Picker.models.svc.cluster.local",
        "envoyextensionpolicy/default/epp/extproc/0",
        "two words",
        "|",
        "~0",
        "[::1",
        "|" * 5000,
    ],
)
async def test_an_authority_that_no_uri_has(kind: str, name: str) -> None:
    assert await heard(kind, [ASKED], [(POOL, "models/llama")], name) == (
        authority(kind, name.lower()),
        "models/llama",
    )


async def test_every_call_of_a_connection_has_its_authority(kind: str) -> None:
    """All but the first say it as an entry of the connection's HPACK table."""
    door, name = FakeDoor(), "outbound|9002||picker.models.svc.cluster.local"
    async with (
        serving(kind, door) as (transport, sink),
        gw.channel(transport.port, authority=name) as channel,
    ):
        for number in range(30):
            # Further entries, which drive the first ones out.
            call = gw.stream(channel, [(f"x-noise-{number}", "n" * 300)])
            await call.write(ASKED)
            await call.read()
            call.cancel()
        assert {call.origin[0] for call in door.calls} == {authority(kind, name)}
        assert len(door.calls) == 30
        assert sink.errors == []


async def test_the_pool_of_the_calls_metadata(kind: str) -> None:
    origin = await heard(kind, [ASKED], [("x-other", "1"), (POOL, "models/llama")])
    assert origin == (authority(kind, "llama.models.svc:9002"), "models/llama")


async def test_of_repeated_metadata_the_last_counts(kind: str) -> None:
    assert (await heard(kind, [ASKED], [(POOL, "a/first"), (POOL, "a/last")]))[1] == "a/last"


async def test_the_pool_of_the_dynamic_metadata(kind: str) -> None:
    assert (await heard(kind, [gw.told(gw.request_headers(end=True), "models/llama")]))[1] == "models/llama"


async def test_the_calls_metadata_comes_before_the_dynamic_one(kind: str) -> None:
    told = gw.told(gw.request_headers(end=True), "models/other")
    assert (await heard(kind, [told], [(POOL, "models/llama")]))[1] == "models/llama"


@pytest.mark.parametrize("of_call", [True, False])
async def test_streams_that_begin_with_a_body(kind: str, of_call: bool) -> None:
    body = gw.request_body(b"{}", end=True)
    messages = [body] if of_call else [gw.told(body, "models/llama")]
    assert (await heard(kind, messages, [(POOL, "models/llama")] if of_call else []))[1] == "models/llama"


@pytest.mark.parametrize("first", ["headers", "body"])
@pytest.mark.parametrize("of_call", [True, False])
async def test_streams_that_begin_with_the_answer(kind: str, of_call: bool, first: str) -> None:
    answer = gw.answer_headers(end=True) if first == "headers" else gw.answer_body(b"x", end=True)
    messages = [answer] if of_call else [gw.told(answer, "models/llama")]
    origin = await heard(kind, messages, [(POOL, "models/llama")] if of_call else [])
    assert origin == (authority(kind, "llama.models.svc:9002"), "models/llama")


async def test_a_pool_that_comes_after_the_beginning_does_not_count(kind: str) -> None:
    later = gw.told(gw.request_body(b"{}", end=True), "models/late")
    assert (await heard(kind, [gw.request_headers(), later]))[1] == ""


async def test_streams_of_one_connection_do_not_get_each_others_pool(kind: str) -> None:
    door = FakeDoor()
    pools = ["a/one", "", "a/two", "a/one", "b/one", ""]
    async with serving(kind, door) as (transport, _), gw.channel(transport.port) as channel:
        for pool in pools:
            call = gw.stream(channel, [(POOL, pool)] if pool else [])
            await call.write(ASKED)
            await call.read()
            call.cancel()
    assert [call.origin[1] for call in door.calls] == pools


async def test_a_stream_too_many_is_refused_in_its_pools_name(kind: str) -> None:
    door = FakeDoor()
    limits = Limits(max_streams=1)
    async with serving(kind, door, limits=limits) as (transport, _), gw.channel(transport.port) as channel:
        first = gw.stream(channel)
        await first.write(ASKED)
        await first.read()
        refused = gw.stream(channel, [(POOL, "models/llama")])
        assert (await refused.read()).immediate_response.status.code == 429
        await until(lambda: len(door.calls) == 2 and bool(door.calls[1].endings))
        assert (door.calls[1].origin[1], door.calls[1].endings) == ("models/llama", [Ending.REFUSED])
        first.cancel()
