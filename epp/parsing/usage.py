"""Token counts out of an engine's answer as it passes by, whatever the pieces it comes in."""

from __future__ import annotations

from typing import Protocol

from epp.domain.request import Api, Usage
from epp.parsing.grpcanswer import GrpcReader
from epp.parsing.jsonanswer import JsonReader
from epp.parsing.sse import SseReader


class AnswerReader(Protocol):
    """One answer. Never raises, whatever comes."""

    @property
    def events(self) -> int:
        """Pieces that a token can come in: SSE data lines without [DONE], gRPC messages; 0 for plain JSON."""

    @property
    def response_id(self) -> str:
        """`id` of a /v1/responses answer, as soon as it has passed by; empty for others."""

    def feed(self, chunk: bytes) -> None: ...

    def finish(self) -> Usage | None:
        """After the last piece; None when the answer tells no counts or cannot be read."""


class UnknownReader:
    """For compressed answers, audio and the like: pieces are counted, nothing is read."""

    __slots__ = ("events", "response_id")

    def __init__(self) -> None:
        self.events = 0
        self.response_id = ""

    def feed(self, chunk: bytes) -> None:
        self.events += bool(chunk)

    def finish(self) -> Usage | None:
        return None


class UntypedReader:
    """For an answer whose headers did not come: its first byte tells JSON from events."""

    __slots__ = ("_api", "_reader")

    def __init__(self, api: Api) -> None:
        self._api = api
        self._reader: AnswerReader | None = None

    @property
    def events(self) -> int:
        return self._reader.events if self._reader is not None else 0

    @property
    def response_id(self) -> str:
        return self._reader.response_id if self._reader is not None else ""

    def feed(self, chunk: bytes) -> None:
        if self._reader is None:
            first = chunk.lstrip()[:1]
            if not first:
                return
            if first in b"{[":
                self._reader = JsonReader(self._api)
            elif first in b"dei:r":  # data, event, id, a comment, retry
                self._reader = SseReader(self._api)
            else:
                self._reader = UnknownReader()
        self._reader.feed(chunk)

    def finish(self) -> Usage | None:
        return self._reader.finish() if self._reader is not None else None


def answer_reader(api: Api, content_type: str, content_encoding: str) -> AnswerReader:
    """The reader for an answer with these headers; either may be empty."""
    if content_encoding.strip().lower() not in ("", "identity"):
        return UnknownReader()
    if api is Api.VLLM_GRPC:
        return GrpcReader()
    media = content_type.partition(";")[0].strip().lower()
    if media == "text/event-stream":
        return SseReader(api)
    if media == "application/json" or media.endswith("+json"):
        return JsonReader(api)
    return UnknownReader() if media else UntypedReader(api)
