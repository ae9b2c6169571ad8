"""What the rest of the picker knows of a transport: it listens, counts, drains and stops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Limits:
    """What one gateway may ask of us."""

    max_body_bytes: int = 64 << 20
    """A longer request body is answered with 413. Room for long prompts with inlined images."""
    max_buffered_bytes: int = 1 << 30
    """Of request bodies that are being read, all streams together; beyond it: 429."""
    max_streams: int = 20_000
    """Open streams; one more is answered with 429. A stream costs some 20 KiB."""
    progress_timeout_s: float = 60.0
    """An upload without a new piece for so long is answered with 408."""
    answer_timeout_s: float = 3600.0
    """A stream without any message for so long while the model server answers is cut off."""
    max_connection_age_s: float = 300.0
    """A gateway's connection that is older, give or take a tenth, takes no new streams: the gateway opens
    another one, perhaps to another replica; what is open ends in its own time. 0: connections stay."""
    max_message_bytes: int = 0
    """Largest message received; 0: max_body_bytes and 1 MiB for framing (BUFFERED bodies are one message)."""

    @property
    def receive_bytes(self) -> int:
        return self.max_message_bytes or self.max_body_bytes + (1 << 20)


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM texts."""

    certificate: bytes
    key: bytes


class StreamSink(Protocol):
    """Counts of the transport."""

    def stream_opened(self) -> None: ...

    def stream_closed(self, code: str, seconds: float) -> None:
        """`code`: a gRPC status name such as OK or INVALID_ARGUMENT."""

    def streams(
        self, opened: int, closed: Mapping[str, int], durations: Sequence[int], total_s: float
    ) -> None:
        """Many at once: how many were opened, ended by code, and the histogram of their durations (STREAM_S;
        empty for none)."""

    def handoffs(self, counts: Sequence[int], total_s: float) -> None:
        """Histogram (HANDOFF_S; empty for none) of the times from a decision's queueing to its verdict."""

    def connections(self, now_open: int, failed: int) -> None:
        """Connections of gateways that are open now, and further ones that ended in their handshake."""

    def protocol_violation(self, kind: str) -> None: ...

    def internal_error(self, where: str) -> None:
        """A bug of ours ended a stream."""


class Transport(Protocol):
    @property
    def port(self) -> int:
        """The port that was bound; known after `start`."""

    @property
    def open_streams(self) -> int: ...

    @property
    def opened_streams(self) -> int:
        """Streams since the start."""

    @property
    def held_bytes(self) -> int:
        """Of request bodies, all streams together."""

    async def start(self) -> None:
        """Raises OSError when the port cannot be had."""

    async def stop(self, grace_s: float) -> None:
        """Refuse new streams, wait for the open ones so long, then cut them off."""

    def hurry(self, hurry: bool) -> None:
        """While true, the end of a request is told at once: something waits for its place."""

    def collect(self) -> None:
        """Bring the sink up to date; called before metrics are read."""
