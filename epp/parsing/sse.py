"""Usage out of a stream of server-sent events.

A token's event costs about a microsecond: its bytes are searched for a name that hardly any has, and the few
lines that have it are kept and read at the end.
"""

from __future__ import annotations

import re
from typing import Final

from epp.domain.request import Api, Usage
from epp.parsing.counts import merged, read

MAX_LINE_BYTES: Final = 4 << 20
"""A longer line is counted and not read. The longest in use is the last of a /v1/responses stream, which
repeats the whole answer."""
_ID_TRIES: Final = 8

_DONE: Final = re.compile(rb"^data: ?\[DONE\]\s*$", re.MULTILINE)
_REPORT: Final = re.compile(rb'"(?:usage|meta_info)"\s*:\s*\{')


class SseReader:
    __slots__ = ("_first", "_held", "_held_bytes", "_id_tries", "_last", "_mark", "events", "response_id")

    def __init__(self, api: Api) -> None:
        self.events = 0
        self.response_id = ""
        self._mark = b'"meta_info"' if api is Api.SGLANG else b'"usage"'
        self._id_tries = _ID_TRIES if api is Api.RESPONSES else 0
        self._held: list[bytes] = []
        """Pieces of a line whose end has not come."""
        self._held_bytes = 0
        self._first: bytes | None = None
        self._last: bytes | None = None

    def feed(self, chunk: bytes) -> None:
        if not self._held and chunk.endswith(b"\n"):
            self._lines(chunk)
            return
        end = chunk.rfind(b"\n") + 1
        if end:
            self._held.append(chunk[:end])
            whole = b"".join(self._held)
            self._held.clear()
            self._held_bytes = 0
            self._lines(whole)
        if end < len(chunk):
            self._hold(chunk[end:])

    def finish(self) -> Usage | None:
        if self._held:
            self._lines(b"".join(self._held))
            self._held.clear()
        usage: Usage | None = None
        for line in (self._first, self._last):
            if line is not None:
                usage = merged(usage, read(line)[0])
        return usage

    def _hold(self, piece: bytes) -> None:
        self._held_bytes += len(piece)
        if self._held_bytes <= MAX_LINE_BYTES:
            self._held.append(piece)
        else:
            # Its beginning stays, so that it is counted; the rest is dropped until the line ends.
            self._held.append(piece[:5])
            self._held[:] = [b"".join(self._held)[:5]]

    def _lines(self, data: bytes) -> None:
        """Whole lines."""
        self.events += data.count(b"\ndata:") + data.startswith(b"data:")
        if b"[DONE]" in data:
            self.events -= len(_DONE.findall(data))
        if self._id_tries:
            self._find_id(data)
        if self._mark in data:
            for line in data.split(b"\n"):
                if line.startswith(b"data:") and self._mark in line and _REPORT.search(line) is not None:
                    if self._first is None:
                        self._first = line[5:].strip()
                    else:
                        self._last = line[5:].strip()

    def _find_id(self, data: bytes) -> None:
        for line in data.split(b"\n"):
            if self._id_tries and line.startswith(b"data:"):
                self._id_tries -= 1
                self.response_id = read(line[5:].strip())[1]
                if self.response_id:
                    self._id_tries = 0
