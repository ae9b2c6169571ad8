"""Usage out of a JSON answer that comes in pieces, in bounded memory."""

from __future__ import annotations

import json
import re
from typing import Final

from epp.domain.request import Api, Usage
from epp.parsing.counts import read, read_counts

MAX_WHOLE_BYTES: Final = 256 << 10
"""Answers up to this size are decoded properly; in longer ones (embeddings) `usage` is searched for."""
MAX_REPORT_BYTES: Final = 4096
"""A usage object is shorter than this."""
_SEARCH_BYTES: Final = 64 << 10
"""Search a long answer when so much of it has come."""

_REPORT: Final = re.compile(rb'"(?:usage|meta_info)"\s*:\s*(?=\{)')
_ID: Final = re.compile(rb'\s*\{\s*"id"\s*:\s*"([^"\\]{1,256})"')
_DECODER: Final = json.JSONDecoder()


class JsonReader:
    """The last usage object of a long answer counts; engines write it at the end or the beginning."""

    __slots__ = ("_api", "_found", "_held", "_held_bytes", "_long", "events", "response_id")

    def __init__(self, api: Api) -> None:
        self.events = 0
        self.response_id = ""
        self._api = api
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._long = False
        self._found: Usage | None = None

    def feed(self, chunk: bytes) -> None:
        self._held.append(chunk)
        self._held_bytes += len(chunk)
        if self._held_bytes > (_SEARCH_BYTES if self._long else MAX_WHOLE_BYTES):
            data = b"".join(self._held)
            if not self._long:
                self._long = True
                found = _ID.match(data) if self._api is Api.RESPONSES else None
                self.response_id = found[1].decode("utf-8", "replace") if found else ""
            self._search(data)
            self._held[:] = [data[-MAX_REPORT_BYTES:]]
            self._held_bytes = len(self._held[0])

    def finish(self) -> Usage | None:
        data = b"".join(self._held).strip()
        self._held.clear()
        if self._long:
            self._search(data)
            return self._found
        usage, answer_id = read(data)
        if self._api is Api.RESPONSES:
            self.response_id = answer_id
        return usage

    def _search(self, data: bytes) -> None:
        for found in _REPORT.finditer(data):
            text = data[found.end() : found.end() + MAX_REPORT_BYTES].decode("utf-8", "replace")
            try:
                _, end = _DECODER.raw_decode(text)
            except (ValueError, RecursionError):
                continue  # its end has not come yet, or it is not one
            self._found = read_counts(text[:end].encode()) or self._found
