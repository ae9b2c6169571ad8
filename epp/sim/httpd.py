"""HTTP/1.1 for many small servers in one process: httptools under an asyncio protocol, no task a request.

A site is handed an Exchange for every complete request and answers it now or later, whole or in chunks.
Requests on one connection are answered in their order; the next one waits until this one is over.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, Protocol, cast

import httptools

MAX_BODY: Final = 64 << 20
MAX_HEAD: Final = 64 << 10
MAX_CONNECTIONS: Final = 16_384
"""Of one listener; further ones are closed at once."""
MAX_UNSENT: Final = 64 << 20
"""Bytes of answers that a client has not taken; beyond it the connection is cut."""

_STATUS: Final = {s.value: f"HTTP/1.1 {s.value} {s.phrase}\r\n".encode() for s in HTTPStatus}
JSON_TYPE: Final = b"content-type: application/json\r\n"


@dataclass(frozen=True, slots=True)
class Incoming:
    """One request. Header names are lower case; of repeated ones the last counts."""

    method: str
    path: str
    query: str
    headers: Mapping[bytes, bytes]
    body: bytes


class Site(Protocol):
    """What answers the requests of a listener."""

    def handle(self, incoming: Incoming, exchange: Exchange) -> None: ...


class Exchange:
    """The way back for one answer. Calls after the client has gone do nothing."""

    __slots__ = ("_connection", "_keep_alive", "gone", "on_gone")

    def __init__(self, connection: Connection, keep_alive: bool) -> None:
        self._connection = connection
        self._keep_alive = keep_alive
        self.gone = False
        self.on_gone: Callable[[], None] | None = None
        """Called once if the client leaves before the answer is complete."""

    def reply(self, status: int, body: bytes, headers: bytes = JSON_TYPE) -> None:
        """A whole answer. `headers` are lines, each with its CRLF."""
        if self.gone:
            return
        close = b"" if self._keep_alive else b"connection: close\r\n"
        self._connection.send(
            b"%b%b%bcontent-length: %d\r\n\r\n%b" % (_STATUS[status], headers, close, len(body), body)
        )
        self._over()

    def start(self, status: int, headers: bytes) -> None:
        """Begins a chunked answer."""
        if self.gone:
            return
        close = b"" if self._keep_alive else b"connection: close\r\n"
        self._connection.send(b"%b%b%btransfer-encoding: chunked\r\n\r\n" % (_STATUS[status], headers, close))

    def write(self, framed: bytes) -> None:
        """Data that is framed as chunks already; see `chunk`."""
        if not self.gone:
            self._connection.send(framed)

    def end(self, framed: bytes = b"") -> None:
        """Last data, then the end of a chunked answer."""
        if self.gone:
            return
        self._connection.send(framed + b"0\r\n\r\n")
        self._over()

    def cut(self) -> None:
        """Drops the connection in the middle."""
        if not self.gone:
            self._connection.abort()
            self.lost()

    def lost(self) -> None:
        """The connection's word that the client has gone."""
        if not self.gone:
            self.gone = True
            if self.on_gone is not None:
                self.on_gone()

    def _over(self) -> None:
        self.gone = True
        self._connection.answered(self._keep_alive)


