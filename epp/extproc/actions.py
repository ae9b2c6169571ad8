"""What an exchange wants done: one small value for each message to Envoy, and two ways to end the stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeAlias

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


@dataclass(frozen=True, slots=True)
class Target:
    """The chosen endpoint as dynamic metadata in namespace `envoy.lb`."""

    destination: str
    scores: Mapping[str, float] | None = None


@dataclass(frozen=True, slots=True)
class HeadersReply:
    side: Side
    set: Fields = ()
    remove: Sequence[str] = ()
    target: Target | None = None
    """Set on the reply that routes; then the route cache is cleared too."""


@dataclass(frozen=True, slots=True)
class BodyReply:
    """Answers one body message of the modes in which Envoy waits for each. `body` None leaves it as it is."""

    side: Side
    body: bytes | None = None
    set: Fields = ()
    remove: Sequence[str] = ()
    target: Target | None = None


@dataclass(frozen=True, slots=True)
class StreamedReply:
    """A piece of body in full duplex, at most BODY_LIMIT_BYTES long."""

    side: Side
    chunk: bytes
    last: bool
    target: Target | None = None


@dataclass(frozen=True, slots=True)
class TrailersReply:
    side: Side
    target: Target | None = None


@dataclass(frozen=True, slots=True)
class Immediate:
    """Answer the client ourselves. Envoy closes the stream after it."""

    answer: Answer


@dataclass(frozen=True, slots=True)
class Close:
    """End the stream with status OK."""


@dataclass(frozen=True, slots=True)
class Fail:
    """End the stream with INVALID_ARGUMENT: an order of messages that Envoy cannot produce."""

    message: str


Action: TypeAlias = HeadersReply | BodyReply | StreamedReply | TrailersReply | Immediate | Close | Fail
