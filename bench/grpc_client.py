"""A gRPC client that costs little: of HTTP/2 what ext_proc streams need, for loads from one process.

Headers are sent without compression and those of answers are not read: a verdict is a message, and the picker
itself counts how streams end.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, ACK, END_HEADERS, PADDED = 0x1, 0x1, 0x4, 0x8
FIRST_WINDOW_BYTES = 65_535
WIDEST_BYTES = (1 << 31) - 1
"""Window that we give the picker once: more than it sends in a run, so that it need not be renewed."""


def _frame(kind: int, flags: int, stream: int, content: bytes) -> bytes:
    return len(content).to_bytes(3) + bytes((kind, flags)) + stream.to_bytes(4) + content


def _literal(name: bytes, value: bytes) -> bytes:
    """HPACK: a field that no table remembers, neither part compressed."""
    assert max(len(name), len(value)) < 127
    return b"\x00" + bytes((len(name),)) + name + bytes((len(value),)) + value


_HEAD = (
    b"\x83\x86"  # :method POST and :scheme http, of the static table
    + _literal(b":path", b"/envoy.service.ext_proc.v3.ExternalProcessor/Process")
    + _literal(b":authority", b"epp")
    + _literal(b"te", b"trailers")
    + _literal(b"content-type", b"application/grpc")
)


def framed(message: bytes) -> bytes:
    """A gRPC message as it lies in DATA."""
    return b"\x00" + len(message).to_bytes(4) + message


@dataclass(slots=True, eq=False)
class Stream:
    """One call. `heard` gets every message; `over` is called once, with True for an end in order."""

    number: int
    connection: Connection
    heard: Callable[[Stream, bytes], None]
    over: Callable[[Stream, bool], None]
    received: bytearray = field(default_factory=bytearray)
    messages: int = 0

    def send(self, content: bytes, *, end: bool = False) -> None:
        """Of messages that are framed."""
        self.connection.write(self.number, content, END_STREAM if end else 0)

    def take(self, content: bytes) -> None:
        received = self.received
        received += content
        while len(received) >= 5 and len(received) >= (size := 5 + int.from_bytes(received[1:5])):
            message = bytes(received[5:size])
            del received[:size]
            self.messages += 1
            self.heard(self, message)


class Connection(asyncio.Protocol):
    """Streams over one socket; ends them all when it is lost."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._streams: dict[int, Stream] = {}
        self._next = 1
        self._received = bytearray()
        self._window = FIRST_WINDOW_BYTES
        self._unsent: deque[tuple[int, bytes, int]] = deque()
        self._out: list[bytes] = []
        self.ready = asyncio.get_running_loop().create_future()

    def open(self, heard: Callable[[Stream, bytes], None], over: Callable[[Stream, bool], None]) -> Stream:
        stream = Stream(self._next, self, heard, over)
        self._streams[self._next] = stream
        self._next += 2
        self._later(_frame(HEADERS, END_HEADERS, stream.number, _HEAD))
        return stream

    def write(self, stream: int, content: bytes, flags: int) -> None:
        """A stream's own window is left to chance: no stream here sends more than the least that there is."""
        if self._unsent or len(content) > self._window:
            self._unsent.append((stream, content, flags))
            return
        self._window -= len(content)
        self._later(_frame(DATA, flags, stream, content))

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def _later(self, frame: bytes) -> None:
        """With all that this turn of the loop still writes."""
        if not self._out:
            asyncio.get_running_loop().call_soon(self._flush)
        self._out.append(frame)

    def _flush(self) -> None:
        if self._transport is not None and self._out:
            self._transport.write(b"".join(self._out))
        self._out.clear()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        settings = (4).to_bytes(2) + WIDEST_BYTES.to_bytes(4)  # SETTINGS_INITIAL_WINDOW_SIZE
        wider = (WIDEST_BYTES - FIRST_WINDOW_BYTES).to_bytes(4)
        self._transport.write(PREFACE + _frame(SETTINGS, 0, 0, settings) + _frame(WINDOW_UPDATE, 0, 0, wider))

    def connection_lost(self, error: Exception | None) -> None:
        for number in tuple(self._streams):
            self._end(number, False)
        if not self.ready.done():
            self.ready.set_exception(error or ConnectionError("closed before it was used"))

    def data_received(self, data: bytes) -> None:
        received = self._received
        received += data
        at = 0
        while len(received) - at >= 9:
            size = int.from_bytes(received[at : at + 3])
            if len(received) - at < 9 + size:
                break
            kind, flags = received[at + 3], received[at + 4]
            number = int.from_bytes(received[at + 5 : at + 9]) & WIDEST_BYTES
            self._frame(kind, flags, number, bytes(received[at + 9 : at + 9 + size]))
            at += 9 + size
        del received[:at]

    def _frame(self, kind: int, flags: int, number: int, content: bytes) -> None:
        if kind == DATA:
            if flags & PADDED:
                content = content[1 : len(content) - content[0]]
            if (stream := self._streams.get(number)) is not None:
                stream.take(content)
            if flags & END_STREAM:
                self._end(number, False)
        elif kind == HEADERS and flags & END_STREAM:
            # Trailers after messages; alone they are a refusal.
            self._end(number, number in self._streams and self._streams[number].messages > 0)
        elif kind == RST_STREAM:
            self._end(number, False)
        elif kind == SETTINGS and not flags & ACK:
            self._later(_frame(SETTINGS, ACK, 0, b""))
            if not self.ready.done():
                self.ready.set_result(None)
        elif kind == PING and not flags & ACK:
            self._later(_frame(PING, ACK, 0, content))
        elif kind == WINDOW_UPDATE and number == 0:
            self._window += int.from_bytes(content)
            while self._unsent and len(self._unsent[0][1]) <= self._window:
                stream_number, waiting, end = self._unsent.popleft()
                self._window -= len(waiting)
                self._later(_frame(DATA, end, stream_number, waiting))

    def _end(self, number: int, in_order: bool) -> None:
        if (stream := self._streams.pop(number, None)) is not None:
            stream.over(stream, in_order)


async def connect(port: int) -> Connection:
    _, connection = await asyncio.get_running_loop().create_connection(Connection, "127.0.0.1", port)
    await connection.ready
    return connection
