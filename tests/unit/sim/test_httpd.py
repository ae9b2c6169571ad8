"""The HTTP server byte by byte: splits, pipelining, limits, clients that break off."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epp.sim.httpd import MAX_BODY, MAX_HEAD, Connection, Exchange, Incoming, chunk


class Echo:
    """Answers with what it was asked; `/hold` is answered when the test says so."""

    def __init__(self) -> None:
        self.held: list[Exchange] = []
        self.gone = 0
        self.holding = asyncio.Event()
        self.left = asyncio.Event()

    def handle(self, incoming: Incoming, exchange: Exchange) -> None:
        if incoming.path == "/hold":
            exchange.on_gone = self._left
            self.held.append(exchange)
            self.holding.set()
            return
        if incoming.path == "/chunks":
            exchange.start(200, b"")
            exchange.write(chunk(incoming.body))
            exchange.end(chunk(b"!"))
            return
        said = f"{incoming.method} {incoming.path} {incoming.query} ".encode() + incoming.body
        exchange.reply(200, said, b"")

    def _left(self) -> None:
        self.gone += 1
        self.left.set()


class Served:
    def __init__(self, site: Echo, port: int) -> None:
        self.site = site
        self.port = port

    async def say(self, *pieces: bytes) -> bytes:
        """Sends pieces and reads until the server closes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        return answer


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    site = Echo()
    connections: set[Connection] = set()
    server = await asyncio.get_running_loop().create_server(
        lambda: Connection(site, connections), "127.0.0.1", 0
    )
    yield Served(site, server.sockets[0].getsockname()[1])
    server.close()
    for connection in list(connections):
        connection.abort()
    await server.wait_closed()
    assert not connections


CLOSE = b"connection: close\r\n"


async def test_one_request(served: Served) -> None:
    answer = await served.say(b"POST /a?b=c HTTP/1.1\r\ncontent-length: 2\r\n" + CLOSE + b"\r\nhi")
    assert answer == b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 14\r\n\r\nPOST /a b=c hi"


async def test_pipelined_requests_are_answered_in_order(served: Served) -> None:
    answer = await served.say(
        b"GET /1 HTTP/1.1\r\n\r\nPOST /chunks HTTP/1.1\r\ncontent-length: 2\r\n\r\nhi"
        b"GET /2 HTTP/1.1\r\n\r\nGET /3 HTTP/1.1\r\n" + CLOSE + b"\r\n"
    )
    parts = [
        answer.index(part) for part in (b"GET /1", b"2\r\nhi\r\n1\r\n!\r\n0\r\n\r\n", b"GET /2", b"GET /3")
    ]
    assert parts == sorted(parts)


async def test_a_request_waits_for_the_answer_before_it(served: Served) -> None:
    said = asyncio.ensure_future(
        served.say(b"GET /hold HTTP/1.1\r\n\r\nGET /after HTTP/1.1\r\n" + CLOSE + b"\r\n")
    )
    await served.site.holding.wait()
    served.site.held[0].reply(200, b"held", b"")
    answer = await said
    assert answer.index(b"held") < answer.index(b"/after")
    assert served.site.gone == 0


async def test_a_client_that_leaves_is_noticed_once(served: Served) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(b"GET /hold HTTP/1.1\r\n\r\n")
    await served.site.holding.wait()
    writer.close()
    await served.site.left.wait()
    exchange = served.site.held[0]
    assert exchange.gone
    for act in (lambda: exchange.reply(200, b""), exchange.cut, exchange.end, lambda: exchange.write(b"x")):
        act()
    assert served.site.gone == 1


async def test_a_cut_answer_ends_in_the_middle(served: Served) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(b"GET /hold HTTP/1.1\r\n\r\n")
    await served.site.holding.wait()
    served.site.held[0].start(200, b"")
    assert await reader.readuntil(b"\r\n\r\n")
    served.site.held[0].cut()
    with contextlib.suppress(ConnectionResetError):
        assert await reader.read() == b""
    assert served.site.gone == 1
    writer.close()


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nbad header\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nx: " + b"y" * MAX_HEAD + b"\r\n\r\n", b"431"),
        (b"GET /" + b"y" * MAX_HEAD + b" HTTP/1.1\r\n\r\n", b"431"),
        (b"POST / HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % (MAX_BODY + 1), b"413"),
        (b"POST / HTTP/1.1\r\nupgrade: x\r\nconnection: upgrade\r\ncontent-length: 1\r\n\r\nx", b"501"),
    ],
    ids=["garbage", "header", "large-head", "large-url", "large-body", "upgrade"],
)
async def test_what_cannot_be_served(served: Served, request_bytes: bytes, status: bytes) -> None:
    assert (await served.say(request_bytes)).split(b" ")[1] == status


async def test_a_chunked_body_is_bounded_too(served: Served) -> None:
    piece = b"%x\r\n%b\r\n" % (MAX_BODY // 2, b"x" * (MAX_BODY // 2))
    head = b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    for part in (head, piece, piece, b"1\r\nx\r\n"):
        writer.write(part)
    assert b" 413 " in await reader.readline()
    writer.close()


async def test_an_upgrade_is_not_taken(served: Served) -> None:
    answer = await served.say(
        b"GET /1 HTTP/1.1\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\nGET /2 HTTP/1.1\r\n" + CLOSE + b"\r\n"
    )
    assert answer.count(b"HTTP/1.1 200 OK") == 2
    assert answer.index(b"GET /1") < answer.index(b"GET /2")


async def test_expect_continue(served: Served) -> None:
    head = b"POST / HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: 2\r\n" + CLOSE + b"\r\n"
    answer = await served.say(head, b"hi")
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")


class Sink(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = False

    def write(self, data: bytes) -> None:  # type: ignore[override]
        self.written += data

    def close(self) -> None:
        self.closed = True


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=40), st.lists(st.integers(1, 120), max_size=8))
def test_any_split_reads_the_same(body: bytes, cuts: list[int]) -> None:
    whole = (
        b"POST /chunks?q=1 HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        + b"GET /2 HTTP/1.1\r\nConnection: close\r\n\r\n"
    )

    async def feed(pieces: list[bytes]) -> tuple[bytes, bool]:
        connection = Connection(Echo(), set())
        sink = Sink()
        connection.connection_made(sink)
        for piece in pieces:
            connection.data_received(piece)
            await asyncio.sleep(0)
        return sink.written, sink.closed

    edges = sorted({0, *[cut for cut in cuts if cut < len(whole)], len(whole)})
    pieces = [whole[a:b] for a, b in itertools.pairwise(edges)]
    assert asyncio.run(feed(pieces)) == asyncio.run(feed([whole]))
