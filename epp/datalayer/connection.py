"""One kept-alive HTTP/1.1 connection that asks one GET again and again, with the body bounded.

A bare asyncio.Protocol on llhttp: a GET of 54 KB costs 35 us of CPU where aiohttp's client takes 190, since
nothing of a session, a timer, a task or a header map is made for it. One request is under way at a time; the
caller keeps the time.
"""

from __future__ import annotations

import asyncio
import ssl
import zlib
from dataclasses import dataclass
from typing import Protocol, cast

import httptools

from epp.datalayer.clienttls import ClientTls

MAX_BODY_BYTES = 8 << 20
"""A larger answer is an error; real ones have 30 to 60 KB."""
MAX_HEADER_LINES = 256
_ACCEPT = "text/plain;version=0.0.4, application/openmetrics-text;version=1.0.0;q=0.5, */*;q=0.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpSource:
    """How to ask every endpoint of a pool. Paths are PEM files; `port` overrides the endpoint's own."""

    scheme: str = "http"
    path: str = "/metrics"
    port: int | None = None
    insecure_skip_verify: bool = True
    ca_cert_path: str = ""
    client_cert_path: str = ""
    client_key_path: str = ""
    server_name: str = ""
    """For which an endpoint's certificate must be, where it is verified; empty for the endpoint's address."""
    offer_gzip: bool = False
    """Compressed answers are read in any case; asking for them costs a Python engine about 1 ms a scrape."""

    def __post_init__(self) -> None:
        if self.scheme not in ("http", "https"):
            raise ValueError(f"scheme {self.scheme!r} is neither http nor https")
        if not self.path.startswith("/") or not all(0x20 < ord(character) < 0x7F for character in self.path):
            raise ValueError(f"path {self.path!r} must begin with / and be ASCII without spaces")

    def tls(self) -> ssl.SSLContext | None:
        """None for http. To be asked for every connection: it is made anew when a file has changed. Raises
        OSError (ssl.SSLError is one) when a file cannot be read or used, and could not be before."""
        if self.scheme != "https":
            return None
        verify = not self.insecure_skip_verify
        return ClientTls(verify, self.ca_cert_path, self.client_cert_path, self.client_key_path).context()

    def server_hostname(self, ip: str) -> str | None:
        """What to ask `create_connection` for along with `tls`."""
        return None if self.scheme != "https" else self.server_name or ip

    def request(self, authority: str) -> bytes:
        """The bytes of the request."""
        encoding = "gzip" if self.offer_gzip else "identity"
        lines = (
            f"GET {self.path} HTTP/1.1",
            f"Host: {authority}",
            f"Accept: {_ACCEPT}",
            f"Accept-Encoding: {encoding}",
            "User-Agent: epp",
        )
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


class Asker(Protocol):
    """Whoever owns the connection. Exactly one of the two is called for each `ask`."""

    def answered(self, status: int, body: bytes) -> None: ...

    def failed(self, why: str) -> None:
        """The connection is closed and of no more use."""


class Connection(asyncio.Protocol):
    """Made by the event loop's create_connection; `ask` once `ready`."""

    def __init__(self, request: bytes, asker: Asker, max_body_bytes: int = MAX_BODY_BYTES) -> None:
        self._request = request
        self._asker = asker
        self._max_body_bytes = max_body_bytes
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._asked = False
        self._body: list[bytes] = []
        self._size = 0
        self._gzip = self._sized = self._done = self._keep_alive = False
        self._encoding_error = ""
        self._lines = 0

    @property
    def ready(self) -> bool:
        """Connected, with no answer outstanding."""
        return self._transport is not None and not self._asked

    @property
    def connected(self) -> bool:
        return self._transport is not None

    def ask(self) -> None:
        """Send the request. The connection must be ready."""
        assert self._transport is not None
        self._asked = True
        self._transport.write(self._request)

    def close(self) -> None:
        """Break off at once; the asker is not called any more."""
        self._asked = False
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by class

    def data_received(self, data: bytes) -> None:
        if not self._asked:
            self.close()  # an answer that nobody asked for
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(f"not HTTP: {error}")
            return
        if self._done:
            self._finish()
        elif self._size > self._max_body_bytes:
            self._fail(f"answer larger than {self._max_body_bytes} bytes")
        elif self._lines > MAX_HEADER_LINES:
            self._fail(f"more than {MAX_HEADER_LINES} header lines")

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if not self._asked:
            return
        # Without a length the body ends with the connection.
        if exc is None and self._headers_complete and not self._sized:
            self._finish()
        else:
            self._fail(
                f"connection lost: {exc}" if exc else "connection closed before the answer was complete"
            )

    # llhttp

    _headers_complete = False

    def on_message_begin(self) -> None:
        self._body, self._size, self._lines = [], 0, 0
        self._gzip = self._sized = self._done = self._headers_complete = False
        self._encoding_error = ""

    def on_header(self, name: bytes, value: bytes) -> None:
        self._lines += 1
        size = len(name)
        if size in (14, 17) and name.lower() in (b"content-length", b"transfer-encoding"):
            self._sized = True
        elif size == 16 and name.lower() == b"content-encoding":
            encoding = value.strip().lower()
            self._gzip = encoding in (b"gzip", b"x-gzip")
            if not self._gzip and encoding not in (b"identity", b""):
                self._encoding_error = f"content-encoding {encoding.decode('latin-1')} is not understood"

    def on_headers_complete(self) -> None:
        self._headers_complete = True

    def on_body(self, chunk: bytes) -> None:
        self._size += len(chunk)
        if self._size <= self._max_body_bytes:
            self._body.append(chunk)

    def on_message_complete(self) -> None:
        self._done = True
        self._keep_alive = self._parser.should_keep_alive()  # llhttp knows it only here

    # Inside

    def _finish(self) -> None:
        if self._size > self._max_body_bytes:
            self._fail(f"answer larger than {self._max_body_bytes} bytes")
            return
        if self._encoding_error:
            self._fail(self._encoding_error)
            return
        status = self._parser.get_status_code()
        if not self._done or not self._keep_alive:
            self.close()
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body = []
        self._asked = self._done = False
        if self._gzip:
            try:
                body = gunzip(body, self._max_body_bytes)
            except ValueError as error:
                self._asked = True
                self._fail(str(error))
                return
        self._asker.answered(status, body)

    def _fail(self, why: str) -> None:
        asked = self._asked
        self.close()
        if asked:
            self._asker.failed(why)


def gunzip(body: bytes, limit: int) -> bytes:
    """Raises ValueError when it is no gzip, is cut, or is larger than `limit` bytes unpacked."""
    unpacker = zlib.decompressobj(wbits=31)
    try:
        plain = unpacker.decompress(body, limit + 1)
    except zlib.error as error:
        raise ValueError(f"answer is no gzip: {error}") from error
    if len(plain) > limit:
        raise ValueError(f"answer larger than {limit} bytes")
    if not unpacker.eof:
        raise ValueError("gzip answer is cut")
    return plain
