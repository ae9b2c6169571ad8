"""What a stream's messages are, and the states between them."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto

from msgspec import Struct


class RequestState(Enum):
    # Enum's own hashes the name in Python; these are the keys of a table that is asked at every message.
    __hash__ = object.__hash__

    START = auto()
    GATHER = auto()
    """Headers seen (or skipped), the body is coming."""
    DECIDING = auto()
    PASS = auto()
    """Routed."""
    OVER = auto()
    """Routed, and trailers seen."""
    OVERTAKEN = auto()
    """The answer began without our verdict; what still comes of the request is not looked at."""
    CLOSED = auto()


class AnswerState(Enum):
    __hash__ = object.__hash__

    NONE = auto()
    BODY = auto()
    DONE = auto()
    OVER = auto()
    """Trailers seen."""


class Message(Enum):
    __hash__ = object.__hash__

    REQUEST_HEADERS = auto()
    REQUEST_BODY = auto()
    REQUEST_TRAILERS = auto()
    ANSWER_HEADERS = auto()
    ANSWER_BODY = auto()
    ANSWER_TRAILERS = auto()


class Piece(Struct, frozen=True):
    """Content of any message; what a message does not have stays at its default."""

    headers: Mapping[str, str] | None = None
    data: bytes = b""
    end_of_stream: bool = False
    subset: tuple[str, ...] | None = None
    served: str | None = None
    pool: str = ""


class Budget:
    """Bytes of request bodies that all exchanges of one transport hold together."""

    __slots__ = ("limit", "used")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
