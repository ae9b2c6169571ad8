"""Each transport with a fake door: real gRPC, no policy."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from envoy.extensions.filters.http.ext_proc.v3.processing_mode_pb2 import ProcessingMode
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb

from epp.domain.errors import Reason, Refused, answer_of
from epp.domain.request import AnswerView, Api, Usage
from epp.domain.views import AnswerPlan, Ending, Route
from epp.extproc.certificates import from_directory, self_signed
from epp.extproc.grpcio import GrpcioTransport
from epp.extproc.native import NativeTransport
from epp.extproc.transport import Limits, Tls, Transport
from tests.fakes.door import FakeCall, FakeDoor
from tests.fakes.sink import CountingSink
from tests.wire import gateway as gw
from tests.wire.transports import TRANSPORTS, build, serving


@pytest.fixture(params=TRANSPORTS)
def kind(request: pytest.FixtureRequest) -> str:
    """Which transport; tests without it are about grpcio alone."""
    return str(request.param)


async def until(so: Callable[[], bool]) -> None:
    """Ends are told and counted a little later than the gateway sees them."""
    async with asyncio.timeout(10):
        while not so():
            await asyncio.sleep(0.005)


async def ended(door: FakeDoor, call: int = 0) -> Ending:
    """Waits until the server has seen the end of a stream."""
    await until(lambda: len(door.calls) > call and bool(door.calls[call].endings))
    return door.calls[call].endings[0]


async def test_a_whole_duplex_request(kind: str) -> None:
    door = FakeDoor()
    async with serving(kind, door) as (transport, sink), gw.channel(transport.port) as channel:
        call = gw.stream(channel)
        await call.write(gw.request_headers(subset=["10.0.0.1:8000"]))
        await call.write(gw.request_body(b"one "))
        await call.write(gw.request_body(b"two", end=True))
        first = await call.read()
        assert gw.set_headers(first) == {"x-gateway-destination-endpoint": "10.0.0.1:8000"}
        assert first.request_headers.response.clear_route_cache
        assert first.dynamic_metadata["envoy.lb"]["x-gateway-destination-endpoint"] == "10.0.0.1:8000"
        pieces = [(await call.read()).request_body.response.body_mutation.streamed_response for _ in range(2)]
        assert [(p.body, p.end_of_stream) for p in pieces] == [(b"one ", False), (b"two", True)]
        await call.write(gw.answer_headers(served="10.0.0.2:8000"))
        assert gw.set_headers(await call.read()) == {"x-seen": "1"}
        await call.write(gw.answer_body(b"answer", end=True))
        echoed = (await call.read()).response_body.response.body_mutation.streamed_response
        assert (echoed.body, echoed.end_of_stream) == (b"answer", True)
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
        assert await call.code() is grpc.StatusCode.OK
        assert await ended(door) is Ending.NATURAL
        seen = door.calls[0]
        assert seen.head is not None
        assert (seen.body, seen.head.subset) == (b"one two", ("10.0.0.1:8000",))
        assert seen.answer_head is not None
        assert (seen.answer_head.status, seen.answer_head.served) == (200, "10.0.0.2:8000")
        assert seen.report is not None
        assert (seen.report.observed, seen.report.body_bytes) == (True, 6)
        await until(lambda: (sink.opened, sink.closed, transport.open_streams) == (1, ["OK"], 0))


async def test_what_is_seen_of_an_answer_is_told(kind: str) -> None:
    plan = AnswerPlan(api=Api.CHAT, restore=("target", "m"))
    door = FakeDoor(verdict=lambda call: Route("10.0.0.1:8000", answer=plan))
    async with serving(kind, door) as (transport, _), gw.channel(transport.port) as channel:
        call = gw.stream(channel)
        await call.write(gw.request_headers(end=True))
        await call.read()
        await call.write(gw.answer_headers(headers={"content-type": "text/event-stream", "date": "x"}))
        headers = (await call.read()).response_headers.response.header_mutation
        assert (list(headers.set_headers), list(headers.remove_headers)) == ([], ["content-length"])
        await call.write(gw.answer_body(b'data: {"model":"target"}\n\n'))
        echoed = (await call.read()).response_body.response.body_mutation.streamed_response
        assert echoed.body == b'data: {"model":"m"}\n\n'
        await until(lambda: door.calls[0].first_tokens == 1)
        head = door.calls[0].answer_head
        assert head is not None
        assert (head.status, head.streamed, head.encoded, head.local) == (200, True, False, False)
        usage = b'data: {"usage":{"prompt_tokens":5,"completion_tokens":3,"total_tokens":8}}\n\n'
        await call.write(gw.answer_body(usage, end=True))
        await call.read()
        await call.done_writing()
        assert await ended(door) is Ending.NATURAL
        report = door.calls[0].report
        assert report is not None
        assert report.usage == Usage(5, 3, 8)
        assert (sum(report.gaps), report.body_bytes) == (1, 26 + len(usage))
        assert head.at <= report.first_at <= report.last_at
        assert report.gaps_s == pytest.approx(report.last_at - report.first_at)


@pytest.mark.parametrize("ignored", [False, True])
async def test_an_answers_body_that_need_not_be_sent(kind: str, ignored: bool) -> None:
    door = FakeDoor(verdict=lambda call: Route("10.0.0.1:8000", answer=AnswerPlan(observe=False)))
    async with serving(kind, door) as (transport, _), gw.channel(transport.port) as channel:
        call = gw.stream(channel)
        await call.write(gw.request_headers(end=True, modes=(2, 1)))
        await call.read()
        await call.write(gw.answer_headers())
        told = await call.read()
        assert told.HasField("mode_override")
        assert told.mode_override.response_body_mode == ProcessingMode.NONE
        if ignored:
            await call.write(gw.answer_body(b"all the same", end=True))
            assert (await call.read()).WhichOneof("response") == "response_body"
        await call.done_writing()
        assert await ended(door) is Ending.NATURAL
        head, report = door.calls[0].head, door.calls[0].report
        assert head is not None
        assert report is not None
        assert head.answer_view is AnswerView.CHOICE
        assert (report.observed, report.override_ignored) == (ignored, ignored)


@pytest.mark.parametrize("subset", ["a:1,b:2", ["a:1, b:2"], ["a:1", 7, "b:2"]])
async def test_subset_hints_also_for_requests_without_a_body(kind: str, subset: Any) -> None:
    door = FakeDoor()
    async with serving(kind, door) as (transport, _), gw.channel(transport.port) as channel:
        call = gw.stream(channel)
        await call.write(gw.request_headers(end=True, subset=subset))
        assert (await call.read()).WhichOneof("response") == "request_headers"
        assert door.calls[0].head is not None
        assert door.calls[0].head.subset == ("a:1", "b:2")
        call.cancel()


async def test_impossible_orders_end_the_stream_with_a_status(kind: str) -> None:
    async with serving(kind, FakeDoor()) as (transport, sink), gw.channel(transport.port) as channel:
        for messages in ([gw.request_headers(), gw.request_headers()], [pb.ProcessingRequest()]):
            call = gw.stream(channel)
            for message in messages:
                await call.write(message)
            assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
        await until(lambda: sorted(sink.violations) == ["empty", "order"])
        assert sink.errors == []


async def test_a_waiting_decision_lets_the_client_leave(kind: str) -> None:
    never: asyncio.Future[Route] = asyncio.get_running_loop().create_future()
    door = FakeDoor(verdict=lambda call: never)
    async with serving(kind, door) as (transport, sink), gw.channel(transport.port) as channel:
        call = gw.stream(channel)
        await call.write(gw.request_headers(end=True))
        await until(lambda: bool(door.calls) and door.calls[0].body is not None)
        call.cancel()
        assert await ended(door) is Ending.CLIENT_DISCONNECT
        await until(lambda: sink.closed == ["CANCELLED"])


async def test_a_late_verdict_is_sent(kind: str) -> None:
    later: asyncio.Future[Route] = asyncio.get_running_loop().create_future()
    door = FakeDoor(verdict=lambda call: later)
    async with serving(kind, door) as (transport, _), gw.channel(transport.port) as channel:
        call = gw.stream(channel)
        await call.write(gw.request_headers(modes=(1, 1)))
        await call.write(gw.request_body(b"piece"))
        await call.write(gw.request_trailers())
        later.set_result(Route("10.0.0.7:1"))
        kinds = [(await call.read()).WhichOneof("response") for _ in range(3)]
        assert kinds == ["request_headers", "request_body", "request_trailers"]
        call.cancel()


async def test_envoys_own_answer_ends_the_waiting(kind: str) -> None:
    never: asyncio.Future[Route] = asyncio.get_running_loop().create_future()
    door = FakeDoor(verdict=lambda call: never)
    async with serving(kind, door) as (transport, _), gw.channel(transport.port) as channel:
        call = gw.stream(channel)
        await call.write(gw.request_headers())
        await call.write(gw.request_body(b"x", end=True))
        await call.write(gw.answer_headers(504, end=True))
        assert (await call.read()).WhichOneof("response") == "response_headers"
        await call.done_writing()
        assert await ended(door) is Ending.NATURAL
        head = door.calls[0].answer_head
        assert head is not None
        assert head.status == 504


async def test_too_many_streams_are_429(kind: str) -> None:
    door = FakeDoor()
    limits = Limits(max_streams=1)
    async with serving(kind, door, limits=limits) as (transport, _), gw.channel(transport.port) as channel:
        first = gw.stream(channel)
        await first.write(gw.request_headers(end=True))
        await first.read()
        # Refused before it is heard: the stream may be over by the time of a first write.
        assert (await gw.stream(channel).read()).immediate_response.status.code == 429
        first.cancel()


async def test_stop_waits_for_open_streams_and_then_cuts_them_off(kind: str) -> None:
    door = FakeDoor()
    async with serving(kind, door) as (transport, _), gw.channel(transport.port) as channel:
        call = gw.stream(channel)
        await call.write(gw.request_headers(end=True))
        await call.read()
        stopping = asyncio.ensure_future(transport.stop(10))
        await call.write(gw.answer_headers(end=True))
        assert (await call.read()).WhichOneof("response") == "response_headers"
        await call.done_writing()
        await stopping
        assert await ended(door) is Ending.NATURAL


async def test_a_message_over_grpcs_default_limit_is_taken(kind: str) -> None:
    door = FakeDoor()
    async with serving(kind, door) as (transport, _), gw.channel(transport.port) as channel:
        call = gw.stream(channel)
        await call.write(gw.request_headers(modes=(2, 0)))
        await call.read()
        await call.write(gw.request_body(b"x" * (8 << 20), end=True))
        assert (await call.read()).WhichOneof("response") == "request_body"
        assert door.calls[0].body is not None
        assert len(door.calls[0].body) == 8 << 20
        call.cancel()


async def answered(port: int, trusted: bytes) -> bool:
    """False for somebody who trusts another certificate."""
    credentials = grpc.ssl_channel_credentials(trusted)
    options = (("grpc.ssl_target_name_override", "localhost"), ("grpc.use_local_subchannel_pool", 1))
    async with grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials, options=options) as channel:
        call = gw.stream(channel)
        try:
            await call.write(gw.request_headers(end=True))
            return bool((await call.read()).WhichOneof("response") == "request_headers")
        except grpc.aio.AioRpcError:
            return False
        finally:
            call.cancel()


async def test_tls_with_reload(kind: str, tmp_path: Path) -> None:
    pairs = [self_signed(), self_signed()]

    def write(pair: Tls) -> None:
        (tmp_path / "tls.crt").write_bytes(pair.certificate)
        (tmp_path / "tls.key").write_bytes(pair.key)

    write(pairs[0])
    source = from_directory(tmp_path)
    async with serving(kind, FakeDoor(), tls=source, reload_tls=True) as (transport, _):
        for pair in pairs:
            write(pair)
            async with asyncio.timeout(20):
                while not await answered(transport.port, pair.certificate):
                    await asyncio.sleep(0.05)
        assert not await answered(transport.port, pairs[0].certificate)


async def test_what_waits_for_a_slow_reader_counts_against_the_budget(kind: str) -> None:
    door = FakeDoor()
    limits = Limits(max_buffered_bytes=5 << 20)
    async with (
        serving(kind, door, limits=limits) as (transport, _),
        gw.channel(transport.port, window_bytes=64 << 10) as channel,
    ):
        slow = gw.stream(channel)
        await slow.write(gw.request_headers())
        await slow.write(gw.request_body(bytes(4 << 20), end=True))
        await until(lambda: bool(door.calls) and door.calls[0].body is not None)
        # A connection of its own: the first one's window is full of what nobody reads.
        async with gw.channel(transport.port) as another:
            second = gw.stream(another)
            await second.write(gw.request_headers())
            await second.write(gw.request_body(bytes(2 << 20)))
            assert (await second.read()).immediate_response.status.code == 429
        slow.cancel()
        assert await ended(door) is Ending.CLIENT_DISCONNECT


async def test_refusals_are_immediate_answers(kind: str) -> None:
    refused = answer_of(Refused(Reason.NO_ENDPOINTS, "none left", retry_after_s=7))
    door = FakeDoor(verdict=lambda call: refused)
    async with serving(kind, door) as (transport, _), gw.channel(transport.port) as channel:
        call = gw.stream(channel)
        await call.write(gw.request_headers(end=True))
        answer = (await call.read()).immediate_response
        headers = {o.header.key: o.header.raw_value for o in answer.headers.set_headers}
        assert answer.status.code == 503
        assert headers["retry-after"] == b"7"
        assert headers["x-llm-d-request-dropped-reason"] == b"rejected-no-endpoints"
        assert b'"none left"' in answer.body
        assert await call.read() is grpc.aio.EOF
        assert await ended(door) is Ending.REFUSED


async def test_an_upload_that_stalls_is_408(kind: str) -> None:
    door = FakeDoor()
    limits = Limits(progress_timeout_s=0.01)
    async with serving(kind, door, limits=limits) as (transport, _), gw.channel(transport.port) as channel:
        call = gw.stream(channel)
        await call.write(gw.request_headers())
        assert (await call.read()).immediate_response.status.code == 408
        assert await call.code() is grpc.StatusCode.OK
        assert await ended(door) is Ending.REFUSED


async def test_a_buffered_upload_may_take_longer_than_a_piece(kind: str) -> None:
    """Envoy shows nothing of such a body until it is whole."""
    limits = Limits(progress_timeout_s=0.01)
    async with (
        serving(kind, FakeDoor(), limits=limits) as (transport, _),
        gw.channel(transport.port) as channel,
    ):
        call = gw.stream(channel)
        await call.write(gw.request_headers(modes=(2, 0)))
        await call.read()
        stalled = gw.stream(channel)
        await stalled.write(gw.request_headers())
        assert (await stalled.read()).immediate_response.status.code == 408
        await call.write(gw.request_body(b"whole", end=True))
        assert (await call.read()).WhichOneof("response") == "request_body"
        call.cancel()


async def test_a_silent_answer_is_cut_off(kind: str) -> None:
    limits = Limits(answer_timeout_s=0.01)
    async with (
        serving(kind, FakeDoor(), limits=limits) as (transport, _),
        gw.channel(transport.port) as channel,
    ):
        call = gw.stream(channel)
        await call.write(gw.request_headers(end=True))
        await call.read()
        assert await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_message_over_the_limit_ends_the_stream(kind: str) -> None:
    door = FakeDoor()
    limits = Limits(max_message_bytes=1 << 20)
    async with serving(kind, door, limits=limits) as (transport, _), gw.channel(transport.port) as channel:
        call = gw.stream(channel)
        await call.write(gw.request_headers(modes=(2, 0)))
        await call.read()
        await call.write(gw.request_body(bytes(2 << 20), end=True))
        assert await call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        await until(lambda: not transport.open_streams and not transport.held_bytes)
        assert [call.body for call in door.calls] in ([], [None])


async def test_a_body_is_not_kept_while_the_answer_is_awaited(kind: str) -> None:
    async with serving(kind, FakeDoor()) as (transport, _), gw.channel(transport.port) as channel:
        call = gw.stream(channel)
        await call.write(gw.request_headers())
        await call.write(gw.request_body(bytes(1 << 20)))
        await until(lambda: transport.held_bytes == 1 << 20)
        await call.write(gw.request_body(b"", end=True))
        while not (await call.read()).request_body.response.body_mutation.streamed_response.end_of_stream:
            pass
        await until(lambda: transport.held_bytes == 0)
        assert transport.open_streams == 1
        call.cancel()


async def test_a_taken_port_is_an_oserror(kind: str) -> None:
    async with serving(kind, FakeDoor()) as (first, _):
        second = build(kind, FakeDoor(), address=f"127.0.0.1:{first.port}", sink=CountingSink())
        with pytest.raises(OSError, match="cannot listen"):
            await second.start()


async def test_a_refusal_can_come_before_the_body(kind: str) -> None:
    door = FakeDoor(early=Refused(Reason.SHED, "later"))
    async with serving(kind, door, early=True) as (transport, _), gw.channel(transport.port) as channel:
        call = gw.stream(channel)
        await call.write(gw.request_headers())
        assert (await call.read()).immediate_response.status.code == 429
        assert await call.read() is grpc.aio.EOF
        assert await ended(door) is Ending.REFUSED


async def test_a_request_that_goes_on_was_asked_about_at_its_headers(kind: str) -> None:
    door = FakeDoor()
    async with serving(kind, door, early=True) as (transport, _), gw.channel(transport.port) as channel:
        call = gw.stream(channel)
        await call.write(gw.request_headers())
        await until(lambda: len(door.calls) == 1)
        await call.write(gw.request_body(b"whole", end=True))
        assert (await call.read()).WhichOneof("response") == "request_headers"
        assert door.calls[0].body == b"whole"
        call.cancel()


def abort(served: Transport, refused: Refused) -> None:
    """The only open stream. grpcio takes it to the wire with the next message."""
    if isinstance(served, NativeTransport):
        (number,) = served._calls
        served._abort(number, refused)
        served._server.flush()
    else:
        assert isinstance(served, GrpcioTransport)
        (stream,) = served._streams
        stream.exchange._out += stream.exchange.abort(answer_of(refused))


async def test_an_answer_that_has_begun_is_ended_by_a_status(kind: str) -> None:
    """On which Envoy resets the client's."""
    door = FakeDoor()
    async with serving(kind, door) as (transport, sink), gw.channel(transport.port) as channel:
        call = gw.stream(channel)
        await call.write(gw.request_headers(end=True))
        await call.read()
        await call.write(gw.answer_headers())
        await call.read()
        await until(lambda: door.calls[0].answer_head is not None)
        abort(transport, Refused(Reason.SHED, "make room"))
        if kind == "grpcio":
            await call.write(gw.answer_body(b"takes it along"))
        assert await call.code() is grpc.StatusCode.UNAVAILABLE
        assert await ended(door) is Ending.ERROR
        await until(lambda: sink.closed == ["UNAVAILABLE"])
        assert sink.violations == sink.errors == []


# --- grpcio alone -----------------------------------------------------------------------------------------


async def test_grpcio_keeps_no_copy_of_a_body() -> None:
    def routed(call: FakeCall) -> Route:
        call.body = b""
        return Route("10.0.0.1:8000")

    async with (
        serving("grpcio", FakeDoor(verdict=routed)) as (transport, _),
        gw.channel(transport.port) as channel,
    ):
        tracemalloc.start()
        try:
            call = gw.stream(channel)
            await call.write(gw.request_headers(modes=(2, 0)))
            await call.read()
            await call.write(gw.request_body(bytes(16 << 20), end=True))
            assert (await call.read()).WhichOneof("response") == "request_body"
            assert tracemalloc.get_traced_memory()[0] < 8 << 20
        finally:
            tracemalloc.stop()
        call.cancel()