def chunk(data: bytes) -> bytes:
    """Data as one chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


class Connection(asyncio.Protocol):
    """One client connection; also the callbacks of its parser."""

    __slots__ = (
        "_backlog", "_body", "_body_size", "_broken", "_exchange", "_head_size", "_headers", "_open",
        "_parser", "_paused", "_site", "_transport", "_url",
    )  # fmt: skip

    def __init__(self, site: Site, open_connections: set[Connection]) -> None:
        self._site = site
        self._open = open_connections
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._exchange: Exchange | None = None
        self._backlog: deque[tuple[Incoming, bool]] = deque()
        self._broken = False
        self._paused = False
        self._clear()

    def _clear(self) -> None:
        self._url = b""
        self._head_size = 0
        self._headers: dict[bytes, bytes] = {}
        self._body: list[bytes] = []
        self._body_size = 0

    # From the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if len(self._open) >= MAX_CONNECTIONS:
            self._broken = True
            transport.close()
            return
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but its class
        self._open.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._open.discard(self)
        self._transport = None
        self._broken = True
        self._backlog.clear()
        if self._exchange is not None:
            exchange, self._exchange = self._exchange, None
            exchange.lost()

    def data_received(self, data: bytes) -> None:
        if self._broken:
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            # We speak no other protocol, so the request was answered as it is and the next one may follow.
            self._parser = httptools.HttpRequestParser(self)
            rest = data[upgrade.args[0] :]
            if rest:
                self.data_received(rest)
        except httptools.HttpParserError as error:
            # What a callback of ours raises comes wrapped.
            cause = error.__context__
            self._refuse(cause.status if isinstance(cause, _RefusedError) else 400)

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False

    # From the parser

    def on_message_begin(self) -> None:
        self._clear()

    def on_url(self, url: bytes) -> None:
        self._url += url
        self._count_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count_head(len(name) + len(value))
        self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        length = self._headers.get(b"content-length", b"0")
        if length.isdigit() and len(length) < 20 and int(length) > MAX_BODY:
            raise _RefusedError(413)
        if b"upgrade" in self._headers and (length != b"0" or b"transfer-encoding" in self._headers):
            raise _RefusedError(501)  # the parser would take the body for the other protocol
        if self._headers.get(b"expect", b"").lower() == b"100-continue" and self._exchange is None:
            self.send(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self._body_size += len(body)
        if self._body_size > MAX_BODY:
            raise _RefusedError(413)
        self._body.append(body)

    def on_message_complete(self) -> None:
        path, _, query = self._url.decode("latin-1").partition("?")
        incoming = Incoming(
            self._parser.get_method().decode("latin-1"), path, query, self._headers, b"".join(self._body)
        )
        keep_alive = self._parser.should_keep_alive()
        self._body = []
        if self._exchange is None:
            self._dispatch(incoming, keep_alive)
        else:
            self._backlog.append((incoming, keep_alive))
            if self._transport is not None:
                self._transport.pause_reading()

    # From the exchange

    def send(self, data: bytes) -> None:
        transport = self._transport
        if transport is None:
            return
        transport.write(data)
        if self._paused and transport.get_write_buffer_size() > MAX_UNSENT:
            self.abort()

    def answered(self, keep_alive: bool) -> None:
        self._exchange = None
        if self._transport is None:
            return
        if not keep_alive:
            self._broken = True
            self._transport.close()
        elif self._backlog:
            asyncio.get_running_loop().call_soon(self._next)

    def abort(self) -> None:
        """Cuts the connection, unsent data and all."""
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.abort()

    def close(self) -> None:
        """Closes the connection when what was written has gone out."""
        if self._transport is not None:
            self._transport.close()

    def _next(self) -> None:
        if self._exchange is None and self._backlog:
            incoming, keep_alive = self._backlog.popleft()
            if not self._backlog and self._transport is not None:
                self._transport.resume_reading()
            self._dispatch(incoming, keep_alive)

    def _dispatch(self, incoming: Incoming, keep_alive: bool) -> None:
        exchange = Exchange(self, keep_alive)
        self._exchange = exchange
        self._site.handle(incoming, exchange)

    def _count_head(self, size: int) -> None:
        self._head_size += size
        if self._head_size > MAX_HEAD:
            raise _RefusedError(431)

    def _refuse(self, status: int) -> None:
        """Answers what cannot be read, unless an answer is on its way, and closes."""
        self._broken = True
        if self._exchange is None:
            self.send(_STATUS[status] + b"content-length: 0\r\nconnection: close\r\n\r\n")
            self.close()
        else:
            self.abort()


class _RefusedError(Exception):
    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status
