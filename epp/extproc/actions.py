"""What an exchange wants done: one small value for each message to Envoy, and two ways to end the stream.

msgspec's structs: several are made for every request and chunk, and one takes a tenth of a frozen dataclass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import TypeAlias

from msgspec import Struct

from epp.domain.errors import Answer

Fields: TypeAlias = Sequence[tuple[str, str]]

BODY_LIMIT_BYTES = 62_000
"""Largest body piece in one message: Envoy's streamed pieces may hold 64 KiB, less room for framing."""


class BodyMode(IntEnum):
    """Envoy's ProcessingMode.BodySendMode, with its numbers; UNKNOWN while Envoy has not told."""

    UNKNOWN = -1
    NONE = 0
    STREAMED = 1
    BUFFERED = 2
    BUFFERED_PARTIAL = 3
    FULL_DUPLEX = 4


class Side(IntEnum):
    REQUEST = 0
    ANSWER = 1


class Target(Struct, frozen=True):
    """The chosen endpoint as dynamic metadata in namespace `envoy.lb`; none where it is empty."""

    destination: str
    scores: Mapping[str, float] | None = None


class HeadersReply(Struct, frozen=True):
    side: Side
    set: Fields = ()
    remove: Sequence[str] = ()
    target: Target | None = None
    """Set on the reply that routes; then the route cache is cleared too."""
    skip_body: bool = False
    """Of an answer: its body need not be sent to us, only its trailers."""


class BodyReply(Struct, frozen=True):
    """Answers one body message of the modes in which Envoy waits for each. `body` None leaves it as it is."""

    side: Side
    body: bytes | None = None
    set: Fields = ()
    remove: Sequence[str] = ()
    target: Target | None = None


class StreamedReply(Struct, frozen=True):
    """A piece of body in full duplex, at most BODY_LIMIT_BYTES long."""

    side: Side
    chunk: bytes
    last: bool
    target: Target | None = None


class TrailersReply(Struct, frozen=True):
    side: Side
    target: Target | None = None


class Immediate(Struct, frozen=True):
    """Answer the client ourselves. Envoy closes the stream after it."""

    answer: Answer


class Close(Struct, frozen=True):
    """End the stream with status OK."""


class Fail(Struct, frozen=True):
    """End the stream with INVALID_ARGUMENT: an order of messages that Envoy cannot produce."""

    message: str


class Cut(Struct, frozen=True):
    """End the stream with UNAVAILABLE, after the answer had begun: Envoy resets the client's."""

    message: str


Action: TypeAlias = HeadersReply | BodyReply | StreamedReply | TrailersReply | Immediate | Close | Fail | Cut
