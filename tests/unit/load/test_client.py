"""The client on real sockets: good answers, every way to fail, kept connections."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from random import Random

import pytest

from epp.load.calls import Call, Manner, Message, Mix
from epp.load.client import Client
from epp.load.fetch import first_model
from epp.load.records import Record
from epp.load.transport import MAX_HEADER_BYTES, Pool, Target, TransportError
from tests.unit.load.engine import (
    CLOSE,
    DONE,
    END,
    Script,
    Seen,
    always,
    chunk,
    head,
    plain,
    serving,
    streamed,
    token,
)

MESSAGES = [Message("user", "Hello there ")]


def call(*, stream: bool = True) -> Call:

    return (
        Manner(Mix(("m",), (1.0,)), stream=stream, headers={"x-mine": "yes"})
        .client(Random(0))
        .call(MESSAGES, 3)
    )


def ticking() -> Callable[[], float]:
    """Every look at the clock is a second later: orders, without real time."""
    count = itertools.count()
    return lambda: float(next(count))


async def ask(script: Script, *, stream: bool = True, timeout_s: float = 20.0) -> tuple[Record, str]:
    async with serving(script) as engine:
        pool = Pool(engine.target)
        client = Client(pool, ticking(), timeout_s=timeout_s)
        try:
            return await client.ask(call(stream=stream), "s", 1, 0.0)
        finally:
            await pool.close()


async def test_a_streamed_answer_is_timed_and_read() -> None:
    record, text = await ask(always(streamed("a", "b", "c", prompt=10, cached=6)))
    assert text == "abc"
    assert record.ok
    assert (record.status, record.endpoint) == (200, "pod-a")
    assert (record.input_tokens, record.output_tokens, record.cached_tokens) == (10, 3, 6)
    assert record.first_token_at is not None
    assert record.sent_at < record.first_token_at < record.ended_at
    assert len(record.gaps) == 2


async def test_the_request_is_what_an_engine_expects() -> None:
    async with serving(always(streamed("a"))) as engine:
        pool = Pool(Target(engine.target.host, engine.target.port, tls=False, prefix="/gw"))
        await Client(pool, ticking(), run="r").ask(call(), "s", 1, 0.0)
        await pool.close()
    seen = engine.requests[0]
    assert (seen.method, seen.path) == ("POST", "/gw/v1/chat/completions")
    assert seen.headers["content-type"] == "application/json"
    assert seen.headers["x-mine"] == "yes"
    assert seen.headers["x-request-id"] == "r-1"
    assert seen.headers["host"] == engine.target.authority
    assert seen.json["messages"] == [{"role": "user", "content": "Hello there "}]


async def test_the_first_token_is_timed_before_the_answer_is_complete() -> None:
    """The engine holds the rest back until the client has the first chunk: buffering would never end."""
    got_first = asyncio.Event()
    ticks = itertools.count()

    async def script(seen: Seen) -> AsyncIterator[bytes]:
        yield head() + chunk(token("a"))
        await got_first.wait()
        yield chunk(token("b", "stop")) + chunk(DONE) + END

    def clock() -> float:
        tick = next(ticks)
        if tick == 1:  # 0: sent; 1: the first piece of the body
            got_first.set()
        return float(tick)

    async with serving(script) as engine:
        pool = Pool(engine.target)
        record, text = await Client(pool, clock).ask(call(), "s", 1, 0.0)
        await pool.close()
    assert (text, record.first_token_at) == ("ab", 1.0)


async def test_a_plain_answer() -> None:
    body = b'{"choices":[{"message":{"content":"hi"}}],"usage":{"prompt_tokens":4,"completion_tokens":1}}'
    record, text = await ask(always(plain(200, body)), stream=False)
    assert (text, record.ok, record.first_token_at, record.input_tokens) == ("hi", True, None, 4)


async def test_an_engine_that_does_not_stream_is_understood() -> None:
    record, text = await ask(always(plain(200, b'{"choices":[{"message":{"content":"hi"}}]}')), stream=True)
    assert (text, record.ok, record.first_token_at) == ("hi", True, None)


async def test_a_body_that_ends_with_the_connection() -> None:
    start = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"

    async def script(seen: Seen) -> AsyncIterator[bytes]:
        yield start + token("a", "stop") + DONE
        yield CLOSE

    async with serving(script) as engine:
        pool = Pool(engine.target)
        record, _ = await Client(pool, ticking()).ask(call(), "s", 1, 0.0)
        await pool.close()
    assert (record.error, record.status) == ("", 200)
    assert record.first_token_at is not None


@pytest.mark.parametrize("status", [400, 404, 429, 500, 503])
async def test_a_refusal_is_counted_by_its_status(status: int) -> None:
    record, text = await ask(always(plain(status, b'{"error":{"message":"no"}}', retry_after="3")))
    assert (record.error, record.status, record.retry_after, text) == (f"http-{status}", status, "3", "")
    assert '"no"' in record.detail


@pytest.mark.parametrize(
    ("pieces", "error"),
    [
        ((CLOSE,), "reset"),
        ((head() + chunk(token("a")), CLOSE), "reset"),
        ((head() + chunk(token("a")) + END,), "cut-short"),
        ((b"SSH-2.0-hello\r\n",), "bad-http"),
        ((b"HTTP/1.1 200 OK\r\nx-a: " + b"a" * (MAX_HEADER_BYTES + 1) + b"\r\n\r\n",), "bad-http"),
    ],
)
async def test_broken_answers_are_errors_of_their_own(pieces: tuple[bytes, ...], error: str) -> None:
    record, text = await ask(always(*pieces))
    assert (record.error, text) == (error, "")
    assert record.ended_at > record.sent_at


async def test_nobody_there() -> None:
    async with serving(always(streamed("a"))) as engine:
        target = engine.target
    pool = Pool(target)
    record, _ = await Client(pool, ticking()).ask(call(), "s", 1, 0.0)
    assert (record.error, record.status) == ("connect", 0)


async def test_an_answer_that_never_ends_runs_into_the_timeout() -> None:
    async def script(seen: Seen) -> AsyncIterator[bytes]:
        yield head() + chunk(token("a"))
        await asyncio.Event().wait()

    record, _ = await ask(script, timeout_s=0.2)
    assert (record.error, record.status) == ("timeout", 200)
    assert record.first_token_at is not None


async def test_connections_are_kept_and_replaced_when_the_server_drops_them() -> None:
    answered = itertools.count(1)

    async def script(seen: Seen) -> AsyncIterator[bytes]:
        yield streamed("a")
        if next(answered) == 2:
            yield CLOSE

    async with serving(script) as engine:
        pool = Pool(engine.target)
        client = Client(pool, ticking())
        records = [(await client.ask(call(), "s", 1, 0.0))[0] for _ in range(4)]
        assert [record.error for record in records] == [""] * 4
        assert engine.connections == pool.opened == 2
        await pool.close()


async def test_as_many_connections_as_requests_are_open() -> None:
    everybody = asyncio.Barrier(50)

    async def script(seen: Seen) -> AsyncIterator[bytes]:
        await everybody.wait()
        yield streamed("a")

    async with serving(script) as engine:
        pool = Pool(engine.target)
        client = Client(pool, ticking())
        records = await asyncio.gather(*(client.ask(call(), f"s{i}", 1, 0.0) for i in range(50)))
        assert all(record.ok for record, _ in records)
        assert pool.opened == 50
        await pool.close()


async def test_a_100_continue_is_no_answer() -> None:
    record, text = await ask(always(b"HTTP/1.1 100 Continue\r\n\r\n", streamed("a")))
    assert (text, record.status) == ("a", 200)


async def test_the_model_is_asked_for() -> None:
    async with serving(always(plain(200, b'{"data":[{"id":"m-1"},{"id":"m-2"}]}'))) as engine:
        pool = Pool(engine.target)
        assert await first_model(pool, {"authorization": "Bearer x"}) == "m-1"
        assert engine.requests[0].headers["authorization"] == "Bearer x"
        await pool.close()


@pytest.mark.parametrize("answer", [plain(404, b""), plain(200, b"{}"), plain(200, b'{"data":[]}')])
async def test_no_model_to_be_had(answer: bytes) -> None:
    async with serving(always(answer)) as engine:
        pool = Pool(engine.target)
        with pytest.raises(ValueError, match="/v1/models"):
            await first_model(pool, {})
        await pool.close()


async def test_nothing_listens_is_a_transport_error() -> None:
    async with serving(always()) as engine:
        target = engine.target
    with pytest.raises(TransportError):
        await first_model(Pool(target), {})


@pytest.mark.parametrize(
    ("url", "seen"),
    [
        ("http://h:81", "http://h:81"),
        ("h:81", "http://h:81"),
        ("http://h/v1", "http://h"),
        ("https://h/base/v1/", "https://h/base"),
        ("http://[::1]:8000", "http://[::1]:8000"),
        ("https://h:443", "https://h"),
    ],
)
def test_urls(url: str, seen: str) -> None:
    assert Target.parse(url).url == seen


@pytest.mark.parametrize("url", ["ftp://h", "http://", "http://h?a=b", "http://h:99999", "http://h:x"])
def test_broken_urls_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Target.parse(url)
