"""What a stream's messages are, and the states between them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto


class RequestState(Enum):
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
    NONE = auto()
    BODY = auto()
    DONE = auto()
    OVER = auto()
    """Trailers seen."""


class Message(Enum):
    REQUEST_HEADERS = auto()
    REQUEST_BODY = auto()
    REQUEST_TRAILERS = auto()
    ANSWER_HEADERS = auto()
    ANSWER_BODY = auto()
    ANSWER_TRAILERS = auto()


@dataclass(frozen=True, slots=True)
class Piece:
    """Content of any message; what a message does not have stays at its default."""

    headers: Mapping[str, str] | None = None
    data: bytes = b""
    end_of_stream: bool = False
    subset: tuple[str, ...] | None = None
    served: str | None = None


class Budget:
    """Bytes of request bodies that all exchanges of one transport hold together."""

    __slots__ = ("limit", "used")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
